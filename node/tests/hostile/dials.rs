//! Attacks that make nodes dial a third party.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerkit::Key;
use peerkit_proto::address::Address;
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::membership::ForwardJoin;
use peerkit_proto::frame::query::{Query, QueryId, QueryKind};
use peerkit_proto::node_record::NodeRecord;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::attacker::{SybilLink, Sybils, encoded, end_all, key, until};
use crate::honest::HonestNetwork;

/// Number of honest nodes in the network under attack, without newcomers and the measured one.
const NODES: usize = 7;

/// Maximum number of connections that may reach the third party from all nodes together.
const MAX_CONNECTIONS: u64 = 24;

/// A host that has nothing to do with the network. It counts the connections that reach it.
struct ThirdParty {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl ThirdParty {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.99.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicU64>::default();
        let counted = connections.clone();
        let accepting = tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                open.push(listener.accept().await.unwrap());
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { address, connections, accepting }
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Waits until every node has read what the attackers have sent to it.
async fn wait_until_read(attackers: &[SybilLink]) {
    for (n, link) in attackers.iter().enumerate() {
        link.send(&Frame::Ping(n as u64));
    }
    let before: Vec<_> = attackers.iter().map(SybilLink::received).collect();
    let answered = || {
        let links = attackers.iter().zip(&before);
        links.filter(|(link, before)| link.received() > **before || !link.is_up()).count()
    };
    let text = || format!("{} of {} pongs", answered(), before.len());
    until("all pongs", || answered() == before.len(), text).await;
}

fn random_id() -> QueryId {
    let mut id = [0; 16];
    id.copy_from_slice(&key().id().as_bytes()[..16]);
    QueryId(id)
}

fn query(what: QueryKind) -> Frame {
    let ttl = Duration::from_secs(10);
    Frame::Query(Query { id: random_id(), depth: 8, own: false, ttl, what })
}

fn record(key: &Key, addresses: &[Address]) -> NodeRecord {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    NodeRecord::sign(key, "peerkit", u64::try_from(now).unwrap(), addresses)
}

/// The attackers ask all nodes for call-backs, with ten times the bytes that cause 7,008 connections without a
/// limit. Their requests name the third party in a valid record, or without a record.
async fn check_call_backs_reach_a_third_party_rarely(groups: usize) {
    let mut network = HonestNetwork::start(NODES, 3).await;
    let attackers = network.link_all(&Sybils::new(100, groups)).await;
    let third_party = ThirdParty::new().await;
    let addresses = [Address::from_socket(third_party.address)];
    let targets: Vec<_> = network.ids.iter().copied().collect();
    let signed = Box::new(record(&key(), &addresses));
    let mut bytes = 0;
    while bytes < 10 * 292_000 {
        for (n, link) in attackers.iter().enumerate() {
            let (target, token) = (targets[n % targets.len()], random_id().0);
            let (record, addresses) = (signed.clone(), addresses.to_vec());
            for what in [
                QueryKind::SignedCallBack { target, token, record },
                QueryKind::CallBack { target, token, addresses },
            ] {
                let frame = query(what);
                bytes += encoded(&frame).len();
                link.send(&frame);
            }
        }
        tokio::task::yield_now().await;
    }
    network.check("during the call-backs").await;
    wait_until_read(&attackers).await;
    // The last dials may still be under way, for at most the time of a handshake.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let connections = third_party.connections();
    assert!(connections <= MAX_CONNECTIONS, "{connections} connections");
    third_party.accepting.abort();
    end_all(attackers).await;
    network.wait_until_attackers_are_gone().await;
    network.check("after the attack").await;
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_backs_of_one_group_reach_a_third_party_rarely() {
    check_call_backs_reach_a_third_party_rarely(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_backs_of_eight_groups_reach_a_third_party_rarely() {
    check_call_backs_reach_a_third_party_rarely(8).await;
}

/// Attackers announce invented nodes, each with a valid record that has the third party's address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_make_nodes_dial_a_third_party_rarely() {
    let mut network = HonestNetwork::start(NODES, 3).await;
    let attackers = network.link_all(&Sybils::new(100, 8)).await;
    let third_party = ThirdParty::new().await;
    let addresses = [Address::from_socket(third_party.address)];
    for link in &attackers {
        for _ in 0..100 {
            let record = record(&key(), &addresses);
            link.send(&Frame::ForwardJoin(ForwardJoin { steps: 0, record }));
        }
    }
    network.check("during the flood of records").await;
    wait_until_read(&attackers).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let connections = third_party.connections();
    assert!(connections <= MAX_CONNECTIONS, "{connections} connections");
    third_party.accepting.abort();
    end_all(attackers).await;
    network.wait_until_attackers_are_gone().await;
    network.check("after the attack").await;
    network.stop().await;
}
