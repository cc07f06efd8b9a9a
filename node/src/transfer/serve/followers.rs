//! Who follows a hash here, and where others can ask it.

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

/// Followers of one hash that others are told of.
const MAX_OF_HASH: usize = 256;

/// Followers in all that others are told of: 13 MiB where each has the longest addresses.
const MAX_FOLLOWERS: usize = 4096;

/// The followers of a node. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Followers(Arc<Mutex<Registry>>);

#[derive(Debug, Default)]
struct Registry {
    crowds: HashMap<Hash, Crowd>,
    /// Followers in all crowds.
    count: usize,
    /// The number of the last that came.
    last: u64,
}

/// Those who follow one hash. It is there for as long as somebody holds a [`Follower`] of it.
#[derive(Debug)]
struct Crowd {
    known: Vec<Known>,
    /// Changes whenever somebody comes.
    news: watch::Sender<()>,
    held: usize,
    /// Observations of them, for where all of the hash is here.
    seeding: Seeding,
}

#[derive(Debug)]
struct Known {
    number: u64,
    id: NodeId,
    addresses: Vec<Address>,
}

/// One who follows: others are told of it for as long as this is held.
#[derive(Debug)]
pub(super) struct Follower {
    followers: Followers,
    hash: Hash,
    id: NodeId,
    /// Where there was room, and it gave addresses.
    number: Option<u64>,
    /// Those who came before this number have been told of.
    told: u64,
    /// Observations of how it fetches from the others.
    requester: Requester,
}

impl Followers {
    /// `id` follows `hash`, and can be asked at `addresses`. With it comes what changes when there
    /// are others to be told of.
    ///
    /// A node is known once for each hash, by what it said last.
    pub(super) fn enter(
        &self,
        hash: Hash,
        id: NodeId,
        addresses: Vec<Address>,
    ) -> (Follower, watch::Receiver<()>) {
        let mut registry = lock(&self.0);
        let Registry { crowds, count, last } = &mut *registry;
        let crowd = crowds.entry(hash).or_insert_with(Crowd::new);
        crowd.held += 1;
        let before = crowd.known.len();
        crowd.known.retain(|known| known.id != id);
        *count -= before - crowd.known.len();
        let mut news = crowd.news.subscribe();
        if !crowd.known.is_empty() {
            news.mark_changed();
        }
        let addresses = usable(addresses);
        let has_room = crowd.known.len() < MAX_OF_HASH && *count < MAX_FOLLOWERS;
        let number = (!addresses.is_empty() && has_room).then(|| {
            *last += 1;
            *count += 1;
            crowd.known.push(Known { number: *last, id, addresses });
            crowd.news.send_replace(());
            *last
        });
        (
            Follower {
                followers: self.clone(),
                hash,
                id,
                number,
                told: 0,
                requester: Requester::default(),
            },
            news,
        )
    }
}

impl Crowd {
    fn new() -> Self {
        let seeding = Seeding::default();
        Self { known: Vec::new(), news: watch::Sender::new(()), held: 0, seeding }
    }
}

impl Follower {
    /// Others who follow and whom this was not asked about before: at most [`MAX_SOURCES`], at
    /// random where there are more.
    pub(super) fn others(&mut self) -> Vec<(NodeId, Vec<Address>)> {
        let followers = self.followers.clone();
        let mut registry = lock(&followers.0);
        let before = std::mem::replace(&mut self.told, registry.last);
        let Some(crowd) = registry.crowds.get_mut(&self.hash) else { return Vec::new() };
        let is_new = |known: &&Known| known.number > before && known.id != self.id;
        let mut new: Vec<&Known> = crowd.known.iter().filter(is_new).collect();
        shuffle(&mut new);
        new.into_iter().take(MAX_SOURCES).map(|new| (new.id, new.addresses.clone())).collect()
    }
}

impl Follower {
    /// Takes note that these pieces were sent to it, and that others can fetch them from it.
    pub(super) fn gave(&self, pieces: Range<u64>) {
        let mut registry = lock(&self.followers.0);
        if let Some(crowd) = registry.crowds.get_mut(&self.hash).filter(|_| self.number.is_some()) {
            crowd.seeding.sent(pieces);
        }
    }

    /// Returns whether all of these pieces were sent to followers that can be asked for them.
    pub(super) fn are_elsewhere(&self, pieces: Range<u64>) -> bool {
        let registry = lock(&self.followers.0);
        registry.crowds.get(&self.hash).is_some_and(|crowd| crowd.seeding.has_sent(pieces))
    }

    /// Returns whether to serve it now, after it has waited for so long for pieces that others have.
    pub(super) fn is_served(&mut self, waited: Duration) -> bool {
        let mut registry = lock(&self.followers.0);
        let Some(crowd) = registry.crowds.get_mut(&self.hash) else { return true };
        let others = crowd.known.iter().filter(|known| known.id != self.id).count();
        crowd.seeding.serves(&mut self.requester, waited, others)
    }

    /// Takes note that it has found with others what it waited for.
    pub(super) fn found(&mut self, waited: Duration) {
        let mut registry = lock(&self.followers.0);
        if let Some(crowd) = registry.crowds.get_mut(&self.hash) {
            crowd.seeding.found(&mut self.requester, waited);
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut registry = lock(&self.followers.0);
        let Registry { crowds, count, .. } = &mut *registry;
        let Some(crowd) = crowds.get_mut(&self.hash) else { return };
        let before = crowd.known.len();
        crowd.known.retain(|known| Some(known.number) != self.number);
        *count -= before - crowd.known.len();
        crowd.held -= 1;
        if crowd.held == 0 {
            *count -= crowd.known.len();
            crowds.remove(&self.hash);
        }
    }
}

/// Without those that lead nowhere, or to somebody else.
fn usable(addresses: Vec<Address>) -> Vec<Address> {
    let leads = |address: &Address| {
        address.port != 0
            && !address.host.is_empty()
            && address.socket().is_none_or(|socket| !socket.ip().is_unspecified())
    };
    addresses.into_iter().filter(leads).map(Address::without_id).collect()
}

/// Puts as many to the front, at random, as are told of at once. Where there is no chance they stay
/// in order.
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
        let registry = lock(&followers.0);
        registry.crowds.is_empty() && registry.count == 0
    }

    #[test]
    fn each_hears_of_the_others_once_and_never_of_itself() {
        let followers = Followers::default();
        let hash = Hash::of(b"x");
        let (mut ann, heard) = followers.enter(hash, node(1), at("192.0.2.1:1"));
        assert!(!ann.others().iter().any(|(id, _)| *id == node(1)));
        let (mut bob, news) = followers.enter(hash, node(2), at("192.0.2.2:2"));
        assert!(news.has_changed().unwrap() && heard.has_changed().unwrap());
        assert_eq!(bob.others(), [(node(1), at("192.0.2.1:1"))]);
        assert_eq!(ann.others(), [(node(2), at("192.0.2.2:2"))]);
        assert_eq!((ann.others().len(), bob.others().len()), (0, 0));
        // Another stream of a node, from elsewhere, takes the place of the first.
        let (again, _) = followers.enter(hash, node(1), at("192.0.2.9:9"));
        drop(ann);
        assert_eq!(bob.others(), [(node(1), at("192.0.2.9:9"))]);
        // Who follows something else is not told of.
        let (mut eve, _) = followers.enter(Hash::of(b"y"), node(3), at("192.0.2.3:3"));
        assert!(eve.others().is_empty() && bob.others().is_empty());
        drop((again, bob, eve));
        assert!(is_empty(&followers));
    }

    #[test]
    fn addresses_that_lead_nowhere_are_left_out() {
        let followers = Followers::default();
        let hash = Hash::of(b"x");
        let given = vec!["0.0.0.0:1".parse().unwrap(), "[::]:1".parse().unwrap()];
        let (ann, _) = followers.enter(hash, node(1), given);
        let named: Address = "192.0.2.2:2".parse().unwrap();
        let (bob, _) = followers.enter(hash, node(2), vec![named.clone().with_id(node(9))]);
        let (mut eve, _) = followers.enter(hash, node(3), Vec::new());
        assert_eq!(eve.others(), [(node(2), vec![named])]);
        drop((ann, bob, eve));
        assert!(is_empty(&followers));
    }

    #[test]
    fn there_are_bounds() {
        let followers = Followers::default();
        let hash = |n: u16| Hash::of(&(n / 300).to_le_bytes());
        let mut held: Vec<_> =
            (0..6000).map(|n| followers.enter(hash(n), node(n), at("192.0.2.1:1")).0).collect();
        {
            let registry = lock(&followers.0);
            assert_eq!(registry.count, MAX_FOLLOWERS);
            assert!(registry.crowds.values().all(|crowd| crowd.known.len() <= MAX_OF_HASH));
        }
        let told = held[0].others();
        assert_eq!(told.len(), MAX_SOURCES);
        let mut ids: Vec<_> = told.iter().map(|(id, _)| *id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), MAX_SOURCES);
        drop(held);
        assert!(is_empty(&followers));
    }
}
