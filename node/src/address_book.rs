//! The address book: the peers that this node has met or has read from a file, and the addresses at which
//! they can be dialled.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use peerkit_proto::address::Address;
use peerkit_proto::hello::MAX_ADDRESSES;
use peerkit_proto::id::{NodeId, NotAKey};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::blocking;
use crate::clock::unix_millis;
use crate::disk::small_file;
use crate::error::Error;
use crate::store::{KnownPeer, Store};

/// Maximum size of a file of peers, in bytes. 64 MiB: 100,000 peers fit.
const MAX_PEERS_FILE: u64 = 64 << 20;

/// Maximum number of known peers in the store: as many tested nodes as the address book of the overlay holds.
/// They take about 200 KiB.
pub(crate) const MAX_KNOWN_PEERS: usize = 1024;

/// Number of peers that are stored before the store is trimmed to [`MAX_KNOWN_PEERS`] again, because trimming
/// reads all peers.
const TRIM_EVERY: usize = 64;

/// Age from which the time at which a tested peer was seen is written again, in milliseconds: an hour. A
/// member probes other nodes every few seconds, and each write costs a flush of the disk.
const REFRESH_AGE: u64 = 60 * 60 * 1000;

/// Known peers with their identities.
pub(crate) type KnownPeers = Vec<(NodeId, KnownPeer)>;

/// A peer in a file of peers.
#[derive(Debug, Serialize, Deserialize)]
struct SavedPeer {
    id: NodeId,
    #[serde(flatten)]
    known: KnownPeer,
}

/// The known peers, which are in the store, and the bootstrap nodes.
pub(crate) struct AddressBook {
    store: Store,
    /// Peers that were met and are not in the store yet. Those that are met during a write are written
    /// together after it.
    unwritten: watch::Sender<UnwrittenPeers>,
    /// Number of peers that were stored since the store was last trimmed.
    untrimmed: Arc<AtomicUsize>,
    /// Nodes to join through if the application gives no address.
    pub(crate) bootstrap: Vec<Address>,
}

#[derive(Debug, Default)]
struct UnwrittenPeers {
    /// The newest entry of each node.
    peers: BTreeMap<NodeId, KnownPeer>,
    /// The anchors, if they have changed.
    anchors: Option<Vec<NodeId>>,
    /// A thread is writing, and will also write the entries that are added meanwhile.
    writing: bool,
}

impl UnwrittenPeers {
    fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.anchors.is_none()
    }
}

impl AddressBook {
    pub(crate) fn new(store: Store, bootstrap: Vec<Address>) -> Self {
        // Earlier versions stored any number of peers, so the first write trims the store.
        let untrimmed = Arc::new(AtomicUsize::new(TRIM_EVERY));
        Self { store, unwritten: watch::Sender::default(), untrimmed, bootstrap }
    }

    /// Stores a peer that was met, and that can be dialled at `address`. `tested` is true if this node has
    /// dialled that address. Writes to the disk on another thread, which `tracker` tracks.
    pub(crate) fn remember(
        &self,
        tracker: &TaskTracker,
        id: NodeId,
        name: &str,
        address: Address,
        tested: bool,
    ) {
        let (name, addresses) = (name.to_owned(), vec![address]);
        let last_seen = unix_millis();
        self.store_later(
            tracker,
            id,
            KnownPeer { name, addresses, last_seen, reconnect: false, tested },
        );
    }

    /// Stores a node that has answered a probe of this node.
    pub(crate) fn remember_tested(&self, tracker: &TaskTracker, id: NodeId, addresses: &[Address]) {
        let (name, addresses) = (String::new(), addresses.to_vec());
        let last_seen = unix_millis();
        let known = KnownPeer { name, addresses, last_seen, reconnect: false, tested: true };
        self.store_later(tracker, id, known);
    }

    /// Stores the anchors of this node: neighbours to dial first after a restart.
    pub(crate) fn remember_anchors(&self, tracker: &TaskTracker, anchors: Vec<NodeId>) {
        // A store in memory does not block.
        if self.store.is_in_memory() {
            return save_anchors(&self.store, &anchors);
        }
        self.write_later(tracker, |unwritten| unwritten.anchors = Some(anchors));
    }

    fn store_later(&self, tracker: &TaskTracker, id: NodeId, known: KnownPeer) {
        if self.store.is_in_memory() {
            return save_met(&self.store, &self.untrimmed, vec![(id, known)]);
        }
        self.write_later(tracker, |unwritten| drop(unwritten.peers.insert(id, known)));
    }

    fn write_later(&self, tracker: &TaskTracker, add: impl FnOnce(&mut UnwrittenPeers)) {
        let mut is_being_written = true;
        self.unwritten.send_modify(|unwritten| {
            is_being_written = unwritten.writing;
            unwritten.writing = true;
            add(unwritten);
        });
        if is_being_written {
            return;
        }
        let (unwritten, store) = (self.unwritten.clone(), self.store.clone());
        let untrimmed = self.untrimmed.clone();
        tracker.spawn_blocking(move || {
            loop {
                let mut taken = UnwrittenPeers::default();
                unwritten.send_modify(|unwritten| {
                    taken = std::mem::take(unwritten);
                    // Set in the same step, so that nothing is added after the last look at the list.
                    unwritten.writing = !taken.is_empty();
                });
                if taken.is_empty() {
                    return;
                }
                save_met(&store, &untrimmed, taken.peers.into_iter().collect());
                if let Some(anchors) = taken.anchors {
                    save_anchors(&store, &anchors);
                }
            }
        });
    }

    /// Waits until the store has all peers that were met so far, and the anchors.
    async fn written(&self) {
        // There is no error: `self` owns the sender.
        let _ = self.unwritten.subscribe().wait_for(|unwritten| !unwritten.writing).await;
    }

    /// Returns the known addresses of a peer.
    pub(crate) async fn addresses(&self, id: NodeId) -> Vec<Address> {
        self.written().await;
        let store = self.store.clone();
        let known = blocking::try_run(move || store.peer(&id)).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "can't look up a known peer");
            None
        });
        known.map(|known| known.addresses).unwrap_or_default()
    }

    /// Returns all known peers, the most recently seen first.
    pub(crate) async fn all(&self) -> Result<KnownPeers, Error> {
        self.written().await;
        let store = self.store.clone();
        let mut peers = blocking::try_run(move || store.peers()).await?;
        peers.sort_by_key(|(_, known)| std::cmp::Reverse(known.last_seen));
        Ok(peers)
    }

    /// Returns two lists of the known peers: the anchors of this node, and all others. The most recently seen peer
    /// comes first in each.
    pub(crate) async fn anchors_and_others(&self) -> Result<(KnownPeers, KnownPeers), Error> {
        let known = self.all().await?;
        let store = self.store.clone();
        let anchors = blocking::try_run(move || store.anchors()).await?;
        Ok(known.into_iter().partition(|(id, _)| anchors.contains(id)))
    }

    /// Writes the peers to a file, as JSON. Returns their number.
    pub(crate) async fn write_file(&self, path: &Path) -> Result<usize, Error> {
        let peers = self.all().await?.into_iter();
        let saved: Vec<_> = peers.map(|(id, known)| SavedPeer { id, known }).collect();
        let path = path.to_owned();
        blocking::try_run(move || {
            let json = serde_json::to_vec_pretty(&saved)?;
            small_file::write(&path, &json).map_err(|error| Error::PeersFile { path, error })?;
            Ok::<_, Error>(saved.len())
        })
        .await
    }

    /// Adds the peers of a file. Returns them.
    pub(crate) async fn read_file(&self, path: &Path) -> Result<KnownPeers, Error> {
        let (path, store) = (path.to_owned(), self.store.clone());
        blocking::try_run(move || {
            let peers = parse_file(&path).map_err(|error| Error::PeersFile { path, error })?;
            store.save_peers(&peers)?;
            Ok::<_, Error>(peers)
        })
        .await
    }
}

/// Writes peers that were met to the store, and forgets others if it has too many.
fn save_met(store: &Store, untrimmed: &AtomicUsize, mut peers: KnownPeers) {
    peers.retain_mut(|(id, met)| match store.peer(id) {
        Ok(Some(known)) => merge(met, known),
        Ok(None) | Err(_) => true,
    });
    if peers.is_empty() {
        return;
    }
    let saved = store.save_peers(&peers).and_then(|()| {
        if untrimmed.fetch_add(peers.len(), Relaxed) < TRIM_EVERY {
            return Ok(());
        }
        untrimmed.store(0, Relaxed);
        store.trim_peers(MAX_KNOWN_PEERS)
    });
    if let Err(error) = saved {
        tracing::warn!(%error, "can't remember a peer");
    }
}

fn save_anchors(store: &Store, anchors: &[NodeId]) {
    if let Err(error) = store.save_anchors(anchors) {
        tracing::warn!(%error, "can't remember the anchors");
    }
}

/// Adds to a peer that was met what is known of it. Returns whether the result has to be stored.
fn merge(met: &mut KnownPeer, known: KnownPeer) -> bool {
    // Only probes give no name. They only show that the peer is still there.
    let is_probe = met.name.is_empty() && met.tested;
    let is_recent = met.last_seen.saturating_sub(known.last_seen) < REFRESH_AGE;
    if is_probe && known.tested && is_recent && known.addresses == met.addresses {
        return false;
    }
    if met.name.is_empty() {
        met.name = known.name;
    }
    if known.tested && !met.tested {
        // The peer has dialled this node. The address that it announces is not better than those that this
        // node has dialled.
        met.tested = true;
        let announced = std::mem::replace(&mut met.addresses, known.addresses);
        for address in announced {
            if met.addresses.len() < MAX_ADDRESSES && !met.addresses.contains(&address) {
                met.addresses.push(address);
            }
        }
    }
    true
}

/// Reads the peers of a file.
fn parse_file(path: &Path) -> io::Result<KnownPeers> {
    let invalid = |fault: String| io::Error::new(io::ErrorKind::InvalidData, fault);
    let too_many =
        || invalid(format!("more than {MAX_PEERS_FILE} bytes are too many for a file of peers"));
    let json = small_file::read(path, MAX_PEERS_FILE)?.ok_or_else(too_many)?;
    let saved: Vec<SavedPeer> = serde_json::from_slice(&json)
        .map_err(|error| invalid(format!("not a file of peers: {error}")))?;
    merged(saved).map_err(|error| invalid(error.to_string()))
}

/// Merges the entries of the same node. Nodes stay in the order of their first entries. Each address is kept
/// once, up to the number of addresses that a peer can announce.
///
/// # Errors
/// [`NotAKey`].
fn merged(saved: Vec<SavedPeer>) -> Result<KnownPeers, NotAKey> {
    let mut peers = KnownPeers::new();
    let mut index: HashMap<NodeId, usize> = HashMap::new();
    for SavedPeer { id, mut known } in saved {
        id.checked()?;
        // A time in the future would keep the peer before all others.
        known.last_seen = known.last_seen.min(unix_millis());
        let addresses = std::mem::take(&mut known.addresses);
        let at = *index.entry(id).or_insert(peers.len());
        if at == peers.len() {
            peers.push((id, known));
        }
        let Some((_, known)) = peers.get_mut(at) else { continue };
        let kept = &mut known.addresses;
        for address in addresses {
            let address = address.without_id();
            if kept.len() < MAX_ADDRESSES && !kept.contains(&address) {
                kept.push(address);
            }
        }
    }
    Ok(peers)
}
