//! Links that are to be kept: dialled again when they are lost, with growing waits.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

use crate::address::Address;
use crate::config::Config;
use crate::event::Event;
use crate::id::NodeId;
use crate::overlay::Output;
use crate::time::Instant;

/// The addresses that we stay linked to.
#[derive(Debug)]
pub(super) struct Redials {
    min: Duration,
    max: Duration,
    kept: BTreeMap<Address, Kept>,
}

#[derive(Debug)]
struct Kept {
    /// Who answered there last.
    peer: Option<NodeId>,
    /// Failures since the link was lost.
    tries: u32,
    /// When to dial; `None` while linked or dialling.
    next: Option<Instant>,
}

impl Redials {
    pub(super) fn new(config: &Config) -> Self {
        Self { min: config.reconnect_min, max: config.reconnect_max, kept: BTreeMap::new() }
    }

    /// Keeps a link to `address` from now on. It is being dialled: what comes of that is told.
    pub(super) fn keep(&mut self, address: Address) {
        self.kept.entry(address).or_insert(Kept { peer: None, tries: 0, next: None });
    }

    pub(super) fn stop(&mut self, address: &Address) {
        self.kept.remove(address);
    }

    /// The user closed the link: it is not kept any more.
    pub(super) fn stop_peer(&mut self, peer: NodeId) {
        self.kept.retain(|_, kept| kept.peer != Some(peer));
    }

    /// No link is kept any more.
    pub(super) fn stop_all(&mut self) {
        self.kept.clear();
    }

    /// A dial of `address` reached `peer`.
    pub(super) fn dialled(&mut self, address: &Address, peer: NodeId) {
        if let Some(kept) = self.kept.get_mut(address) {
            *kept = Kept { peer: Some(peer), tries: 0, next: None };
        }
    }

    /// A dial of `address` failed: told to the application, then tried again.
    pub(super) fn dial_failed(
        &mut self,
        now: Instant,
        address: &Address,
        error: String,
        rng: &mut ChaCha8Rng,
        out: &mut VecDeque<Output>,
    ) {
        let Some(tries) = self.kept.get(address).map(|kept| kept.tries.saturating_add(1)) else {
            return;
        };
        let next = Some(now + self.wait(tries, rng));
        if let Some(kept) = self.kept.get_mut(address) {
            (kept.tries, kept.next) = (tries, next);
        }
        let address = address.clone();
        out.push_back(Output::Event(Event::NodeReconnectionError { address, tries, error }));
    }

    /// A link was lost: the kept addresses that it was made to are dialled again.
    pub(super) fn link_down(&mut self, now: Instant, peer: NodeId, rng: &mut ChaCha8Rng) {
        let wait = self.wait(0, rng);
        for kept in self.kept.values_mut().filter(|kept| kept.peer == Some(peer)) {
            (kept.tries, kept.next) = (0, Some(now + wait));
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        for (address, kept) in &mut self.kept {
            if kept.next.is_some_and(|next| next <= now) {
                kept.next = None;
                out.push_back(Output::Dial {
                    address: address.clone(),
                    others: Vec::new(),
                    quiet: false,
                });
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.kept.values().filter_map(|kept| kept.next).min()
    }

    /// Doubles with each try up to the longest, then half to all of it by chance, so that nodes
    /// that lost the same peer do not come back in step.
    fn wait(&self, tries: u32, rng: &mut ChaCha8Rng) -> Duration {
        let full = self.min.saturating_mul(1 << tries.min(20)).min(self.max);
        let share = 50 + rng.next_u32() % 51;
        full * share / 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    fn address() -> Address {
        "127.0.0.1:7117".parse().unwrap()
    }

    #[test]
    fn waits_grow_with_jitter_and_the_application_is_told() {
        let config = Config::default();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut redials = Redials::new(&config);
        let peer = NodeId::from_bytes([1; 32]);
        let mut now = Instant::ZERO;
        redials.keep(address());
        redials.dialled(&address(), peer);
        assert_eq!(redials.poll_timeout(), None);
        redials.link_down(now, peer, &mut rng);
        for tries in 1..=10 {
            let full = (config.reconnect_min * (1 << (tries - 1))).min(config.reconnect_max);
            let next = redials.poll_timeout().unwrap();
            assert!(next.since(now) >= full / 2 && next.since(now) <= full, "try {tries}");
            now = next;
            let mut out = VecDeque::new();
            redials.handle_timeout(now, &mut out);
            assert_eq!(out.len(), 1);
            assert!(
                matches!(&out[0], Output::Dial { address: dialled, .. } if *dialled == address())
            );
            assert_eq!(redials.poll_timeout(), None, "one dial at a time");
            out.clear();
            redials.dial_failed(now, &address(), "refused".into(), &mut rng, &mut out);
            let Output::Event(Event::NodeReconnectionError { tries: told, .. }) = &out[0] else {
                panic!("{out:?}");
            };
            assert_eq!(*told, tries);
        }
        redials.dialled(&address(), peer);
        assert_eq!(redials.poll_timeout(), None);
    }

    #[test]
    fn what_the_user_gave_up_stays_lost() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut redials = Redials::new(&Config::default());
        let peer = NodeId::from_bytes([1; 32]);
        redials.keep(address());
        redials.dialled(&address(), peer);
        redials.stop_peer(peer);
        redials.link_down(Instant::ZERO, peer, &mut rng);
        assert_eq!(redials.poll_timeout(), None);
        redials.keep(address());
        redials.stop(&address());
        let mut out = VecDeque::new();
        redials.dial_failed(Instant::ZERO, &address(), String::new(), &mut rng, &mut out);
        assert_eq!((redials.poll_timeout(), out.len()), (None, 0));
    }
}
