//! Links that are kept: a lost link is dialled again, with growing waits.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_core::Rng;

use crate::address::Address;
use crate::config::Config;
use crate::event::Event;
use crate::id::NodeId;
use crate::overlay::{Effect, Turn};
use crate::peer::Purpose;
use crate::time::Instant;

/// The addresses that links are kept to.
#[derive(Debug)]
pub(super) struct Reconnects {
    min: Duration,
    max: Duration,
    kept: BTreeMap<Address, Kept>,
}

#[derive(Debug)]
struct Kept {
    /// The node that answered there last.
    peer: Option<NodeId>,
    /// Failures since the link was lost.
    tries: u32,
    /// Time of the next dial; `None` while there is a link or a dial is under way.
    next: Option<Instant>,
}

impl Reconnects {
    pub(super) fn new(config: &Config) -> Self {
        Self { min: config.reconnect_min, max: config.reconnect_max, kept: BTreeMap::new() }
    }

    /// Keeps a link to `address` from now on. It is being dialled already.
    pub(super) fn keep(&mut self, address: Address) {
        // An address that is kept already keeps its peer, which `link_down` needs to find it.
        self.kept.entry(address).or_insert(Kept { peer: None, tries: 0, next: None });
    }

    pub(super) fn stop(&mut self, address: &Address) {
        self.kept.remove(address);
    }

    /// Stops keeping links to a node that the application has disconnected.
    pub(super) fn stop_peer(&mut self, peer: NodeId) {
        self.kept.retain(|_, kept| kept.peer != Some(peer));
    }

    /// Stops keeping links.
    pub(super) fn stop_all(&mut self) {
        self.kept.clear();
    }

    /// Notes that a dial of `address` has reached `peer`.
    pub(super) fn dialled(&mut self, address: &Address, peer: NodeId) {
        if let Some(kept) = self.kept.get_mut(address) {
            *kept = Kept { peer: Some(peer), tries: 0, next: None };
        }
    }

    /// Notes that a dial of `address` has failed. The application gets an event, and the address is
    /// tried again later.
    pub(super) fn dial_failed(&mut self, turn: &mut Turn<'_>, address: &Address, error: String) {
        let (min, max) = (self.min, self.max);
        let Some(kept) = self.kept.get_mut(address) else { return };
        kept.tries = kept.tries.saturating_add(1);
        kept.next = Some(turn.now + wait(turn, min, max, kept.tries));
        let (tries, address) = (kept.tries, address.clone());
        turn.event(Event::NodeReconnectionError { address, tries, error });
    }

    /// Notes that a link was lost. The kept addresses that it was made to are dialled again.
    pub(super) fn link_down(&mut self, turn: &mut Turn<'_>, peer: NodeId) {
        let next = turn.now + wait(turn, self.min, self.max, 0);
        for kept in self.kept.values_mut().filter(|kept| kept.peer == Some(peer)) {
            (kept.tries, kept.next) = (0, Some(next));
        }
    }

    pub(super) fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        for (address, kept) in &mut self.kept {
            if kept.next.is_some_and(|next| next <= turn.now) {
                kept.next = None;
                let addresses = vec![address.clone()];
                turn.put(Effect::Dial { addresses, purpose: Purpose::Kept });
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.kept.values().filter_map(|kept| kept.next).min()
    }
}

/// Draws the time before the next try. The full time doubles with each try from `min` up to `max`. Half
/// to all of it is drawn, so that nodes that lost the same peer do not dial it at the same moment.
fn wait(turn: &mut Turn<'_>, min: Duration, max: Duration, tries: u32) -> Duration {
    // The cap on `tries` keeps the shift from overflowing. Any sensible `max` is reached long before.
    let full = min.saturating_mul(1 << tries.min(20)).min(max);
    let share = 50 + turn.rng.next_u32() % 51;
    full * share / 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Output;

    type Bench = crate::overlay::tests::bench::Bench<Reconnects>;

    fn address() -> Address {
        "127.0.0.1:7117".parse().unwrap()
    }

    #[test]
    fn waits_grow_with_jitter_and_each_failure_is_an_event() {
        let config = Config::default();
        let mut bench = Bench::of(Reconnects::new(&config));
        let peer = NodeId::from_bytes([1; 32]);
        bench.part.keep(address());
        bench.part.dialled(&address(), peer);
        assert_eq!(bench.part.poll_timeout(), None);
        bench.turn(|reconnects, turn| reconnects.link_down(turn, peer));
        for tries in 1..=10 {
            let full = (config.reconnect_min * (1 << (tries - 1))).min(config.reconnect_max);
            let (next, now) = (bench.part.poll_timeout().unwrap(), bench.now);
            assert!(next.since(now) >= full / 2 && next.since(now) <= full, "try {tries}");
            bench.now = next;
            bench.turn(Reconnects::handle_timeout);
            assert_eq!(bench.out.len(), 1);
            assert!(
                matches!(&bench.out[0], Effect::Dial { addresses, .. } if addresses[0] == address())
            );
            assert_eq!(bench.part.poll_timeout(), None, "one dial at a time");
            bench.out.clear();
            bench.turn(|reconnects, turn| {
                reconnects.dial_failed(turn, &address(), "refused".into());
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
    fn a_link_that_the_user_gave_up_is_not_dialled_again() {
        let mut bench = Bench::of(Reconnects::new(&Config::default()));
        let peer = NodeId::from_bytes([1; 32]);
        bench.part.keep(address());
        bench.part.dialled(&address(), peer);
        bench.part.stop_peer(peer);
        bench.turn(|reconnects, turn| reconnects.link_down(turn, peer));
        assert_eq!(bench.part.poll_timeout(), None);
        bench.part.keep(address());
        bench.part.stop(&address());
        bench.turn(|reconnects, turn| reconnects.dial_failed(turn, &address(), String::new()));
        assert_eq!((bench.part.poll_timeout(), bench.out.len()), (None, 0));
    }
}
