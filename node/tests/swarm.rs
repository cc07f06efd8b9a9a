//! Many nodes fetch the same file and pass its pieces on to each other. This test has a binary of its own,
//! because it needs the whole machine.

#![allow(clippy::unwrap_used)]

#[path = "loopback/common/mod.rs"]
mod common;

use std::path::Path;

use common::*;
use peerkit::{Config, FetchRequest};

/// A hundred nodes fetch a file from one seed at the same time. They fetch most pieces from each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_serves_a_hundred_nodes_for_little_more_than_one_copy() {
    const FETCHERS: usize = 100;
    let content = SeededRandom(1).bytes((8 << 20) + 77);
    let from = tempfile::tempdir().unwrap();
    let path = from.path().join("file");
    std::fs::write(&path, &content).unwrap();
    let uploader = builder("uploader").max_inbound(FETCHERS).manual(true).spawn().await.unwrap();
    let hash = uploader.share(path).await.unwrap().shared.hash;
    let to = tempfile::tempdir().unwrap();
    let mut fetching = tokio::task::JoinSet::new();
    for n in 0..FETCHERS {
        // Default deadlines, because on a busy machine a node may wait long until it runs.
        let node = builder("fetcher").config(Config::default()).manual(true).spawn().await.unwrap();
        let request = FetchRequest::new(hash)
            .to(to.path().join(n.to_string()))
            .from(address_of(&uploader).into());
        fetching.spawn(async move { (n, node.fetch(request).await, node) });
    }
    let mut nodes = Vec::new();
    while let Some(done) = fetching.join_next().await {
        let (n, fetched, node) = done.unwrap();
        let path: &Path = &fetched.unwrap_or_else(|error| panic!("{n}: {error}")).path;
        assert!(std::fs::read(path).unwrap() == content, "{n}");
        // The node keeps running, because other nodes may still fetch from it.
        std::fs::remove_file(path).unwrap();
        nodes.push(node);
    }
    let sent = uploader.status().await.files.sent;
    let copies = sent as f64 / content.len() as f64;
    println!("the uploader has sent {copies:.2} times the size of the file");
    assert!(copies < 3.0, "the uploader has sent {copies:.2} times the size of the file");
    shutdown(nodes.iter().chain([&uploader])).await;
}
