//! Nodes that lie. They send other frames than their overlay wants to send.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::NETWORK;
use super::network::{address, public_ip};
use crate::address::Address;
use crate::frame::Frame;
use crate::frame::broadcast::Batch;
use crate::frame::membership::Probe;
use crate::id::{Key, SIGNATURE_LEN};
use crate::node_record::NodeRecord;

/// Maximum number of old broadcasts that a node keeps to send them again.
const OLD: usize = 64;

/// First number that no node has, as a simulation has fewer nodes. The addresses that [`public_ip`] gives from
/// this number on belong to no node.
const FIRST_UNUSED: usize = 1 << 20;

/// The way in which a node lies.
///
/// All nodes that lie, except those that flood, also make up nodes. Their records have made-up identities and valid signatures. Their
/// addresses belong to no node or to the node that lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Lies {
    /// Claims to have broadcasts, but does not pass them on. Sends no piece of the files that it shares.
    Drops,
    /// Changes the broadcasts and the pieces of files that it sends.
    Alters,
    /// Sends an old broadcast after each broadcast that it passes on.
    Replays,
    /// Sends queries without end: see [`Sim::flood`](super::Sim::flood). Does not lie, but passes no query on.
    Floods,
}

/// The state of a node that lies.
#[derive(Debug)]
pub(super) struct Liar {
    how: Lies,
    here: Address,
    rng: ChaCha8Rng,
    old: VecDeque<Batch>,
}

impl Liar {
    pub(super) fn new(how: Lies, here: Address, seed: [u8; 32]) -> Self {
        Self { how, here, rng: ChaCha8Rng::from_seed(seed), old: VecDeque::new() }
    }

    /// Returns the frames that are sent instead of `frame`.
    pub(super) fn lie(&mut self, unix: u64, frame: Frame) -> Vec<Frame> {
        match frame {
            frame if self.how == Lies::Floods => vec![frame],
            Frame::Broadcast(batch) => self.pass_on(batch),
            // `Have` is not changed: a node that drops broadcasts claims to have them, so other nodes wait for
            // them.
            mut frame => {
                match &mut frame {
                    Frame::NeighbourReply(reply) => self.invent(unix, &mut reply.records),
                    Frame::Disconnect(disconnect) => self.invent(unix, &mut disconnect.instead),
                    Frame::Shuffle(shuffle) => self.invent(unix, &mut shuffle.records),
                    Frame::ShuffleReply(reply) => self.invent(unix, &mut reply.records),
                    Frame::ForwardJoin(join) => join.record = self.made_up(unix),
                    _ => {}
                }
                vec![frame]
            }
        }
    }

    /// Replaces the records in a probe or its answer by made-up ones.
    pub(super) fn change_probe(&mut self, unix: u64, probe: &mut Probe) {
        if self.how != Lies::Floods {
            self.invent(unix, &mut probe.records);
        }
    }

    fn pass_on(&mut self, batch: Batch) -> Vec<Frame> {
        match self.how {
            Lies::Drops | Lies::Floods => Vec::new(),
            Lies::Alters => altered(&batch).map(Frame::Broadcast).into_iter().collect(),
            Lies::Replays => {
                // Chosen before `batch` is added, so that `batch` is not its own repetition.
                let at = self.below(self.old.len().max(1));
                let old = self.old.get(at).cloned();
                if self.old.len() == OLD {
                    self.old.pop_front();
                }
                self.old.push_back(batch.clone());
                [Some(batch), old].into_iter().flatten().map(Frame::Broadcast).collect()
            }
        }
    }

    /// Replaces records by those of made-up nodes.
    fn invent(&mut self, unix: u64, records: &mut [NodeRecord]) {
        for record in records {
            *record = self.made_up(unix);
        }
    }

    /// Returns the record of a made-up node. One half of these records have an address that belongs to no node,
    /// the other half that of the node that lies.
    fn made_up(&mut self, unix: u64) -> NodeRecord {
        let mut secret = [0; 32];
        self.rng.fill_bytes(&mut secret);
        let at = match self.below(2) {
            0 => address(public_ip(FIRST_UNUSED + self.below(FIRST_UNUSED))),
            _ => self.here.clone(),
        };
        // The made-up node signs its record itself, so the record is valid. Only a dial shows that the node
        // does not exist.
        NodeRecord::sign(&Key::from_secret(&secret), NETWORK, unix, &[at])
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.rng.next_u64() % bound).unwrap_or_default()
    }
}

/// Returns the batch with a change in its last broadcast, under the old signature; `None` if the change makes
/// it unreadable.
fn altered(batch: &Batch) -> Option<Batch> {
    let mut body = batch.body().to_vec();
    // The byte before the signature is the last byte of the last content.
    let at = body.len().checked_sub(SIGNATURE_LEN + 1)?;
    *body.get_mut(at)? ^= 1;
    Batch::decode(body.into()).ok().filter(|altered| altered.items != batch.items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::broadcast::Item;
    use crate::frame::membership::Shuffle;
    use crate::message::{Message, PackedMessage};

    fn batch(text: &str) -> Batch {
        let content = PackedMessage::uncompressed(Message::text(text));
        let item = Item { time: 1, title: String::new(), content };
        Batch::sign(&Key::from_secret(&[1; 32]), NETWORK, 1, (1, 1), vec![item])
    }

    fn liar(how: Lies) -> Liar {
        Liar::new(how, "192.0.2.1:7117".parse().unwrap(), [7; 32])
    }

    #[test]
    fn an_altered_broadcast_can_be_decoded_but_its_signature_is_invalid() {
        let frames = liar(Lies::Alters).lie(1, Frame::Broadcast(batch("abc")));
        let [Frame::Broadcast(altered)] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!(&altered.items[0].content.payload[..], b"abb");
        assert!(!altered.verify(NETWORK, &altered.ids(NETWORK)));
        assert!(batch("abc").verify(NETWORK, &batch("abc").ids(NETWORK)));
    }

    #[test]
    fn nodes_drop_broadcasts_or_send_old_ones_after_them() {
        assert_eq!(liar(Lies::Drops).lie(1, Frame::Broadcast(batch("a"))), []);
        let mut replays = liar(Lies::Replays);
        assert_eq!(replays.lie(1, Frame::Broadcast(batch("a"))).len(), 1);
        let both = vec![Frame::Broadcast(batch("b")), Frame::Broadcast(batch("a"))];
        assert_eq!(replays.lie(1, Frame::Broadcast(batch("b"))), both);
    }

    #[test]
    fn made_up_records_have_other_identities_and_valid_signatures() {
        let honest = NodeRecord::sign(&Key::from_secret(&[1; 32]), NETWORK, 1, &[]);
        let shuffle = Shuffle { id: 1, steps: 3, records: vec![honest.clone(); 8] };
        let frames = liar(Lies::Drops).lie(5, Frame::Shuffle(shuffle));
        let [Frame::Shuffle(shuffle)] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!(shuffle.records.len(), 8);
        assert!(shuffle.records.iter().all(|r| r.node != honest.node && r.verify(NETWORK)));
    }
}
