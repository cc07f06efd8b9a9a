//! Broadcasts through a network of nodes that are all in one child process: the delay until the
//! last node has each, and the highest rate per second.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::latency::share_us;
use crate::broadcast_log::{self, BroadcastLog, NetworkTotals};
use crate::messages::put;
use crate::network::Network;
use crate::process::{Child, Parent, ThreadTimes};
use crate::report::{Figure, Measurement};
use crate::system::System;
use crate::workload::{Case, Job};

const NODES: usize = 32;

/// Index of the author: neither the first, which the others know best, nor the last, which no other
/// node has dialled.
const AUTHOR: usize = NODES / 2;

/// Bytes of a broadcast.
const SIZE: usize = 1 << 10;

/// Suffixes of the cases' names.
const LATENCY: &str = ", latency";
const RATE: &str = ", rate";

/// Broadcasts per second in the latency case, and its duration as a multiple of the chosen one.
const SLOW_RATE: u32 = 50;
const SLOW_LENGTHS: u32 = 2;

/// Duration of broadcasts at the slow rate before those that count.
const WARM_UP: Duration = Duration::from_secs(1);

/// Broadcasts per second, tried one after the other until one is too many.
const RATES: [u32; 19] = [
    100, 200, 300, 400, 600, 800, 1_000, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 6_000, 8_000,
    10_000, 12_000, 16_000, 20_000,
];

/// Rates that are tried if the duration is shorter than this: such a run only checks that
/// everything arrives.
const FEW_RATES: [u32; 3] = [100, 400, 1_000];
const SHORT: Duration = Duration::from_secs(2);

/// Time after which the last broadcast must have reached every node.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// Interval of the checks whether all broadcasts have arrived.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Pause between the last delivery and the reading of the totals: more copies may still be in
/// flight.
const DRAIN: Duration = Duration::from_millis(300);

/// Returns two cases: the latency of broadcasts, and their highest rate.
pub(crate) fn cases() -> Vec<Case> {
    let nodes = Case::count(NODES, "node");
    let case = |what| Case { name: format!("{}{what}", nodes.name), amount: nodes.amount };
    [LATENCY, RATE].map(case).to_vec()
}

/// Returns the longest run, as a multiple of the chosen duration.
pub(crate) fn max_lengths() -> u32 {
    SLOW_LENGTHS.max(RATES.len() as u32)
}

/// Measures the broadcasts that a child process makes in its network.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let mut child = Child::start(job.to_args())?;
    let result: RateResult = child.receive().await?;
    child.end().await?;
    ensure!(!result.times.is_empty(), "no broadcasts");

    let per_delivery = |amount: f64| amount / result.deliveries as f64;
    let mut figures = Vec::new();
    if job.case.name.ends_with(RATE) {
        figures.push(Figure::higher("broadcasts_per_s", result.rate.into()));
    }
    figures.extend([
        Figure::lower("last_p50_us", share_us(&result.times, 0.5)),
        Figure::lower("last_p99_us", share_us(&result.times, 0.99)),
        Figure::lower("cpu_us_per_delivery", per_delivery(result.cpu_s * 1e6)),
    ]);
    let duplicates = result.copies.map(|copies| per_delivery(copies as f64) - 1.0);
    figures.extend(duplicates.map(|each| Figure::lower("duplicates_per_delivery", each)));
    let bytes = result.bytes.map(|bytes| per_delivery(bytes as f64));
    figures.extend(bytes.map(|each| Figure::info("bytes_per_delivery", each)));
    Ok(vec![Measurement::of(job, figures)])
}

/// Runs the process with the network. It reports the result of the slow broadcasts, or of the
/// highest rate that was not too high.
pub(crate) async fn run_child(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let mut network = LoggedNetwork::form(job).await?;
    let late = "some broadcasts did not reach every node within a second";
    network.broadcast(SLOW_RATE, WARM_UP).await?.context(late)?;
    let result = if job.case.name.ends_with(LATENCY) {
        network.broadcast(SLOW_RATE, SLOW_LENGTHS * job.length).await?
    } else {
        network.highest(job.length).await?
    };
    parent.send(&result.context(late)?)?;
    // Do not shut down cleanly: after a rate that was too high much may still be queued.
    parent.released().await
}

/// Result of broadcasts at one rate that reached every node in time.
#[derive(Debug, Serialize, Deserialize)]
struct RateResult {
    /// Broadcasts per second.
    rate: u32,
    /// Number of broadcasts times the nodes that received each.
    deliveries: usize,
    /// Delay from each broadcast to its last delivery, shortest first.
    times: Vec<Duration>,
    /// Processor time of all nodes.
    cpu_s: f64,
    /// Received broadcasts, duplicates included.
    copies: Option<u64>,
    /// Received bytes.
    bytes: Option<u64>,
}

/// The network, and the logs of what its nodes receive.
struct LoggedNetwork {
    network: Network,
    /// Logs of all nodes but the author.
    logs: Vec<BroadcastLog>,
    /// True if each author's broadcasts must arrive in order.
    ordered: bool,
    /// Number of the next broadcast.
    number: u64,
}

impl LoggedNetwork {
    async fn form(job: &Job) -> Result<Self> {
        let mut logs: Vec<_> = (0..job.case.amount).map(|_| BroadcastLog::default()).collect();
        let network = Network::form(job.system, &logs).await?;
        logs.remove(AUTHOR);
        // Of these systems only peerkit keeps the order of each author.
        Ok(Self { network, logs, ordered: job.system == System::Peerkit, number: 0 })
    }

    /// Returns the result of the highest rate that is not too high, or `None` if all are. Stops at
    /// the first rate that is too high: the backlog it leaves would spoil later ones.
    async fn highest(&mut self, length: Duration) -> Result<Option<RateResult>> {
        let rates = if length < SHORT { &FEW_RATES[..] } else { &RATES };
        let mut highest = None;
        for rate in rates {
            let Some(result) = self.broadcast(*rate, length).await? else { break };
            highest = Some(result);
        }
        Ok(highest)
    }

    /// Broadcasts at `rate` for `length`. Returns `None` if some broadcasts did not reach every
    /// node, or came too late.
    ///
    /// # Errors
    /// Fails if a node receives something that it should not.
    async fn broadcast(&mut self, rate: u32, length: Duration) -> Result<Option<RateResult>> {
        let count = (length.as_secs_f64() * f64::from(rate)) as u32;
        let deliveries = count as usize * self.logs.len();
        let process = std::process::id();
        let (times, received) = (ThreadTimes::of(process), self.network.totals().await);
        let began = Instant::now();
        let limit = began + length + MAX_DELAY;
        let first = self.number;
        let mut sent = Vec::new();
        let publishing = self.publish(rate, count, began, &mut sent);
        let published = tokio::time::timeout_at(limit.into(), publishing).await;
        // A full queue makes the author wait. If it waits too long, the rate is too high as well.
        let in_time = published.unwrap_or(Ok(false))?;
        while in_time && self.delivered() < deliveries && Instant::now() < limit {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let cpu_s = ThreadTimes::of(process).seconds_since(&times);
        self.number += sent.len() as u64;
        // Checked even if it took too long: a wrong delivery is an error at any rate.
        let times = broadcast_log::times_to_last_node(&self.logs, first, &sent, self.ordered)?;
        let Some(times) = times.filter(|_| in_time) else { return Ok(None) };
        tokio::time::sleep(DRAIN).await;
        let NetworkTotals { copies, bytes } = self.network.totals().await;
        let since = |now: Option<u64>, before: Option<u64>| Some(now? - before?);
        let (copies, bytes) = (since(copies, received.copies), since(bytes, received.bytes));
        Ok(Some(RateResult { rate, deliveries, times, cpu_s, copies, bytes }))
    }

    /// Makes `count` broadcasts, evenly spaced from `began` on. Appends the time of each to `sent`.
    /// Returns false if one was refused.
    async fn publish(
        &self,
        rate: u32,
        count: u32,
        began: Instant,
        sent: &mut Vec<Instant>,
    ) -> Result<bool> {
        let mut message = [0; SIZE];
        for index in 0..count {
            // Counted from the start, so that delays do not add up and lower the rate.
            let due = began + index * Duration::from_secs(1) / rate;
            // Timers have a resolution of a millisecond: at higher rates several broadcasts are
            // made at once.
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

    fn delivered(&self) -> usize {
        self.logs.iter().map(BroadcastLog::len).sum()
    }
}
