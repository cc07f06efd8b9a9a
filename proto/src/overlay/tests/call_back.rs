//! Requests for call-backs through the network.

use super::*;
use crate::node_record::NodeRecord;

const TOKEN: [u8; 16] = [7; 16];

fn third_party() -> Vec<Address> {
    vec!["192.0.2.1:80".parse().unwrap()]
}

/// Has node 2 receive a query from node 1. Returns whether node 2 answers that it calls back.
fn calls_back(what: QueryKind) -> bool {
    let mut net = Net::new(3, &[(0, 1), (1, 2)], 1);
    let ttl = Duration::from_secs(10);
    let query = Query { id: QueryId([9; 16]), depth: UNLIMITED, own: false, ttl, what };
    net.receive(2, net.ids[1], Frame::Query(query));
    let sent = net.links.remove(&(2, 1)).unwrap();
    sent.iter()
        .any(|frame| matches!(frame, Frame::Answer(QueryAnswer { body: AnswerBody::Here, .. })))
}

fn signed(target: NodeId, record: NodeRecord) -> QueryKind {
    QueryKind::SignedCallBack { target, token: TOKEN, record: Box::new(record) }
}

#[test]
fn a_request_for_a_call_back_has_the_record_of_the_asking_node() {
    let mut net = Net::new(3, &[(0, 1), (1, 2)], 1);
    let own: Vec<Address> = vec!["198.51.100.1:7117".parse().unwrap()];
    net.act(0, |node| node.command(Command::Addresses(own.clone())));
    let target = net.ids[2];
    let what = QueryKind::CallBack { target, token: TOKEN, addresses: third_party() };
    net.act(0, |node| node.ask(what, -1, false, None));
    let sent = net.links[&(0, 1)].front().cloned();
    let Some(Frame::Query(Query { what: QueryKind::SignedCallBack { record, .. }, .. })) = sent
    else {
        panic!("{sent:?}");
    };
    assert_eq!((record.node, &record.addresses), (net.ids[0], &own));
    assert!(record.verify("net"));
    net.deliver_all();
    let here = |answer: &QueryAnswer| answer.node == target && answer.body == AnswerBody::Here;
    assert!(net.answers.iter().any(here), "{:?}", net.answers);
}

#[test]
fn only_a_valid_record_makes_a_node_call_back() {
    let target = Net::new(3, &[], 1).ids[2];
    let key = Key::from_secret(&[9; 32]);
    let record = NodeRecord::sign(&key, "net", 1, &third_party());
    assert!(calls_back(signed(target, record.clone())));
    let forged = NodeRecord { addresses: vec!["192.0.2.9:80".parse().unwrap()], ..record.clone() };
    assert!(!calls_back(signed(target, forged)));
    assert!(!calls_back(signed(target, NodeRecord::sign(&key, "other", 1, &third_party()))));
    let from_the_future = NodeRecord::sign(&key, "net", 10_000_000_000, &third_party());
    assert!(!calls_back(signed(target, from_the_future)));
    assert!(!calls_back(signed(key.id(), record)), "another node is asked");
    let unsigned = QueryKind::CallBack { target, token: TOKEN, addresses: third_party() };
    assert!(!calls_back(unsigned));
}
