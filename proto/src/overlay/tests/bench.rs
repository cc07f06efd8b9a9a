//! A bench for tests of a single part of the overlay: the part and the context that it works in.

use std::collections::{BTreeMap, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::config::Config;
use crate::event::Peer;
use crate::id::NodeId;
use crate::overlay::away::KeptAwayNodes;
use crate::overlay::budgets::Budgets;
use crate::overlay::{Effect, OverlayContext};
use crate::time::Instant;

/// The wall clock at the start, in milliseconds since 1970.
pub(crate) const UNIX: u64 = 1_700_000_000_000;

/// A part under test, with the links, the time and the list of effects.
pub(in crate::overlay) struct TestBench<P> {
    pub(in crate::overlay) part: P,
    pub(in crate::overlay) links: BTreeMap<NodeId, Peer>,
    pub(in crate::overlay) now: Instant,
    pub(in crate::overlay) out: VecDeque<Effect>,
    rng: ChaCha8Rng,
    pub(in crate::overlay) budgets: Budgets,
}

impl<P> TestBench<P> {
    pub(in crate::overlay) fn of(part: P) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(1);
        let (links, out) = (BTreeMap::new(), VecDeque::new());
        let budgets = Budgets::new(&Config::default());
        Self { part, links, now: Instant::ZERO, out, rng, budgets }
    }

    /// Calls `act` with the part and its context.
    pub(in crate::overlay) fn act<T>(
        &mut self,
        act: impl FnOnce(&mut P, &mut OverlayContext<'_>) -> T,
    ) -> T {
        let mut cx = OverlayContext {
            now: self.now,
            unix: UNIX + u64::try_from(self.now.since_origin().as_millis()).unwrap(),
            links: &self.links,
            away: &KeptAwayNodes::default(),
            rng: &mut self.rng,
            budgets: &mut self.budgets,
            out: &mut self.out,
        };
        act(&mut self.part, &mut cx)
    }
}
