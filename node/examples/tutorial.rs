//! The node that the tutorial of p2pnetwork (a Python package) builds, written as a handler. It connects, discovers, pings, searches, downloads and
//! shares. The event that ends a step starts the next step.
//!
//! ```text
//! cargo run --example tutorial
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peerkit::{
    ActionId, Address, Context, FoundFile, Handler, Hash, Node, NodeId, NodeInfo, Peer, SharedFile,
};

/// An application that searches for a song and fetches it.
struct SongFinder {
    downloads: PathBuf,
}

impl Handler for SongFinder {
    fn outbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        println!("{} is connected to {}", cx.name(), peer.name());
        // A note about the peer, which only this node can read.
        cx.set_info(peer.id(), "greeted", true);
        // -1 asks the whole network.
        cx.discover(-1);
    }

    fn node_discovery_completed(
        &mut self,
        cx: &mut Context<'_>,
        _: ActionId,
        nodes: &[NodeInfo],
        _: bool,
    ) {
        for node in nodes {
            println!("  {} dialled {} nodes", node.name, node.outbound.len());
        }
        // A ping also reaches a node without a link to this one.
        if let Some(last) = nodes.last() {
            cx.ping(last.id);
        }
    }

    fn node_ping_completed(
        &mut self,
        cx: &mut Context<'_>,
        _: ActionId,
        node: NodeId,
        rtt: Duration,
    ) {
        println!("  {} answers in {rtt:?}", node.short());
        cx.search("song");
    }

    fn node_search_completed(&mut self, cx: &mut Context<'_>, _: ActionId, files: &[FoundFile]) {
        for found in files {
            println!("  found {} at {} nodes", found.file.name, found.sources.len());
        }
        if let Some(found) = files.first() {
            cx.fetch(found.file.hash, &self.downloads);
        }
    }

    fn node_fetch_completed(
        &mut self,
        cx: &mut Context<'_>,
        _: ActionId,
        _: Hash,
        path: &Path,
        bytes: u64,
    ) {
        println!("  {bytes} bytes, verified, in {}", path.display());
        cx.share(path);
    }

    fn node_share_completed(
        &mut self,
        cx: &mut Context<'_>,
        _: ActionId,
        file: &SharedFile,
        _: usize,
    ) {
        println!("  {} is now shared here too", file.name);
        cx.stop();
    }

    fn node_action_failed(&mut self, cx: &mut Context<'_>, _: ActionId, error: &str) {
        println!("  failed: {error}");
        cx.stop();
    }

    fn outbound_node_connection_error(&mut self, cx: &mut Context<'_>, to: &Address, error: &str) {
        println!("  no link with {to}: {error}");
        cx.stop();
    }
}

/// Runs three nodes: Ann has the handler, Cid has the song, and Bob connects them.
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let song = folder.path().join("holiday song.txt");
    std::fs::write(&song, "la la la\n".repeat(400_000))?;
    let cid = Node::builder().name("cid").listen("127.0.0.1:0").spawn().await?;
    let bob = Node::builder().name("bob").listen("127.0.0.1:0").spawn().await?;
    cid.share(song).await?;
    bob.connect(cid.listening()[0]).await?;

    let downloads = folder.path().join("downloads");
    std::fs::create_dir(&downloads)?;
    let handler = SongFinder { downloads: downloads.clone() };
    let ann = Node::builder().name("ann").handler(handler).spawn().await?;
    ann.connect(bob.listening()[0]).await?;
    ann.stopped().await;
    let fetched = downloads.join("holiday song.txt").exists();
    fetched.then_some(()).ok_or_else(|| "the song was not fetched".into())
}
