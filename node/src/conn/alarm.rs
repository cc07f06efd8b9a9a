//! One timer for a link's deadlines, which mostly move on before they are reached.

use std::pin::Pin;

use peerkit_proto::time::Instant;
use tokio::time::Sleep;

use crate::inner::Inner;

/// Rings at the deadline that it is given last. A deadline that has moved on since the timer was
/// set costs nothing until the timer goes off.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
    /// What the timer is set to.
    set: Option<Instant>,
}

impl Alarm {
    /// Waits until `due`; for ever where there is none.
    pub(super) async fn ring(&mut self, inner: &Inner, due: Option<Instant>) {
        let Some(due) = due else { return std::future::pending().await };
        loop {
            if self.set.is_none_or(|set| set > due) {
                let at = inner.clock.at(due);
                match &mut self.timer {
                    Some(timer) => timer.as_mut().reset(at),
                    none => *none = Some(Box::pin(tokio::time::sleep_until(at))),
                }
                self.set = Some(due);
            }
            let Some(timer) = &mut self.timer else { return };
            timer.await;
            self.set = None;
            if inner.clock.now() >= due {
                return;
            }
        }
    }
}
