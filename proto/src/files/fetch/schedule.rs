//! The schedule of one fetch: decides which pieces are requested from each ready source.
//!
//! It knows the pieces that each source has, and those that were requested from it. Its aims:
//!
//! - Every source always has something to send, so up to two runs of pieces are outstanding at each. A run is
//!   so long that the source needs [`RUN_TIME`] to send it. So more is requested from a faster source.
//! - Rare pieces are fetched first. If a source has everything, only pieces that no other source has are
//!   requested from it, unless it is at least as fast as all sources together that have only some pieces. In
//!   this way many nodes that fetch from one seed spread its pieces among themselves (Legout, Urvoy-Keller and
//!   Michiardi, "Rarest First and Choke Algorithms Are Enough", 2006).
//! - A slow source does not delay the end: near the end, its outstanding pieces are also requested from idle
//!   sources.

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

/// Time that a source takes to send one run. 250 ms: longer than most round trips, so that a source with two
/// runs never waits for this node; and short, so that little is outstanding if a source vanishes.
pub const RUN_TIME: Duration = Duration::from_millis(250);

/// Maximum size of a run, in bytes. 64 MiB: even at 1 GB/s such a run takes longer than a round trip.
const MAX_RUN_BYTES: u64 = 64 << 20;

/// Maximum number of outstanding runs of one source. 2: while the source sends one, it already has the next.
const MAX_RUNS: usize = 2;

/// Maximum number of pieces that are examined to find the rarest. 16,384: this takes some microseconds.
const MAX_EXAMINED: usize = 16_384;

/// Minimum interval between two checks whether slow sources delay the end.
const REVIEW_INTERVAL: Duration = Duration::from_millis(100);

/// An event at a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A source is ready. [`Input::Whole`] or [`Input::Holds`] reports which pieces it has.
    Ready(NodeId),
    /// A source has every piece.
    Whole(NodeId),
    /// A source has the pieces whose bits are set, from the given piece on, as in
    /// [`Answer::Held`](crate::files::Answer::Held).
    Holds(NodeId, u64, Bytes),
    /// Pieces from a source were verified and written.
    Arrived {
        /// The source.
        from: NodeId,
        /// The pieces, in the order in which they came.
        pieces: Vec<u64>,
    },
    /// A source has failed, or was hung up on.
    Gone(NodeId),
}

/// An action for the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Request one run of pieces from a source.
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
    /// Every piece was fetched.
    Done,
}

/// The schedule of one fetch.
#[derive(Debug)]
pub struct Schedule {
    layout: Arc<Layout>,
    /// The pieces that need not be fetched: those that are verified and written, and those that are left out.
    held: PieceSet,
    /// The pieces in `held`, and those that are outstanding.
    held_or_requested: PieceSet,
    /// The sources from which each outstanding piece was requested.
    requested_from: BTreeMap<u64, Vec<NodeId>>,
    sources: BTreeMap<NodeId, Supplier>,
    /// The number of sources that have each piece. Sources that have everything are not counted. Empty until
    /// a source reports single pieces.
    rarity: Vec<u8>,
    /// The piece at which the search for the next run of a source that has everything begins.
    cursor: u64,
    rng: ChaCha8Rng,
    done: bool,
    /// The time of the next check whether slow sources delay the end.
    next_review: Option<Instant>,
    outbox: VecDeque<Output>,
}

impl Schedule {
    /// Plans to fetch the pieces of `layout` that are not in `held`. The seed determines all random
    /// decisions.
    #[must_use]
    pub fn new(layout: Arc<Layout>, held: PieceSet, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let count = layout.count();
        // Random, so that nodes that begin at the same time request different pieces of the same source.
        let cursor = rng.next_u64().checked_rem(count).unwrap_or_default();
        let mut schedule = Self {
            held_or_requested: held.clone(),
            held,
            requested_from: BTreeMap::new(),
            sources: BTreeMap::new(),
            rarity: Vec::new(),
            cursor,
            rng,
            done: false,
            next_review: None,
            outbox: VecDeque::new(),
            layout,
        };
        // Empty content, or content that is on the disk already, is done without any source.
        schedule.check_done();
        schedule
    }

    /// Returns the pieces that need not be fetched: those that are verified and written, and those that are
    /// left out.
    #[must_use]
    pub fn held(&self) -> &PieceSet {
        &self.held
    }

    /// Returns the numbering of the pieces.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns whether any requested piece is outstanding.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.requested_from.is_empty()
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Ready(id) => {
                self.sources
                    .entry(id)
                    .or_insert_with(|| Supplier::new(now, self.held.empty_copy()));
            }
            Input::Whole(id) => self.whole(id),
            Input::Holds(id, first, bits) => self.holds(now, id, first, &bits),
            Input::Arrived { from, pieces } => {
                pieces.into_iter().for_each(|piece| self.arrived(now, from, piece));
            }
            Input::Gone(id) => self.gone(id),
        }
        self.request_more(now);
    }

    /// Handles the timeout of [`poll_timeout`](Self::poll_timeout).
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_review.is_some_and(|review| review <= now) {
            self.request_more(now);
        }
    }

    /// Returns the next action.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// Returns the time at which the driver calls [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_review
    }

    fn whole(&mut self, id: NodeId) {
        if let Some(source) = self.sources.get_mut(&id) {
            // Rarity counts only sources that lack a piece.
            for piece in source.holds.pieces() {
                change_rarity(&mut self.rarity, piece, |n| n.saturating_sub(1));
            }
            source.become_whole();
        }
    }

    fn holds(&mut self, now: Instant, id: NodeId, first: u64, bits: &[u8]) {
        let Some(source) = self.sources.get_mut(&id).filter(|source| !source.is_whole) else {
            return;
        };
        // One byte for each piece, up to 64 MiB. Not needed while every source has everything.
        if self.rarity.is_empty() {
            self.rarity = vec![0; usize::try_from(self.layout.count()).unwrap_or_default()];
        }
        let mut others = BTreeSet::new();
        for piece in set_bits(first, bits) {
            // `insert` ignores bits beyond the last piece, which a source may set.
            if source.holds.insert(piece) {
                change_rarity(&mut self.rarity, piece, |n| n.saturating_add(1));
                others.extend(self.requested_from.get(&piece).into_iter().flatten());
            }
        }
        // These pieces can now come from this source. So the requests to a source that has everything are
        // cancelled if it has not begun to send: it may be the only source of other requesters.
        for other in others {
            let is_silent_seed =
                |source: &Supplier| source.is_whole && source.is_silent(now, REVIEW_INTERVAL);
            if self.sources.get(&other).is_some_and(is_silent_seed) {
                self.cancel(other);
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
        self.held_or_requested.insert(piece);
        if !self.held.insert(piece) {
            return;
        }
        for other in self.requested_from.remove(&piece).unwrap_or_default() {
            let Some(source) = self.sources.get(&other).filter(|_| other != from) else {
                continue;
            };
            // The piece was also requested from this source. Its requests are cancelled if none of them is
            // needed any more, or if it has not begun to send. `request_more` repeats those that are still
            // needed.
            if source.is_needed(&self.held) && !source.is_silent(now, REVIEW_INTERVAL) {
                continue;
            }
            self.cancel(other);
        }
        self.check_done();
    }

    /// Cancels all requests to a source.
    fn cancel(&mut self, id: NodeId) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        // `Cancel` on the wire cancels all requests of a stream, so a single piece can't be cancelled.
        // `request_more` repeats the requests that are still needed.
        let outstanding: Vec<u64> = source.outstanding().collect();
        source.runs.clear();
        self.outbox.push_back(Output::Cancel(id));
        self.release(id, outstanding);
    }

    fn gone(&mut self, id: NodeId) {
        let Some(source) = self.sources.remove(&id) else { return };
        for piece in source.holds.pieces() {
            change_rarity(&mut self.rarity, piece, |n| n.saturating_sub(1));
        }
        self.release(id, source.outstanding().collect());
    }

    /// Notes that these pieces are no longer outstanding at a source.
    fn release(&mut self, id: NodeId, pieces: Vec<u64>) {
        for piece in pieces {
            let Some(sources) = self.requested_from.get_mut(&piece) else { continue };
            sources.retain(|other| *other != id);
            // A piece that is outstanding at another source too must not be picked for a new run.
            if sources.is_empty() {
                self.requested_from.remove(&piece);
                self.held_or_requested.remove(piece);
            }
        }
    }

    fn check_done(&mut self) {
        if !self.done && self.held.is_full() {
            self.done = true;
            self.outbox.push_back(Output::Done);
        }
    }

    /// Requests pieces from every source that can take another run. Then requests outstanding pieces of slow
    /// sources from idle ones.
    fn request_more(&mut self, now: Instant) {
        let review = self.next_review.take();
        if self.done {
            return;
        }
        // Sources that have only some pieces come first, because those that have everything can send any
        // piece that is left.
        for is_whole in [false, true] {
            let sources: Vec<NodeId> =
                self.with_room().filter(|id| self.is_whole(id) == is_whole).collect();
            for id in sources {
                while self.sources.get(&id).is_some_and(Supplier::can_take_run) {
                    let Some(run) = self.pick_run(now, &id) else { break };
                    self.request(now, id, run);
                }
            }
        }
        if self.requested_from.is_empty() {
            return;
        }
        if review.is_none_or(|review| review > now) {
            // `request_from_idle` examines all outstanding pieces, so it does not run after every piece.
            self.next_review = review;
        } else {
            self.request_from_idle(now);
        }
        // An idle source may take over pieces of a slow one later, even if nothing else happens until then.
        if self.next_review.is_none() && self.sources.values().any(|source| source.runs.is_empty())
        {
            self.next_review = Some(now + REVIEW_INTERVAL);
        }
    }

    /// Returns the sources that can take another run.
    fn with_room(&self) -> impl Iterator<Item = NodeId> {
        let sources = self.sources.iter().filter(|(_, source)| source.can_take_run());
        sources.map(|(id, _)| *id)
    }

    fn is_whole(&self, id: &NodeId) -> bool {
        self.sources.get(id).is_some_and(|source| source.is_whole)
    }

    fn request(&mut self, now: Instant, id: NodeId, (first, count): (u64, u16)) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.requested(now, first, count);
        for piece in (first..).take(usize::from(count)) {
            self.held_or_requested.insert(piece);
            self.requested_from.entry(piece).or_default().push(id);
        }
        self.outbox.push_back(Output::Request { source: id, first, count });
    }

    /// Picks the next run for a source among the pieces that are not requested yet. Returns its first piece
    /// and its length.
    fn pick_run(&mut self, now: Instant, id: &NodeId) -> Option<(u64, u16)> {
        let source = self.sources.get(id)?;
        let limit = source.run_bytes();
        let is_whole = source.is_whole;
        // If a source has everything, its runs follow each other, so that it reads its disk in order. Runs of
        // other sources begin at random pieces, so that nodes with the same sources get different pieces and
        // can exchange them.
        let from = if is_whole {
            self.cursor
        } else {
            self.rng.next_u64().checked_rem(self.layout.count())?
        };
        let holds = self.sources.get(id).map(|source| &source.holds).filter(|_| !is_whole);
        let first = self.rarest(from, holds)?;
        if is_whole && self.rarity_of(first) > 0 && !self.is_fastest(now, id) {
            // Every missing piece is at another source too, so this source is left to nodes that need it
            // more.
            return None;
        }
        let run = self.run_length(first, limit, holds);
        if is_whole {
            self.cursor = first.saturating_add(u64::from(run));
        }
        Some((first, run))
    }

    /// Returns whether a source is at least as fast as all sources together that do not have everything.
    fn is_fastest(&self, now: Instant, id: &NodeId) -> bool {
        let speed = self.sources.get(id).map_or(0, |source| source.speed_at(now));
        let others = self.sources.values().filter(|source| !source.is_whole);
        let others = others.fold(0u64, |sum, other| sum.saturating_add(other.speed_at(now)));
        speed >= others
    }

    /// Finds the rarest piece that is not requested yet, in `holds` or among all pieces if `holds` is `None`.
    /// Of equally rare pieces, returns the first one from `from` on, wrapping around at the end.
    fn rarest(&self, from: u64, holds: Option<&PieceSet>) -> Option<u64> {
        // No piece can be rarer than this: if the source does not have everything, it is counted in the rarity
        // of each piece that it has.
        let min = u8::from(holds.is_some());
        let mut best: Option<(u8, u64)> = None;
        // The second part repeats the pieces from `from` on, which does not change the result.
        let round = self
            .held_or_requested
            .missing(holds, from)
            .chain(self.held_or_requested.missing(holds, 0));
        for piece in round.take(MAX_EXAMINED) {
            let rarity = self.rarity_of(piece);
            if best.is_none_or(|(rarest, _)| rarity < rarest) {
                best = Some((rarity, piece));
            }
            if rarity <= min {
                break;
            }
        }
        best.map(|(_, piece)| piece)
    }

    /// Returns the number of pieces, from `first` on, in a run of about `limit` bytes. The run ends before a
    /// piece that is not as rare as the first.
    ///
    /// Near the end of the fetch runs are short, so that all sources finish at about the same time (guided
    /// self-scheduling: Polychronopoulos and Kuck, 1987).
    fn run_length(&self, first: u64, limit: u64, holds: Option<&PieceSet>) -> u16 {
        let rarity = self.rarity_of(first);
        let left = self.layout.count().saturating_sub(self.held_or_requested.len());
        let share = match self.sources.len() as u64 {
            0 | 1 => left,
            sources => left / (2 * sources),
        };
        let max = u16::try_from(share.max(1)).unwrap_or(MAX_PER_REQUEST).min(MAX_PER_REQUEST);
        let fits = |piece: u64| {
            !self.held_or_requested.contains(piece)
                && holds.is_none_or(|holds| holds.contains(piece))
                // A run that continues into more common pieces would delay rare pieces elsewhere.
                && self.rarity_of(piece) == rarity
        };
        let mut bytes = 0u64;
        let mut count = 0;
        for piece in (first..self.layout.count()).take(usize::from(max)) {
            // A run has at least one piece, even if the source is too slow to send it in `RUN_TIME`.
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

    /// Also requests outstanding pieces from idle sources. Begins with the pieces that are expected last, and
    /// requests only those that the idle source is expected to send much sooner.
    fn request_from_idle(&mut self, now: Instant) {
        // The time until each outstanding piece is expected from the source that will send it first.
        let mut waits: BTreeMap<u64, Duration> = BTreeMap::new();
        for source in self.sources.values() {
            let mut ahead = 0u64;
            for piece in source.outstanding().filter(|piece| !self.held.contains(*piece)) {
                ahead = ahead.saturating_add(self.len(piece));
                let wait = source.time_to_send(now, ahead);
                let soonest = waits.entry(piece).or_insert(wait);
                *soonest = wait.min(*soonest);
            }
        }
        let idle = self.sources.iter().filter(|(_, source)| source.runs.is_empty());
        let idle: Vec<NodeId> = idle.map(|(id, _)| *id).collect();
        for id in idle {
            // Requests as much as the source can send until the next review.
            let mut ahead = 0u64;
            while let Some(source) = self.sources.get(&id) {
                let has = |piece: &u64| source.is_whole || source.holds.contains(*piece);
                let longest = waits.iter().filter(|(piece, _)| has(piece));
                let longest = longest.max_by_key(|(_, wait)| **wait);
                let Some((piece, wait)) = longest.map(|(piece, wait)| (*piece, *wait)) else {
                    break;
                };
                ahead = ahead.saturating_add(self.len(piece));
                let ours = source.time_to_send(now, ahead);
                // The piece is then often sent twice, so the gain has to be clear.
                if wait <= ours.saturating_mul(2).saturating_add(REVIEW_INTERVAL) {
                    break;
                }
                let is_enough = ahead >= source.bytes_in(REVIEW_INTERVAL);
                // The next idle source sees this shorter wait, and so takes another piece.
                waits.insert(piece, ours);
                self.request(now, id, (piece, 1));
                if is_enough {
                    break;
                }
            }
        }
    }

    fn len(&self, piece: u64) -> u64 {
        self.layout.position(piece).map_or(0, |position| position.len())
    }
}

/// Changes the number of sources that have a piece.
fn change_rarity(rarity: &mut [u8], piece: u64, change: impl Fn(u8) -> u8) {
    // At most `MAX_SOURCES` sources are counted, so the numbers never saturate.
    if let Some(slot) = usize::try_from(piece).ok().and_then(|at| rarity.get_mut(at)) {
        *slot = change(*slot);
    }
}
