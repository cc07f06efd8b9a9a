//! One fetch from many simulated sources in virtual time: some lose connections, lie, vanish, or are
//! never there.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// How a source behaves. The default is honest, has everything, and stays.
#[derive(Debug, Clone)]
struct Ways {
    /// The pieces that it has; `None`: everything.
    holds: Option<BTreeSet<u64>>,
    /// Further pieces that it gets one by one, one in 400 ms.
    gets: Vec<u64>,
    /// The piece that it sends altered.
    bad: Option<u64>,
    /// Bytes that it claims beyond the size.
    claims: u64,
    /// It is gone for ten seconds after so many pieces; or for ever.
    leaves_after: Option<(usize, bool)>,
    /// Dials that it hangs up on before it answers one.
    hangs_up: u32,
    is_reachable: bool,
    /// Whether it answers searches. If not, the fetch is begun with it.
    is_listed: bool,
    /// Milliseconds that it needs for a piece.
    pace: u64,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            holds: None,
            gets: Vec::new(),
            bad: None,
            claims: 0,
            leaves_after: None,
            hangs_up: 0,
            is_reachable: true,
            is_listed: true,
            pace: 20,
        }
    }
}

impl Ways {
    /// Returns whether the whole content can be had from it alone.
    fn is_good(&self) -> bool {
        let stays = !matches!(self.leaves_after, Some((_, true)));
        let is_honest = self.bad.is_none() && self.claims == 0;
        self.holds.is_none() && is_honest && stays && self.is_reachable && self.hangs_up < 4
    }

    fn has(&self, piece: u64) -> bool {
        self.holds.as_ref().is_none_or(|holds| holds.contains(&piece))
    }
}

#[derive(Debug)]
struct Peer {
    ways: Ways,
    sent: usize,
    hung_up: u32,
    is_gone: bool,
}

/// A connection to a source.
#[derive(Debug)]
struct Line {
    peer: usize,
    queue: VecDeque<u64>,
    is_sending: bool,
    /// It is broken, which the fetch does not know yet.
    is_broken: bool,
}

#[derive(Debug)]
enum Event {
    Input(Input),
    /// The source of a connection sends its next piece.
    Send(SourceId),
    /// A source has got another piece.
    Gets(usize),
    /// A source is there again.
    Back(usize),
    /// The searching node's neighbours have answered.
    Answers,
}

struct World {
    fetch: Fetch,
    now: Instant,
    chance: ChaCha8Rng,
    events: BTreeMap<(Instant, u64), Event>,
    last: u64,
    /// Pieces of the content, and its bytes.
    count: u64,
    size: u64,
    peers: Vec<Peer>,
    lines: BTreeMap<SourceId, Line>,
    /// Connections that are lost, of a thousand things that are asked for.
    loss: u64,
    /// The size that was settled.
    settled: Option<u64>,
    held: BTreeSet<u64>,
    /// Pieces that were sent although they were there.
    wasted: usize,
    dropped: BTreeSet<usize>,
    over: Option<Output>,
    trace: Vec<(Instant, Output)>,
}

impl World {
    fn new(count: u64, ways: Vec<Ways>, loss: u64, seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let given = ways.iter().enumerate().filter(|(_, ways)| !ways.is_listed);
        let given: Vec<_> = given.map(|(n, _)| at_address(u8::try_from(n + 1).unwrap())).collect();
        let options = Options {
            own: id(0),
            from: given,
            ask_network: true,
            is_patient: false,
            patience: 60 * SECOND,
        };
        let peer = |ways| Peer { ways, sent: 0, hung_up: 0, is_gone: false };
        let mut world = Self {
            fetch: Fetch::new(Instant::ZERO, options, bytes),
            now: Instant::ZERO,
            chance: ChaCha8Rng::from_seed(bytes),
            events: BTreeMap::new(),
            last: 0,
            count,
            size: count * PIECE - 10,
            peers: ways.into_iter().map(peer).collect(),
            lines: BTreeMap::new(),
            loss,
            settled: None,
            held: BTreeSet::new(),
            wasted: 0,
            dropped: BTreeSet::new(),
            over: None,
            trace: Vec::new(),
        };
        for peer in 0..world.peers.len() {
            world.at(0, Event::Gets(peer));
        }
        world
    }

    fn at(&mut self, millis: u64, event: Event) {
        self.last += 1;
        self.events.insert((self.now + Duration::from_millis(millis), self.last), event);
    }

    fn draw(&mut self, most: u64) -> u64 {
        self.chance.next_u64() % most.max(1)
    }

    /// Has the fetch learn something from a source after a while; or nothing, and in the end that
    /// the connection is lost.
    fn answer(&mut self, source: SourceId, input: Input) {
        let after = 5 + self.draw(100);
        if self.draw(1000) < self.loss {
            let fault = Fault::Lost;
            return self.at(30_000, Event::Input(Input::Failed { source, fault }));
        }
        self.at(after, Event::Input(input));
    }

    /// Runs until the fetch is over.
    fn run(&mut self) {
        let mut turns = 0;
        self.obey();
        while self.over.is_none() {
            turns += 1;
            assert!(turns < 200_000 && self.now < Instant::ZERO + 36_000 * SECOND, "it never ends");
            let next = self.events.first_key_value().map(|((at, _), _)| *at);
            let due = self.fetch.poll_timeout();
            assert!(next.is_some() || due.is_some(), "it sleeps for ever: {:?}", self.fetch);
            if let Some(due) = due
                && next.is_none_or(|next| due < next)
            {
                self.now = self.now.max(due);
                self.fetch.handle(self.now, Input::Timeout);
                let next = self.fetch.poll_timeout();
                assert!(next.is_none_or(|next| next > self.now), "what is due is not done");
            } else if let Some(((now, _), event)) = self.events.pop_first() {
                self.now = now;
                self.happen(event);
            }
            self.obey();
        }
        assert_eq!((self.fetch.poll(), self.fetch.poll_timeout()), (None, None));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.fetch.handle(self.now, input),
            Event::Answers => {
                for n in 0..self.peers.len() {
                    let is_there = self.peers[n].ways.is_listed && !self.peers[n].is_gone;
                    if is_there && self.draw(1000) >= self.loss {
                        let found = Input::Found(node(u8::try_from(n + 1).unwrap()));
                        let after = self.draw(200);
                        self.at(after, Event::Input(found));
                    }
                }
                self.at(200, Event::Input(Input::Searched));
            }
            Event::Gets(n) => {
                let Some(piece) = self.peers[n].ways.gets.pop() else { return };
                if let Some(holds) = &mut self.peers[n].ways.holds {
                    holds.insert(piece);
                }
                let lines = self.lines.iter().filter(|(_, line)| line.peer == n);
                let sources: Vec<SourceId> = lines.map(|(source, _)| *source).collect();
                for source in sources {
                    let bits = vec![1 << (piece % 8)].into();
                    let holds = Input::Holds { source, first: piece - piece % 8, bits };
                    self.at(10, Event::Input(holds));
                }
                self.at(400, Event::Gets(n));
            }
            Event::Back(n) => (self.peers[n].is_gone, self.peers[n].sent) = (false, 0),
            Event::Send(source) => self.send(source),
        }
    }

    fn send(&mut self, source: SourceId) {
        let Some(line) = self.lines.get_mut(&source).filter(|line| !line.is_broken) else { return };
        line.is_sending = false;
        let Some(piece) = line.queue.pop_front() else { return };
        let n = line.peer;
        let peer = &mut self.peers[n];
        if let Some((_, for_ever)) = peer.ways.leaves_after.filter(|(most, _)| peer.sent >= *most) {
            peer.is_gone = true;
            if !for_ever {
                self.at(10_000, Event::Back(n));
            }
            let gone = self.lines.iter_mut().filter(|(_, line)| line.peer == n && !line.is_broken);
            let gone = gone.map(|(source, line)| {
                line.is_broken = true;
                *source
            });
            for source in gone.collect::<Vec<_>>() {
                self.at(10, Event::Input(Input::Failed { source, fault: Fault::Lost }));
            }
            return;
        }
        peer.sent += 1;
        // The last piece shows that the size is another.
        let is_wrong = peer.ways.claims > 0 && piece == self.count - 1;
        let is_bad = is_wrong || peer.ways.bad == Some(piece);
        self.start(source);
        if self.draw(1000) < self.loss {
            self.lines.entry(source).and_modify(|line| line.is_broken = true);
            return self.at(30, Event::Input(Input::Failed { source, fault: Fault::Lost }));
        }
        if is_bad {
            return self.at(5, Event::Input(Input::Failed { source, fault: Fault::Lie }));
        }
        self.wasted += usize::from(!self.held.insert(piece));
        self.fetch.handle(self.now, Input::Stored { source, pieces: vec![piece] });
    }

    /// Begins to send what is asked for on a connection.
    fn start(&mut self, source: SourceId) {
        let Some(line) = self.lines.get_mut(&source) else { return };
        if !line.is_sending && !line.is_broken && !line.queue.is_empty() {
            line.is_sending = true;
            let pace = self.peers[line.peer].ways.pace;
            self.at(pace, Event::Send(source));
        }
    }

    fn obey(&mut self) {
        while let Some(output) = self.fetch.poll() {
            assert!(self.over.is_none(), "{output:?} after the end");
            self.trace.push((self.now, output.clone()));
            self.carry_out(output);
        }
        assert!(self.lines.len() <= MAX_SOURCES);
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Search => self.at(10, Event::Answers),
            Output::Dial(source, candidate) => self.dial(source, &candidate),
            Output::Prove { source, with_size } => {
                let ways = &self.peers[self.lines[&source].peer].ways;
                let is_lie = with_size && (ways.claims > 0 || !ways.has(self.count - 1));
                let fault = Fault::Lie;
                self.answer(
                    source,
                    if is_lie { Input::Failed { source, fault } } else { Input::Proven(source) },
                );
            }
            Output::Open(source) => {
                assert_eq!(self.settled, None);
                let size = self.size + self.peers[self.lines[&source].peer].ways.claims;
                self.settled = Some(size);
                let layout = Arc::new(Layout::file(size).unwrap());
                let held = PieceSet::of_count(layout.count()).unwrap();
                self.at(50, Event::Input(Input::Opened { layout, held }));
            }
            Output::Follow(source) => {
                let ways = self.peers[self.lines[&source].peer].ways.clone();
                assert_eq!(self.settled, Some(self.size + ways.claims));
                self.answer(source, Input::Ready { source, is_whole: ways.holds.is_none() });
                if let Some(holds) = ways.holds {
                    let mut bits = vec![0; usize::try_from(self.count / 8 + 1).unwrap()];
                    holds.iter().for_each(|p| bits[*p as usize / 8] |= 1 << (p % 8));
                    // After it is ready, which it may never be.
                    let holds = Input::Holds { source, first: 0, bits: bits.into() };
                    self.at(110, Event::Input(holds));
                }
            }
            Output::Request { source, first, count } => {
                let line = self.lines.get_mut(&source).expect("it is connected");
                for piece in first..first + u64::from(count) {
                    assert!(self.peers[line.peer].ways.has(piece), "{piece} is not there");
                    assert!(!line.queue.contains(&piece), "{piece} is asked for twice");
                    assert!(!self.held.contains(&piece), "{piece} is here");
                    line.queue.push_back(piece);
                }
                self.start(source);
            }
            Output::Cancel(source) => {
                if let Some(line) = self.lines.get_mut(&source) {
                    line.queue.clear();
                }
            }
            Output::HangUp(source) => _ = self.lines.remove(&source),
            Output::ReportBan { source, id, why } => {
                let peer = usize::from(id.as_bytes()[0]) - 1;
                let ways = &self.peers[peer].ways;
                let is_liar = ways.bad.is_some() || ways.claims > 0;
                let cannot_prove = !ways.has(self.count - 1);
                assert!(is_liar || (why == Ban::Lie && cannot_prove), "{ways:?}");
                assert!(!self.lines.contains_key(&source));
                self.dropped.insert(peer);
            }
            Output::Reset => {
                self.held.clear();
                self.settled = None;
            }
            Output::Complete(_) => {}
            Output::Done | Output::GiveUp(_) => self.over = Some(output),
        }
    }

    fn dial(&mut self, source: SourceId, candidate: &SourceCandidate) {
        let at = candidate.addresses[0].to_string();
        let n: usize = at.split(['.', ':']).nth(3).unwrap().parse().unwrap();
        let (n, id) = (n - 1, id(u8::try_from(n).unwrap()));
        assert!(!self.dropped.contains(&n), "{n} was dropped");
        let peer = &mut self.peers[n];
        let fault = if !peer.ways.is_reachable || peer.is_gone {
            Some(Fault::Unreachable)
        } else if peer.hung_up < peer.ways.hangs_up {
            peer.hung_up += 1;
            Some(Fault::HungUp)
        } else {
            None
        };
        let claim = Claim { kind: FileKind::File, size: self.size + peer.ways.claims };
        if let Some(fault) = fault {
            return self.at(20, Event::Input(Input::Failed { source, fault }));
        }
        self.lines.insert(
            source,
            Line { peer: n, queue: VecDeque::new(), is_sending: false, is_broken: false },
        );
        self.at(4, Event::Input(Input::Identified { source, id }));
        self.answer(source, Input::Described { source, claim });
    }
}

fn piece_set(count: u64) -> impl Strategy<Value = BTreeSet<u64>> {
    proptest::collection::btree_set(0..count, 0..usize::try_from(count).unwrap() + 1)
}

fn ways(count: u64) -> impl Strategy<Value = Ways> {
    let holds = prop_oneof![2 => Just(None), 3 => piece_set(count).prop_map(Some)];
    let gets = piece_set(count).prop_map(|set| set.into_iter().collect());
    let bad = prop_oneof![4 => Just(None), 1 => (0..count).prop_map(Some)];
    let claims = prop_oneof![6 => Just(0), 1 => Just(5u64)];
    let leaves_after =
        prop_oneof![2 => Just(None), 1 => (1usize..30, any::<bool>()).prop_map(Some)];
    let hangs_up = prop_oneof![3 => Just(0), 1 => 0u32..8];
    let there = (prop::bool::weighted(0.9), prop::bool::weighted(0.8));
    (holds, gets, bad, claims, leaves_after, hangs_up, there, 1u64..400).prop_map(
        |(holds, gets, bad, claims, leaves_after, hangs_up, there, pace)| Ways {
            holds,
            gets,
            bad,
            claims,
            leaves_after,
            hangs_up,
            is_reachable: there.0,
            is_listed: there.1,
            pace,
        },
    )
}

fn worlds() -> impl Strategy<Value = (u64, Vec<Ways>, u64, u64)> {
    (1u64..60).prop_flat_map(|count| {
        let ways = proptest::collection::vec(ways(count), 0..24);
        (Just(count), ways, prop_oneof![Just(0), 0u64..40], any::<u64>())
    })
}

proptest! {
    #[test]
    fn no_piece_is_lost_and_the_fetch_always_ends((count, ways, loss, seed) in worlds()) {
        let mut world = World::new(count, ways.clone(), loss, seed);
        world.run();
        let is_done = world.over == Some(Output::Done);
        prop_assert_eq!(is_done, world.held.len() as u64 == count);
        prop_assert!(!is_done || world.settled == Some(world.size));
        let is_certain = loss == 0 && ways.iter().any(Ways::is_good);
        prop_assert!(is_done || !is_certain, "{:?}", world.over);
        // What is asked of two sources near the end, and what was on its way when it was cancelled.
        prop_assert!(world.wasted <= 3 * MAX_SOURCES, "{} of {}", world.wasted, count);
    }
}

/// Forty sources of which a third lie, leave or are not there, over lines of which one in fifty
/// things asked for is lost.
fn forty() -> Vec<Ways> {
    let half = |odd| Some((0..400).filter(|piece| piece % 2 == odd).collect());
    let mut all = vec![Ways { pace: 40, ..Ways::default() }; 8];
    all.extend(vec![Ways { holds: half(0), ..Ways::default() }; 8]);
    all.extend(vec![Ways { holds: half(1), gets: (0..50).collect(), ..Ways::default() }; 8]);
    all.extend(vec![Ways { leaves_after: Some((10, false)), ..Ways::default() }; 4]);
    all.extend(vec![Ways { leaves_after: Some((3, true)), ..Ways::default() }; 4]);
    all.extend(vec![Ways { bad: Some(17), ..Ways::default() }; 2]);
    all.extend(vec![Ways { claims: 9, pace: 1, ..Ways::default() }; 2]);
    all.extend(vec![Ways { is_reachable: false, is_listed: false, ..Ways::default() }; 2]);
    all.extend(vec![Ways { hangs_up: 3, ..Ways::default() }; 2]);
    all
}

#[test]
fn a_seed_decides_all_of_a_fetch_from_forty_sources() {
    for seed in 0..20 {
        let mut world = World::new(400, forty(), 20, seed);
        world.run();
        assert_eq!(world.over, Some(Output::Done), "seed {seed}");
        assert!(world.now < Instant::ZERO + 60 * SECOND, "seed {seed}: {:?}", world.now);
        assert!(world.wasted < 40, "seed {seed}: {}", world.wasted);
        let mut again = World::new(400, forty(), 20, seed);
        again.run();
        assert!(world.trace == again.trace, "seed {seed}");
    }
    let trace = |seed| {
        let mut world = World::new(400, forty(), 20, seed);
        world.run();
        world.trace
    };
    assert!(trace(1) != trace(2));
}
