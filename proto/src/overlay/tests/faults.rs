//! Nodes that violated the protocol, were reported or banned.

use super::*;
use crate::peer::{LinkTransport, Purpose};

/// An overlay, whose links the test makes and ends.
struct Host {
    overlay: Overlay,
    now: Instant,
}

impl Host {
    fn new(max_inbound: usize) -> Self {
        let setup = NodeSetup {
            key: Key::from_secret(&[100; 32]),
            name: "n".into(),
            network: "net".into(),
            epoch: 1,
            manual: false,
        };
        let config = Config { max_inbound, max_inbound_per_ip: 99, ..Config::default() };
        Self { overlay: Overlay::new(setup, &config, [1; 32]), now: Instant::ZERO }
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        self.overlay.set_clocks(Now { monotonic: self.now, unix: 1 });
    }

    /// Returns whether an inbound connection of a node at this host is accepted, and makes the link if so.
    fn accepts(&mut self, n: u8, host: &str) -> Result<(), Reason> {
        let (id, direction) = (id(n), Direction::Inbound);
        let candidate = Candidate {
            id,
            direction,
            incarnation: 1,
            ip: host.parse().unwrap(),
            is_relayed: false,
        };
        match self.overlay.admit(&candidate, &[]) {
            Admission::Refuse(reason) => Err(reason),
            _ => {
                let address = format!("{host}:7117").parse().unwrap();
                self.overlay.link_up(
                    Peer::new(id, "p".into(), address, direction),
                    candidate,
                    None,
                    LinkTransport::default(),
                );
                Ok(())
            }
        }
    }

    fn end(&mut self, n: u8, reason: Reason, by_peer: bool) {
        self.overlay.link_down(id(n), &LinkEnd { reason, by_peer });
    }

    /// Returns the reasons with which links are closed.
    fn closed(&mut self) -> Vec<Reason> {
        std::iter::from_fn(|| self.overlay.poll())
            .filter_map(|effect| match effect {
                Effect::CloseLink(_, reason) => Some(reason),
                _ => None,
            })
            .collect()
    }
}

fn id(n: u8) -> NodeId {
    Key::from_secret(&[n; 32]).id()
}

fn fault() -> Reason {
    Reason::Fault("x".into())
}

#[test]
fn a_peer_whose_fault_ended_a_link_is_refused_for_ten_minutes() {
    let mut node = Host::new(128);
    node.accepts(1, "192.0.2.1").unwrap();
    node.end(1, fault(), false);
    assert_eq!(node.accepts(1, "192.0.2.1"), Err(Reason::Discouraged));
    assert_eq!(node.accepts(1, "198.51.100.1"), Err(Reason::Discouraged), "whatever its address");
    assert_eq!(node.overlay.begin_hello(id(1), Purpose::Overlay), Err(Reason::Discouraged));
    assert_eq!(node.accepts(2, "192.0.2.1"), Ok(()), "another node of the host did nothing");
    node.pass(599);
    assert_eq!(node.accepts(1, "192.0.2.1"), Err(Reason::Discouraged));
    node.pass(1);
    assert_eq!(node.accepts(1, "192.0.2.1"), Ok(()));
    // A fault that the peer claims, and other ends of a link, say nothing about the peer.
    for (reason, by_peer) in [(fault(), true), (Reason::Slow, false), (Reason::Stopping, true)] {
        node.end(1, reason, by_peer);
        assert_eq!(node.accepts(1, "192.0.2.1"), Ok(()));
    }
    // An application that connects to the peer forgives it.
    node.end(1, fault(), false);
    assert_eq!(node.overlay.begin_hello(id(1), Purpose::Application), Ok(()));
    node.overlay.end_hello(id(1));
    assert_eq!(node.accepts(1, "192.0.2.1"), Ok(()));
}

#[test]
fn unknown_nodes_of_a_faulty_host_give_way_when_places_are_short() {
    let mut node = Host::new(6);
    node.overlay.pin(id(8));
    node.accepts(1, "192.0.2.1").unwrap();
    node.end(1, fault(), false);
    for n in 2..=5 {
        node.accepts(n, "192.0.2.1").unwrap();
    }
    assert_eq!(node.accepts(6, "192.0.2.1"), Err(Reason::FullForAddress));
    assert_eq!(node.accepts(6, "192.0.2.2"), Ok(()), "a neighbour of the same group");
    assert_eq!(node.accepts(8, "192.0.2.1"), Ok(()), "a node that the application has chosen");
    node.end(6, Reason::Stopping, true);
    node.pass(600);
    assert_eq!(node.accepts(7, "192.0.2.1"), Ok(()));
}

#[test]
fn a_reported_peer_is_treated_like_a_faulty_one() {
    let mut node = Host::new(128);
    node.accepts(1, "192.0.2.1").unwrap();
    node.overlay.command(Command::Penalize(id(1), "spam".into()));
    node.overlay.command(Command::Penalize(id(2), "spam elsewhere".into()));
    assert_eq!(node.closed(), [Reason::Fault("spam".into())]);
    for n in [1, 2] {
        assert_eq!(node.accepts(n, "192.0.2.1"), Err(Reason::Discouraged));
    }
}

#[test]
fn a_banned_node_is_neither_accepted_nor_dialled() {
    let mut node = Host::new(128);
    node.accepts(1, "192.0.2.1").unwrap();
    node.overlay.command(Command::Ban(id(1), Some(Duration::from_secs(60))));
    assert_eq!(node.closed(), [Reason::Banned]);
    node.end(1, Reason::Banned, false);
    assert_eq!(node.accepts(1, "192.0.2.1"), Err(Reason::Banned));
    for purpose in [Purpose::Application, Purpose::Reconnect, Purpose::Overlay, Purpose::Message] {
        assert_eq!(node.overlay.begin_hello(id(1), purpose), Err(Reason::Banned));
    }
    assert_eq!(node.accepts(2, "192.0.2.1"), Ok(()));
    node.pass(60);
    assert_eq!(node.accepts(1, "192.0.2.1"), Ok(()), "the ban has ended");
    node.overlay.command(Command::Ban(id(1), None));
    node.end(1, Reason::Banned, false);
    node.pass(1_000_000);
    assert_eq!(node.accepts(1, "192.0.2.1"), Err(Reason::Banned));
    node.overlay.command(Command::Unban(id(1)));
    assert_eq!(node.accepts(1, "192.0.2.1"), Ok(()));
}
