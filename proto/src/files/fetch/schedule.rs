//! The schedule of one fetch: decides which pieces are requested of each ready source.
//!
//! It knows the pieces that each source has, and those that were requested of it. Its aims:
//!
//! - Every source always has something to send, and fast sources have more: two runs of pieces are requested
//!   of each, and the source needs [`RUN_TIME`] for each run.
//! - Rare pieces are fetched first. Of a source that has everything only pieces are requested that no other
//!   source has, unless it is faster than all others together. In this way many nodes that fetch from one seed
//!   spread its pieces among themselves (Legout, Urvoy-Keller and Michiardi, "Rarest First
//!   and Choke Algorithms Are Enough", 2006).
//! - A slow source never delays the end: pieces that the slowest sources still owe are requested of idle ones
//!   too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::files::layout::Layout;
use crate::files::pieces::{PieceSet, set_bits};
use crate::files::wire::MAX_PER_REQUEST;
use crate::id::NodeId;
use crate::time::Instant;

mod supplier;
#[cfg(test)]
mod tests;

use supplier::Supplier;

/// Time that a source takes for one run. 250 ms: longer than most round trips, so that a source with two runs
/// never waits for this node. It is short enough that the pieces of a source that vanishes are soon fetched
/// from others.
pub const RUN_TIME: Duration = Duration::from_millis(250);

/// Most bytes of a run. 64 MiB: even at 1 GB/s such a run takes longer than a round trip.
const MAX_RUN: u64 = 64 << 20;

/// Runs that are requested of a source at once. 2: while one comes, the source knows the next one already.
const RUNS: usize = 2;

/// Most pieces that are looked at to find the rarest. 16,384: this takes some microseconds.
const LOOKED_AT: usize = 16_384;

/// Interval at which it is checked whether a slow source delays the end.
const REVIEW: Duration = Duration::from_millis(100);

/// An event at a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A source is ready. The pieces that it has are reported next.
    Ready(NodeId),
    /// A source has everything.
    Whole(NodeId),
    /// A source has the pieces of these bits, as in [`Answer::Held`](crate::files::Answer::Held).
    Holds(NodeId, u64, Bytes),
    /// Pieces from a source were verified and written.
    Arrived {
        /// The source.
        from: NodeId,
        /// The pieces, in the order in which they came.
        pieces: Vec<u64>,
    },
    /// A source is gone, or was hung up on.
    Gone(NodeId),
}

/// An action for the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Request pieces of a source, all of one run.
    Request {
        /// The source.
        source: NodeId,
        /// The first piece.
        first: u64,
        /// Number of pieces: 1 to [`MAX_PER_REQUEST`].
        count: u16,
    },
    /// Cancel all requests to a source.
    Cancel(NodeId),
    /// Every piece is there.
    Done,
}

/// The schedule of one fetch.
#[derive(Debug)]
pub struct Schedule {
    layout: Arc<Layout>,
    /// Pieces that are verified and written.
    held: PieceSet,
    /// Those, and the ones that are requested.
    taken: PieceSet,
    /// The sources that the requested pieces were requested of.
    open: BTreeMap<u64, Vec<NodeId>>,
    sources: BTreeMap<NodeId, Supplier>,
    /// Number of sources that have each piece, without the sources that have everything. Empty until the first
    /// source reports pieces.
    rarity: Vec<u8>,
    /// The piece at which the next run of a source that has everything begins.
    cursor: u64,
    chance: ChaCha8Rng,
    done: bool,
    review: Option<Instant>,
    outbox: VecDeque<Output>,
}

impl Schedule {
    /// Plans to fetch the pieces of `layout` that are not in `held`. All random decisions follow from `seed`.
    #[must_use]
    pub fn new(layout: Arc<Layout>, held: PieceSet, seed: [u8; 32]) -> Self {
        let mut chance = ChaCha8Rng::from_seed(seed);
        let count = layout.count();
        // Nodes that begin at the same time request different pieces of a common source.
        let cursor = chance.next_u64().checked_rem(count).unwrap_or_default();
        let mut schedule = Self {
            taken: held.clone(),
            held,
            open: BTreeMap::new(),
            sources: BTreeMap::new(),
            rarity: Vec::new(),
            cursor,
            chance,
            done: false,
            review: None,
            outbox: VecDeque::new(),
            layout,
        };
        // Empty content, or content that is on the disk already, is done without any source.
        schedule.finish();
        schedule
    }

    /// Returns the pieces that are verified and written.
    #[must_use]
    pub fn held(&self) -> &PieceSet {
        &self.held
    }

    /// Returns the numbering of the pieces.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns whether any source owes pieces.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.open.is_empty()
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Ready(id) => {
                self.sources.entry(id).or_insert_with(|| Supplier::new(now, self.held.emptied()));
            }
            Input::Whole(id) => self.whole(id),
            Input::Holds(id, first, bits) => self.holds(now, id, first, &bits),
            Input::Arrived { from, pieces } => {
                pieces.into_iter().for_each(|piece| self.arrived(now, from, piece));
            }
            Input::Gone(id) => self.down(id),
        }
        self.fill(now);
    }

    /// Handles that the time of [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.review.is_some_and(|review| review <= now) {
            self.fill(now);
        }
    }

    /// Returns the next action.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// Returns the time at which [`handle_timeout`](Self::handle_timeout) is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.review
    }

    fn whole(&mut self, id: NodeId) {
        if let Some(source) = self.sources.get_mut(&id) {
            // Rarity counts the sources with a part only.
            for piece in source.holds.pieces() {
                count(&mut self.rarity, piece, |n| n.saturating_sub(1));
            }
            source.become_whole();
        }
    }

    fn holds(&mut self, now: Instant, id: NodeId, first: u64, bits: &[u8]) {
        let Some(source) = self.sources.get_mut(&id).filter(|source| !source.is_whole) else {
            return;
        };
        // Up to 64 MiB, a byte for each piece. Not needed as long as every source has everything.
        if self.rarity.is_empty() {
            self.rarity = vec![0; usize::try_from(self.layout.count()).unwrap_or_default()];
        }
        let mut relieved = BTreeSet::new();
        for piece in set_bits(first, bits) {
            // `insert` ignores bits beyond the last piece, which a source may set.
            if source.holds.insert(piece) {
                count(&mut self.rarity, piece, |n| n.saturating_add(1));
                relieved.extend(self.open.get(&piece).into_iter().flatten());
            }
        }
        // A source that has everything and has not begun to send such a piece need not send it: it has other
        // requesters to serve, for which it may be the only source.
        for busy in relieved {
            let is_busy = |source: &Supplier| source.is_whole && source.is_silent(now, REVIEW);
            if self.sources.get(&busy).is_some_and(is_busy) {
                self.take_back(busy);
            }
        }
        let Some(source) = self.sources.get(&id) else { return };
        if source.holds.is_full() {
            self.whole(id);
        }
    }

    fn arrived(&mut self, now: Instant, from: NodeId, piece: u64) {
        let len = self.len(piece);
        if let Some(source) = self.sources.get_mut(&from) {
            source.arrived(now, piece, len);
        }
        // A source may send a piece although its request was cancelled.
        self.taken.insert(piece);
        if !self.held.insert(piece) {
            return;
        }
        for other in self.open.remove(&piece).unwrap_or_default() {
            let Some(source) = self.sources.get(&other).filter(|_| other != from) else {
                continue;
            };
            // The piece was requested of this source too. If all that it owes has come, or it has not begun to
            // send, its requests are cancelled, and those still needed are made anew.
            if source.owes(&self.held) && !source.is_silent(now, REVIEW) {
                continue;
            }
            self.take_back(other);
        }
        self.finish();
    }

    /// Cancels all requests to a source.
    fn take_back(&mut self, id: NodeId) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        // `Cancel` on the wire is for all requests of a stream, so a single piece can't be cancelled. `fill`
        // requests anew what is still needed.
        let owed: Vec<u64> = source.owed().collect();
        source.asked.clear();
        self.outbox.push_back(Output::Cancel(id));
        self.release(id, owed);
    }

    fn down(&mut self, id: NodeId) {
        let Some(source) = self.sources.remove(&id) else { return };
        for piece in source.holds.pieces() {
            count(&mut self.rarity, piece, |n| n.saturating_sub(1));
        }
        self.release(id, source.owed().collect());
    }

    /// Notes that a source no longer owes these pieces.
    fn release(&mut self, id: NodeId, owed: Vec<u64>) {
        for piece in owed {
            let Some(asked) = self.open.get_mut(&piece) else { continue };
            asked.retain(|other| *other != id);
            // While another source owes it too, the piece must not be picked for a new run.
            if asked.is_empty() {
                self.open.remove(&piece);
                self.taken.remove(piece);
            }
        }
    }

    fn finish(&mut self) {
        if !self.done && self.held.is_full() {
            self.done = true;
            self.outbox.push_back(Output::Done);
        }
    }

    /// Requests pieces of every source that has time: first of those that have a part, then of those that have
    /// everything. At last it requests again what slow sources owe.
    fn fill(&mut self, now: Instant) {
        let review = self.review.take();
        if self.done {
            return;
        }
        // The sources with a part choose first. A source with everything can send whatever they leave.
        for is_whole in [false, true] {
            let idle: Vec<NodeId> =
                self.idle().filter(|id| self.is_whole(id) == is_whole).collect();
            for id in idle {
                while self.sources.get(&id).is_some_and(Supplier::has_time) {
                    let Some(run) = self.pick(now, &id) else { break };
                    self.ask(now, id, run);
                }
            }
        }
        if self.open.is_empty() {
            return;
        }
        if review.is_none_or(|review| review > now) {
            // Not after every piece, because `hurry` looks at all pieces that are owed.
            self.review = review;
        } else {
            self.hurry(now);
        }
        // An idle source may take over pieces of a slow one later, without any other event.
        if self.review.is_none() && self.sources.values().any(|source| source.asked.is_empty()) {
            self.review = Some(now + REVIEW);
        }
    }

    fn idle(&self) -> impl Iterator<Item = NodeId> {
        let idle = self.sources.iter().filter(|(_, source)| source.has_time());
        idle.map(|(id, _)| *id)
    }

    fn is_whole(&self, id: &NodeId) -> bool {
        self.sources.get(id).is_some_and(|source| source.is_whole)
    }

    fn ask(&mut self, now: Instant, id: NodeId, (first, count): (u64, u16)) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.ask(now, first, count);
        for piece in (first..).take(usize::from(count)) {
            self.taken.insert(piece);
            self.open.entry(piece).or_default().push(id);
        }
        self.outbox.push_back(Output::Request { source: id, first, count });
    }

    /// Picks the next run for a source, of pieces that are not requested yet.
    fn pick(&mut self, now: Instant, id: &NodeId) -> Option<(u64, u16)> {
        let source = self.sources.get(id)?;
        let limit = source.run_bytes();
        let is_whole = source.is_whole;
        // A source with everything reads its disk in order. Of the others each run begins at random, so
        // that nodes that fetch from the same sources get different pieces, which they can exchange.
        let from = if is_whole {
            self.cursor
        } else {
            self.chance.next_u64().checked_rem(self.layout.count())?
        };
        let holds = self.sources.get(id).map(|source| &source.holds).filter(|_| !is_whole);
        let first = self.rarest(from, holds)?;
        if is_whole && self.rarity_of(first) > 0 && !self.is_fastest(now, id) {
            // Every missing piece is at another source. This one is left to nodes that need it more.
            return None;
        }
        let run = self.run(first, limit, holds);
        if is_whole {
            self.cursor = first.saturating_add(u64::from(run));
        }
        Some((first, run))
    }

    /// Returns whether a source is faster than all sources together that have a part.
    fn is_fastest(&self, now: Instant, id: &NodeId) -> bool {
        let speed = self.sources.get(id).map_or(0, |source| source.speed_at(now));
        let parts = self.sources.values().filter(|source| !source.is_whole);
        let others = parts.fold(0u64, |sum, part| sum.saturating_add(part.speed_at(now)));
        speed >= others
    }

    /// Finds the rarest piece in `holds`, or of all if that is `None`, that is not requested yet. Of
    /// several it is the first from `from` on, round the end.
    fn rarest(&self, from: u64, holds: Option<&PieceSet>) -> Option<u64> {
        // No piece can be rarer than this: a source with a part counts itself.
        let least = u8::from(holds.is_some());
        let mut best: Option<(u8, u64)> = None;
        // The second half may repeat pieces behind `from`, which does not change the result.
        let round = self.taken.missing_of(holds, from).chain(self.taken.missing_of(holds, 0));
        for piece in round.take(LOOKED_AT) {
            let rarity = self.rarity_of(piece);
            if best.is_none_or(|(rarest, _)| rarity < rarest) {
                best = Some((rarity, piece));
            }
            if rarity <= least {
                break;
            }
        }
        best.map(|(_, piece)| piece)
    }

    /// Returns the number of pieces from `first` on, each as rare as the first, that make a run of `limit`
    /// bytes.
    ///
    /// Near the end runs are short, so that all sources finish at about the same time (guided self-scheduling:
    /// Polychronopoulos and Kuck, 1987).
    fn run(&self, first: u64, limit: u64, holds: Option<&PieceSet>) -> u16 {
        let rarity = self.rarity_of(first);
        let left = self.layout.count().saturating_sub(self.taken.len());
        let share = match self.sources.len() as u64 {
            0 | 1 => left,
            sources => left / (2 * sources),
        };
        let most = u16::try_from(share.max(1)).unwrap_or(MAX_PER_REQUEST).min(MAX_PER_REQUEST);
        let fits = |piece: u64| {
            !self.taken.contains(piece)
                && holds.is_none_or(|holds| holds.contains(piece))
                // A run that goes on into common pieces would delay rare ones elsewhere.
                && self.rarity_of(piece) == rarity
        };
        let mut bytes = 0u64;
        let mut count = 0;
        for piece in (first..self.layout.count()).take(usize::from(most)) {
            // At least one piece, even if the source is so slow that its run would be less.
            if count > 0 && (bytes >= limit || !fits(piece)) {
                break;
            }
            bytes = bytes.saturating_add(self.len(piece));
            count += 1;
        }
        count
    }

    fn rarity_of(&self, piece: u64) -> u8 {
        let at = usize::try_from(piece).ok();
        at.and_then(|at| self.rarity.get(at)).copied().unwrap_or_default()
    }

    /// Requests of idle sources what others owe: the pieces that are expected last, if the idle source is
    /// expected to send them sooner.
    fn hurry(&mut self, now: Instant) {
        // The time until each owed piece is expected, from the source that is expected to send it first.
        let mut waits: BTreeMap<u64, Duration> = BTreeMap::new();
        for source in self.sources.values() {
            let mut ahead = 0u64;
            for piece in source.owed().filter(|piece| !self.held.contains(*piece)) {
                ahead = ahead.saturating_add(self.len(piece));
                let wait = source.time_for(now, ahead);
                let soonest = waits.entry(piece).or_insert(wait);
                *soonest = wait.min(*soonest);
            }
        }
        let idle = self.sources.iter().filter(|(_, source)| source.asked.is_empty());
        let idle: Vec<NodeId> = idle.map(|(id, _)| *id).collect();
        for id in idle {
            // As much as it sends until the next review.
            let mut ahead = 0u64;
            while let Some(source) = self.sources.get(&id) {
                let has = |piece: &u64| source.is_whole || source.holds.contains(*piece);
                let longest = waits.iter().filter(|(piece, _)| has(piece));
                let longest = longest.max_by_key(|(_, wait)| **wait);
                let Some((piece, wait)) = longest.map(|(piece, wait)| (*piece, *wait)) else {
                    break;
                };
                ahead = ahead.saturating_add(self.len(piece));
                let ours = source.time_for(now, ahead);
                // Only for a clear gain, as the piece is then often sent twice.
                if wait <= ours.saturating_mul(2).saturating_add(REVIEW) {
                    break;
                }
                let is_enough = ahead >= source.bytes_in(REVIEW);
                // The next idle source sees the shorter wait and takes another piece.
                waits.insert(piece, ours);
                self.ask(now, id, (piece, 1));
                if is_enough {
                    break;
                }
            }
        }
    }

    fn len(&self, piece: u64) -> u64 {
        self.layout.position(piece).map_or(0, |place| place.len())
    }
}

fn count(rarity: &mut [u8], piece: u64, change: impl Fn(u8) -> u8) {
    // At most `MAX_SOURCES` sources are counted, so the numbers never saturate and stay exact.
    if let Some(slot) = usize::try_from(piece).ok().and_then(|at| rarity.get_mut(at)) {
        *slot = change(*slot);
    }
}
