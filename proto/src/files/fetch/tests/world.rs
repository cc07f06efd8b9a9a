//! One fetch from many simulated sources in virtual time. Some sources lose connections, lie, vanish, or are
//! unreachable.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// The behaviour of a source. The default source is honest, has everything, and stays.
#[derive(Debug, Clone)]
struct Behaviour {
    /// The pieces that it has; `None` for all.
    holds: Option<BTreeSet<u64>>,
    /// Further pieces that it gets, one every 400 ms.
    later_pieces: Vec<u64>,
    /// The piece that it sends with wrong bytes.
    bad_piece: Option<u64>,
    /// The number of bytes by which it exaggerates the size.
    extra_size: u64,
    /// The number of pieces after which it vanishes, and whether for ever. If not, it is back after ten
    /// seconds.
    vanishes_after: Option<(usize, bool)>,
    /// The number of dials on which it hangs up before it answers one.
    hangs_up: u32,
    is_reachable: bool,
    /// True if a search finds it. If not, the fetch knows its address from the start.
    is_listed: bool,
    /// The time to send one piece, in milliseconds.
    pace: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            holds: None,
            later_pieces: Vec::new(),
            bad_piece: None,
            extra_size: 0,
            vanishes_after: None,
            hangs_up: 0,
            is_reachable: true,
            is_listed: true,
            pace: 20,
        }
    }
}

impl Behaviour {
    /// Returns whether the whole content can be fetched from this source alone.
    fn is_good(&self) -> bool {
        let stays = !matches!(self.vanishes_after, Some((_, true)));
        let is_honest = self.bad_piece.is_none() && self.extra_size == 0;
        self.holds.is_none() && is_honest && stays && self.is_reachable && self.hangs_up < 4
    }

    fn has(&self, piece: u64) -> bool {
        self.holds.as_ref().is_none_or(|holds| holds.contains(&piece))
    }
}

#[derive(Debug)]
struct Peer {
    behaviour: Behaviour,
    sent: usize,
    hung_up: u32,
    is_gone: bool,
}

/// A connection to a source.
#[derive(Debug)]
struct Connection {
    peer: usize,
    queue: VecDeque<u64>,
    is_sending: bool,
    /// True if it is broken, even if the fetch does not know that yet.
    is_broken: bool,
}

#[derive(Debug)]
enum Event {
    Input(Input),
    /// The source of a connection sends its next piece.
    Send(SourceId),
    /// A source has got another piece.
    Gets(usize),
    /// A source that had vanished can be reached again.
    Back(usize),
    /// The nodes that a search has found answer.
    Answers,
}

struct World {
    fetch: Fetch,
    now: Instant,
    rng: ChaCha8Rng,
    events: BTreeMap<(Instant, u64), Event>,
    last: u64,
    /// The number of pieces of the content.
    count: u64,
    /// The number of bytes of the content.
    size: u64,
    peers: Vec<Peer>,
    connections: BTreeMap<SourceId, Connection>,
    /// The probability that a request or a piece is lost with its connection, in thousandths.
    loss: u64,
    /// The size of the content that was opened.
    settled: Option<u64>,
    held: BTreeSet<u64>,
    /// The number of pieces that came more than once.
    wasted: usize,
    banned: BTreeSet<usize>,
    over: Option<Output>,
    trace: Vec<(Instant, Output)>,
}

impl World {
    fn new(count: u64, behaviours: Vec<Behaviour>, loss: u64, seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let given = behaviours.iter().enumerate().filter(|(_, behaviour)| !behaviour.is_listed);
        let given: Vec<_> = given.map(|(n, _)| at_address(u8::try_from(n + 1).unwrap())).collect();
        let options = Options {
            own: id(0),
            from: given,
            ask_network: true,
            is_patient: false,
            patience: 60 * SECOND,
        };
        let peer = |behaviour| Peer { behaviour, sent: 0, hung_up: 0, is_gone: false };
        let mut world = Self {
            fetch: Fetch::new(Instant::ZERO, options, bytes),
            now: Instant::ZERO,
            rng: ChaCha8Rng::from_seed(bytes),
            events: BTreeMap::new(),
            last: 0,
            count,
            size: count * PIECE - 10,
            peers: behaviours.into_iter().map(peer).collect(),
            connections: BTreeMap::new(),
            loss,
            settled: None,
            held: BTreeSet::new(),
            wasted: 0,
            banned: BTreeSet::new(),
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
        self.rng.next_u64() % most.max(1)
    }

    /// Schedules an input from a source. If the connection is lost, schedules the failure after 30 s instead.
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
        self.carry_out_outputs();
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
                assert!(
                    next.is_none_or(|next| next > self.now),
                    "the timeout has not changed anything"
                );
            } else if let Some(((now, _), event)) = self.events.pop_first() {
                self.now = now;
                self.happen(event);
            }
            self.carry_out_outputs();
        }
        assert_eq!((self.fetch.poll(), self.fetch.poll_timeout()), (None, None));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.fetch.handle(self.now, input),
            Event::Answers => {
                for n in 0..self.peers.len() {
                    let is_there = self.peers[n].behaviour.is_listed && !self.peers[n].is_gone;
                    if is_there && self.draw(1000) >= self.loss {
                        let found = Input::Found(node(u8::try_from(n + 1).unwrap()));
                        let after = self.draw(200);
                        self.at(after, Event::Input(found));
                    }
                }
                self.at(200, Event::Input(Input::Searched));
            }
            Event::Gets(n) => {
                let Some(piece) = self.peers[n].behaviour.later_pieces.pop() else { return };
                if let Some(holds) = &mut self.peers[n].behaviour.holds {
                    holds.insert(piece);
                }
                let connections =
                    self.connections.iter().filter(|(_, connection)| connection.peer == n);
                let sources: Vec<SourceId> = connections.map(|(source, _)| *source).collect();
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
        let Some(connection) =
            self.connections.get_mut(&source).filter(|connection| !connection.is_broken)
        else {
            return;
        };
        connection.is_sending = false;
        let Some(piece) = connection.queue.pop_front() else { return };
        let n = connection.peer;
        let peer = &mut self.peers[n];
        if let Some((_, for_ever)) =
            peer.behaviour.vanishes_after.filter(|(most, _)| peer.sent >= *most)
        {
            peer.is_gone = true;
            if !for_ever {
                self.at(10_000, Event::Back(n));
            }
            let gone = self
                .connections
                .iter_mut()
                .filter(|(_, connection)| connection.peer == n && !connection.is_broken);
            let gone = gone.map(|(source, connection)| {
                connection.is_broken = true;
                *source
            });
            for source in gone.collect::<Vec<_>>() {
                self.at(10, Event::Input(Input::Failed { source, fault: Fault::Lost }));
            }
            return;
        }
        peer.sent += 1;
        // The last piece shows that the size was a lie.
        let is_wrong = peer.behaviour.extra_size > 0 && piece == self.count - 1;
        let is_bad = is_wrong || peer.behaviour.bad_piece == Some(piece);
        self.start(source);
        if self.draw(1000) < self.loss {
            self.connections.entry(source).and_modify(|connection| connection.is_broken = true);
            return self.at(30, Event::Input(Input::Failed { source, fault: Fault::Lost }));
        }
        if is_bad {
            return self.at(5, Event::Input(Input::Failed { source, fault: Fault::Lie }));
        }
        self.wasted += usize::from(!self.held.insert(piece));
        self.fetch.handle(self.now, Input::Stored { source, pieces: vec![piece] });
    }

    /// Begins to send the next requested piece on a connection, unless it is already sending.
    fn start(&mut self, source: SourceId) {
        let Some(connection) = self.connections.get_mut(&source) else { return };
        if !connection.is_sending && !connection.is_broken && !connection.queue.is_empty() {
            connection.is_sending = true;
            let pace = self.peers[connection.peer].behaviour.pace;
            self.at(pace, Event::Send(source));
        }
    }

    fn carry_out_outputs(&mut self) {
        while let Some(output) = self.fetch.poll() {
            assert!(self.over.is_none(), "{output:?} after the end");
            self.trace.push((self.now, output.clone()));
            self.carry_out(output);
        }
        assert!(self.connections.len() <= MAX_SOURCES);
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Search => self.at(10, Event::Answers),
            Output::Dial(source, candidate) => self.dial(source, &candidate),
            Output::Prove { source, with_size } => {
                let behaviour = &self.peers[self.connections[&source].peer].behaviour;
                let is_lie =
                    with_size && (behaviour.extra_size > 0 || !behaviour.has(self.count - 1));
                let fault = Fault::Lie;
                self.answer(
                    source,
                    if is_lie { Input::Failed { source, fault } } else { Input::Proven(source) },
                );
            }
            Output::Open(source) => {
                assert_eq!(self.settled, None);
                let size =
                    self.size + self.peers[self.connections[&source].peer].behaviour.extra_size;
                self.settled = Some(size);
                let layout = Arc::new(Layout::file(size).unwrap());
                let held = PieceSet::of_count(layout.count()).unwrap();
                self.at(50, Event::Input(Input::Opened { layout, held }));
            }
            Output::Follow(source) => {
                let behaviour = self.peers[self.connections[&source].peer].behaviour.clone();
                assert_eq!(self.settled, Some(self.size + behaviour.extra_size));
                self.answer(source, Input::Ready { source, is_whole: behaviour.holds.is_none() });
                if let Some(holds) = behaviour.holds {
                    let mut bits = vec![0; usize::try_from(self.count / 8 + 1).unwrap()];
                    holds.iter().for_each(|p| bits[*p as usize / 8] |= 1 << (p % 8));
                    // This comes after `Ready`, unless that was lost.
                    let holds = Input::Holds { source, first: 0, bits: bits.into() };
                    self.at(110, Event::Input(holds));
                }
            }
            Output::Request { source, first, count } => {
                let connection = self.connections.get_mut(&source).expect("it is connected");
                for piece in first..first + u64::from(count) {
                    assert!(
                        self.peers[connection.peer].behaviour.has(piece),
                        "{piece} is not there"
                    );
                    assert!(!connection.queue.contains(&piece), "{piece} is asked for twice");
                    assert!(!self.held.contains(&piece), "{piece} is here");
                    connection.queue.push_back(piece);
                }
                self.start(source);
            }
            Output::Cancel(source) => {
                if let Some(connection) = self.connections.get_mut(&source) {
                    connection.queue.clear();
                }
            }
            Output::HangUp(source) => _ = self.connections.remove(&source),
            Output::ReportBan { source, id, why } => {
                let peer = usize::from(id.as_bytes()[0]) - 1;
                let behaviour = &self.peers[peer].behaviour;
                let is_liar = behaviour.bad_piece.is_some() || behaviour.extra_size > 0;
                let cannot_prove = !behaviour.has(self.count - 1);
                assert!(is_liar || (why == Ban::Lie && cannot_prove), "{behaviour:?}");
                assert!(!self.connections.contains_key(&source));
                self.banned.insert(peer);
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
        assert!(!self.banned.contains(&n), "{n} was banned");
        let peer = &mut self.peers[n];
        let fault = if !peer.behaviour.is_reachable || peer.is_gone {
            Some(Fault::Unreachable)
        } else if peer.hung_up < peer.behaviour.hangs_up {
            peer.hung_up += 1;
            Some(Fault::HungUp)
        } else {
            None
        };
        let claim = Claim { kind: FileKind::File, size: self.size + peer.behaviour.extra_size };
        if let Some(fault) = fault {
            return self.at(20, Event::Input(Input::Failed { source, fault }));
        }
        self.connections.insert(
            source,
            Connection { peer: n, queue: VecDeque::new(), is_sending: false, is_broken: false },
        );
        self.at(4, Event::Input(Input::Identified { source, id }));
        self.answer(source, Input::Described { source, claim });
    }
}

fn piece_set(count: u64) -> impl Strategy<Value = BTreeSet<u64>> {
    proptest::collection::btree_set(0..count, 0..usize::try_from(count).unwrap() + 1)
}

fn behaviour(count: u64) -> impl Strategy<Value = Behaviour> {
    let holds = prop_oneof![2 => Just(None), 3 => piece_set(count).prop_map(Some)];
    let later_pieces = piece_set(count).prop_map(|set| set.into_iter().collect());
    let bad_piece = prop_oneof![4 => Just(None), 1 => (0..count).prop_map(Some)];
    let extra_size = prop_oneof![6 => Just(0), 1 => Just(5u64)];
    let vanishes_after =
        prop_oneof![2 => Just(None), 1 => (1usize..30, any::<bool>()).prop_map(Some)];
    let hangs_up = prop_oneof![3 => Just(0), 1 => 0u32..8];
    let there = (prop::bool::weighted(0.9), prop::bool::weighted(0.8));
    (holds, later_pieces, bad_piece, extra_size, vanishes_after, hangs_up, there, 1u64..400)
        .prop_map(
            |(
                holds,
                later_pieces,
                bad_piece,
                extra_size,
                vanishes_after,
                hangs_up,
                there,
                pace,
            )| Behaviour {
                holds,
                later_pieces,
                bad_piece,
                extra_size,
                vanishes_after,
                hangs_up,
                is_reachable: there.0,
                is_listed: there.1,
                pace,
            },
        )
}

fn worlds() -> impl Strategy<Value = (u64, Vec<Behaviour>, u64, u64)> {
    (1u64..60).prop_flat_map(|count| {
        let behaviours = proptest::collection::vec(behaviour(count), 0..24);
        (Just(count), behaviours, prop_oneof![Just(0), 0u64..40], any::<u64>())
    })
}

proptest! {
    #[test]
    fn every_fetch_ends_and_is_complete_if_one_source_is_good((count, behaviours, loss, seed) in worlds()) {
        let mut world = World::new(count, behaviours.clone(), loss, seed);
        world.run();
        let is_done = world.over == Some(Output::Done);
        prop_assert_eq!(is_done, world.held.len() as u64 == count);
        prop_assert!(!is_done || world.settled == Some(world.size));
        let is_certain = loss == 0 && behaviours.iter().any(Behaviour::is_good);
        prop_assert!(is_done || !is_certain, "{:?}", world.over);
        // Near the end, pieces are requested from two sources, and a cancelled piece may be on its way.
        prop_assert!(world.wasted <= 3 * MAX_SOURCES, "{} of {}", world.wasted, count);
    }
}

/// Returns forty sources, of which a third lie, vanish, hang up or are unreachable.
fn forty_sources() -> Vec<Behaviour> {
    let half = |odd| Some((0..400).filter(|piece| piece % 2 == odd).collect());
    let mut all = vec![Behaviour { pace: 40, ..Behaviour::default() }; 8];
    all.extend(vec![Behaviour { holds: half(0), ..Behaviour::default() }; 8]);
    all.extend(vec![
        Behaviour {
            holds: half(1),
            later_pieces: (0..50).collect(),
            ..Behaviour::default()
        };
        8
    ]);
    all.extend(vec![Behaviour { vanishes_after: Some((10, false)), ..Behaviour::default() }; 4]);
    all.extend(vec![Behaviour { vanishes_after: Some((3, true)), ..Behaviour::default() }; 4]);
    all.extend(vec![Behaviour { bad_piece: Some(17), ..Behaviour::default() }; 2]);
    all.extend(vec![Behaviour { extra_size: 9, pace: 1, ..Behaviour::default() }; 2]);
    all.extend(vec![
        Behaviour { is_reachable: false, is_listed: false, ..Behaviour::default() };
        2
    ]);
    all.extend(vec![Behaviour { hangs_up: 3, ..Behaviour::default() }; 2]);
    all
}

#[test]
fn the_seed_determines_a_fetch_from_forty_sources() {
    for seed in 0..20 {
        let mut world = World::new(400, forty_sources(), 20, seed);
        world.run();
        assert_eq!(world.over, Some(Output::Done), "seed {seed}");
        assert!(world.now < Instant::ZERO + 60 * SECOND, "seed {seed}: {:?}", world.now);
        assert!(world.wasted < 40, "seed {seed}: {}", world.wasted);
        let mut again = World::new(400, forty_sources(), 20, seed);
        again.run();
        assert!(world.trace == again.trace, "seed {seed}");
    }
    let trace = |seed| {
        let mut world = World::new(400, forty_sources(), 20, seed);
        world.run();
        world.trace
    };
    assert!(trace(1) != trace(2));
}
