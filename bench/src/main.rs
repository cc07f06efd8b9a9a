//! Measures peerkit beside other systems, in two processes on loopback.
//!
//! `bench throughput`, `bench latency` or `bench all`; each prints a JSON line a measurement and
//! then a table of medians. Systems take turns, so that the machine's moods hit all of them alike.
//! A receiver that does not get what was sent, in order, fails the run.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;

mod flow;
mod node;
mod pair;
mod raw;
mod report;

use pair::{Job, System, Workload};

const USAGE: &str = "usage: bench throughput|latency|all [--rounds N] [--seconds N]
for a profile: [--bytes N] [--system \"raw TLS\"|peerkit]";

/// Sizes of the messages whose throughput is measured, in bytes.
const SIZES: [usize; 3] = [64, 1 << 10, 64 << 10];

/// Size of the message that is sent to and fro.
const PING: usize = 64;

struct Options {
    rounds: usize,
    length: Duration,
    bytes: Option<usize>,
    system: Option<System>,
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
    let runtime = Runtime::new()?;
    if command == "receive" {
        let job = Job::from_words(arguments)?;
        return on_worker(&runtime, pair::receive(job));
    }
    let options = options(arguments)?;
    let throughput = SIZES.map(|size| (Workload::Throughput, size));
    let latency = [(Workload::Latency, PING)];
    let mut workloads = match command.as_str() {
        "throughput" => throughput.to_vec(),
        "latency" => latency.to_vec(),
        "all" => [&throughput[..], &latency].concat(),
        _ => bail!("{USAGE}"),
    };
    if let Some(bytes) = options.bytes {
        workloads.iter_mut().for_each(|(_, size)| *size = bytes);
        workloads.dedup();
    }
    let wanted = |system: &System| options.system.is_none_or(|only| only == *system);
    let systems: Vec<_> = System::ALL.into_iter().filter(wanted).collect();
    let mut measured = Vec::new();
    for _ in 0..options.rounds {
        for (workload, size) in &workloads {
            for system in &systems {
                let job = Job { system: *system, workload: *workload, size: *size };
                let measurement = on_worker(&runtime, pair::measure(job, options.length))?;
                println!("{}", serde_json::to_string(&measurement)?);
                measured.push(measurement);
            }
        }
    }
    print!("{}", report::table(&measured, &systems));
    Ok(())
}

/// Runs `work` where a node's tasks run too. On the main thread each wake-up would have to come
/// over from a worker, which makes whatever is measured there look slow.
fn on_worker<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    runtime.block_on(runtime.spawn(work))?
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let length = Duration::from_secs(3);
    let mut options = Options { rounds: 3, length, bytes: None, system: None };
    while let Some(name) = arguments.next() {
        let value = arguments.next().context(USAGE)?;
        let number = || value.parse::<u32>().context(USAGE);
        match name.as_str() {
            "--rounds" => options.rounds = number()? as usize,
            "--seconds" => options.length = Duration::from_secs(number()?.into()),
            // The number and the count of the last message need 16 bytes.
            "--bytes" => options.bytes = Some((number()? as usize).max(16)),
            "--system" => options.system = Some(System::named(&value).context(USAGE)?),
            _ => bail!("{USAGE}"),
        }
    }
    Ok(options)
}
