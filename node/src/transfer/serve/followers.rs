//! The followers of each hash: the nodes that fetch its content from this node. This node sends each follower the
//! addresses of the others, so that they fetch from each other.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::files::seeding::{Requester, Seeding};
use peerkit_proto::files::wire::MAX_SOURCES;
use peerkit_proto::id::{Hash, NodeId};
use tokio::sync::watch;

use crate::lock::lock;

/// Maximum number of followers of one hash that are announced.
const MAX_OF_HASH: usize = 256;

/// Maximum number of followers of all hashes that are announced. 4096: 13 MiB if each has the longest
/// addresses.
const MAX_FOLLOWERS: usize = 4096;

/// The followers of a node. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Followers(Arc<Mutex<FollowerTable>>);

#[derive(Debug, Default)]
struct FollowerTable {
    swarms: HashMap<Hash, Swarm>,
    /// Number of announced followers in all swarms.
    count: usize,
    /// The number of the follower that was announced last.
    last: u64,
}

/// The followers of one hash. It exists as long as there is a [`Follower`] of the hash.
#[derive(Debug, Default)]
struct Swarm {
    /// The followers that are announced to others.
    announced: Vec<AnnouncedFollower>,
    /// Notified whenever a follower is added to `announced`.
    changes: watch::Sender<()>,
    /// Number of [`Follower`]s.
    handles: usize,
    /// A full seed's record of the pieces that it has sent, and of how long followers take to find them
    /// elsewhere.
    seeding: Seeding,
}

#[derive(Debug)]
struct AnnouncedFollower {
    number: u64,
    id: NodeId,
    addresses: Vec<Address>,
}

/// A stream that follows a hash: its node fetches the content, and is sent what is new about it. The node is
/// announced to other followers until this is dropped.
#[derive(Debug)]
pub(super) struct Follower {
    followers: Followers,
    hash: Hash,
    id: NodeId,
    /// The number of the follower. `None` if the follower is not announced, because it gave no addresses or
    /// there was no room.
    number: Option<u64>,
    /// Followers up to this number were announced to it.
    announced_up_to: u64,
    /// A full seed's record of the requests of this follower that were held back.
    requester: Requester,
}

impl Followers {
    /// Adds a stream of `id` that follows `hash`. Announces the node to other followers, with `addresses`.
    /// The receiver is notified whenever there may be other followers to announce to `id`.
    ///
    /// A node is announced once for each hash, with its latest addresses.
    pub(super) fn add(
        &self,
        hash: Hash,
        id: NodeId,
        addresses: Vec<Address>,
    ) -> (Follower, watch::Receiver<()>) {
        let mut table = lock(&self.0);
        let FollowerTable { swarms, count, last } = &mut *table;
        let swarm = swarms.entry(hash).or_default();
        swarm.handles += 1;
        let before = swarm.announced.len();
        // If the node also follows on another stream, the latest addresses replace the earlier ones.
        swarm.announced.retain(|known| known.id != id);
        *count -= before - swarm.announced.len();
        let mut changes = swarm.changes.subscribe();
        if !swarm.announced.is_empty() {
            // There are others that can be announced immediately.
            changes.mark_changed();
        }
        let addresses = dialable(addresses);
        let has_room = swarm.announced.len() < MAX_OF_HASH && *count < MAX_FOLLOWERS;
        let number = (!addresses.is_empty() && has_room).then(|| {
            *last += 1;
            *count += 1;
            swarm.announced.push(AnnouncedFollower { number: *last, id, addresses });
            swarm.changes.send_replace(());
            *last
        });
        let requester = Requester::default();
        (
            Follower { followers: self.clone(), hash, id, number, announced_up_to: 0, requester },
            changes,
        )
    }
}

impl Follower {
    /// Returns the other followers that were added since the last call. If there are more than
    /// [`MAX_SOURCES`], returns that many, drawn at random, and never the rest.
    pub(super) fn new_others(&mut self) -> Vec<(NodeId, Vec<Address>)> {
        let table = lock(&self.followers.0);
        let before = std::mem::replace(&mut self.announced_up_to, table.last);
        let Some(swarm) = table.swarms.get(&self.hash) else { return Vec::new() };
        let is_new = |known: &&AnnouncedFollower| known.number > before && known.id != self.id;
        let mut new: Vec<&AnnouncedFollower> = swarm.announced.iter().filter(is_new).collect();
        shuffle(&mut new);
        new.into_iter().take(MAX_SOURCES).map(|new| (new.id, new.addresses.clone())).collect()
    }

    /// Notes that these pieces were sent to this follower. If it is announced, others can fetch them from it.
    pub(super) fn sent(&self, pieces: Range<u64>) {
        let mut table = lock(&self.followers.0);
        let swarm = table.swarms.get_mut(&self.hash).filter(|_| self.number.is_some());
        if let Some(swarm) = swarm {
            swarm.seeding.sent(pieces);
        }
    }

    /// Returns whether all of these pieces were sent to announced followers.
    pub(super) fn were_sent_to_followers(&self, pieces: Range<u64>) -> bool {
        let table = lock(&self.followers.0);
        table.swarms.get(&self.hash).is_some_and(|swarm| swarm.seeding.has_sent(pieces))
    }

    /// Returns whether this follower is to be served now. `waited` is the time for which its request was held
    /// back, because other followers have the pieces.
    pub(super) fn is_wait_over(&mut self, waited: Duration) -> bool {
        let mut table = lock(&self.followers.0);
        let Some(swarm) = table.swarms.get_mut(&self.hash) else { return true };
        let others = swarm.announced.iter().filter(|known| known.id != self.id).count();
        swarm.seeding.may_serve(&mut self.requester, waited, others)
    }

    /// Notes that this follower has got the pieces elsewhere, after it had waited for `waited`.
    pub(super) fn found_elsewhere(&mut self, waited: Duration) {
        let mut table = lock(&self.followers.0);
        if let Some(swarm) = table.swarms.get_mut(&self.hash) {
            swarm.seeding.got_elsewhere(&mut self.requester, waited);
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut table = lock(&self.followers.0);
        let FollowerTable { swarms, count, .. } = &mut *table;
        let Some(swarm) = swarms.get_mut(&self.hash) else { return };
        let before = swarm.announced.len();
        // If another stream of the node has replaced it, that stream stays announced.
        swarm.announced.retain(|known| Some(known.number) != self.number);
        *count -= before - swarm.announced.len();
        swarm.handles -= 1;
        if swarm.handles == 0 {
            *count -= swarm.announced.len();
            swarms.remove(&self.hash);
        }
    }
}

/// Returns the addresses that can be dialled. Removes the identities in them, which could be another node's.
fn dialable(addresses: Vec<Address>) -> Vec<Address> {
    let is_dialable = |address: &Address| {
        address.port != 0
            && !address.host.is_empty()
            && address.socket().is_none_or(|socket| !socket.ip().is_unspecified())
    };
    addresses.into_iter().filter(is_dialable).map(Address::without_id).collect()
}

/// Moves [`MAX_SOURCES`] items, drawn at random, to the front. Without random numbers from the system, the
/// order stays.
fn shuffle<T>(items: &mut [T]) {
    let mut chance = [0; 8 * MAX_SOURCES];
    if getrandom::fill(&mut chance).is_err() {
        return;
    }
    for (at, bytes) in (0..items.len()).zip(chance.as_chunks().0) {
        let left = (items.len() - at) as u64;
        let drawn = u64::from_le_bytes(*bytes) % left;
        items.swap(at, at + usize::try_from(drawn).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u16) -> NodeId {
        let mut id = [7; 32];
        id[..2].copy_from_slice(&n.to_le_bytes());
        NodeId::from_bytes(id)
    }

    fn at(text: &str) -> Vec<Address> {
        vec![text.parse().unwrap()]
    }

    fn is_empty(followers: &Followers) -> bool {
        let table = lock(&followers.0);
        table.swarms.is_empty() && table.count == 0
    }

    #[test]
    fn each_follower_learns_of_the_others_once() {
        let followers = Followers::default();
        let hash = Hash::of(b"x");
        let (mut ann, updates) = followers.add(hash, node(1), at("192.0.2.1:1"));
        assert!(!ann.new_others().iter().any(|(id, _)| *id == node(1)));
        let (mut bob, news) = followers.add(hash, node(2), at("192.0.2.2:2"));
        assert!(news.has_changed().unwrap() && updates.has_changed().unwrap());
        assert_eq!(bob.new_others(), [(node(1), at("192.0.2.1:1"))]);
        assert_eq!(ann.new_others(), [(node(2), at("192.0.2.2:2"))]);
        assert_eq!((ann.new_others().len(), bob.new_others().len()), (0, 0));
        // A second stream of a node, with another address, replaces the first.
        let (again, _) = followers.add(hash, node(1), at("192.0.2.9:9"));
        drop(ann);
        assert_eq!(bob.new_others(), [(node(1), at("192.0.2.9:9"))]);
        // Followers of another hash are not announced.
        let (mut eve, _) = followers.add(Hash::of(b"y"), node(3), at("192.0.2.3:3"));
        assert!(eve.new_others().is_empty() && bob.new_others().is_empty());
        drop((again, bob, eve));
        assert!(is_empty(&followers));
    }

    #[test]
    fn addresses_that_cannot_be_dialled_are_left_out() {
        let followers = Followers::default();
        let hash = Hash::of(b"x");
        let given = vec!["0.0.0.0:1".parse().unwrap(), "[::]:1".parse().unwrap()];
        let (ann, _) = followers.add(hash, node(1), given);
        let named: Address = "192.0.2.2:2".parse().unwrap();
        let (bob, _) = followers.add(hash, node(2), vec![named.clone().with_id(node(9))]);
        let (mut eve, _) = followers.add(hash, node(3), Vec::new());
        assert_eq!(eve.new_others(), [(node(2), vec![named])]);
        drop((ann, bob, eve));
        assert!(is_empty(&followers));
    }

    #[test]
    fn the_number_of_announced_followers_is_limited() {
        let followers = Followers::default();
        let hash = |n: u16| Hash::of(&(n / 300).to_le_bytes());
        let mut held: Vec<_> =
            (0..6000).map(|n| followers.add(hash(n), node(n), at("192.0.2.1:1")).0).collect();
        {
            let table = lock(&followers.0);
            assert_eq!(table.count, MAX_FOLLOWERS);
            assert!(table.swarms.values().all(|swarm| swarm.announced.len() <= MAX_OF_HASH));
        }
        let others = held[0].new_others();
        assert_eq!(others.len(), MAX_SOURCES);
        let mut ids: Vec<_> = others.iter().map(|(id, _)| *id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), MAX_SOURCES);
        drop(held);
        assert!(is_empty(&followers));
    }
}
