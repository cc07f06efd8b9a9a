//! Sources and askers that lie, stall, drip or change their minds.

use super::*;

#[tokio::test]
async fn a_bad_piece_is_told_and_costs_one_piece() {
    let (_, to) = dirs();
    let bytes = content(5 * P);
    let hash = Hash::of(&bytes);
    let mut download = Download::new(hash, Destination::Folder(to.path().into()));
    let sent = bytes.clone();
    let bad = source_of(bytes.clone(), FileKind::File, move |request| match request {
        Request::Data { first: 0, .. } => {
            let mut sent = sent.clone();
            sent[2 * P + 100] ^= 1;
            let pieces = sent.chunks(P).zip(0..).take(4);
            Some((pieces.flat_map(|(bytes, index)| piece(index, bytes)).collect(), true))
        }
        _ => None,
    });
    let error = download.run(node(1), bad, |_| ()).await.unwrap_err();
    assert!(matches!(error, FetchError::Lie(PieceError::BadPiece(2))), "{error}");
    assert!(error.is_lie());
    let good = source_of(bytes.clone(), FileKind::File, |_| None);
    download.run(node(2), good, |_| ()).await.unwrap();
    let path = download.finish().await.unwrap().path;
    assert!(fs::read(path).unwrap() == bytes);
}

/// Runs a fetch from a liar, which has to fail and to leave nothing.
async fn refused(hash: Hash, stream: DuplexStream) -> FetchError {
    let (_, to) = dirs();
    let error = fetch(hash, to.path(), stream).await.unwrap_err();
    assert!(is_empty(to.path()), "something was left by: {error}");
    error
}

#[tokio::test]
async fn lies_about_list_and_size_are_found() {
    let bytes = content(3 * P + 9);
    let hash = Hash::of(&bytes);
    let file = FileKind::File;

    let error = refused(hash, source_of(content(3 * P + 10), file, |_| None)).await;
    assert!(matches!(error, FetchError::Lie(PieceError::BadList)), "{error}");

    // A size with the same number of pieces shows in the last piece.
    let longer = source_of(bytes.clone(), file, |request| match request {
        Request::Describe { .. } => Some((described(FileKind::File, 4 * PIECE, "a"), true)),
        Request::Data { first, .. } => Some((piece(first, &content(P)), true)),
        _ => None,
    });
    let error = refused(hash, longer).await;
    assert!(matches!(error, FetchError::Lie(PieceError::BadPiece(3))), "{error}");

    // 4 TiB with a tiny list: asked for once, and no memory or disk is taken for it.
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let huge = source_of(bytes.clone(), file, move |request| match request {
        Request::Describe { .. } => Some((described(FileKind::File, 4 << 40, "a"), true)),
        Request::Pieces { .. } => {
            *count.lock().unwrap() += 1;
            let values = vec![[0; 32]; 4];
            Some((Answer::Pieces { first: 0, values }.encode(), true))
        }
        _ => None,
    });
    let error = refused(hash, huge).await;
    assert!(matches!(error, FetchError::Unexpected(_)) && error.is_lie(), "{error}");
    assert_eq!(*asked.lock().unwrap(), 1);

    for (kind, size) in [(FileKind::File, u64::MAX), (FileKind::Folder, 65 << 20)] {
        let large = source_of(bytes.clone(), kind, move |request| match request {
            Request::Describe { .. } => Some((described(kind, size, "a"), true)),
            _ => None,
        });
        let error = refused(hash, large).await;
        assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
    }

    // What is no folder is none, and the next source is asked anew.
    let (_, to) = dirs();
    let mut download = Download::new(hash, Destination::Folder(to.path().into()));
    let folder = source_of(bytes.clone(), FileKind::Folder, |_| None);
    let error = download.run(node(1), folder, |_| ()).await.unwrap_err();
    assert!(matches!(error, FetchError::Manifest(_)) && error.is_lie(), "{error}");
    let honest = source_of(bytes.clone(), file, |_| None);
    download.run(node(2), honest, |_| ()).await.unwrap();
    assert!(fs::read(download.finish().await.unwrap().path).unwrap() == bytes);
}

#[tokio::test]
async fn evil_names_write_nothing_and_are_shown() {
    let outside = tempfile::tempdir().unwrap();
    let to = outside.path().join("downloads");
    for evil in ["../../x", "..", "/tmp/x", "a\\..\\x", "nul"] {
        // In a folder's list, with a hash that fits.
        let mut manifest = b"peerkit folder 1\n".to_vec();
        manifest.put_u32(1);
        manifest.put_u8(1);
        manifest.put_str(evil);
        manifest.put_u16(0o644);
        manifest.put_u64(1);
        manifest.put_raw(Hash::of(b"x").as_bytes());
        let hash = Hash::of(&manifest);
        let source = source_of(manifest, FileKind::Folder, |_| None);
        let error = fetch(hash, &to, source).await.unwrap_err();
        assert!(matches!(&error, FetchError::Manifest(ManifestError::Name(e)) if e.name == evil));
        assert!(error.to_string().contains(&format!("{evil:?}")), "{error}");

        // As the name of what is fetched.
        let source = liar(move |_| {
            let mut body = vec![1, 0, 0];
            body.put_u64(1);
            body.put_str(evil);
            let mut message = Vec::new();
            message.put_bytes(&body);
            (message, true)
        });
        let error = fetch(Hash::of(b"x"), &to, source).await.unwrap_err();
        assert!(matches!(error, FetchError::Protocol(WireError::Name(_))), "{error}");
    }
    assert!(!to.exists() || is_empty(&to));
    assert!(fs::read_dir(outside.path()).unwrap().count() <= 1);
}

#[tokio::test]
async fn a_refusal_is_told_apart() {
    let (from, _) = dirs();
    let shares = shares();
    let error = refused(Hash::of(b"?"), honest(&shares)).await;
    assert!(matches!(error, FetchError::Refused(Refusal::NotFound)), "{error}");

    let path = from.path().join("a");
    write(&path, &content(3 * P));
    let hash = shares.add(&path, |_| ()).await.unwrap().shared.hash;
    write(&path, &content(3 * P + 1));
    let error = refused(hash, honest(&shares)).await;
    assert!(matches!(error, FetchError::Refused(Refusal::Changed)), "{error}");
    assert!(error.is_worth_another() && !error.is_lie());
}

#[tokio::test]
async fn a_file_changed_during_the_fetch_is_not_mixed() {
    let (from, to) = dirs();
    let path = from.path().join("a");
    let bytes = content(40 * P);
    write(&path, &bytes);
    let shares = shares();
    let hash = shares.add(&path, |_| ()).await.unwrap().shared.hash;
    let mut download = Download::new(hash, Destination::Folder(to.path().into()));
    let mut changed = false;
    let progress = |step: Progress| {
        if !changed && step.done > 5 * PIECE {
            changed = true;
            write(&path, &content(41 * P));
        }
    };
    let error = download.run(node(1), honest(&shares), progress).await.unwrap_err();
    assert!(matches!(error, FetchError::Refused(Refusal::Changed)), "{error}");
    // With the old content back what came before counts.
    let honest = source_of(bytes.clone(), FileKind::File, |_| None);
    download.run(node(2), honest, |_| ()).await.unwrap();
    assert!(fs::read(download.finish().await.unwrap().path).unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_silent_or_dripping_source_is_given_up() {
    let (ours, _theirs) = duplex(64 << 10);
    let error = refused(Hash::of(b"a"), ours).await;
    assert!(matches!(error, FetchError::Stalled), "{error}");

    // A byte every 29 s: not silent, and no piece is ever whole.
    let (ours, mut theirs) = duplex(64 << 10);
    let drip = tokio::spawn(async move {
        let mut request = [0; 64];
        let _ = theirs.read(&mut request).await.unwrap();
        theirs.write_all(&described(FileKind::File, 1000, "a")).await.unwrap();
        let head = Answer::Piece { index: 0, len: 1000 }.encode();
        theirs.write_all(&head).await.unwrap();
        let mut sent = 0;
        while theirs.write_all(&[0]).await.is_ok() {
            sent += 1;
            tokio::time::sleep(STALL - Duration::from_secs(1)).await;
        }
        sent
    });
    let error = refused(Hash::of(b"a"), ours).await;
    assert!(matches!(error, FetchError::Stalled), "{error}");
    assert!(drip.await.unwrap() <= 12, "it was listened to for too long");
}

#[tokio::test(start_paused = true)]
async fn a_source_does_not_wait_for_ever() {
    let (from, _) = dirs();
    let path = from.path().join("a");
    write(&path, &content(2 * P));
    let shares = shares();
    let hash = shares.add(&path, |_| ()).await.unwrap().shared.hash;

    // Asks for nothing.
    let (_ours, theirs) = duplex(1024);
    let error = serve(shares.clone(), (node(0), [0; 32]), theirs).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);

    // Asks and does not read.
    let (mut ours, theirs) = duplex(1024);
    let request = Request::Data { hash, first: 0, count: 2 };
    ours.write_all(&request.encode()).await.unwrap();
    let error = serve(shares.clone(), (node(0), [0; 32]), theirs).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);

    // Goes away in the middle of a request; and between two, which is in order.
    for (sent, ok) in [(&[9u8, 0][..], false), (&[], true)] {
        let (mut ours, theirs) = duplex(1024);
        ours.write_all(sent).await.unwrap();
        drop(ours);
        assert_eq!(serve(shares.clone(), (node(0), [0; 32]), theirs).await.is_ok(), ok);
    }

    // Announces more than a request has.
    let (mut ours, theirs) = duplex(1024);
    ours.write_all(&[0xff; 4]).await.unwrap();
    assert!(serve(shares, (node(0), [0; 32]), theirs).await.is_err());
}

#[tokio::test]
async fn bad_requests_are_answered_and_the_stream_goes_on() {
    let (from, _) = dirs();
    write(&from.path().join("a"), b"abc");
    let shares = shares();
    let hash = shares.add(from.path().join("a"), |_| ()).await.unwrap().shared.hash;
    let mut stream = honest(&shares);
    let bad = [
        Request::Unknown(77).encode(),
        Request::Data { hash, first: 1, count: 1 }.encode(),
        Request::Data { hash, first: u64::MAX, count: 1 }.encode(),
        Request::Data { hash, first: 0, count: 2 }.encode(),
        Request::Pieces { hash, first: 0, count: 1024 }.encode(),
        Request::Data { hash, first: 0, count: 0 }.encode(),
        vec![0; 4],
    ];
    for request in &bad {
        stream.write_all(request).await.unwrap();
    }
    let good = Request::Data { hash, first: 0, count: 1 };
    stream.write_all(&good.encode()).await.unwrap();
    let mut expected: Vec<u8> = Vec::new();
    for _ in &bad {
        expected.extend(Answer::Refused(Refusal::BadRequest).encode());
    }
    expected.extend(piece(0, b"abc"));
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(Bytes::from(got), Bytes::from(expected));
}
