//! Runs one hot piece of a message's path so often: `pieces NAME TIMES`. For `bench/instructions`,
//! which counts what that takes. Prints how many messages it was; without arguments, the names.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use peerkit_bench::pieces::{Input, Piece};

/// Inputs are laid ready for so many runs, however many there are: what that takes is the same
/// each time.
const MOST: usize = 64;

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
        [] => Piece::ALL.iter().for_each(|piece| println!("{}", piece.name)),
        [name, times] => println!("{}", repeat(Piece::named(name)?, times.parse()?)?),
        _ => bail!("usage: pieces [NAME TIMES]"),
    }
    Ok(())
}

/// Returns how many messages it was.
fn repeat(piece: Piece, times: usize) -> Result<u64> {
    ensure!(times <= MOST, "at most {MOST} times");
    let mut work = piece.start();
    let filled = || {
        let mut input = Input::default();
        work.fill(&mut input);
        input
    };
    let mut inputs: Vec<Input> = std::iter::repeat_with(filled).take(MOST).collect();
    for input in &mut inputs[..times] {
        work.run(input).with_context(|| piece.name)?;
    }
    Ok(times as u64 * work.messages())
}
