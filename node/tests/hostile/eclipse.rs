//! An attacker with many identities tries to surround honest nodes, so that these have no honest neighbours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use peerkit::{Address, Event, Node, NodeId};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::membership::{
    ForwardJoin, Need, NeighbourOutcome, NeighbourReply, NeighbourRequest, Shuffle,
};
use peerkit_proto::node_record::NodeRecord;

use crate::attacker::{
    STEP_TIMEOUT, SybilLink, Sybils, config, end_all, honest_address, until, wait_for_turn, within,
};

/// Number of honest nodes. Each has the other four as neighbours, and one free place.
const HONEST: usize = 5;

/// Number of rounds of the attack.
const ROUNDS: usize = 10;

/// Time between two rounds of the attack. In each, every identity asks every honest node for a place.
const ROUND: Duration = Duration::from_millis(500);

/// An honest node, and what its application has seen.
struct HonestNode {
    node: Node,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    broadcasts: BTreeMap<String, usize>,
    /// Ended links, in words.
    ended: Vec<(NodeId, String)>,
}

impl HonestNode {
    async fn spawn(n: usize) -> Self {
        let mut config = config();
        config.limit_loopback = true;
        let log = Arc::<Mutex<Log>>::default();
        let writing = log.clone();
        let builder = Node::builder().name(format!("honest {n}")).config(config);
        let builder = builder.listen(honest_address(n)).callback(move |_, event| {
            let mut log = writing.lock().unwrap();
            match event {
                Event::NodeBroadcast { broadcast } => {
                    *log.broadcasts.entry(broadcast.title.clone()).or_default() += 1;
                }
                Event::InboundNodeDisconnected { peer, link_end }
                | Event::OutboundNodeDisconnected { peer, link_end } => {
                    log.ended.push((peer.id(), link_end.to_string()));
                }
                _ => {}
            }
        });
        Self { node: builder.spawn().await.unwrap(), log }
    }

    fn address(&self) -> SocketAddr {
        self.node.listening()[0]
    }

    /// Returns the nodes among `of` that this node has links with.
    fn linked(&self, of: &BTreeSet<NodeId>) -> usize {
        self.node.peers().iter().filter(|peer| of.contains(&peer.id())).count()
    }
}

/// Starts honest nodes in as many groups, and waits until each has the others as neighbours.
async fn honest_network() -> Vec<HonestNode> {
    let mut nodes: Vec<HonestNode> = Vec::new();
    for n in 0..HONEST {
        let node = HonestNode::spawn(n).await;
        if let Some(first) = nodes.first() {
            within(STEP_TIMEOUT, "a join", node.node.join(first.address())).await.unwrap();
        }
        nodes.push(node);
    }
    let ids: BTreeSet<_> = nodes.iter().map(|of| of.node.id()).collect();
    let started = Instant::now();
    // Links come up in the search for neighbours, about one each ten seconds.
    while nodes.iter().any(|of| of.linked(&ids) < HONEST - 1) {
        if started.elapsed() > STEP_TIMEOUT {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    nodes
}

/// Returns the attacker's records: of each of its identities, at an address where nobody listens.
fn records(sybils: &Sybils) -> Vec<NodeRecord> {
    let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis().try_into().unwrap();
    let record = |sybil: &crate::attacker::Sybil| {
        let at = Address::from_socket(SocketAddr::new(sybil.ip, 9));
        NodeRecord::sign(&sybil.key, "peerkit", unix, &[at])
    };
    sybils.all.iter().map(record).collect()
}

/// Makes one round of the attack: each identity asks for a place, claims that this node has asked it, announces
/// another identity on a random walk, and shuffles.
fn attack(links: &[(usize, SybilLink)], records: &[NodeRecord], round: usize) {
    for (n, (_, link)) in links.iter().enumerate() {
        let Some(own) = records.iter().find(|record| record.node == link.id) else { continue };
        let others: Vec<_> =
            (1..=8).map(|k| records[(n + k * 7) % records.len()].clone()).collect();
        let need = if (n + round).is_multiple_of(2) { Need::High } else { Need::Join };
        link.send(&Frame::NeighbourRequest(NeighbourRequest { need, record: own.clone() }));
        let outcome = NeighbourOutcome::Accepted;
        link.send(&Frame::NeighbourReply(NeighbourReply {
            outcome,
            record: own.clone(),
            records: others.clone(),
        }));
        let join = ForwardJoin { steps: 0, record: others[round % others.len()].clone() };
        link.send(&Frame::ForwardJoin(join));
        let id = (n * 1_000_003 + round) as u64;
        link.send(&Frame::Shuffle(Shuffle { id, steps: 6, records: others }));
    }
}

async fn surround(groups: usize) {
    let _turn = wait_for_turn().await;
    let mut honest = honest_network().await;
    let ids: BTreeSet<_> = honest.iter().map(|of| of.node.id()).collect();
    assert!(honest.iter().all(|of| of.linked(&ids) >= 2), "the network is not complete");
    // A neighbour is settled after ten seconds.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let before: Vec<_> = honest.iter().map(|of| of.linked(&ids)).collect();

    let sybils = Sybils::new(100, groups);
    let records = records(&sybils);
    let mut links = Vec::new();
    let (mut sent, mut fewest, mut newcomer_after) = (Vec::new(), usize::MAX, None);
    for round in 0..ROUNDS {
        // Identities whose links have ended come back.
        links.retain(|(_, link): &(usize, SybilLink)| link.is_up());
        if round % 5 == 0 {
            for (n, of) in honest[..HONEST].iter().enumerate() {
                let is_linked = |id| links.iter().any(|(to, link)| *to == n && link.id == id);
                let all = sybils.all.iter().filter(|sybil| !is_linked(sybil.key.id())).cloned();
                let missing = Sybils { all: all.collect() };
                links
                    .extend(missing.link_all(of.address()).await.into_iter().map(|link| (n, link)));
            }
        }
        attack(&links, &records, round);
        let author = &honest[round % HONEST];
        let title = format!("round {round}");
        author.node.broadcast(title.clone(), "honest").await.unwrap();
        sent.push((author.node.id(), title));
        if round == 3 {
            let joining = Instant::now();
            let newcomer = HonestNode::spawn(HONEST).await;
            let join = newcomer.node.join(honest[0].address());
            within(STEP_TIMEOUT, "the newcomer's join", join).await.unwrap();
            newcomer_after = Some(joining.elapsed());
            honest.push(newcomer);
        }
        let all = honest[..HONEST].iter().map(|of| of.linked(&ids));
        fewest = all.min().unwrap().min(fewest);
        tokio::time::sleep(ROUND).await;
    }
    println!(
        "{groups} groups: {} links of the attacker, newcomer after {newcomer_after:?}",
        links.len()
    );

    let arrived = |of: &HonestNode| {
        let log = of.log.lock().unwrap();
        let counts = |(author, title): &&(NodeId, String)| {
            *author == of.node.id() || log.broadcasts.get(title) == Some(&1)
        };
        sent.iter().filter(counts).count()
    };
    let all_arrived = || honest[..HONEST].iter().all(|of| arrived(of) == sent.len());
    let counts =
        || format!("{:?} of {}", honest.iter().map(arrived).collect::<Vec<_>>(), sent.len());
    until("all honest broadcasts", all_arrived, counts).await;
    for (of, before) in honest.iter().zip(before) {
        let log = of.log.lock().unwrap();
        let ended: Vec<_> = log.ended.iter().filter(|(id, _)| ids.contains(id)).collect();
        assert!(ended.is_empty(), "links between honest nodes ended: {ended:?}");
        assert!(of.linked(&ids) >= before);
    }
    for of in &honest[..HONEST] {
        let found = within(STEP_TIMEOUT, "a discovery", of.node.discover(-1)).await.unwrap();
        let found: BTreeSet<_> = found.nodes.iter().map(|node| node.id).collect();
        let missed = ids.difference(&found).count();
        assert_eq!(missed, 0, "honest nodes that a discovery missed, of {}", found.len());
    }
    assert!(fewest >= 2, "a node had {fewest} honest neighbours");
    let newcomer_after = newcomer_after.expect("a newcomer has joined");
    assert!(
        newcomer_after < Duration::from_secs(5),
        "the newcomer was in after {newcomer_after:?}"
    );
    end_all(links.into_iter().map(|(_, link)| link).collect()).await;
    for of in honest {
        within(STEP_TIMEOUT, "a stop", of.node.shutdown()).await;
    }
}

#[tokio::test]
async fn an_attacker_of_one_address_group_does_not_surround_honest_nodes() {
    surround(1).await;
}

#[tokio::test]
async fn an_attacker_of_eight_address_groups_does_not_surround_honest_nodes() {
    surround(8).await;
}
