//! The shutdown order: the owner of a network signs it, and every node that obeys passes it on.
//!
//! A network may have an owner: a key pair that does not belong to a node. Nodes that know the owner's
//! identity obey the orders that it has signed. A node obeys an order once, and not again after a restart: it
//! ignores an order that is older than its own start, or whose time is far from its wall clock. The price: if
//! the owner's clock is behind that of a node that has just started, the node ignores the order.

use std::time::Duration;

use crate::config::Config;
use crate::event::Event;
use crate::frame::Frame;
use crate::frame::owner::ShutdownOrder;
use crate::id::{Key, NodeId};
use crate::overlay::budgets::Work;
use crate::overlay::{Effect, NodeSetup, OverlayContext};
use crate::peer::Output;
use crate::time::Instant;
use crate::verify::Verifier;

/// Minimum interval between two events about refused orders.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The owner of the network, and whether its order was obeyed.
#[derive(Debug)]
pub(super) struct OwnerOrders {
    network: String,
    epoch: u64,
    /// Tolerated difference between an order's time and this node's clock, in milliseconds.
    max_skew: u64,
    owner: Option<NodeId>,
    verifier: Verifier,
    /// An order was obeyed, so the node is about to stop.
    obeyed: bool,
    /// Time from which on a refused order causes an event again.
    report_at: Instant,
}

impl OwnerOrders {
    pub(super) fn new(setup: &NodeSetup, config: &Config) -> Self {
        Self {
            network: setup.network.clone(),
            epoch: setup.epoch,
            max_skew: u64::try_from(config.clock_skew.as_millis()).unwrap_or(u64::MAX),
            owner: None,
            verifier: Verifier::default(),
            obeyed: false,
            report_at: Instant::ZERO,
        }
    }

    pub(super) fn verify_with(&mut self, verifier: Verifier) {
        self.verifier = verifier;
    }

    pub(super) fn set_owner(&mut self, owner: NodeId) {
        self.owner = Some(owner);
    }

    /// Signs an order to stop with the owner's key, sends it to all peers, and obeys it.
    pub(super) fn issue(&mut self, cx: &mut OverlayContext<'_>, key: &Key) {
        let mut nonce = [0; 16];
        for half in nonce.chunks_mut(8) {
            half.copy_from_slice(&cx.rng_u64().to_le_bytes());
        }
        let order = ShutdownOrder::sign(key, &self.network, cx.unix, nonce);
        self.obey(cx, &order, None);
    }

    /// Handles an order from a peer: obeys, refuses or ignores it.
    pub(super) fn receive(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        order: &ShutdownOrder,
    ) {
        if self.obeyed {
            return;
        }
        let Some(owner) = self.owner else {
            return self.refuse(cx, from, "no owner of this network is known here");
        };
        if order.owner != owner {
            return self.refuse(cx, from, "it is not signed by the owner of this network");
        }
        // A replayed order, or clocks that are far apart. An order from before this node's start was for an
        // earlier run. If it were obeyed, a peer could stop this node after each restart by replaying it.
        let skew = order.time.abs_diff(cx.unix);
        if order.time <= self.epoch || skew > self.max_skew {
            return;
        }
        // Charged before the check. An order of the owner also comes over the other links.
        if !cx.allows(from, Work::Check, 1) {
            return;
        }
        if !self.verifier.verify(owner, &order.signed(&self.network), &order.signature) {
            return self.refuse(cx, from, "its signature is wrong");
        }
        self.obey(cx, order, Some(from));
    }

    fn obey(&mut self, cx: &mut OverlayContext<'_>, order: &ShutdownOrder, from: Option<NodeId>) {
        self.obeyed = true;
        let links = cx.links;
        // This comes before `StopOrdered`, because a node that stops can't pass the order on.
        for link in links.keys().filter(|link| Some(**link) != from) {
            cx.send(*link, Frame::ShutdownOrder(order.clone()));
        }
        cx.event(Event::NodeShutdownOrdered { owner: order.owner });
        cx.put(Effect::Out(Output::StopOrdered));
    }

    fn refuse(&mut self, cx: &mut OverlayContext<'_>, from: NodeId, why: &'static str) {
        // Any peer can send wrong orders. With an event for each, it could flood the application.
        if cx.now < self.report_at {
            return;
        }
        let Some(peer) = cx.links.get(&from).cloned() else { return };
        self.report_at = cx.now + REPORT_EVERY;
        let why = why.to_owned();
        cx.event(Event::NodeShutdownRefused { peer, why });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::event::{Direction, Peer};
    use crate::overlay::away::KeptAwayNodes;
    use crate::overlay::budgets::Budgets;

    const START: u64 = 1_000_000;

    struct Node {
        orders: OwnerOrders,
        links: BTreeMap<NodeId, Peer>,
        rng: ChaCha8Rng,
        now: Instant,
        unix: u64,
    }

    fn key(n: u8) -> Key {
        Key::from_secret(&[n; 32])
    }

    fn owner() -> Key {
        key(9)
    }

    impl Node {
        /// Returns a node with links to nodes 1 to 3 that was started a second ago.
        fn new(owner: Option<NodeId>) -> Self {
            let setup = NodeSetup {
                key: key(100),
                name: String::new(),
                network: "net".into(),
                epoch: START,
                manual: false,
            };
            let mut orders = OwnerOrders::new(&setup, &Config::default());
            if let Some(owner) = owner {
                orders.set_owner(owner);
            }
            let peer = |n| {
                let address = "127.0.0.1:7117".parse().unwrap();
                let id = key(n).id();
                (id, Peer::new(id, String::new(), address, Direction::Inbound))
            };
            let links = (1..=3).map(peer).collect();
            let rng = ChaCha8Rng::seed_from_u64(1);
            let now = Instant::from_origin(Duration::from_secs(1));
            Self { orders, links, rng, now, unix: START + 1000 }
        }

        fn act(
            &mut self,
            act: impl FnOnce(&mut OwnerOrders, &mut OverlayContext<'_>),
        ) -> VecDeque<Effect> {
            let mut out = VecDeque::new();
            let Self { orders, links, rng, now, unix } = self;
            let (now, unix, away) = (*now, *unix, &KeptAwayNodes::default());
            let budgets = &mut Budgets::new(&Config::default());
            let cx = OverlayContext { now, unix, links, away, rng, budgets, out: &mut out };
            act(orders, &mut { cx });
            out
        }

        fn receive(&mut self, order: &ShutdownOrder) -> VecDeque<Effect> {
            self.act(|orders, cx| orders.receive(cx, key(1).id(), order))
        }

        fn refuses(&mut self, order: &ShutdownOrder) -> String {
            self.now = self.now + REPORT_EVERY;
            let out = self.receive(order);
            let [Effect::Out(Output::Event(Event::NodeShutdownRefused { peer, why }))] =
                &Vec::from(out)[..]
            else {
                panic!("the order was not refused");
            };
            assert_eq!(peer.id(), key(1).id());
            why.clone()
        }
    }

    fn order(by: &Key, network: &str, time: u64) -> ShutdownOrder {
        ShutdownOrder::sign(by, network, time, [3; 16])
    }

    fn sent(out: &VecDeque<Effect>) -> Vec<NodeId> {
        let sent = out.iter().filter_map(|output| match output {
            Effect::Send(to, Frame::ShutdownOrder(_)) => Some(*to),
            _ => None,
        });
        sent.collect()
    }

    #[test]
    fn the_owners_order_is_passed_on_and_obeyed_once() {
        let mut node = Node::new(Some(owner().id()));
        let order = order(&owner(), "net", node.unix - 100);
        let out = node.receive(&order);
        let mut others = vec![key(2).id(), key(3).id()];
        others.sort_unstable();
        assert_eq!(sent(&out), others, "not back to the peer that it came from");
        assert!(matches!(out.back(), Some(Effect::Out(Output::StopOrdered))));
        let is_reported = |effect: &Effect| {
            matches!(effect, Effect::Out(Output::Event(Event::NodeShutdownOrdered { owner: by }))
                if *by == owner().id())
        };
        assert_eq!(out.iter().filter(|output| is_reported(output)).count(), 1);
        assert!(node.receive(&order).is_empty(), "obeyed already");
    }

    #[test]
    fn a_node_that_signs_an_order_also_obeys_it() {
        let mut node = Node::new(Some(owner().id()));
        let out = node.act(|orders, cx| orders.issue(cx, &owner()));
        assert_eq!(sent(&out).len(), 3);
        assert!(matches!(out.back(), Some(Effect::Out(Output::StopOrdered))));
        let Some(Effect::Send(_, Frame::ShutdownOrder(order))) = out.front() else {
            panic!("{out:?}")
        };
        let mut other = Node::new(Some(owner().id()));
        assert!(matches!(other.receive(order).back(), Some(Effect::Out(Output::StopOrdered))));
    }

    #[test]
    fn orders_that_the_owner_has_not_signed_are_refused_and_not_passed_on() {
        let mut node = Node::new(Some(owner().id()));
        let time = node.unix;
        assert!(node.refuses(&order(&key(5), "net", time)).contains("not signed by the owner"));
        let mut in_the_owners_name = order(&key(5), "net", time);
        in_the_owners_name.owner = owner().id();
        assert!(node.refuses(&in_the_owners_name).contains("signature"));
        assert!(node.refuses(&order(&owner(), "other", time)).contains("signature"));
        let mut later = order(&owner(), "net", time);
        later.time += 1;
        assert!(node.refuses(&later).contains("signature"));
        let mut again = order(&owner(), "net", time);
        again.nonce[0] ^= 1;
        assert!(node.refuses(&again).contains("signature"));
        let good = order(&owner(), "net", time);
        assert!(Node::new(None).refuses(&good).contains("no owner"));
        assert!(
            matches!(node.receive(&good).back(), Some(Effect::Out(Output::StopOrdered))),
            "it still obeys"
        );
    }

    #[test]
    fn an_old_order_is_ignored() {
        let mut node = Node::new(Some(owner().id()));
        // Orders from before the start, as a peer would replay them after a restart.
        assert!(node.receive(&order(&owner(), "net", START - 1)).is_empty());
        assert!(node.receive(&order(&owner(), "net", START)).is_empty());
        let skew = node.orders.max_skew;
        assert!(node.receive(&order(&owner(), "net", node.unix + skew + 1)).is_empty());
        node.unix += 10 * skew;
        assert!(node.receive(&order(&owner(), "net", START + 500)).is_empty());
        assert!(!node.receive(&order(&owner(), "net", node.unix - skew)).is_empty());
    }

    #[test]
    fn a_flood_of_refused_orders_is_reported_once_a_second() {
        let mut node = Node::new(Some(owner().id()));
        let bad = order(&key(5), "net", node.unix);
        let reported: usize = (0..100).map(|_| node.receive(&bad).len()).sum();
        assert_eq!(reported, 1);
        node.now = node.now + REPORT_EVERY;
        assert_eq!(node.receive(&bad).len(), 1);
    }
}
