//! The tree over which the broadcasts of a run spread: to which peers a batch is pushed, and which links are pruned.

use crate::frame::Frame;
use crate::frame::broadcast::{Batch, RunId};
use crate::id::NodeId;
use crate::overlay::OverlayContext;

use super::Broadcasts;

impl Broadcasts {
    /// Sends a batch to all peers that are not known to have it. Peers that receive the run from another node
    /// get a summary later instead. Strangers take [turns](later_pushes).
    pub(super) fn push(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: Option<NodeId>,
        batch: &Batch,
    ) {
        let Some(run) = self.runs.get_mut(&batch.run) else { return };
        let links: Vec<_> = match cx.budgets.others_of_member() {
            Some(others) => {
                others.iter().filter(|link| cx.links.contains_key(link)).copied().collect()
            }
            None => cx.links.keys().copied().collect(),
        };
        let mut lazy = Vec::new();
        for link in links.into_iter().filter(|link| Some(*link) != from) {
            // The peer has the batch already, for example because it has also sent it to this node.
            if run.progress(link).is_some_and(|upto| upto >= batch.last()) {
                continue;
            }
            if run.is_lazy(link) {
                // Lazy push: the peer receives the batch from another node. If not, the summary shows that it
                // is missing.
                lazy.push(link);
            } else {
                // Eager push. The peer is noted as having the batch: links are reliable, and when this one
                // ends, the note is removed.
                run.note_progress(link, batch.last());
                cx.send(link, Frame::Broadcast(batch.clone()));
            }
        }
        for link in lazy {
            self.summarize_later(cx.now, link, batch.run);
        }
        if cx.budgets.others_of_member().is_some() {
            let before = batch.first.saturating_sub(1);
            self.later_pushes.add(batch.run, before, from, cx.budgets.strangers());
        }
    }

    /// Prunes a link: neither end pushes the run's broadcasts over it any more.
    pub(super) fn prune(&mut self, cx: &mut OverlayContext<'_>, from: NodeId, name: RunId) {
        self.receive_prune(cx, from, name);
        cx.send(from, Frame::Prune(name));
    }

    /// Notes that a peer receives the broadcasts of a run from another node.
    pub(in crate::overlay) fn receive_prune(
        &mut self,
        cx: &OverlayContext<'_>,
        from: NodeId,
        run: RunId,
    ) {
        let is_stranger = cx.budgets.is_stranger_to_member(from);
        if let Some(run) = self.runs.get_mut(&run).filter(|run| run.may_note(from, is_stranger)) {
            run.prune(from);
        }
    }

    /// Notes that a batch was not sent because too much waits for the link. A summary is sent to the peer,
    /// which then asks for the batch.
    pub(in crate::overlay) fn batch_skipped(
        &mut self,
        cx: &mut OverlayContext<'_>,
        to: NodeId,
        batch: &Batch,
    ) {
        let is_stranger = cx.budgets.is_stranger_to_member(to);
        let run = self.runs.get_mut(&batch.run).filter(|run| run.may_note(to, is_stranger));
        // With the next broadcast, a stranger of which nothing is noted learns what it has missed.
        let Some(run) = run else { return };
        run.prune(to);
        let before = batch.first.saturating_sub(1);
        // `push` has noted that the peer has the batch. That is undone, so that the summary is sent.
        run.limit_progress(to, before);
        if is_stranger {
            self.later_pushes.owe(to, batch.run, before, cx.budgets.strangers());
        } else {
            self.summarize_later(cx.now, to, batch.run);
        }
    }
}
