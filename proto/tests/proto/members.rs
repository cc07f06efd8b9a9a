//! A simulated network whose owner invites: newcomers, secrets that leaked, and revocations.

use std::collections::BTreeSet;
use std::time::Duration;

use peerkit_proto::event::{LinkEnd, Peer, Reason};
use peerkit_proto::handler::{Context, Handler};
use peerkit_proto::id::Key;
use peerkit_proto::invitation::{Invitation, MembershipError};
use peerkit_proto::sim::{Joining, Sim, SimConfig};

const NODES: usize = 50;
const HALF_MINUTE: Duration = Duration::from_secs(30);

/// Keeps the reasons for which links ended.
#[derive(Default)]
struct Ends(Vec<Reason>);

impl Handler for Ends {
    fn outbound_node_disconnected(&mut self, _: &mut Context<'_>, _: &Peer, link_end: &LinkEnd) {
        self.0.push(link_end.reason.clone());
    }

    fn inbound_node_disconnected(&mut self, _: &mut Context<'_>, _: &Peer, link_end: &LinkEnd) {
        self.0.push(link_end.reason.clone());
    }
}

fn owner() -> Key {
    Key::from_secret(&[200; 32])
}

/// Returns the key pair of the invitation for node `n`.
fn key(n: usize) -> Key {
    Key::from_secret(&[u8::try_from(n).unwrap(); 32])
}

fn invite(sim: &Sim<Ends>, n: usize) -> Invitation {
    sim.make_invitation(&owner(), &key(n), 0, 1)
}

/// Returns a network of 50 members. Node 0 holds the owner's key; the others each had an invitation.
fn network(seed: u64) -> Sim<Ends> {
    let mut sim = Sim::new(SimConfig { seed, ..SimConfig::default() });
    sim.add(Ends::default());
    sim.set_owner_key(0, &owner());
    for n in 1..NODES {
        sim.add(Ends::default());
        let invitation = invite(&sim, n);
        sim.accept_invitation(n, &invitation, &key(n));
        sim.join(n, (n - 1) / 2);
        sim.run_for(Duration::from_millis(200));
    }
    let all_know_all = |sim: &Sim<Ends>| (0..NODES).all(|node| certified(sim, node) == NODES);
    assert!(sim.run_until(HALF_MINUTE, all_know_all), "each member has a certificate");
    sim
}

/// Returns the number of members with certificates in the roster of a node.
fn certified(sim: &Sim<Ends>, node: usize) -> usize {
    let roster = sim.overlay(node).unwrap().roster().unwrap();
    roster.members().filter(|proof| proof.is_certificate()).count()
}

fn has_links(sim: &Sim<Ends>, node: usize) -> bool {
    sim.links().iter().any(|(a, b)| *a == node || *b == node)
}

/// Returns the number of nodes in `among` that would not let `node` in.
fn refusing(sim: &Sim<Ends>, node: usize, among: &BTreeSet<usize>) -> usize {
    let id = sim.id(node);
    let refuses = |other: &&usize| sim.overlay(**other).unwrap().check_dial(id).is_err();
    among.iter().filter(refuses).count()
}

#[test]
fn all_nodes_refuse_a_revoked_node_within_half_a_minute() {
    for seed in 1..=3 {
        let mut sim = network(seed);
        let revoked = NODES - 1;
        assert!(has_links(&sim, revoked));
        sim.revoke(0, &owner(), sim.id(revoked));
        let others: BTreeSet<_> = (0..NODES - 1).collect();
        let is_out = |sim: &Sim<Ends>| {
            !has_links(sim, revoked) && refusing(sim, revoked, &others) == others.len()
        };
        assert!(sim.run_until(HALF_MINUTE, is_out), "seed {seed}");
        // It stays out, although it goes on dialling.
        sim.run_for(Duration::from_secs(120));
        assert!(!has_links(&sim, revoked));
        let reasons = &sim.app(revoked).0;
        let why = Reason::NotAMember(MembershipError::Revoked);
        assert!(reasons.contains(&why), "the revoked node learns the reason: {reasons:?}");
        assert!((0..NODES - 1).all(|node| has_links(&sim, node)));
    }
}

#[test]
fn a_revocation_crosses_a_partition_that_heals() {
    for seed in 1..=3 {
        let mut sim = network(seed);
        let revoked = NODES - 1;
        let far: Vec<usize> = (NODES / 2..NODES).collect();
        // The last node has just come. It has to know nodes of its own part.
        sim.run_for(HALF_MINUTE);
        sim.partition(&[&far]);
        sim.run_for(Duration::from_secs(60));
        sim.revoke(0, &owner(), sim.id(revoked));
        sim.run_for(HALF_MINUTE);
        let near: BTreeSet<_> = (0..NODES / 2).collect();
        assert_eq!(refusing(&sim, revoked, &near), near.len(), "seed {seed}");
        assert!(has_links(&sim, revoked), "the other part does not know of it");
        sim.heal();
        let is_far = |node: usize| node >= NODES / 2;
        let touch = |sim: &Sim<Ends>| sim.links().iter().any(|(a, b)| is_far(*a) != is_far(*b));
        assert!(sim.run_until(Duration::from_secs(300), touch), "the parts meet again");
        let others: BTreeSet<_> = (0..NODES - 1).collect();
        let is_out = |sim: &Sim<Ends>| {
            !has_links(sim, revoked) && refusing(sim, revoked, &others) == others.len()
        };
        assert!(sim.run_until(HALF_MINUTE, is_out), "seed {seed}");
    }
}

#[test]
fn a_revoked_invitation_ends_all_memberships_that_came_by_it() {
    let mut sim = network(7);
    sim.revoke(0, &owner(), key(5).id());
    let is_out = |sim: &Sim<Ends>| !has_links(sim, 5);
    assert!(sim.run_until(HALF_MINUTE, is_out));
}

#[test]
fn a_node_without_an_invitation_gets_no_link() {
    let mut sim = network(4);
    // The simulator has no secret: a node that knows it differs in nothing from this one.
    let stranger = sim.add(Ends::default());
    sim.join(stranger, 3);
    sim.run_for(HALF_MINUTE);
    assert!(!has_links(&sim, stranger));
    let Joining::Failed(why) = sim.joining(stranger) else { panic!("it must not join") };
    assert!(why.contains("invited nodes only"), "{why}");
    // A used invitation lets no other node in.
    let thief = sim.add(Ends::default());
    let used = invite(&sim, 8);
    sim.accept_invitation(thief, &used, &key(8));
    sim.join(thief, 20);
    sim.run_for(HALF_MINUTE);
    assert!(!has_links(&sim, thief));
    let Joining::Failed(why) = sim.joining(thief) else { panic!("it must not join") };
    assert!(why.contains("used up"), "{why}");
}

#[test]
fn two_uses_in_two_parts_succeed_until_the_parts_meet() {
    let mut sim = network(5);
    let invitation = sim.make_invitation(&owner(), &key(99), 0, 1);
    let (near, far) = (sim.add(Ends::default()), sim.add(Ends::default()));
    for node in [near, far] {
        sim.accept_invitation(node, &invitation, &key(99));
    }
    let mut part: Vec<usize> = (NODES / 2..NODES).collect();
    part.push(far);
    sim.partition(&[&part]);
    sim.join(near, 2);
    sim.join(far, NODES - 2);
    sim.run_for(HALF_MINUTE);
    assert!(has_links(&sim, near) && has_links(&sim, far), "the uses are counted in each part");
    // The owner is in the first part, and has certified the node there.
    sim.heal();
    let is_settled = |sim: &Sim<Ends>| has_links(sim, near) && !has_links(sim, far);
    assert!(sim.run_until(Duration::from_secs(300), is_settled));
}
