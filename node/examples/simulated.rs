//! One application, `Counter`, on five nodes with real sockets and on a hundred simulated nodes. In the
//! simulation nodes join and crash, and the network is split for a time. The simulation needs no sockets and
//! does not wait for real time to pass. The same seed gives the same run.
//!
//! ```text
//! cargo run --example simulated -- 7
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use peerkit::sim::{Sim, SimConfig};
use peerkit::{Broadcast, Context, Handler, Message, Node, NodeId, Peer};

/// A counter that all nodes share. Each node broadcasts its own count, and the value is the sum of all.
#[derive(Default)]
struct Counter {
    counts: BTreeMap<NodeId, u64>,
}

impl Counter {
    /// Adds to this node's count, and broadcasts it.
    fn add(&mut self, cx: &mut Context<'_>, more: u64) {
        let own = self.counts.entry(cx.id()).or_default();
        *own += more;
        cx.broadcast("count", own.to_string());
    }

    fn value(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Stores the count of another node. A count never decreases, so the greatest one is the latest, and counts
    /// that arrive late or repeatedly change nothing.
    fn update(&mut self, node: NodeId, count: u64) {
        let known = self.counts.entry(node).or_default();
        *known = count.max(*known);
    }

    fn send_counts(&self, cx: &mut Context<'_>, peer: &Peer) {
        if let Ok(counts) = Message::json(&self.counts) {
            cx.send(peer, counts);
        }
    }
}

impl Handler for Counter {
    // A node that joins late has missed broadcasts, so its new neighbour sends it all counts.
    fn inbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        self.send_counts(cx, peer);
    }

    fn node_message(&mut self, _: &mut Context<'_>, _: &Peer, message: Message) {
        for (node, count) in message.to_json::<BTreeMap<NodeId, u64>>().unwrap_or_default() {
            self.update(node, count);
        }
    }

    fn node_broadcast(&mut self, _: &mut Context<'_>, broadcast: Broadcast) {
        let text = broadcast.message.as_text().unwrap_or_default();
        self.update(broadcast.author, text.parse().unwrap_or_default());
    }
}

/// Runs five nodes with sockets. The nth node adds 10 n.
async fn on_sockets() -> Result<(), Box<dyn Error>> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=5 {
        let counter = Counter::default();
        let node = Node::builder().listen("127.0.0.1:0").handler(counter).spawn().await?;
        if let Some(first) = nodes.first() {
            node.join(first.listening()[0]).await?;
        }
        node.with(|counter: &mut Counter, cx| counter.add(cx, 10 * number)).await?;
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

/// Runs a hundred simulated nodes. For a minute, in each second one node adds 10, one crashes and one joins. The
/// network is split for most of that time, so long that the links between its parts end.
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
    if agree == running.len() {
        Ok(())
    } else {
        Err(format!("the nodes do not agree with seed {seed}").into())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seed = std::env::args().nth(1).map_or(Ok(1), |seed| seed.parse())?;
    on_sockets().await?;
    simulated(seed)
}
