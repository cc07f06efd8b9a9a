//! Reports of inbound connections that have failed: at most one event a second, so that the connections of an
//! attacker do not crowd out the events that the application needs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::Event;

use crate::inner::Inner;
use crate::lock::lock;

/// Minimum time between two events. 1 s: a user who watches the events still sees each failure at once.
const INTERVAL: Duration = Duration::from_secs(1);

/// The failures that no event has reported yet.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// True if the last event is less than [`INTERVAL`] old. A task then waits for the rest of it.
    waits: bool,
    /// The latest unreported failure, and the number of those before it.
    unreported: Option<(Failure, u64)>,
}

/// A failed inbound connection: the address from which it came, and the reason.
type Failure = (Address, String);

impl Refusals {
    /// Adds a failure. Returns true if it has to be reported now. Otherwise it is kept.
    fn add(&self, failure: &Failure) -> bool {
        let mut state = lock(&self.0);
        if !state.waits {
            state.waits = true;
            return true;
        }
        let earlier = state.unreported.take().map_or(0, |(_, earlier)| earlier.saturating_add(1));
        state.unreported = Some((failure.clone(), earlier));
        false
    }

    /// Returns the failures since the last report. If there is none, the next failure is reported at once.
    fn take(&self) -> Option<(Failure, u64)> {
        let mut state = lock(&self.0);
        let unreported = state.unreported.take();
        state.waits = unreported.is_some();
        unreported
    }
}

impl Inner {
    /// Reports an inbound connection that has failed, now or together with others within a second.
    pub(super) fn report_refusal(self: &Arc<Self>, failure: Failure) {
        if !self.refusals.add(&failure) {
            return;
        }
        self.queue_refusal(failure, 0);
        let inner = self.clone();
        self.tasks.spawn(async move {
            let mut stopped = false;
            while !stopped {
                tokio::select! {
                    () = inner.tasks.stop.cancelled() => stopped = true,
                    () = tokio::time::sleep(INTERVAL) => {}
                }
                match inner.refusals.take() {
                    Some((failure, others)) => inner.queue_refusal(failure, others),
                    None => return,
                }
            }
        });
    }

    fn queue_refusal(&self, (address, error): Failure, others: u64) {
        // Does not wait for room in the event queues. A full queue is reported by another event.
        self.dispatch.queue_notice(Event::InboundNodeConnectionError { address, error, others });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_reported_at_once_and_the_others_together() {
        let refusals = Refusals::default();
        let failure =
            |n: u16| (Address::from_socket(([192, 0, 2, 1], n).into()), format!("failure {n}"));
        assert!(refusals.add(&failure(1)));
        for n in 2..=1000 {
            assert!(!refusals.add(&failure(n)));
        }
        assert_eq!(refusals.take(), Some((failure(1000), 998)));
        assert!(!refusals.add(&failure(7)), "the last report is not a second old");
        assert_eq!(refusals.take(), Some((failure(7), 0)));
        assert_eq!(refusals.take(), None);
        assert!(refusals.add(&failure(8)));
    }
}
