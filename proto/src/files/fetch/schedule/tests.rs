use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::files::PIECE;
use crate::id::Key;

/// A simulated source.
#[derive(Debug, Clone)]
struct Sender {
    /// The pieces that it has; `None` for all.
    holds: Option<BTreeSet<u64>>,
    /// The time to send one piece, in milliseconds.
    pace: u64,
    /// The number of pieces after which it vanishes.
    vanishes_after: Option<usize>,
    queue: VecDeque<u64>,
    /// The time at which the first piece in the queue arrives.
    next: Instant,
    sent: usize,
}

impl Sender {
    fn new(holds: Option<BTreeSet<u64>>, pace: u64) -> Self {
        let (queue, next) = (VecDeque::new(), Instant::ZERO);
        Self { holds, pace, vanishes_after: None, queue, next, sent: 0 }
    }
}

struct World {
    schedule: Schedule,
    senders: BTreeMap<NodeId, Sender>,
    now: Instant,
    done: bool,
    cancelled: usize,
}

fn id(n: u8) -> NodeId {
    Key::from_secret(&[n + 1; 32]).id()
}

fn bits(pieces: &BTreeSet<u64>, count: u64) -> Bytes {
    let mut out = vec![0u8; usize::try_from(count.div_ceil(8)).unwrap()];
    for piece in pieces {
        out[usize::try_from(piece / 8).unwrap()] |= 1 << (piece % 8);
    }
    out.into()
}

impl World {
    fn new(count: u64, senders: Vec<Sender>) -> Self {
        let layout = Arc::new(Layout::file(count * PIECE).unwrap());
        let schedule = Schedule::new(layout, PieceSet::of_count(count).unwrap(), [7; 32]);
        let senders = senders.into_iter().enumerate();
        let senders = senders.map(|(n, sender)| (id(n.try_into().unwrap()), sender)).collect();
        let (now, done, cancelled) = (Instant::ZERO, false, 0);
        let mut world = Self { schedule, senders, now, done, cancelled };
        for (id, sender) in world.senders.clone() {
            world.schedule.handle(world.now, Input::Ready(id));
            let has = match sender.holds {
                None => Input::Whole(id),
                Some(pieces) => Input::Holds(id, 0, bits(&pieces, count)),
            };
            world.schedule.handle(world.now, has);
        }
        world
    }

    /// Runs until the fetch is done or nothing more happens, at most for a minute.
    fn run(&mut self) {
        let end = self.now + Duration::from_secs(60);
        while self.now < end {
            self.carry_out_outputs();
            if self.done {
                return;
            }
            let sending = self.senders.iter().filter(|(_, sender)| !sender.queue.is_empty());
            let next = sending.map(|(id, sender)| (sender.next, *id)).min();
            match (next, self.schedule.poll_timeout()) {
                (Some((at, from)), review) if review.is_none_or(|review| at <= review) => {
                    self.now = at;
                    self.deliver(from);
                }
                (_, Some(review)) => {
                    self.now = review;
                    self.schedule.handle_timeout(review);
                }
                _ => return,
            }
        }
    }

    fn carry_out_outputs(&mut self) {
        while let Some(output) = self.schedule.poll() {
            match output {
                Output::Done => self.done = true,
                Output::Cancel(id) => {
                    self.cancelled += 1;
                    self.senders.get_mut(&id).unwrap().queue.clear();
                }
                Output::Request { source, first, count } => {
                    let sender = self.senders.get_mut(&source).unwrap();
                    if sender.queue.is_empty() {
                        sender.next = self.now + Duration::from_millis(sender.pace);
                    }
                    for piece in first..first + u64::from(count) {
                        let has = sender.holds.as_ref().is_none_or(|holds| holds.contains(&piece));
                        assert!(has, "{piece} was requested from a source without it");
                        sender.queue.push_back(piece);
                    }
                }
            }
        }
    }

    fn deliver(&mut self, from: NodeId) {
        let sender = self.senders.get_mut(&from).unwrap();
        if sender.vanishes_after.is_some_and(|pieces| sender.sent >= pieces) {
            self.senders.remove(&from);
            self.schedule.handle(self.now, Input::Gone(from));
            return;
        }
        let piece = sender.queue.pop_front().unwrap();
        sender.sent += 1;
        sender.next = self.now + Duration::from_millis(sender.pace);
        self.schedule.handle(self.now, Input::Arrived { from, pieces: vec![piece] });
    }

    fn sent(&self) -> usize {
        self.senders.values().map(|sender| sender.sent).sum()
    }
}

#[test]
fn a_fetch_of_no_pieces_is_done_immediately() {
    let mut world = World::new(0, vec![Sender::new(None, 1)]);
    world.run();
    assert!(world.done);
    assert_eq!(world.now, Instant::ZERO);
}

#[test]
fn four_sources_are_four_times_as_fast() {
    let mut world = World::new(400, vec![Sender::new(None, 10); 4]);
    world.run();
    assert!(world.done);
    assert!(world.now.since_origin() < Duration::from_millis(1100), "{:?}", world.now);
    assert!(world.sent() <= 410, "{} pieces were sent", world.sent());
}

#[test]
fn once_small_pieces_have_come_fast_many_are_requested() {
    let layout = Arc::new(Layout::new((0..10_000).map(|_| 10 << 10)).unwrap());
    let mut schedule = Schedule::new(layout, PieceSet::of_count(10_000).unwrap(), [7; 32]);
    let asked = |schedule: &mut Schedule| {
        let mut runs = Vec::new();
        while let Some(output) = schedule.poll() {
            let Output::Request { first, count, .. } = output else { panic!("{output:?}") };
            runs.push(first..first + u64::from(count));
        }
        runs
    };
    schedule.handle(Instant::ZERO, Input::Ready(id(0)));
    schedule.handle(Instant::ZERO, Input::Whole(id(0)));
    let first = asked(&mut schedule);
    assert_eq!(first.len(), 1, "its speed is unknown");
    // 200 MB/s: in 250 ms that is half of the content.
    let now = Instant::ZERO + Duration::from_millis(5);
    let pieces = first.into_iter().flatten().collect();
    schedule.handle(now, Input::Arrived { from: id(0), pieces });
    let pieces = asked(&mut schedule).iter().map(|run| run.end - run.start).sum::<u64>();
    assert!(pieces > 1000, "{pieces}");
}

#[test]
fn a_slow_source_does_not_delay_the_end() {
    let mut world = World::new(200, vec![Sender::new(None, 5), Sender::new(None, 5_000)]);
    world.run();
    assert!(world.done);
    assert!(world.now.since_origin() < Duration::from_millis(1300), "{:?}", world.now);
    assert!(world.cancelled > 0, "the requests to the slow source were cancelled");
}

#[test]
fn a_silent_source_does_not_delay_the_end() {
    let mut world = World::new(64, vec![Sender::new(None, 5), Sender::new(None, 1_000_000)]);
    world.run();
    assert!(world.done);
    assert!(world.now.since_origin() < Duration::from_millis(800), "{:?}", world.now);
}

#[test]
fn a_source_with_everything_sends_only_the_pieces_that_the_other_lacks() {
    let part: BTreeSet<u64> = (0..50).collect();
    let world = &mut World::new(100, vec![Sender::new(None, 10), Sender::new(Some(part), 10)]);
    world.run();
    assert!(world.done);
    let sent: Vec<usize> = world.senders.values().map(|sender| sender.sent).collect();
    assert!(sent.iter().all(|sent| (45..=56).contains(sent)), "{sent:?}");
}

#[test]
fn the_rarest_pieces_are_requested_first() {
    let all: BTreeSet<u64> = (0..64).collect();
    let most: BTreeSet<u64> = (0..60).collect();
    let senders = vec![Sender::new(Some(most.clone()), 10), Sender::new(Some(most), 10)];
    let mut world = World::new(64, senders);
    world.carry_out_outputs();
    let late = id(9);
    world.schedule.handle(world.now, Input::Ready(late));
    world.schedule.handle(world.now, Input::Holds(late, 0, bits(&all, 64)));
    // It has all pieces, so it is treated as whole. Pieces that no other source has are requested first.
    let Some(Output::Request { source, first, .. }) = world.schedule.poll() else { panic!() };
    assert_eq!(source, late);
    assert!((60..64).contains(&first), "{first}");
}

#[test]
fn a_piece_without_a_source_is_requested_once_a_source_has_it() {
    let part: BTreeSet<u64> = (0..9).collect();
    let mut world = World::new(10, vec![Sender::new(Some(part), 10)]);
    world.run();
    assert!(!world.done);
    assert_eq!(world.schedule.held().len(), 9);
    let id = *world.senders.keys().next().unwrap();
    world.senders.get_mut(&id).unwrap().holds = None;
    world.schedule.handle(world.now, Input::Holds(id, 8, Bytes::from_static(&[2])));
    world.run();
    assert!(world.done);
}

#[test]
fn bits_beyond_the_end_and_unknown_sources_are_ignored() {
    let mut world = World::new(3, vec![Sender::new(Some(BTreeSet::new()), 1)]);
    let (known, stranger) = (id(0), id(8));
    let noise = Bytes::from_static(&[0xff; 64]);
    world.schedule.handle(world.now, Input::Holds(known, 3, noise.clone()));
    world.schedule.handle(world.now, Input::Holds(known, u64::MAX - 7, noise.clone()));
    world.schedule.handle(world.now, Input::Holds(stranger, 0, noise));
    world.schedule.handle(world.now, Input::Arrived { from: stranger, pieces: vec![99] });
    world.schedule.handle(world.now, Input::Gone(stranger));
    world.run();
    assert!(!world.done);
    assert_eq!(world.sent(), 0);
}

fn senders() -> impl Strategy<Value = (u64, Vec<Sender>)> {
    (0u64..200).prop_flat_map(|count| {
        let part = proptest::collection::btree_set(0..count.max(1), 0..100);
        let part = part.prop_map(move |part| part.into_iter().filter(|p| *p < count).collect());
        let holds = prop_oneof![Just(None), part.prop_map(Some)];
        let vanishes = prop_oneof![3 => Just(None), 1 => (0usize..60).prop_map(Some)];
        let sender = (holds, 1u64..200, vanishes).prop_map(|(holds, pace, vanishes_after)| {
            Sender { vanishes_after, ..Sender::new(holds, pace) }
        });
        (Just(count), proptest::collection::vec(sender, 0..6))
    })
}

proptest! {
    #[test]
    fn all_available_pieces_come_and_requests_end((count, senders) in senders()) {
        let mut world = World::new(count, senders);
        world.run();
        let alive = world.senders.values();
        let reachable = (0..count).filter(|piece| {
            let mut alive = alive.clone();
            alive.any(|s| s.holds.as_ref().is_none_or(|holds| holds.contains(piece)))
        });
        for piece in reachable {
            prop_assert!(world.schedule.held().contains(piece), "{} is missing", piece);
        }
        prop_assert_eq!(world.done, world.schedule.held().is_full());
        // Each piece once, and near the end some of them twice.
        prop_assert!(world.sent() as u64 <= count + 40, "{} for {}", world.sent(), count);
    }

    #[test]
    fn the_missing_pieces_of_a_set_are_those_that_are_not_in_it(pieces in proptest::collection::btree_set(0u64..300, 0..300), of in proptest::collection::btree_set(0u64..300, 0..300), from in 0u64..400) {
        let set = |pieces: &BTreeSet<u64>| {
            let mut set = PieceSet::of_count(300).unwrap();
            for piece in pieces {
                set.insert(*piece);
            }
            set
        };
        let held = set(&pieces);
        prop_assert!(held.pieces().eq(pieces.iter().copied()));
        let missing: Vec<u64> = held.missing(None, from).collect();
        let expected: Vec<u64> = (from..300).filter(|p| !pieces.contains(p)).collect();
        prop_assert_eq!(missing, expected);
        let wanted: Vec<u64> = held.missing(Some(&set(&of)), from).collect();
        let expected: Vec<u64> = (from..300).filter(|p| !pieces.contains(p) && of.contains(p)).collect();
        prop_assert_eq!(wanted, expected);
        let mut less = held.clone();
        for piece in &pieces {
            prop_assert!(less.remove(*piece));
            prop_assert!(!less.remove(*piece));
        }
        prop_assert_eq!(less, PieceSet::of_count(300).unwrap());
    }
}
