//! Summaries: what a node tells peers of its progress (*lazy push*).

use crate::frame::Frame;
use crate::frame::broadcast::{Have, MAX_HAVES, RunId};
use crate::id::NodeId;
use crate::overlay::OverlayContext;
use crate::time::Instant;

use super::Broadcasts;

impl Broadcasts {
    /// Returns this node's progress in all runs of which it keeps broadcasts.
    pub(in crate::overlay) fn summary(&self) -> Vec<Have> {
        let have = |run| self.runs.get(&run).map(|known| Have { run, upto: known.upto() });
        self.log.runs().into_iter().filter_map(have).collect()
    }

    /// Notes that a summary of a run is due to a peer that receives the run from another node.
    pub(super) fn summarize_later(&mut self, now: Instant, link: NodeId, run: RunId) {
        self.summaries_due.entry(link).or_default().insert(run);
        self.summaries_at.get_or_insert(now + self.have_delay);
    }

    /// Sends the summaries that are due.
    pub(super) fn send_summaries(&mut self, cx: &mut OverlayContext<'_>) {
        self.summaries_at = None;
        for (link, names) in std::mem::take(&mut self.summaries_due) {
            let have = |name: RunId| {
                let run = self.runs.get(&name)?;
                let is_behind = run.progress(link).is_none_or(|upto| upto < run.upto());
                is_behind.then(|| Have { run: name, upto: run.upto() })
            };
            let haves: Vec<_> = names.into_iter().filter_map(have).collect();
            send_haves(cx, link, &haves);
        }
    }
}

/// Sends a summary of any length.
pub(super) fn send_haves(cx: &mut OverlayContext<'_>, link: NodeId, haves: &[Have]) {
    for haves in haves.chunks(MAX_HAVES) {
        cx.send(link, Frame::Have(haves.to_vec()));
    }
}
