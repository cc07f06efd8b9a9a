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
fn only_pieces_that_others_have_are_held_back() {
    let mut seeding = Seeding::default();
    assert!(!seeding.has_sent(0..1));
    seeding.sent(2..5);
    assert!(seeding.has_sent(2..5) && !seeding.has_sent(1..3) && !seeding.has_sent(4..6));
    let mut requester = Requester::default();
    assert!(seeding.serves(&mut requester, Duration::ZERO, 0));
    assert!(!seeding.serves(&mut requester, Duration::ZERO, 1));
}

#[test]
fn the_pieces_that_are_remembered_are_bounded() {
    let mut seeding = Seeding::default();
    seeding.sent(0..u64::MAX);
    assert_eq!(seeding.sent.len(), MAX_SENT);
    seeding.sent(u64::MAX - 1..u64::MAX);
    assert_eq!(seeding.sent.len(), MAX_SENT);
}

#[test]
fn a_requester_that_reaches_no_other_waits_three_times() {
    let mut seeding = Seeding::default();
    let (mut lonely, mut lucky) = (Requester::default(), Requester::default());
    seeding.found(&mut lucky, Duration::from_millis(10));
    for strike in 0..STRIKES {
        assert!(!seeding.serves(&mut lonely, Duration::ZERO, 2), "{strike}");
        assert!(seeding.serves(&mut lonely, 2 * SECOND, 2), "{strike}");
        seeding.found(&mut lucky, Duration::from_millis(10));
    }
    assert!(seeding.serves(&mut lonely, Duration::ZERO, 2));
    assert!(!seeding.serves(&mut lucky, Duration::ZERO, 2), "the others still wait");
    // One success, and it may wait again.
    seeding.found(&mut lonely, SECOND);
    assert!(!seeding.serves(&mut lonely, Duration::ZERO, 2));
}

#[test]
fn where_no_requester_reaches_another_all_are_soon_served() {
    let mut seeding = Seeding::default();
    let mut requesters = [Requester::default(); 100];
    let mut served = Vec::new();
    for waited in 0..=50 {
        let waited = SECOND * waited;
        let mut now = 0;
        for requester in &mut requesters {
            now += usize::from(seeding.serves(requester, waited, 99));
        }
        served.push(now);
    }
    let at = |seconds: usize| served[seconds];
    assert_eq!((at(9), at(10), at(19)), (0, 1, 0));
    assert!((1..=4).contains(&at(20)) && (2..=8).contains(&at(30)));
    assert_eq!(at(50), 100);
}

#[test]
fn patience_follows_the_slowest_success() {
    let mut seeding = Seeding::default();
    let (mut slow, mut other) = (Requester::default(), Requester::default());
    assert!(seeding.serves(&mut other, 10 * SECOND, 99));
    seeding.found(&mut slow, 9 * SECOND);
    seeding.found(&mut slow, SECOND);
    assert!(!seeding.serves(&mut other, 35 * SECOND, 99));
    assert!(seeding.serves(&mut other, 36 * SECOND, 99));
    // Not even one that claims to be very slow keeps the others waiting for ever.
    seeding.found(&mut slow, 600 * SECOND);
    assert!(seeding.serves(&mut other, PATIENCE_MAX, 99));
}

/// A network of one full seed and many who fetch from it, in virtual time. What the machines do takes
/// `slowness` times as long as on an idle one.
struct World {
    now: Instant,
    slowness: u32,
    chance: ChaCha8Rng,
    events: BTreeMap<(Instant, u64), Event>,
    last: u64,
    nodes: Vec<Fetcher>,
    seeding: Seeding,
    /// When the seed's line is free.
    line: Instant,
    /// Pieces that the seed has sent.
    sent: usize,
}

struct Fetcher {
    fetch: Schedule,
    is_done: bool,
    /// Whether the others can reach it, and it them.
    is_reachable: bool,
    /// The nodes that it knows of and does not fetch from yet, and how many of them it is dialling.
    known: VecDeque<usize>,
    dialling: usize,
    /// All nodes that were ever named to it.
    met: BTreeSet<usize>,
    /// The nodes that get its updates.
    followers: Vec<usize>,
    /// Requests for it, by requester.
    queue: VecDeque<(usize, u64)>,
    is_sending: bool,
    /// The pieces that it asked the seed for, and since when it waits for the first of it.
    owed: VecDeque<u64>,
    waited: Duration,
    is_waiting: bool,
    is_served: bool,
    requester: Requester,
}

#[derive(Debug)]
enum Event {
    /// The seed is linked, and names others from then on.
    Begun(usize),
    Named(usize),
    Dialled(usize, usize),
    Announced(usize, usize, u64),
    /// The seed looks whether a requester still has to wait.
    Turn(usize),
    /// A piece has come, from the seed or from another node.
    FromSeed(usize, u64),
    From(usize, usize, u64),
    Review(usize),
}

/// The seed's own id.
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
/// Time that the seed's line takes for a piece.
const UPLOAD: Duration = Duration::from_millis(100);

impl World {
    fn new(fetchers: usize, reachable: usize, slowness: u32) -> Self {
        let nodes = (0..fetchers).map(|n| {
            let layout = Arc::new(Layout::file(PIECES * PIECE).unwrap());
            let held = PieceSet::of_count(PIECES).unwrap();
            Fetcher {
                fetch: Schedule::new(layout, held, *id(n).as_bytes()),
                is_done: false,
                is_reachable: n < reachable,
                known: VecDeque::new(),
                dialling: 0,
                met: BTreeSet::new(),
                followers: Vec::new(),
                queue: VecDeque::new(),
                is_sending: false,
                owed: VecDeque::new(),
                waited: Duration::ZERO,
                is_waiting: false,
                is_served: false,
                requester: Requester::default(),
            }
        });
        let mut world = Self {
            now: Instant::ZERO,
            slowness,
            chance: ChaCha8Rng::from_seed([slowness as u8; 32]),
            events: BTreeMap::new(),
            last: 0,
            nodes: nodes.collect(),
            seeding: Seeding::default(),
            line: Instant::ZERO,
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

    /// Half of so many milliseconds to twice as many, on an idle machine.
    fn work(&mut self, millis: u64) -> Duration {
        let millis = millis / 2 + self.chance.next_u64() % (millis * 3 / 2);
        Duration::from_millis(millis) * self.slowness
    }

    /// Runs until all have all; how many copies the seed has sent.
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
                    let drawn = self.chance.next_u64() as usize % others.len();
                    if self.nodes[n].met.insert(others[drawn]) {
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
                    let held = self.nodes[other].fetch.held().bits(0, 64);
                    self.input(n, Input::Holds(id(other), 0, held.into()));
                    self.nodes[other].followers.push(n);
                }
                self.dial(n);
            }
            Event::Announced(n, other, piece) => {
                self.input(n, Input::Holds(id(other), piece - piece % 8, bit(piece)));
            }
            Event::Turn(n) => self.turn(n),
            Event::FromSeed(n, piece) => {
                self.nodes[n].owed.pop_front();
                self.nodes[n].is_served = false;
                self.arrived(n, seed(), piece);
                self.look(n);
            }
            Event::From(other, n, piece) => {
                self.nodes[other].is_sending = false;
                self.arrived(n, id(other), piece);
                self.send(other);
            }
            Event::Review(n) => {
                let now = self.now;
                self.nodes[n].fetch.handle_timeout(now);
                self.obey(n);
            }
        }
    }

    /// Four at a time, sixteen sources at most.
    fn dial(&mut self, n: usize) {
        while self.nodes[n].dialling < 4
            && self.nodes[n].met.len() - self.nodes[n].known.len() < 16
            && let Some(other) = self.nodes[n].known.pop_front()
        {
            self.nodes[n].dialling += 1;
            let after = self.work(200);
            self.at(after, Event::Dialled(n, other));
        }
    }

    fn input(&mut self, n: usize, input: Input) {
        let now = self.now;
        self.nodes[n].fetch.handle(now, input);
        self.obey(n);
    }

    fn arrived(&mut self, n: usize, from: NodeId, piece: u64) {
        let is_new = !self.nodes[n].fetch.held().contains(piece);
        self.input(n, Input::Arrived { from, pieces: vec![piece] });
        for follower in self.nodes[n].followers.clone().into_iter().filter(|_| is_new) {
            let after = self.work(20);
            self.at(after, Event::Announced(follower, n, piece));
        }
    }

    fn obey(&mut self, n: usize) {
        while let Some(output) = self.nodes[n].fetch.poll() {
            match output {
                Output::Done => self.nodes[n].is_done = true,
                Output::Request { source, first, count } => {
                    let pieces = first..first + u64::from(count);
                    if source == seed() {
                        self.nodes[n].owed.extend(pieces);
                        self.look(n);
                    } else {
                        let other = usize::from(source.as_bytes()[0]);
                        self.nodes[other].queue.extend(pieces.map(|piece| (n, piece)));
                        self.send(other);
                    }
                }
                Output::Cancel(source) if source == seed() => {
                    let node = &mut self.nodes[n];
                    if node.is_served {
                        // What is on its way comes.
                        node.owed.truncate(1);
                    } else if node.is_waiting {
                        self.seeding.found(&mut node.requester, node.waited);
                        node.is_waiting = false;
                        node.owed.clear();
                    }
                }
                Output::Cancel(source) => {
                    let other = usize::from(source.as_bytes()[0]);
                    self.nodes[other].queue.retain(|(by, _)| *by != n);
                }
            }
        }
        if let Some(review) = self.nodes[n].fetch.poll_timeout() {
            self.at(review.since(self.now), Event::Review(n));
        }
    }

    /// Another node sends what it was asked for, one piece after the other.
    fn send(&mut self, other: usize) {
        if self.nodes[other].is_sending {
            return;
        }
        let Some((n, piece)) = self.nodes[other].queue.pop_front() else { return };
        self.nodes[other].is_sending = true;
        let after = self.work(20);
        self.at(after, Event::From(other, n, piece));
    }

    /// The seed begins with what a requester is owed next, if it has not.
    fn look(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if !node.is_waiting && !node.is_served && !node.owed.is_empty() {
            (node.is_waiting, node.waited) = (true, Duration::ZERO);
            self.at(Duration::ZERO, Event::Turn(n));
        }
    }

    fn turn(&mut self, n: usize) {
        let others = self.nodes.len() - 1;
        let node = &mut self.nodes[n];
        let Some(piece) = node.owed.front().copied().filter(|_| node.is_waiting) else { return };
        let is_held_back = self.seeding.has_sent(piece..piece + 1)
            && !self.seeding.serves(&mut node.requester, node.waited, others);
        if is_held_back {
            node.waited += HOLD_BACK_STEP;
            return self.at(HOLD_BACK_STEP, Event::Turn(n));
        }
        (node.is_waiting, node.is_served) = (false, true);
        self.seeding.sent(piece..piece + 1);
        self.sent += 1;
        self.line = self.line.max(self.now) + UPLOAD;
        let after = self.line.since(self.now);
        self.at(after, Event::FromSeed(n, piece));
    }
}

#[test]
fn a_hundred_fetchers_cost_a_seed_little_more_than_one_copy_on_any_machine() {
    for slowness in [1, 3, 10, 30, 100] {
        let copies = World::new(100, 100, slowness).run();
        println!("{slowness} times slower: {copies:.2} copies");
        assert!(copies < 2.5, "{slowness} times slower: {copies:.2} copies");
    }
}

#[test]
fn fetchers_that_reach_no_other_get_all_from_the_seed() {
    for reachable in [0, 1, 60] {
        let copies = World::new(80, reachable, 1).run();
        println!("{reachable} of 80: {copies:.2} copies");
        assert!(copies > (80 - reachable) as f64 * 0.9, "{reachable} of 80: {copies:.2} copies");
    }
}
