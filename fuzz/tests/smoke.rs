//! Every target on its corpus, and on 20,000 mutations of it that are the same in every run.

use std::fs;
use std::path::Path;

use peerkit_fuzz::mutate::Mutator;
use peerkit_fuzz::{TARGETS, Target, seeds};

const MUTATIONS: usize = 20_000;

#[test]
fn targets_stand_their_corpus_and_its_mutations() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "no corpus for {name}");
        for input in &corpus {
            run(name, target, input);
        }
        let mut mutator = Mutator::new(1);
        for _ in 0..MUTATIONS {
            run(name, target, &mutator.next(&corpus));
        }
    }
}

#[test]
fn the_corpus_is_what_the_seeds_say() {
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
fn a_seed_makes_the_same_mutations_and_another_makes_others() {
    let corpus = [b"abcdef".to_vec(), b"0123456789".to_vec()];
    let run = |seed| -> Vec<_> {
        let mut mutator = Mutator::new(seed);
        (0..100).map(|_| mutator.next(&corpus)).collect()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// Runs one input; where it fails the input is printed, ready for a new corpus file.
fn run(name: &str, target: Target, input: &[u8]) {
    if std::panic::catch_unwind(|| target(input)).is_err() {
        panic!("{name} failed on {:?}", input.escape_ascii().to_string());
    }
}

/// The committed inputs of a target, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}
