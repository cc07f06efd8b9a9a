//! The names of shared, found and fetched files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::*;
use peerkit::{Changes, Event, FetchError, FetchRequest, NameFault, Node, Ticket};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn write(folder: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

async fn fetch(node: &Node, get: FetchRequest) -> peerkit::Fetched {
    within("the fetch", node.fetch(get)).await.unwrap()
}

#[tokio::test]
async fn a_file_by_ticket_arrives_under_the_name_in_the_ticket() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    let (from, to) = (folder(), folder());
    for name in ["a.txt", "b.txt", "top/c.txt"] {
        write(&from, name, b"the same");
    }
    let mut tickets = Vec::new();
    for name in ["a.txt", "b.txt", "top"] {
        let shared = ann.share(from.path().join(name)).await.unwrap().shared;
        tickets.push(ann.files().ticket_for(&shared).unwrap());
    }
    // There are also tickets for a file in a shared folder, and for a second folder with the same content.
    let real = fs::canonicalize(from.path()).unwrap();
    let inside = ann.files().shared_files(&real.join("top"), 0, 9).unwrap().files.remove(0).file;
    tickets.push(ann.files().ticket_for(&inside).unwrap());
    write(&from, "same as top/c.txt", b"the same");
    let again = ann.share(from.path().join("same as top")).with_ticket().await.unwrap();
    tickets.push(ann.files().ticket_for(&again.shared).unwrap());
    assert!(
        tickets[4].secret.is_some(),
        "although all nodes may fetch the same content under another name"
    );
    for (ticket, name) in tickets.iter().zip(["a.txt", "b.txt", "top", "c.txt", "same as top"]) {
        assert_eq!(ticket.name.as_ref().unwrap().as_str(), name);
        let ticket: Ticket = ticket.to_string().parse().unwrap();
        let fetched = fetch(&bob, FetchRequest::ticket(&ticket).into_folder(to.path())).await;
        assert_eq!(fetched.path, to.path().join(name));
        assert!(fetched.renamed.is_empty() && fetched.left_out.is_empty());
        assert_eq!(fetched.path.is_dir(), name.contains("top"));
    }
    // A ticket of an earlier version has no name, so the name at the source is used.
    let nameless = Ticket { name: None, ..tickets[1].clone() };
    let fetched =
        fetch(&bob, FetchRequest::ticket(&nameless).into_folder(to.path().join("nameless"))).await;
    assert!(fetched.path.ends_with("nameless/a.txt"), "{:?}", fetched.path);
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn a_search_finds_the_nodes_own_files_and_all_names_of_a_content() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    link(&ann, &bob).await;
    let from = folder();
    for name in ["a.txt", "b.txt", "own/cafe\u{301}.txt", "hidden.txt"] {
        write(&from, name, b"the same");
    }
    for name in ["a.txt", "b.txt"] {
        ann.share(from.path().join(name)).await.unwrap();
    }
    bob.share(from.path().join("a.txt")).await.unwrap();
    bob.share(from.path().join("own")).await.unwrap();
    bob.share(from.path().join("hidden.txt")).with_ticket().await.unwrap();
    let found = async |node: &Node, text: &str| {
        let found = within("a search", node.search(text)).await.unwrap();
        let view = |found: peerkit::FoundFile| {
            let mut sources: Vec<_> = found.sources.iter().map(|source| source.id).collect();
            sources.sort();
            (found.file.name.to_string(), sources)
        };
        found.into_iter().map(view).collect::<Vec<_>>()
    };
    let mut both = vec![ann.id(), bob.id()];
    both.sort();
    let expected = [
        ("a.txt".to_owned(), both.clone()),
        ("b.txt".to_owned(), both.clone()),
        ("cafe\u{301}.txt".to_owned(), both.clone()),
        ("hidden.txt".to_owned(), both.clone()),
    ];
    assert_eq!(
        found(&bob, "txt").await,
        expected,
        "a node finds its own files, even those that other nodes can't find"
    );
    assert_eq!(found(&ann, "txt").await, expected[..3]);
    for text in ["caf\u{e9}", "CAFE\u{301}"] {
        let expected = [("cafe\u{301}.txt".to_owned(), vec![bob.id()])];
        assert_eq!(found(&ann, text).await, expected, "ann has the content under other names");
    }
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn a_hidden_name_from_the_network_is_replaced() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    let (from, to) = (folder(), folder());
    let path = write(&from, ".bash_profile", b"evil");
    let shared = ann.share(&path).await.unwrap().shared;
    let get = FetchRequest::ticket(&ann.files().ticket_for(&shared).unwrap());
    let fetched = fetch(&bob, get.clone().to(to.path())).await;
    assert_eq!(fetched.path, to.path().join("_bash_profile"));
    let [renamed] = &fetched.renamed[..] else { panic!("{:?}", fetched.renamed) };
    assert_eq!((renamed.name.as_str(), renamed.why), (".bash_profile", NameFault::LeadingDot));
    assert_eq!(renamed.path, fetched.path);
    assert!(!to.path().join(".bash_profile").exists());
    // The file exists already, so no piece is fetched. The new name is reported again.
    let again = fetch(&bob, get.clone().to(to.path())).await;
    assert_eq!((again.sources.len(), &again.renamed), (0, &fetched.renamed));
    // A hidden name that the user has chosen is kept.
    let chosen = to.path().join(".profile");
    let fetched = fetch(&bob, get.to(&chosen)).await;
    assert_eq!((fetched.path, fetched.renamed), (chosen, Vec::new()));
    shutdown([&ann, &bob]).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_fetched_folder_keeps_all_names_except_misleading_ones() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    let (from, to) = (folder(), folder());
    let long = "x".repeat(255);
    let names = [".git/config", "-rf", "CON", "aux.txt", "dot.", "a:b", "back\\slash", &long];
    for name in names {
        write(&from, &format!("top/{name}"), name.as_bytes());
    }
    write(&from, "top/fdp\u{202e}gpj.exe", b"misleading");
    let shared = ann.share(from.path().join("top")).await.unwrap().shared;
    let get = FetchRequest::ticket(&ann.files().ticket_for(&shared).unwrap()).to(to.path());
    let fetched = fetch(&bob, get.clone()).await;
    for name in names {
        assert_eq!(fs::read(fetched.path.join(name)).unwrap(), name.as_bytes());
    }
    let [renamed] = &fetched.renamed[..] else { panic!("{:?}", fetched.renamed) };
    assert_eq!(
        (renamed.name.as_str(), renamed.why),
        ("fdp\u{202e}gpj.exe", NameFault::MisleadingCharacter)
    );
    assert_eq!(fs::read(fetched.path.join("fdp_gpj.exe")).unwrap(), b"misleading");
    assert_eq!(renamed.path, fetched.path.join("fdp_gpj.exe"));
    // The next fetch compares names with those on this disk, and finds all files.
    let again = fetch(&bob, get).await;
    assert_eq!((again.path, again.sources.len()), (fetched.path, 0));
    shutdown([&ann, &bob]).await;
}

/// Creates a folder whose path has `len` bytes.
fn create_deep_folder(base: &Path, len: usize) -> PathBuf {
    let mut path = base.to_owned();
    while path.as_os_str().len() + 102 < len {
        path.push("d".repeat(100));
    }
    let left = len - path.as_os_str().len() - 1;
    path.push("e".repeat(left));
    fs::create_dir_all(&path).unwrap();
    path
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn files_that_this_disk_cannot_hold_are_reported_and_the_others_arrive() {
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let bob = builder("bob").callback(move |_, event| {
        if let Event::NodeDownloadFinished { path, changes, .. } = event {
            sender.send((path, changes)).unwrap();
        }
    });
    let (ann, bob) = (node("ann").await, bob.spawn().await.unwrap());
    let (from, to) = (folder(), folder());
    let content = SeededRandom(3).bytes(3 << 20);
    write(&from, "top/short", &content);
    write(&from, "top/empty", b"");
    write(&from, &format!("top/{}/file", "f".repeat(200)), &content[1..]);
    write(&from, &format!("top/{}", "g".repeat(240)), b"long");
    let shared = ann.share(from.path().join("top")).await.unwrap().shared;
    let to = create_deep_folder(to.path(), 3950);
    let get = FetchRequest::ticket(&ann.files().ticket_for(&shared).unwrap()).into_folder(&to);
    let fetched = fetch(&bob, get.clone()).await;
    assert_eq!(fetched.path, to.join("top"));
    assert_eq!(fs::read(fetched.path.join("short")).unwrap(), content);
    assert_eq!(fs::read(fetched.path.join("empty")).unwrap(), b"");
    assert_eq!(fetched.bytes, content.len() as u64);
    let left_out: Vec<_> =
        fetched.left_out.iter().map(|left| (left.path.as_str().len(), left.why)).collect();
    let (long, above) = (NameFault::TooLongForDisk, NameFault::ParentNotWritten);
    assert_eq!(left_out, [(200, long), (205, above), (240, long)]);
    let (path, changes) = within("the event", events.recv()).await.unwrap();
    let expected = Changes::new(&fetched.renamed, &fetched.left_out);
    assert_eq!((path, changes), (fetched.path.clone(), expected));
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1, "other files are left");
    // The next fetch finds all files that fit, and fetches nothing.
    assert_eq!(fetch(&bob, get).await.sources, []);
    shutdown([&ann, &bob]).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_long_name_is_cut_to_fit_a_number_and_the_part_suffix() {
    let (ann, bob) = (node("ann").await, node("bob").await);
    let (from, to) = (folder(), folder());
    let name = format!("{}.txt", "é".repeat(125));
    let file = write(&from, &name, b"one");
    let top = "x".repeat(255);
    write(&from, &format!("{top}/file"), b"file");
    let long = create_deep_folder(to.path(), 4095 - 40);
    for at in [to.path(), &long] {
        let is_deep = *at == *long;
        let folder = (from.path().join(&top), &top);
        // In the deep folder there is no room for a folder with a file in it.
        let folder = Some(folder).filter(|_| !is_deep);
        for (path, wanted) in folder.into_iter().chain([(file.clone(), &name)]) {
            let shared = ann.share(&path).await.unwrap().shared;
            let get =
                FetchRequest::ticket(&ann.files().ticket_for(&shared).unwrap()).into_folder(at);
            let first = fetch(&bob, get.clone()).await;
            if first.path.is_dir() {
                fs::write(first.path.join("more"), b"").unwrap_or_default();
            } else {
                fs::write(&first.path, b"two").unwrap();
            }
            let second = fetch(&bob, get).await;
            assert_ne!(first.path, second.path);
            let name = second.path.file_name().unwrap().to_str().unwrap();
            assert!(name.contains(" (1)"), "{name}");
            assert!(name.ends_with(".txt") || second.path.is_dir(), "{name}");
            assert_eq!(first.path.ends_with(wanted), !is_deep, "the name is cut to fit");
            let why: Vec<_> = second.renamed.iter().map(|renamed| renamed.why).collect();
            let expected = if is_deep { NameFault::TooLongForDisk } else { NameFault::NameInUse };
            assert_eq!(why, [expected]);
        }
    }
    shutdown([&ann, &bob]).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_fetched_folder_replaces_only_regular_files() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let (ann, bob) = (node("ann").await, node("bob").await);
    let (from, to) = (folder(), folder());
    write(&from, "top/a", b"new");
    write(&from, "top/b", b"new");
    let shared = ann.share(from.path().join("top")).await.unwrap().shared;
    write(&to, "top/a", b"old");
    mknodat(CWD, to.path().join("top/b"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let get = FetchRequest::ticket(&ann.files().ticket_for(&shared).unwrap())
        .to(to.path())
        .overwrite(true);
    let refused = within("the error", bob.fetch(get.clone())).await;
    let Err(peerkit::Error::Fetch(FetchError::NotAFile { path, .. })) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(path, to.path().join("top/b"));
    assert_eq!(fs::read(to.path().join("top/a")).unwrap(), b"old", "no file may be replaced");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1, "partial files are left");
    fs::remove_file(&path).unwrap();
    fetch(&bob, get).await;
    assert_eq!(fs::read(to.path().join("top/a")).unwrap(), b"new");
    shutdown([&ann, &bob]).await;
}
