//! Valid frames of broadcasts and membership.

use peerkit_proto::address::Address;
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::broadcast::{Batch, Have, Item, Want};
use peerkit_proto::frame::membership::{
    Beacon, Disconnect, ForwardJoin, Need, NeighbourOutcome, NeighbourReply, NeighbourRequest,
    Probe, Shuffle, ShuffleReply, SignedBeacon,
};
use peerkit_proto::id::Key;
use peerkit_proto::message::{Message, PackedMessage};
use peerkit_proto::node_record::NodeRecord;

use crate::machines::{NETWORK, key};

/// Returns batches of broadcasts, and other frames about broadcasts of the same author.
pub(crate) fn broadcasts() -> Vec<Frame> {
    let item = |text: &str| Item {
        time: 1,
        title: "title".into(),
        content: PackedMessage::uncompressed(Message::text(text)),
    };
    let batch = |first| {
        Frame::Broadcast(Batch::sign(&key(9), NETWORK, 1, (first, 1), vec![item("a"), item("")]))
    };
    let Frame::Broadcast(Batch { run, .. }) = batch(1) else { unreachable!("it is one") };
    vec![
        batch(2),
        batch(4),
        Frame::Have(vec![Have { run, upto: 9 }, Have { run, upto: u64::MAX }]),
        Frame::Want(Want { run, after: 0 }),
        Frame::Want(Want { run, after: u64::MAX }),
        Frame::Given(Have { run, upto: 1 }),
        Frame::Prune(run),
    ]
}

/// Returns membership frames with records of the neighbours in [`machines`](crate::machines) and of other nodes.
pub(crate) fn membership() -> Vec<Frame> {
    let mut frames = Vec::new();
    for n in 1..=3 {
        for need in [Need::Low, Need::High, Need::Join, Need::Chosen] {
            frames.push(Frame::NeighbourRequest(NeighbourRequest { need, record: record(n) }));
        }
    }
    let records = || vec![record(4), record(5), record(0)];
    for outcome in [NeighbourOutcome::Accepted, NeighbourOutcome::Full, NeighbourOutcome::Manual] {
        let reply = NeighbourReply { outcome, record: record(1), records: records() };
        frames.push(Frame::NeighbourReply(reply));
    }
    frames.extend([
        Frame::ForwardJoin(ForwardJoin { steps: 0, record: record(6) }),
        Frame::ForwardJoin(ForwardJoin { steps: 255, record: record(7) }),
        Frame::Disconnect(Disconnect { instead: records(), leaves: false }),
        Frame::Disconnect(Disconnect { instead: Vec::new(), leaves: true }),
        Frame::Shuffle(Shuffle { id: 1, steps: 0, records: records() }),
        Frame::Shuffle(Shuffle { id: 2, steps: 255, records: records() }),
        Frame::ShuffleReply(ShuffleReply { id: 2, records: records() }),
        Frame::Beacon(Beacon { least: key(4).id(), count: u64::MAX }),
        Frame::SignedBeacon(SignedBeacon::sign(&key(4), "net", u64::MAX)),
    ]);
    frames
}

/// Returns a probe.
pub(crate) fn probe() -> Probe {
    let beacon = Beacon { least: key(1).id(), count: 3 };
    Probe { neighbour: true, record: record(1), beacon, records: vec![record(2)] }
}

fn record(n: u8) -> NodeRecord {
    let key: Key = key(n);
    NodeRecord::sign(&key, NETWORK, 1, &[Address::from_socket(([192, 0, n, 1], 7117).into())])
}
