use super::*;
use crate::overlay::tests::bench::TestBench;

fn id(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

impl TestBench<Reach> {
    fn listening() -> Self {
        let mut bench = Self::of(Reach::new(&Config::default()));
        bench.act(|reach, cx| reach.set_means(cx, true, true));
        bench
    }

    fn link(&mut self, n: u8, ip: &str, direction: Direction) {
        let address = format!("{ip}:7117").parse().unwrap();
        let peer = Peer::new(id(n), String::new(), address, direction);
        let transport = LinkTransport { scheme: Scheme::Tcp, accepts_quic: true, relays: true };
        self.act(|reach, cx| reach.link_up(cx, &peer, ip.parse().unwrap(), transport));
    }

    fn link_over(&mut self, scheme: Scheme, n: u8) {
        let address: Address = "198.51.100.9:7117".parse().unwrap();
        let peer = Peer::new(id(n), String::new(), address, Direction::Inbound);
        let transport = LinkTransport { scheme, ..LinkTransport::default() };
        let ip = "198.51.100.9".parse().unwrap();
        self.act(|reach, cx| reach.link_up(cx, &peer, ip, transport));
    }

    fn unlink(&mut self, n: u8) {
        self.act(|reach, cx| reach.link_down(cx, id(n)));
    }

    fn see(&mut self, by: u8, address: Option<&str>) {
        let address = address.map(|address| address.parse().unwrap());
        self.act(|reach, cx| reach.observed(cx, id(by), address));
    }

    fn out(&mut self) -> Vec<String> {
        let words = |effect: Effect| match effect {
            Effect::Out(Output::Observe(id)) => format!("observe {}", id.as_bytes()[0]),
            Effect::Out(Output::StopObserving(id)) => format!("stop {}", id.as_bytes()[0]),
            Effect::Out(Output::AnnounceMapped(addresses)) => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                format!("announce [{}]", addresses.join(" "))
            }
            Effect::Out(Output::Event(Event::NodeReachabilityChanged { reachability, .. })) => {
                reachability.name().to_owned()
            }
            other => panic!("{other:?}"),
        };
        self.out.drain(..).map(words).collect()
    }

    fn map(&mut self, external_ip: &str) {
        let mapping = PortMapping {
            protocol: MappingProtocol::Pcp,
            external_ip: external_ip.parse().unwrap(),
            tcp: vec![7117],
            udp: vec![40_001],
            until: self.now + Duration::from_secs(3600),
        };
        self.act(|reach, cx| reach.set_mapping(cx, MappingState::Mapped(mapping)));
    }

    fn candidates(&self, own: &[&str]) -> Vec<String> {
        let own: Vec<Address> = own.iter().map(|at| at.parse().unwrap()).collect();
        self.part.candidates(&own).iter().map(ToString::to_string).collect()
    }
}

#[test]
fn two_peers_of_different_groups_are_observers_and_a_further_one_takes_the_place_of_one() {
    let mut node = TestBench::listening();
    node.link(1, "198.51.100.1", Direction::Outbound);
    node.link(2, "198.51.100.2", Direction::Outbound);
    node.link(3, "192.168.1.3", Direction::Outbound);
    assert_eq!(node.out(), ["observe 1"], "neither one of its group nor one of the LAN");
    node.link(4, "203.0.113.4", Direction::Outbound);
    node.link(5, "192.0.2.5", Direction::Outbound);
    assert_eq!(node.out(), ["observe 4"]);
    node.unlink(1);
    let next = node.out();
    assert!(next[0] == "stop 1" && (next[1] == "observe 2" || next[1] == "observe 5"));
    node.see(4, None);
    assert_eq!(node.out().len(), 1, "the last group takes its place");
}

#[test]
fn an_observer_that_does_not_answer_is_asked_again_after_a_minute() {
    let mut node = TestBench::listening();
    node.link(1, "198.51.100.1", Direction::Outbound);
    node.see(1, None);
    assert_eq!(node.out(), ["observe 1"]);
    let due = node.part.poll_timeout().unwrap();
    assert_eq!(due, node.now + RETRY_AFTER);
    node.now = due;
    node.act(Reach::handle_timeout);
    assert_eq!(node.out(), ["observe 1"]);
    assert_eq!(node.part.poll_timeout(), None);
}

#[test]
fn an_address_that_no_node_can_have_counts_as_no_answer() {
    for lie in ["203.0.113.1:0", "0.0.0.0:7117", "[::]:7117", "224.0.0.251:7117"] {
        let mut node = TestBench::listening();
        node.link(1, "198.51.100.1", Direction::Outbound);
        node.see(1, Some(lie));
        assert_eq!(node.part.seen().udp, [], "{lie}");
        assert_eq!(node.part.poll_timeout(), Some(node.now + RETRY_AFTER));
    }
}

#[test]
fn a_node_that_is_dialled_from_the_internet_needs_no_observers() {
    let mut node = TestBench::listening();
    node.link(1, "198.51.100.1", Direction::Outbound);
    node.link(2, "192.168.1.2", Direction::Inbound);
    assert_eq!(node.out(), ["observe 1"]);
    node.link(3, "203.0.113.3", Direction::Inbound);
    assert_eq!(node.out(), ["direct", "stop 1"]);
    assert!(node.part.seen().dialled);
    node.unlink(3);
    assert_eq!(node.out(), ["unknown", "observe 1"]);
}

#[test]
fn what_two_groups_see_is_confirmed_and_comes_before_the_addresses_of_the_lan() {
    let mut node = TestBench::listening();
    node.link(1, "198.51.100.1", Direction::Outbound);
    node.link(2, "203.0.113.2", Direction::Outbound);
    node.see(1, Some("192.0.2.7:7000"));
    assert_eq!(node.part.seen().confirmed, None);
    let own = ["192.168.1.9:7117", "quic://192.168.1.9:7117"];
    assert_eq!(node.candidates(&own), ["quic://192.0.2.7:7000", "quic://192.168.1.9:7117"]);
    node.see(2, Some("192.0.2.7:7000"));
    assert_eq!(node.part.seen().confirmed, Some("192.0.2.7:7000".parse().unwrap()));
    // A router that gives each destination another port.
    node.see(2, Some("192.0.2.7:7001"));
    assert_eq!((node.part.seen().udp.len(), node.part.seen().confirmed), (2, None));
    // What a node claims that was not asked has no effect.
    node.see(9, Some("192.0.2.99:1"));
    assert_eq!(node.part.seen().udp.len(), 2);
    let many: Vec<String> = (0..20).map(|n| format!("192.168.1.{n}:7117")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(node.candidates(&many).len(), MAX_CANDIDATES);
}

#[test]
fn the_application_learns_how_others_reach_this_node() {
    let mut node = TestBench::listening();
    node.link_over(Scheme::Relay, 1);
    assert_eq!(node.out(), ["relayed"]);
    node.link_over(Scheme::Quic, 2);
    node.link_over(Scheme::Quic, 3);
    assert_eq!(node.out(), ["punched"], "once");
    for (n, expected) in [(2, vec![]), (3, vec!["relayed"]), (1, vec!["unknown"])] {
        node.unlink(n);
        assert_eq!(node.out(), expected);
    }
}

#[test]
fn a_node_without_udp_has_no_candidates_and_asks_nobody() {
    let mut node = TestBench::of(Reach::new(&Config::default()));
    node.link(1, "198.51.100.1", Direction::Outbound);
    assert!(node.out().is_empty() && node.candidates(&["192.168.1.9:7117"]).is_empty());
}

#[test]
fn a_mapped_address_is_announced_and_is_the_first_candidate() {
    let mut node = TestBench::listening();
    node.act(|reach, cx| reach.set_mapping(cx, MappingState::Searching));
    assert!(node.out().is_empty() && node.part.status().why.contains("was asked"));
    node.map("192.0.2.7");
    assert_eq!(node.out(), ["announce [192.0.2.7:7117 quic://192.0.2.7:40001]", "mapped"]);
    let why = "its router forwards 192.0.2.7:7117 and quic://192.0.2.7:40001 to it (PCP)";
    assert_eq!(node.part.status().why, why);
    let own = ["192.0.2.7:7117", "quic://192.0.2.7:40001", "192.168.1.9:7117"];
    let expected = ["quic://192.0.2.7:40001", "quic://192.168.1.9:7117"];
    assert_eq!(node.candidates(&own), expected, "the mapped TCP port is none of UDP");
    node.map("192.0.2.7");
    assert_eq!(node.out(), [""; 0], "a renewal changes nothing");
    // The router has restarted, and has another address now.
    node.map("192.0.2.8");
    assert_eq!(node.out(), ["announce [192.0.2.8:7117 quic://192.0.2.8:40001]"]);
    let failure = MappingFailure::NotOffered;
    node.act(|reach, cx| reach.set_mapping(cx, MappingState::Failed(failure)));
    assert_eq!(node.out(), ["announce []", "unknown"]);
    assert!(node.part.status().why.ends_with("offers none of PCP, NAT-PMP and UPnP"));
}

#[test]
fn an_address_behind_another_router_is_not_announced() {
    for private in ["192.168.10.50", "10.1.2.3", "100.64.0.9", "169.254.1.1", "0.0.0.0"] {
        let mut node = TestBench::listening();
        node.map(private);
        assert_eq!(node.out(), [""; 0], "{private}");
        let status = node.part.status();
        assert_eq!(status.reachability, Reachability::Unknown);
        assert!(status.why.contains("the private address"), "{}", status.why);
        assert!(status.mapped.is_empty() && node.candidates(&[]).is_empty());
    }
}

#[test]
fn two_peers_that_see_another_address_refute_a_mapped_one_and_a_single_one_does_not() {
    let mut node = TestBench::listening();
    node.link(1, "198.51.100.1", Direction::Outbound);
    node.link(2, "203.0.113.2", Direction::Outbound);
    node.map("192.0.2.7");
    node.out();
    node.see(1, Some("192.0.2.99:7000"));
    assert_eq!(node.out(), [""; 0], "one peer may lie");
    // The second router gives each destination another port, so the addresses differ in the port.
    node.see(2, Some("192.0.2.99:7001"));
    assert_eq!(node.out(), ["announce []", "unknown"]);
    assert!(node.part.status().why.contains("at 192.0.2.7, but peers see it at 192.0.2.99"));
    node.see(2, Some("192.0.2.7:7117"));
    assert_eq!(node.out(), ["announce [192.0.2.7:7117 quic://192.0.2.7:40001]", "mapped"]);
}

#[test]
fn the_kind_of_the_nat_follows_from_what_two_peers_see() {
    let mut node = TestBench::listening();
    let nat = |node: &TestBench<Reach>| node.part.status().nat.name();
    node.link(1, "198.51.100.1", Direction::Outbound);
    node.link(2, "203.0.113.2", Direction::Outbound);
    assert_eq!(nat(&node), "unknown");
    node.see(1, None);
    assert_eq!(nat(&node), "udp_blocked");
    node.see(2, Some("192.0.2.7:7000"));
    assert_eq!(nat(&node), "unknown", "one peer is not enough");
    node.now = node.now + RETRY_AFTER;
    node.act(Reach::handle_timeout);
    node.see(1, Some("192.0.2.7:7000"));
    assert_eq!(nat(&node), "endpoint_independent");
    node.see(1, Some("192.0.2.7:7001"));
    assert_eq!(nat(&node), "endpoint_dependent");
    node.see(1, Some("[2001:db8::7]:7001"));
    assert_eq!(nat(&node), "unknown", "IPv4 and IPv6 can't be compared");
    node.link(3, "203.0.113.3", Direction::Inbound);
    assert_eq!(nat(&node), "dialled");
    node.act(|reach, cx| reach.set_means(cx, false, true));
    assert_eq!(nat(&node), "no_udp");
}
