//! Attacks on messages that are relayed between nodes without a link.

use peerkit::{Error, Key, RelayError};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::query::{AnswerBody, Query, QueryAnswer, QueryDone, QueryId, QueryKind};
use peerkit_proto::frame::relay::{Delivery, Forward, Forwarded, RelayLabel};
use peerkit_proto::id::NodeId;

use crate::attacker::{Attacker, STEP_TIMEOUT, Victim, encoded, text, within};

/// Returns a node that does not exist.
fn missing_node() -> NodeId {
    Key::from_secret(&[0x77; 32]).id()
}

fn forward(number: u64, to: NodeId, len: usize) -> Frame {
    let label = RelayLabel { query: QueryId([1; 16]), number, to };
    Frame::Forward(Forward { label, sealed: vec![7; len].into() })
}

/// The attacker sends invalid sealed messages to the victim and to a node that does not exist. The victim
/// answers each of them, most of them with "busy", and they have no other effect.
#[tokio::test]
async fn a_flood_of_relayed_messages_is_refused_and_most_of_them_are_not_opened() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    let outcome = |frame| match frame {
        Frame::Forwarded(forwarded) => Some(forwarded.delivery),
        _ => None,
    };
    let mut deliveries = Vec::new();
    for n in 0..20 {
        let to = |number: u64| if number.is_multiple_of(2) { victim.id() } else { missing_node() };
        let part: Vec<u8> = (n * 500..(n + 1) * 500)
            .flat_map(|number| encoded(&forward(number, to(number), 200)))
            .collect();
        deliveries.extend(attacker.exchange(&part, outcome, 500).await);
    }
    let count = |wanted| deliveries.iter().filter(|delivery| **delivery == wanted).count();
    let (refused, no_way) = (count(Delivery::Refused), count(Delivery::NoRoute));
    assert_eq!(deliveries.len(), 10_000);
    assert_eq!(refused + no_way + count(Delivery::Busy), 10_000);
    assert!(refused >= 64 && no_way >= 64, "{refused} refused, {no_way} no way");
    assert!(refused + no_way < 6000, "{refused} refused, {no_way} no way");
    drop(attacker);
    victim.check_unharmed().await;
}

/// The attacker sends outcomes that the victim does not wait for, and invalid sealed messages of many
/// lengths.
#[tokio::test]
async fn unexpected_outcomes_and_short_sealed_messages_have_no_effect() {
    let victim = Victim::new().await;
    let mut attacker = Attacker::link(victim.address()).await;
    for number in 0..1000 {
        let delivery = Delivery::Taken([0; 32]);
        let forwarded = Forwarded { query: QueryId([2; 16]), number, delivery };
        attacker.send(&Frame::Forwarded(forwarded)).await;
    }
    for len in 0..60 {
        attacker.send(&forward(len, victim.id(), usize::try_from(len).unwrap())).await;
        let Some(Frame::Forwarded(outcome)) = attacker.content().await else {
            panic!("no outcome")
        };
        assert_eq!((outcome.number, outcome.delivery), (len, Delivery::Refused));
    }
    attacker.send(&text("still here")).await;
    victim.message(attacker.id()).await;
    drop(attacker);
    victim.check_unharmed().await;
}

/// An attacker that claims to have a link with the recipient gets the message to relay. It can neither read
/// the message nor make the sender believe that the recipient has received it.
#[tokio::test]
async fn a_malicious_relay_can_neither_read_nor_confirm_a_message() {
    let victim = Victim::new().await;
    let mut relay = Attacker::link(victim.address()).await;
    let node = victim.node.clone();
    let sending = tokio::spawn(async move { node.send(missing_node(), "a secret").await });
    let Some(Frame::Query(Query { id, depth, what, .. })) = relay.content().await else {
        panic!("no query")
    };
    assert_eq!(what, QueryKind::FindNode(missing_node()));
    let body = AnswerBody::Here;
    let (name, addresses) = ("unknown".to_owned(), Vec::new());
    relay
        .send(&Frame::Answer(QueryAnswer { id, node: missing_node(), name, addresses, body }))
        .await;
    relay.send(&Frame::QueryDone(QueryDone { id, depth, complete: true })).await;
    let Forward { label, sealed } = loop {
        match relay.content().await {
            Some(Frame::Forward(forward)) => break forward,
            // The node also asks the recipient for a meeting.
            Some(Frame::Query(query)) if query.is_signed() => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((label.query, label.to), (id, missing_node()));
    assert!(!sealed.windows(6).any(|part| part == b"secret"));
    let delivery = Delivery::Taken([0; 32]);
    relay.send(&Frame::Forwarded(Forwarded { query: id, number: label.number, delivery })).await;
    let sent = within(STEP_TIMEOUT, "the outcome", sending).await.unwrap();
    assert!(matches!(sent, Err(Error::NotReached { reason: RelayError::Refused, .. })), "{sent:?}");
    drop(relay);
    victim.check_unharmed().await;
}
