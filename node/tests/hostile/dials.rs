//! Attacks that make nodes dial a third party.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerkit::{Config, Key, Node, NodeId};
use peerkit_proto::address::Address;
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::membership::ForwardJoin;
use peerkit_proto::frame::query::{Query, QueryId, QueryKind};
use peerkit_proto::node_record::NodeRecord;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::attacker::{
    SybilLink, Sybils, Victim, config, encoded, end_all, honest_address, key, until,
};

/// Number of honest nodes in the network under attack.
const NODES: usize = 8;

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

/// A network of [`NODES`] honest members, and a hundred attackers with links to all of them in turn.
struct Network {
    victim: Victim,
    others: Vec<Node>,
    attackers: Vec<SybilLink>,
}

impl Network {
    async fn new(groups: usize) -> Self {
        let mut config = config();
        config.limit_loopback = true;
        // All honest nodes and attackers come from the same few addresses and have to find room.
        config.max_inbound = 200;
        let victim = Victim::with_config(config.clone()).await;
        let mut others = Vec::new();
        for n in 1..NODES {
            others.push(member(n, &config, &victim).await);
        }
        let mut attackers = Vec::new();
        let sybils = Sybils::new(100, groups).all;
        let addresses = others.iter().map(|node| node.listening()[0]);
        let addresses: Vec<_> = addresses.chain([victim.address()]).collect();
        for (sybil, address) in sybils.into_iter().zip(addresses.into_iter().cycle()) {
            attackers.push(SybilLink::new(sybil.link(address, |_| {}).await.unwrap()));
        }
        Self { victim, others, attackers }
    }

    fn ids(&self) -> Vec<NodeId> {
        let others = self.others.iter().map(Node::id);
        others.chain([self.victim.id()]).collect()
    }

    /// Waits until every node has read what the attackers have sent to it.
    async fn wait_until_read(&self) {
        for (n, link) in self.attackers.iter().enumerate() {
            link.send(&Frame::Ping(n as u64));
        }
        let before: Vec<_> = self.attackers.iter().map(SybilLink::received).collect();
        let answered = || {
            let links = self.attackers.iter().zip(&before);
            links.filter(|(link, before)| link.received() > **before || !link.is_up()).count()
        };
        let text = || format!("{} of {} pongs", answered(), before.len());
        until("all pongs", || answered() == before.len(), text).await;
    }

    async fn end(self) {
        end_all(self.attackers).await;
        for node in self.others {
            node.shutdown().await;
        }
        self.victim.check_unharmed().await;
    }
}

async fn member(n: usize, config: &Config, victim: &Victim) -> Node {
    let builder = Node::builder().name("member").listen(honest_address(n)).config(config.clone());
    let node = builder.spawn().await.unwrap();
    node.join(victim.address()).await.unwrap();
    node
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
    // After the network, which waits for its turn: the sockets of other tests are counted.
    let network = Network::new(groups).await;
    let third_party = ThirdParty::new().await;
    let addresses = [Address::from_socket(third_party.address)];
    let targets = network.ids();
    let signed = Box::new(record(&key(), &addresses));
    let mut bytes = 0;
    while bytes < 10 * 292_000 {
        for (n, link) in network.attackers.iter().enumerate() {
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
    network.wait_until_read().await;
    // The last dials may still be under way, for at most the time of a handshake.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let connections = third_party.connections();
    assert!(connections <= MAX_CONNECTIONS, "{connections} connections");
    third_party.accepting.abort();
    network.end().await;
}

#[tokio::test]
async fn call_backs_of_one_group_reach_a_third_party_rarely() {
    check_call_backs_reach_a_third_party_rarely(1).await;
}

#[tokio::test]
async fn call_backs_of_eight_groups_reach_a_third_party_rarely() {
    check_call_backs_reach_a_third_party_rarely(8).await;
}

/// Attackers announce invented nodes, each with a valid record that has the third party's address.
#[tokio::test]
async fn records_make_nodes_dial_a_third_party_rarely() {
    // After the network, which waits for its turn: the sockets of other tests are counted.
    let network = Network::new(8).await;
    let third_party = ThirdParty::new().await;
    let addresses = [Address::from_socket(third_party.address)];
    for link in &network.attackers {
        for _ in 0..100 {
            let record = record(&key(), &addresses);
            link.send(&Frame::ForwardJoin(ForwardJoin { steps: 0, record }));
        }
    }
    network.wait_until_read().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let connections = third_party.connections();
    assert!(connections <= MAX_CONNECTIONS, "{connections} connections");
    third_party.accepting.abort();
    network.end().await;
}
