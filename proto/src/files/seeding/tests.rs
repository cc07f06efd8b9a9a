use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::*;
use crate::files::fetch::schedule::{Input, Output, Schedule};
use crate::files::{Layout, PIECE, PieceSet};
use crate::id::NodeId;
use crate::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn only_pieces_that_were_sent_and_that_others_can_send_are_delayed() {
    let mut seeding = Seeding::default();
    assert!(!seeding.has_sent(0..1));
    seeding.sent(2..5);
    assert!(seeding.has_sent(2..5) && !seeding.has_sent(1..3) && !seeding.has_sent(4..6));
    let mut requester = Requester::default();
    assert!(seeding.may_serve(&mut requester, Duration::ZERO, 0));
    assert!(!seeding.may_serve(&mut requester, Duration::ZERO, 1));
}

#[test]
fn the_number_of_remembered_pieces_is_limited() {
    let mut seeding = Seeding::default();
    seeding.sent(0..u64::MAX);
    assert_eq!(seeding.sent.len(), MAX_SENT);
    seeding.sent(u64::MAX - 1..u64::MAX);
    assert_eq!(seeding.sent.len(), MAX_SENT);
}

#[test]
fn a_requester_that_reaches_no_other_node_waits_three_times() {
    let mut seeding = Seeding::default();
    let (mut isolated, mut lucky) = (Requester::default(), Requester::default());
    seeding.got_elsewhere(&mut lucky, Duration::from_millis(10));
    for wait in 0..MAX_VAIN_WAITS {
        assert!(!seeding.may_serve(&mut isolated, Duration::ZERO, 2), "{wait}");
        assert!(seeding.may_serve(&mut isolated, 2 * SECOND, 2), "{wait}");
        seeding.got_elsewhere(&mut lucky, Duration::from_millis(10));
    }
    assert!(seeding.may_serve(&mut isolated, Duration::ZERO, 2));
    assert!(!seeding.may_serve(&mut lucky, Duration::ZERO, 2), "the others still wait");
    // After a success it has to wait again.
    seeding.got_elsewhere(&mut isolated, SECOND);
    assert!(!seeding.may_serve(&mut isolated, Duration::ZERO, 2));
}

#[test]
fn if_no_requester_reaches_another_all_are_soon_served() {
    let mut seeding = Seeding::default();
    let mut requesters = [Requester::default(); 100];
    let mut served = Vec::new();
    for waited in 0..=50 {
        let waited = SECOND * waited;
        let mut now = 0;
        for requester in &mut requesters {
            now += usize::from(seeding.may_serve(requester, waited, 99));
        }
        served.push(now);
    }
    let at = |seconds: usize| served[seconds];
    assert_eq!((at(9), at(10), at(19)), (0, 1, 0));
    assert!((1..=4).contains(&at(20)) && (2..=8).contains(&at(30)));
    assert_eq!(at(50), 100);
}

#[test]
fn the_delay_follows_the_longest_wait_before_a_success() {
    let mut seeding = Seeding::default();
    let (mut slow, mut other) = (Requester::default(), Requester::default());
    assert!(seeding.may_serve(&mut other, 10 * SECOND, 99));
    seeding.got_elsewhere(&mut slow, 9 * SECOND);
    seeding.got_elsewhere(&mut slow, SECOND);
    assert!(!seeding.may_serve(&mut other, 35 * SECOND, 99));
    assert!(seeding.may_serve(&mut other, 36 * SECOND, 99));
    // A requester that pretends to be very slow can't make the others wait for ever.
    seeding.got_elsewhere(&mut slow, 600 * SECOND);
    assert!(seeding.may_serve(&mut other, MAX_DELAY, 99));
}

/// A network of one full seed and many fetching nodes, in virtual time. All work takes `slowness` times as
/// long as on an idle computer.
struct World {
    now: Instant,
    slowness: u32,
    rng: ChaCha8Rng,
    events: BTreeMap<(Instant, u64), Event>,
    /// The number of the last event, which keeps events of the same time in order.
    last: u64,
    nodes: Vec<Fetcher>,
    seeding: Seeding,
    /// The time at which the seed has sent everything that it has begun to send.
    upload_free: Instant,
    /// The number of pieces that the seed has sent.
    sent: usize,
}

/// A node that fetches from the seed and from the other nodes.
struct Fetcher {
    schedule: Schedule,
    is_done: bool,
    /// True if this node and the others can reach each other.
    is_reachable: bool,
    /// The nodes that it knows and has not dialled.
    known: VecDeque<usize>,
    /// The number of nodes that it is dialling.
    dialling: usize,
    /// All nodes that the seed has ever named to it.
    named: BTreeSet<usize>,
    /// The nodes that learn which pieces it gets.
    followers: Vec<usize>,
    /// The pieces that other nodes have requested from it, each with the requester.
    queue: VecDeque<(usize, u64)>,
    is_sending: bool,
    /// The pieces that it has requested from the seed and that have not come.
    outstanding: VecDeque<u64>,
    /// The time for which the seed has delayed the first of them.
    waited: Duration,
    /// True while the seed delays that piece.
    is_waiting: bool,
    /// True while the seed sends that piece.
    is_served: bool,
    requester: Requester,
}

#[derive(Debug)]
enum Event {
    /// A node has connected to the seed, which names other nodes to it from then on.
    Begun(usize),
    /// The seed names other nodes to a node.
    Named(usize),
    /// The first node has dialled the second one, which may be unreachable.
    Dialled(usize, usize),
    /// The first node learns that the second one has a piece.
    Announced(usize, usize, u64),
    /// The seed checks whether a requester still has to wait.
    CheckDelay(usize),
    /// A piece has come from the seed.
    FromSeed(usize, u64),
    /// The first node has sent a piece to the second one.
    FromNode(usize, usize, u64),
    /// The timeout of a node's schedule.
    Review(usize),
}

/// The identity of the seed.
fn seed() -> NodeId {
    NodeId::from_bytes([255; 32])
}

fn id(n: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(n).unwrap(); 32])
}

fn bit(piece: u64) -> Bytes {
    vec![1 << (piece % 8)].into()
}

const PIECES: u64 = 9;
/// The time that the seed needs to send a piece.
const UPLOAD: Duration = Duration::from_millis(100);

impl World {
    fn new(fetchers: usize, reachable: usize, slowness: u32) -> Self {
        let nodes = (0..fetchers).map(|n| {
            let layout = Arc::new(Layout::file(PIECES * PIECE).unwrap());
            let held = PieceSet::of_count(PIECES).unwrap();
            Fetcher {
                schedule: Schedule::new(layout, held, *id(n).as_bytes()),
                is_done: false,
                is_reachable: n < reachable,
                known: VecDeque::new(),
                dialling: 0,
                named: BTreeSet::new(),
                followers: Vec::new(),
                queue: VecDeque::new(),
                is_sending: false,
                outstanding: VecDeque::new(),
                waited: Duration::ZERO,
                is_waiting: false,
                is_served: false,
                requester: Requester::default(),
            }
        });
        let mut world = Self {
            now: Instant::ZERO,
            slowness,
            rng: ChaCha8Rng::from_seed([slowness as u8; 32]),
            events: BTreeMap::new(),
            last: 0,
            nodes: nodes.collect(),
            seeding: Seeding::default(),
            upload_free: Instant::ZERO,
            sent: 0,
        };
        for n in 0..fetchers {
            let after = world.work(50);
            world.at(after, Event::Begun(n));
        }
        world
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.last += 1;
        self.events.insert((self.now + after, self.last), event);
    }

    /// Draws the duration of some work: on an idle computer, half of `millis` to twice as long.
    fn work(&mut self, millis: u64) -> Duration {
        let millis = millis / 2 + self.rng.next_u64() % (millis * 3 / 2);
        Duration::from_millis(millis) * self.slowness
    }

    /// Runs until all nodes have all pieces. Returns the number of copies that the seed has sent.
    fn run(&mut self) -> f64 {
        while let Some(((now, _), event)) = self.events.pop_first() {
            assert!(now < Instant::ZERO + 3600 * SECOND, "it never ends");
            self.now = now;
            self.handle(event);
        }
        assert!(self.nodes.iter().all(|node| node.is_done));
        self.sent as f64 / PIECES as f64
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Begun(n) => {
                self.input(n, Input::Ready(seed()));
                self.input(n, Input::Whole(seed()));
                self.at(Duration::ZERO, Event::Named(n));
            }
            Event::Named(n) => {
                let others: Vec<usize> = (0..self.nodes.len()).filter(|o| *o != n).collect();
                for _ in 0..16 {
                    let drawn = self.rng.next_u64() as usize % others.len();
                    if self.nodes[n].named.insert(others[drawn]) {
                        self.nodes[n].known.push_back(others[drawn]);
                    }
                }
                self.dial(n);
                if !self.nodes[n].is_done {
                    self.at(SECOND, Event::Named(n));
                }
            }
            Event::Dialled(n, other) => {
                self.nodes[n].dialling -= 1;
                if self.nodes[n].is_reachable && self.nodes[other].is_reachable {
                    self.input(n, Input::Ready(id(other)));
                    let held = self.nodes[other].schedule.held().bits(0, 64);
                    self.input(n, Input::Holds(id(other), 0, held.into()));
                    self.nodes[other].followers.push(n);
                }
                self.dial(n);
            }
            Event::Announced(n, other, piece) => {
                self.input(n, Input::Holds(id(other), piece - piece % 8, bit(piece)));
            }
            Event::CheckDelay(n) => self.check_delay(n),
            Event::FromSeed(n, piece) => {
                self.nodes[n].outstanding.pop_front();
                self.nodes[n].is_served = false;
                self.arrived(n, seed(), piece);
                self.serve_next(n);
            }
            Event::FromNode(other, n, piece) => {
                self.nodes[other].is_sending = false;
                self.arrived(n, id(other), piece);
                self.send(other);
            }
            Event::Review(n) => {
                let now = self.now;
                self.nodes[n].schedule.handle_timeout(now);
                self.carry_out_outputs(n);
            }
        }
    }

    /// Dials known nodes: four at a time, and sixteen in all.
    fn dial(&mut self, n: usize) {
        while self.nodes[n].dialling < 4
            && self.nodes[n].named.len() - self.nodes[n].known.len() < 16
            && let Some(other) = self.nodes[n].known.pop_front()
        {
            self.nodes[n].dialling += 1;
            let after = self.work(200);
            self.at(after, Event::Dialled(n, other));
        }
    }

    fn input(&mut self, n: usize, input: Input) {
        let now = self.now;
        self.nodes[n].schedule.handle(now, input);
        self.carry_out_outputs(n);
    }

    fn arrived(&mut self, n: usize, from: NodeId, piece: u64) {
        let is_new = !self.nodes[n].schedule.held().contains(piece);
        self.input(n, Input::Arrived { from, pieces: vec![piece] });
        for follower in self.nodes[n].followers.clone().into_iter().filter(|_| is_new) {
            let after = self.work(20);
            self.at(after, Event::Announced(follower, n, piece));
        }
    }

    fn carry_out_outputs(&mut self, n: usize) {
        while let Some(output) = self.nodes[n].schedule.poll() {
            match output {
                Output::Done => self.nodes[n].is_done = true,
                Output::Request { source, first, count } => {
                    let pieces = first..first + u64::from(count);
                    if source == seed() {
                        self.nodes[n].outstanding.extend(pieces);
                        self.serve_next(n);
                    } else {
                        let other = usize::from(source.as_bytes()[0]);
                        self.nodes[other].queue.extend(pieces.map(|piece| (n, piece)));
                        self.send(other);
                    }
                }
                Output::Cancel(source) if source == seed() => {
                    let node = &mut self.nodes[n];
                    if node.is_served {
                        // The piece that is being sent still comes.
                        node.outstanding.truncate(1);
                    } else if node.is_waiting {
                        self.seeding.got_elsewhere(&mut node.requester, node.waited);
                        node.is_waiting = false;
                        node.outstanding.clear();
                    }
                }
                Output::Cancel(source) => {
                    let other = usize::from(source.as_bytes()[0]);
                    self.nodes[other].queue.retain(|(by, _)| *by != n);
                }
            }
        }
        if let Some(review) = self.nodes[n].schedule.poll_timeout() {
            self.at(review.since(self.now), Event::Review(n));
        }
    }

    /// Begins to send the next requested piece of a node, unless it is already sending one.
    fn send(&mut self, other: usize) {
        if self.nodes[other].is_sending {
            return;
        }
        let Some((n, piece)) = self.nodes[other].queue.pop_front() else { return };
        self.nodes[other].is_sending = true;
        let after = self.work(20);
        self.at(after, Event::FromNode(other, n, piece));
    }

    /// Begins with the next outstanding piece of a requester, unless the seed already delays or sends one.
    fn serve_next(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if !node.is_waiting && !node.is_served && !node.outstanding.is_empty() {
            (node.is_waiting, node.waited) = (true, Duration::ZERO);
            self.at(Duration::ZERO, Event::CheckDelay(n));
        }
    }

    fn check_delay(&mut self, n: usize) {
        let others = self.nodes.len() - 1;
        let node = &mut self.nodes[n];
        let Some(piece) = node.outstanding.front().copied().filter(|_| node.is_waiting) else {
            return;
        };
        let is_held_back = self.seeding.has_sent(piece..piece + 1)
            && !self.seeding.may_serve(&mut node.requester, node.waited, others);
        if is_held_back {
            node.waited += DELAY_CHECK_INTERVAL;
            return self.at(DELAY_CHECK_INTERVAL, Event::CheckDelay(n));
        }
        (node.is_waiting, node.is_served) = (false, true);
        self.seeding.sent(piece..piece + 1);
        self.sent += 1;
        self.upload_free = self.upload_free.max(self.now) + UPLOAD;
        let after = self.upload_free.since(self.now);
        self.at(after, Event::FromSeed(n, piece));
    }
}

#[test]
fn a_seed_sends_a_hundred_fetchers_little_more_than_one_copy_at_any_speed() {
    for slowness in [1, 3, 10, 30, 100] {
        let copies = World::new(100, 100, slowness).run();
        println!("{slowness} times slower: {copies:.2} copies");
        assert!(copies < 2.5, "{slowness} times slower: {copies:.2} copies");
    }
}

#[test]
fn fetchers_that_reach_no_other_node_get_all_pieces_from_the_seed() {
    for reachable in [0, 1, 60] {
        let copies = World::new(80, reachable, 1).run();
        println!("{reachable} of 80: {copies:.2} copies");
        assert!(copies > (80 - reachable) as f64 * 0.9, "{reachable} of 80: {copies:.2} copies");
    }
}
