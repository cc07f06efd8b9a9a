//! Twelve programs that run for hours, with messages, transfers, restarts and an attacker. Nothing may be lost,
//! and memory must not grow.
//!
//! Ten of the nodes run all the time. Two are stopped or killed in turn, and start again. The programs are the
//! real ones, on state folders, and get their commands as a script would give them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{MissedTickBehavior, interval};

use crate::attackers::{Attack, Attackers, Target};
use crate::process::resident_bytes;
use crate::report::{Figure, Measurement};
use crate::systems::peerkit::program::{self, Program};
use crate::workload::{Case, Job};

/// Number of nodes that run all the time, and of those that are restarted.
const STABLE: usize = 10;
const RESTARTED: usize = 2;

/// Size of the file that each stable node shares.
const FILE: usize = 8 << 20;

/// Intervals between two broadcasts, fetches, discoveries, restarts, readings of memory, and lines of progress.
const BROADCASTS: Duration = Duration::from_secs(1);
const FETCHES: Duration = Duration::from_secs(15);
const DISCOVERIES: Duration = Duration::from_secs(60);
const RESTARTS: Duration = Duration::from_secs(30);
const READINGS: Duration = Duration::from_secs(10);
const PROGRESS: Duration = Duration::from_secs(60);

/// Time for which a restarted node is away.
const AWAY: Duration = Duration::from_secs(5);

/// Time for which the attackers attack one node with one kind of frames. After 30 such times, ten minutes, each node
/// has had each of the three kinds. A quarter of a run of two hours has three such cycles, so all quarters have the
/// same attacks, and their memory can be compared.
const ATTACK_TIME: Duration = Duration::from_secs(20);

/// Number of the attackers' links, and of the frames that they send in a second together.
const HOSTILE_LINKS: usize = 64;
const HOSTILE_RATE: u32 = 640;

/// Time for the last broadcasts to arrive.
const LAST_BROADCASTS: Duration = Duration::from_secs(30);

/// Largest growth of a node's memory between the third and the fourth quarter of the run: one part in ten, or
/// 2 MiB. The allocator gives pages back late, so single readings differ by that much.
const MEMORY_GROWTH: f64 = 1.1;
const MEMORY_NOISE: f64 = (2 << 20) as f64;

/// Runs shorter than this are not judged by their memory: tables are still filling.
const MEMORY_TIME: Duration = Duration::from_secs(3600);

/// The title of the broadcasts.
const TITLE: &str = "soak";

/// Returns the only case.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::count(STABLE + RESTARTED, "program")]
}

/// Runs the programs for the duration of `job`.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let soak = Soak::start(&job.folder.join("soak")).await?;
    let end = Instant::now() + job.duration;
    let (broadcasts, (), (), (), (), ()) = tokio::try_join!(
        soak.broadcast(end),
        soak.fetch(end),
        soak.discover(end),
        soak.restart(end),
        soak.attack(end),
        soak.watch(end),
    )?;
    tokio::time::sleep(LAST_BROADCASTS).await;
    let missing = soak.missing_broadcasts(broadcasts);
    let memory = soak.memory();
    let failures = soak.failures();
    ensure!(missing == 0, "{missing} broadcasts did not reach a node");
    ensure!(failures.is_empty(), "{} failures", failures.len());
    let grows = |memory: &Memory| memory.late > memory.early * MEMORY_GROWTH + MEMORY_NOISE;
    let is_judged = job.duration >= MEMORY_TIME;
    ensure!(!is_judged || !memory.iter().any(grows), "memory grows: {memory:?}");
    let most = |part: fn(&Memory) -> f64| memory.iter().map(part).fold(0.0, f64::max);
    let figures = vec![
        Figure::info("broadcasts", broadcasts as f64),
        Figure::info("fetches", soak.count(|counts| counts.fetches)),
        Figure::info("discoveries", soak.count(|counts| counts.discoveries)),
        Figure::info("restarts", soak.count(|counts| counts.restarts)),
        Figure::info("links_replaced", soak.count(|counts| counts.links_replaced)),
        Figure::info("hostile_frames", soak.count(|counts| counts.hostile_frames)),
        Figure::lower("third_quarter_mb", most(|memory| memory.early) / 1e6),
        Figure::lower("last_quarter_mb", most(|memory| memory.late) / 1e6),
        Figure::lower("peak_mb", most(|memory| memory.peak) / 1e6),
    ];
    soak.stop().await?;
    Ok(vec![Measurement::new(job, figures)])
}

/// The programs, and what was seen of them.
struct Soak {
    folder: PathBuf,
    program: PathBuf,
    stable: Vec<AsyncMutex<Program>>,
    /// The identities of the stable nodes, in their order.
    ids: Vec<String>,
    /// The hashes of the files that the stable nodes share, in their order.
    files: Vec<String>,
    seen: Arc<Seen>,
}

/// What the events of the programs and the tasks of the soak have shown.
#[derive(Default)]
struct Seen {
    /// The identities of the stable nodes.
    stable: Mutex<BTreeSet<String>>,
    counts: Mutex<Counts>,
    failures: Mutex<Vec<String>>,
    /// The numbers of the broadcasts that each stable node has received.
    received: Mutex<BTreeMap<usize, BTreeSet<u64>>>,
    /// Readings of the memory of each stable node, in bytes.
    memory: Mutex<BTreeMap<usize, Vec<u64>>>,
}

#[derive(Default)]
struct Counts {
    fetches: u64,
    discoveries: u64,
    restarts: u64,
    /// Links between stable nodes that the overlay has ended by itself.
    links_replaced: u64,
    hostile_frames: u64,
}

/// The memory of a node, in bytes.
#[derive(Debug)]
struct Memory {
    /// The mean of the third quarter of the run.
    early: f64,
    /// The mean of the last quarter.
    late: f64,
    peak: f64,
}

impl Soak {
    /// Starts the stable nodes, which join through the first, and share a file each.
    async fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let program = program::path()?;
        let seen = Arc::new(Seen::default());
        let (mut stable, mut ids, mut files) = (Vec::<Program>::new(), Vec::new(), Vec::new());
        for number in 0..STABLE {
            let first = stable.first().map(Program::address);
            let arguments = arguments(&format!("stable{number}"), first);
            let events = seen.clone();
            let on_event = move |event: &Value| events.observe(number, event);
            let state = folder.join(format!("stable{number}"));
            let mut node = Program::start(&program, &state, &arguments, on_event).await?;
            let file = folder.join(format!("file{number}"));
            std::fs::write(&file, content(number))?;
            let added = node.command(&format!("add {}", file.display())).await?;
            let hash = added["files"][0]["hash"].as_str().context("the file has no hash")?;
            files.push(hash.to_owned());
            lock(&seen.stable).insert(node.id().to_owned());
            ids.push(node.id().to_owned());
            stable.push(node);
        }
        let stable = stable.into_iter().map(AsyncMutex::new).collect();
        Ok(Self { folder: folder.to_owned(), program, stable, ids, files, seen })
    }

    /// Broadcasts from one node after the other. Returns the number of broadcasts.
    async fn broadcast(&self, end: Instant) -> Result<u64> {
        let mut ticks = ticks(BROADCASTS);
        for number in 0.. {
            ticks.tick().await;
            if Instant::now() >= end {
                return Ok(number);
            }
            let line = format!("broadcast --title {TITLE} {number}");
            self.command(author(number), &line).await?;
        }
        Ok(0)
    }

    /// Has one node after the other fetch a file of another one.
    async fn fetch(&self, end: Instant) -> Result<()> {
        let mut ticks = ticks(FETCHES);
        for turn in 0.. {
            ticks.tick().await;
            if Instant::now() >= end {
                break;
            }
            let (fetcher, source) = (turn % STABLE, (turn + 1 + turn / STABLE) % STABLE);
            if fetcher == source {
                continue;
            }
            let target = self.folder.join(format!("fetched{turn}"));
            let line = format!("get {} {}", self.files[source], target.display());
            let done = self.command(fetcher, &line).await?;
            if done["ok"] == true {
                let fetched = std::fs::read(&target)?;
                let is_same = fetched == content(source);
                ensure!(is_same, "{} has other bytes than its source", target.display());
                std::fs::remove_file(&target)?;
                lock(&self.seen.counts).fetches += 1;
            }
        }
        Ok(())
    }

    /// Has one node after the other discover the network, and checks that it finds all stable nodes.
    async fn discover(&self, end: Instant) -> Result<()> {
        let mut ticks = ticks(DISCOVERIES);
        for turn in 0.. {
            ticks.tick().await;
            if Instant::now() >= end {
                break;
            }
            let discovery = self.command(turn % STABLE, "discover").await?;
            let nodes = discovery["nodes"].as_array().cloned().unwrap_or_default();
            let found: BTreeSet<_> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
            let missing = self.ids.iter().filter(|id| !found.contains(id.as_str())).count();
            if missing > 0 {
                self.seen.fail(format!("node {} did not find {missing} nodes", turn % STABLE));
            }
            lock(&self.seen.counts).discoveries += 1;
        }
        Ok(())
    }

    /// Stops or kills one of the other nodes, and starts it again on its state folder.
    async fn restart(&self, end: Instant) -> Result<()> {
        let mut nodes = Vec::new();
        for number in 0..RESTARTED {
            nodes.push(Some(self.start_restarted(number).await?));
        }
        let mut ticks = ticks(RESTARTS);
        for turn in 0_usize.. {
            ticks.tick().await;
            if Instant::now() >= end {
                break;
            }
            let number = turn % RESTARTED;
            let node = nodes[number].take().context("the node runs")?;
            // Each of them is killed every other time.
            let is_clean = (turn / RESTARTED).is_multiple_of(2);
            if is_clean {
                node.stop().await?;
            } else {
                node.kill().await?;
            }
            tokio::time::sleep(AWAY).await;
            nodes[number] = Some(self.start_restarted(number).await?);
            lock(&self.seen.counts).restarts += 1;
        }
        for node in nodes.into_iter().flatten() {
            node.stop().await?;
        }
        Ok(())
    }

    async fn start_restarted(&self, number: usize) -> Result<Program> {
        let first = self.stable[0].lock().await.address().to_owned();
        let name = format!("restarted{number}");
        let arguments = arguments(&name, Some(&first));
        Program::start(&self.program, &self.folder.join(name), &arguments, |_| ()).await
    }

    /// Attacks one node after the other, with one kind of frames after the other.
    async fn attack(&self, end: Instant) -> Result<()> {
        for turn in 0.. {
            let target = Target::Node(self.stable[turn % STABLE].lock().await.address().to_owned());
            let attack = Attack::ON_PEERKIT[turn % Attack::ON_PEERKIT.len()];
            let attackers = Attackers::start(attack, &target, HOSTILE_LINKS, HOSTILE_RATE)?;
            let now = Instant::now();
            tokio::time::sleep(ATTACK_TIME.min(end.saturating_duration_since(now))).await;
            lock(&self.seen.counts).hostile_frames += attackers.totals().sent;
            if Instant::now() >= end {
                break;
            }
        }
        Ok(())
    }

    /// Reads the memory of the stable nodes, and prints a line from time to time.
    async fn watch(&self, end: Instant) -> Result<()> {
        let mut ticks = ticks(READINGS);
        let (start, mut printed) = (Instant::now(), Instant::now());
        let mut pids = Vec::new();
        for node in &self.stable {
            pids.push(node.lock().await.pid());
        }
        while Instant::now() < end {
            ticks.tick().await;
            for (number, pid) in pids.iter().enumerate() {
                lock(&self.seen.memory).entry(number).or_default().push(resident_bytes(*pid));
            }
            if printed.elapsed() >= PROGRESS {
                printed = Instant::now();
                let most = pids.iter().map(|pid| resident_bytes(*pid)).max().unwrap_or_default();
                eprintln!(
                    "soak: {} min, {} fetches, {} restarts, {} failures, at most {} MB",
                    start.elapsed().as_secs() / 60,
                    self.count(|counts| counts.fetches),
                    self.count(|counts| counts.restarts),
                    lock(&self.seen.failures).len(),
                    most / 1_000_000,
                );
            }
        }
        Ok(())
    }

    /// Carries out a command at a stable node. A command that fails is a failure of the soak.
    async fn command(&self, node: usize, line: &str) -> Result<Value> {
        let result = self.stable[node].lock().await.command(line).await?;
        if result["ok"] != true {
            self.seen.fail(format!("node {node}: {line}: {}", result["error"]));
        }
        Ok(result)
    }

    /// Returns the number of broadcasts that a stable node has not received, summed over the nodes.
    fn missing_broadcasts(&self, sent: u64) -> usize {
        let received = lock(&self.seen.received);
        let nothing = BTreeSet::new();
        let missing = |node: usize| {
            let received = received.get(&node).unwrap_or(&nothing);
            let of_others = (0..sent).filter(move |number| author(*number) != node);
            of_others.filter(|number| !received.contains(number)).count()
        };
        (0..STABLE).map(missing).sum()
    }

    fn memory(&self) -> Vec<Memory> {
        lock(&self.seen.memory).values().map(|readings| Memory::of(readings)).collect()
    }

    fn failures(&self) -> Vec<String> {
        lock(&self.seen.failures).clone()
    }

    fn count(&self, part: impl Fn(&Counts) -> u64) -> f64 {
        part(&lock(&self.seen.counts)) as f64
    }

    /// Stops the stable nodes cleanly.
    async fn stop(self) -> Result<()> {
        for node in self.stable {
            node.into_inner().stop().await?;
        }
        Ok(())
    }
}

impl Seen {
    /// Takes note of an event of a stable node.
    fn observe(&self, node: usize, event: &Value) {
        match event["event"].as_str().unwrap_or_default() {
            "node_broadcast" if event["data"]["title"] == TITLE => {
                let number = event["data"]["message"].as_str().and_then(|text| text.parse().ok());
                let Some(number) = number else {
                    return self.fail(format!("node {node} received {event}"));
                };
                if !lock(&self.received).entry(node).or_default().insert(number) {
                    self.fail(format!("node {node} received broadcast {number} twice"));
                }
            }
            "inbound_node_disconnected" | "outbound_node_disconnected" => {
                let peer = event["peer"]["id"].as_str().unwrap_or_default();
                if !lock(&self.stable).contains(peer) {
                    return;
                }
                let reason = event["data"]["reason"].as_str().unwrap_or_default();
                if is_of_the_overlay(reason) {
                    lock(&self.counts).links_replaced += 1;
                } else {
                    self.fail(format!("node {node} lost its link to an honest node: {reason}"));
                }
            }
            "node_message_failed" | "node_broadcasts_missed" | "node_handler_panicked" => {
                self.fail(format!("node {node}: {event}"));
            }
            _ => {}
        }
    }

    fn fail(&self, failure: String) {
        eprintln!("soak: {failure}");
        lock(&self.failures).push(failure);
    }
}

impl Memory {
    /// Summarizes the readings of a run.
    fn of(readings: &[u64]) -> Self {
        let quarter = readings.len() / 4;
        let (before, late) = readings.split_at(readings.len() - quarter);
        let early = &before[before.len().saturating_sub(quarter)..];
        let mean = |part: &[u64]| part.iter().sum::<u64>() as f64 / part.len().max(1) as f64;
        let peak = readings.iter().copied().max().unwrap_or_default() as f64;
        Self { early: mean(early), late: mean(late), peak }
    }
}

/// Returns whether a member ends links with honest nodes for this reason as well: it trades neighbours, and
/// keeps one link for each pair.
fn is_of_the_overlay(reason: &str) -> bool {
    const REASONS: [&str; 4] = [
        "another node became a neighbour in its place",
        "the link is not needed any more",
        "the two nodes already have a link",
        "a newer link took its place",
    ];
    REASONS.contains(&reason)
}

/// Returns the stable node that sends this broadcast.
fn author(number: u64) -> usize {
    usize::try_from(number).unwrap_or_default() % STABLE
}

/// Returns the bytes of the file that a stable node shares.
fn content(number: usize) -> Vec<u8> {
    let mut bytes = vec![0; FILE];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn arguments(name: &str, first: Option<&str>) -> Vec<String> {
    let options = ["--listen", "127.0.0.1:0", "--name", name].map(str::to_owned);
    options.into_iter().chain(first.map(str::to_owned)).collect()
}

fn ticks(each: Duration) -> tokio::time::Interval {
    let mut ticks = interval(each);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
