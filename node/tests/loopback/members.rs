//! Networks whose owner invites: invited nodes join, all others are refused with a reason, and a revoked node
//! loses its links and streams.

use std::time::{Duration, Instant};

use peerkit::{Error, InvitationError, Invite, Key, MembershipError, Node, NodeId, Reason};
use peerkit_proto::frame::Frame;
use peerkit_proto::hello::{ALPN_LINK, Hello};
use peerkit_proto::invitation::{Invitation, InvitationTerms, MembershipProof, Revocation};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::attacker::{Attacker, End, opening};
use crate::common::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SECRET: &str = "a secret that leaked";

fn owner() -> Key {
    Key::from_secret(&[42; 32])
}

fn key(n: u8) -> Key {
    Key::from_secret(&[n; 32])
}

fn now() -> u64 {
    u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
}

/// Returns the owner's node of a network for invited nodes only.
async fn founder() -> Node {
    let founder = builder("founder").owner(owner()).invite_only(true).network("club");
    founder.secret(SECRET).spawn().await.unwrap()
}

fn invite(founder: &Node, uses: u32) -> Invite {
    founder.network().invite(DAY, uses).unwrap()
}

async fn invited(name: &str, invite: &Invite) -> Node {
    let node = builder(name).invite(invite.clone()).spawn().await.unwrap();
    within("the join", node.join(&invite.addresses)).await.unwrap();
    node
}

async fn member_ids(node: &Node) -> Vec<NodeId> {
    node.network().members().await.unwrap().iter().map(|member| member.id).collect()
}

/// Waits until all members that `node` knows of are certified, and are as many.
async fn wait_for_members(node: &Node, count: usize) {
    within("the certificates", async {
        loop {
            let members = node.network().members().await.unwrap();
            if members.iter().filter(|member| member.certified).count() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn refusal(refused: Result<peerkit::Peer, Error>) -> Reason {
    match refused {
        Err(Error::Refused { reason, .. }) => reason,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn invited_nodes_join_through_each_other_without_the_owner() {
    let founder = founder().await;
    let invite = invite(&founder, 3);
    let ann = invited("ann", &invite).await;
    wait_for_members(&ann, 2).await;
    let member = ann.network().members().await.unwrap();
    let member = member.into_iter().find(|member| member.id == ann.id()).unwrap();
    assert_eq!(member.invited_by, founder.id());
    assert_eq!(member.invitation, Some(invite.invitation.id));
    assert_eq!(member.name.as_deref(), Some("ann"));
    // The owner goes offline: the invite still works, through another member.
    shutdown([&founder]).await;
    let through_ann = Invite { addresses: ann.addresses(), ..invite.clone() };
    let bob = invited("bob", &through_ann).await;
    assert!(member_ids(&ann).await.contains(&bob.id()));
    let not_owner = bob.network().invite(DAY, 1).unwrap_err();
    assert!(matches!(not_owner, Error::Invitation(_)), "{not_owner:?}");
    shutdown([&ann, &bob]).await;
}

#[tokio::test]
async fn the_secret_alone_lets_nobody_in() {
    let founder = founder().await;
    let thief = builder("thief").network("club").secret(SECRET).spawn().await.unwrap();
    let reason = refusal(within("a dial", thief.connect(address_of(&founder))).await);
    assert_eq!(reason, Reason::NotAMember(MembershipError::Missing));
    assert!(reason.to_string().contains("invited nodes only"));
    shutdown([&founder, &thief]).await;
}

#[tokio::test]
async fn proofs_of_others_and_used_up_invites_are_refused_with_a_reason() {
    let founder = builder("founder").owner(owner()).invite_only(true).spawn().await.unwrap();
    let at = address_of(&founder);
    let invite = invite(&founder, 1);
    let terms = |expires| {
        let inviter = founder.id();
        InvitationTerms { inviter, issued: now() - 10_000, expires, uses: 1 }
    };
    let later = now() + 1_000_000;
    let by = |by: &Key, network: &str, expires| {
        let invitation = Invitation::sign(by, network, key(9).id(), terms(expires));
        invitation.accept(&key(9), network, &key(2))
    };
    let forged = {
        let MembershipProof::Invitation(mut accepted) = by(&key(8), "peerkit", later) else {
            panic!()
        };
        accepted.invitation.owner = owner().id();
        MembershipProof::Invitation(accepted)
    };
    for (proof, why) in [
        (None, MembershipError::Missing),
        (Some(invite.accept(&key(3))), MembershipError::OtherNode),
        (Some(forged), MembershipError::Forged),
        (Some(by(&owner(), "other", later)), MembershipError::Forged),
        (Some(by(&key(8), "peerkit", later)), MembershipError::OtherOwner),
        (Some(by(&owner(), "peerkit", now() - 1)), MembershipError::Expired),
    ] {
        let membership = proof.map(Box::new);
        let mut attacker = Attacker::connect_tls_as(at, key(2), ALPN_LINK).await;
        let hello = Hello { membership: membership.clone(), ..crate::attacker::hello() };
        attacker.send(&Frame::Hello(hello)).await;
        let end = attacker.end().await;
        assert!(matches!(&end, End::Goodbye(Reason::NotAMember(e)) if *e == why), "{why}: {end:?}");
        let open = peerkit_proto::hello::StreamOpen { membership, ..opening("peerkit-files/1") };
        let (_, status) = Attacker::open(at, key(2), &open).await;
        assert_eq!(status, Some(32 + why.code()), "{why}");
    }
    let ann = invited("ann", &invite).await;
    wait_for_members(&founder, 2).await;
    let bob = builder("bob").invite(invite.clone()).spawn().await.unwrap();
    let reason = refusal(within("a dial", bob.connect(at)).await);
    assert_eq!(reason, Reason::NotAMember(MembershipError::UsedUp));
    shutdown([&founder, &ann, &bob]).await;
}

#[tokio::test]
async fn a_revoked_node_loses_its_links_and_streams_and_is_refused() {
    let founder = founder().await;
    let invite = invite(&founder, 2);
    let ann = invited("ann", &invite).await;
    let bob = invited("bob", &invite).await;
    wait_for_members(&bob, 3).await;
    founder.serve_stream("echo", |mut stream| async move {
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok() {
            let _ = stream.flush().await;
        }
    });
    let mut stream = within("a stream", bob.open_stream(founder.id(), "echo")).await.unwrap();
    stream.write_all(b"a").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'a');
    let mut events = bob.events();
    assert!(founder.network().revoke(bob.id()).await.unwrap());
    assert!(!founder.network().revoke(bob.id()).await.unwrap(), "revoked before");
    let disconnected = within("the goodbye", async {
        loop {
            match next_event(&mut events).await {
                peerkit::Event::OutboundNodeDisconnected { link_end, .. }
                | peerkit::Event::InboundNodeDisconnected { link_end, .. } => return link_end,
                _ => {}
            }
        }
    });
    let why = Reason::NotAMember(MembershipError::Revoked);
    assert_eq!(disconnected.await.reason, why);
    within("the end of the stream", stream.read_u8()).await.unwrap_err();
    let has_link = |node: &Node| node.peer(bob.id()).is_some();
    wait_until("the links to end", || !has_link(&founder) && !has_link(&ann)).await;
    for member in [&founder, &ann] {
        assert_eq!(refusal(within("a dial", bob.connect(address_of(member))).await), why);
        assert!(!member_ids(member).await.contains(&bob.id()));
        assert_eq!(refusal(within("a dial", member.connect(address_of(&bob))).await), why);
    }
    // A member is no owner.
    let refused = ann.network().revoke(founder.id()).await.unwrap_err();
    assert!(matches!(refused, Error::Invitation(_)), "{refused:?}");
    shutdown([&founder, &ann, &bob]).await;
}

/// The simulator has the same network with a partition: `proto/tests/proto/members.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_fifty_nodes_refuse_a_revoked_node_within_half_a_minute() {
    const NODES: usize = 50;
    let founder = founder().await;
    let invite = invite(&founder, 49);
    let mut nodes = vec![founder];
    for n in 1..NODES {
        nodes.push(invited(&format!("node {n}"), &invite).await);
    }
    let (bob, others) = nodes.split_last().unwrap();
    for node in others {
        wait_for_members(node, NODES).await;
    }
    let begun = Instant::now();
    assert!(others[0].network().revoke(bob.id()).await.unwrap());
    for node in others {
        while member_ids(node).await.contains(&bob.id()) || node.peer(bob.id()).is_some() {
            assert!(begun.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let why = Reason::NotAMember(MembershipError::Revoked);
    for node in others {
        assert_eq!(refusal(within("a dial", bob.connect(address_of(node))).await), why);
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    shutdown(&nodes).await;
}

#[tokio::test]
async fn a_forged_revocation_ends_only_the_link_of_its_sender() {
    let founder = builder("founder").owner(owner()).invite_only(true).spawn().await.unwrap();
    let invite = invite(&founder, 2);
    let ann = invited("ann", &invite).await;
    let proof = invite.accept(&key(2));
    let mut liar = Attacker::link_as(address_of(&ann), key(2), |hello| {
        hello.membership = Some(Box::new(proof));
    })
    .await;
    let mut forged = Revocation::sign(&key(2), "peerkit", founder.id(), now());
    forged.owner = owner().id();
    liar.send(&Frame::Revocations(vec![forged])).await;
    assert!(liar.fault().await.contains("record"));
    assert!(ann.peer(founder.id()).is_some());
    // The stop of a node waits for the goodbye of its peers, and the liar says none.
    drop(liar);
    shutdown([&founder, &ann]).await;
}

#[tokio::test]
async fn a_member_is_one_after_a_restart_and_remembers_revocations() {
    let folder = TempDir::new().unwrap();
    let state = |name: &str| builder(name).state(folder.path().join(name));
    let founder = state("founder").owner(owner()).invite_only(true).spawn().await.unwrap();
    let invite = invite(&founder, 2);
    let ann = state("ann").invite(invite.clone()).spawn().await.unwrap();
    within("the join", ann.join(&invite.addresses)).await.unwrap();
    let bob = invited("bob", &invite).await;
    wait_for_members(&ann, 3).await;
    founder.network().revoke(bob.id()).await.unwrap();
    within("the revocation", async {
        while member_ids(&ann).await.contains(&bob.id()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    shutdown([&ann, &founder]).await;
    drop((ann, founder));
    // Without the invite and the option.
    let ann = state("ann").spawn().await.unwrap();
    let founder = state("founder").owner(owner()).spawn().await.unwrap();
    assert!(founder.network().is_invite_only() && ann.network().is_invite_only());
    within("a dial", ann.connect(address_of(&founder))).await.unwrap();
    let why = Reason::NotAMember(MembershipError::Revoked);
    assert_eq!(refusal(within("a dial", bob.connect(address_of(&ann))).await), why);
    shutdown([&founder, &ann, &bob]).await;
}

/// A node whose invitation was revoked comes back with a new one. Nodes that know the revocation open streams to
/// it and accept its streams, without a restart.
#[tokio::test]
async fn a_node_with_a_new_invitation_has_streams_with_all_members_again() {
    let founder = founder().await;
    let first = invite(&founder, 1);
    let ann = invited("ann", &invite(&founder, 1)).await;
    let bob = builder("bob").key(key(7)).invite(first.clone()).spawn().await.unwrap();
    within("the join", bob.join(&first.addresses)).await.unwrap();
    wait_for_members(&ann, 3).await;
    assert!(founder.network().revoke(first.invitation.id).await.unwrap());
    wait_until("the links to end", || {
        founder.peer(key(7).id()).is_none() && ann.peer(key(7).id()).is_none()
    })
    .await;
    shutdown([&bob]).await;

    let second = invite(&founder, 1);
    let bob = builder("bob").key(key(7)).invite(second.clone()).spawn().await.unwrap();
    within("the join", bob.join(&second.addresses)).await.unwrap();
    wait_for_members(&ann, 3).await;
    ann.connect(address_of(&bob)).await.unwrap();
    for node in [&ann, &bob] {
        node.serve_stream("hello", |mut stream| async move {
            let _ = stream.write_all(b"hi").await;
            let _ = stream.shutdown().await;
        });
    }
    for (from, to) in [(&ann, &bob), (&bob, &ann)] {
        let mut stream = within("a stream", from.open_stream(to.id(), "hello")).await.unwrap();
        let mut read = String::new();
        within("the stream", stream.read_to_string(&mut read)).await.unwrap();
        assert_eq!(read, "hi");
    }
    shutdown([&founder, &ann, &bob]).await;
}

fn lapsed(started: Result<Node, Error>) -> String {
    match started {
        Err(Error::Invitation(InvitationError::Lapsed(network))) => network,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// A node whose proof has expired, or is lost with its database, does not start as a node of an open network.
#[tokio::test]
async fn a_member_without_a_valid_proof_does_not_start_in_an_open_network() {
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("ann");
    let state = || builder("ann").state(&at);
    let founder = founder().await;
    let short = founder.network().invite(Duration::from_secs(4), 1).unwrap();
    let ann = state().invite(short.clone()).spawn().await.unwrap();
    shutdown([&ann]).await;
    drop(ann);
    let left = short.invitation.expires.saturating_sub(now());
    tokio::time::sleep(Duration::from_millis(left + 1)).await;
    assert_eq!(lapsed(state().network("club").spawn().await), "club");
    let expired = state().invite(short).spawn().await;
    assert!(matches!(
        expired,
        Err(Error::Invitation(InvitationError::NotAMember(MembershipError::Expired)))
    ));

    // A new invite makes it a member again. Then its database is damaged, and later deleted.
    let ann = state().invite(invite(&founder, 1)).spawn().await.unwrap();
    shutdown([&ann]).await;
    drop(ann);
    let database = at.join("state.redb");
    std::fs::write(&database, vec![1; 100_000]).unwrap();
    let damaged = state().network("club").spawn().await;
    assert!(matches!(damaged, Err(Error::Store(_))), "{damaged:?}");
    assert_eq!(lapsed(state().network("club").repair(true).spawn().await), "club");
    std::fs::remove_file(&database).unwrap();
    assert_eq!(lapsed(state().network("club").spawn().await), "club");
    // A start without the name of the network makes no open node in the default network either.
    let unnamed = state().spawn().await;
    let expected = |error: &Error| matches!(error, Error::Invitation(InvitationError::NotNamed(name)) if name == "club");
    assert!(unnamed.as_ref().is_err_and(expected), "{unnamed:?}");
    let elsewhere = state().network("an open one").spawn().await.unwrap();
    shutdown([&elsewhere]).await;
    drop(elsewhere);

    // The owner needs the key only.
    let at = folder.path().join("owner");
    let state = || builder("owner").state(&at).network("club");
    let node = state().owner(owner()).invite_only(true).spawn().await.unwrap();
    shutdown([&node]).await;
    drop(node);
    std::fs::remove_file(at.join("state.redb")).unwrap();
    assert_eq!(lapsed(state().spawn().await), "club");
    let node = state().owner(owner()).spawn().await.unwrap();
    assert!(node.network().is_invite_only());
    shutdown([&node, &founder]).await;
}

#[tokio::test]
async fn a_network_that_takes_everyone_has_no_members() {
    let node = builder("node").owner(owner()).spawn().await.unwrap();
    assert!(matches!(node.network().members().await, Err(Error::Invitation(_))));
    assert!(matches!(node.network().invite(DAY, 1), Err(Error::Invitation(_))));
    assert!(matches!(node.network().revoke(node.id()).await, Err(Error::Invitation(_))));
    let without_key = builder("other").invite_only(true).spawn().await;
    assert!(matches!(without_key, Err(Error::Invitation(_))));
    shutdown([&node]).await;
}
