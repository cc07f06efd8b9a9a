//! Meetings: who dials whom, at which addresses, and how many at a time.

use super::*;
use crate::address::Scheme;
use crate::frame::query::{AnswerBody, QueryAnswer};
use crate::node_record::NodeRecord;
use crate::peer::meetings::{LINK_ONLY, MAX_MEETINGS};

fn quic(n: u8) -> Address {
    format!("quic://203.0.113.{n}:7117").parse().unwrap()
}

fn relay(n: u8) -> Address {
    format!("relay://198.51.100.{n}:7117").parse().unwrap()
}

/// Returns the nodes that are being met, with the addresses.
fn meetings(outputs: &[Output]) -> Vec<(NodeId, Vec<String>)> {
    let dials = outputs.iter().filter_map(|output| match output {
        Output::Dial { addresses, purpose: Purpose::Meeting, .. } => Some(addresses),
        _ => None,
    });
    let met = |addresses: &Vec<Address>| {
        let texts = addresses.iter().map(|at| at.clone().without_id().to_string());
        (addresses[0].id.unwrap(), texts.collect())
    };
    dials.map(met).collect()
}

impl Driven {
    /// Returns a node with links to the nodes 2 and 3, which meets others by these means.
    fn meeting(over_udp: bool, over_relays: bool) -> Self {
        let mut node = Self::new(1);
        node.link(2, 2);
        node.link(3, 3);
        node.input(Input::Command(Command::Meets { over_udp, over_relays }));
        node
    }

    /// Asks node 9 for a call-back, and returns the query.
    fn call_back(&mut self, of: u8) -> Query {
        let what = QueryKind::CallBack { target: id(of), token: [7; 16], addresses: Vec::new() };
        let (operation, depth) = (self.operation(), -1);
        let input = Input::Query { operation, what, depth, own: false, timeout: None };
        let sent = self.input(input).into_iter().find_map(|output| match output {
            Output::Send { frame: Frame::Query(query), .. } => Some(query),
            _ => None,
        });
        sent.unwrap()
    }

    /// Hands in an answer of node `of`, which node 2 passes on.
    fn answer(&mut self, query: &Query, of: u8, addresses: Vec<Address>) -> Vec<Output> {
        let answer = QueryAnswer {
            id: query.id,
            node: id(of),
            name: String::new(),
            addresses,
            body: AnswerBody::Here,
        };
        self.input(Input::Frame(ConnectionId(2), Frame::Answer(answer)))
    }

    /// Hands in a request of node `of` to call it back, which node 2 passes on.
    fn asked(&mut self, of: u8, number: u8, addresses: &[Address]) -> Vec<Output> {
        let record = NodeRecord::sign(&key(of), "net", self.now.unix, addresses);
        let what =
            QueryKind::SignedCallBack { target: id(1), token: LINK_ONLY, record: Box::new(record) };
        let ttl = Duration::from_secs(10);
        let query = Query { id: QueryId([number; 16]), depth: 255, own: false, ttl, what };
        self.input(Input::Frame(ConnectionId(2), Frame::Query(query)))
    }
}

#[test]
fn the_asking_node_dials_the_candidates_and_relays_in_the_answer() {
    let mut node = Driven::meeting(true, true);
    node.input(Input::Command(Command::Addresses(vec![address(1)])));
    let query = node.call_back(9);
    let QueryKind::SignedCallBack { record, .. } = &query.what else { panic!() };
    let told: Vec<_> = record.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["192.0.2.1:7117", "quic://192.0.2.1:7117"]);
    assert!(record.verify("net"));

    assert!(meetings(&node.answer(&query, 8, vec![quic(8)])).is_empty(), "another node answers");
    let outputs = node.answer(&query, 9, vec![quic(9), address(9), relay(2)]);
    let expected = vec!["quic://203.0.113.9:7117".into(), "relay://198.51.100.2:7117".into()];
    assert_eq!(meetings(&outputs), [(id(9), expected)]);
    assert!(meetings(&node.answer(&query, 9, vec![quic(10)])).is_empty(), "it is being met");
}

#[test]
fn the_asked_node_dials_the_candidates_of_the_asking_node() {
    let mut node = Driven::meeting(true, true);
    let outputs = node.asked(9, 1, &[address(9), quic(9)]);
    assert_eq!(meetings(&outputs), [(id(9), vec!["quic://203.0.113.9:7117".into()])]);
    // The same for a node with which there is a link already, and without candidates.
    assert!(meetings(&node.asked(3, 2, &[quic(3)])).is_empty());
    assert!(meetings(&node.asked(8, 3, &[address(8)])).is_empty());
}

#[test]
fn only_the_means_that_are_switched_on_are_used() {
    let addresses = vec![quic(9), relay(2)];
    for (udp, relays, expected) in [
        (true, false, Some("quic://203.0.113.9:7117")),
        (false, true, Some("relay://198.51.100.2:7117")),
        (false, false, None),
    ] {
        let mut node = Driven::meeting(udp, relays);
        let query = node.call_back(9);
        let met = meetings(&node.answer(&query, 9, addresses.clone()));
        let dialled: Vec<_> = met.into_iter().flat_map(|(_, addresses)| addresses).collect();
        assert_eq!(dialled, expected.into_iter().map(str::to_owned).collect::<Vec<_>>());
    }
}

/// A node on the way can make up answers, and any member can ask.
#[test]
fn a_meeting_dials_few_addresses_and_few_meetings_are_under_way() {
    let mut node = Driven::meeting(true, true);
    let query = node.call_back(9);
    let many: Vec<_> = (0..20).map(quic).chain((0..12).map(relay)).collect();
    let met = meetings(&node.answer(&query, 9, many));
    assert_eq!(met[0].1.len(), 8 + 3);
    let mut count = 1;
    for n in 10..100 {
        node.now.monotonic = node.now.monotonic + Duration::from_millis(500);
        count += meetings(&node.asked(n, n, &[quic(n)])).len();
    }
    assert_eq!(count, MAX_MEETINGS);
}

/// Reports that both ends of a relayed connection, or of one over QUIC, have said Hello.
fn greeted_over(node: &mut Driven, n: u8, connection: u64, is_relayed: bool) -> Vec<Output> {
    let scheme = if is_relayed { Scheme::Relay } else { Scheme::Quic };
    let transport = LinkTransport { scheme, ..LinkTransport::default() };
    greeted_as(node, n, connection, Direction::Inbound, transport)
}

fn greeted_as(
    node: &mut Driven,
    n: u8,
    connection: u64,
    direction: Direction,
    transport: LinkTransport,
) -> Vec<Output> {
    let (ip, is_relayed) = ([198, 51, 100, 2].into(), transport.scheme == Scheme::Relay);
    let candidate = Candidate { id: id(n), direction, incarnation: 1, ip, is_relayed };
    node.input(Input::Greeted(Greeted {
        connection: ConnectionId(connection),
        dial: None,
        peer: Peer::new(id(n), "n".into(), relay(2), direction),
        candidate,
        unix: None,
        merits: Vec::new(),
        membership: None,
        transport,
    }))
}

#[test]
fn a_new_address_of_this_node_brings_the_next_attempt_forward() {
    // No node has dialled it.
    let mut node = Driven::new(1);
    node.input(Input::Command(Command::Meets { over_udp: true, over_relays: true }));
    let is_asked = |outputs: &[Output]| {
        let is_query = |output: &Output| matches!(output, Output::Send { frame: Frame::Query(query), .. } if query.is_signed());
        outputs.iter().any(is_query)
    };
    let transport = LinkTransport { accepts_quic: true, ..LinkTransport::default() };
    let linked = greeted_as(&mut node, 8, 8, Direction::Outbound, transport);
    assert!(linked.iter().any(|output| matches!(output, Output::Observe(by) if *by == id(8))));
    greeted_over(&mut node, 9, 9, true);
    let seen = |port| {
        let address = Some(format!("203.0.113.1:{port}").parse().unwrap());
        Input::Observed { by: id(8), address }
    };
    node.input(seen(7000));
    assert!(!is_asked(&node.pass(Duration::from_secs(1))), "a second observer may follow");
    assert!(is_asked(&node.pass(Duration::from_secs(1))));
    node.input(seen(7000));
    assert!(!is_asked(&node.pass(Duration::from_secs(20))), "nothing is new");
    node.input(seen(7001));
    assert!(is_asked(&node.pass(Duration::from_secs(2))));
}

#[test]
fn the_ends_of_a_relayed_link_ask_for_a_direct_one_that_replaces_it() {
    let mut node = Driven::meeting(true, true);
    assert!(matches!(greeted_over(&mut node, 9, 9, true)[0], Output::Admitted(_)));
    let asked = node.pass(Duration::from_secs(30));
    let query = asked.into_iter().find_map(|output| match output {
        Output::Send { frame: Frame::Query(query), .. } if query.is_signed() => Some(query),
        _ => None,
    });
    let outputs = node.answer(&query.unwrap(), 9, vec![quic(9), relay(2)]);
    let expected = vec!["quic://203.0.113.9:7117".to_owned()];
    assert_eq!(meetings(&outputs), [(id(9), expected)], "and not through another relay");

    let outputs = greeted_over(&mut node, 9, 10, false);
    assert!(
        matches!(outputs[0], Output::CloseReplacedLink(ConnectionId(9), Reason::Replaced)),
        "{outputs:?}"
    );
    node.link_down(9);
    let outputs = node.input(Input::LinkEndReported { id: id(9) });
    assert!(matches!(outputs[0], Output::Admitted(ConnectionId(10))), "{outputs:?}");
    // A relayed connection does not replace the direct link, and nothing is left to upgrade.
    let outputs = greeted_over(&mut node, 9, 11, true);
    let refused = Output::Refused(ConnectionId(11), Reason::Duplicate);
    assert_eq!(format!("{:?}", outputs[0]), format!("{refused:?}"));
    let later = node.pass(Duration::from_secs(60));
    let is_asked = |output: &Output| matches!(output, Output::Send { frame: Frame::Query(query), .. } if query.is_signed());
    assert!(!later.iter().any(is_asked));
}

/// Both ends dial. If both sent a Hello, each could keep the connection that the other one refuses.
#[test]
fn of_two_dials_that_may_replace_a_relayed_link_the_greater_identity_sends_hello() {
    let (winner, loser) = winner_and_loser();
    for (me, other, says_hello) in [(winner, loser, true), (loser, winner, false)] {
        let mut node = Driven::new(me);
        node.input(Input::Command(Command::Meets { over_udp: true, over_relays: true }));
        node.link(3, 3);
        greeted_over(&mut node, other, 9, true);
        let record = NodeRecord::sign(&key(other), "net", node.now.unix, &[quic(9)]);
        let (target, token) = (id(me), LINK_ONLY);
        let what = QueryKind::SignedCallBack { target, token, record: Box::new(record) };
        let ttl = Duration::from_secs(10);
        let query = Query { id: QueryId([1; 16]), depth: 255, own: false, ttl, what };
        let outputs = node.input(Input::Frame(ConnectionId(3), Frame::Query(query)));
        let dial = outputs.iter().find_map(|output| match output {
            Output::Dial { dial, .. } => Some(*dial),
            _ => None,
        });
        let outputs = node.input(Input::DialSecured { dial: dial.unwrap(), id: id(other) });
        assert_eq!(matches!(outputs[0], Output::Greet(_)), says_hello, "{outputs:?}");
    }
}

#[test]
fn messages_to_a_node_ask_it_for_a_meeting_once_in_a_while() {
    let mut node = Driven::meeting(true, true);
    let asks = |outputs: &[Output]| {
        let is_asked = |output: &&Output| match output {
            Output::Send { frame: Frame::Query(query), .. } => matches!(
                &query.what,
                QueryKind::SignedCallBack { target, token, .. }
                    if *target == id(9) && *token == LINK_ONLY
            ),
            _ => false,
        };
        outputs.iter().filter(is_asked).count()
    };
    let search = |node: &mut Driven| {
        node.send(9, "hello");
        let outputs = node.input(Input::AddressesLookedUp { id: id(9), addresses: Vec::new() });
        let find = outputs.into_iter().find_map(|output| match output {
            Output::Send { frame: Frame::Query(query), .. } => Some(query),
            _ => None,
        });
        node.answer(&find.unwrap(), 9, vec![address(9)])
    };
    assert_eq!(asks(&search(&mut node)), 2, "over both links");
}
