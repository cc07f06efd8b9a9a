//! Measures peerkit beside other systems, in two processes on loopback.
//!
//! `bench throughput`, `bench latency` or `bench all`; each prints a JSON line a measurement and
//! then a table of medians. Systems take turns, so that the machine's moods hit all of them alike.
//! A receiver that does not get what was sent, in order, fails the run.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

mod flow;
mod node;
mod pair;
mod raw;
mod report;

use pair::{Job, System, Workload};

const USAGE: &str = "usage: bench throughput|latency|all [--rounds N] [--seconds N]";

/// Sizes of the messages whose throughput is measured, in bytes.
const SIZES: [usize; 3] = [64, 1 << 10, 64 << 10];

/// Size of the message that is sent to and fro.
const PING: usize = 64;

struct Options {
    rounds: usize,
    length: Duration,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().context(USAGE)?;
    let runtime = tokio::runtime::Runtime::new()?;
    if command == "receive" {
        let job = Job::from_words(arguments)?;
        return runtime.block_on(pair::receive(job));
    }
    let options = options(arguments)?;
    let throughput = SIZES.map(|size| (Workload::Throughput, size));
    let latency = [(Workload::Latency, PING)];
    let workloads = match command.as_str() {
        "throughput" => throughput.to_vec(),
        "latency" => latency.to_vec(),
        "all" => [&throughput[..], &latency].concat(),
        _ => bail!("{USAGE}"),
    };
    let mut measured = Vec::new();
    for _ in 0..options.rounds {
        for (workload, size) in &workloads {
            for system in System::ALL {
                let job = Job { system, workload: *workload, size: *size };
                let measurement = runtime.block_on(pair::measure(job, options.length))?;
                println!("{}", serde_json::to_string(&measurement)?);
                measured.push(measurement);
            }
        }
    }
    print!("{}", report::table(&measured));
    Ok(())
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { rounds: 3, length: Duration::from_secs(3) };
    while let Some(name) = arguments.next() {
        let value: u32 = arguments.next().and_then(|text| text.parse().ok()).context(USAGE)?;
        match name.as_str() {
            "--rounds" => options.rounds = value as usize,
            "--seconds" => options.length = Duration::from_secs(value.into()),
            _ => bail!("{USAGE}"),
        }
    }
    Ok(options)
}
