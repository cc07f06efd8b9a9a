//! Pieces in memory are read and sent part by part.

use std::time::SystemTime;

use super::*;

/// Shares a file that was last changed a minute ago, so that its fingerprint is certain.
async fn share_old(server: &FileServer, len: usize) -> (TempDir, File, Hash, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = (dir.path().join("a"), content(len, 1));
    write(&path, &bytes);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    let added = server.shares.add(&path, |_| ()).await.unwrap();
    (dir, file, added.shared.hash, bytes)
}

/// Requests the first piece of `hash` twice. Reads the first answer, after which the file is open, and
/// returns the first `len` bytes of the second.
async fn read_beginning(client: &mut TestClient, hash: Hash, bytes: &[u8], len: usize) -> Vec<u8> {
    let data = Request::Data { hash, first: 0, count: 1 };
    assert_eq!(client.pieces(&data).await, bytes[..P]);
    client.send(&data).await;
    let head = Answer::Piece { index: 0, len: P as u32 }.encode();
    let mut got = vec![0; head.len() + len];
    client.stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got[..head.len()], head);
    got.split_off(head.len())
}

/// Reads the rest of the piece that begins with `got`, and returns the whole piece.
async fn read_rest(client: &mut TestClient, mut got: Vec<u8>) -> Vec<u8> {
    let mut rest = vec![0; P - got.len()];
    client.stream.read_exact(&mut rest).await.unwrap();
    got.extend(rest);
    got
}

#[tokio::test]
async fn the_stream_ends_if_a_file_changes_while_a_piece_is_sent() {
    let server = server();
    let (_dir, file, hash, bytes) = share_old(&server, 2 * P).await;
    let mut client = connect(&server, node(1));
    let mut got = read_beginning(&mut client, hash, &bytes, 1000).await;
    file.set_len(0).unwrap();
    file.set_len(2 * P as u64).unwrap();
    let ended = client.stream.read_to_end(&mut got).await;
    ended.unwrap();
    assert!(bytes.starts_with(&got), "only bytes of the file are sent");
    match cfg!(target_os = "linux") {
        true => {
            assert!(got.len() < P, "{}", got.len());
            assert!(client.task.await.unwrap().is_err());
        }
        // Other systems read a piece as a whole.
        false => assert_eq!(got.len(), P),
    }
}

#[tokio::test]
async fn a_piece_of_a_file_that_may_have_changed_is_verified() {
    let server = server();
    let (_dir, file, hash, bytes) = share_old(&server, 2 * P).await;
    let mut client = connect(&server, node(1));
    let got = read_beginning(&mut client, hash, &bytes, 1000).await;
    // The time of modification stays the same, but the system notes the change of the times.
    file.set_modified(file.metadata().unwrap().modified().unwrap()).unwrap();
    assert!(read_rest(&mut client, got).await == bytes[..P]);
    let next = Request::Data { hash, first: 1, count: 1 };
    assert!(client.pieces(&next).await == bytes[P..]);
}

#[tokio::test]
async fn no_update_is_sent_within_a_piece() {
    let server = server();
    let (_dir, _file, hash, bytes) = share_old(&server, 2 * P).await;
    let mut client = connect(&server, node(1));
    let follow = |n: u8| {
        let address: Address = format!("127.0.0.1:{n}").parse().unwrap();
        Request::Follow { hash, addresses: vec![address] }
    };
    assert_eq!(client.request(&follow(1)).await, Answer::Whole);
    let got = read_beginning(&mut client, hash, &bytes, 1000).await;
    let mut other = connect(&server, node(2));
    assert_eq!(other.request(&follow(2)).await, Answer::Whole);
    assert!(matches!(other.answer().await.0, Answer::Sources(_)));
    assert!(read_rest(&mut client, got).await == bytes[..P]);
    assert!(matches!(client.answer().await.0, Answer::Sources(_)));
}
