//! Runs every fuzz target on its corpus, and on 20,000 mutations of the corpus. The mutations are the same in
//! every run.

use std::fs;
use std::path::Path;

use peerkit_fuzz::mutate::Mutator;
use peerkit_fuzz::{TARGETS, Target, seeds};

const MUTATIONS: usize = 20_000;

/// The targets that have a test below.
const NAMES: [&str; 11] = [
    "address", "message", "frame", "hello", "invite", "link", "overlay", "files", "tls", "records",
    "fetch",
];

#[test]
fn address() {
    smoke("address");
}

#[test]
fn message() {
    smoke("message");
}

#[test]
fn frame() {
    smoke("frame");
}

#[test]
fn hello() {
    smoke("hello");
}

#[test]
fn invite() {
    smoke("invite");
}

#[test]
fn link() {
    smoke("link");
}

#[test]
fn overlay() {
    smoke("overlay");
}

#[test]
fn files() {
    smoke("files");
}

#[test]
fn tls() {
    smoke("tls");
}

#[test]
fn records() {
    smoke("records");
}

#[test]
fn fetch() {
    smoke("fetch");
}

#[test]
fn no_target_is_left_out() {
    assert_eq!(TARGETS.map(|(name, _)| name), NAMES);
}

#[test]
fn the_committed_corpus_contains_every_seed() {
    for (name, seeds) in seeds::all() {
        let corpus = corpus(name);
        for (file, bytes) in seeds {
            assert!(
                corpus.contains(&bytes),
                "{name}/{file}: write it with `cargo run --no-default-features --bin seeds`"
            );
        }
    }
}

#[test]
fn the_same_seed_makes_the_same_mutations_and_another_seed_makes_others() {
    let corpus = [b"abcdef".to_vec(), b"0123456789".to_vec()];
    let run = |seed| -> Vec<_> {
        let mut mutator = Mutator::new(seed);
        (0..100).map(|_| mutator.next(&corpus)).collect()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// Runs the target `name` on its corpus and on mutations of it.
fn smoke(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    let corpus = corpus(name);
    assert!(!corpus.is_empty());
    for input in &corpus {
        run(name, target, input);
    }
    let mut mutator = Mutator::new(1);
    for _ in 0..MUTATIONS {
        run(name, target, &mutator.next(&corpus));
    }
}

/// Runs a target on one input. If the target panics, fails with the escaped input, which can be added to the
/// corpus.
fn run(name: &str, target: Target, input: &[u8]) {
    if std::panic::catch_unwind(|| target(input)).is_err() {
        panic!("{name} failed on {:?}", input.escape_ascii().to_string());
    }
}

/// Returns the committed inputs of a target, in the order of their file names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}
