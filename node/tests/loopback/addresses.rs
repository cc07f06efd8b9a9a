//! The addresses that a node listens on, announces and dials.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use crate::common::*;
use peerkit::{
    Address, Builder, Config, Error, Event, FetchError, FetchRequest, Key, Node, Reason, Ticket,
};
use serde_json::json;

/// A time-out that is longer than any test waits. If a node waits for one dead address before it tries the
/// next, the test fails.
const VERY_LONG: Duration = Duration::from_secs(3600);

/// Returns a builder for a node that practically never times out on a silent address.
fn very_patient(name: &str) -> Builder {
    let mut config = Config::default();
    config.connect_timeout = VERY_LONG;
    config.handshake_timeout = VERY_LONG;
    builder(name).config(config)
}

/// Returns addresses that accept connections and send nothing.
fn silent_listeners(count: usize) -> (Vec<TcpListener>, Vec<Address>) {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap().into());
    let addresses = addresses.collect();
    (listeners, addresses)
}

/// Returns an address that refuses connections.
fn refusing_address() -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().into()
}

#[tokio::test]
async fn addresses_that_do_not_answer_do_not_delay_a_join_or_a_fetch() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "notes").unwrap();
    let a = node("a").await;
    let hash = a.share(&file).await.unwrap().shared.hash;
    let (listeners, mut addresses) = silent_listeners(6);
    addresses.extend([refusing_address(), address_of(&a).into()]);

    let b = very_patient("b").spawn().await.unwrap();
    let ticket: Ticket = a.files().ticket(&hash).unwrap();
    let ticket = Ticket { addresses: addresses.clone(), ..ticket };
    let get = FetchRequest::ticket(&ticket).to(folder.path().join("fetched.txt"));
    let fetched = within("the fetch", b.fetch(get)).await.unwrap();
    assert_eq!(std::fs::read(fetched.path).unwrap(), b"notes");
    assert!(b.peers().is_empty());

    let peers = folder.path().join("peers.json");
    let json = json!([{"id": a.id(), "name": "a", "addresses": addresses, "last_seen": 1}]);
    std::fs::write(&peers, json.to_string()).unwrap();
    b.network().load_peers(&peers).await.unwrap();
    let joined = within("the join", b.network().rejoin(1)).await.unwrap();
    assert_eq!(joined[0].id(), a.id());
    assert_eq!(
        *joined[0].address(),
        Address::from(address_of(&a)),
        "the peer's address must be the one that answered"
    );
    drop(listeners);
    shutdown([&a, &b]).await;
}

#[tokio::test]
async fn a_fetch_by_a_ticket_with_only_dead_addresses_fails() {
    let b = node("b").await;
    let hash = peerkit::Hash::of(b"x");
    let addresses = vec![refusing_address(), refusing_address()];
    let ticket = Ticket {
        hash,
        node: Key::from_secret(&[7; 32]).id(),
        secret: None,
        network: "peerkit".into(),
        addresses,
        name: None,
    };
    let error = within("the end", b.fetch(FetchRequest::ticket(&ticket))).await.unwrap_err();
    assert!(!matches!(error, Error::Fetch(FetchError::Stopped)), "{error:?}");
    b.shutdown().await;
}

#[tokio::test]
async fn a_join_without_addresses_uses_the_bootstrap_nodes() {
    let a = node("a").await;
    let address = Address::from(address_of(&a));
    let b = builder("b")
        .bootstrap(refusing_address())
        .bootstrap(address.clone())
        .spawn()
        .await
        .unwrap();
    let joined = within("a join", b.join(&[])).await.unwrap();
    assert_eq!(joined.iter().map(|peer| peer.id()).collect::<Vec<_>>(), [a.id()]);

    // The list of bootstrap nodes may be a file in the state folder.
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("bootstrap");
    std::fs::write(&list, format!("# ours\n{address} # a\n")).unwrap();
    let c = builder("c").state(folder.path()).spawn().await.unwrap();
    let joined = within("a join", c.network().join_with_retries(&[], |error, _| panic!("{error}")))
        .await
        .unwrap();
    assert_eq!(joined[0].id(), a.id());
    c.shutdown().await;
    drop(c);

    std::fs::write(&list, "nonsense:port\n").unwrap();
    let error = builder("c").state(folder.path()).spawn().await.unwrap_err();
    assert!(matches!(error, Error::Bootstrap(_)), "{error:?}");
    let another = |n: u16| Address::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 1 + n)));
    let too_many = (0..65).fold(builder("d"), |builder, n| builder.bootstrap(another(n)));
    assert!(matches!(too_many.spawn().await, Err(Error::Bootstrap(_))));
    let repeated = (0..65).fold(builder("d"), |builder, _| builder.bootstrap(address.clone()));
    let d = repeated.spawn().await.unwrap();
    assert_eq!(d.network().bootstrap_nodes(), [address]);
    shutdown([&a, &b, &d]).await;
}

#[tokio::test]
async fn a_join_without_nodes_fails_with_the_reason() {
    let a = node("a").await;
    let nothing = a.network().join_with_retries(&[], |error, _| panic!("{error}"));
    assert!(matches!(within("the end", nothing).await, Err(Error::NoBootstrap)));
    let dead = refusing_address();
    let b = builder("b").bootstrap(dead.clone()).spawn().await.unwrap();
    match within("the end", b.join(&[])).await {
        Err(Error::NoneReached { tried: 1, first }) => {
            assert!(first.to_string().contains(&dead.to_string()), "{first}");
        }
        other => panic!("{other:?}"),
    }
    shutdown([&a, &b]).await;
}

/// All nodes of a network may share one list of bootstrap nodes, so a bootstrap node may find itself on the
/// list.
#[tokio::test]
async fn a_list_of_bootstrap_nodes_may_contain_the_node_itself() {
    let own = refusing_address();
    let listening = || Node::builder().listen(own.to_string()).bootstrap(own.clone());
    let a = listening().name("a").spawn().await.unwrap();
    let alone = a.network().join_with_retries(&[], |error, _| panic!("{error}"));
    assert!(matches!(within("the end", alone).await, Err(Error::OnlyThisNode)));
    a.shutdown().await;

    let dead = refusing_address();
    let a = listening().name("a").bootstrap(dead.clone()).spawn().await.unwrap();
    match within("the end", a.join(&[])).await {
        Err(Error::NoneReached { tried: 1, first }) => {
            assert!(first.to_string().contains(&dead.to_string()), "{first}");
        }
        other => panic!("{other:?}"),
    }
    a.shutdown().await;

    let b = node("b").await;
    let a = listening().name("a").bootstrap(address_of(&b).into()).spawn().await.unwrap();
    let joined = within("a join", a.join(&[])).await.unwrap();
    assert_eq!(joined.iter().map(|peer| peer.id()).collect::<Vec<_>>(), [b.id()]);
    shutdown([&a, &b]).await;
}

/// For a restarted node, a bootstrap node may also be a known peer. The node must make only one link to it.
#[tokio::test]
async fn a_known_bootstrap_node_is_linked_once() {
    let a = node("a").await;
    let folder = tempfile::tempdir().unwrap();
    for start in 0..4 {
        let mut events = a.events();
        let b = builder("b").state(folder.path()).bootstrap(address_of(&a).into());
        let b = b.spawn().await.unwrap();
        within("a join", b.join(&[])).await.unwrap();
        b.shutdown().await;
        drop(b);
        let first = within("an event", events.next()).await.unwrap();
        let first =
            if first.name() == "node_started" { events.next().await.unwrap() } else { first };
        assert_eq!(first.name(), "inbound_node_connected", "start {start}");
        match expect_event(&mut events, "inbound_node_disconnected").await {
            Event::InboundNodeDisconnected { link_end, .. } => {
                assert_eq!(link_end.reason, Reason::Stopping, "start {start}");
            }
            other => panic!("{other:?}"),
        }
    }
    a.shutdown().await;
}

#[tokio::test]
async fn a_discovery_finds_the_announced_addresses() {
    let given: Address = "ann.example.org:7000".parse().unwrap();
    let a = builder("a").announce(given.clone()).spawn().await.unwrap();
    let own = Address::from(address_of(&a));
    assert_eq!(
        a.addresses(),
        std::slice::from_ref(&given),
        "loopback is announced only if there is no other address"
    );
    let mut config = Config::default();
    config.announce = vec![given.clone()];
    config.announce_only = true;
    let b = builder("b").config(config).spawn().await.unwrap();
    assert_eq!(b.addresses(), std::slice::from_ref(&given));

    let c = node("c").await;
    link(&c, &a).await;
    let found = within("a discovery", c.discover(1)).await.unwrap();
    let of_a = found.nodes.iter().find(|node| node.id == a.id()).unwrap();
    assert_eq!(of_a.addresses.first(), Some(&given));
    // A peer whose link goes over the loopback interface still gets the loopback address.
    let (_, known) = within("a to be a known peer", async {
        loop {
            if let Some(known) = c.network().known_peers().await.unwrap().pop() {
                return known;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(known.addresses, [own]);
    shutdown([&a, &b, &c]).await;
}

#[tokio::test]
async fn a_node_that_listens_everywhere_accepts_ipv4_and_ipv6_and_announces_no_wildcard() {
    let a = Node::builder().name("a").listen_everywhere(0).spawn().await.unwrap();
    let port = address_of(&a).port();
    for address in a.addresses() {
        let socket = address.socket().unwrap();
        assert!(!socket.ip().is_unspecified() && socket.port() == port, "{address}");
    }
    assert!(!a.addresses().is_empty());
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let ipv6 = has_ipv6.then(|| SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    for at in std::iter::once(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).chain(ipv6) {
        let b = Node::builder().name("b").spawn().await.unwrap();
        let peer = within("a link", b.connect(at)).await.unwrap();
        assert_eq!(peer.id(), a.id());
        b.shutdown().await;
    }
    a.shutdown().await;
}

/// Tries a point of small order, bytes that are not a point of the curve, and an encoding that is not
/// canonical. Many typing errors in an identity give bytes that are not a point.
#[tokio::test]
async fn an_identity_that_is_not_a_valid_key_is_an_error_and_not_dialled() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "notes").unwrap();
    let (a, listener) = (node("a").await, TcpListener::bind("127.0.0.1:0").unwrap());
    listener.set_nonblocking(true).unwrap();
    let mut small = [0; 32];
    small[0] = 1;
    let mut not_a_point = [0; 32];
    not_a_point[0] = 2;
    let mut not_canonical = [0xff; 32];
    (not_canonical[0], not_canonical[31]) = (0xee, 0x7f);
    for bytes in [small, not_a_point, not_canonical] {
        let id = peerkit::NodeId::from_bytes(bytes);
        let is_not_a_key = |error: &Error| matches!(error, Error::NotAKey(bytes) if *bytes == id);
        let address = Address::from(listener.local_addr().unwrap()).with_id(id);
        let error = within("the error", a.connect(&address)).await.unwrap_err();
        assert!(is_not_a_key(&error), "{error:?}");
        let error = within("the error", a.join(&[address])).await.unwrap_err();
        assert!(error.to_string().contains("no valid key"), "{error}");
        let error = within("the error", a.connect(id)).await.unwrap_err();
        assert!(is_not_a_key(&error), "{error:?}");
        let sharing = a.share(&file).to_nodes([a.id(), id]);
        let error = within("the error", sharing).await.unwrap_err();
        assert!(is_not_a_key(&error), "{error:?}");
    }
    assert!(a.files().shared_paths().is_empty());
    let dialled = listener.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(dialled, Err(std::io::ErrorKind::WouldBlock));
    a.shutdown().await;
}

#[tokio::test]
async fn more_addresses_than_a_peer_accepts_are_an_error() {
    let announcing = |count: u16| {
        let addresses =
            (1..=count).map(|port| Address::from(SocketAddr::from(([192, 0, 2, 1], port))));
        addresses.fold(builder("a"), Builder::announce).spawn()
    };
    let error = announcing(33).await.unwrap_err();
    assert!(error.to_string().contains("33 addresses"), "{error}");
    announcing(32).await.unwrap().shutdown().await;
}
