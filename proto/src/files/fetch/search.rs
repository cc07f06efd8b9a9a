//! Decides when a fetch searches the network for sources.

use std::time::Duration;

use crate::time::Instant;

/// Pause after the first search. It doubles with each search. 5 s: a fetch whose only source was restarted
/// continues soon.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// Maximum pause between two searches. 60 s: in a network of thousands, not every node can search all the
/// time.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Minimum pause between two searches, even if new links are made.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// The searches of one fetch.
#[derive(Debug)]
pub(super) struct SourceSearch {
    state: SearchState,
    /// The pause after the search that is under way, or after the last one.
    pause: Duration,
    /// True if a link was made since the last search began. The new neighbour may have the content, or lead
    /// to a node that has it.
    is_linked: bool,
    /// True once the first search has ended, or from the start if the network is not searched.
    is_done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SearchState {
    /// The network is never searched.
    Off,
    UnderWay,
    /// The last search ended at this time.
    Ended(Instant),
    /// The next search begins as soon as possible.
    Due,
}

impl SourceSearch {
    pub(super) fn new(ask_network: bool) -> Self {
        let state = if ask_network { SearchState::Due } else { SearchState::Off };
        Self { state, pause: FIRST_PAUSE, is_linked: false, is_done: !ask_network }
    }

    /// Returns whether the first search has ended, so that all nodes have had time to answer. Returns true if
    /// the network is not searched.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Notes that the search has ended.
    pub(super) fn ended(&mut self, now: Instant) {
        if self.state == SearchState::UnderWay {
            (self.state, self.is_done) = (SearchState::Ended(now), true);
        }
    }

    /// Notes that a link was made.
    pub(super) fn linked(&mut self) {
        self.is_linked = true;
    }

    /// Makes the next search due now, unless a search is under way or the network is not searched.
    pub(super) fn resume(&mut self) {
        if let SearchState::Ended(_) = self.state {
            (self.state, self.pause) = (SearchState::Due, FIRST_PAUSE);
        }
    }

    /// Begins a search if one is due. Returns whether it did. `has_source` says whether the fetch has a ready
    /// source.
    pub(super) fn begin_if_due(&mut self, now: Instant, has_source: bool) -> bool {
        // True for the first search, and after `resume`. Both have set the pause already.
        let is_due = self.state == SearchState::Due;
        if !is_due && self.due(has_source).is_none_or(|due| due > now) {
            return false;
        }
        if !is_due {
            let is_for_link = self.is_linked && !has_source;
            // A new link may lead to another part of the network, so the pauses begin anew.
            self.pause = if is_for_link { FIRST_PAUSE } else { (self.pause * 2).min(MAX_PAUSE) };
        }
        (self.state, self.is_linked) = (SearchState::UnderWay, false);
        true
    }

    /// Returns the time at which the next search is due, or `None` if that does not depend on the time.
    pub(super) fn due(&self, has_source: bool) -> Option<Instant> {
        let SearchState::Ended(ended) = self.state else { return None };
        let is_for_link = self.is_linked && !has_source;
        Some(ended + if is_for_link { MIN_PAUSE } else { self.pause })
    }
}
