//! The address book: the peers that this node has met or has read from a file, and the addresses at which
//! they can be dialled.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

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
    /// Nodes to join through if the application gives no address.
    pub(crate) bootstrap: Vec<Address>,
}

#[derive(Debug, Default)]
struct UnwrittenPeers {
    /// The newest entry of each node.
    peers: BTreeMap<NodeId, KnownPeer>,
    /// A thread is writing, and will also write the entries that are added meanwhile.
    writing: bool,
}

impl AddressBook {
    pub(crate) fn new(store: Store, bootstrap: Vec<Address>) -> Self {
        Self { store, unwritten: watch::Sender::default(), bootstrap }
    }

    /// Stores a peer that was met, and that can be dialled at `address`. Writes to the disk on another
    /// thread, which `tracker` tracks.
    pub(crate) fn remember(&self, tracker: &TaskTracker, id: NodeId, name: &str, address: Address) {
        let known = KnownPeer {
            name: name.to_owned(),
            addresses: vec![address],
            last_seen: unix_millis(),
            reconnect: false,
        };
        // A store in memory does not block.
        if self.store.is_in_memory() {
            return save(&self.store, &[(id, known)]);
        }
        let mut is_being_written = true;
        self.unwritten.send_modify(|unwritten| {
            is_being_written = unwritten.writing;
            unwritten.writing = true;
            unwritten.peers.insert(id, known);
        });
        if is_being_written {
            return;
        }
        let (unwritten, store) = (self.unwritten.clone(), self.store.clone());
        tracker.spawn_blocking(move || {
            loop {
                let mut peers = BTreeMap::new();
                unwritten.send_modify(|unwritten| {
                    peers = std::mem::take(&mut unwritten.peers);
                    // Set in the same step, so that no peer is added after the last look at the list.
                    unwritten.writing = !peers.is_empty();
                });
                if peers.is_empty() {
                    return;
                }
                save(&store, &peers.into_iter().collect::<Vec<_>>());
            }
        });
    }

    /// Waits until all peers that were met so far are in the store.
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

fn save(store: &Store, peers: &[(NodeId, KnownPeer)]) {
    if let Err(error) = store.save_peers(peers) {
        tracing::warn!(%error, "can't remember a peer");
    }
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
