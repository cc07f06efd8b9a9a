//! Reconnection: a kept link that is lost is dialled again, after waits that grow.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_core::Rng;

use crate::address::Address;
use crate::config::Config;
use crate::event::Event;
use crate::id::NodeId;
use crate::overlay::{Effect, OverlayContext};
use crate::peer::Purpose;
use crate::time::Instant;

/// The addresses to which links are kept.
#[derive(Debug)]
pub(super) struct Reconnects {
    min: Duration,
    max: Duration,
    kept: BTreeMap<Address, KeptAddress>,
}

#[derive(Debug)]
struct KeptAddress {
    /// The node that the last successful dial of the address has reached.
    peer: Option<NodeId>,
    /// Number of failed dials since the link was lost.
    failures: u32,
    /// Time of the next dial, or `None` while there is a link or a dial is under way.
    dial_at: Option<Instant>,
}

impl Reconnects {
    pub(super) fn new(config: &Config) -> Self {
        Self { min: config.reconnect_min, max: config.reconnect_max, kept: BTreeMap::new() }
    }

    /// Keeps a link to `address`. The first dial is already under way.
    pub(super) fn keep(&mut self, address: Address) {
        // If the address is kept already, its entry stays: `link_down` finds it by the peer in it.
        self.kept.entry(address).or_insert(KeptAddress { peer: None, failures: 0, dial_at: None });
    }

    pub(super) fn stop(&mut self, address: &Address) {
        self.kept.remove(address);
    }

    /// Stops keeping links to a node that the application has disconnected.
    pub(super) fn stop_peer(&mut self, peer: NodeId) {
        self.kept.retain(|_, kept| kept.peer != Some(peer));
    }

    /// Stops keeping links to any address.
    pub(super) fn stop_all(&mut self) {
        self.kept.clear();
    }

    /// Notes that a dial of `address` has reached `peer`.
    pub(super) fn dialled(&mut self, address: &Address, peer: NodeId) {
        if let Some(kept) = self.kept.get_mut(address) {
            *kept = KeptAddress { peer: Some(peer), failures: 0, dial_at: None };
        }
    }

    /// Notes that a dial of `address` has failed. If a link to the address is kept, sends the application an
    /// event and dials again later.
    pub(super) fn dial_failed(
        &mut self,
        cx: &mut OverlayContext<'_>,
        address: &Address,
        error: String,
    ) {
        let (min, max) = (self.min, self.max);
        let Some(kept) = self.kept.get_mut(address) else { return };
        kept.failures = kept.failures.saturating_add(1);
        kept.dial_at = Some(cx.now + draw_wait(cx, min, max, kept.failures));
        let (tries, address) = (kept.failures, address.clone());
        cx.event(Event::NodeReconnectionError { address, tries, error });
    }

    /// Notes that a link has ended. Dials the kept addresses of that peer again later.
    pub(super) fn link_down(&mut self, cx: &mut OverlayContext<'_>, peer: NodeId) {
        let next = cx.now + draw_wait(cx, self.min, self.max, 0);
        for kept in self.kept.values_mut().filter(|kept| kept.peer == Some(peer)) {
            (kept.failures, kept.dial_at) = (0, Some(next));
        }
    }

    pub(super) fn handle_timeout(&mut self, cx: &mut OverlayContext<'_>) {
        for (address, kept) in &mut self.kept {
            if kept.dial_at.is_some_and(|next| next <= cx.now) {
                kept.dial_at = None;
                let addresses = vec![address.clone()];
                cx.put(Effect::Dial { addresses, purpose: Purpose::Reconnect });
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.kept.values().filter_map(|kept| kept.dial_at).min()
    }
}

/// Draws the wait before the next dial. The full wait doubles with each failure, from `min` up to `max`. The
/// result is between half of it and all of it, so that nodes which have lost the same peer do not all dial it
/// at the same moment.
fn draw_wait(cx: &mut OverlayContext<'_>, min: Duration, max: Duration, failures: u32) -> Duration {
    // The cap on `failures` keeps the shift from overflowing. The wait reaches any sensible `max` long
    // before.
    let full = min.saturating_mul(1 << failures.min(20)).min(max);
    let share = 50 + cx.rng.next_u32() % 51;
    full * share / 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Output;

    type TestBench = crate::overlay::tests::bench::TestBench<Reconnects>;

    fn address() -> Address {
        "127.0.0.1:7117".parse().unwrap()
    }

    #[test]
    fn waits_grow_with_jitter_and_each_failure_is_an_event() {
        let config = Config::default();
        let mut bench = TestBench::of(Reconnects::new(&config));
        let peer = NodeId::from_bytes([1; 32]);
        bench.part.keep(address());
        bench.part.dialled(&address(), peer);
        assert_eq!(bench.part.poll_timeout(), None);
        bench.act(|reconnects, cx| reconnects.link_down(cx, peer));
        for tries in 1..=10 {
            let full = (config.reconnect_min * (1 << (tries - 1))).min(config.reconnect_max);
            let (next, now) = (bench.part.poll_timeout().unwrap(), bench.now);
            assert!(next.since(now) >= full / 2 && next.since(now) <= full, "try {tries}");
            bench.now = next;
            bench.act(Reconnects::handle_timeout);
            assert_eq!(bench.out.len(), 1);
            assert!(
                matches!(&bench.out[0], Effect::Dial { addresses, .. } if addresses[0] == address())
            );
            assert_eq!(bench.part.poll_timeout(), None, "one dial at a time");
            bench.out.clear();
            bench.act(|reconnects, cx| {
                reconnects.dial_failed(cx, &address(), "refused".into());
            });
            let out = bench.out.pop_front();
            let Some(Effect::Out(Output::Event(Event::NodeReconnectionError {
                tries: reported,
                ..
            }))) = out
            else {
                panic!("{out:?}");
            };
            assert_eq!(reported, tries);
        }
        bench.part.dialled(&address(), peer);
        assert_eq!(bench.part.poll_timeout(), None);
    }

    #[test]
    fn a_link_is_not_dialled_again_once_it_is_no_longer_kept() {
        let mut bench = TestBench::of(Reconnects::new(&Config::default()));
        let peer = NodeId::from_bytes([1; 32]);
        bench.part.keep(address());
        bench.part.dialled(&address(), peer);
        bench.part.stop_peer(peer);
        bench.act(|reconnects, cx| reconnects.link_down(cx, peer));
        assert_eq!(bench.part.poll_timeout(), None);
        bench.part.keep(address());
        bench.part.stop(&address());
        bench.act(|reconnects, cx| reconnects.dial_failed(cx, &address(), String::new()));
        assert_eq!((bench.part.poll_timeout(), bench.out.len()), (None, 0));
    }
}
