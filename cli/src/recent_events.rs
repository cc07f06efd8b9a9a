//! The last events of the node, for programs that ask later.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::lock::lock;

/// Maximum number of events that are kept.
const MAX_EVENTS: usize = 256;

/// Maximum number of bytes of all kept events. 1 MiB: an event may hold a message of 16 MiB.
const MAX_BYTES: usize = 1 << 20;

/// The last events, each as its JSON line without the newline. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct RecentEvents(Arc<Mutex<EventLog>>);

#[derive(Default)]
struct EventLog {
    lines: VecDeque<String>,
    /// Bytes of all lines.
    bytes: usize,
}

impl RecentEvents {
    /// Adds the JSON line of an event. Removes the oldest events if there are too many. An event that is too
    /// large by itself is not kept.
    pub(crate) fn push(&self, line: &str) {
        if line.len() > MAX_BYTES {
            return;
        }
        let mut log = lock(&self.0);
        log.bytes += line.len();
        log.lines.push_back(line.to_owned());
        while (log.lines.len() > MAX_EVENTS || log.bytes > MAX_BYTES)
            && let Some(oldest) = log.lines.pop_front()
        {
            log.bytes -= oldest.len();
        }
    }

    /// Returns the kept events, the oldest first.
    pub(crate) fn all(&self) -> Vec<String> {
        lock(&self.0).lines.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_events_are_kept() {
        let recent = RecentEvents::default();
        for number in 0..MAX_EVENTS + 10 {
            recent.push(&number.to_string());
        }
        let all = recent.all();
        assert_eq!((all.len(), all[0].as_str()), (MAX_EVENTS, "10"));
        recent.push(&"x".repeat(MAX_BYTES + 1));
        assert_eq!(recent.all(), all, "it is larger than all that may be kept");
        recent.push(&"y".repeat(MAX_BYTES - 3));
        assert!(recent.all().len() < 3);
    }
}
