//! The updates for a stream that follows a hash: pieces that were added, and other followers.
//!
//! Both come in bursts: pieces one after the other, and followers when a file becomes known. So updates are
//! gathered for an interval, and sent between two batches of pieces or while the stream is idle.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peerkit_proto::address::Address;
use peerkit_proto::files::{AccessKind, Answer, FileKind, PieceSet};
use peerkit_proto::id::Hash;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::FileServer;
use super::followers::Follower;
use super::piece_reader::{Caller, PieceRun};
use crate::transfer::partial::Partial;

/// Minimum time between two reports of added pieces. 20 ms: a follower that waits for a piece hardly notices
/// it.
const PIECES_EVERY: Duration = Duration::from_millis(20);

/// Minimum time between two answers that announce other followers.
const SOURCES_EVERY: Duration = Duration::from_secs(1);

/// Maximum number of bytes in the bitfield of one answer: 262,144 pieces.
const MAX_BITFIELD: usize = 32 << 10;

/// Maximum distance between two pieces that are reported in one answer. 64: the eight bytes of zeros between
/// them are fewer than the head of another answer.
const MAX_GAP: u64 = 64;

/// The hash that a stream follows, if any.
#[derive(Debug, Default)]
pub(super) struct Following(Option<Followed>);

#[derive(Debug)]
struct Followed {
    hash: Hash,
    /// If true, the followed pieces are those of a folder's files.
    is_tree: bool,
    /// The download of the content, as long as it is not finished.
    growing: Option<GrowingContent>,
    /// The entry of this stream among the followers of the hash, and the updates on the other followers.
    /// `None` if followers of the content must not learn of each other.
    others: Option<(Debounced, Follower)>,
}

#[derive(Debug)]
struct GrowingContent {
    updates: Debounced,
    partial: Arc<Partial>,
    /// The position in [`added`](Partial::added) of the first piece that was not reported yet.
    reported: usize,
}

/// Updates that are sent at most once in an interval.
#[derive(Debug)]
struct Debounced {
    changes: watch::Receiver<()>,
    has_changed: bool,
    /// The earliest time at which the next update may be sent.
    next: Instant,
    interval: Duration,
}

impl Following {
    /// Follows `hash` in place of the hash that was followed before. Returns the encoded answer.
    pub(super) fn follow(
        &mut self,
        server: &FileServer,
        caller: &Caller,
        hash: Hash,
        addresses: Vec<Address>,
    ) -> Vec<u8> {
        // The old registration ends first, as the table may have no room for both.
        self.0 = None;
        let Some(description) = server.describe(&hash, caller) else {
            return Answer::Refused(server.missing(&hash, caller)).encode();
        };
        let partial = server.partial(&hash, caller).filter(|_| !description.whole);
        let (growing, answer) = match partial {
            None => (None, Answer::Whole.encode()),
            Some(partial) => {
                let updates = Debounced::new(partial.updates(), PIECES_EVERY);
                let (pieces, reported) = partial.held();
                (Some(GrowingContent { updates, partial, reported }), encode_held(&pieces))
            }
        };
        // If content is shared only with certain nodes, these nodes do not learn of each other.
        let others = (description.access != AccessKind::Nodes).then(|| {
            let (follower, updates) = server.followers.add(hash, caller.id, addresses);
            (Debounced::new(updates, SOURCES_EVERY), follower)
        });
        let is_tree = description.kind == FileKind::Folder;
        self.0 = Some(Followed { hash, is_tree, growing, others });
        answer
    }

    /// Notes that the last batch of `run` is sent to this follower.
    pub(super) fn sent(&mut self, run: &PieceRun) {
        if let Some(follower) = self.follower_of(run) {
            follower.sent(run.batch.clone());
        }
    }

    /// Returns this follower if the last batch of `run` should be held back, because its pieces were already
    /// sent to other followers. Only a node that has all of the content holds pieces back. A node that is
    /// still fetching serves its pieces without a delay, so that followers can get them there.
    pub(super) fn follower_to_hold_back(&mut self, run: &PieceRun) -> Option<&mut Follower> {
        let is_whole = self.0.as_ref().is_some_and(|followed| followed.growing.is_none());
        let follower = self.follower_of(run).filter(|_| is_whole)?;
        follower.were_sent_to_followers(run.batch.clone()).then_some(follower)
    }

    /// Returns this follower if the pieces of `run` are those that it follows.
    fn follower_of(&mut self, run: &PieceRun) -> Option<&mut Follower> {
        let followed = self.0.as_mut()?;
        let is_followed = (followed.hash, followed.is_tree) == (run.hash, run.is_tree);
        followed.others.as_mut().filter(|_| is_followed).map(|(_, follower)| follower)
    }

    /// Waits until there are updates to send.
    pub(super) async fn due(&mut self) {
        let Some(followed) = &mut self.0 else { return pending().await };
        let growing = followed.growing.as_mut().map(|growing| &mut growing.updates);
        let others = followed.others.as_mut().map(|(updates, _)| updates);
        tokio::select! {
            () = due(growing) => {}
            () = due(others) => {}
        }
    }

    /// Returns the updates to send now, encoded. Usually there are none.
    pub(super) fn updates(&mut self, server: &FileServer, caller: &Caller) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(followed) = &mut self.0 else { return out };
        if let Some(growing) = &mut followed.growing
            && growing.updates.is_due()
        {
            growing.updates.sent();
            // Read before the pieces, so that a piece that is added just before the end is not missed.
            let ended = growing.partial.has_ended();
            growing.encode_added(&mut out);
            if ended {
                followed.growing = None;
                // The finished download may be shared by now.
                if server.shares(&followed.hash, caller) {
                    out.extend(Answer::Whole.encode());
                }
            }
        }
        if let Some((updates, follower)) = &mut followed.others
            && updates.is_due()
        {
            let others = follower.new_others();
            if others.is_empty() {
                // The update was about this follower itself.
                updates.clear();
            } else {
                updates.sent();
                out.extend(Answer::Sources(others).encode());
            }
        }
        out
    }
}

async fn due(updates: Option<&mut Debounced>) {
    match updates {
        Some(updates) => updates.due().await,
        None => pending().await,
    }
}

impl Debounced {
    fn new(changes: watch::Receiver<()>, interval: Duration) -> Self {
        Self { changes, has_changed: false, next: Instant::now(), interval }
    }

    /// Waits until there are updates that may be sent.
    async fn due(&mut self) {
        if !self.has_changed {
            if self.changes.changed().await.is_err() {
                return pending().await;
            }
            self.has_changed = true;
        }
        sleep_until(self.next).await;
    }

    fn is_due(&mut self) -> bool {
        self.has_changed |= self.changes.has_changed().unwrap_or_default();
        self.has_changed && Instant::now() >= self.next
    }

    /// Notes that all updates until now are sent.
    fn sent(&mut self) {
        self.clear();
        self.next = Instant::now() + self.interval;
    }

    /// Drops all updates until now. The next one may be sent without a delay.
    fn clear(&mut self) {
        self.changes.mark_unchanged();
        self.has_changed = false;
    }
}

impl GrowingContent {
    /// Encodes the pieces that were added since the last call. Pieces that are near each other share an
    /// answer.
    fn encode_added(&mut self, out: &mut Vec<u8>) {
        let (mut added, reported) = self.partial.added(self.reported);
        self.reported = reported;
        added.sort_by_key(|pieces| pieces.start);
        let mut rest = added.into_iter().flatten().peekable();
        while let Some(piece) = rest.next() {
            let first = piece - piece % 8;
            let mut bits = vec![1 << (piece % 8)];
            let mut last = piece;
            let near = |next: &u64, last: u64| {
                let reach = first..first.saturating_add(8 * MAX_BITFIELD as u64);
                reach.contains(next) && *next <= last.saturating_add(MAX_GAP)
            };
            while let Some(next) = rest.next_if(|next| near(next, last)) {
                last = last.max(next);
                let byte = usize::try_from((next - first) / 8).unwrap_or_default();
                if byte >= bits.len() {
                    bits.resize(byte + 1, 0);
                }
                if let Some(byte) = bits.get_mut(byte) {
                    *byte |= 1 << (next % 8);
                }
            }
            out.extend(Answer::Held { first, bits: Bytes::from(bits) }.encode());
        }
    }
}

/// Encodes all pieces that are held. Without any, there is still one answer.
fn encode_held(pieces: &PieceSet) -> Vec<u8> {
    let mut out = Vec::new();
    for first in (0..pieces.count()).step_by(8 * MAX_BITFIELD) {
        let bits = pieces.bits(first, MAX_BITFIELD);
        if bits.iter().any(|byte| *byte != 0) {
            out.extend(Answer::Held { first, bits: Bytes::from(bits) }.encode());
        }
    }
    if out.is_empty() {
        out = Answer::Held { first: 0, bits: Bytes::new() }.encode();
    }
    out
}
