//! Measures peerkit beside other systems, in processes of their own on loopback.
//!
//! `bench all`, or `bench` and the names of workloads. It prints a JSON line for each measurement, then
//! tables of medians. The systems take turns, so that changes of the machine's load affect all of them
//! alike. A receiver that does not get what was sent, in order, fails the run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use tokio::runtime::Runtime;

#[cfg(feature = "systems")]
mod bootstrap;
mod broadcast_log;
mod bulk;
mod crowd;
mod files;
mod framed;
mod http;
mod job;
mod link;
mod messages;
mod network;
mod process;
mod programs;
mod report;
mod side_by_side;
mod streams;
mod system;
mod systems;
mod transfer;
mod workloads;

use files::Place;
use job::{Job, Wanted, Workload};
use messages::LEAST;
use process::ROLE;
use system::System;

/// A run with less time than this for each measurement also uses smaller amounts.
const SHORT: Duration = Duration::from_secs(2);

/// Measures peerkit beside other systems.
#[derive(Parser)]
struct Arguments {
    /// The workloads: `all`, or some of throughput, both-ways, latency, streams, start, fan-out,
    /// connections, idle, fairness, unread, network, file, file-sources, file-swarm, folder, hashing
    /// and file-huge, which `all` leaves out.
    #[arg(required = true, value_name = "WORKLOAD")]
    workloads: Vec<String>,
    /// Number of runs. Figures are medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Duration of each measurement that has one.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// The systems to measure. May be given more than once. The default is all.
    #[arg(long, value_name = "NAME", value_parser = System::named)]
    system: Vec<System>,
    /// Bytes of a message or file, in place of each workload's own.
    #[arg(long)]
    bytes: Option<usize>,
    /// Runs the largest cases as well, which need time, memory and open files.
    #[arg(long)]
    large: bool,
    /// A folder for files, on the file system to measure. The default is /dev/shm, or the target folder
    /// if there is no /dev/shm, and for file-huge.
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
    let done = if words.next().is_some_and(|word| word == ROLE) {
        let (job, rest) = Job::from_words(words)?;
        on_worker(&runtime, async move { job.workload.play(&job, &rest).await })
    } else {
        measure(&runtime, &Arguments::parse())
    };
    // A read of standard input may be under way, which nothing ends.
    runtime.shutdown_background();
    done
}

fn measure(runtime: &Runtime, arguments: &Arguments) -> Result<()> {
    let workloads = Workload::listed(&arguments.workloads)?;
    let bytes = arguments.bytes.map(|bytes| bytes.max(LEAST));
    let length = Duration::from_secs(arguments.seconds);
    let wanted = Wanted { bytes, large: arguments.large, short: length < SHORT };
    let used = |system| {
        let does = |case: &_, workload: &Workload| workload.does(system, case);
        workloads
            .iter()
            .any(|workload| workload.cases(wanted).iter().any(|case| does(case, workload)))
    };
    let systems = systems::available(&arguments.system, used);
    let folder = arguments.dir.as_deref();
    let (memory, disk) = (Place::in_memory(folder)?, Place::on_disk(folder)?);
    let mut rounds = Vec::new();
    let mut failed = 0;
    for _ in 0..arguments.rounds {
        let mut round = Vec::new();
        for workload in &workloads {
            for case in workload.cases(wanted) {
                for system in systems.iter().filter(|system| workload.does(**system, &case)) {
                    let case = case.clone();
                    let is_huge = *workload == Workload::FileHuge;
                    let place = if is_huge { &disk } else { &memory }.path().to_owned();
                    let job = Job { workload: *workload, system: *system, case, length, place };
                    match on_worker(runtime, one(job.clone())) {
                        Ok(measured) => round.extend(measured),
                        // The other measurements go on, but the run has failed.
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

async fn one(job: Job) -> Result<Vec<report::Measurement>> {
    let limit = job.workload.patience() + job.workload.lengths() * job.length;
    let Ok(measured) = tokio::time::timeout(limit, job.workload.measure(&job)).await else {
        bail!("no end after {} s", limit.as_secs());
    };
    let measured = measured?;
    for measurement in &measured {
        println!("{}", serde_json::to_string(measurement)?);
    }
    Ok(measured)
}

/// Runs `work` on the threads where a node's tasks run. On the main thread each wake-up would have to
/// come from another thread, which would make everything look slow.
fn on_worker<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    runtime.block_on(runtime.spawn(work))?
}
