//! Uploads: the peers that fetch from this node, their progress, and the totals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use peerkit_proto::event::{Event, Peer, Upload};
use peerkit_proto::files::SharedFile;
use peerkit_proto::id::{Hash, NodeId};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::lock::lock;
use crate::shares::ChangedShare;
use crate::transfer::meter::TransferMeter;

/// Maximum number of remembered uploads: those under way, and those that a peer may continue. Only the latter
/// are forgotten to make room.
const MAX_UPLOADS: usize = 4096;

/// Maximum number of peers that the totals count. Further peers are not counted.
const MAX_PEERS: usize = 65_536;

/// Maximum number of hashes that are remembered as reported: those of changed files, and of their folders.
/// Further changes are not reported.
const MAX_CHANGED: usize = 1024;

/// Maximum number of news that wait to be delivered. A stream that has more news waits.
const NEWS: usize = 64;

/// An upload under way: a peer that fetches a file or folder and has not yet said that it has received all of
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UploadStatus {
    /// The peer that fetches it.
    pub peer: NodeId,
    /// The content that it fetches.
    #[serde(flatten)]
    pub file: SharedFile,
    /// Bytes of it that this node has sent to the peer. Other nodes may be sending it the rest.
    pub sent: u64,
    /// Current speed in bytes per second.
    pub rate: u64,
}

/// Totals of the files that a node has sent since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct UploadTotals {
    /// Bytes of files and folders.
    pub bytes: u64,
    /// Nodes that they were sent to.
    pub peers: u64,
    /// Number of times that a peer said that it has received all that it requested.
    pub completed: u64,
}

/// News for the application.
#[derive(Debug)]
pub(crate) enum UploadNews {
    Completed { peer: NodeId, name: String, upload: Upload },
    Changed { hash: Hash, name: String },
}

/// The uploads of a node. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Uploads {
    table: Arc<Mutex<UploadTable>>,
    news: mpsc::Sender<UploadNews>,
}

#[derive(Debug, Default)]
struct UploadTable {
    all: BTreeMap<(NodeId, Hash), KnownUpload>,
    /// Number of uses of uploads, counted in [`begin`](Uploads::begin).
    uses: u64,
    /// The peers that the totals count.
    peers: BTreeSet<NodeId>,
    totals: UploadTotals,
    /// The hashes that were reported as changed.
    changed: BTreeSet<Hash>,
}

#[derive(Debug)]
struct KnownUpload {
    file: SharedFile,
    /// Bytes sent since the peer last said that it has received all of it.
    sent: u64,
    meter: TransferMeter,
    /// Number of streams that it is sent on.
    streams: usize,
    /// If true, the peer has said that it has received all of it, and nothing was sent since.
    is_complete: bool,
    /// The number of its last use.
    used: u64,
}

/// One stream's part in an upload. The upload is under way until its last guard is dropped.
#[derive(Debug)]
pub(super) struct UploadGuard {
    uploads: Uploads,
    key: (NodeId, Hash),
}

impl UploadNews {
    /// Returns the event for the application. `linked` returns the peer if there is a link with it.
    pub(crate) fn into_event(self, linked: impl FnOnce(NodeId) -> Option<Peer>) -> Event {
        match self {
            Self::Completed { peer, name, upload } => {
                let peer = linked(peer).unwrap_or_else(|| Peer::without_link(peer, name));
                Event::NodeUploadCompleted { peer, upload }
            }
            Self::Changed { hash, name } => Event::NodeShareChanged { hash, name },
        }
    }
}

impl Uploads {
    /// Returns an empty table, and the receiver of its news.
    pub(crate) fn new() -> (Self, mpsc::Receiver<UploadNews>) {
        let (news, receiver) = mpsc::channel(NEWS);
        (Self { table: Arc::default(), news }, receiver)
    }

    /// Returns the uploads under way, in the order of peers.
    pub(crate) fn list(&self) -> Vec<UploadStatus> {
        let mut table = lock(&self.table);
        let all = table.all.iter_mut();
        all.filter(|(_, known)| known.streams > 0 && !known.is_complete)
            .map(|((peer, _), known)| {
                known.meter.fade();
                // Pieces may have been sent twice.
                let sent = known.sent.min(known.file.size);
                UploadStatus {
                    peer: *peer,
                    file: known.file.clone(),
                    sent,
                    rate: known.meter.rate(),
                }
            })
            .collect()
    }

    /// Returns the totals since the node has started.
    pub(crate) fn totals(&self) -> UploadTotals {
        lock(&self.table).totals
    }

    /// Notes that a stream begins to send `file` to `peer`.
    pub(super) fn begin(&self, peer: NodeId, file: SharedFile) -> UploadGuard {
        let key = (peer, file.hash);
        let mut table = lock(&self.table);
        table.uses += 1;
        let used = table.uses;
        if !table.all.contains_key(&key) && table.all.len() >= MAX_UPLOADS {
            table.forget_oldest();
        }
        let new = || KnownUpload {
            file,
            sent: 0,
            meter: TransferMeter::new(),
            streams: 0,
            is_complete: false,
            used,
        };
        let known = table.all.entry(key).or_insert_with(new);
        known.streams += 1;
        known.used = used;
        drop(table);
        UploadGuard { uploads: self.clone(), key }
    }

    /// Notes that `peer`, which calls itself `name`, has received all of `file`.
    pub(super) async fn complete(&self, peer: NodeId, name: String, file: SharedFile) {
        let bytes = {
            let mut table = lock(&self.table);
            let bytes = match table.all.get_mut(&(peer, file.hash)) {
                Some(known) => {
                    known.is_complete = true;
                    std::mem::take(&mut known.sent).min(file.size)
                }
                None => 0,
            };
            // Content that the peer has only from other nodes is no upload of this node. An empty file always
            // counts, as nothing is sent for it.
            if bytes == 0 && file.size > 0 {
                return;
            }
            table.totals.completed += 1;
            table.count_peer(peer);
            bytes
        };
        let SharedFile { hash, name: file_name, size, .. } = file;
        let upload = Upload { hash, name: file_name.to_string(), bytes, size };
        // A node that is stopping reports nothing more.
        let _ = self.news.send(UploadNews::Completed { peer, name, upload }).await;
    }

    /// Reports that content could not be served because it was changed, unless that was reported before.
    pub(super) async fn changed(&self, changed: ChangedShare) {
        let ChangedShare { hash, name, folder } = changed;
        {
            let mut table = lock(&self.table);
            if table.changed.len() >= MAX_CHANGED || !table.changed.insert(hash) {
                return;
            }
            // After a file in a folder was reported, the change of the folder is no news.
            if let Some(folder) = folder.filter(|_| table.changed.len() < MAX_CHANGED) {
                table.changed.insert(folder);
            }
        }
        let _ = self.news.send(UploadNews::Changed { hash, name }).await;
    }
}

impl UploadTable {
    fn count_peer(&mut self, peer: NodeId) {
        if self.peers.len() < MAX_PEERS && self.peers.insert(peer) {
            self.totals.peers += 1;
        }
    }

    fn forget_oldest(&mut self) {
        let idle = self.all.iter().filter(|(_, known)| known.streams == 0);
        let oldest = idle.min_by_key(|(_, known)| known.used).map(|(key, _)| *key);
        if let Some(key) = oldest {
            self.all.remove(&key);
        }
    }
}

impl UploadGuard {
    /// Returns the hash of the content that is being sent.
    pub(super) fn hash(&self) -> Hash {
        self.key.1
    }

    /// Counts bytes of it that were sent.
    pub(super) fn sent(&self, bytes: usize) {
        let bytes = bytes as u64;
        let mut table = lock(&self.uploads.table);
        table.totals.bytes = table.totals.bytes.saturating_add(bytes);
        table.count_peer(self.key.0);
        if let Some(known) = table.all.get_mut(&self.key) {
            known.sent = known.sent.saturating_add(bytes);
            known.is_complete = false;
            known.meter.add(bytes);
        }
    }
}

impl Drop for UploadGuard {
    fn drop(&mut self) {
        let mut table = lock(&self.uploads.table);
        let Some(known) = table.all.get_mut(&self.key) else { return };
        known.streams = known.streams.saturating_sub(1);
        // An upload that is not complete is remembered, as the peer may come back for the rest.
        if known.streams == 0 && (known.is_complete || known.sent == 0) {
            table.all.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use peerkit_proto::files::FileKind;

    use super::*;

    fn node(n: usize) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        NodeId::from_bytes(bytes)
    }

    fn file(size: u64) -> SharedFile {
        let name = "film.bin".parse().unwrap();
        SharedFile { hash: Hash::of(&size.to_le_bytes()), name, size, kind: FileKind::File }
    }

    async fn completed(news: &mut mpsc::Receiver<UploadNews>) -> (NodeId, String, u64) {
        match news.recv().await.unwrap() {
            UploadNews::Completed { peer, name, upload } => (peer, name, upload.bytes),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_upload_is_complete_when_the_peer_says_so() {
        let (uploads, mut news) = Uploads::new();
        let first = uploads.begin(node(1), file(100));
        first.sent(60);
        let status = uploads.list().remove(0);
        assert_eq!((status.peer, status.sent, status.file), (node(1), 60, file(100)));
        drop(first);
        assert!(uploads.list().is_empty(), "nothing is sent now");
        // The peer comes back for the rest, over two streams.
        let (one, two) = (uploads.begin(node(1), file(100)), uploads.begin(node(1), file(100)));
        one.sent(30);
        two.sent(30);
        uploads.complete(node(1), "bob".into(), file(100)).await;
        assert_eq!(completed(&mut news).await, (node(1), "bob".into(), 100));
        assert!(uploads.list().is_empty());
        // Nothing was sent to it since, and nothing to others.
        uploads.complete(node(1), "bob".into(), file(100)).await;
        uploads.complete(node(2), "cid".into(), file(100)).await;
        // An empty file is complete although nothing was sent.
        uploads.complete(node(3), "dan".into(), file(0)).await;
        assert_eq!(completed(&mut news).await, (node(3), "dan".into(), 0));
        let expected = UploadTotals { bytes: 120, peers: 2, completed: 2 };
        assert_eq!(uploads.totals(), expected);
        drop((one, two));
        assert!(lock(&uploads.table).all.is_empty());
    }

    #[tokio::test]
    async fn remembered_uploads_are_bounded() {
        let (uploads, mut news) = Uploads::new();
        for n in 0..MAX_UPLOADS + 10 {
            uploads.begin(node(n), file(100)).sent(1);
        }
        assert_eq!(lock(&uploads.table).all.len(), MAX_UPLOADS);
        uploads.complete(node(0), "forgotten".into(), file(100)).await;
        uploads.complete(node(10), "known".into(), file(100)).await;
        assert_eq!(completed(&mut news).await.1, "known");
        for n in 0..MAX_CHANGED as u64 + 10 {
            let (hash, folder) = (file(n).hash, Some(file(n + 1_000_000).hash));
            let changed = uploads.changed(ChangedShare { hash, name: "a".into(), folder });
            let (_, _) = tokio::join!(changed, async { news.try_recv() });
        }
        assert_eq!(lock(&uploads.table).changed.len(), MAX_CHANGED);
    }
}
