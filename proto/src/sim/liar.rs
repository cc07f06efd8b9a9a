//! Nodes that lie. They send other frames than their overlay wants to send.

use std::collections::VecDeque;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::NETWORK;
use super::network::{address, public_ip};
use crate::address::Address;
use crate::frame::Frame;
use crate::frame::broadcast::Batch;
use crate::frame::membership::{Beacon, Need, Probe, SignedBeacon};
use crate::id::{Key, SIGNATURE_LEN};
use crate::node_record::NodeRecord;

/// Maximum number of old broadcasts, and of old beacons, that a node keeps to send them again.
const OLD: usize = 64;

/// Number of identities with which a node forges beacons. Each is the least of as many random ones.
const FORGED_IDS: usize = 8;

/// First number that no node has, as a simulation has fewer nodes. The addresses that [`public_ip`] gives from
/// this number on belong to no node.
const FIRST_UNUSED: usize = 1 << 20;

/// The way in which a node lies.
///
/// Every liar except [`Lies::Floods`] and [`Lies::Eclipses`] also sends records of invented nodes. These records
/// have valid signatures. Their addresses belong to the liar or to no node.
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
    /// Sends false beacons in place of each beacon that it passes on: old ones, wrongly signed ones, those of
    /// nodes with very small identities that never send another, and none at all. Claims other beacons in
    /// probes.
    ForgesBeacons,
    /// Surrounds honest nodes: see [`Sim::eclipse`](super::Sim::eclipse). Names only the nodes that it colludes
    /// with, has room for any number of neighbours, asks for places as a node without neighbours does, and passes
    /// on neither broadcasts nor queries. Often claims in probes to be in another part of the network.
    Eclipses,
}

/// The state of a node that lies.
#[derive(Debug)]
pub(super) struct Liar {
    how: Lies,
    here: Address,
    rng: ChaCha8Rng,
    old: VecDeque<Batch>,
    old_beacons: VecDeque<SignedBeacon>,
    /// Identities for forged beacons. They are made when the first is needed.
    forged_ids: Vec<Key>,
    /// Records of the nodes that it colludes with.
    colluders: Arc<[NodeRecord]>,
}

impl Liar {
    pub(super) fn new(how: Lies, here: Address, seed: [u8; 32]) -> Self {
        Self {
            how,
            here,
            rng: ChaCha8Rng::from_seed(seed),
            old: VecDeque::new(),
            old_beacons: VecDeque::new(),
            forged_ids: Vec::new(),
            colluders: Arc::default(),
        }
    }

    /// Sets the records of the nodes that this one colludes with.
    pub(super) fn collude(&mut self, records: Arc<[NodeRecord]>) {
        self.colluders = records;
    }

    /// Returns the frames that are sent instead of `frame`.
    pub(super) fn lie(&mut self, unix: u64, frame: Frame) -> Vec<Frame> {
        match frame {
            frame if self.how == Lies::Floods => vec![frame],
            Frame::NeighbourRequest(mut request) if self.how == Lies::Eclipses => {
                // A full node makes room for a node without neighbours.
                if request.need != Need::Join {
                    request.need = Need::High;
                }
                vec![Frame::NeighbourRequest(request)]
            }
            Frame::Broadcast(batch) => self.pass_on(batch),
            Frame::SignedBeacon(beacon) if self.how == Lies::ForgesBeacons => {
                self.forge(unix, beacon).into_iter().map(Frame::SignedBeacon).collect()
            }
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
        if self.how == Lies::ForgesBeacons {
            probe.beacon = Beacon { least: self.forged_id().id(), count: unix };
        }
        if self.how == Lies::Eclipses {
            probe.neighbour = true;
            if self.below(2) == 0 {
                probe.beacon = Beacon { least: self.random_key().id(), count: unix };
            }
        }
    }

    /// Returns the beacons that are sent instead of `beacon`.
    fn forge(&mut self, unix: u64, beacon: SignedBeacon) -> Vec<SignedBeacon> {
        if self.old_beacons.len() == OLD {
            self.old_beacons.pop_front();
        }
        self.old_beacons.push_back(beacon);
        match self.below(8) {
            // In the name of an earlier least node, so that a part of a split network which believes it misses the
            // split. A peer ends the link with the node then, so it is done rarely.
            0 => {
                let at = self.below(self.old_beacons.len());
                let old = self.old_beacons.get(at).copied().unwrap_or(beacon);
                let count = unix.max(old.beacon.count).saturating_add(1);
                vec![SignedBeacon { beacon: Beacon { count, ..old.beacon }, ..old }]
            }
            1 => Vec::new(),
            2 | 3 => self.old_beacons.iter().copied().collect(),
            4 => vec![beacon],
            // Each is of a lesser node than the one before, if there is one, and has the greatest count.
            _ => {
                let mut keys: Vec<_> = (0..FORGED_IDS).map(|_| self.forged_id()).collect();
                keys.sort_by_key(|key| std::cmp::Reverse(key.id()));
                let count = unix.saturating_add(self.rng.next_u64() >> 24);
                keys.iter().map(|key| SignedBeacon::sign(key, NETWORK, count)).collect()
            }
        }
    }

    fn forged_id(&mut self) -> Key {
        while self.forged_ids.len() < FORGED_IDS {
            let mut drawn: Vec<_> = (0..FORGED_IDS).map(|_| self.random_key()).collect();
            drawn.sort_by_key(Key::id);
            self.forged_ids.extend(drawn.into_iter().next());
        }
        let at = self.below(FORGED_IDS);
        self.forged_ids.swap_remove(at)
    }

    fn random_key(&mut self) -> Key {
        let mut secret = [0; 32];
        self.rng.fill_bytes(&mut secret);
        Key::from_secret(&secret)
    }

    fn pass_on(&mut self, batch: Batch) -> Vec<Frame> {
        match self.how {
            Lies::Drops | Lies::Floods | Lies::Eclipses => Vec::new(),
            Lies::ForgesBeacons => vec![Frame::Broadcast(batch)],
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

    /// Replaces records by those of made-up nodes, or of nodes that this one colludes with.
    fn invent(&mut self, unix: u64, records: &mut [NodeRecord]) {
        for record in records {
            *record = self.made_up(unix);
        }
    }

    /// Returns the record of a made-up node. One half of these records have an address that belongs to no node,
    /// the other half that of the node that lies.
    fn made_up(&mut self, unix: u64) -> NodeRecord {
        if self.how == Lies::Eclipses {
            let at = self.below(self.colluders.len());
            if let Some(record) = self.colluders.get(at) {
                return record.clone();
            }
        }
        let key = self.random_key();
        let at = match self.below(2) {
            0 => address(public_ip(FIRST_UNUSED + self.below(FIRST_UNUSED))),
            _ => self.here.clone(),
        };
        // The made-up node signs its record itself, so the record is valid. Only a dial shows that the node
        // does not exist.
        NodeRecord::sign(&key, NETWORK, unix, &[at])
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
    fn forged_beacons_are_of_small_identities_or_wrongly_signed_or_old() {
        let mut forger = liar(Lies::ForgesBeacons);
        let honest = |count| SignedBeacon::sign(&Key::from_secret(&[1; 32]), NETWORK, count);
        let [mut small, mut wrong, mut old] = [0; 3];
        for count in 1..100 {
            for frame in forger.lie(5, Frame::SignedBeacon(honest(count))) {
                let Frame::SignedBeacon(SignedBeacon { beacon, signature }) = frame else {
                    panic!()
                };
                let valid = beacon.least.verify(&beacon.signed(NETWORK), &signature);
                small += u32::from(valid && beacon.least != honest(1).beacon.least);
                wrong += u32::from(!valid);
                old += u32::from(
                    valid && beacon.least == honest(1).beacon.least && beacon.count < count,
                );
            }
        }
        assert!(small > 50 && wrong > 3 && old > 50, "{small} {wrong} {old}");
        // Each forged identity sends one beacon.
        let ids: std::collections::BTreeSet<_> =
            (0..100).map(|_| forger.forged_id().id()).collect();
        assert_eq!(ids.len(), 100);
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
