//! The timers of applications, in virtual time.

use std::time::Duration;

use super::Sim;
use super::queue::SimEvent;
use crate::event::{Event, TimerId};
use crate::handler::Handler;

impl<H: Handler> Sim<H> {
    /// Sets a timer of a node's application. A timer over the limit is a failed action.
    pub(super) fn set_timer(&mut self, node: usize, timer: TimerId, after: Duration) {
        let (now, run) = (self.now, self.nodes[node].run);
        let Some(running) = &mut self.nodes[node].running else { return };
        match running.timers.set(now, timer, after) {
            Ok(at) => self.queue.put(at, SimEvent::Timer { node, run }),
            Err(error) => {
                let (action, error) = (timer.action(), error.to_string());
                self.event(node, Event::NodeActionFailed { action, error });
            }
        }
    }

    /// Delivers the timers of a node's application that have expired.
    pub(super) fn timers_expired(&mut self, node: usize, run: u32) {
        let now = self.now;
        // The event of a cancelled timer stays in the queue. Here it finds no timer.
        while let Some(running) = self.nodes[node].in_run(run)
            && !running.stopping
            && let Some(timer) = running.timers.poll(now)
        {
            self.event(node, Event::NodeTimer { timer });
            // Delivered before the next timer is taken, because the application may cancel that timer.
            self.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ActionId;
    use crate::handler::{Context, MAX_TIMERS};
    use crate::sim::SimConfig;
    use crate::time::Instant;

    /// Records when each of its timers expired.
    #[derive(Default)]
    struct TimerLog {
        expired: Vec<(Duration, TimerId)>,
        failed: Vec<ActionId>,
        /// The timer that is cancelled when the first timer expires.
        cancels: Option<TimerId>,
        /// If set, each timer that expires sets another one with this delay.
        again: Option<Duration>,
    }

    impl Handler for TimerLog {
        fn on_timer(&mut self, cx: &mut Context<'_>, timer: TimerId) {
            self.expired.push((cx.now().since(Instant::ZERO), timer));
            if let Some(other) = self.cancels.take() {
                cx.cancel_timer(other);
            }
            if let Some(after) = self.again {
                cx.set_timer(after);
            }
        }

        fn node_action_failed(&mut self, _: &mut Context<'_>, action: ActionId, error: &str) {
            assert!(error.contains("1024 timers"), "{error}");
            self.failed.push(action);
        }
    }

    fn sim() -> Sim<TimerLog> {
        let mut sim = Sim::new(SimConfig { seed: 5, ..SimConfig::default() });
        sim.add(TimerLog::default());
        sim
    }

    #[test]
    fn timers_expire_in_order_at_their_times_unless_they_are_cancelled() {
        let millis = Duration::from_millis;
        let mut sim = sim();
        sim.run_for(millis(100));
        let [late, early, same] = sim.with(0, |log, cx| {
            let set = [30, 10, 10, 10, 20].map(|after| cx.set_timer(millis(after)));
            let [late, early, cancelled, same, never] = set;
            log.cancels = Some(cancelled);
            cx.cancel_timer(never);
            [late, early, same]
        });
        sim.run_for(millis(1000));
        let at = |after: u64| millis(100 + after);
        assert_eq!(sim.app(0).expired, [(at(10), early), (at(10), same), (at(30), late)]);
    }

    #[test]
    fn a_handler_that_sets_timers_of_zero_does_not_stop_the_virtual_time() {
        let mut sim = sim();
        sim.app_mut(0).again = Some(Duration::ZERO);
        sim.with(0, |_, cx| cx.set_timer(Duration::ZERO));
        sim.run_for(Duration::from_millis(50));
        assert_eq!(sim.app(0).expired.len(), 50);
    }

    #[test]
    fn timers_over_the_limit_fail() {
        let mut sim = sim();
        let over = sim.with(0, |_, cx| {
            let set: Vec<_> = (0..=MAX_TIMERS).map(|_| cx.set_timer(Duration::MAX)).collect();
            set[MAX_TIMERS]
        });
        assert_eq!(sim.app(0).failed, [over.action()]);
    }

    #[test]
    fn timers_end_with_the_run_of_a_node() {
        let mut sim = sim();
        sim.with(0, |_, cx| cx.set_timer(Duration::from_secs(20)));
        sim.crash(0);
        sim.run_for(Duration::from_secs(1));
        sim.restart(0, TimerLog::default());
        sim.with(0, |_, cx| cx.set_timer(Duration::from_secs(20)));
        sim.with(0, |_, cx| cx.stop());
        sim.run_for(Duration::from_secs(60));
        assert!(sim.app(0).expired.is_empty());
    }
}
