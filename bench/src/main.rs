//! Measures peerkit beside other systems, in separate processes on loopback.
//!
//! Run `bench all`, or `bench` with the names of workloads. It prints one JSON line per
//! measurement, then a table of medians for each workload. Systems take turns within a round, so
//! that a slow phase of the machine affects all of them alike. A run fails if a receiver does not
//! get every message in order.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use tokio::runtime::Runtime;

mod broadcast_log;
mod bulk;
mod concurrent;
mod external;
mod files;
#[cfg(feature = "systems")]
mod first_dials;
mod framing;
mod http;
mod link;
mod many_links;
mod messages;
mod network;
mod process;
mod report;
mod streams;
mod system;
mod systems;
mod transfer;
mod workload;
mod workloads;

use files::TempFolder;
use messages::MIN_SIZE;
use process::ROLE;
use system::System;
use workload::{CaseOptions, Job, Workload};

/// Below this `--seconds`, workloads that have a size instead of a duration use a smaller size.
const SHORT: Duration = Duration::from_secs(2);

/// Measures peerkit beside other systems.
#[derive(Parser)]
struct Arguments {
    /// Workloads to measure: `all`, or some of throughput, both-ways, latency, streams, start,
    /// fan-out, connections, idle, fairness, unread, network, file, file-sources, file-swarm,
    /// folder, hashing and file-huge. `all` leaves out file-huge.
    #[arg(required = true, value_name = "WORKLOAD")]
    workloads: Vec<String>,
    /// Number of rounds; the tables show medians over the rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds that each measurement runs, if it has a duration.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// System to measure, instead of all. May be given more than once.
    #[arg(long, value_name = "NAME", value_parser = System::named)]
    system: Vec<System>,
    /// Bytes of a message or file, instead of each workload's default.
    #[arg(long)]
    bytes: Option<usize>,
    /// Adds the largest cases, which need time, memory and open files.
    #[arg(long)]
    large: bool,
    /// Folder for the files that are sent. Default: /dev/shm if it has room, else the target
    /// folder; file-huge always uses the target folder.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
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
    let runtime = Runtime::new()?;
    let mut words = std::env::args().skip(1);
    let result = if words.next().is_some_and(|word| word == ROLE) {
        let (job, rest) = Job::from_args(words)?;
        on_worker(&runtime, async move { job.workload.run_child(&job, &rest).await })
    } else {
        measure(&runtime, &Arguments::parse())
    };
    // A read of standard input may still be pending; it cannot be cancelled, so do not wait for it.
    runtime.shutdown_background();
    result
}

fn measure(runtime: &Runtime, arguments: &Arguments) -> Result<()> {
    let workloads = Workload::listed(&arguments.workloads)?;
    // Each message holds its number.
    let bytes = arguments.bytes.map(|bytes| bytes.max(MIN_SIZE));
    let length = Duration::from_secs(arguments.seconds);
    let wanted = CaseOptions { bytes, large: arguments.large, short: length < SHORT };
    let used = |system| {
        let does = |case: &_, workload: &Workload| workload.supports(system, case);
        workloads
            .iter()
            .any(|workload| workload.cases(wanted).iter().any(|case| does(case, workload)))
    };
    let systems = systems::available(&arguments.system, used);
    let dir = arguments.dir.as_deref();
    let (memory, disk) = (TempFolder::in_memory(dir)?, TempFolder::on_disk(dir)?);
    let mut rounds = Vec::new();
    let mut failed = 0;
    for _ in 0..arguments.rounds {
        let mut round = Vec::new();
        for workload in &workloads {
            for case in workload.cases(wanted) {
                for system in systems.iter().filter(|system| workload.supports(**system, &case)) {
                    let case = case.clone();
                    let is_huge = *workload == Workload::FileHuge;
                    let folder = if is_huge { &disk } else { &memory }.path().to_owned();
                    let job = Job { workload: *workload, system: *system, case, length, folder };
                    match on_worker(runtime, measure_one(job.clone())) {
                        Ok(measured) => round.extend(measured),
                        // Measure the others all the same; the run fails at the end.
                        Err(error) => {
                            eprintln!("bench: {job}: {error:#}");
                            failed += 1;
                        }
                    }
                }
            }
        }
        rounds.push(round);
    }
    print!("{}", report::tables(&rounds));
    if failed > 0 {
        bail!("{failed} measurements failed");
    }
    Ok(())
}

async fn measure_one(job: Job) -> Result<Vec<report::Measurement>> {
    let limit = job.workload.time_limit() + job.workload.max_lengths() * job.length;
    let Ok(measured) = tokio::time::timeout(limit, job.workload.measure(&job)).await else {
        bail!("not finished after {} s", limit.as_secs());
    };
    let measured = measured?;
    for measurement in &measured {
        println!("{}", serde_json::to_string(measurement)?);
    }
    Ok(measured)
}

/// Runs `work` on a worker thread, where a node's tasks run too. On the main thread every wake-up
/// would have to cross over from a worker, which would make everything measured there look slow.
fn on_worker<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    runtime.block_on(runtime.spawn(work))?
}
