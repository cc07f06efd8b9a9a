//! A network of honest nodes, one of which has many links with attackers. Measures round trips to that node and
//! the time of a broadcast to all nodes.
//!
//! The honest nodes share one processor, and the attackers have another. For the reference, the same attackers
//! send at the same rate to a TLS server that discards everything, on the processor of the honest nodes. So the
//! ratio shows what the node does with the frames, and not what the kernel and TLS cost.
//!
//! Networks of gossipsub and iroh-gossip are attacked in the same way, but with broadcasts only, and their round
//! trips are not measured: they have neither queries nor messages or requests between two nodes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use peerkit::{Broadcast, Config, Context, Handler, Message, Node, Peer, Refusal};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use super::latency::percentile_us;
use crate::attackers::{Attack, AttackTotals, Attackers, Target};
use crate::broadcast_log::{self, BroadcastLog};
use crate::messages::put;
use crate::network::Network;
use crate::process::{Child, Parent};
use crate::report::{Figure, Measurement};
use crate::system::System;
use crate::systems::raw;
use crate::workload::{Case, Job};

const LINKS: usize = 1_000;

/// Number of honest nodes.
const NODES: usize = 8;

/// Indices of the node under attack, of the node that sends requests to it, and of the one that broadcasts.
const VICTIM: usize = 0;
const ASKER: usize = 1;
const AUTHOR: usize = 4;

/// Maximum number of inbound links of the node under attack.
const MAX_INBOUND: usize = 1_200;

/// Number of frames that all attackers together send in a second.
const RATE: u32 = 10_000;

/// Pause between two requests, and between two broadcasts.
const REQUEST_PAUSE: Duration = Duration::from_millis(5);
const BROADCAST_PAUSE: Duration = Duration::from_millis(40);

/// Size of a request and of a broadcast, in bytes.
const SIZE: usize = 64;

/// Time for which the attackers send before the measurement begins.
const WARM_UP: Duration = Duration::from_secs(2);

/// Time for which the honest nodes broadcast before the attack, to check that their network is whole.
const CHECK: Duration = Duration::from_secs(1);

/// Maximum time until all attackers are linked.
const LINK_TIME: Duration = Duration::from_secs(30);

/// Maximum time until the last broadcast has reached every node.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// Interval at which counts are read.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The name of the requests.
const ECHO: &str = "echo";

/// The roles of the child processes. The first is also the name of the honest nodes, and the title of their
/// broadcasts.
const HONEST: &str = "honest";
const SINK: &str = "sink";
const ATTACK: &str = "attack";

/// The processors of the honest nodes and of the attackers.
const HONEST_CPU: &str = "0";
const ATTACKER_CPU: &str = "1";

/// The result of the honest nodes.
#[derive(Debug, Serialize, Deserialize)]
struct HonestResult {
    /// Round trips, shortest first.
    rounds: Vec<Duration>,
    broadcasts: BroadcastResult,
    /// Growth of the resident memory of all honest nodes together since before the attack, at its peak, in KiB.
    grown_kib: u64,
}

/// The result of the honest broadcasts.
#[derive(Debug, Serialize, Deserialize)]
struct BroadcastResult {
    /// Number of broadcasts.
    sent: usize,
    /// The delay of each broadcast that has reached every node until its last delivery, shortest first.
    times: Vec<Duration>,
    /// Number of times that an honest node has not received a broadcast.
    missing: usize,
    /// Number of broadcasts of attackers that an honest node has delivered in a second, on average.
    hostile_per_s: f64,
}

/// Returns a case for each kind of frames.
pub(crate) fn cases() -> Vec<Case> {
    let links = Case::count(LINKS, "link");
    let case = |attack: Attack| Case {
        name: format!("{}, {}", links.name, attack.name()),
        ..links.clone()
    };
    Attack::ALL.iter().copied().map(case).collect()
}

/// Returns whether `system` is attacked in this case, or is the reference.
pub(crate) fn supports(system: System, case: &Case) -> bool {
    system == System::RawTls || attack(case).is_ok_and(|attack| attack.system() == system)
}

fn attack(case: &Case) -> Result<Attack> {
    let (_, attack) = case.name.split_once(", ").context("a case without an attack")?;
    Attack::named(attack)
}

/// Measures the honest nodes beside the attackers.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let mut honest = Child::start_on(HONEST_CPU, job.args_with_role(&[HONEST]))?;
    let mut target: String = honest.receive().await?;
    let mut sink = None;
    if job.system == System::RawTls {
        let mut started = Child::start_on(HONEST_CPU, job.args_with_role(&[SINK]))?;
        target = started.receive().await?;
        sink = Some(started);
    }
    let mut attack = Child::start_on(ATTACKER_CPU, job.args_with_role(&[ATTACK, &target]))?;
    attack.receive::<()>().await?;
    tokio::time::sleep(WARM_UP).await;
    let (start, before) = (Instant::now(), totals(&mut attack).await?);
    honest.send(&()).await?;
    let result: HonestResult = honest.receive().await?;
    let after = totals(&mut attack).await?;
    let seconds = start.elapsed().as_secs_f64();
    attack.end().await?;
    honest.end().await?;
    if let Some(sink) = sink {
        sink.end().await?;
    }
    let HonestResult { rounds, broadcasts, grown_kib } = result;
    let mut figures = Vec::new();
    for (name, times, share) in [
        ("request_p50_us", &rounds, 0.5),
        ("request_p99_us", &rounds, 0.99),
        ("broadcast_p50_us", &broadcasts.times, 0.5),
        ("broadcast_p99_us", &broadcasts.times, 0.99),
    ] {
        if !times.is_empty() {
            figures.push(Figure::lower(name, percentile_us(times, share)));
        }
    }
    let lost = broadcasts.sent - broadcasts.times.len();
    let deliveries = (broadcasts.sent * (NODES - 1)) as f64;
    figures.extend([
        Figure::info("broadcasts_lost_percent", 100.0 * lost as f64 / broadcasts.sent as f64),
        Figure::info("deliveries_lost_percent", 100.0 * broadcasts.missing as f64 / deliveries),
        Figure::info("honest_memory_growth_mib", grown_kib as f64 / 1024.0),
        Figure::info("hostile_frames_per_s", (after.sent - before.sent) as f64 / seconds),
        Figure::info("hostile_broadcasts_delivered_per_s", broadcasts.hostile_per_s),
        Figure::info("hostile_links", after.linked as f64),
        Figure::info("hostile_links_ended", (after.ended - before.ended) as f64),
    ]);
    Ok(vec![Measurement::new(job, figures)])
}

async fn totals(attack: &mut Child) -> Result<AttackTotals> {
    attack.send(&()).await?;
    attack.receive().await
}

/// Runs the honest nodes, the server that discards everything, or the attackers.
pub(crate) async fn run_child(job: &Job, rest: &[String]) -> Result<()> {
    match rest {
        [role] if role == HONEST => run_honest(job).await,
        [role] if role == SINK => run_sink().await,
        [role, target] if role == ATTACK => run_attack(job, target).await,
        _ => bail!("{job} has no role {rest:?}"),
    }
}

async fn run_attack(job: &Job, target: &str) -> Result<()> {
    let mut parent = Parent::new();
    let target = match job.system {
        System::RawTls => Target::Sink(target.parse()?),
        _ => Target::Node(target.into()),
    };
    let links = job.case.amount;
    let attackers = Attackers::start(attack(&job.case)?, &target, links, RATE)?;
    let limit = Instant::now() + LINK_TIME;
    // A node may refuse some of the attackers, so the measurement begins when most are linked or time is up.
    while attackers.totals().linked < links as u64 && Instant::now() < limit {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    parent.send(&())?;
    while parent.receive::<()>().await?.is_some() {
        parent.send(&attackers.totals())?;
    }
    Ok(())
}

async fn run_sink() -> Result<()> {
    let mut parent = Parent::new();
    let listener = raw::Listener::bind(true).await?;
    parent.send(&listener.address())?;
    tokio::spawn(async move {
        loop {
            // A connection that breaks during the handshake does not end the server.
            let Ok(mut stream) = listener.accept().await else { continue };
            tokio::spawn(async move {
                let mut buffer = vec![0; 16 << 10];
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    parent.wait_for_end().await
}

async fn run_honest(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let logs: Vec<_> = (0..NODES).map(|_| BroadcastLog::default()).collect();
    let system = attack(&job.case)?.system();
    let network = HonestNetwork::form(system, &logs).await?;
    // Without this check, a network that never formed would look like one that the attack has broken.
    let check = network.broadcast(0, CHECK, &logs).await?;
    ensure!(
        check.missing == 0,
        "before the attack, {} of {} broadcasts reached every honest node, and {} deliveries were missing",
        check.times.len(),
        check.sent,
        check.missing
    );
    parent.send(&network.address()?)?;
    let before = memory_kib("VmRSS:")?;
    let Some(()) = parent.receive().await? else { return Ok(()) };
    let (rounds, broadcasts) = tokio::try_join!(
        network.ask(job.duration),
        network.broadcast(check.sent, job.duration, &logs)
    )?;
    // The other systems do not promise that every broadcast arrives.
    ensure!(
        system != System::Peerkit || broadcasts.times.len() == broadcasts.sent,
        "some broadcasts did not reach every honest node"
    );
    let grown_kib = memory_kib("VmHWM:")?.saturating_sub(before);
    parent.send(&HonestResult { rounds, broadcasts, grown_kib })?;
    // The network is not shut down cleanly: the attackers are still linked.
    parent.wait_for_end().await
}

/// Returns a figure of this process's memory, in KiB.
fn memory_kib(name: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(name)).context("no such figure")?;
    let figure = line.split_whitespace().nth(1).context("no figure")?;
    Ok(figure.parse()?)
}

/// The honest nodes, which are all in this process.
enum HonestNetwork {
    /// Nodes of peerkit, which also answer requests.
    Peerkit(Vec<Node>),
    /// Nodes of another system.
    Other(Network),
}

impl HonestNetwork {
    async fn form(system: System, logs: &[BroadcastLog]) -> Result<Self> {
        if system != System::Peerkit {
            return Ok(Self::Other(Network::form(system, logs).await?));
        }
        let mut config = Config::default();
        config.limit_loopback = true;
        config.max_inbound = MAX_INBOUND;
        let mut nodes: Vec<Node> = Vec::new();
        for log in logs {
            let handler = HonestHandler { log: log.clone() };
            let builder = Node::builder().name(HONEST).config(config.clone()).handler(handler);
            let node = builder.listen("127.0.0.1:0").spawn().await?;
            if let Some(first) = nodes.first() {
                let address = *first.listening().first().context("it does not listen")?;
                node.join(&[address.into()]).await?;
            }
            nodes.push(node);
        }
        // The asker has a link with the node under attack that no neighbour takes away.
        let victim = *nodes[VICTIM].listening().first().context("it does not listen")?;
        nodes[ASKER].connect(victim).await?;
        Ok(Self::Peerkit(nodes))
    }

    /// Returns the address of the node under attack.
    fn address(&self) -> Result<String> {
        Ok(match self {
            Self::Peerkit(nodes) => {
                nodes[VICTIM].listening().first().context("it does not listen")?.to_string()
            }
            Self::Other(network) => network.address(VICTIM),
        })
    }

    /// Sends requests to the node under attack, one after the other. Returns the round trips, shortest first.
    /// Returns none if the system has no requests.
    async fn ask(&self, duration: Duration) -> Result<Vec<Duration>> {
        let Self::Peerkit(nodes) = self else { return Ok(Vec::new()) };
        let (asker, victim) = (&nodes[ASKER], nodes[VICTIM].id());
        let (start, mut times) = (Instant::now(), Vec::new());
        while start.elapsed() < duration {
            let sent = Instant::now();
            asker.request(victim, ECHO, Message::bytes(vec![0; SIZE])).await?;
            times.push(sent.elapsed());
            tokio::time::sleep(REQUEST_PAUSE).await;
        }
        times.sort_unstable();
        Ok(times)
    }

    /// Broadcasts at a fixed rate, and waits until every node has received all broadcasts or it is too late. The
    /// broadcasts are numbered from `first`.
    async fn broadcast(
        &self,
        first: usize,
        duration: Duration,
        logs: &[BroadcastLog],
    ) -> Result<BroadcastResult> {
        let hostile = || logs.iter().map(BroadcastLog::hostile).sum::<u64>() as f64;
        let hostile_before = hostile();
        let mut logs = logs.to_vec();
        logs.remove(AUTHOR);
        let (start, mut sent) = (Instant::now(), Vec::new());
        let mut message = [0; SIZE];
        while start.elapsed() < duration {
            put(&mut message, (first + sent.len()) as u64);
            sent.push(Instant::now());
            // A node of another system may have no room for the broadcast, or accept it too late. Then the
            // broadcast is lost.
            let accepted = tokio::time::timeout(MAX_DELAY, self.publish(&message)).await;
            accepted.unwrap_or(Ok(()))?;
            tokio::time::sleep(BROADCAST_PAUSE).await;
        }
        let hostile_per_s =
            (hostile() - hostile_before) / NODES as f64 / start.elapsed().as_secs_f64();
        let limit = Instant::now() + MAX_DELAY;
        let wanted = sent.len() * logs.len();
        let delivered = || logs.iter().map(BroadcastLog::len).sum::<usize>();
        while delivered() < wanted && Instant::now() < limit {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let missing = wanted.saturating_sub(delivered());
        // Of these systems, only peerkit delivers the broadcasts of an author in order.
        let ordered = matches!(self, Self::Peerkit(_));
        let times = broadcast_log::times_of_complete(&logs, first as u64, &sent, ordered)?;
        Ok(BroadcastResult { sent: sent.len(), times, missing, hostile_per_s })
    }

    async fn publish(&self, message: &[u8]) -> Result<()> {
        match self {
            Self::Peerkit(nodes) => drop(nodes[AUTHOR].broadcast(HONEST, message).await?),
            Self::Other(network) => drop(network.broadcast(AUTHOR, message).await?),
        }
        Ok(())
    }
}

/// A handler that answers requests and records broadcasts.
struct HonestHandler {
    log: BroadcastLog,
}

impl Handler for HonestHandler {
    fn node_broadcast(&mut self, _: &mut Context<'_>, broadcast: Broadcast) {
        self.log.record(broadcast.message.body());
    }

    fn node_request(
        &mut self,
        _: &mut Context<'_>,
        _: &Peer,
        _: &str,
        request: Message,
    ) -> Result<Message, Refusal> {
        Ok(request)
    }
}
