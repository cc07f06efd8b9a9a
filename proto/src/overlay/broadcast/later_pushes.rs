//! Pushes to strangers, a few links at a time.
//!
//! A member of the network may have links with a thousand strangers. If it sent a broadcast to all of them at once, its
//! neighbours, and all that they pass the broadcast on to, would wait for a thousand frames. So the first
//! [`STRANGERS_AT_ONCE`] get a broadcast immediately, and the others take turns. What a stranger has missed by its turn
//! is sent to it together.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use crate::frame::Frame;
use crate::frame::broadcast::{Have, RunId};
use crate::id::NodeId;
use crate::overlay::OverlayContext;
use crate::overlay::budgets::Work;
use crate::time::Instant;

use super::summaries::send_haves;
use super::{Broadcasts, MAX_GIVEN};

/// Number of strangers to which a member sends a broadcast immediately. 32 frames take about a quarter of a
/// millisecond, and a member has seldom more strangers that receive its broadcasts.
pub(super) const STRANGERS_AT_ONCE: usize = 32;

/// Number of strangers that share a turn.
const STRANGERS_PER_TURN: usize = 32;

/// Interval between two turns. 5 ms: all of a thousand strangers have had a turn after 160 ms, and the turns take a
/// twentieth of a processor.
const TURN_EVERY: Duration = Duration::from_millis(5);

/// What is to be sent to strangers.
#[derive(Debug, Default)]
pub(super) struct LaterPushes {
    /// The runs of which each stranger lacks broadcasts, each with the number after which they are sent. Bounded by the
    /// number of links, and by the number of runs with a broadcast since the last turn of a link.
    due: BTreeMap<NodeId, BTreeMap<RunId, u64>>,
    /// The last stranger of the last turn.
    last: Option<NodeId>,
    next_turn: Option<Instant>,
}

impl LaterPushes {
    /// Notes that the broadcasts of a run after a number are to be sent to a stranger.
    pub(super) fn add(&mut self, now: Instant, link: NodeId, run: RunId, after: u64) {
        let noted = self.due.entry(link).or_default().entry(run).or_insert(after);
        *noted = after.min(*noted);
        self.next_turn.get_or_insert(now + TURN_EVERY);
    }

    pub(super) fn forget(&mut self, link: NodeId) {
        self.due.remove(&link);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next_turn
    }

    /// Takes the strangers whose turn is now, and what is to be sent to each.
    fn take_turn(&mut self, now: Instant) -> Vec<(NodeId, BTreeMap<RunId, u64>)> {
        let after = self.last.map_or(Unbounded, Excluded);
        let rest = self.due.range((after, Unbounded)).map(|(link, _)| *link);
        let all = rest.chain(self.due.keys().copied());
        let links: Vec<_> = all.take(STRANGERS_PER_TURN.min(self.due.len())).collect();
        self.last = links.last().copied();
        let turn = links.into_iter().filter_map(|link| self.due.remove_entry(&link)).collect();
        self.next_turn = (!self.due.is_empty()).then(|| now + TURN_EVERY);
        turn
    }
}

impl Broadcasts {
    /// Sends the strangers whose turn has come what they lack.
    pub(super) fn send_later_pushes(&mut self, cx: &mut OverlayContext<'_>) {
        for (link, runs) in self.later_pushes.take_turn(cx.now) {
            // It gets nothing for a while, as in `push`.
            if cx.budgets.is_flooding(cx.now, link, Work::Broadcast) {
                continue;
            }
            let (mut haves, mut sent) = (Vec::new(), 0);
            for (name, after) in runs {
                let Some(run) = self.runs.get_mut(&name) else { continue };
                let after = run.progress(link).map_or(after, |upto| upto.max(after));
                if run.is_lazy(link) {
                    if after < run.upto() {
                        haves.push(Have { run: name, upto: run.upto() });
                    }
                    continue;
                }
                for batch in self.log.after(name, after) {
                    if sent > MAX_GIVEN {
                        self.later_pushes.add(cx.now, link, name, batch.first.saturating_sub(1));
                        break;
                    }
                    sent += batch.body().len();
                    cx.send(link, Frame::Broadcast(batch));
                }
            }
            send_haves(cx, link, &haves);
        }
    }
}
