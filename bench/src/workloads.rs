//! The workloads. Each is a module with `cases`, `measure`, and `play` for the processes that it
//! starts.

use anyhow::Result;

use crate::crowd::Hub;
use crate::job::{Case, Job, Wanted, Workload};
use crate::network::Network;
use crate::report::Measurement;
use crate::system::System;
use crate::systems::curl;
use crate::transfer;

mod connections;
mod fairness;
mod fan_out;
mod file;
mod file_huge;
mod file_sources;
mod file_swarm;
mod folder;
mod hashing;
mod idle;
mod latency;
mod network;
mod start;
mod streams;
mod throughput;
mod unread;

impl Workload {
    /// Returns the cases of a workload.
    pub(crate) fn cases(self, wanted: Wanted) -> Vec<Case> {
        let Wanted { bytes, large, .. } = wanted;
        match self {
            Self::Throughput | Self::BothWays => throughput::cases(bytes),
            Self::Latency => latency::cases(bytes),
            Self::Streams => streams::cases(),
            Self::Start => start::cases(),
            Self::FanOut => fan_out::cases(),
            Self::Connections => connections::cases(large),
            Self::Idle => idle::cases(),
            Self::Fairness => fairness::cases(),
            Self::Unread => unread::cases(),
            Self::Network => network::cases(),
            Self::File => file::cases(wanted),
            Self::FileSources => file_sources::cases(wanted),
            Self::FileSwarm => file_swarm::cases(wanted),
            Self::Folder => folder::cases(wanted),
            Self::Hashing => hashing::cases(wanted),
            Self::FileHuge => file_huge::cases(wanted),
        }
    }

    /// Returns whether `system` can run `case`.
    pub(crate) fn does(self, system: System, case: &Case) -> bool {
        if system.only_broadcasts() {
            return self == Self::Network;
        }
        match self {
            // In these cases two Python processes are fast enough. In others they take minutes.
            Self::Throughput if system.only_files() => false,
            Self::Throughput => system.has_links() || case.amount <= 64,
            Self::Latency => system.goes_both_ways() || !latency::is_beside_bulk(case),
            Self::BothWays => system.goes_both_ways(),
            Self::Start => system.has_links(),
            Self::Streams => system.has_streams(),
            Self::FanOut => fan_out::does(system),
            Self::Connections | Self::Idle => Hub::is_there(system),
            Self::Fairness => matches!(system, System::RawTls | System::Peerkit),
            Self::Network => Network::is_there(system),
            Self::File => system.has_files(),
            Self::Folder => matches!(system, System::Peerkit | System::Rsync),
            Self::Hashing => matches!(system, System::Peerkit | System::B3sum),
            Self::Unread | Self::FileSources | Self::FileSwarm | Self::FileHuge => {
                system == System::Peerkit
            }
        }
    }

    /// Longest time of a measurement, in multiples of its duration.
    pub(crate) fn lengths(self) -> u32 {
        match self {
            Self::Network => network::lengths(),
            _ => 1,
        }
    }

    /// Makes one measurement.
    ///
    /// # Errors
    /// If it could not be made, or not everything that was sent has arrived.
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

    /// Runs another process that [`Workload::measure`] has started with the job's arguments and perhaps
    /// more of them: `rest`.
    pub(crate) async fn play(self, job: &Job, rest: &[String]) -> Result<()> {
        match self {
            Self::Throughput | Self::BothWays => throughput::play(job).await,
            Self::Latency => latency::play(job).await,
            Self::Streams => streams::play(job).await,
            Self::Start => start::play(job, rest).await,
            Self::FanOut => fan_out::play(job, rest).await,
            Self::Connections => connections::play(job, rest).await,
            Self::Idle => idle::play(job, rest).await,
            Self::Fairness => fairness::play(job, rest).await,
            Self::Unread => unread::play(job, rest).await,
            Self::Network => network::play(job).await,
            Self::File if job.system == System::Curl => curl::play(rest),
            Self::File
            | Self::FileSources
            | Self::FileSwarm
            | Self::Folder
            | Self::Hashing
            | Self::FileHuge => transfer::play(job, rest).await,
        }
    }
}
