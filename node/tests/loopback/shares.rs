//! Access to shares: which other nodes can find and fetch them.

use std::path::PathBuf;

use crate::common::*;
use peerkit::{Access, Error, FetchRequest, Node};
use tempfile::TempDir;

fn write(folder: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

async fn found(node: &Node, text: &str) -> Vec<String> {
    let found = within("a search", node.search(text)).await.unwrap();
    found.into_iter().map(|found| found.file.name.as_str().to_owned()).collect()
}

#[tokio::test]
async fn only_the_listed_nodes_find_and_fetch_a_restricted_share() {
    let (ann, bob, cid) = (node("ann").await, node("bob").await, node("cid").await);
    link(&ann, &bob).await;
    link(&bob, &cid).await;
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(&from, "open.txt", b"open");
    write(&from, "album/song.txt", b"song");
    bob.share(from.path().join("open.txt")).await.unwrap();
    let album = bob.share(from.path().join("album")).to_nodes([ann.id()]).await.unwrap();
    assert_eq!(album.access, Access::Nodes(vec![ann.id()]));

    assert_eq!(found(&ann, "txt").await, ["open.txt", "song.txt"]);
    assert_eq!(found(&ann, "alb").await, ["album"]);
    assert_eq!(found(&cid, "txt").await, ["open.txt"]);
    assert!(found(&cid, "alb").await.is_empty());
    let fetched =
        within("the fetch", ann.fetch(FetchRequest::new(album.shared.hash).to(to.path())))
            .await
            .unwrap();
    assert_eq!(std::fs::read(fetched.path.join("song.txt")).unwrap(), b"song");
    let refused =
        within("the refusal", cid.fetch(FetchRequest::new(album.shared.hash).to(to.path()))).await;
    assert!(matches!(refused, Err(Error::NoSource(hash)) if hash == album.shared.hash));

    // Sharing the folder again without a list of nodes opens it to all nodes.
    bob.share(from.path().join("album")).await.unwrap();
    assert_eq!(found(&cid, "txt").await, ["open.txt", "song.txt"]);
    shutdown([&ann, &bob, &cid]).await;
}

#[tokio::test]
async fn a_ticket_contains_everything_that_a_fetch_needs() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    link(&ann, &bob).await;
    let from = tempfile::tempdir().unwrap();
    let path = write(&from, "secret.txt", b"secret");
    let added = bob.share(&path).with_ticket().await.unwrap();
    let Access::Ticket(secret) = added.access else { panic!("{:?}", added.access) };
    let ticket = bob.files().ticket(&added.shared.hash).unwrap();
    assert_eq!((ticket.hash, ticket.node), (added.shared.hash, bob.id()));
    assert_eq!((ticket.secret, &*ticket.network), (Some(secret), bob.network().name()));
    assert_eq!(ticket.addresses, [address_of(&bob).into()]);
    assert_eq!(bob.files().ticket(&peerkit::Hash::of(b"?")), None);
    assert!(found(&ann, "secret").await.is_empty());
    let open = bob.share(&path).await.unwrap().shared.hash;
    assert_eq!(bob.files().ticket(&open).unwrap().secret, None);
    shutdown([&ann, &bob]).await;
}
