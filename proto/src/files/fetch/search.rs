//! When the network is asked which nodes have the content.

use std::time::Duration;

use crate::time::Instant;

/// Pause after the first search. It doubles with each search. 5 s: a fetch whose only source was
/// restarted goes on soon.
const AGAIN: Duration = Duration::from_secs(5);

/// The longest pause between two searches: in a network of thousands, not every node may search all
/// the time.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// The shortest pause between two searches, however many links are made.
const AGAIN_MIN: Duration = Duration::from_secs(1);

/// The searches of one fetch.
#[derive(Debug)]
pub(super) struct Search {
    state: State,
    /// The pause after the present search, or after the last one.
    pause: Duration,
    /// A link was made since the last search began: the new neighbour, or a node behind it, may have
    /// the content.
    is_linked: bool,
    /// The first search has ended.
    is_done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The network is not asked.
    Off,
    UnderWay,
    /// The last search has ended at that time.
    Ended(Instant),
    /// It is to begin.
    Due,
}

impl Search {
    pub(super) fn new(ask_network: bool) -> Self {
        let state = if ask_network { State::Due } else { State::Off };
        Self { state, pause: AGAIN, is_linked: false, is_done: !ask_network }
    }

    /// Returns whether every node that could be asked has had the time to answer, once.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Takes note that a search has ended.
    pub(super) fn ended(&mut self, now: Instant) {
        if self.state == State::UnderWay {
            (self.state, self.is_done) = (State::Ended(now), true);
        }
    }

    /// Takes note that a link was made.
    pub(super) fn linked(&mut self) {
        self.is_linked = true;
    }

    /// Has the next search begin now, unless one is under way.
    pub(super) fn resume(&mut self) {
        if let State::Ended(_) = self.state {
            (self.state, self.pause) = (State::Due, AGAIN);
        }
    }

    /// Returns whether a search begins now. `is_fed` says whether the fetch has a ready source.
    pub(super) fn begins(&mut self, now: Instant, is_fed: bool) -> bool {
        let is_first = self.state == State::Due;
        if !is_first && self.due(is_fed).is_none_or(|due| due > now) {
            return false;
        }
        if !is_first {
            let is_for_link = self.is_linked && !is_fed;
            self.pause = if is_for_link { AGAIN } else { (self.pause * 2).min(AGAIN_MAX) };
        }
        (self.state, self.is_linked) = (State::UnderWay, false);
        true
    }

    /// Returns when the next search is due.
    pub(super) fn due(&self, is_fed: bool) -> Option<Instant> {
        let State::Ended(ended) = self.state else { return None };
        let is_for_link = self.is_linked && !is_fed;
        Some(ended + if is_for_link { AGAIN_MIN } else { self.pause })
    }
}
