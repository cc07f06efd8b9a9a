//! One application, `Mirror`, on five nodes with real sockets and disks, and on fifty simulated nodes. One node
//! publishes a file. All other nodes fetch it, from that node and from each other.
//!
//! ```text
//! cargo run --example mirror -- 7
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peerkit::sim::{Network, Sim, SimConfig};
use peerkit::{ActionId, Broadcast, Context, Handler, Hash, Message, Node, SharedFile};
use serde::{Deserialize, Serialize};

/// A node that keeps a copy of each file that any node publishes.
#[derive(Default)]
struct Mirror {
    /// The folder for its files.
    folder: PathBuf,
    /// The action that shares the file which this node publishes.
    publishes: Option<ActionId>,
    /// The hashes of the node's copies, computed from the files on the disk.
    copies: Vec<Hash>,
}

/// The announcement of a file.
#[derive(Serialize, Deserialize)]
struct Announcement {
    name: String,
    hash: Hash,
}

impl Mirror {
    fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), ..Self::default() }
    }

    fn publish(&mut self, cx: &mut Context<'_>, name: &str, content: Vec<u8>) {
        let path = self.folder.join(name);
        match cx.write_file(&path, content) {
            Ok(()) => self.publishes = Some(cx.share(path)),
            Err(error) => eprintln!("can't write {}: {error}", path.display()),
        }
    }
}

impl Handler for Mirror {
    fn node_share_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        file: &SharedFile,
        _: usize,
    ) {
        if self.publishes == Some(action) {
            let announcement = Announcement { name: file.name.to_string(), hash: file.hash };
            if let Ok(message) = Message::json(&announcement) {
                cx.broadcast("file", message);
            }
        }
    }

    fn node_broadcast(&mut self, cx: &mut Context<'_>, broadcast: Broadcast) {
        let Ok(Announcement { name, hash }) = broadcast.message.to_json() else { return };
        // A name from the network must not lead out of the folder, so only its last part is used.
        if let Some(name) = Path::new(&name).file_name() {
            cx.fetch(hash, self.folder.join(name));
        }
    }

    fn node_fetch_completed(
        &mut self,
        cx: &mut Context<'_>,
        _: ActionId,
        _: Hash,
        path: &Path,
        _: u64,
    ) {
        if let Ok(content) = cx.read_file(path) {
            self.copies.push(Hash::of(&content));
            // From now on other nodes can fetch it from here.
            cx.share(path);
        }
    }

    fn node_action_failed(&mut self, cx: &mut Context<'_>, _: ActionId, error: &str) {
        eprintln!("{}: {error}", cx.name());
    }
}

/// Returns the content of a file with this number of mebibytes.
fn film(mebibytes: usize) -> Vec<u8> {
    (0..mebibytes << 20).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

/// Runs five nodes with sockets, each with a folder of its own.
async fn on_sockets(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..5 {
        let own = folder.join(number.to_string());
        std::fs::create_dir_all(&own)?;
        let node = Node::builder().listen("127.0.0.1:0").handler(Mirror::new(own)).spawn().await?;
        if let Some(first) = nodes.first() {
            node.join(first.listening()[0]).await?;
        }
        nodes.push(node);
    }
    let film = film(5);
    let hash = Hash::of(&film);
    nodes[0].with(|app: &mut Mirror, cx| app.publish(cx, "film.mkv", film)).await?;
    for node in &nodes[1..] {
        let mirrored = async {
            while node.with(|app: &mut Mirror, _| app.copies != [hash]).await? {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok::<_, peerkit::Error>(())
        };
        tokio::time::timeout(Duration::from_secs(30), mirrored).await??;
    }
    println!("4 nodes on sockets have a copy");
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}

/// Runs fifty nodes in the simulator, with a bandwidth of 1 MB/s. The node that publishes the file crashes after
/// 8 seconds.
fn simulated(seed: u64) -> Result<(), Box<dyn Error>> {
    let network = Network { bandwidth: Some(1_000_000), ..Network::default() };
    let mut sim = Sim::new(SimConfig { seed, network, ..SimConfig::default() });
    for node in 0..50 {
        sim.add(Mirror::new("films"));
        if node > 0 {
            sim.join(node, node / 2);
        }
        sim.run_for(Duration::from_millis(100));
    }
    sim.run_for(Duration::from_secs(30));
    let film = film(5);
    let (hash, size) = (Hash::of(&film), film.len() as f64);
    let began = sim.now();
    sim.with(0, |app, cx| app.publish(cx, "film.mkv", film));
    sim.run_for(Duration::from_secs(8));
    let sent = sim.uploaded(0) as f64 / size;
    sim.crash(0);
    let all = |sim: &Sim<Mirror>| (1..50).all(|node| sim.app(node).copies == [hash]);
    if !sim.run_until(Duration::from_secs(600), all) {
        return Err(format!("not all have a copy with seed {seed}").into());
    }
    let took = sim.now().since(began).as_secs();
    println!("49 simulated nodes have a copy after {took} s; the first has sent {sent:.1} copies");
    println!("trace {}", sim.trace_hash());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seed = std::env::args().nth(1).map_or(Ok(1), |seed| seed.parse())?;
    let folder = std::env::temp_dir().join(format!("peerkit-mirror-{}", std::process::id()));
    let done = on_sockets(&folder).await;
    std::fs::remove_dir_all(&folder)?;
    done?;
    simulated(seed)
}
