//! A download as the state folder keeps it.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use peerkit_proto::address::Address;
use peerkit_proto::files::fetch::Candidate;
use peerkit_proto::files::{FileKind, FileName, Secret};
use peerkit_proto::id::{Hash, NodeId};
use serde::{Deserialize, Serialize};

use crate::transfer::fetch::entry::Entry;
use crate::transfer::fetch::fetch_request::{Destination, FetchRequest};
use crate::transfer::fetch::part;

/// A download, as it is in the store, with the others of the same hash.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    /// The same content on its way to other places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) more: Vec<Self>,
    #[serde(default)]
    secret: Option<[u8; 16]>,
    #[serde(with = "crate::disk::path_bytes")]
    path: PathBuf,
    /// Whether the path is a folder to put it into, which is made.
    #[serde(default)]
    into: bool,
    #[serde(default)]
    from: Vec<(Option<NodeId>, Vec<Address>)>,
    #[serde(default)]
    overwrite: bool,
    #[serde(default = "yes")]
    ask_network: bool,
    #[serde(default)]
    pub(super) paused: bool,
    /// The name that it was asked for by.
    #[serde(default)]
    called: Option<FileName>,
    /// Its name and kind, where they were known.
    #[serde(default)]
    pub(super) name: Option<FileName>,
    #[serde(default)]
    pub(super) kind: Option<FileKind>,
    /// Bytes that were verified and on disk when this was written, and bytes of it all.
    #[serde(default)]
    pub(super) done: u64,
    #[serde(default)]
    pub(super) total: Option<u64>,
}

fn yes() -> bool {
    true
}

impl Row {
    /// Reads the downloads of a row; nothing if it can't be read. What it says of bytes on disk holds
    /// only if the part is still there. Blocks on the disk.
    pub(super) fn read(hash: &Hash, row: &[u8]) -> Vec<Self> {
        let Ok(mut first) = serde_json::from_slice::<Self>(row) else { return Vec::new() };
        let mut rows = std::mem::take(&mut first.more);
        rows.insert(0, first);
        for row in &mut rows {
            if row.done > 0 && !part::is_left(&row.path, hash) {
                row.done = 0;
            }
        }
        rows
    }

    /// Describes a download, as it is now.
    ///
    /// # Errors
    /// If its destination is relative, and there is no current folder.
    pub(super) fn new(entry: &Entry) -> std::io::Result<Self> {
        let (request, status) = (&entry.request, entry.shown.get());
        let (path, into) = match &request.to {
            Destination::Path(path) => (path, false),
            Destination::Folder(path) => (path, true),
        };
        let from = request.from.iter().map(|from| (from.id, from.addresses.clone())).collect();
        Ok(Self {
            more: Vec::new(),
            secret: request.secret.map(|secret| *secret.as_bytes()),
            // The next run may be started somewhere else.
            path: std::path::absolute(path)?,
            into,
            from,
            overwrite: request.overwrite,
            ask_network: request.ask_network,
            paused: entry.is_paused.load(Ordering::Acquire),
            called: request.name.clone(),
            name: status.name,
            kind: status.kind,
            done: entry.shown.kept(),
            total: status.total,
        })
    }

    /// Returns the request that it was begun with.
    pub(super) fn into_request(self, hash: Hash) -> FetchRequest {
        let candidate = |(id, addresses)| Candidate { id, addresses };
        FetchRequest {
            hash,
            secret: self.secret.map(Secret::from_bytes),
            name: self.called,
            to: match self.into {
                true => Destination::Folder(self.path),
                false => Destination::Path(self.path),
            },
            to_chosen: true,
            from: self.from.into_iter().map(candidate).collect(),
            overwrite: self.overwrite,
            ask_network: self.ask_network,
            is_foreground: false,
        }
    }
}
