//! The workloads. Each is a module with the functions `cases` and `measure`, and `run_child` for the
//! processes that it starts.

use anyhow::{Result, bail};

use crate::many_links::Hub;
use crate::network::Network;
use crate::report::Measurement;
use crate::system::System;
use crate::systems::curl;
use crate::transfer;
use crate::workload::{Case, CaseOptions, Job, Workload};

mod connections;
mod fairness;
mod fan_out;
mod file;
mod file_huge;
mod file_sources;
mod file_swarm;
mod folder;
mod hashing;
mod hostile;
mod idle;
mod latency;
mod network;
mod soak;
mod start;
mod streams;
mod throughput;
mod unread;

impl Workload {
    /// Returns the cases that are measured for each system.
    pub(crate) fn cases(self, options: CaseOptions) -> Vec<Case> {
        let CaseOptions { bytes, large, .. } = options;
        match self {
            Self::Throughput | Self::BothWays => throughput::cases(bytes),
            Self::Latency => latency::cases(bytes),
            Self::Streams => streams::cases(),
            Self::Start => start::cases(),
            Self::FanOut => fan_out::cases(),
            Self::Connections => connections::cases(large),
            Self::Idle => idle::cases(),
            Self::Fairness => fairness::cases(),
            Self::Hostile => hostile::cases(),
            Self::Soak => soak::cases(),
            Self::Unread => unread::cases(),
            Self::Network => network::cases(),
            Self::File => file::cases(options),
            Self::FileSources => file_sources::cases(options),
            Self::FileSwarm => file_swarm::cases(options),
            Self::Folder => folder::cases(options),
            Self::Hashing => hashing::cases(options),
            Self::FileHuge => file_huge::cases(options),
        }
    }

    /// Returns whether `system` supports `case` of this workload.
    pub(crate) fn supports(self, system: System, case: &Case) -> bool {
        if system.is_only_for_broadcasts() && self != Self::Hostile {
            return self == Self::Network;
        }
        match self {
            // A system without links here is a pair of Python processes, for which larger messages would take
            // minutes.
            Self::Throughput if system.is_only_for_files() => false,
            Self::Throughput => system.has_links() || case.amount <= 64,
            Self::Latency => system.supports_both_ways() || !latency::is_beside_bulk(case),
            Self::BothWays => system.supports_both_ways(),
            Self::Start => system.has_links(),
            Self::Streams => system.has_streams(),
            Self::FanOut => fan_out::supports(system),
            Self::Connections | Self::Idle => Hub::supports(system),
            Self::Fairness => matches!(system, System::RawTls | System::Peerkit),
            Self::Hostile => hostile::supports(system, case),
            Self::Network => Network::supports(system),
            Self::File => system.has_files(),
            Self::Folder => matches!(system, System::Peerkit | System::Rsync),
            Self::Hashing => matches!(system, System::Peerkit | System::B3sum),
            Self::Soak | Self::Unread | Self::FileSources | Self::FileSwarm | Self::FileHuge => {
                system == System::Peerkit
            }
        }
    }

    /// Returns the maximum duration of one measurement, as a multiple of the chosen duration.
    pub(crate) fn max_durations(self) -> u32 {
        match self {
            Self::Network => network::max_durations(),
            _ => 1,
        }
    }

    /// Makes one measurement.
    ///
    /// # Errors
    /// Fails if the measurement could not be made, or if the received messages differ from the sent
    /// ones.
    pub(crate) async fn measure(self, job: &Job) -> Result<Vec<Measurement>> {
        match self {
            Self::Throughput | Self::BothWays => throughput::measure(job).await,
            Self::Latency => latency::measure(job).await,
            Self::Streams => streams::measure(job).await,
            Self::Start => start::measure(job).await,
            Self::FanOut => fan_out::measure(job).await,
            Self::Connections => connections::measure(job).await,
            Self::Idle => idle::measure(job).await,
            Self::Fairness => fairness::measure(job).await,
            Self::Hostile => hostile::measure(job).await,
            Self::Soak => soak::measure(job).await,
            Self::Unread => unread::measure(job).await,
            Self::Network => network::measure(job).await,
            Self::File => file::measure(job).await,
            Self::FileSources => file_sources::measure(job).await,
            Self::FileSwarm => file_swarm::measure(job).await,
            Self::Folder => folder::measure(job).await,
            Self::Hashing => hashing::measure(job).await,
            Self::FileHuge => file_huge::measure(job).await,
        }
    }

    /// Runs a child process that [`Workload::measure`] started with the job's arguments, until it
    /// exits. `rest` holds the arguments after those of the job.
    pub(crate) async fn run_child(self, job: &Job, rest: &[String]) -> Result<()> {
        match self {
            Self::Throughput | Self::BothWays => throughput::run_child(job).await,
            Self::Latency => latency::run_child(job).await,
            Self::Streams => streams::run_child(job).await,
            Self::Start => start::run_child(job, rest).await,
            Self::FanOut => fan_out::run_child(job, rest).await,
            Self::Connections => connections::run_child(job, rest).await,
            Self::Idle => idle::run_child(job, rest).await,
            Self::Fairness => fairness::run_child(job, rest).await,
            Self::Hostile => hostile::run_child(job, rest).await,
            Self::Soak => bail!("the programs of a soak are not started in this way"),
            Self::Unread => unread::run_child(job, rest).await,
            Self::Network => network::run_child(job).await,
            Self::File if job.system == System::Curl => curl::run_child(rest),
            Self::File
            | Self::FileSources
            | Self::FileSwarm
            | Self::Folder
            | Self::Hashing
            | Self::FileHuge => transfer::run_child(job, rest).await,
        }
    }
}
