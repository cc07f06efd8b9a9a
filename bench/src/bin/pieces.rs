//! Runs one hot step on the path of a message a given number of times: `pieces NAME TIMES`. Prints the number
//! of messages. Without arguments, prints the names of all steps. `bench/instructions` runs this program to
//! count its instructions.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use peerkit_bench::pieces::{HotStep, Input};

/// Maximum number of runs. The program always fills this number of inputs, so that filling costs the same
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
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => HotStep::ALL.iter().for_each(|step| println!("{}", step.name)),
        [name, times] => println!("{}", repeat(HotStep::named(name)?, times.parse()?)?),
        _ => bail!("usage: pieces [NAME TIMES]"),
    }
    Ok(())
}

/// Runs `step` the given number of times. Returns the number of messages.
fn repeat(step: HotStep, times: usize) -> Result<u64> {
    ensure!(times <= MAX_TIMES, "TIMES is at most {MAX_TIMES}");
    let mut run = step.start();
    let new_input = || {
        let mut input = Input::default();
        run.fill(&mut input);
        input
    };
    let mut inputs: Vec<Input> = std::iter::repeat_with(new_input).take(MAX_TIMES).collect();
    for input in &mut inputs[..times] {
        run.run(input).with_context(|| step.name)?;
    }
    Ok(times as u64 * run.messages())
}
