//! Each test compares the whole list of outputs.

mod world;

use bytes::Bytes;

use super::*;
use crate::address::Address;
use crate::files::{FileKind, PIECE};

const SECOND: Duration = Duration::from_secs(1);
const FILE: Claim = Claim { kind: FileKind::File, size: 3 * PIECE };

fn id(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn at(n: u8) -> Address {
    Address::from_socket(([127, 0, 0, n], 7117).into())
}

/// A candidate whose identity is known.
fn node(n: u8) -> SourceCandidate {
    SourceCandidate { id: Some(id(n)), addresses: vec![at(n)] }
}

/// A candidate of which only the address is known.
fn at_address(n: u8) -> SourceCandidate {
    SourceCandidate { id: None, addresses: vec![at(n)] }
}

fn source(index: usize, dials: u32) -> SourceId {
    SourceId { index, dials }
}

/// A fetch that a test drives, and the current time.
struct Driven {
    fetch: Fetch,
    now: Instant,
}

impl Driven {
    fn new(from: Vec<SourceCandidate>, ask_network: bool, is_patient: bool) -> Self {
        let patience = 60 * SECOND;
        let options = Options { own: id(0), from, ask_network, is_patient, patience };
        Self { fetch: Fetch::new(Instant::ZERO, options, [7; 32]), now: Instant::ZERO }
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.fetch.poll()).collect()
    }

    fn handle(&mut self, input: Input) -> Vec<Output> {
        self.fetch.handle(self.now, input);
        self.outputs()
    }

    /// Sleeps until `poll_timeout`. Returns the time slept and the outputs.
    fn sleep(&mut self) -> (Duration, Vec<Output>) {
        let due = self.fetch.poll_timeout().expect("something is due");
        let slept = due.since(self.now);
        self.now = self.now.max(due);
        (slept, self.handle(Input::Timeout))
    }

    fn identified(&mut self, source: SourceId, n: u8) -> Vec<Output> {
        self.handle(Input::Identified { source, id: id(n) })
    }

    fn described(&mut self, source: SourceId, claim: Claim) -> Vec<Output> {
        self.handle(Input::Described { source, claim })
    }

    fn failed(&mut self, source: SourceId, fault: Fault) -> Vec<Output> {
        self.handle(Input::Failed { source, fault })
    }

    fn opened(&mut self, claim: Claim) -> Vec<Output> {
        let layout = Arc::new(Layout::file(claim.size).unwrap());
        let held = PieceSet::of_count(layout.count()).unwrap();
        self.handle(Input::Opened { layout, held })
    }

    /// Takes a source that is being dialled to the stage in which it is followed.
    fn settle(&mut self, source: SourceId, n: u8) {
        assert_eq!(self.identified(source, n), []);
        assert_eq!(self.described(source, FILE), [Output::Prove { source, with_size: false }]);
        assert_eq!(self.handle(Input::Proven(source)), [Output::Open(source)]);
        assert_eq!(self.opened(FILE), [Output::Follow(source)]);
    }

    /// Makes a source ready that has every piece. Returns the pieces that are requested from it.
    fn ready(&mut self, source: SourceId) -> Vec<u64> {
        let asked = self.handle(Input::Ready { source, is_whole: true });
        let pieces = asked.into_iter().flat_map(|output| match output {
            Output::Request { source: of, first, count } if of == source => {
                first..first + u64::from(count)
            }
            other => panic!("{other:?}"),
        });
        pieces.collect()
    }
}

#[test]
fn a_single_source_sends_all_pieces() {
    let a = source(0, 1);
    let mut driven = Driven::new(vec![node(1)], true, false);
    assert_eq!(driven.outputs(), [Output::Dial(a, node(1)), Output::Search]);
    driven.settle(a, 1);
    let mut kept = Vec::new();
    let mut asked = driven.ready(a);
    while let Some(piece) = asked.pop() {
        kept.push(piece);
        let outputs = driven.handle(Input::Stored { source: a, pieces: vec![piece] });
        if kept.len() == 3 {
            assert_eq!(outputs, [Output::Complete(a), Output::Done]);
            break;
        }
        for output in outputs {
            let Output::Request { source, first, count } = output else { panic!("{output:?}") };
            assert_eq!(source, a);
            asked.extend(first..first + u64::from(count));
        }
    }
    kept.sort_unstable();
    assert_eq!(kept, [0, 1, 2]);
    assert_eq!(driven.fetch.poll_timeout(), None);
    assert_eq!(driven.failed(a, Fault::Lost), [], "nothing follows the end");
}

#[test]
fn the_failure_lists_all_addresses_that_did_not_answer() {
    let (a, b) = (source(0, 1), source(1, 1));
    let mut driven = Driven::new(vec![at_address(1), at_address(2)], false, false);
    assert_eq!(driven.outputs(), [Output::Dial(a, at_address(1)), Output::Dial(b, at_address(2))]);
    assert_eq!(driven.failed(b, Fault::Unreachable), [Output::HangUp(b)]);
    let why = GiveUp::NoneAnswered(vec![a, b]);
    assert_eq!(driven.failed(a, Fault::Unreachable), [Output::HangUp(a), Output::GiveUp(why)]);
}

#[test]
fn a_single_address_that_does_not_answer_is_reported_with_its_fault() {
    let a = source(0, 1);
    let mut driven = Driven::new(vec![at_address(1)], false, false);
    driven.outputs();
    let why = GiveUp::Failed(a, Fault::Unreachable);
    assert_eq!(driven.failed(a, Fault::Unreachable), [Output::HangUp(a), Output::GiveUp(why)]);
}

#[test]
fn a_refusal_is_reported_rather_than_an_address_that_did_not_answer() {
    let (a, b) = (source(0, 1), source(1, 1));
    let mut driven = Driven::new(vec![at_address(1), at_address(2)], false, false);
    driven.outputs();
    driven.failed(b, Fault::Unreachable);
    driven.identified(a, 1);
    let why = GiveUp::Failed(a, Fault::Refused);
    assert_eq!(driven.failed(a, Fault::Refused), [Output::HangUp(a), Output::GiveUp(why)]);
}

#[test]
fn a_source_that_hangs_up_is_dialled_five_times_with_growing_pauses() {
    let mut driven = Driven::new(vec![node(1)], false, false);
    driven.outputs();
    for (dials, pause) in [(1, 250), (2, 500), (3, 1000), (4, 2000)] {
        let a = source(0, dials);
        assert_eq!(driven.failed(a, Fault::HungUp), [Output::HangUp(a)]);
        let again = Output::Dial(source(0, dials + 1), node(1));
        assert_eq!(driven.sleep(), (Duration::from_millis(pause), vec![again]));
    }
    let a = source(0, 5);
    let why = GiveUp::Failed(a, Fault::HungUp);
    assert_eq!(driven.failed(a, Fault::HungUp), [Output::HangUp(a), Output::GiveUp(why)]);
}

#[test]
fn a_second_source_is_asked_for_the_proof_after_three_seconds() {
    let (a, b, c) = (source(0, 1), source(1, 1), source(2, 1));
    let mut driven = Driven::new(vec![node(1), node(2), node(3)], false, false);
    driven.outputs();
    assert_eq!(driven.described(b, FILE), [Output::Prove { source: b, with_size: false }]);
    driven.now = driven.now + SECOND;
    assert_eq!(driven.described(a, FILE), []);
    assert_eq!(driven.sleep(), (PROOF_TIME, vec![Output::Prove { source: a, with_size: false }]));
    assert_eq!(driven.handle(Input::Proven(a)), [Output::Open(a)]);
    assert_eq!(driven.handle(Input::Proven(b)), [], "the first proof counts");
    assert_eq!(driven.described(c, FILE), []);
    assert_eq!(driven.opened(FILE), [Output::Follow(a), Output::Follow(b), Output::Follow(c)]);
}

#[test]
fn another_source_is_asked_for_the_proof_if_the_first_one_fails() {
    let (a, b) = (source(0, 1), source(1, 1));
    let mut driven = Driven::new(vec![node(1), node(2)], false, false);
    driven.outputs();
    driven.described(a, FILE);
    driven.described(b, FILE);
    driven.identified(a, 1);
    let prove = Output::Prove { source: b, with_size: false };
    assert_eq!(driven.failed(a, Fault::Lost), [Output::HangUp(a), prove]);
}

#[test]
fn a_source_that_lied_about_the_size_is_banned_and_the_fetch_starts_over() {
    let (a, b, c) = (source(0, 1), source(1, 1), source(2, 1));
    let lie = Claim { size: FILE.size - 7, ..FILE };
    let mut driven = Driven::new(vec![node(1), node(2), node(3)], false, false);
    driven.outputs();
    driven.identified(a, 1);
    driven.described(a, lie);
    driven.handle(Input::Proven(a));
    assert_eq!(driven.opened(lie), [Output::Follow(a)]);
    driven.ready(a);
    driven.identified(b, 2);
    let prove = Output::Prove { source: b, with_size: true };
    assert_eq!(driven.described(b, FILE), [prove]);
    assert_eq!(
        driven.handle(Input::Proven(b)),
        [
            Output::HangUp(a),
            Output::HangUp(c),
            Output::ReportBan { source: a, id: id(1), why: Ban::Size },
            Output::Reset,
            Output::Open(b),
            Output::Dial(source(2, 2), node(3)),
        ]
    );
    assert_eq!(driven.fetch.held(), None);
    assert_eq!(driven.opened(FILE), [Output::Follow(b)]);
    assert_eq!(driven.handle(Input::Found(node(1))), [], "it is never dialled again");
}

#[test]
fn after_a_bad_piece_the_missing_pieces_are_requested_from_another_source() {
    let (a, b) = (source(0, 1), source(1, 1));
    let mut driven = Driven::new(vec![node(1), node(2)], false, false);
    driven.outputs();
    driven.settle(a, 1);
    let outstanding = driven.ready(a);
    driven.identified(b, 2);
    assert_eq!(driven.described(b, FILE), [Output::Follow(b)]);
    driven.ready(b);
    let mut outputs = driven.failed(a, Fault::Lie).into_iter();
    assert_eq!(outputs.next(), Some(Output::HangUp(a)));
    assert_eq!(outputs.next(), Some(Output::ReportBan { source: a, id: id(1), why: Ban::Lie }));
    // More is requested from the other source once its outstanding pieces have come.
    assert_eq!(outputs.next(), None);
    driven.now = driven.now + SECOND;
    let others: Vec<u64> = (0..3).filter(|piece| !outstanding.contains(piece)).collect();
    let mut asked = Vec::new();
    for piece in others {
        for output in driven.handle(Input::Stored { source: b, pieces: vec![piece] }) {
            let Output::Request { source, first, count } = output else { panic!("{output:?}") };
            assert_eq!(source, b);
            asked.extend(first..first + u64::from(count));
        }
    }
    assert!(
        outstanding.iter().all(|piece| asked.contains(piece)),
        "{outstanding:?}, asked: {asked:?}"
    );
}

#[test]
fn of_an_earlier_attempt_only_a_lie_counts() {
    let a = source(0, 1);
    let mut driven = Driven::new(vec![node(1)], false, true);
    driven.outputs();
    driven.settle(a, 1);
    driven.ready(a);
    assert_eq!(driven.failed(a, Fault::Lost), [Output::HangUp(a)]);
    let again = source(0, 2);
    assert_eq!(driven.sleep().1, [Output::Dial(again, node(1))]);
    assert_eq!(driven.failed(a, Fault::Lost), []);
    assert_eq!(driven.described(a, FILE), []);
    assert_eq!(
        driven.failed(a, Fault::Lie),
        [
            Output::HangUp(again),
            Output::ReportBan { source: a, id: id(1), why: Ban::Lie },
            Output::GiveUp(GiveUp::Failed(a, Fault::Lie)),
        ]
    );
}

#[test]
fn changed_content_is_reported_whatever_fails_after_it() {
    let (a, b) = (source(0, 1), source(1, 1));
    let mut driven = Driven::new(vec![node(1), node(2)], false, false);
    driven.outputs();
    driven.identified(a, 1);
    assert_eq!(driven.failed(a, Fault::Changed), [Output::HangUp(a)]);
    let why = GiveUp::Failed(a, Fault::Changed);
    assert_eq!(driven.failed(b, Fault::Unreachable), [Output::HangUp(b), Output::GiveUp(why)]);
}

#[test]
fn a_local_failure_ends_the_fetch() {
    let a = source(0, 1);
    let mut driven = Driven::new(vec![node(1)], true, false);
    driven.outputs();
    driven.settle(a, 1);
    let why = GiveUp::Failed(a, Fault::Local);
    assert_eq!(driven.failed(a, Fault::Local), [Output::HangUp(a), Output::GiveUp(why)]);
}

#[test]
fn a_lost_source_is_dialled_until_the_patience_ends() {
    let mut a = source(0, 1);
    let mut driven = Driven::new(vec![node(1)], false, false);
    driven.outputs();
    driven.settle(a, 1);
    driven.ready(a);
    driven.now = driven.now + 10 * SECOND;
    driven.handle(Input::Stored { source: a, pieces: vec![0] });
    driven.now = driven.now + SECOND;
    assert_eq!(driven.failed(a, Fault::Lost), [Output::HangUp(a)]);
    let last_progress = Instant::ZERO + 10 * SECOND;
    loop {
        let (_, outputs) = driven.sleep();
        a = source(0, a.dials + 1);
        if outputs != [Output::Dial(a, node(1))] {
            assert_eq!(
                outputs,
                [Output::GiveUp(GiveUp::Failed(source(0, a.dials - 1), Fault::Unreachable))]
            );
            break;
        }
        driven.now = driven.now + SECOND;
        driven.failed(a, Fault::Unreachable);
    }
    assert_eq!(driven.now, last_progress + 60 * SECOND);
    assert!((8..12).contains(&a.dials), "{a:?}");
}

#[test]
fn a_dial_that_is_under_way_extends_the_patience_once() {
    let a = source(0, 1);
    let mut driven = Driven::new(vec![node(1)], false, true);
    assert_eq!(driven.outputs(), [Output::Dial(a, node(1))]);
    let ends = [Output::HangUp(a), Output::GiveUp(GiveUp::NoSource)];
    assert_eq!(driven.sleep(), (60 * SECOND + EXTRA_PATIENCE, ends.to_vec()));
}

#[test]
fn without_a_source_the_fetch_fails_when_the_search_ends() {
    let mut driven = Driven::new(vec![], true, false);
    assert_eq!(driven.outputs(), [Output::Search]);
    assert_eq!(driven.handle(Input::Searched), [Output::GiveUp(GiveUp::NoSource)]);
    let mut driven = Driven::new(vec![], false, false);
    assert_eq!(driven.outputs(), [Output::GiveUp(GiveUp::NoSource)]);
}

#[test]
fn searches_have_growing_pauses_and_a_new_link_ends_one() {
    let mut driven = Driven::new(vec![], true, true);
    driven.fetch.patience = 3600 * SECOND;
    assert_eq!(driven.outputs(), [Output::Search]);
    for pause in [5, 10, 20, 40, 60, 60] {
        assert_eq!(driven.handle(Input::Searched), []);
        assert_eq!(driven.sleep(), (pause * SECOND, vec![Output::Search]));
    }
    driven.handle(Input::Searched);
    assert!(driven.fetch.wants_link());
    assert_eq!(driven.handle(Input::Linked), []);
    assert_eq!(driven.sleep(), (SECOND, vec![Output::Search]));
    assert_eq!(driven.handle(Input::Linked), [], "a search is under way");
    driven.handle(Input::Searched);
    assert_eq!(driven.sleep(), (SECOND, vec![Output::Search]));
    driven.handle(Input::Searched);
    assert_eq!(driven.sleep(), (5 * SECOND, vec![Output::Search]));
    // With a ready source a link is no reason to search.
    driven.handle(Input::Searched);
    let a = source(0, 1);
    assert_eq!(driven.handle(Input::Found(node(1))), [Output::Dial(a, node(1))]);
    driven.settle(a, 1);
    driven.ready(a);
    driven.handle(Input::Linked);
    assert!(!driven.fetch.wants_link());
    assert_eq!(driven.sleep(), (10 * SECOND, vec![Output::Search]));
}

#[test]
fn a_resumed_fetch_dials_and_searches_immediately() {
    let mut driven = Driven::new(vec![node(1)], true, true);
    driven.outputs();
    driven.handle(Input::Searched);
    for dials in 1..5 {
        driven.failed(source(0, dials), Fault::Unreachable);
        driven.sleep();
    }
    driven.failed(source(0, 5), Fault::Unreachable);
    let again = [Output::Dial(source(0, 6), node(1)), Output::Search];
    assert_eq!(driven.handle(Input::Resume), again);
    assert_eq!(driven.handle(Input::Resume), [], "both are under way");
}

#[test]
fn a_banned_node_is_not_accepted_at_another_address() {
    let (a, b) = (source(0, 1), source(1, 1));
    let mut driven = Driven::new(vec![node(1), at_address(2)], false, false);
    driven.outputs();
    driven.settle(a, 1);
    driven.ready(a);
    driven.failed(a, Fault::Lie);
    let why = GiveUp::Failed(a, Fault::Lie);
    assert_eq!(driven.identified(b, 1), [Output::HangUp(b), Output::GiveUp(why)]);
}

#[test]
fn a_node_that_failed_at_one_address_is_accepted_at_another() {
    let (a, b) = (source(0, 1), source(1, 1));
    let mut driven = Driven::new(vec![node(1), at_address(2)], false, false);
    driven.outputs();
    assert_eq!(driven.failed(a, Fault::Unreachable), [Output::HangUp(a)]);
    assert_eq!(driven.identified(b, 1), []);
}

#[test]
fn a_node_is_one_source_at_all_its_addresses_and_the_fetching_node_is_none() {
    let (a, b, c) = (source(0, 1), source(1, 1), source(2, 1));
    let mut driven =
        Driven::new(vec![at_address(1), at_address(2), at_address(3), node(0)], false, false);
    let dials = [
        Output::Dial(a, at_address(1)),
        Output::Dial(b, at_address(2)),
        Output::Dial(c, at_address(3)),
    ];
    assert_eq!(driven.outputs(), dials);
    assert_eq!(driven.identified(a, 7), []);
    assert_eq!(driven.identified(b, 7), [Output::HangUp(b)]);
    assert_eq!(driven.identified(c, 0), [Output::HangUp(c)]);
    assert_eq!(driven.handle(Input::Found(node(7))), [], "it is known");
}

#[test]
fn the_numbers_of_used_and_of_remembered_sources_are_limited() {
    let mut driven = Driven::new(vec![], true, true);
    driven.outputs();
    let many = |n: u16| {
        let mut bytes = [1; 32];
        bytes[..2].copy_from_slice(&n.to_le_bytes());
        SourceCandidate { id: Some(NodeId::from_bytes(bytes)), addresses: vec![at(1); 20] }
    };
    let mut dialled = 0;
    for n in 0..300 {
        dialled += driven.handle(Input::Found(many(n))).len();
    }
    assert_eq!((dialled, driven.fetch.sources.len()), (MAX_STARTING, MAX_KNOWN));
    assert_eq!(driven.fetch.ready_sources(), 0);
    let mut queue: VecDeque<usize> = (0..MAX_STARTING).collect();
    let mut is_first = true;
    while let Some(index) = queue.pop_front() {
        let a = source(index, 1);
        let dials = |outputs: Vec<Output>| {
            outputs.into_iter().filter_map(|output| match output {
                Output::Dial(source, _) => Some(source.index),
                _ => None,
            })
        };
        queue.extend(dials(driven.described(a, FILE)));
        if std::mem::take(&mut is_first) {
            driven.handle(Input::Proven(a));
            driven.opened(FILE);
        }
        queue.extend(dials(driven.handle(Input::Ready { source: a, is_whole: false })));
    }
    assert_eq!(driven.fetch.ready_sources(), MAX_SOURCES);
    assert!(driven.fetch.sources.iter().filter(|known| known.is_running()).count() == MAX_SOURCES);
    for n in 0..20 {
        let addresses = vec![Address::from_socket(([127, 0, 1, n], 7117).into())];
        driven.handle(Input::Found(SourceCandidate { addresses, ..many(0) }));
    }
    assert_eq!(driven.fetch.sources[0].candidate.addresses.len(), 8);
}

/// Returns a fetch that knows `count` sources. Those in use, at most sixteen, have nothing that is missing.
fn useless_sources(count: u8) -> Driven {
    let mut driven = Driven::new((1..=count).map(node).collect(), false, false);
    driven.outputs();
    driven.settle(source(0, 1), 1);
    for index in 0..MAX_SOURCES.min(count.into()) {
        if index > 0 {
            driven.identified(source(index, 1), u8::try_from(index).unwrap() + 1);
            driven.described(source(index, 1), FILE);
        }
        driven.handle(Input::Ready { source: source(index, 1), is_whole: false });
    }
    driven
}

#[test]
fn a_source_gives_way_if_all_in_use_lack_the_missing_pieces() {
    let mut driven = useless_sources(18);
    let (slept, outputs) = driven.sleep();
    assert_eq!(slept, dialling::REPLACE_EVERY);
    let [Output::HangUp(idle), Output::Dial(next, _)] = outputs[..] else { panic!("{outputs:?}") };
    assert!(idle.index < MAX_SOURCES);
    assert_eq!(next, source(16, 1));
    // The new one has them, so no further one is replaced.
    driven.identified(next, 17);
    driven.described(next, FILE);
    assert!(!driven.ready(next).is_empty());
    let (_, outputs) = driven.sleep();
    assert!(!outputs.iter().any(|output| matches!(output, Output::HangUp(_))), "{outputs:?}");
}

#[test]
fn no_source_gives_way_while_there_is_a_free_place_or_no_other_source_or_a_piece_is_awaited() {
    let hangs_up = |outputs: &[Output]| outputs.iter().any(|out| matches!(out, Output::HangUp(_)));
    // No other source is known.
    let (slept, _) = useless_sources(16).sleep();
    assert_eq!(slept, 60 * SECOND, "the patience");
    // The other source waits for its next dial, and there is a place for it.
    let mut driven = useless_sources(15);
    driven.handle(Input::Found(node(16)));
    for dials in 1..=5 {
        driven.failed(source(15, dials), Fault::Unreachable);
        let (_, outputs) = driven.sleep();
        assert_eq!(outputs, [Output::Dial(source(15, dials + 1), node(16))]);
    }
    // A piece was requested.
    let mut driven = useless_sources(18);
    let bits = Bytes::from_static(&[1]);
    let outputs = driven.handle(Input::Holds { source: source(3, 1), first: 0, bits });
    assert!(matches!(outputs[..], [Output::Request { .. }]), "{outputs:?}");
    let begun = driven.now;
    while driven.now.since(begun) < 10 * SECOND {
        let (_, outputs) = driven.sleep();
        assert!(!hangs_up(&outputs), "{outputs:?}");
    }
}
