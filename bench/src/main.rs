//! Measures peerkit and other systems, in separate processes that are connected over the loopback interface.
//!
//! Run `bench all`, or `bench` with the names of workloads. The program prints one line of JSON for each
//! measurement, and then a table of medians for each workload. Systems take turns within a round, so that a
//! slow phase of the machine affects all systems. A run fails if a receiver does not get every message in
//! order.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use tokio::runtime::Runtime;

mod attackers;
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

/// If `--seconds` is less than this, workloads that have a size instead of a duration use a smaller size.
const SHORT_RUN: Duration = Duration::from_secs(2);

/// Measures peerkit and other systems.
#[derive(Parser)]
struct Arguments {
    /// Workloads to measure: `all`, or some of throughput, both-ways, latency, streams, start,
    /// fan-out, connections, idle, fairness, hostile, soak, unread, network, file, file-sources,
    /// file-swarm, folder, hashing and file-huge. `all` leaves out hostile, soak and file-huge.
    #[arg(required = true, value_name = "WORKLOAD")]
    workloads: Vec<String>,
    /// Number of rounds. The tables show the medians of all rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Duration of each measurement in seconds, for workloads that have a duration.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// System to measure, instead of all systems. Can be given several times.
    #[arg(long, value_name = "NAME", value_parser = System::named)]
    system: Vec<System>,
    /// Size of a message or file in bytes, instead of the workload's default.
    #[arg(long)]
    bytes: Option<usize>,
    /// Adds the largest cases. They need more time, memory and open files.
    #[arg(long)]
    large: bool,
    /// Folder for the files that are sent. The default is /dev/shm if there is enough room, or else the
    /// target folder. For file-huge the default is always the target folder.
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
    let mut arguments = std::env::args().skip(1);
    let result = if arguments.next().is_some_and(|argument| argument == ROLE) {
        let (job, rest) = Job::from_args(arguments)?;
        on_worker(&runtime, async move { job.workload.run_child(&job, &rest).await })
    } else {
        measure(&runtime, &Arguments::parse())
    };
    // Does not wait for a read of standard input that is still pending, because such a read can't be
    // cancelled.
    runtime.shutdown_background();
    result
}

fn measure(runtime: &Runtime, arguments: &Arguments) -> Result<()> {
    let workloads = Workload::listed(&arguments.workloads)?;
    // Each message must have room for its number.
    let bytes = arguments.bytes.map(|bytes| bytes.max(MIN_SIZE));
    let duration = Duration::from_secs(arguments.seconds);
    let options = CaseOptions { bytes, large: arguments.large, short: duration < SHORT_RUN };
    let is_needed = |system| {
        let supports = |case: &_, workload: &Workload| workload.supports(system, case);
        workloads
            .iter()
            .any(|workload| workload.cases(options).iter().any(|case| supports(case, workload)))
    };
    let systems = systems::available(&arguments.system, is_needed);
    let dir = arguments.dir.as_deref();
    let (memory, disk) = (TempFolder::in_memory(dir)?, TempFolder::on_disk(dir)?);
    let mut rounds = Vec::new();
    let mut failed = 0;
    for _ in 0..arguments.rounds {
        let mut round = Vec::new();
        for workload in &workloads {
            for case in workload.cases(options) {
                for system in systems.iter().filter(|system| workload.supports(**system, &case)) {
                    let case = case.clone();
                    let is_huge = *workload == Workload::FileHuge;
                    let folder = if is_huge { &disk } else { &memory }.path().to_owned();
                    let job = Job { workload: *workload, system: *system, case, duration, folder };
                    match on_worker(runtime, measure_one(job.clone())) {
                        Ok(measurements) => round.extend(measurements),
                        // Goes on with the other measurements. The run fails at the end.
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
    let limit = job.workload.time_limit() + job.workload.max_durations() * job.duration;
    let Ok(measurements) = tokio::time::timeout(limit, job.workload.measure(&job)).await else {
        bail!("not finished after {} s", limit.as_secs());
    };
    let measurements = measurements?;
    for measurement in &measurements {
        println!("{}", serde_json::to_string(measurement)?);
    }
    Ok(measurements)
}

/// Runs `work` on a worker thread of the runtime, as the tasks of a node do. On the main thread each wake-up
/// would have to come from another thread, so everything that is measured there would seem slower.
fn on_worker<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    runtime.block_on(runtime.spawn(work))?
}
