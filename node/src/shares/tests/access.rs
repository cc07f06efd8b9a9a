//! Each node finds and fetches only what it may have.

use super::*;

/// Returns the ticket secret of a hash: `None` if the hash is not shared, and `Some(None)` if it needs no
/// secret.
fn secret_of(shares: &Shares, hash: &Hash) -> Option<Option<Secret>> {
    Some(match shares.access(hash)? {
        Access::Ticket(secret) => Some(secret),
        _ => None,
    })
}

/// Checks that every look-up of a hash by `asker` gives the same result, and returns it.
fn sees(shares: &Shares, hash: &Hash, asker: &Asker<'_>) -> Option<AccessKind> {
    let described = shares.describe(hash, asker);
    assert_eq!(shares.contains(hash, asker), described.is_some());
    match shares.open(hash, asker) {
        Ok(_) => assert!(described.is_some()),
        Err(refusal) => assert_eq!((refusal, described.clone()), (FileRefusal::NotFound, None)),
    }
    described.map(|described| described.access)
}

#[tokio::test]
async fn a_node_sees_only_what_it_may_have() {
    let (dir, shares) = (folder(), shares());
    let path = dir.path().join("top/private.txt");
    write(&path, b"private");
    let hash = Hash::of(b"private");
    let to_two = for_nodes(vec![node(2)]);
    let share = |options: ShareOptions| shares.add_with(dir.path().join("top"), options, |_| ());
    let added = share(to_two.clone()).await.unwrap();
    assert_eq!(added.access, Access::Nodes(vec![node(2)]));
    for hash in [hash, added.shared.hash] {
        assert_eq!(sees(&shares, &hash, &asker(2)), Some(AccessKind::Nodes));
        assert_eq!(sees(&shares, &hash, &asker(3)), None);
        assert_eq!(shares.describe_for_query(&hash, None), None);
    }
    assert_eq!(names(&shares.search("", 9, Some(&asker(2)))), ["top", "private.txt"]);
    assert!(shares.search("", 9, Some(&asker(3))).is_empty());
    assert!(shares.search("", 9, None).is_empty());
    assert_eq!(secret_of(&shares, &hash), Some(None));

    // Only the access changes: from now on the share is for holders of tickets.
    let added = share(with_ticket()).await.unwrap();
    let Access::Ticket(secret) = added.access else { panic!("{:?}", added.access) };
    assert_eq!(secret_of(&shares, &hash), Some(Some(secret)));
    assert_eq!(sees(&shares, &hash, &asker(2)), None);
    let proof = secret.prove(&[7; 32], node(5));
    let shown = Asker { proof: Some(&proof), ..asker(5) };
    assert_eq!(sees(&shares, &hash, &shown), Some(AccessKind::Ticket));
    assert_eq!(sees(&shares, &hash, &Asker { id: node(6), ..shown }), None);
    assert!(shares.search("", 9, Some(&asker(5))).is_empty());
    let again = share(with_ticket()).await.unwrap();
    assert_eq!(again.access, Access::Ticket(secret), "earlier tickets stay valid");

    // The same content is also shared openly: nodes without access to the first copy get the open one.
    write(&dir.path().join("open.txt"), b"private");
    let open = add(&shares, &dir.path().join("open.txt")).await;
    assert_eq!(sees(&shares, &hash, &anyone()), Some(AccessKind::Open));
    assert_eq!(sees(&shares, &hash, &shown), Some(AccessKind::Open));
    assert_eq!(shares.describe(&hash, &shown).unwrap().name.as_str(), "open.txt");
    assert_eq!(secret_of(&shares, &hash), Some(None));
    assert_eq!(sees(&shares, &added.shared.hash, &anyone()), None);
    shares.remove(&open.shared.hash).await.unwrap();
    assert_eq!(sees(&shares, &hash, &anyone()), None);

    // The folder is shared openly, and then with tickets again.
    share(ShareOptions::default()).await.unwrap();
    assert_eq!(sees(&shares, &hash, &anyone()), Some(AccessKind::Open));
    let fresh = share(with_ticket()).await.unwrap();
    assert_ne!(fresh.access, Access::Ticket(secret), "earlier tickets are void");
}

#[tokio::test]
async fn the_access_of_a_share_outlives_a_restart_and_a_change() {
    let (dir, state) = (folder(), folder());
    let paths = ["named", "ticket", "forgotten", "open"].map(|name| dir.path().join(name));
    for path in &paths {
        write(path, path.to_str().unwrap().as_bytes());
    }
    let options = [for_nodes(vec![node(2)]), with_ticket(), temporary(), ShareOptions::default()];
    let mut shared = Vec::new();
    {
        let shares = Shares::new(Store::open(Some(state.path())).unwrap());
        for (path, options) in paths.iter().zip(options) {
            shared.push(shares.add_with(path, options, |_| ()).await.unwrap());
        }
        write(&paths[0], b"changed");
        let report = shares.refresh(|_| ()).await.unwrap();
        assert_eq!(report.changed.len(), 1);
        assert_eq!(sees(&shares, &Hash::of(b"changed"), &anyone()), None);
        assert_eq!(sees(&shares, &Hash::of(b"changed"), &asker(2)), Some(AccessKind::Nodes));
        // From here on the last share is not remembered.
        let options = temporary();
        shares.add_with(&paths[3], options, |_| ()).await.unwrap();
        assert_eq!(shares.list().len(), 4);
        let _ = shares.remove(&Hash::of(b"none")).await.unwrap();
        assert_eq!(sees(&shares, &shared[2].shared.hash, &anyone()), Some(AccessKind::Open));
    }
    let shares = Shares::new(Store::open(Some(state.path())).unwrap());
    shares.restore(|_| ()).await.unwrap();
    assert_eq!(names(&shares.list()), ["named", "ticket"]);
    assert_eq!(sees(&shares, &Hash::of(b"changed"), &anyone()), None);
    assert_eq!(sees(&shares, &Hash::of(b"changed"), &asker(2)), Some(AccessKind::Nodes));
    let Access::Ticket(secret) = shared[1].access else { panic!() };
    assert_eq!(secret_of(&shares, &shared[1].shared.hash), Some(Some(secret)));
}

#[tokio::test]
async fn a_share_can_keep_the_settings_of_an_earlier_one() {
    let (dir, state) = (folder(), folder());
    let [named, gone] = ["named", "gone"].map(|name| dir.path().join(name));
    for path in [&named, &gone] {
        write(path, path.to_str().unwrap().as_bytes());
    }
    let keeping =
        ShareOptions { audience: Audience::TicketHolders, is_temporary: true, keeps_earlier: true };
    {
        let shares = Shares::new(Store::open(Some(state.path())).unwrap());
        shares.add_with(&named, for_nodes(vec![node(2)]), |_| ()).await.unwrap();
    }
    let shares = Shares::new(Store::open(Some(state.path())).unwrap());
    // The earlier share is not restored yet.
    for _ in 0..2 {
        let added = shares.add_with(&named, keeping.clone(), |_| ()).await.unwrap();
        assert_eq!(added.access, Access::Nodes(vec![node(2)]));
        assert!(added.is_remembered);
        assert_eq!(shares.remove_temporary(&resolve(&named).unwrap()).await.unwrap(), None);
        shares.restore(|_| ()).await.unwrap();
    }
    let added = shares.add_with(&gone, keeping.clone(), |_| ()).await.unwrap();
    assert!(matches!(added.access, Access::Ticket(_)) && !added.is_remembered);
    assert_eq!(shares.add_with(&gone, keeping, |_| ()).await.unwrap(), added);
    let removed = shares.remove_temporary(&resolve(&gone).unwrap()).await.unwrap();
    assert_eq!(removed, Some(added.shared));
    assert_eq!(names(&shares.list()), ["named"]);
}

#[tokio::test]
async fn content_belongs_to_the_shares_that_have_or_had_it() {
    let (dir, shares) = (folder(), shares());
    write(&dir.path().join("one/a"), b"a");
    write(&dir.path().join("one/b"), b"b");
    write(&dir.path().join("two/b"), b"b");
    let one = add(&shares, &dir.path().join("one")).await.shared.hash;
    let two = add(&shares, &dir.path().join("two")).await.shared.hash;
    let [a, b] = [Hash::of(b"a"), Hash::of(b"b")];
    let at = ["one", "two"].map(|name| resolve(&dir.path().join(name)).unwrap());
    let has = |path: &Path| [one, two, a, b].map(|hash| shares.has_at(path, &hash));
    assert_eq!(has(&at[0]), [true, false, true, true]);
    assert_eq!(has(&at[1]), [false, true, false, true]);
    write(&dir.path().join("one/a"), b"changed");
    let _ = shares.refresh(|_| ()).await.unwrap();
    assert_eq!(has(&at[0]), [true, false, true, true], "its earlier content counts");
    assert!(shares.has_at(&at[0], &Hash::of(b"changed")));
}
