//! The clocks of a node.

use std::time::{Duration, Instant as SystemInstant, SystemTime, UNIX_EPOCH};

use peerkit_proto::time::Instant;

/// The monotonic clock of a node. It starts when the node starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeClock {
    origin: SystemInstant,
}

impl NodeClock {
    /// Starts the clock.
    pub(crate) fn start() -> Self {
        Self { origin: SystemInstant::now() }
    }

    /// Returns the time since the node's start, in the form that the state machines use.
    pub(crate) fn now(&self) -> Instant {
        Instant::from_origin(self.origin.elapsed())
    }

    /// Returns the microseconds since the start.
    pub(crate) fn micros(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Converts `at` to a time of the runtime's clock.
    pub(crate) fn at(&self, at: Instant) -> tokio::time::Instant {
        let at = self.origin.checked_add(at.since_origin());
        // The system's clock can't express a time so far ahead. A timer of 68 years has the same effect.
        at.unwrap_or_else(|| self.origin + Duration::from_secs(1 << 31)).into()
    }

    /// Sleeps until `at`; for ever if it is `None`.
    pub(crate) async fn sleep_until(&self, at: Option<Instant>) {
        match at {
            Some(at) => tokio::time::sleep_until(self.at(at)).await,
            None => std::future::pending().await,
        }
    }
}

/// Returns the wall clock's time, in milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
