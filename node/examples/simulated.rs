//! An application tried on five hundred nodes while nodes come and go: no socket, no waiting, and the
//! same run again for the same seed.
//!
//! ```text
//! cargo run --example simulated -- 7
//! ```
//!
//! The very same `Counter` runs on a real node: `Node::builder().handler(Counter::default())`.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use peerkit::sim::{Sim, SimConfig};
use peerkit::{Broadcast, Context, Handler, Message, NodeId, Peer};

/// A counter that all nodes share: each says how far it has counted itself, and the sum counts.
#[derive(Default)]
struct Counter {
    counts: BTreeMap<NodeId, u64>,
}

impl Counter {
    /// Counts, and tells everybody.
    fn add(&mut self, cx: &mut Context<'_>, more: u64) {
        let own = self.counts.entry(cx.id()).or_default();
        *own += more;
        cx.broadcast("count", own.to_string());
    }

    fn value(&self) -> u64 {
        self.counts.values().sum()
    }

    /// What others have counted never goes back, whatever comes twice or late.
    fn learn(&mut self, node: NodeId, count: u64) {
        let known = self.counts.entry(node).or_default();
        *known = count.max(*known);
    }

    fn tell(&self, cx: &mut Context<'_>, peer: &Peer) {
        if let Ok(counts) = Message::json(&self.counts) {
            cx.send(peer, counts);
        }
    }
}

impl Handler for Counter {
    // Whoever comes late has missed broadcasts: a new neighbour tells what it knows.
    fn inbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        self.tell(cx, peer);
    }

    fn node_message(&mut self, _: &mut Context<'_>, _: &Peer, message: Message) {
        for (node, count) in message.to_json::<BTreeMap<NodeId, u64>>().unwrap_or_default() {
            self.learn(node, count);
        }
    }

    fn node_broadcast(&mut self, _: &mut Context<'_>, broadcast: Broadcast) {
        let text = broadcast.message.as_text().unwrap_or_default();
        self.learn(broadcast.author, text.parse().unwrap_or_default());
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let seed = std::env::args().nth(1).map_or(Ok(1), |seed| seed.parse())?;
    let mut sim = Sim::new(SimConfig { seed, ..SimConfig::default() });
    for node in 0..500 {
        sim.add(Counter::default());
        if node > 0 {
            sim.join(node, 0);
        }
        sim.run_for(Duration::from_millis(50));
    }
    // For a minute one counts, one crashes and one comes, each second.
    for second in 1..=60 {
        sim.with(500 - second, |counter, cx| counter.add(cx, 10));
        sim.run_for(Duration::from_secs(1));
        sim.crash(second);
        let new = sim.add(Counter::default());
        sim.join(new, 0);
    }
    sim.run_for(Duration::from_secs(30));
    let running: Vec<_> = (0..sim.len()).filter(|node| sim.is_running(*node)).collect();
    let agree = running.iter().filter(|node| sim.app(**node).value() == 600).count();
    let (stats, minutes) = (sim.stats(), sim.now().since_origin().as_secs() / 60);
    println!("{agree} of {} nodes have counted to 600", running.len());
    println!("{} frames in {minutes} minutes, trace {}", stats.total().frames, sim.trace_hash());
    if agree == running.len() { Ok(()) } else { Err(format!("not so with seed {seed}").into()) }
}
