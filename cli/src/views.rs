//! Peers, nodes and shares in the form that results and events have.

use std::collections::HashMap;
use std::path::PathBuf;

use peerkit::{
    Access, Address, Discovery, FolderFile, FolderPart, KnownPeer, Neighbour, Node, NodeId,
    NodeInfo, Peer, SharedFile,
};
use serde::Serialize;

use crate::json::Fields;
use crate::text;

/// A peer, as it is now.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PeerView {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    /// `None` if there is no link. Then the direction is `None` as well.
    pub(crate) address: Option<String>,
    pub(crate) direction: Option<&'static str>,
    /// `None` until it was measured.
    pub(crate) rtt_ms: Option<f64>,
    /// Time of the last bytes from it, in milliseconds since 1970. Only `peers` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_seen: Option<u64>,
}

impl PeerView {
    pub(crate) fn new(node: &Node, peer: &Peer) -> Self {
        let address = || peer.address().clone().without_id().to_string();
        Self {
            id: peer.id(),
            name: peer.name().to_owned(),
            address: peer.is_linked().then(address),
            direction: peer.is_linked().then(|| peer.direction().name()),
            rtt_ms: node.rtt(peer.id()).map(text::millis),
            last_seen: None,
        }
    }

    /// Adds the time at which the last bytes came from the peer.
    pub(crate) fn with_last_seen(self, node: &Node) -> Self {
        let last_seen = node.idle_time(self.id).map(text::unix_millis_ago);
        Self { last_seen, ..self }
    }

    /// Returns the name and the first digits of the peer, made safe for a terminal.
    pub(crate) fn label(&self) -> String {
        text::label(&self.id, &self.name)
    }

    /// Returns the address of the peer, or a text that it has none.
    pub(crate) fn address_or_none(&self) -> &str {
        self.address.as_deref().unwrap_or(text::NO_ADDRESS)
    }
}

/// A known node.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct KnownView {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    /// The first of `addresses`.
    pub(crate) address: Option<String>,
    pub(crate) addresses: Vec<String>,
    /// Milliseconds since 1970.
    pub(crate) last_seen: u64,
}

impl From<(NodeId, KnownPeer)> for KnownView {
    fn from((id, known): (NodeId, KnownPeer)) -> Self {
        let KnownPeer { name, addresses, last_seen, .. } = known;
        let addresses = without_ids(addresses);
        Self { id, name, address: addresses.first().cloned(), addresses, last_seen }
    }
}

/// Returns addresses as text, without the identities of their nodes.
pub(crate) fn without_ids(addresses: impl IntoIterator<Item = Address>) -> Vec<String> {
    addresses.into_iter().map(|address| address.without_id().to_string()).collect()
}

/// The result of a ping.
#[derive(Debug, Serialize)]
pub(crate) struct PingView {
    pub(crate) peer: PeerView,
    /// `None` if no answer came.
    pub(crate) rtt_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// A node of a discovery.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeView {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) address: Option<String>,
    pub(crate) outbound: Vec<NodeId>,
    pub(crate) inbound: Vec<NodeId>,
    pub(crate) outbound_nodes: Vec<NeighbourView>,
    pub(crate) inbound_nodes: Vec<NeighbourView>,
}

/// The other end of a link of a discovered node.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NeighbourView {
    pub(crate) id: NodeId,
    /// Empty if this node does not know the name.
    pub(crate) name: String,
    pub(crate) address: String,
}

impl NodeView {
    /// Returns all nodes of a discovery. The names of neighbours are those that the discovery found,
    /// else those that this node knows.
    pub(crate) fn all(node: &Node, discovery: &Discovery) -> Vec<Self> {
        let names: HashMap<NodeId, &str> =
            discovery.nodes.iter().map(|info| (info.id, info.name.as_str())).collect();
        let name = |id| names.get(&id).map(|name| (*name).to_owned()).or_else(|| name_of(node, id));
        discovery.nodes.iter().map(|info| Self::new(info, &name)).collect()
    }

    /// Returns one node of a discovery. The names of its neighbours are those that this node knows.
    pub(crate) fn one(node: &Node, info: &NodeInfo) -> Self {
        Self::new(info, &|id| name_of(node, id))
    }

    fn new(info: &NodeInfo, name: &dyn Fn(NodeId) -> Option<String>) -> Self {
        let ids = |neighbours: &[Neighbour]| neighbours.iter().map(|other| other.id).collect();
        let views = |neighbours: &[Neighbour]| {
            let view = |other: &Neighbour| NeighbourView {
                id: other.id,
                name: name(other.id).unwrap_or_default(),
                address: other.address.clone().without_id().to_string(),
            };
            neighbours.iter().map(view).collect()
        };
        Self {
            id: info.id,
            name: info.name.clone(),
            address: without_ids(info.addresses.first().cloned()).pop(),
            outbound: ids(&info.outbound),
            inbound: ids(&info.inbound),
            outbound_nodes: views(&info.outbound),
            inbound_nodes: views(&info.inbound),
        }
    }
}

/// Returns the name of this node, or of a node that it has a link with.
fn name_of(node: &Node, id: NodeId) -> Option<String> {
    if id == node.id() {
        return Some(node.name().to_owned());
    }
    node.peer(id).map(|peer| peer.name().to_owned())
}

/// Maximum number of files of one folder in a list of all shares.
const MAX_FILES_OF_SHARE: usize = 1_000;

/// Maximum number of files in a list of all shares, or of the one share that the user named.
const MAX_FILES_LISTED: usize = 10_000;

/// A file or folder that is shared here, with its path and its access.
#[derive(Debug)]
pub(crate) struct ShareView {
    pub(crate) file: SharedFile,
    pub(crate) path: PathBuf,
    /// The files in a folder, or some of them.
    pub(crate) contents: Option<FolderPart>,
    /// Number of files in the folder before the first that is listed.
    pub(crate) skipped: usize,
    /// `open`, `nodes` or `ticket`.
    pub(crate) access: &'static str,
    /// The nodes that can fetch it, if `access` is `nodes`.
    pub(crate) to: Vec<NodeId>,
}

impl ShareView {
    /// Returns all shares. Of large folders only the first files are listed.
    pub(crate) fn all(node: &Node) -> Vec<Self> {
        let mut left = MAX_FILES_LISTED;
        let view = |(path, file): (PathBuf, SharedFile)| {
            let share = Self::part(node, path, file, 0, MAX_FILES_OF_SHARE.min(left));
            // The bound is for all shares together, so that a thousand folders do not print millions of
            // lines.
            left = left.saturating_sub(share.files().len());
            share
        };
        node.files().shared_paths().into_iter().map(view).collect()
    }

    /// Returns one share, with its files after the first `skipped`.
    pub(crate) fn one(node: &Node, path: PathBuf, file: SharedFile, skipped: usize) -> Self {
        Self::part(node, path, file, skipped, MAX_FILES_LISTED)
    }

    fn part(node: &Node, path: PathBuf, file: SharedFile, skipped: usize, limit: usize) -> Self {
        let (access, to) = match node.files().access(file.hash) {
            None | Some(Access::Open) => ("open", Vec::new()),
            Some(Access::Nodes(nodes)) => ("nodes", nodes),
            Some(Access::Ticket(_)) => ("ticket", Vec::new()),
            // Later versions of the library may add kinds of access.
            Some(_) => ("other", Vec::new()),
        };
        let contents = node.files().shared_files(&path, skipped, limit);
        Self { file, path, contents, skipped, access, to }
    }

    /// Returns the listed files of a folder. Returns none for a file.
    pub(crate) fn files(&self) -> &[FolderFile] {
        self.contents.as_ref().map_or(&[], |part| &part.files)
    }

    /// Returns the JSON fields of the share.
    pub(crate) fn fields(&self) -> Fields {
        let fields = Fields::default().with_file(&self.file).with_path(&self.path);
        self.with_contents(fields).with("access", self.access).with_some("to", &self.to)
    }

    /// Returns the fields of the file or folder alone, without its path and its access.
    pub(crate) fn file_fields(&self) -> Fields {
        self.with_contents(Fields::default().with_file(&self.file))
    }

    fn with_contents(&self, fields: Fields) -> Fields {
        let Some(part) = &self.contents else { return fields };
        let files: Vec<Fields> = part.files.iter().map(folder_file).collect();
        let fields = fields.with("files", files).with("count", part.total);
        fields.with_some("skipped", self.skipped)
    }
}

fn folder_file(FolderFile { path, file }: &FolderFile) -> Fields {
    let SharedFile { hash, name, size, .. } = file;
    let fields = Fields::default().with("hash", hash).with("name", name).with("size", size);
    fields.with("path", path)
}
