//! Broadcasts through a network of nodes that are all in one process, another than this: how long
//! each takes until the last node has it, and how many can be made in a second.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::latency::share_us;
use crate::heard::{self, Log, Received};
use crate::job::{Case, Job};
use crate::messages::put;
use crate::network::Network;
use crate::process::{Child, Parent, ThreadTimes};
use crate::report::{Figure, Measurement};
use crate::system::System;

const NODES: usize = 32;

/// Who broadcasts: neither the first, whom the others know best, nor the last, whom nobody has
/// dialled.
const AUTHOR: usize = NODES / 2;

/// Bytes of a broadcast.
const SIZE: usize = 1 << 10;

/// How the cases' names end.
const LATENCY: &str = ", latency";
const RATE: &str = ", rate";

/// Broadcasts a second where it is measured how long each takes, and how many times the length.
const SLOWLY: u32 = 50;
const SLOW_LENGTHS: u32 = 2;

/// How long there are broadcasts before those that count, at the slow rate.
const WARM_UP: Duration = Duration::from_secs(1);

/// Broadcasts a second, tried one after the other until one is too many.
const RATES: [u32; 19] = [
    100, 200, 300, 400, 600, 800, 1_000, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 6_000, 8_000,
    10_000, 12_000, 16_000, 20_000,
];

/// Those that are tried where the length is shorter than this: such a run is to see that all arrives,
/// and not how much can.
const FEW_RATES: [u32; 3] = [100, 400, 1_000];
const SHORT: Duration = Duration::from_secs(2);

/// How far behind its time the last broadcast may be everywhere.
const BEHIND: Duration = Duration::from_secs(1);

/// Between two looks whether all have come.
const LOOK: Duration = Duration::from_millis(10);

/// From the last arrival to a look at what was received: copies of it may still be on their way.
const REST: Duration = Duration::from_millis(300);

/// How long broadcasts take, and how many can be made.
pub(crate) fn cases() -> Vec<Case> {
    let nodes = Case::count(NODES, "node");
    let case = |what| Case { name: format!("{}{what}", nodes.name), amount: nodes.amount };
    [LATENCY, RATE].map(case).to_vec()
}

/// How many times the length it runs at the most.
pub(crate) fn lengths() -> u32 {
    SLOW_LENGTHS.max(RATES.len() as u32)
}

/// Has another process make the network, and what is broadcast.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let mut child = Child::start(job.words())?;
    let step: Step = child.hear().await?;
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

/// The process with the network. It says what came of its slow broadcasts, or of the highest rate
/// that was not too high.
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
    // No stop in good order: after a rate that was too high there may be much under way.
    parent.gone().await
}

/// What came of broadcasts at one rate that came everywhere in time.
#[derive(Debug, Serialize, Deserialize)]
struct Step {
    /// Broadcasts a second.
    rate: u32,
    /// Broadcasts times nodes that had them.
    deliveries: usize,
    /// From each broadcast to its last arrival, shortest first.
    times: Vec<Duration>,
    /// Processor time of all.
    cpu_s: f64,
    /// Broadcasts that were received, copies too.
    copies: Option<u64>,
    /// Bytes that were received.
    bytes: Option<u64>,
}

/// The network, and what its nodes hear.
struct Crowd {
    network: Network,
    /// Of all but the author.
    logs: Vec<Log>,
    /// Whether each author's broadcasts are to come in order.
    ordered: bool,
    /// Of the next broadcast.
    number: u64,
}

impl Crowd {
    async fn form(job: &Job) -> Result<Self> {
        let mut logs: Vec<_> = (0..job.case.amount).map(|_| Log::default()).collect();
        let network = Network::form(job.system, &logs).await?;
        logs.remove(AUTHOR);
        Ok(Self { network, logs, ordered: job.system == System::Peerkit, number: 0 })
    }

    /// The highest rate that is not too high; none where all are. What is too much is not worked off
    /// any more, so nothing comes after it.
    async fn highest(&mut self, length: Duration) -> Result<Option<Step>> {
        let rates = if length < SHORT { &FEW_RATES[..] } else { &RATES };
        let mut highest = None;
        for rate in rates {
            let Some(step) = self.broadcast(*rate, length).await? else { break };
            highest = Some(step);
        }
        Ok(highest)
    }

    /// Broadcasts at `rate` for `length`. None where they have not all come everywhere, or too late.
    ///
    /// # Errors
    /// Where a node hears what it should not.
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
        while in_time && self.heard() < deliveries && Instant::now() < limit {
            tokio::time::sleep(LOOK).await;
        }
        let cpu_s = ThreadTimes::of(process).seconds_since(&times);
        self.number += sent.len() as u64;
        let times = heard::until_last(&self.logs, first, &sent, self.ordered)?;
        let Some(times) = times.filter(|_| in_time) else { return Ok(None) };
        tokio::time::sleep(REST).await;
        let Received { copies, bytes } = self.network.received().await;
        let since = |now: Option<u64>, before: Option<u64>| Some(now? - before?);
        let (copies, bytes) = (since(copies, received.copies), since(bytes, received.bytes));
        Ok(Some(Step { rate, deliveries, times, cpu_s, copies, bytes }))
    }

    /// Makes `count` broadcasts, evenly from `began` on, and puts into `sent` when each was made.
    /// False where one of them was refused.
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
            // Times are kept to a millisecond: of higher rates several are made at once.
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

    fn heard(&self) -> usize {
        self.logs.iter().map(Log::len).sum()
    }
}
