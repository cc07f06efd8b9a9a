//! A small blockchain. The same handler, `Ledger`, runs on five nodes with real sockets and on a hundred
//! simulated nodes. The simulated network is split in two for five minutes. At the end all nodes must have the
//! same chain, with every record in it.
//!
//! ```text
//! cargo run --example blockchain -- 7
//! ```
//!
//! 1. A *record* is a text, signed by its author. The author broadcasts it, and all nodes collect it.
//! 2. A *block* has records and the hash of the block before it. Every node may make blocks: each node waits for
//!    a random time, and the first one whose time is over makes the next block and broadcasts it. If two nodes
//!    make a block at the same time, the chain forks.
//! 3. The longest valid chain wins. Of two chains with equal length, the one whose last hash is smaller wins.
//!    The records that are only in the other chain go into later blocks.
//! 4. A block whose parent is unknown waits, and the node requests the parent from a neighbour. The node also
//!    requests the last block of each new neighbour. In this way new nodes, and the parts of a network that was
//!    split, get the blocks that they lack.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::time::Duration;

use peerkit::sim::{Sim, SimConfig};
use peerkit::{
    ActionId, Broadcast, Context, Handler, Hash, Key, Message, Node, NodeId, Peer, Refusal, TimerId,
};
use serde::{Deserialize, Serialize};

/// The parent of the first block.
const NO_BLOCK: Hash = Hash::from_bytes([0; 32]);
const MAX_RECORDS_PER_BLOCK: usize = 20;
/// Maximum number of blocks that wait for their parents. Without it, a peer could fill the memory with made-up
/// blocks.
const MAX_ORPHANS: usize = 1000;
/// Interval at which missing blocks are requested again.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Serialize, Deserialize)]
struct Record {
    author: NodeId,
    text: String,
    signature: Vec<u8>,
}

impl Record {
    fn new(key: &Key, text: String) -> Self {
        Self { author: key.id(), signature: key.sign(text.as_bytes()).to_vec(), text }
    }

    fn id(&self) -> Hash {
        Hash::of_parts(&[self.author.as_bytes(), self.text.as_bytes()])
    }

    fn is_valid(&self) -> bool {
        let signature = self.signature.as_slice().try_into();
        signature.is_ok_and(|signature| self.author.verify(self.text.as_bytes(), signature))
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Block {
    parent: Hash,
    /// The number of the block in its chain: 1 for the first.
    height: usize,
    records: Vec<Record>,
}

impl Block {
    fn hash(&self) -> Hash {
        Hash::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}

/// The application: one node's view of the blockchain.
struct Ledger {
    key: Key,
    /// Maximum time that a node waits before it makes a block.
    max_wait: Duration,
    /// All valid records that this node knows, whether or not they are in a block.
    records: BTreeMap<Hash, Record>,
    /// All valid blocks, including those of other chains. The parent of each block is here too.
    blocks: BTreeMap<Hash, Block>,
    /// Blocks whose parents are missing.
    orphans: BTreeMap<Hash, Block>,
    /// The last block of the longest chain.
    tip: Hash,
    /// The timer after which this node makes a block, unless a block of another node arrives before.
    block_timer: Option<TimerId>,
    /// The timer after which missing blocks are requested again.
    request_timer: Option<TimerId>,
    /// Number of requests for blocks so far.
    requested: usize,
}

impl Ledger {
    fn new(number: u8, max_wait: Duration) -> Self {
        Self {
            key: Key::from_secret(&[number; 32]),
            max_wait,
            records: BTreeMap::new(),
            blocks: BTreeMap::new(),
            orphans: BTreeMap::new(),
            tip: NO_BLOCK,
            block_timer: None,
            request_timer: None,
            requested: 0,
        }
    }

    /// Signs a record and sends it to all nodes.
    fn write(&mut self, cx: &mut Context<'_>, text: String) {
        let record = Record::new(&self.key, text);
        if let Ok(message) = Message::json(&record) {
            cx.broadcast("record", message);
        }
        // An author does not receive its own broadcast.
        self.add_record(record);
        self.schedule_block(cx);
    }

    /// Returns the chain that ends with the block `tip`, from its last block to its first.
    fn chain(&self, tip: Hash) -> impl Iterator<Item = &Block> {
        std::iter::successors(self.blocks.get(&tip), |block| self.blocks.get(&block.parent))
    }

    /// Returns the records in the chain that ends with the block `tip`.
    fn records_in_chain(&self, tip: Hash) -> BTreeSet<Hash> {
        self.chain(tip).flat_map(|block| &block.records).map(Record::id).collect()
    }

    fn height(&self, tip: Hash) -> usize {
        self.blocks.get(&tip).map_or(0, |block| block.height)
    }

    /// Adds a record if it is valid. Returns whether it is valid.
    fn add_record(&mut self, record: Record) -> bool {
        let known = self.records.contains_key(&record.id());
        let is_valid = known || record.is_valid();
        if is_valid && !known {
            self.records.insert(record.id(), record);
        }
        is_valid
    }

    /// Sets the timer for the next block, if there are records that are not in the chain.
    fn schedule_block(&mut self, cx: &mut Context<'_>) {
        if let Some(timer) = self.block_timer.take() {
            cx.cancel_timer(timer);
        }
        let written = self.records_in_chain(self.tip);
        if self.records.keys().any(|record| !written.contains(record)) {
            // Each node waits for another time, which is the same when the simulation is repeated.
            let hash = Hash::of_parts(&[cx.id().as_bytes(), self.tip.as_bytes()]);
            let share = f64::from(hash.as_bytes()[0]) / 255.0;
            self.block_timer = Some(cx.set_timer(self.max_wait.mul_f64(share)));
        }
    }

    fn make_block(&mut self, cx: &mut Context<'_>) {
        let written = self.records_in_chain(self.tip);
        let new = self.records.iter().filter(|(id, _)| !written.contains(id));
        let records = new.map(|(_, record)| record.clone()).take(MAX_RECORDS_PER_BLOCK).collect();
        let block = Block { parent: self.tip, height: self.height(self.tip) + 1, records };
        if let Ok(message) = Message::json(&block) {
            cx.broadcast("block", message);
        }
        self.add_block(cx, block);
    }

    /// Adds a block to its chain, and then the blocks that were waiting for it.
    fn add_block(&mut self, cx: &mut Context<'_>, block: Block) {
        let (hash, parent) = (block.hash(), block.parent);
        if self.blocks.contains_key(&hash) {
            return;
        }
        if parent != NO_BLOCK && !self.blocks.contains_key(&parent) {
            if self.orphans.len() < MAX_ORPHANS && self.orphans.insert(hash, block).is_none() {
                self.request_missing(cx);
            }
            return;
        }
        if !self.is_valid_next(&block) {
            return;
        }
        self.blocks.insert(hash, block);
        let rank = |ledger: &Self, hash| (ledger.height(hash), std::cmp::Reverse(hash));
        if rank(self, hash) > rank(self, self.tip) {
            self.tip = hash;
            self.schedule_block(cx);
        }
        let children: Vec<_> =
            self.orphans.extract_if(.., |_, orphan| orphan.parent == hash).collect();
        for (_, child) in children {
            self.add_block(cx, child);
        }
    }

    /// Returns whether a block, whose parent is known, is valid. Adds its records.
    fn is_valid_next(&mut self, block: &Block) -> bool {
        let mut written = self.records_in_chain(block.parent);
        block.height == self.height(block.parent) + 1
            && (1..=MAX_RECORDS_PER_BLOCK).contains(&block.records.len())
            && block.records.iter().all(|record| written.insert(record.id()))
            && block.records.iter().all(|record| self.add_record(record.clone()))
    }

    /// Requests the missing parents. The neighbours take turns.
    fn request_missing(&mut self, cx: &mut Context<'_>) {
        let parents: BTreeSet<_> = self.orphans.values().map(|orphan| orphan.parent).collect();
        let peers = cx.peers();
        for hash in parents.into_iter().filter(|hash| !self.orphans.contains_key(hash)) {
            if let Some(peer) = peers.get(self.requested % peers.len().max(1)) {
                cx.request(peer, "block", hash.to_string());
                self.requested += 1;
            }
        }
        if self.request_timer.is_none() {
            self.request_timer = Some(cx.set_timer(REQUEST_INTERVAL));
        }
    }
}

impl Handler for Ledger {
    // Each node of a new link requests the last block of the other node.
    fn outbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        cx.request(peer, "tip", "");
    }

    fn inbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        cx.request(peer, "tip", "");
    }

    fn node_request(
        &mut self,
        _: &mut Context<'_>,
        _: &Peer,
        name: &str,
        request: Message,
    ) -> Result<Message, Refusal> {
        let hash = match name {
            "tip" => self.tip,
            "block" => request.as_text().and_then(|text| text.parse().ok()).unwrap_or(NO_BLOCK),
            _ => return Err(Refusal::NoHandler),
        };
        let block = self.blocks.get(&hash).or_else(|| self.orphans.get(&hash));
        let block = block.ok_or_else(|| Refusal::Failed("there is no such block here".into()))?;
        Message::json(block).map_err(|error| Refusal::Failed(error.to_string()))
    }

    fn node_request_completed(
        &mut self,
        cx: &mut Context<'_>,
        _: ActionId,
        _: NodeId,
        reply: Message,
    ) {
        if let Ok(block) = reply.to_json() {
            self.add_block(cx, block);
        }
    }

    fn node_broadcast(&mut self, cx: &mut Context<'_>, broadcast: Broadcast) {
        let message = broadcast.message;
        if broadcast.title == "block" {
            if let Ok(block) = message.to_json() {
                self.add_block(cx, block);
            }
        } else if let Ok(record) = message.to_json::<Record>()
            && self.add_record(record)
            && self.block_timer.is_none()
        {
            self.schedule_block(cx);
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, timer: TimerId) {
        if self.block_timer == Some(timer) {
            self.block_timer = None;
            self.make_block(cx);
        } else if self.request_timer == Some(timer) {
            self.request_timer = None;
            if !self.orphans.is_empty() {
                self.request_missing(cx);
            }
        }
    }
}

/// The hash of a node's last block, and the number of records in the node's chain.
type State = (Hash, usize);

fn state(ledger: &Ledger) -> State {
    (ledger.tip, ledger.records_in_chain(ledger.tip).len())
}

fn agree(states: &[State], records: usize) -> bool {
    states.iter().all(|state| *state == (states[0].0, records))
}

/// Runs five nodes with sockets. Each of the later nodes joins when the nodes before it already have blocks.
async fn on_sockets() -> Result<(), Box<dyn Error>> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..5 {
        let ledger = Ledger::new(number, Duration::from_millis(300));
        let node = Node::builder().listen("127.0.0.1:0").handler(ledger).spawn().await?;
        if let Some(first) = nodes.first() {
            node.join(first.listening()[0]).await?;
        }
        let text = format!("record {number}");
        node.with(|ledger: &mut Ledger, cx| ledger.write(cx, text)).await?;
        nodes.push(node);
        let mut states = Vec::new();
        let agreed = async {
            while states.is_empty() || !agree(&states, nodes.len()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                states.clear();
                for node in &nodes {
                    states.push(node.with(|ledger: &mut Ledger, _| state(ledger)).await?);
                }
            }
            Ok::<_, peerkit::Error>(())
        };
        tokio::time::timeout(Duration::from_secs(30), agreed).await??;
    }
    println!("5 nodes on sockets agree on a chain with 5 records");
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}

fn states(sim: &Sim<Ledger>) -> Vec<State> {
    (0..sim.len()).map(|node| state(sim.app(node))).collect()
}

/// Has every tenth node write a record.
fn write(sim: &mut Sim<Ledger>, what: &str) {
    for node in (0..sim.len()).step_by(10) {
        sim.with(node, |ledger, cx| ledger.write(cx, format!("{what} of node {node}")));
    }
}

/// Lets time pass until all nodes agree on a chain with this number of records.
fn run_until_agreed(sim: &mut Sim<Ledger>, records: usize) -> Result<(), Box<dyn Error>> {
    for _ in 0..1200 {
        if agree(&states(sim), records) {
            return Ok(());
        }
        sim.run_for(Duration::from_secs(1));
    }
    Err(format!("no agreement on {records} records in 20 minutes").into())
}

/// Runs a hundred nodes in the simulator. For a time their network is split into 40 and 60 nodes, and both
/// parts continue to make blocks.
fn simulated(seed: u64) -> Result<(), Box<dyn Error>> {
    let mut sim = Sim::new(SimConfig { seed, ..SimConfig::default() });
    for node in 0..100 {
        sim.add(Ledger::new(node, Duration::from_secs(20)));
        sim.run_for(Duration::from_millis(50));
        if node > 0 {
            sim.join(node.into(), 0);
        }
    }
    sim.run_for(Duration::from_secs(10));
    write(&mut sim, "first record");
    run_until_agreed(&mut sim, 10)?;

    let part: Vec<_> = (0..40).collect();
    sim.partition(&[&part]);
    write(&mut sim, "second record");
    sim.run_for(Duration::from_secs(300));
    let split = states(&sim);
    println!("split: {} records in one part's chain, {} in the other's", split[0].1, split[99].1);
    if !agree(&split[..40], 14) || !agree(&split[40..], 16) {
        return Err("the parts do not go on by themselves".into());
    }
    sim.heal();
    run_until_agreed(&mut sim, 20)?;
    let minutes = sim.now().since_origin().as_secs() / 60;
    let requests: usize = (0..sim.len()).map(|node| sim.app(node).requested).sum();
    println!("100 simulated nodes agree on a chain with 20 records after {minutes} minutes");
    println!("{requests} blocks were requested; trace {}", sim.trace_hash());
    if requests > 0 { Ok(()) } else { Err("nothing was requested".into()) }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seed = std::env::args().nth(1).map_or(Ok(1), |seed| seed.parse())?;
    on_sockets().await?;
    tokio::task::spawn_blocking(move || simulated(seed).map_err(|error| error.to_string()))
        .await??;
    Ok(())
}
