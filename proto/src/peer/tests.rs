//! Decisions of the machine, checked by their outputs.

use proptest::prelude::*;

use super::*;
use crate::address::Address;
use crate::event::{Direction, LinkEnd, Peer, Reason};
use crate::frame::query::{Query, QueryDone, QueryKind};
use crate::id::Key;
use crate::overlay::admission::Candidate;

mod meetings;
mod strangers;

/// A machine with the time that a test sets.
struct Driven {
    machine: Machine,
    now: Now,
    last: u64,
    crowded: bool,
}

impl Driven {
    /// Returns the machine of the node `me`.
    fn new(me: u8) -> Self {
        let now = Now { monotonic: Instant::ZERO, unix: 1_700_000_000_000 };
        let setup = NodeSetup {
            key: key(me),
            name: format!("n{me}"),
            network: "net".into(),
            epoch: now.unix,
            manual: false,
        };
        let machine = Machine::new(now, setup, &Config::default(), [me; 32]);
        Self { machine, now, last: 0, crowded: false }
    }

    /// Hands in an input, and returns the outputs.
    fn input(&mut self, input: Input) -> Vec<Output> {
        self.machine.handle(self.now, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        let crowded = self.crowded;
        std::iter::from_fn(|| self.machine.poll(|_, _| crowded)).collect()
    }

    /// Lets time pass, deadline by deadline.
    fn pass(&mut self, time: Duration) -> Vec<Output> {
        let until = self.now.monotonic + time;
        let mut outputs = Vec::new();
        while let Some(due) = self.machine.poll_timeout().filter(|due| *due <= until) {
            self.now.monotonic = self.now.monotonic.max(due);
            self.machine.handle_timeout(self.now);
            outputs.extend(self.drain());
        }
        self.now.monotonic = until;
        outputs
    }

    fn operation(&mut self) -> OperationId {
        self.last += 1;
        OperationId(self.last)
    }

    /// Begins a dial of a node, and returns the operation and the dial.
    fn dial(&mut self, n: u8) -> (OperationId, DialId) {
        let operation = self.operation();
        let (addresses, purpose) = (vec![address(n)], Purpose::Application);
        let outputs = self.input(Input::Dial { operation, addresses, keep: false, purpose });
        let [Output::Dial { dial, .. }] = outputs[..] else { panic!("{outputs:?}") };
        (operation, dial)
    }

    /// Reports that both ends of a connection with a node have said Hello.
    fn greeted(&mut self, n: u8, connection: u64, dial: Option<DialId>) -> Vec<Output> {
        let direction = if dial.is_some() { Direction::Outbound } else { Direction::Inbound };
        self.greeted_as(n, connection, dial, direction, 1)
    }

    fn greeted_as(
        &mut self,
        n: u8,
        connection: u64,
        dial: Option<DialId>,
        direction: Direction,
        incarnation: u64,
    ) -> Vec<Output> {
        let ip = [192, 0, 2, n].into();
        let candidate = Candidate { id: id(n), direction, incarnation, ip, is_relayed: false };
        let peer = Peer::new(id(n), format!("n{n}"), address(n), direction);
        let connection = ConnectionId(connection);
        self.input(Input::Greeted(Greeted {
            connection,
            dial,
            peer,
            candidate,
            unix: None,
            merits: Vec::new(),
            membership: None,
            transport: LinkTransport::default(),
        }))
    }

    /// Makes a link with a node, which that node has dialled.
    fn link(&mut self, n: u8, connection: u64) {
        let outputs = self.greeted(n, connection, None);
        assert!(matches!(outputs[0], Output::Admitted(_)), "{outputs:?}");
    }

    fn link_down(&mut self, connection: u64) -> Vec<Output> {
        let link_end = LinkEnd { reason: Reason::Lost("gone".into()), by_peer: false };
        self.input(Input::LinkDown { connection: ConnectionId(connection), link_end })
    }

    fn send(&mut self, to: u8, text: &str) -> (OperationId, Vec<Output>) {
        let (operation, payload) = (self.operation(), Payload::Message(text.into()));
        (operation, self.input(Input::Send { operation, to: id(to), payload }))
    }
}

fn key(n: u8) -> Key {
    Key::from_secret(&[n; 32])
}

fn id(n: u8) -> NodeId {
    key(n).id()
}

fn address(n: u8) -> Address {
    Address::from_socket(([192, 0, 2, n], 7117).into())
}

/// Returns two nodes, first the one whose dial wins if both dial each other: the one with the greater
/// identity.
fn winner_and_loser() -> (u8, u8) {
    if id(1) > id(2) { (1, 2) } else { (2, 1) }
}

/// Returns the outcomes of dials among outputs.
fn ended(outputs: &[Output]) -> Vec<(DialId, Result<NodeId, DialError>)> {
    let ended = outputs.iter().filter_map(|output| match output {
        Output::DialEnded { dial, outcome, .. } => Some((*dial, outcome.clone())),
        _ => None,
    });
    ended.collect()
}

#[test]
fn a_dial_sends_hello_and_becomes_a_link() {
    let mut node = Driven::new(1);
    let (_, dial) = node.dial(2);
    let outputs = node.input(Input::DialSecured { dial, id: id(2) });
    assert!(matches!(outputs[..], [Output::Greet(greets)] if greets == dial), "{outputs:?}");
    let outputs = node.greeted(2, 7, Some(dial));
    assert!(matches!(outputs[0], Output::Admitted(ConnectionId(7))), "{outputs:?}");
    assert_eq!(ended(&outputs), [(dial, Ok(id(2)))]);
    assert_eq!(node.machine.link(id(2)), Some(ConnectionId(7)));
    // The application asked for the link, so it is pinned.
    assert_eq!(node.machine.overlay().views().pinned, [id(2)]);
}

#[test]
fn a_second_dial_of_a_node_waits_for_the_first_and_shares_its_link() {
    let mut node = Driven::new(1);
    let (first, second) = (node.dial(2).1, node.dial(2).1);
    node.input(Input::DialSecured { dial: first, id: id(2) });
    assert!(node.input(Input::DialSecured { dial: second, id: id(2) }).is_empty());
    let outputs = node.greeted(2, 7, Some(first));
    assert_eq!(ended(&outputs), [(first, Ok(id(2))), (second, Ok(id(2)))]);
    // A third dial finds the link.
    let third = node.dial(2).1;
    assert_eq!(
        ended(&node.input(Input::DialSecured { dial: third, id: id(2) })),
        [(third, Ok(id(2)))]
    );
}

#[test]
fn a_second_dial_sends_hello_if_the_first_fails() {
    let mut node = Driven::new(1);
    let (first, second) = (node.dial(2).1, node.dial(2).1);
    node.input(Input::DialSecured { dial: first, id: id(2) });
    node.input(Input::DialSecured { dial: second, id: id(2) });
    let outputs = node.input(Input::DialFailed { dial: first, error: "broken".into() });
    assert_eq!(ended(&outputs), [(first, Err(DialError::Failed("broken".into())))]);
    assert!(outputs.iter().any(|output| matches!(output, Output::Greet(dial) if *dial == second)));
}

#[test]
fn nodes_that_dial_each_other_keep_the_same_connection() {
    let (winner, loser) = winner_and_loser();
    let (mut great, mut small) = (Driven::new(winner), Driven::new(loser));
    let (of_great, of_small) = (great.dial(loser).1, small.dial(winner).1);
    great.input(Input::DialSecured { dial: of_great, id: id(loser) });
    small.input(Input::DialSecured { dial: of_small, id: id(winner) });
    // The winner has dialled connection 1, the loser connection 2.
    let outputs = great.greeted(loser, 2, None);
    let [Output::Refused(ConnectionId(2), Reason::Duplicate)] = outputs[..] else {
        panic!("{outputs:?}");
    };
    let outputs = small.greeted(winner, 1, None);
    assert!(matches!(outputs[0], Output::Admitted(ConnectionId(1))), "{outputs:?}");
    assert!(ended(&outputs).is_empty(), "the refusal has not arrived yet");
    let refusal = Input::DialRefused { dial: of_small, reason: Reason::Duplicate };
    assert_eq!(ended(&small.input(refusal)), [(of_small, Ok(id(winner)))]);
    let outputs = great.greeted(loser, 1, Some(of_great));
    assert_eq!(ended(&outputs), [(of_great, Ok(id(loser)))]);
}

#[test]
fn refusing_the_other_nodes_connection_lets_no_second_dial_send_hello() {
    let (winner, loser) = winner_and_loser();
    let mut node = Driven::new(winner);
    let (first, second) = (node.dial(loser).1, node.dial(loser).1);
    node.input(Input::DialSecured { dial: first, id: id(loser) });
    let outputs = node.greeted(loser, 2, None);
    assert!(matches!(outputs[..], [Output::Refused(_, Reason::Duplicate)]), "{outputs:?}");
    // The first dial still waits for the answer to its Hello.
    assert!(node.input(Input::DialSecured { dial: second, id: id(loser) }).is_empty());
    let outputs = node.greeted(loser, 1, Some(first));
    let loser = id(loser);
    assert_eq!(ended(&outputs), [(first, Ok(loser)), (second, Ok(loser))]);
}

#[test]
fn a_refused_duplicate_waits_for_the_link_that_wins() {
    let mut node = Driven::new(1);
    let dial = node.dial(2).1;
    node.input(Input::DialSecured { dial, id: id(2) });
    assert!(node.input(Input::DialRefused { dial, reason: Reason::Duplicate }).is_empty());
    assert_eq!(ended(&node.greeted(2, 3, None)), [(dial, Ok(id(2)))]);
    // If that link does not come up, the dial fails.
    let dial = node.dial(3).1;
    node.input(Input::DialSecured { dial, id: id(3) });
    node.input(Input::DialRefused { dial, reason: Reason::Duplicate });
    let outputs = node.pass(Config::default().handshake_timeout);
    assert_eq!(ended(&outputs), [(dial, Err(DialError::Refused(Reason::Duplicate)))]);
}

#[test]
fn a_connection_that_replaces_a_link_waits_until_its_end_was_reported() {
    let mut node = Driven::new(1);
    node.link(2, 1);
    let outputs = node.greeted_as(2, 2, None, Direction::Inbound, 9);
    let [Output::CloseReplacedLink(ConnectionId(1), Reason::Replaced)] = outputs[..] else {
        panic!("{outputs:?}");
    };
    // Frames that still arrive over the old link are accepted.
    assert!(node.machine.links.accepts_from(ConnectionId(1)).is_some());
    let outputs = node.link_down(1);
    assert!(!outputs.iter().any(|output| matches!(output, Output::Admitted(_))), "{outputs:?}");
    let outputs = node.input(Input::LinkEndReported { id: id(2) });
    assert!(matches!(outputs[0], Output::Admitted(ConnectionId(2))), "{outputs:?}");
    // If a third connection comes before the end of the old link, it replaces the second.
    node.greeted_as(2, 3, None, Direction::Inbound, 10);
    let outputs = node.greeted_as(2, 4, None, Direction::Inbound, 11);
    assert!(
        outputs
            .iter()
            .any(|output| matches!(output, Output::Refused(ConnectionId(3), Reason::Replaced))),
        "{outputs:?}"
    );
}

#[test]
fn a_dial_that_finds_a_closing_link_waits_for_its_end() {
    let mut node = Driven::new(1);
    node.link(2, 1);
    node.input(Input::LinkClosing(ConnectionId(1)));
    let dial = node.dial(2).1;
    assert!(node.input(Input::DialSecured { dial, id: id(2) }).is_empty());
    node.link_down(1);
    let outputs = node.input(Input::LinkEndReported { id: id(2) });
    assert!(matches!(outputs[..], [Output::Greet(greets)] if greets == dial), "{outputs:?}");
    let outputs = node.pass(Config::default().handshake_timeout);
    assert_eq!(ended(&outputs), [(dial, Err(DialError::Timeout))]);
}

#[test]
fn frames_of_a_link_that_this_node_is_closing_are_dropped() {
    let mut node = Driven::new(1);
    node.link(2, 1);
    let outputs = node.input(Input::Command(Command::Disconnect(id(2))));
    let [Output::CloseLink(ConnectionId(1), Reason::Requested)] = outputs[..] else {
        panic!("{outputs:?}");
    };
    let ttl = Duration::from_secs(1);
    let query =
        Query { id: QueryId([1; 16]), depth: 1, own: false, ttl, what: QueryKind::Discover };
    assert!(node.input(Input::Frame(ConnectionId(1), Frame::Query(query))).is_empty());
    assert!(node.input(Input::Command(Command::Disconnect(id(2)))).is_empty(), "it is closed once");
}

#[test]
fn a_lowered_limit_of_inbound_links_closes_none_and_refuses_new_ones() {
    let mut node = Driven::new(1);
    node.link(2, 1);
    node.link(3, 2);
    let limit = |links| Input::Command(Command::MaxInbound(links));
    assert!(node.input(limit(1)).is_empty(), "no link is closed");
    assert_eq!(node.machine.overlay().max_inbound(), 1);
    let outputs = node.greeted(4, 3, None);
    let [Output::Refused(ConnectionId(3), Reason::Full)] = outputs[..] else {
        panic!("{outputs:?}");
    };
    // With one link fewer there are still as many as the limit.
    node.link_down(1);
    let outputs = node.greeted(4, 4, None);
    let [Output::Refused(ConnectionId(4), Reason::Full)] = outputs[..] else {
        panic!("{outputs:?}");
    };
    node.input(limit(2));
    node.link(4, 5);
    // The limit does not apply to nodes that this node dials.
    node.input(limit(0));
    let dial = node.dial(5).1;
    node.input(Input::DialSecured { dial, id: id(5) });
    let outputs = node.greeted(5, 6, Some(dial));
    assert!(matches!(outputs[0], Output::Admitted(_)), "{outputs:?}");
}

#[test]
fn a_query_that_finds_its_link_crowded_is_incomplete() {
    let mut node = Driven::new(1);
    node.link(2, 1);
    node.crowded = true;
    let operation = node.operation();
    let (what, depth, own, timeout) = (QueryKind::Discover, -1, false, None);
    let outputs = node.input(Input::Query { operation, what, depth, own, timeout });
    let [Output::QueryEnded { operation: ended, complete: false }] = outputs[..] else {
        panic!("{outputs:?}");
    };
    assert_eq!((ended, node.machine.skipped_frames()), (operation, 1));
}

#[test]
fn a_node_that_stops_makes_no_links_and_closes_those_it_has() {
    let mut node = Driven::new(1);
    node.link(2, 1);
    let dial = node.dial(3).1;
    let (waiting, _) = node.send(4, "not sent");
    let outputs = node.input(Input::Stopping);
    assert!(
        outputs.iter().any(|output| matches!(
            output,
            Output::Sent { operation, outcome: Err(SendError::Stopping) } if *operation == waiting
        )),
        "{outputs:?}"
    );
    let stopping = DialError::Unwanted(Reason::Stopping);
    let outputs = node.input(Input::DialSecured { dial, id: id(3) });
    assert_eq!(ended(&outputs), [(dial, Err(stopping.clone()))]);
    let operation = node.operation();
    let (addresses, purpose) = (vec![address(5)], Purpose::Application);
    let outputs = node.input(Input::Dial { operation, addresses, keep: false, purpose });
    assert!(
        matches!(&outputs[0], Output::DialEnded { outcome: Err(error), .. } if *error == stopping)
    );
    let outputs = node.greeted(6, 9, None);
    assert!(matches!(outputs[..], [Output::Refused(ConnectionId(9), Reason::Stopping)]));
    let outputs = node.input(Input::Stop { hand_over: false });
    assert!(matches!(outputs[..], [Output::CloseLink(ConnectionId(1), Reason::Stopping)]));
}

#[test]
fn a_message_goes_over_a_link_that_is_made_for_it_and_closes_once_idle() {
    let mut node = Driven::new(1);
    let (first, outputs) = node.send(2, "one");
    assert!(matches!(outputs[..], [Output::LookUpAddresses(to)] if to == id(2)), "{outputs:?}");
    let (second, outputs) = node.send(2, "two");
    assert!(outputs.is_empty(), "it waits behind the first");
    assert!(node.machine.has_messages_for(id(2)));
    let outputs = node.input(Input::AddressesLookedUp { id: id(2), addresses: vec![address(2)] });
    let [Output::Dial { dial, purpose: Purpose::Message, .. }] = outputs[..] else {
        panic!("{outputs:?}");
    };
    node.input(Input::DialSecured { dial, id: id(2) });
    let outputs = node.greeted(2, 7, Some(dial));
    let delivered = |outputs: &[Output]| {
        let delivered = outputs.iter().filter_map(|output| match output {
            Output::Deliver { operation, connection: ConnectionId(7), .. } => Some(*operation),
            _ => None,
        });
        delivered.collect::<Vec<_>>()
    };
    assert_eq!(delivered(&outputs), [first]);
    let outputs = node.input(Input::Delivered { to: id(2), operation: first });
    assert_eq!(delivered(&outputs), [second]);
    node.input(Input::Delivered { to: id(2), operation: second });
    assert!(!node.machine.has_messages_for(id(2)));
    // The link is used once more, then idle.
    let (mut measured, connection) = (0, ConnectionId(7));
    for (count, busy) in [(2, false), (3, false), (3, true), (3, false), (3, false), (3, false)] {
        let outputs = node.pass(Config::default().on_demand_idle / 4);
        measured += outputs.iter().filter(|o| matches!(o, Output::MeasureUse(_))).count();
        assert!(node.input(Input::LinkUse { connection, count, busy }).is_empty());
    }
    assert_eq!(measured, 6);
    let outputs = node.input(Input::LinkUse { connection, count: 3, busy: false });
    assert!(matches!(outputs[..], [Output::CloseLink(_, Reason::NotNeeded)]), "{outputs:?}");
}

#[test]
fn a_message_to_an_unknown_node_fails_once_all_have_answered() {
    let mut node = Driven::new(1);
    node.link(3, 1);
    let (first, _) = node.send(2, "one");
    let (second, _) = node.send(2, "two");
    let outputs = node.input(Input::AddressesLookedUp { id: id(2), addresses: Vec::new() });
    let query = outputs.iter().find_map(|output| match output {
        Output::Send { frame: Frame::Query(query), .. } => Some(query.clone()),
        _ => None,
    });
    let query = query.expect("the network is asked, as there is nothing to dial");
    assert_eq!(query.what, QueryKind::FindNode(id(2)));
    let done = QueryDone { id: query.id, depth: query.depth, complete: true };
    let outputs = node.input(Input::Frame(ConnectionId(1), Frame::QueryDone(done)));
    let failed: Vec<_> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Sent { operation, outcome: Err(SendError::NotFound) } => Some(*operation),
            _ => None,
        })
        .collect();
    assert_eq!(failed, [first, second], "one search for both");
}

#[test]
fn the_bytes_that_wait_for_one_node_are_limited() {
    let mut node = Driven::new(1);
    let large = "x".repeat(Config::default().peer_queue);
    assert!(matches!(node.send(2, &large).1[..], [Output::LookUpAddresses(_)]));
    let outputs = node.send(2, "more").1;
    assert!(matches!(outputs[..], [Output::Sent { outcome: Err(SendError::Full), .. }]));
    assert!(matches!(node.send(3, "other").1[..], [Output::LookUpAddresses(_)]));
}

#[test]
fn the_number_of_nodes_that_messages_wait_for_is_limited() {
    let mut node = Driven::new(1);
    let to = |n: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(id)
    };
    let mut send = |n| {
        let (operation, payload) = (node.operation(), Payload::Message("x".into()));
        node.input(Input::Send { operation, to: to(n), payload })
    };
    for n in 0..MAX_RECIPIENTS {
        assert!(matches!(send(n)[..], [Output::LookUpAddresses(_)]), "{n}");
    }
    let refused = send(MAX_RECIPIENTS);
    assert!(
        matches!(refused[..], [Output::Sent { outcome: Err(SendError::TooManyRecipients), .. }]),
        "{refused:?}"
    );
    assert!(send(0).is_empty(), "a second message for the first node");
}

#[test]
fn a_query_over_the_limit_ends_at_once() {
    let mut node = Driven::new(1);
    node.link(2, 1);
    let mut ask = || {
        let operation = node.operation();
        let (what, depth, own, timeout) = (QueryKind::Discover, -1, false, None);
        node.input(Input::Query { operation, what, depth, own, timeout })
    };
    for n in 0..MAX_QUERIES {
        assert!(matches!(ask()[..], [Output::Send { .. }]), "{n}");
    }
    let ended = ask();
    assert!(matches!(ended[..], [Output::QueryEnded { complete: false, .. }]), "{ended:?}");
}

/// An input for the machine in the test below. A `u8` is a node. A `usize` picks a dial or a connection.
#[derive(Debug, Clone)]
enum Step {
    Dial(u8),
    Secured(usize, u8),
    Refused(usize, bool),
    Failed(usize),
    Greeted(usize, u8),
    Inbound(u8, u64),
    Closing(usize),
    Down(usize),
    Reported(u8),
    Send(u8),
    AddressesLookedUp(u8),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 2..5_u8;
    prop_oneof![
        node.clone().prop_map(Step::Dial),
        (any::<usize>(), node.clone()).prop_map(|(dial, n)| Step::Secured(dial, n)),
        (any::<usize>(), any::<bool>())
            .prop_map(|(dial, is_duplicate)| Step::Refused(dial, is_duplicate)),
        any::<usize>().prop_map(Step::Failed),
        (any::<usize>(), node.clone()).prop_map(|(dial, n)| Step::Greeted(dial, n)),
        (node.clone(), 1..3_u64).prop_map(|(n, incarnation)| Step::Inbound(n, incarnation)),
        any::<usize>().prop_map(Step::Closing),
        any::<usize>().prop_map(Step::Down),
        node.clone().prop_map(Step::Reported),
        node.clone().prop_map(Step::Send),
        node.prop_map(Step::AddressesLookedUp),
        (0..3000_u16).prop_map(Step::Wait),
    ]
}

proptest! {
    /// In whatever order the shell hands in inputs, each dial and each message has exactly one outcome, and
    /// the machine does not wait for ever.
    #[test]
    fn each_operation_ends_once(steps in proptest::collection::vec(step(), 1..80)) {
        let mut node = Driven::new(1);
        let mut dials = Vec::new();
        let mut connections = 0;
        let mut begun = BTreeMap::new();
        let mut outputs = Vec::new();
        let pick = |dials: &[DialId], n: usize| (!dials.is_empty()).then(|| dials[n % dials.len()]);
        let lost = |connection| Input::LinkDown {
            connection,
            link_end: LinkEnd { reason: Reason::Lost(String::new()), by_peer: false },
        };
        for step in steps {
            let said = match step {
                Step::Dial(n) => {
                    let operation = node.operation();
                    begun.insert(operation, 0);
                    let (addresses, purpose) = (vec![address(n)], Purpose::Join);
                    node.input(Input::Dial { operation, addresses, keep: false, purpose })
                }
                Step::Secured(dial, n) => match pick(&dials, dial) {
                    Some(dial) => node.input(Input::DialSecured { dial, id: id(n) }),
                    None => continue,
                },
                Step::Refused(dial, is_duplicate) => match pick(&dials, dial) {
                    Some(dial) => {
                        let reason = if is_duplicate { Reason::Duplicate } else { Reason::Full };
                        node.input(Input::DialRefused { dial, reason })
                    }
                    None => continue,
                },
                Step::Failed(dial) => match pick(&dials, dial) {
                    Some(dial) => node.input(Input::DialFailed { dial, error: "no".into() }),
                    None => continue,
                },
                Step::Greeted(dial, n) => {
                    connections += 1;
                    match pick(&dials, dial) {
                        Some(dial) => node.greeted(n, connections, Some(dial)),
                        None => continue,
                    }
                }
                Step::Inbound(n, incarnation) => {
                    connections += 1;
                    node.greeted_as(n, connections, None, Direction::Inbound, incarnation)
                }
                Step::Closing(n) => {
                    let connection = ConnectionId(n as u64 % (connections + 1));
                    node.input(Input::LinkClosing(connection))
                }
                Step::Down(n) => node.input(lost(ConnectionId(n as u64 % (connections + 1)))),
                Step::Reported(n) => node.input(Input::LinkEndReported { id: id(n) }),
                Step::Send(n) => {
                    let (operation, said) = node.send(n, "message");
                    begun.insert(operation, 0);
                    said
                }
                Step::AddressesLookedUp(n) => {
                    node.input(Input::AddressesLookedUp { id: id(n), addresses: vec![address(n)] })
                }
                Step::Wait(millis) => node.pass(Duration::from_millis(millis.into())),
            };
            dials.extend(said.iter().filter_map(|output| match output {
                Output::Dial { dial, .. } => Some(*dial),
                _ => None,
            }));
            outputs.extend(said);
        }
        // The shell then ends everything that is still open: connections, dials, look-ups and deliveries.
        for connection in 0..=connections {
            outputs.extend(node.input(lost(ConnectionId(connection))));
        }
        let mut seen = 0;
        for _ in 0..50 {
            for n in 2..5 {
                outputs.extend(node.input(Input::LinkEndReported { id: id(n) }));
                outputs.extend(node.input(Input::AddressesLookedUp { id: id(n), addresses: Vec::new() }));
            }
            if seen == outputs.len() && !node.machine.dials.is_any() && !node.machine.send_queues.is_any() {
                break;
            }
            while seen < outputs.len() {
                let input = match &outputs[seen] {
                    Output::Dial { dial, .. } => {
                        Some(Input::DialFailed { dial: *dial, error: "no".into() })
                    }
                    Output::Admitted(connection) => Some(lost(*connection)),
                    Output::Deliver { operation, .. } => {
                        let operation = *operation;
                        for n in 2..5 {
                            let delivered = Input::Delivered { to: id(n), operation };
                            outputs.extend(node.input(delivered));
                        }
                        None
                    }
                    _ => None,
                };
                seen += 1;
                if let Some(input) = input {
                    outputs.extend(node.input(input));
                }
            }
            outputs.extend(node.pass(Duration::from_secs(30)));
        }
        for output in &outputs {
            let (Output::DialEnded { operation: Some(operation), .. }
            | Output::Deliver { operation, .. }
            | Output::Sent { operation, .. }) = output
            else {
                continue;
            };
            *begun.get_mut(operation).expect("it was begun") += 1;
        }
        prop_assert!(begun.values().all(|ends| *ends == 1), "{begun:?}");
    }
}
