//! One application, `Counter`, on five nodes with real sockets, and on a hundred simulated ones while nodes
//! come and go and the network is split for a time: no socket, no waiting, and the same run again for the
//! same seed.
//!
//! ```text
//! cargo run --example simulated -- 7
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use peerkit::sim::{Sim, SimConfig};
use peerkit::{Broadcast, Context, Handler, Message, Node, NodeId, Peer};

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

/// Five nodes on this machine. Each counts to 10 times its place.
async fn on_sockets() -> Result<(), Box<dyn Error>> {
    let mut nodes: Vec<Node> = Vec::new();
    for place in 1..=5 {
        let counter = Counter::default();
        let node = Node::builder().listen("127.0.0.1:0").handler(counter).spawn().await?;
        if let Some(first) = nodes.first() {
            node.join(first.listening()[0]).await?;
        }
        node.with(|counter: &mut Counter, cx| counter.add(cx, 10 * place)).await?;
        nodes.push(node);
    }
    for node in &nodes {
        let counted = async {
            while node.with(|counter: &mut Counter, _| counter.value()).await? != 150 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok::<_, peerkit::Error>(())
        };
        tokio::time::timeout(Duration::from_secs(30), counted).await??;
    }
    println!("5 nodes on sockets have counted to 150");
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}

/// A hundred nodes in the simulator. For a minute one counts, one crashes and one comes, each second.
/// Most of the time the network is split, for so long that the links between its parts end.
fn simulated(seed: u64) -> Result<(), Box<dyn Error>> {
    let mut sim = Sim::new(SimConfig { seed, ..SimConfig::default() });
    for node in 0..100 {
        sim.add(Counter::default());
        if node > 0 {
            sim.join(node, 0);
        }
        sim.run_for(Duration::from_millis(50));
    }
    for second in 1..=60 {
        if second == 5 {
            let part: Vec<_> = (80..100).collect();
            sim.partition(&[&part]);
        }
        if second == 58 {
            sim.heal();
        }
        let new = sim.add(Counter::default());
        sim.join(new, 99);
        sim.with(60 + second % 40, |counter, cx| counter.add(cx, 10));
        sim.run_for(Duration::from_secs(1));
        sim.crash(second);
    }
    sim.run_for(Duration::from_secs(120));
    let running: Vec<_> = (0..sim.len()).filter(|node| sim.is_running(*node)).collect();
    let agree = running.iter().filter(|node| sim.app(**node).value() == 600).count();
    let (stats, minutes) = (sim.stats(), sim.now().since_origin().as_secs() / 60);
    println!("{agree} of {} simulated nodes have counted to 600", running.len());
    println!("{} frames in {minutes} minutes, trace {}", stats.total().frames, sim.trace_hash());
    if agree == running.len() { Ok(()) } else { Err(format!("not so with seed {seed}").into()) }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seed = std::env::args().nth(1).map_or(Ok(1), |seed| seed.parse())?;
    on_sockets().await?;
    simulated(seed)
}
