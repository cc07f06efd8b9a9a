//! Calls that change the same share at the same time.

use std::thread;

use super::*;
use crate::lock::lock;
use crate::shares::index::Share;
use crate::shares::scan::Scanner;

fn add_now(shares: &Shares, path: &Path) -> Added {
    let options = ShareOptions::default();
    shares.add_now(path, options, &mut |_| (), &CancellationToken::new()).unwrap()
}

#[tokio::test]
async fn a_share_that_changes_while_its_old_hash_is_removed_stays() {
    let (dir, shares) = (folder(), shares());
    let path = dir.path().join("a");
    write(&path, b"old");
    let old = add(&shares, &path).await.shared.hash;
    write(&path, b"new");
    let real = resolve(&path).unwrap();
    let stop = CancellationToken::new();
    let scanner = Scanner { store: &shares.store, progress: &mut |_| (), stop: &stop };
    let share = Share { access: Access::Open, ..scanner.scan(real).unwrap().share };
    thread::scope(|scope| {
        let changing = lock(&shares.path_lock);
        let removing = scope.spawn(|| shares.remove_now(&old));
        // Long enough for the other thread to reach the lock.
        thread::sleep(Duration::from_millis(100));
        crate::lock::write(&shares.index).insert(share, true);
        drop(changing);
        assert_eq!(removing.join().unwrap().unwrap(), []);
    });
    assert_eq!(shares.list()[0].hash, Hash::of(b"new"));
}

#[tokio::test]
async fn a_missing_share_that_is_added_again_during_a_refresh_stays() {
    let (dir, shares) = (folder(), shares());
    let (first, second) = (dir.path().join("a"), dir.path().join("b"));
    write(&first, b"first");
    write(&second, b"second");
    add(&shares, &first).await;
    add(&shares, &second).await;
    fs::remove_file(&first).unwrap();
    // Shares are scanned in the order of their paths, so the first was found missing before the second reports
    // progress.
    let other = shares.clone();
    let again = first.clone();
    let add_again = move |_| {
        write(&again, b"first");
        add_now(&other, &again);
    };
    assert_eq!(shares.refresh(add_again).await.unwrap(), Refreshed::default());
    assert_eq!(names(&shares.list()), ["a", "b"]);
    assert_eq!(content(&shares.open(&Hash::of(b"first"), &anyone()).unwrap()).unwrap(), b"first");
}

#[tokio::test]
async fn a_failed_scan_says_nothing_about_a_share_that_was_added_meanwhile() {
    let (dir, shares) = (folder(), shares());
    let path = dir.path().join("a");
    write(&path, b"old");
    add(&shares, &path).await;
    write(&path, b"changed");
    let other = shares.clone();
    let add_and_delete = move |_| {
        write(&path, b"new");
        add_now(&other, &path);
        fs::remove_file(&path).unwrap();
    };
    assert_eq!(shares.refresh(add_and_delete).await.unwrap(), Refreshed::default());
    assert_eq!(shares.list()[0].hash, Hash::of(b"new"));
}

#[tokio::test]
async fn all_copies_are_unshared_even_if_the_store_fails() {
    let (dir, state) = (folder(), folder());
    let store = Store::open(Some(state.path())).unwrap();
    let shares = Shares::new(store.clone());
    for name in ["a", "b"] {
        write(&dir.path().join(name), b"same");
        add(&shares, &dir.path().join(name)).await;
    }
    // Without its file the store refuses every call.
    store.close();
    fs::remove_file(state.path().join("state.redb")).unwrap();
    shares.remove(&Hash::of(b"same")).await.unwrap_err();
    assert_eq!(shares.list(), []);
}
