//! The times at which the network is asked which nodes have the content.

use std::time::Duration;

use crate::time::Instant;

/// Pause after the first search. It doubles with each search. 5 s: a fetch whose only source was restarted
/// continues soon.
const AGAIN: Duration = Duration::from_secs(5);

/// Longest pause between two searches. 60 s: in a network of thousands, not every node can search all the time.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Shortest pause between two searches, even if many links are made.
const AGAIN_MIN: Duration = Duration::from_secs(1);

/// The searches of one fetch.
#[derive(Debug)]
pub(super) struct SourceSearch {
    state: SearchState,
    /// The pause after the present search, or after the last one.
    pause: Duration,
    /// If true, a link was made since the last search began. The new neighbour, or a node behind it, may
    /// have the content.
    is_linked: bool,
    /// If true, the first search has ended.
    is_done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SearchState {
    /// The network is not asked.
    Off,
    UnderWay,
    /// The last search has ended at that time.
    Ended(Instant),
    /// It is to begin.
    Due,
}

impl SourceSearch {
    pub(super) fn new(ask_network: bool) -> Self {
        let state = if ask_network { SearchState::Due } else { SearchState::Off };
        Self { state, pause: AGAIN, is_linked: false, is_done: !ask_network }
    }

    /// Returns whether every node that could be asked has had time to answer at least one search.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Notes that a search has ended.
    pub(super) fn ended(&mut self, now: Instant) {
        if self.state == SearchState::UnderWay {
            (self.state, self.is_done) = (SearchState::Ended(now), true);
        }
    }

    /// Notes that a link was made.
    pub(super) fn linked(&mut self) {
        self.is_linked = true;
    }

    /// Makes the next search due now, unless one is under way.
    pub(super) fn resume(&mut self) {
        if let SearchState::Ended(_) = self.state {
            (self.state, self.pause) = (SearchState::Due, AGAIN);
        }
    }

    /// Returns whether a search begins now. `is_fed` says whether the fetch has a ready source.
    pub(super) fn begins(&mut self, now: Instant, is_fed: bool) -> bool {
        // Also true after `resume`, which has set the pause back already.
        let is_first = self.state == SearchState::Due;
        if !is_first && self.due(is_fed).is_none_or(|due| due > now) {
            return false;
        }
        if !is_first {
            let is_for_link = self.is_linked && !is_fed;
            // A new link may lead to another part of the network, so the pauses begin anew.
            self.pause = if is_for_link { AGAIN } else { (self.pause * 2).min(AGAIN_MAX) };
        }
        (self.state, self.is_linked) = (SearchState::UnderWay, false);
        true
    }

    /// Returns the time at which the next search is due.
    pub(super) fn due(&self, is_fed: bool) -> Option<Instant> {
        let SearchState::Ended(ended) = self.state else { return None };
        let is_for_link = self.is_linked && !is_fed;
        Some(ended + if is_for_link { AGAIN_MIN } else { self.pause })
    }
}
