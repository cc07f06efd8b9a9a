//! The peers that this node has met.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use peerkit_proto::address::Address;
use peerkit_proto::event::Peer;
use peerkit_proto::hello::MAX_ADDRESSES;
use peerkit_proto::id::{NodeId, NotAKey};
use serde::{Deserialize, Serialize};

use crate::blocking;
use crate::clock::unix_millis;
use crate::disk::whole;
use crate::error::Error;
use crate::inner::Inner;
use crate::store::{KnownPeer, Store};

/// A file of peers that is larger than this is not one of ours. 100,000 peers fit.
const MAX_PEERS_FILE: u64 = 64 << 20;

/// A peer in a file of peers.
#[derive(Debug, Serialize, Deserialize)]
struct SavedPeer {
    id: NodeId,
    #[serde(flatten)]
    known: KnownPeer,
}

/// Remembers a peer that can be dialled.
pub(crate) fn remember(inner: &Arc<Inner>, peer: &Peer, address: Option<Address>) {
    let Some(address) = address else { return };
    let known = KnownPeer {
        name: peer.name().to_owned(),
        addresses: vec![address],
        last_seen: unix_millis(),
        reconnect: false,
    };
    if inner.store.is_in_memory() {
        save(&inner.store, &[(peer.id(), known)]);
        return;
    }
    if !inner.met.add(peer.id(), known) {
        return;
    }
    let (met, store) = (inner.met.clone(), inner.store.clone());
    inner.tracker.spawn_blocking(move || {
        while let Some(peers) = met.take() {
            save(&store, &peers);
        }
    });
}

fn save(store: &Store, peers: &[(NodeId, KnownPeer)]) {
    if let Err(error) = store.save_peers(peers) {
        tracing::warn!(%error, "can't remember a peer");
    }
}

/// Where a peer that was met may be.
pub(crate) async fn addresses(inner: &Arc<Inner>, id: NodeId) -> Vec<Address> {
    inner.met.written().await;
    let store = inner.store.clone();
    let known = blocking::try_run(move || store.peer(&id)).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "can't look up a known peer");
        None
    });
    known.map(|known| known.addresses).unwrap_or_default()
}

impl Inner {
    /// The peers that this node has met, and when; those seen last come first.
    pub(crate) async fn known_peers(&self) -> Result<Vec<(NodeId, KnownPeer)>, Error> {
        // Those met by now are among them.
        self.met.written().await;
        let store = self.store.clone();
        let mut peers = blocking::try_run(move || store.peers()).await?;
        peers.sort_by_key(|(_, known)| std::cmp::Reverse(known.last_seen));
        Ok(peers)
    }

    /// Writes the known peers to a file, as JSON.
    pub(crate) async fn write_peers(&self, path: &Path) -> Result<usize, Error> {
        let saved: Vec<_> = self.known_peers().await?;
        let saved: Vec<_> = saved.into_iter().map(|(id, known)| SavedPeer { id, known }).collect();
        let path = path.to_owned();
        blocking::try_run(move || {
            let json = serde_json::to_vec_pretty(&saved)?;
            whole::write(&path, &json).map_err(|error| Error::PeersFile { path, error })?;
            Ok::<_, Error>(saved.len())
        })
        .await
    }

    /// Adds the peers of a file to those that are known. Returns them.
    pub(crate) async fn read_peers(&self, path: &Path) -> Result<Vec<(NodeId, KnownPeer)>, Error> {
        let (path, store) = (path.to_owned(), self.store.clone());
        blocking::try_run(move || {
            let peers = read_whole(&path).map_err(|error| Error::PeersFile { path, error })?;
            store.save_peers(&peers)?;
            Ok::<_, Error>(peers)
        })
        .await
    }
}

/// Reads the peers of a file.
fn read_whole(path: &Path) -> io::Result<Vec<(NodeId, KnownPeer)>> {
    let invalid = |fault: String| io::Error::new(io::ErrorKind::InvalidData, fault);
    let too_many =
        || invalid(format!("more than {MAX_PEERS_FILE} bytes are too many for a file of peers"));
    let json = whole::read(path, MAX_PEERS_FILE)?.ok_or_else(too_many)?;
    let saved: Vec<SavedPeer> = serde_json::from_slice(&json)
        .map_err(|error| invalid(format!("not a file of peers: {error}")))?;
    merged(saved).map_err(|error| invalid(error.to_string()))
}

/// Merges the entries of one node, in the order of the first ones. Each address stays once, and as many
/// as a peer can announce.
///
/// # Errors
/// [`NotAKey`].
fn merged(saved: Vec<SavedPeer>) -> Result<Vec<(NodeId, KnownPeer)>, NotAKey> {
    let mut peers: Vec<(NodeId, KnownPeer)> = Vec::new();
    let mut place: HashMap<NodeId, usize> = HashMap::new();
    for SavedPeer { id, mut known } in saved {
        id.checked()?;
        // A time that is to come would keep a peer before all others.
        known.last_seen = known.last_seen.min(unix_millis());
        let addresses = std::mem::take(&mut known.addresses);
        let at = *place.entry(id).or_insert(peers.len());
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
