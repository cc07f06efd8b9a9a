//! Runs one hot step of a message's path a given number of times: `pieces NAME TIMES`. Used by
//! `bench/instructions`, which counts the instructions. Prints the number of messages; without
//! arguments it prints the names.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use peerkit_bench::pieces::{HotStep, Input};

/// Largest number of runs. So many inputs are always filled, so that filling costs the same
/// whatever the number of runs.
const MAX_TIMES: usize = 64;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pieces: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words[..] {
        [] => HotStep::ALL.iter().for_each(|piece| println!("{}", piece.name)),
        [name, times] => println!("{}", repeat(HotStep::named(name)?, times.parse()?)?),
        _ => bail!("usage: pieces [NAME TIMES]"),
    }
    Ok(())
}

/// Runs `piece` the given number of times. Returns the number of messages.
fn repeat(piece: HotStep, times: usize) -> Result<u64> {
    ensure!(times <= MAX_TIMES, "at most {MAX_TIMES} times");
    let mut work = piece.start();
    let filled = || {
        let mut input = Input::default();
        work.fill(&mut input);
        input
    };
    let mut inputs: Vec<Input> = std::iter::repeat_with(filled).take(MAX_TIMES).collect();
    for input in &mut inputs[..times] {
        work.run(input).with_context(|| piece.name)?;
    }
    Ok(times as u64 * work.messages())
}
