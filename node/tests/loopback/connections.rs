//! Connections: dialling, refusals, disconnects, and the rule that two nodes have only one link.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::*;
use crate::proxy::Proxy;
use peerkit::{
    Address, Config, ConnectOptions, Direction, Error, Event, Events, Key, LinkEnd, Node, Reason,
    Status, TlsFailure,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn key(n: u8) -> Key {
    Key::from_secret(&[n; 32])
}

/// Waits for the event `name` of a link that has ended. Returns how it ended.
async fn link_end(events: &mut Events, name: &str) -> LinkEnd {
    match expect_event(events, name).await {
        Event::OutboundNodeDisconnected { link_end, .. }
        | Event::InboundNodeDisconnected { link_end, .. } => link_end,
        other => panic!("{other:?}"),
    }
}

fn by_peer(reason: Reason) -> LinkEnd {
    LinkEnd { reason, by_peer: true }
}

fn by_us(reason: Reason) -> LinkEnd {
    LinkEnd { reason, by_peer: false }
}

#[tokio::test]
async fn addresses_can_be_written_in_several_forms() {
    let b = node("b").await;
    let port = address_of(&b).port();
    let addresses = [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("tcp://127.0.0.1:{port}"),
        format!("{}@127.0.0.1:{port}", b.id()),
        format!("{}@localhost:{port}", b.id()),
    ];
    for address in addresses {
        let a = node("a").await;
        let peer = a.connect(&address).await.unwrap();
        assert_eq!((peer.id(), peer.direction()), (b.id(), Direction::Outbound));
        shutdown([&a]).await;
    }
    let a = node("a").await;
    assert!(matches!(a.connect("127.0.0.1:x").await, Err(Error::Address(_))));
    let wrong: Address = format!("{}@127.0.0.1:{port}", key(1).id()).parse().unwrap();
    let Err(Error::WrongNode { address, found }) = a.connect(&wrong).await else { panic!() };
    assert_eq!((address, found), (wrong, b.id()));
    assert!(a.peers().is_empty());
    assert_eq!(outbound_failures(&a.status().await), BTreeMap::from([("wrong_id", 1)]));
    shutdown([&a, &b]).await;
}

/// Returns the reasons of failed dials that have occurred, with their numbers.
fn outbound_failures(status: &Status) -> BTreeMap<&'static str, u64> {
    let failures = status.handshake_failures.outbound.iter();
    failures.filter(|(_, count)| **count > 0).map(|(reason, count)| (*reason, *count)).collect()
}

#[tokio::test]
async fn a_node_is_dialled_over_ipv6() {
    let Ok(six) = Node::builder().name("six").listen("[::1]:0").spawn().await else {
        eprintln!("no IPv6 on this machine: the test is skipped");
        return;
    };
    let a = node("a").await;
    let address = format!("{}@[::1]:{}", six.id(), address_of(&six).port());
    assert_eq!(a.connect(address).await.unwrap().id(), six.id());
    shutdown([&a, &six]).await;
}

#[tokio::test]
async fn a_node_does_not_link_to_itself() {
    let a = node("a").await;
    let refused = a.connect(address_of(&a)).await;
    assert!(
        matches!(refused, Err(Error::Refused { reason: Reason::SelfConnection, .. })),
        "{refused:?}"
    );
    assert!(a.peers().is_empty());
    let id = a.id().to_string();
    assert!(matches!(a.ping(a.id()).await, Err(Error::ThisNode)));
    assert!(matches!(a.send(a.id(), "x").await, Err(Error::ThisNode)));
    assert!(matches!(a.connect(id.as_str()).await, Err(Error::ThisNode)));
    for text in ["a", &id] {
        assert!(matches!(a.network().find_node(text).await, Err(Error::ThisNode)), "{text}");
    }
    shutdown([&a]).await;
}

#[tokio::test]
async fn dialling_an_address_without_a_node_is_an_error() {
    let a = node("a").await;
    let mut events = a.events();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();

    // The server does not speak TLS.
    let talking = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
        listener
    });
    let failed = a.connect(address).await;
    let failure = failed.as_ref().err().and_then(Error::tls_failure);
    assert_eq!(failure, Some(TlsFailure::NotTls), "{failed:?}");
    let event = expect_event(&mut events, "outbound_node_connection_error").await;
    let Event::OutboundNodeConnectionError { address: dialled, error } = event else { panic!() };
    assert_eq!(dialled, Address::from_socket(address));
    assert!(error.contains("is not a peerkit node"), "{error}");

    // The server sends nothing.
    let listener = within("the other server", talking).await.unwrap();
    let mut config = Config::default();
    config.handshake_timeout = Duration::from_millis(200);
    let hasty = builder("hasty").config(config).spawn().await.unwrap();
    let (failed, _held) = tokio::join!(hasty.connect(address), listener.accept());
    let failure = failed.as_ref().err().and_then(Error::tls_failure);
    assert_eq!(failure, Some(TlsFailure::Silent), "{failed:?}");

    // The server closes the connection, or answers with an alert (section 6 of RFC 8446).
    for (answer, expected) in
        [(&b""[..], TlsFailure::Closed), (b"\x15\x03\x03\0\x02\x02\x28", TlsFailure::NotANode)]
    {
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(answer).await.unwrap();
        };
        let (failed, ()) = tokio::join!(a.connect(address), answering);
        let failure = failed.as_ref().err().and_then(Error::tls_failure);
        assert_eq!(failure, Some(expected), "{failed:?}");
    }

    // The port has no listener.
    drop(listener);
    let Err(failed @ Error::Connect { .. }) = a.connect(address).await else { panic!() };
    assert!(failed.to_string().contains(&address.to_string()), "{failed}");
    let failures = outbound_failures(&a.status().await);
    assert_eq!(
        (failures.get("refused"), failures.get("tls")),
        (Some(&1), Some(&1)),
        "{failures:?}"
    );
    shutdown([&a, &hasty]).await;
}

#[tokio::test]
async fn nodes_of_another_network_or_with_another_secret_are_refused() {
    let guarded = || builder("guarded").network("ours").secret("long and random");
    let guarded = guarded().spawn().await.unwrap();
    let mut events = guarded.events();
    let others = [
        (builder("").network("theirs").secret("long and random"), Reason::OtherNetwork),
        (builder("").network("ours").secret("guessed"), Reason::WrongSecret),
        (builder("").network("ours"), Reason::WrongSecret),
    ];
    for (other, expected) in others {
        let other = other.spawn().await.unwrap();
        let refused = other.connect(address_of(&guarded)).await;
        let Err(Error::Refused { reason, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(reason, expected);
        let event = expect_event(&mut events, "inbound_node_connection_error").await;
        let Event::InboundNodeConnectionError { error, .. } = event else { panic!() };
        assert_eq!(error, expected.to_string());
        // A dial in the other direction is refused as well.
        let refused = guarded.connect(address_of(&other)).await;
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
        assert!(guarded.peers().is_empty());
        wait_until("the other node to give up", || other.peers().is_empty()).await;
        shutdown([&other]).await;
    }
    let friend = builder("").network("ours").secret("long and random").spawn().await.unwrap();
    link(&friend, &guarded).await;
    let failures = guarded.status().await.handshake_failures.inbound;
    assert_eq!((failures["network"], failures["secret"], failures["full"]), (1, 2, 0));
    shutdown([&friend, &guarded]).await;
}

#[tokio::test]
async fn a_full_node_refuses_inbound_links_with_a_reason() {
    let full = builder("full").max_inbound(1).spawn().await.unwrap();
    let mut events = full.events();
    let (first, second) = (node("first").await, node("second").await);
    link(&first, &full).await;
    let refused = second.connect(address_of(&full)).await;
    assert!(matches!(refused, Err(Error::Refused { reason: Reason::Full, .. })), "{refused:?}");
    let event = expect_event(&mut events, "inbound_node_connection_error").await;
    let Event::InboundNodeConnectionError { error, .. } = event else { panic!() };
    assert_eq!(error, Reason::Full.to_string());
    assert_eq!(full.status().await.handshake_failures.inbound["full"], 1);
    assert_eq!(outbound_failures(&second.status().await), BTreeMap::from([("full", 1)]));
    // The limit applies to inbound links, so the full node can still dial.
    let peer = full.connect(address_of(&second)).await.unwrap();
    assert_eq!(peer.id(), second.id());
    // When the inbound link has ended, another one is accepted.
    full.disconnect(first.id()).await.unwrap();
    full.disconnect(second.id()).await.unwrap();
    wait_until("both links to end", || full.peers().is_empty() && second.peers().is_empty()).await;
    link(&second, &full).await;
    let links = full.status().await.links;
    assert_eq!((links.opened, links.ended["requested"], links.ended["lost"]), (3, 2, 0));
    assert_eq!(links.ended.values().sum::<u64>(), 2);
    // A lowered limit closes no link, and a raised one lets more nodes in.
    full.set_max_inbound(0).await.unwrap();
    assert_eq!(full.max_inbound().await.unwrap(), 0);
    let refused = first.connect(address_of(&full)).await;
    assert!(matches!(refused, Err(Error::Refused { reason: Reason::Full, .. })), "{refused:?}");
    assert!(full.ping(second.id()).await.is_ok(), "the present link stays");
    full.set_max_inbound(2).await.unwrap();
    link(&first, &full).await;
    shutdown([&full, &first, &second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_simultaneous_open_leaves_one_link() {
    for round in 0..50 {
        let (a, b) = (node("a").await, node("b").await);
        let (address_of_a, address_of_b) = (address_of(&a), address_of(&b));
        let dial = |node: Node, to| tokio::spawn(async move { node.connect(to).await });
        let (from_a, from_b) = (dial(a.clone(), address_of_b), dial(b.clone(), address_of_a));
        let from_a = within("a's dial", from_a).await.unwrap().unwrap();
        let from_b = within("b's dial", from_b).await.unwrap().unwrap();
        assert_eq!((from_a.id(), from_b.id()), (b.id(), a.id()));
        // Both nodes must have the same link, whichever of them has dialled it.
        let (great, small) = if a.id() > b.id() { (&a, &b) } else { (&b, &a) };
        let direction = |node: &Node, of: &Node| node.peer(of.id()).map(|peer| peer.direction());
        let have_one_link = || {
            let directions = (direction(great, small), direction(small, great));
            directions == (Some(Direction::Outbound), Some(Direction::Inbound))
                || directions == (Some(Direction::Inbound), Some(Direction::Outbound))
        };
        wait_until("both nodes to have the same link", have_one_link).await;
        assert!(a.ping(b.id()).await.is_ok() && b.ping(a.id()).await.is_ok(), "round {round}");
        assert!(have_one_link(), "round {round}");
        assert_eq!((a.peers().len(), b.peers().len()), (1, 1));
        tokio::join!(a.shutdown(), b.shutdown());
    }
}

#[tokio::test]
async fn connecting_twice_gives_the_same_link() {
    let (a, b) = (node("a").await, node("b").await);
    let mut events = b.events();
    let first = link(&a, &b).await;
    a.set_info(b.id(), "mark", 1).unwrap();
    for _ in 0..3 {
        assert_eq!(a.connect(address_of(&b)).await.unwrap(), first);
    }
    assert_eq!(b.connect(address_of(&a)).await.unwrap().direction(), Direction::Inbound);
    assert_eq!(a.info(b.id(), "mark"), Some(json!(1)));
    shutdown([&a, &b]).await;
    let mut connected = 0;
    while let Some(event) = events.next().await {
        connected += usize::from(event.name() == "inbound_node_connected");
        assert_ne!(event.name(), "inbound_node_connection_error");
    }
    assert_eq!(connected, 1);
}

/// A node dials an address several times at once if a bootstrap node is also a known peer, or if an address
/// is given twice.
#[tokio::test]
async fn concurrent_dials_to_one_node_make_one_link() {
    let (a, b) = (node("a").await, node("b").await);
    let (mut from_a, mut from_b) = (a.events(), b.events());
    let dials: Vec<_> = (0..8)
        .map(|_| {
            let (a, to) = (a.clone(), address_of(&b));
            tokio::spawn(async move { a.connect(to).await })
        })
        .collect();
    for dial in dials {
        assert_eq!(within("a dial", dial).await.unwrap().unwrap().id(), b.id());
    }
    let joined =
        within("a join", a.join(&[address_of(&b).into(), address_of(&b).into()])).await.unwrap();
    assert_eq!(joined.len(), 1);
    a.shutdown().await;
    b.shutdown().await;
    for events in [&mut from_a, &mut from_b] {
        let (mut up, mut down) = (0, Vec::new());
        while let Some(event) = events.next().await {
            match event {
                Event::OutboundNodeConnected { .. } | Event::InboundNodeConnected { .. } => up += 1,
                Event::OutboundNodeDisconnected { link_end, .. }
                | Event::InboundNodeDisconnected { link_end, .. } => down.push(link_end.reason),
                Event::InboundNodeConnectionError { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
        assert_eq!((up, down), (1, vec![Reason::Stopping]));
    }
}

/// A dial that waits for another dial to the same address continues when the other dial fails.
#[tokio::test]
async fn a_dial_that_waits_for_another_dial_continues_when_that_fails() {
    let a = node("a").await;
    let b = builder("b").max_inbound(0).spawn().await.unwrap();
    let dials: Vec<_> = (0..4)
        .map(|_| {
            let (a, to) = (a.clone(), address_of(&b));
            tokio::spawn(async move { a.connect(to).await })
        })
        .collect();
    for dial in dials {
        let refused = within("a dial", dial).await.unwrap();
        assert!(matches!(refused, Err(Error::Refused { reason: Reason::Full, .. })), "{refused:?}");
    }
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn either_node_can_end_a_link_and_both_get_the_reason() {
    let (a, b) = (node("a").await, node("b").await);
    let (mut events_of_a, mut events_of_b) = (a.events(), b.events());
    for _ in 0..50 {
        // The node that dialled ends the link.
        link(&a, &b).await;
        a.disconnect(b.id()).await.unwrap();
        expect_event(&mut events_of_a, "node_disconnect_with_outbound_node").await;
        assert_eq!(
            link_end(&mut events_of_a, "outbound_node_disconnected").await,
            by_us(Reason::Requested)
        );
        assert_eq!(
            link_end(&mut events_of_b, "inbound_node_disconnected").await,
            by_peer(Reason::Requested)
        );
        assert!(matches!(a.disconnect(b.id()).await, Err(Error::NotConnected(_))));
        // The node that was dialled ends the link.
        link(&a, &b).await;
        b.disconnect(a.id()).await.unwrap();
        expect_event(&mut events_of_b, "node_disconnect_with_inbound_node").await;
        assert_eq!(
            link_end(&mut events_of_b, "inbound_node_disconnected").await,
            by_us(Reason::Requested)
        );
        assert_eq!(
            link_end(&mut events_of_a, "outbound_node_disconnected").await,
            by_peer(Reason::Requested)
        );
    }
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn either_node_can_reconnect_immediately_after_a_disconnect() {
    let patient = |name| builder(name).config(without_deadlines()).spawn();
    let (a, b) = (patient("a").await.unwrap(), patient("b").await.unwrap());
    let (mut events_of_a, mut events_of_b) = (a.events(), b.events());
    for round in 0..20 {
        link(&a, &b).await;
        a.disconnect(b.id()).await.unwrap();
        let again = async {
            if round % 2 == 0 {
                expect_event(&mut events_of_a, "outbound_node_disconnected").await;
                a.connect(address_of(&b)).await
            } else {
                expect_event(&mut events_of_b, "inbound_node_disconnected").await;
                b.connect(address_of(&a)).await
            }
        };
        within("a link before any deadline", again).await.unwrap();
        wait_until("both nodes to have the link", || a.peers().len() == 1 && b.peers().len() == 1)
            .await;
        a.disconnect(b.id()).await.unwrap();
        wait_until("the link to end", || a.peers().is_empty() && b.peers().is_empty()).await;
    }
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn peer_info_and_round_trip_times_belong_to_the_link() {
    let (a, b) = (node("a").await, node("b").await);
    let stranger = key(1).id();
    link(&a, &b).await;
    assert_eq!(a.info(b.id(), "colour"), None);
    assert_eq!(a.set_info(b.id(), "colour", "red").unwrap(), None);
    assert_eq!(a.set_info(b.id(), "colour", json!({"r": 255})).unwrap(), Some(json!("red")));
    assert_eq!(a.info(b.id(), "colour"), Some(json!({"r": 255})));
    assert_eq!(b.info(a.id(), "colour"), None);
    assert!(matches!(a.set_info(stranger, "x", 1), Err(Error::NotConnected(_))));
    assert_eq!(a.info(stranger, "x"), None);

    for (from, to) in [(&a, &b), (&b, &a)] {
        let rtt = from.ping(to.id()).await.unwrap();
        assert!(rtt > Duration::ZERO && rtt < WAIT_TIMEOUT);
        assert_eq!(from.rtt(to.id()).unwrap().as_micros(), rtt.as_micros());
    }
    let many = (0..100).map(|_| {
        let (a, to) = (a.clone(), b.id());
        tokio::spawn(async move { a.ping(to).await })
    });
    for ping in many.collect::<Vec<_>>() {
        ping.await.unwrap().unwrap();
    }
    let missed = a.ping(stranger).await;
    assert!(matches!(missed, Err(Error::NotConnected(_) | Error::NotFound(_))), "{missed:?}");
    assert_eq!(a.network().find_peer("b").unwrap().id(), b.id());
    assert_eq!(a.network().find_peer(&b.id().to_string()[..8]).unwrap().id(), b.id());
    assert!(matches!(a.network().find_peer("unknown"), Err(Error::UnknownPeer(_))));

    a.disconnect(b.id()).await.unwrap();
    wait_until("the link to end", || a.peers().is_empty() && b.peers().is_empty()).await;
    link(&a, &b).await;
    assert_eq!(a.info(b.id(), "colour"), None, "peer info ends with its link");
    shutdown([&a, &b]).await;
}

/// Returns a configuration that reconnects quickly.
fn quick_reconnects() -> Config {
    let mut config = Config::default();
    config.reconnect_min = Duration::from_millis(5);
    config.reconnect_max = Duration::from_millis(20);
    config
}

#[tokio::test]
async fn a_link_with_reconnect_is_restored_when_the_node_is_back() {
    let a = builder("a").config(quick_reconnects()).spawn().await.unwrap();
    let mut events = a.events();
    let other_runtime = OtherRuntime::new();
    let b = other_runtime.run(builder("b").key(key(2)).spawn()).await.unwrap();
    let address = address_of(&b);
    a.connect_with(address, ConnectOptions::reconnect()).await.unwrap();
    expect_event(&mut events, "outbound_node_connected").await;
    other_runtime.crash();
    let LinkEnd { reason, by_peer: false } =
        link_end(&mut events, "outbound_node_disconnected").await
    else {
        panic!()
    };
    assert!(matches!(reason, Reason::Lost(_)), "{reason:?}");
    for expected in 1..=3 {
        let Event::NodeReconnectionError { address: dialled, tries, error } =
            expect_event(&mut events, "node_reconnection_error").await
        else {
            panic!()
        };
        assert_eq!((dialled, tries), (Address::from_socket(address), expected));
        assert!(!error.is_empty() && !error.contains(&address.to_string()), "{error}");
    }
    let again = || Node::builder().name("again").key(key(2)).listen(address);
    let b = again().spawn().await.unwrap();
    let Event::OutboundNodeConnected { peer } =
        expect_event(&mut events, "outbound_node_connected").await
    else {
        panic!()
    };
    assert_eq!((peer.id(), peer.name()), (b.id(), "again"));
    // After an orderly stop of the peer, the node also reconnects.
    b.shutdown().await;
    let b = again().spawn().await.unwrap();
    expect_event(&mut events, "outbound_node_connected").await;
    // After a disconnect by hand, the node does not reconnect.
    a.disconnect(b.id()).await.unwrap();
    expect_event(&mut events, "outbound_node_disconnected").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(a.peers().is_empty());
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn the_application_can_stop_reconnecting() {
    let tries = Arc::new(Mutex::new(Vec::new()));
    let writing = tries.clone();
    let a = builder("a").config(quick_reconnects()).callback(move |cx, event| {
        if let Event::NodeReconnectionError { address, tries, .. } = event {
            writing.lock().unwrap().push(tries);
            if tries == 4 {
                cx.stop_reconnecting(address);
            }
        }
    });
    let a = a.spawn().await.unwrap();
    let b = node("b").await;
    a.connect_with(address_of(&b), ConnectOptions::reconnect()).await.unwrap();
    b.shutdown().await;
    wait_until("four attempts", || tries.lock().unwrap().len() >= 4).await;
    // Ten times the longest delay between two attempts.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(*tries.lock().unwrap(), [1, 2, 3, 4]);
    shutdown([&a]).await;
}

#[tokio::test]
async fn a_link_from_a_restarted_node_replaces_its_stale_link() {
    let mut config = Config::default();
    config.flush_timeout = Duration::from_millis(100);
    let a = builder("a").config(config).spawn().await.unwrap();
    let mut events = a.events();
    let proxy = Proxy::new(address_of(&a)).await;
    let other_runtime = OtherRuntime::new();
    let before = other_runtime.run(builder("before").key(key(3)).spawn()).await.unwrap();
    let (dialling, through) = (before.clone(), proxy.address);
    other_runtime.run(async move { dialling.connect(through).await }).await.unwrap();
    expect_event(&mut events, "inbound_node_connected").await;
    proxy.stop_forwarding();
    other_runtime.crash();
    // Node a has not noticed the crash yet.
    assert_eq!(a.peer(before.id()).unwrap().name(), "before");
    let after = builder("after").key(key(3)).spawn().await.unwrap();
    after.connect(address_of(&a)).await.unwrap();
    assert_eq!(link_end(&mut events, "inbound_node_disconnected").await, by_us(Reason::Replaced));
    let Event::InboundNodeConnected { peer } =
        expect_event(&mut events, "inbound_node_connected").await
    else {
        panic!()
    };
    assert_eq!((peer.id(), peer.name()), (after.id(), "after"));
    assert_eq!(a.peers(), [peer]);
    after.send(a.id(), "here again").await.unwrap();
    assert_eq!(next_text(&mut events).await, "here again");
    shutdown([&a, &after]).await;
}

#[tokio::test]
async fn both_sides_drop_a_link_that_falls_silent() {
    let mut config = Config::default();
    config.ping_after = Duration::from_millis(100);
    config.dead_after = Duration::from_secs(4);
    let dead_after = config.dead_after;
    let a = builder("a").config(config.clone()).spawn().await.unwrap();
    let b = builder("b").config(config).spawn().await.unwrap();
    let (mut events_of_a, mut events_of_b) = (a.events(), b.events());
    let proxy = Proxy::new(address_of(&b)).await;
    a.connect(proxy.address).await.unwrap();
    expect_event(&mut events_of_b, "inbound_node_connected").await;
    // The link is idle for longer than the deadline. The pings keep it alive.
    tokio::time::sleep(dead_after + dead_after / 4).await;
    assert!(a.rtt(b.id()).is_some() && a.peers().len() == 1 && b.peers().len() == 1);
    proxy.stop_forwarding();
    let silent = LinkEnd { reason: Reason::Silent(dead_after), by_peer: false };
    assert_eq!(link_end(&mut events_of_a, "outbound_node_disconnected").await, silent);
    assert_eq!(link_end(&mut events_of_b, "inbound_node_disconnected").await, silent);
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn a_connect_while_the_old_link_ends_makes_a_new_link() {
    let (a, b) = (node("a").await, node("b").await);
    for _ in 0..20 {
        let old = a.connect(address_of(&b)).await.unwrap();
        a.disconnect(old.id()).await.unwrap();
        let new = a.connect(address_of(&b)).await.unwrap();
        assert_eq!(new.id(), b.id());
        // The new link works, so it is not the one that was ending.
        a.send(b.id(), "still there").await.unwrap();
        a.ping(b.id()).await.unwrap();
    }
}

#[tokio::test]
async fn a_node_is_dialled_by_its_name_or_identity() {
    let manual = |name: &str| Node::builder().name(name).listen("127.0.0.1:0").manual(true);
    let carol = manual("carol").spawn().await.unwrap();
    let bob = manual("bob").spawn().await.unwrap();
    let ann = manual("ann").spawn().await.unwrap();
    bob.connect(carol.listening()[0]).await.unwrap();
    let address_of_bob = bob.listening()[0];
    let peer = ann
        .connect((address_of_bob.ip().to_string().as_str(), address_of_bob.port()))
        .await
        .unwrap();
    assert_eq!(peer.id(), bob.id());
    for text in ["bob".to_owned(), bob.id().to_string()[..6].to_owned()] {
        assert_eq!(ann.connect(&text).await.unwrap().id(), bob.id(), "{text}");
        let addresses = ann.network().find_addresses(&text).await.unwrap();
        let expected = Address::from_socket(address_of_bob).with_id(bob.id());
        assert_eq!(addresses, [expected], "{text}");
    }
    // Ann has never had a link with Carol, so this looks her up in the network.
    let peer = ann.connect(carol.id()).await.unwrap();
    assert_eq!(peer.id(), carol.id());
    let unknown = Key::from_secret(&[9; 32]).id();
    assert!(matches!(ann.connect(unknown).await, Err(Error::NotFound(id)) if id == unknown));
    assert!(matches!(ann.connect("lan").await, Err(Error::Address(_))));
    for node in [ann, bob, carol] {
        node.shutdown().await;
    }
}
