//! One part of the overlay on its own, with the links and the time that it acts with.

use std::collections::{BTreeMap, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::event::Peer;
use crate::id::NodeId;
use crate::overlay::away::KeptAwayNodes;
use crate::overlay::{Effect, OverlayContext};
use crate::time::Instant;

/// The wall clock at the start, in milliseconds since 1970.
pub(crate) const UNIX: u64 = 1_700_000_000_000;

/// A part and what it acts with.
pub(in crate::overlay) struct TestBench<P> {
    pub(in crate::overlay) part: P,
    pub(in crate::overlay) links: BTreeMap<NodeId, Peer>,
    pub(in crate::overlay) now: Instant,
    pub(in crate::overlay) out: VecDeque<Effect>,
    rng: ChaCha8Rng,
}

impl<P> TestBench<P> {
    pub(in crate::overlay) fn of(part: P) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(1);
        Self { part, links: BTreeMap::new(), now: Instant::ZERO, out: VecDeque::new(), rng }
    }

    /// Lets the part act.
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
            out: &mut self.out,
        };
        act(&mut self.part, &mut cx)
    }
}
