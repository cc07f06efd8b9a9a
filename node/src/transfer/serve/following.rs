//! What a stream that follows a hash is told, unasked.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peerkit_proto::address::Address;
use peerkit_proto::files::{AccessKind, Answer, FileKind, PieceSet};
use peerkit_proto::id::Hash;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Serving;
use super::desk::{Caller, Run};
use super::followers::Follower;
use crate::transfer::partial::Partial;

/// Pieces that come within this long are told of together.
const GATHER: Duration = Duration::from_millis(20);

/// How often others who follow are told of.
const SOURCES_EVERY: Duration = Duration::from_secs(1);

/// Bytes of bits in one answer: 262,144 pieces.
const MAX_BITS: usize = 32 << 10;

/// Pieces between two that are told of in one answer. 64: eight bytes of zeros are fewer than
/// another head.
const MAX_GAP: u64 = 64;

/// The hash that a stream follows, if it follows one.
#[derive(Debug, Default)]
pub(super) struct Following(Option<Followed>);

#[derive(Debug)]
struct Followed {
    hash: Hash,
    /// Whether its pieces are those of a folder's files.
    tree: bool,
    /// What is not whole here yet.
    growing: Option<Growing>,
    others: Option<(Ear, Follower)>,
}

#[derive(Debug)]
struct Growing {
    ear: Ear,
    partial: Arc<Partial>,
    /// The additions before this one have been told.
    told: usize,
}

/// Hears that there is news, and waits until it may be told.
#[derive(Debug)]
struct Ear {
    news: watch::Receiver<()>,
    stirred: bool,
    next: Instant,
    every: Duration,
}

impl Following {
    /// Follows `hash` in place of what was followed before. Returns the answer.
    pub(super) fn follow(
        &mut self,
        serving: &Serving,
        caller: &Caller,
        hash: Hash,
        addresses: Vec<Address>,
    ) -> Vec<u8> {
        self.0 = None;
        let Some(description) = serving.describe(&hash, caller) else {
            return Answer::Refused(serving.missing(&hash, caller)).encode();
        };
        let partial = serving.partial(&hash, caller).filter(|_| !description.whole);
        let (growing, answer) = match partial {
            None => (None, Answer::Whole.encode()),
            Some(partial) => {
                let ear = Ear::new(partial.news(), GATHER);
                let (pieces, told) = partial.held();
                (Some(Growing { ear, partial, told }), held(&pieces))
            }
        };
        // Whom else it was shared with is nobody's business.
        let others = (description.access != AccessKind::Nodes).then(|| {
            let (follower, news) = serving.followers.enter(hash, caller.id, addresses);
            (Ear::new(news, SOURCES_EVERY), follower)
        });
        let tree = description.kind == FileKind::Folder;
        self.0 = Some(Followed { hash, tree, growing, others });
        answer
    }

    /// Takes note that the batch that `run` has just read is sent.
    pub(super) fn gave(&mut self, run: &Run) {
        if let Some(follower) = self.follower(run) {
            follower.gave(run.batch.clone());
        }
    }

    /// The requester, if all of the hash is here and other followers were sent the batch that `run`
    /// has just read. A node that has a part only is what they are to turn to, and serves everyone.
    pub(super) fn held_back(&mut self, run: &Run) -> Option<&mut Follower> {
        let is_whole = self.0.as_ref().is_some_and(|followed| followed.growing.is_none());
        let follower = self.follower(run).filter(|_| is_whole)?;
        follower.are_elsewhere(run.batch.clone()).then_some(follower)
    }

    fn follower(&mut self, run: &Run) -> Option<&mut Follower> {
        let followed = self.0.as_mut()?;
        let is_followed = (followed.hash, followed.tree) == (run.hash, run.tree);
        followed.others.as_mut().filter(|_| is_followed).map(|(_, follower)| follower)
    }

    /// Waits until there is something to tell.
    pub(super) async fn due(&mut self) {
        let Some(followed) = &mut self.0 else { return pending().await };
        let growing = followed.growing.as_mut().map(|growing| &mut growing.ear);
        let others = followed.others.as_mut().map(|(ear, _)| ear);
        tokio::select! {
            () = due(growing) => {}
            () = due(others) => {}
        }
    }

    /// What is to be told now; nothing most of the time.
    pub(super) fn news(&mut self, serving: &Serving, caller: &Caller) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(followed) = &mut self.0 else { return out };
        if let Some(growing) = &mut followed.growing
            && growing.ear.is_due()
        {
            growing.ear.told();
            let ended = growing.partial.has_ended();
            growing.tell(&mut out);
            if ended {
                followed.growing = None;
                if serving.shares(&followed.hash, caller) {
                    out.extend(Answer::Whole.encode());
                }
            }
        }
        if let Some((ear, follower)) = &mut followed.others
            && ear.is_due()
        {
            let others = follower.others();
            match others.is_empty() {
                true => ear.quiet(),
                false => {
                    ear.told();
                    out.extend(Answer::Sources(others).encode());
                }
            }
        }
        out
    }
}

async fn due(ear: Option<&mut Ear>) {
    match ear {
        Some(ear) => ear.due().await,
        None => pending().await,
    }
}

impl Ear {
    fn new(news: watch::Receiver<()>, every: Duration) -> Self {
        Self { news, stirred: false, next: Instant::now(), every }
    }

    async fn due(&mut self) {
        if !self.stirred {
            if self.news.changed().await.is_err() {
                return pending().await;
            }
            self.stirred = true;
        }
        sleep_until(self.next).await;
    }

    fn is_due(&mut self) -> bool {
        self.stirred |= self.news.has_changed().unwrap_or_default();
        self.stirred && Instant::now() >= self.next
    }

    /// All news until now is being told.
    fn told(&mut self) {
        self.quiet();
        self.next = Instant::now() + self.every;
    }

    /// All news until now was none.
    fn quiet(&mut self) {
        self.news.mark_unchanged();
        self.stirred = false;
    }
}

impl Growing {
    /// Tells what was added since the last time, those that are near each other together.
    fn tell(&mut self, out: &mut Vec<u8>) {
        let (mut added, told) = self.partial.added(self.told);
        self.told = told;
        added.sort_by_key(|pieces| pieces.start);
        let mut rest = added.into_iter().flatten().peekable();
        while let Some(piece) = rest.next() {
            let first = piece - piece % 8;
            let mut bits = vec![1 << (piece % 8)];
            let mut last = piece;
            let near = |next: &u64, last: u64| {
                let reach = first..first.saturating_add(8 * MAX_BITS as u64);
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

/// All that is there: one answer at least.
fn held(pieces: &PieceSet) -> Vec<u8> {
    let mut out = Vec::new();
    for first in (0..pieces.count()).step_by(8 * MAX_BITS) {
        let bits = pieces.bits(first, MAX_BITS);
        if bits.iter().any(|byte| *byte != 0) {
            out.extend(Answer::Held { first, bits: Bytes::from(bits) }.encode());
        }
    }
    if out.is_empty() {
        out = Answer::Held { first: 0, bits: Bytes::new() }.encode();
    }
    out
}
