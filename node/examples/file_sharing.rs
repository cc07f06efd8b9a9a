//! File sharing with commands: connect, discover, ping, search and download.
//!
//! Without arguments, the example runs these commands on one of three nodes that are linked in a line. To share
//! a folder and type the commands yourself, start two nodes and connect the second to the first:
//!
//! ```text
//! cargo run --example file_sharing -- 0.0.0.0:7117 FOLDER
//! cargo run --example file_sharing -- 0.0.0.0:0 OTHER_FOLDER
//! connect 192.0.2.7:7117
//! ```

use std::error::Error;
use std::path::Path;

use peerkit::{FetchRequest, Node};

/// Runs the command in `line`. Downloads go into the folder `downloads`.
async fn command(node: &Node, line: &str, downloads: &Path) -> Result<(), Box<dyn Error>> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "connect" => println!("  connected to {}", node.connect(rest).await?),
        "discover" => {
            for found in node.discover(-1).await?.nodes {
                println!("  {} dialled {} nodes", found.name, found.outbound.len());
            }
        }
        "ping" => {
            for peer in node.peers() {
                println!("  {} answers in {:?}", peer.name(), node.ping(peer.id()).await?);
            }
        }
        "search" => {
            for found in node.search(rest).await? {
                let sources: Vec<_> = found.sources.iter().map(|source| &source.name).collect();
                println!("  {} {} at {sources:?}", found.file.hash, found.file.name);
            }
        }
        "download" => {
            let fetched =
                node.fetch(FetchRequest::new(rest.parse()?).into_folder(downloads)).await?;
            println!("  {} bytes, verified, in {}", fetched.bytes, fetched.path.display());
        }
        _ => println!("  connect ADDRESS, discover, ping, search WORDS or download HASH"),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, folder] = &arguments[..] else { return run_demo().await };
    let node = Node::builder().listen(listen).spawn().await?;
    println!("sharing {:?} on {:?}", node.share(folder).await?.shared.name, node.listening());
    for line in std::io::stdin().lines() {
        if let Err(error) = command(&node, &line?, "downloads".as_ref()).await {
            println!("  {error}");
        }
    }
    node.shutdown().await;
    Ok(())
}

/// Runs three nodes: Ann enters the commands, Cid has the file, and Bob is linked to both.
async fn run_demo() -> Result<(), Box<dyn Error>> {
    let start = |name: &str| Node::builder().name(name).listen("127.0.0.1:0").spawn();
    let (ann, bob, cid) = (start("ann").await?, start("bob").await?, start("cid").await?);
    bob.connect(cid.listening()[0]).await?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("holiday song.txt"), "la la la\n".repeat(400_000))?;
    let song = cid.share(folder.path().join("holiday song.txt")).await?.shared;
    let connect = format!("connect {}", bob.listening()[0]);
    let download = format!("download {}", song.hash);
    for line in [&*connect, "discover", "ping", "search song", &*download] {
        println!("ann> {line}");
        command(&ann, line, &folder.path().join("downloads")).await?;
    }
    Ok(())
}
