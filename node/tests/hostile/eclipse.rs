//! An attacker with many identities tries to surround honest nodes, so that these have no honest neighbours.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use peerkit::Address;
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::membership::{
    ForwardJoin, Need, NeighbourOutcome, NeighbourReply, NeighbourRequest, Shuffle,
};
use peerkit_proto::node_record::NodeRecord;

use crate::attacker::{Sybil, SybilLink, Sybils, end_all};
use crate::honest::{HonestNetwork, MIN_NEIGHBOURS};

/// Number of honest nodes, without the measured one and newcomers. All of them have places for all others.
const HONEST: usize = 4;

/// Number of rounds of the attack.
const ROUNDS: usize = 10;

/// Time between two rounds of the attack. In each, every identity asks every honest node for a place.
const ROUND: Duration = Duration::from_millis(500);

/// Returns the attacker's records: of each of its identities, at an address where nobody listens.
fn records(sybils: &Sybils) -> Vec<NodeRecord> {
    let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis().try_into().unwrap();
    let record = |sybil: &Sybil| {
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
    let mut network = HonestNetwork::start(HONEST, MIN_NEIGHBOURS).await;
    // A neighbour is settled after ten seconds.
    tokio::time::sleep(Duration::from_secs(11)).await;

    let sybils = Sybils::new(100, groups);
    let records = records(&sybils);
    let mut links = Vec::new();
    for round in 0..ROUNDS {
        // Identities whose links have ended come back.
        links.retain(|(_, link): &(usize, SybilLink)| link.is_up());
        if round % 5 == 0 {
            for (n, address) in network.addresses().into_iter().take(HONEST + 1).enumerate() {
                let is_linked = |id| links.iter().any(|(to, link)| *to == n && link.id == id);
                let all = sybils.all.iter().filter(|sybil| !is_linked(sybil.key.id())).cloned();
                let missing = Sybils { all: all.collect() };
                let new = missing.link_all(address).await;
                links.extend(new.into_iter().map(|link| (n, link)));
            }
        }
        attack(&links, &records, round);
        let when = format!("in round {round}");
        if round == 3 {
            network.check(&when).await;
        }
        network.broadcast_from_all(&when).await;
        network.check_neighbours(&when).await;
        network.check_no_link_has_ended(&when);
        tokio::time::sleep(ROUND).await;
    }
    println!("{groups} groups: {} links of the attacker", links.len());
    // Before the next newcomer, for which a link may be replaced.
    network.check_no_link_has_ended("at the end of the attack");
    network.check("at the end of the attack").await;
    end_all(links.into_iter().map(|(_, link)| link).collect()).await;
    network.wait_until_attackers_are_gone().await;
    network.check("after the attack").await;
    network.stop().await;
}

#[tokio::test]
async fn an_attacker_of_one_address_group_does_not_surround_honest_nodes() {
    surround(1).await;
}

#[tokio::test]
async fn an_attacker_of_eight_address_groups_does_not_surround_honest_nodes() {
    surround(8).await;
}
