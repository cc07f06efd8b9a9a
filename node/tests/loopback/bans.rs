//! Bans and penalties: what ends when they start, and whom they do not hit.

use std::time::Duration;

use peerkit::{Config, DownloadState, Error, FetchRequest, Hash, Node, Stream};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::*;

/// Returns a node that sends files slowly, and echoes each byte of a stream.
async fn slow_node(name: &str) -> Node {
    let mut config = Config::default();
    config.upload_rate = 50_000;
    config.download_patience = Duration::from_secs(5);
    let node = builder(name).config(config).spawn().await.unwrap();
    node.serve_stream("echo", |mut stream| async move {
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok() {
            let _ = stream.flush().await;
        }
    });
    node
}

/// Sends a byte, and waits until it comes back.
async fn echo(stream: &mut Stream) -> std::io::Result<u8> {
    stream.write_all(b"x").await?;
    stream.flush().await?;
    stream.read_u8().await
}

async fn echoing(from: &Node, to: &Node) -> Stream {
    let mut stream = within("a stream", from.open_stream(to.id(), "echo")).await.unwrap();
    assert_eq!(within("an echo", echo(&mut stream)).await.unwrap(), b'x');
    stream
}

/// Shares a file whose upload takes two minutes.
async fn share(node: &Node, folder: &TempDir) -> Hash {
    let path = folder.path().join(node.name());
    let seed = node.id().as_bytes()[0].into();
    std::fs::write(&path, SeededRandom(seed).bytes(6_000_000)).unwrap();
    node.share(path).await.unwrap().shared.hash
}

fn is_uploading(from: &Node, to: &Node) -> bool {
    from.files().uploads().iter().any(|upload| upload.peer == to.id())
}

/// A ban ends the link, the streams that either node has opened, and the transfers in both directions. A node
/// at the same address that did nothing keeps all of that, and can connect again.
#[tokio::test]
async fn a_ban_ends_all_that_is_open_with_the_node_and_nothing_of_another() {
    let (ann, bob, cid) = (slow_node("ann").await, slow_node("bob").await, slow_node("cid").await);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (of_ann, of_bob) = (share(&ann, &from).await, share(&bob, &from).await);
    for other in [&bob, &cid] {
        link(other, &ann).await;
    }
    let mut streams = [echoing(&ann, &bob).await, echoing(&bob, &ann).await];
    let mut kept = [echoing(&ann, &cid).await, echoing(&cid, &ann).await];
    let request = |hash, name: &str, from: &Node| {
        let request = FetchRequest::new(hash).to(to.path().join(name));
        request.from(address_of(from).into()).ask_network(false)
    };
    let by_bob = bob.fetch(request(of_ann, "by bob", &ann));
    let by_ann = ann.fetch(request(of_bob, "by ann", &bob));
    let by_cid = cid.fetch(request(of_ann, "by cid", &ann));
    wait_until("the uploads", || {
        is_uploading(&ann, &bob) && is_uploading(&bob, &ann) && is_uploading(&ann, &cid)
    })
    .await;

    within("the ban", ann.ban(bob.id(), None, "test")).await.unwrap();
    let [from_ann, from_bob] = &mut streams;
    let here = within("the end of a stream", echo(from_ann)).await.unwrap_err();
    assert!(here.to_string().contains("banned"), "{here}");
    within("the end of a stream", from_bob.read_u8()).await.unwrap_err();
    wait_until("the end of the uploads", || {
        !is_uploading(&ann, &bob) && !is_uploading(&bob, &ann) && ann.peer(bob.id()).is_none()
    })
    .await;
    within("a failed fetch", by_ann).await.unwrap_err();
    within("a failed fetch", by_bob).await.unwrap_err();
    let refused = within("a refused stream", ann.open_stream(bob.id(), "echo")).await.unwrap_err();
    assert!(
        matches!(&refused, Error::StreamRefused { why, .. } if why.contains("banned")),
        "{refused}"
    );

    for stream in &mut kept {
        assert_eq!(within("an echo", echo(stream)).await.unwrap(), b'x');
    }
    assert!(ann.peer(cid.id()).is_some());
    assert_ne!(by_cid.status().state, DownloadState::Failed);
    drop(by_cid);
    cid.disconnect(ann.id()).await.unwrap();
    within("a new link", cid.connect(address_of(&ann))).await.unwrap();
    let refused = within("a refused link", bob.connect(address_of(&ann))).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused:?}");
    shutdown([&ann, &bob, &cid]).await;
}

/// A penalty ends the link and the open streams, but a stream that is opened later is accepted.
#[tokio::test]
async fn a_penalty_ends_the_open_streams_with_the_node() {
    let (ann, bob, cid) = (slow_node("ann").await, slow_node("bob").await, slow_node("cid").await);
    link(&bob, &ann).await;
    link(&cid, &ann).await;
    let mut streams = [echoing(&ann, &bob).await, echoing(&bob, &ann).await];
    let mut kept = echoing(&cid, &ann).await;
    within("the penalty", ann.penalize(bob.id(), "test")).await.unwrap();
    let [from_ann, from_bob] = &mut streams;
    let here = within("the end of a stream", echo(from_ann)).await.unwrap_err();
    assert!(here.to_string().contains("penalized"), "{here}");
    within("the end of a stream", from_bob.read_u8()).await.unwrap_err();
    wait_until("the end of the link", || ann.peer(bob.id()).is_none()).await;
    let refused = within("a refused link", bob.connect(address_of(&ann))).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused:?}");
    assert_eq!(within("an echo", echo(&mut kept)).await.unwrap(), b'x');
    echoing(&ann, &bob).await;
    shutdown([&ann, &bob, &cid]).await;
}
