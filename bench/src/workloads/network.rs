//! Broadcasts through a network of nodes that are all in one child process. Measures the delay until the last
//! node has received each broadcast, and the highest rate of broadcasts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::latency::percentile_us;
use crate::broadcast_log::{self, BroadcastLog, NetworkTotals};
use crate::messages::put;
use crate::network::Network;
use crate::process::{Child, Parent, ThreadTimes};
use crate::report::{Figure, Measurement};
use crate::system::System;
use crate::workload::{Case, Job};

const NODES: usize = 32;

/// Index of the node that broadcasts. The first node would be a special case, because the others know it
/// best. So would the last, because no other node has dialled it.
const AUTHOR: usize = NODES / 2;

/// Size of a broadcast, in bytes.
const SIZE: usize = 1 << 10;

/// The suffixes of the names of the two cases.
const LATENCY: &str = ", latency";
const RATE: &str = ", rate";

/// In the latency case: the number of broadcasts per second, and the duration as a multiple of the chosen
/// duration.
const SLOW_RATE: u32 = 50;
const SLOW_DURATIONS: u32 = 2;

/// Duration of the broadcasts that are sent before those that count.
const WARM_UP: Duration = Duration::from_secs(1);

/// The rates that are tried one after the other until one is too high, in broadcasts per second.
const RATES: [u32; 19] = [
    100, 200, 300, 400, 600, 800, 1_000, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 6_000, 8_000,
    10_000, 12_000, 16_000, 20_000,
];

/// The rates that are tried in a short run, which only checks that everything arrives.
const FEW_RATES: [u32; 3] = [100, 400, 1_000];

/// A run with a shorter duration than this is a short run.
const SHORT_RUN: Duration = Duration::from_secs(2);

/// Maximum time until the last broadcast has reached every node.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// Interval at which the measurement checks whether all broadcasts have arrived.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Pause between the last delivery and the reading of the totals, as duplicates may still be in flight.
const DRAIN: Duration = Duration::from_millis(300);

/// Returns two cases: the latency of broadcasts, and their highest rate.
pub(crate) fn cases() -> Vec<Case> {
    let nodes = Case::count(NODES, "node");
    let case = |suffix| Case { name: format!("{}{suffix}", nodes.name), amount: nodes.amount };
    [LATENCY, RATE].map(case).to_vec()
}

/// Returns the maximum duration of a measurement, as a multiple of the chosen duration.
pub(crate) fn max_durations() -> u32 {
    SLOW_DURATIONS.max(RATES.len() as u32)
}

/// Measures the broadcasts in the network of a child process.
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
        Figure::lower("last_p50_us", percentile_us(&result.times, 0.5)),
        Figure::lower("last_p99_us", percentile_us(&result.times, 0.99)),
        Figure::lower("cpu_us_per_delivery", per_delivery(result.cpu_s * 1e6)),
    ]);
    let duplicates = result.copies.map(|copies| per_delivery(copies as f64) - 1.0);
    figures.extend(duplicates.map(|each| Figure::lower("duplicates_per_delivery", each)));
    let bytes = result.bytes.map(|bytes| per_delivery(bytes as f64));
    figures.extend(bytes.map(|each| Figure::info("bytes_per_delivery", each)));
    Ok(vec![Measurement::new(job, figures)])
}

/// Runs the process with the network. In the latency case it reports the result of the slow rate, and in the
/// rate case that of the highest rate that was not too high.
pub(crate) async fn run_child(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let mut network = LoggedNetwork::form(job).await?;
    let too_late = "some broadcasts did not reach every node within a second";
    network.broadcast(SLOW_RATE, WARM_UP).await?.context(too_late)?;
    let result = if job.case.name.ends_with(LATENCY) {
        network.broadcast(SLOW_RATE, SLOW_DURATIONS * job.duration).await?
    } else {
        network.find_highest_rate(job.duration).await?
    };
    parent.send(&result.context(too_late)?)?;
    // The network is not shut down cleanly: after a rate that was too high, many broadcasts may still be
    // queued.
    parent.wait_for_end().await
}

/// The result of broadcasts at one rate, all of which have reached every node in time.
#[derive(Debug, Serialize, Deserialize)]
struct RateResult {
    /// Broadcasts per second.
    rate: u32,
    /// Number of broadcasts, times the number of nodes that receive each.
    deliveries: usize,
    /// The delay of each broadcast until its last delivery, shortest first.
    times: Vec<Duration>,
    /// Processor time of all nodes, in seconds.
    cpu_s: f64,
    /// Number of received broadcasts, including duplicates.
    copies: Option<u64>,
    /// Number of received bytes.
    bytes: Option<u64>,
}

/// A network, and the logs of the broadcasts that its nodes receive.
struct LoggedNetwork {
    network: Network,
    /// The logs of all nodes except the author.
    logs: Vec<BroadcastLog>,
    /// True if each author's broadcasts must arrive in order.
    ordered: bool,
    /// The number of the next broadcast.
    number: u64,
}

impl LoggedNetwork {
    async fn form(job: &Job) -> Result<Self> {
        let mut logs: Vec<_> = (0..job.case.amount).map(|_| BroadcastLog::default()).collect();
        let network = Network::form(job.system, &logs).await?;
        logs.remove(AUTHOR);
        // Of these systems, only peerkit delivers the broadcasts of an author in order.
        Ok(Self { network, logs, ordered: job.system == System::Peerkit, number: 0 })
    }

    /// Returns the result of the highest rate that is not too high, or `None` if all rates are too high.
    /// Tries no rate after the first that is too high, because its backlog would affect the next measurement.
    async fn find_highest_rate(&mut self, duration: Duration) -> Result<Option<RateResult>> {
        let rates = if duration < SHORT_RUN { &FEW_RATES[..] } else { &RATES };
        let mut highest = None;
        for rate in rates {
            let Some(result) = self.broadcast(*rate, duration).await? else { break };
            highest = Some(result);
        }
        Ok(highest)
    }

    /// Broadcasts at `rate` for `duration`. Returns `None` if a broadcast did not reach every node in time.
    ///
    /// # Errors
    /// Fails if a node receives a broadcast that was not sent, a broadcast twice, or broadcasts in a wrong
    /// order.
    async fn broadcast(&mut self, rate: u32, duration: Duration) -> Result<Option<RateResult>> {
        let count = (duration.as_secs_f64() * f64::from(rate)) as u32;
        let deliveries = count as usize * self.logs.len();
        let process = std::process::id();
        let (times, received) = (ThreadTimes::of(process), self.network.totals().await);
        let start = Instant::now();
        let limit = start + duration + MAX_DELAY;
        let first = self.number;
        let mut sent = Vec::new();
        let publishing = self.publish(rate, count, start, &mut sent);
        let published = tokio::time::timeout_at(limit.into(), publishing).await;
        // If the author has to wait for room in its queue for too long, the rate is too high too.
        let in_time = published.unwrap_or(Ok(false))?;
        while in_time && self.delivered() < deliveries && Instant::now() < limit {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let cpu_s = ThreadTimes::of(process).seconds_since(&times);
        self.number += sent.len() as u64;
        // The logs are checked even if the rate was too high, because a wrong delivery is an error at any
        // rate.
        let times = broadcast_log::times_to_last_node(&self.logs, first, &sent, self.ordered)?;
        let Some(times) = times.filter(|_| in_time) else { return Ok(None) };
        tokio::time::sleep(DRAIN).await;
        let NetworkTotals { copies, bytes } = self.network.totals().await;
        let difference = |now: Option<u64>, before: Option<u64>| Some(now? - before?);
        let (copies, bytes) =
            (difference(copies, received.copies), difference(bytes, received.bytes));
        Ok(Some(RateResult { rate, deliveries, times, cpu_s, copies, bytes }))
    }

    /// Sends `count` broadcasts at regular intervals, beginning at `start`. Appends the time of each to
    /// `sent`. Returns false if the author's queue was full.
    async fn publish(
        &self,
        rate: u32,
        count: u32,
        start: Instant,
        sent: &mut Vec<Instant>,
    ) -> Result<bool> {
        let mut message = [0; SIZE];
        for index in 0..count {
            // The time is computed from the start, so that delays do not add up and lower the rate.
            let due = start + index * Duration::from_secs(1) / rate;
            // Timers have a resolution of a millisecond. At higher rates, several broadcasts are sent
            // together.
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

    /// Returns the number of deliveries so far.
    fn delivered(&self) -> usize {
        self.logs.iter().map(BroadcastLog::len).sum()
    }
}
