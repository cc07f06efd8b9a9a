//! Broadcasts through a network of nodes in one other process: the time until the last node has each,
//! and the number that can be sent in a second.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::latency::share_us;
use crate::broadcast_log::{self, Log, Received};
use crate::job::{Case, Job};
use crate::messages::put;
use crate::network::Network;
use crate::process::{Child, Parent, ThreadTimes};
use crate::report::{Figure, Measurement};
use crate::system::System;

const NODES: usize = 32;

/// The node that broadcasts: neither the first, which the others know best, nor the last, which no node
/// has dialled.
const AUTHOR: usize = NODES / 2;

/// Bytes of a broadcast.
const SIZE: usize = 1 << 10;

/// Ends of the names of the cases.
const LATENCY: &str = ", latency";
const RATE: &str = ", rate";

/// Broadcasts a second while their times are measured, and the multiple of the duration.
const SLOWLY: u32 = 50;
const SLOW_LENGTHS: u32 = 2;

/// Time of broadcasts at the slow rate before those that count.
const WARM_UP: Duration = Duration::from_secs(1);

/// Rates that are tried one after the other until one is too high.
const RATES: [u32; 19] = [
    100, 200, 300, 400, 600, 800, 1_000, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 6_000, 8_000,
    10_000, 12_000, 16_000, 20_000,
];

/// Rates that are tried in a run of less than this duration. Such a run only checks that everything
/// arrives.
const FEW_RATES: [u32; 3] = [100, 400, 1_000];
const SHORT: Duration = Duration::from_secs(2);

/// Longest time until the last broadcast has arrived everywhere.
const BEHIND: Duration = Duration::from_secs(1);

/// Interval between two checks for arrivals.
const LOOK: Duration = Duration::from_millis(10);

/// Time from the last arrival to the look at the received amounts, as copies may still be on their way.
const REST: Duration = Duration::from_millis(300);

/// Returns the cases: the times of broadcasts, and their highest rate.
pub(crate) fn cases() -> Vec<Case> {
    let nodes = Case::count(NODES, "node");
    let case = |what| Case { name: format!("{}{what}", nodes.name), amount: nodes.amount };
    [LATENCY, RATE].map(case).to_vec()
}

/// Longest time of a run, in multiples of the duration.
pub(crate) fn lengths() -> u32 {
    SLOW_LENGTHS.max(RATES.len() as u32)
}

/// Runs the network and its broadcasts in another process.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let mut child = Child::start(job.words())?;
    let step: Step = child.receive().await?;
    child.end().await?;
    ensure!(!step.times.is_empty(), "no broadcasts");

    let per_delivery = |amount: f64| amount / step.deliveries as f64;
    let mut figures = Vec::new();
    if job.case.name.ends_with(RATE) {
        figures.push(Figure::higher("broadcasts_per_s", step.rate.into()));
    }
    figures.extend([
        Figure::lower("last_p50_us", share_us(&step.times, 0.5)),
        Figure::lower("last_p99_us", share_us(&step.times, 0.99)),
        Figure::lower("cpu_us_per_delivery", per_delivery(step.cpu_s * 1e6)),
    ]);
    let duplicates = step.copies.map(|copies| per_delivery(copies as f64) - 1.0);
    figures.extend(duplicates.map(|each| Figure::lower("duplicates_per_delivery", each)));
    let bytes = step.bytes.map(|bytes| per_delivery(bytes as f64));
    figures.extend(bytes.map(|each| Figure::told("bytes_per_delivery", each)));
    Ok(vec![Measurement::of(job, figures)])
}

/// Plays the process with the network. It reports the slow broadcasts, or the highest rate that was not
/// too high.
pub(crate) async fn play(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let mut crowd = Crowd::form(job).await?;
    let late = "they have not all come everywhere within a second";
    crowd.broadcast(SLOWLY, WARM_UP).await?.context(late)?;
    let step = if job.case.name.ends_with(LATENCY) {
        crowd.broadcast(SLOWLY, SLOW_LENGTHS * job.length).await?
    } else {
        crowd.highest(job.length).await?
    };
    parent.say(&step.context(late)?)?;
    // Without a graceful stop, as much may be under way after a rate that was too high.
    parent.gone().await
}

/// The result of broadcasts at one rate, which all came everywhere in time.
#[derive(Debug, Serialize, Deserialize)]
struct Step {
    /// Broadcasts a second.
    rate: u32,
    /// Broadcasts times nodes that received them.
    deliveries: usize,
    /// Times from each broadcast to its last arrival, shortest first.
    times: Vec<Duration>,
    /// Processor time of all nodes.
    cpu_s: f64,
    /// Received broadcasts, with duplicates.
    copies: Option<u64>,
    /// Received bytes.
    bytes: Option<u64>,
}

/// The network, and the broadcasts that its nodes receive.
struct Crowd {
    network: Network,
    /// The logs of all nodes but the author.
    logs: Vec<Log>,
    /// Whether the broadcasts of each author come in order.
    ordered: bool,
    /// Number of the next broadcast.
    number: u64,
}

impl Crowd {
    async fn form(job: &Job) -> Result<Self> {
        let mut logs: Vec<_> = (0..job.case.amount).map(|_| Log::default()).collect();
        let network = Network::form(job.system, &logs).await?;
        logs.remove(AUTHOR);
        Ok(Self { network, logs, ordered: job.system == System::Peerkit, number: 0 })
    }

    /// Returns the highest rate that is not too high, or none if all are. Broadcasts at a rate that is
    /// too high are not waited for, so it is the last rate that is tried.
    async fn highest(&mut self, length: Duration) -> Result<Option<Step>> {
        let rates = if length < SHORT { &FEW_RATES[..] } else { &RATES };
        let mut highest = None;
        for rate in rates {
            let Some(step) = self.broadcast(*rate, length).await? else { break };
            highest = Some(step);
        }
        Ok(highest)
    }

    /// Broadcasts at `rate` for `length`. Returns none if they have not all come everywhere, or too
    /// late.
    ///
    /// # Errors
    /// If a node receives a wrong broadcast.
    async fn broadcast(&mut self, rate: u32, length: Duration) -> Result<Option<Step>> {
        let count = (length.as_secs_f64() * f64::from(rate)) as u32;
        let deliveries = count as usize * self.logs.len();
        let process = std::process::id();
        let (times, received) = (ThreadTimes::of(process), self.network.received().await);
        let began = Instant::now();
        let limit = began + length + BEHIND;
        let first = self.number;
        let mut sent = Vec::new();
        let publishing = self.publish(rate, count, began, &mut sent);
        let published = tokio::time::timeout_at(limit.into(), publishing).await;
        let in_time = published.unwrap_or(Ok(false))?;
        while in_time && self.arrived() < deliveries && Instant::now() < limit {
            tokio::time::sleep(LOOK).await;
        }
        let cpu_s = ThreadTimes::of(process).seconds_since(&times);
        self.number += sent.len() as u64;
        let times = broadcast_log::until_last(&self.logs, first, &sent, self.ordered)?;
        let Some(times) = times.filter(|_| in_time) else { return Ok(None) };
        tokio::time::sleep(REST).await;
        let Received { copies, bytes } = self.network.received().await;
        let since = |now: Option<u64>, before: Option<u64>| Some(now? - before?);
        let (copies, bytes) = (since(copies, received.copies), since(bytes, received.bytes));
        Ok(Some(Step { rate, deliveries, times, cpu_s, copies, bytes }))
    }

    /// Sends `count` broadcasts, evenly from `began` on, and puts their times into `sent`. Returns
    /// false if one was refused.
    async fn publish(
        &self,
        rate: u32,
        count: u32,
        began: Instant,
        sent: &mut Vec<Instant>,
    ) -> Result<bool> {
        let mut message = [0; SIZE];
        for index in 0..count {
            let due = began + index * Duration::from_secs(1) / rate;
            // Timers have a resolution of a millisecond, so at higher rates several are sent at once.
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
            }
            put(&mut message, self.number + u64::from(index));
            sent.push(Instant::now());
            if !self.network.broadcast(AUTHOR, &message).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn arrived(&self) -> usize {
        self.logs.iter().map(Log::len).sum()
    }
}
