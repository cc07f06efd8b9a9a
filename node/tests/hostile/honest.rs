//! A network of honest nodes, and the checks that it has to pass while strangers attack it and after that.
//!
//! Each check is one of the promises that no stranger can break:
//!
//! - every honest node has at least two honest neighbours, or finds them within [`REPLACE_TIME`];
//! - every honest broadcast arrives once at each honest node;
//! - a discovery by each honest node is complete and finds all the others;
//! - no link between two honest nodes ends;
//! - no node needs more than 64 MiB of memory for the attack;
//! - an honest newcomer joins, is found and hears the others within [`NEWCOMER_TIME`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peerkit::{Config, Event, LinkEnd, Node, NodeId, Reason};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;

use crate::attacker::{
    Conduct, STEP_TIMEOUT, SybilLink, Sybils, honest_address, tasks, until, wait_for_turn, within,
};
use crate::measured::MeasuredNode;

/// Minimum number of honest neighbours of an honest node.
pub(crate) const MIN_NEIGHBOURS: usize = 2;

/// Maximum time until a node has found another neighbour in place of one that it has lost.
const REPLACE_TIME: Duration = Duration::from_secs(10);

/// Time within which an honest newcomer is a part of the network. If other programs use a part of the machine, it is
/// longer by that part: see [`OwnTime`].
const NEWCOMER_TIME: Duration = Duration::from_secs(5);

/// Maximum growth of the measured node's memory during an attack, in KiB: 64 MiB.
const MAX_GROWTH: u64 = 64 << 10;

/// Honest nodes in one network, each in an address group of its own. One of them runs in a process of its own. Only one
/// such network exists at a time.
pub(crate) struct HonestNetwork {
    pub(crate) nodes: Vec<HonestNode>,
    /// One more honest node, which is found by discoveries, and whose memory is measured.
    measured: MeasuredNode,
    /// The identities of all honest nodes.
    pub(crate) ids: BTreeSet<NodeId>,
    config: Config,
    /// Broadcasts of honest nodes, each with its author and the nodes that are to receive it.
    sent: Vec<(NodeId, String, BTreeSet<NodeId>)>,
    _turn: OwnedMutexGuard<()>,
}

/// An honest node, and what its application has seen.
pub(crate) struct HonestNode {
    pub(crate) node: Node,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    /// Titles of received broadcasts, each with the number of times that it came.
    broadcasts: BTreeMap<String, usize>,
    /// Ends of links, each with the peer.
    ended: Vec<(NodeId, LinkEnd)>,
}

impl HonestNode {
    async fn spawn(n: usize, config: &Config) -> Self {
        let log = Arc::<Mutex<Log>>::default();
        let writing = log.clone();
        let builder = Node::builder().name(format!("honest {n}")).config(config.clone());
        let builder = builder.listen(honest_address(n)).callback(move |_, event| {
            let mut log = writing.lock().unwrap();
            match event {
                Event::NodeBroadcast { broadcast } => {
                    *log.broadcasts.entry(broadcast.title.clone()).or_default() += 1;
                }
                Event::InboundNodeDisconnected { peer, link_end }
                | Event::OutboundNodeDisconnected { peer, link_end } => {
                    log.ended.push((peer.id(), link_end.clone()));
                }
                _ => {}
            }
        });
        Self { node: builder.spawn().await.unwrap(), log }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.node.listening()[0]
    }

    /// Returns how often a broadcast with this title has arrived.
    fn received(&self, title: &str) -> usize {
        self.log.lock().unwrap().broadcasts.get(title).copied().unwrap_or_default()
    }

    async fn neighbours(&self, among: &BTreeSet<NodeId>) -> usize {
        let neighbours = self.node.status().await.neighbours;
        neighbours.iter().filter(|id| among.contains(id)).count()
    }
}

impl HonestNetwork {
    /// Starts `count` nodes. Waits until a discovery finds all of them, and each has `neighbours` neighbours.
    pub(crate) async fn start(count: usize, neighbours: usize) -> Self {
        Self::with_config(count, neighbours, Config::default()).await
    }

    pub(crate) async fn with_config(count: usize, neighbours: usize, mut config: Config) -> Self {
        let turn = wait_for_turn().await;
        config.limit_loopback = true;
        let mut nodes: Vec<HonestNode> = Vec::new();
        for n in 0..count {
            let honest = HonestNode::spawn(n, &config).await;
            if let Some(first) = nodes.first() {
                let joining = honest.node.join(first.address());
                within(STEP_TIMEOUT, "a join", joining).await.unwrap();
            }
            nodes.push(honest);
        }
        let first = nodes[0].address();
        let measuring = tokio::task::spawn_blocking(move || MeasuredNode::start(first));
        let measured = within(STEP_TIMEOUT, "the measured node", measuring).await.unwrap();
        let mut ids: BTreeSet<_> = nodes.iter().map(|honest| honest.node.id()).collect();
        ids.insert(measured.id);
        let mut network = Self { nodes, measured, ids, config, sent: Vec::new(), _turn: turn };
        let settling = async {
            for honest in &network.nodes {
                while honest.neighbours(&network.ids).await < neighbours {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            while network.missed(&network.nodes[count / 2]).await != Some(0) {}
        };
        within(STEP_TIMEOUT, "the network", settling).await;
        for honest in &network.nodes {
            honest.log.lock().unwrap().ended.clear();
        }
        network.measured.reset_peak();
        network
    }

    /// Returns the addresses of the honest nodes, that of the measured node first.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let others = self.nodes.iter().map(HonestNode::address);
        [self.measured.address].into_iter().chain(others).collect()
    }

    /// Links the attackers with the honest nodes in turn. They differ in their conduct.
    pub(crate) async fn link_all(&self, sybils: &Sybils) -> Vec<SybilLink> {
        let conducts =
            [Conduct::EndsQueries, Conduct::EndsQueriesIncomplete, Conduct::IgnoresQueries];
        let (mut links, addresses) = (Vec::new(), self.addresses());
        for (n, sybil) in sybils.all.iter().enumerate() {
            let link = sybil.link(addresses[n % addresses.len()], |_| {}).await;
            let link = link.expect("an attacker's link");
            let conduct = conducts[n / addresses.len() % conducts.len()];
            links.push(SybilLink::with_conduct(link, conduct));
        }
        links
    }

    /// Checks all promises at this moment. Each check adds a newcomer to the network, which stays.
    pub(crate) async fn check(&mut self, when: &str) {
        let begin = Instant::now();
        self.check_newcomer(when).await;
        let newcomer = begin.elapsed();
        self.broadcast_from_all(when).await;
        self.check_discoveries(when).await;
        let discoveries = begin.elapsed();
        self.check_broadcasts(when).await;
        let broadcasts = begin.elapsed();
        self.check_neighbours(when).await;
        self.check_links(when);
        let grown = self.measured.peak_growth();
        println!("{when}: {newcomer:?}, {discoveries:?}, {broadcasts:?}, {} KiB more", grown);
        assert!(grown < MAX_GROWTH, "{when}: a node has needed {grown} KiB more");
    }

    /// Starts a node, which joins through an honest node. Checks that it is found and receives broadcasts in time.
    async fn check_newcomer(&mut self, when: &str) {
        let n = self.nodes.len();
        let begin = Instant::now();
        let newcomer = HonestNode::spawn(n, &self.config).await;
        let id = newcomer.node.id();
        let mut progress = "spawned".to_owned();
        let coming = async {
            let joining = newcomer.node.join(self.nodes[n % 3].address());
            joining.await.unwrap_or_else(|error| panic!("{when}: a newcomer's join: {error}"));
            progress = format!("joined after {:?}", begin.elapsed());
            let titles = self.nodes.iter().map(|_| title(n));
            let titles: Vec<_> = titles.collect();
            for (honest, title) in self.nodes.iter().zip(&titles) {
                honest.node.broadcast(title.clone(), "welcome").await.unwrap();
            }
            while titles.iter().any(|title| newcomer.received(title) == 0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            progress += &format!(", heard all after {:?}", begin.elapsed());
            for honest in &self.nodes {
                let mut found = false;
                while !found {
                    let discovery = honest.node.discover(-1).await.unwrap();
                    found = discovery.nodes.iter().any(|node| node.id == id);
                }
            }
        };
        let time = OwnTime::start(&self.measured);
        within(STEP_TIMEOUT, "a newcomer", coming).await;
        let (elapsed, own) = (begin.elapsed(), time.elapsed(&self.measured));
        println!(
            "{when}: a newcomer {progress}, in after {elapsed:?}, {own:?} without other programs"
        );
        assert!(
            own < NEWCOMER_TIME,
            "{when}: a newcomer was in after {elapsed:?}, {own:?} without other programs: {progress}"
        );
        self.ids.insert(id);
        self.nodes.push(newcomer);
    }

    /// Sends a broadcast of each node, which all others have to receive.
    pub(crate) async fn broadcast_from_all(&mut self, when: &str) {
        for honest in &self.nodes {
            let title = title(self.nodes.len());
            let sending = honest.node.broadcast(title.clone(), "honest");
            within(STEP_TIMEOUT, "a broadcast", sending)
                .await
                .unwrap_or_else(|error| panic!("{when}: a broadcast: {error}"));
            self.sent.push((honest.node.id(), title, self.ids.clone()));
        }
    }

    /// Checks that all broadcasts arrive, each once.
    pub(crate) async fn check_broadcasts(&self, when: &str) {
        let arrived = |honest: &HonestNode| {
            let id = honest.node.id();
            let others =
                self.sent.iter().filter(|(author, _, to)| *author != id && to.contains(&id));
            let counts: Vec<_> = others.map(|(_, title, _)| honest.received(title)).collect();
            assert!(counts.iter().all(|count| *count <= 1), "{when}: a broadcast came twice");
            (counts.iter().sum::<usize>(), counts.len())
        };
        let all_arrived =
            || self.nodes.iter().map(arrived).all(|(arrived, expected)| arrived == expected);
        let counts = || format!("{:?}", self.nodes.iter().map(arrived).collect::<Vec<_>>());
        until(&format!("all honest broadcasts {when}"), all_arrived, counts).await;
    }

    /// Checks that a discovery of each honest node is complete and finds all of them. The nodes ask at the same
    /// time.
    pub(crate) async fn check_discoveries(&self, when: &str) {
        let mut discovering = JoinSet::new();
        for honest in &self.nodes {
            let node = honest.node.clone();
            discovering.spawn(async move { (node.name().to_owned(), node.discover(-1).await) });
        }
        for (name, found) in discovering.join_all().await {
            let found = found.unwrap();
            let ids: BTreeSet<_> = found.nodes.iter().map(|node| node.id).collect();
            let missing = self.ids.difference(&ids).count();
            let elapsed = found.elapsed;
            assert!(missing == 0, "{when}: {name} misses {missing} nodes, after {elapsed:?}");
            assert!(
                found.complete,
                "{when}: {name} has an incomplete discovery, after {elapsed:?}"
            );
        }
    }

    /// Returns the number of honest nodes that a discovery misses; `None` if it is not complete.
    async fn missed(&self, honest: &HonestNode) -> Option<usize> {
        let found = honest.node.discover(-1).await.unwrap();
        let ids: BTreeSet<_> = found.nodes.iter().map(|node| node.id).collect();
        found.complete.then(|| self.ids.difference(&ids).count())
    }

    /// Checks that each honest node has honest neighbours. If one of the other nodes has given its place to somebody
    /// else, it finds another soon.
    pub(crate) async fn check_neighbours(&self, when: &str) {
        for honest in &self.nodes {
            let started = Instant::now();
            loop {
                let neighbours = honest.neighbours(&self.ids).await;
                if neighbours >= MIN_NEIGHBOURS {
                    break;
                }
                let name = honest.node.name();
                let is_late = started.elapsed() > REPLACE_TIME;
                assert!(!is_late, "{when}: {name} has {neighbours} neighbours");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Checks that no link between two honest nodes has ended since the start, except those that the membership has
    /// replaced for an honest newcomer.
    pub(crate) fn check_links(&self, when: &str) {
        let replaced =
            |end: &LinkEnd| matches!(end.reason, Reason::NeighbourReplaced | Reason::NotNeeded);
        let ended: Vec<_> = self.ended().into_iter().filter(|end| !replaced(end)).collect();
        assert!(ended.is_empty(), "{when}: links between honest nodes have ended: {ended:?}");
    }

    /// Checks that no link between two honest nodes has ended at all. This holds in a network that has places for
    /// all nodes. The attackers may ask for places.
    pub(crate) fn check_no_link_has_ended(&self, when: &str) {
        let ended = self.ended();
        assert!(ended.is_empty(), "{when}: links between honest nodes have ended: {ended:?}");
    }

    /// Returns the ends of links between honest nodes.
    fn ended(&self) -> Vec<LinkEnd> {
        let logs = self.nodes.iter().map(|honest| honest.log.lock().unwrap());
        let of_log = |log: std::sync::MutexGuard<'_, Log>| {
            let of_honest = log.ended.iter().filter(|(id, _)| self.ids.contains(id));
            of_honest.map(|(_, end)| end.clone()).collect::<Vec<_>>()
        };
        logs.flat_map(of_log).collect()
    }

    /// Waits until the honest nodes have no links with attackers.
    pub(crate) async fn wait_until_attackers_are_gone(&self) {
        let is_honest = |honest: &HonestNode| {
            honest.node.peers().iter().all(|peer| self.ids.contains(&peer.id()))
        };
        let are_gone = || self.nodes.iter().all(is_honest);
        until("no links with attackers", are_gone, String::new).await;
    }

    /// Stops all nodes, and checks that no task is left.
    pub(crate) async fn stop(self) {
        drop(self.measured);
        for honest in self.nodes {
            within(STEP_TIMEOUT, "a node's stop", honest.node.shutdown()).await;
        }
        until("no tasks", || tasks() == 0, || format!("{} tasks", tasks())).await;
    }
}

/// Returns a title that no other broadcast has.
fn title(n: usize) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{n} nodes, {}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Measures time without the part of it that other programs had. If they use three quarters of the machine's
/// processors, one second counts as a quarter of a second. But no more is left out than the threads have waited for a
/// processor: time in which they have waited for something else counts in full.
struct OwnTime {
    begin: Instant,
    waited: Duration,
    machine: MachineTicks,
}

/// Processor time since the machine started, in ticks of all processors together.
struct MachineTicks {
    total: u64,
    /// Time of other programs than this one and the measured node.
    others: u64,
}

impl OwnTime {
    fn start(measured: &MeasuredNode) -> Self {
        let waited = processor_wait(measured);
        Self { begin: Instant::now(), waited, machine: MachineTicks::now(measured) }
    }

    fn elapsed(&self, measured: &MeasuredNode) -> Duration {
        let now = MachineTicks::now(measured);
        let total = now.total.saturating_sub(self.machine.total).max(1);
        let others = now.others.saturating_sub(self.machine.others).min(total);
        let elapsed = self.begin.elapsed();
        let (own, all) = (u32::try_from(total - others).unwrap(), u32::try_from(total).unwrap());
        let waited = processor_wait(measured).saturating_sub(self.waited);
        (elapsed * own / all).max(elapsed.saturating_sub(waited))
    }
}

impl MachineTicks {
    fn now(measured: &MeasuredNode) -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap();
        // user, nice, system, idle, iowait, irq, softirq, steal
        let times = text.lines().next().unwrap().split_whitespace().skip(1).take(8);
        let times: Vec<u64> = times.map(|ticks| ticks.parse().unwrap()).collect();
        let total = times.iter().sum();
        let unused = times[3] + times[4];
        let own = process_ticks(std::process::id()) + process_ticks(measured.process_id());
        Self { total, others: u64::saturating_sub(total, unused + own) }
    }
}

/// Returns the time for which the threads of this process and of the measured node have waited for a processor, all
/// together.
fn processor_wait(measured: &MeasuredNode) -> Duration {
    let threads = [std::process::id(), measured.process_id()].map(|process| {
        std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten()
    });
    let wait = threads.into_iter().flatten().filter_map(|thread| {
        let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        times.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(wait.sum())
}

/// Returns the processor time of a process, in ticks.
fn process_ticks(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name of the program, in parentheses, may have spaces. User and system time are the 12th and 13th field
    // after it.
    let (_, fields) = text.rsplit_once(')').unwrap();
    fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}
