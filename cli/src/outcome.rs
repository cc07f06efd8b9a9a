//! The outcome of a command: the fields of its JSON result.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use peerkit::{
    Access, Changes, Discovery, DownloadStatus, Dropped, Figures, FileName, FolderFile, FoundFile,
    Hash, KnownPeer, LeftOut, Neighbour, Network, Node, NodeId, NodeInfo, Peer, RelPath, Renamed,
    SharedFile, Skipped, Status,
};
use serde::Serialize;

use crate::settings::SettingView;
use crate::text;

/// The result of a command that worked.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Outcome {
    /// `disconnect`, `send`
    Peer { peer: PeerView },
    /// `connect`
    Connected {
        peer: PeerView,
        /// This node is no member of a network, and can become one.
        #[serde(skip)]
        may_join: bool,
    },
    /// `join`, `leave`
    Linked {
        peers: Vec<PeerView>,
        /// All links are made by hand: this node is no member of a network.
        #[serde(skip)]
        by_hand: bool,
    },
    /// `peers`
    Peers { peers: Vec<PeerView>, known: Vec<KnownView> },
    /// `msg`
    Sent {
        sent_to: usize,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        failed: Vec<NotSent>,
    },
    /// `broadcast`
    Broadcast { id: String, time: u64, links: usize },
    /// `ping`
    Pings { pings: Vec<Ping> },
    /// `discover`
    Discovered { nodes: Vec<NodeView>, links: usize, size: usize, complete: bool, elapsed_ms: f64 },
    /// `remove`
    Files { files: Vec<SharedFile> },
    /// `files`
    Shared {
        files: Vec<SharedView>,
        /// What was shared before the start is still being looked at: there may be more.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        restoring: bool,
    },
    /// `add`
    Added {
        files: Vec<SharedFile>,
        /// Where it is not for everyone.
        #[serde(skip_serializing_if = "Option::is_none")]
        ticket: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        skipped: Vec<SkippedView>,
    },
    /// `refresh`
    Refreshed {
        /// All that is shared now.
        files: Vec<ListedView>,
        /// Those of them whose content had changed.
        changed: Vec<SharedFile>,
        /// Those that are no longer there.
        removed: Vec<Gone>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        skipped: Vec<SkippedView>,
    },
    /// `search`
    Found { files: Vec<FoundView> },
    /// `get` that goes on in the background: told at a prompt only
    Begun {
        #[serde(skip)]
        download: Box<DownloadStatus>,
    },
    /// `get`
    Fetched {
        #[serde(serialize_with = "crate::json::path")]
        path: PathBuf,
        bytes: u64,
        seconds: f64,
        sources: Vec<NodeId>,
        /// Sources that sent what is not the file.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        dropped: Vec<Dropped>,
        #[serde(flatten)]
        changes: ChangesView,
    },
    /// `pause`, `resume`, `cancel`
    Download { download: Box<DownloadStatus> },
    /// `downloads`
    Downloads { downloads: Vec<DownloadStatus> },
    /// `status`
    Status { status: Box<Status> },
    /// `network`
    Network { network: NetworkView },
    /// `size`
    Size {
        size: u64,
        /// All were counted.
        exact: bool,
        /// The standard error of an estimate, as a share of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<f64>,
    },
    /// `map` without a file
    Map { map: Network },
    /// `map FILE`
    Drawn {
        #[serde(serialize_with = "crate::json::path")]
        path: PathBuf,
    },
    /// `save`
    Saved {
        #[serde(serialize_with = "crate::json::path")]
        path: PathBuf,
        peers: Vec<KnownView>,
    },
    /// `load`
    Loaded {
        #[serde(serialize_with = "crate::json::path")]
        path: PathBuf,
        peers: Vec<KnownView>,
        connected: Vec<PeerView>,
    },
    /// `set`
    Settings { config: Vec<SettingView> },
    /// `debug`
    Debug { debug: bool },
    /// `help`
    Help { help: String },
    /// `shutdown`, `exit`
    Stopping {
        #[serde(skip)]
        what: Stops,
    },
}

/// What stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stops {
    /// This node, as was wanted.
    Node,
    /// All nodes.
    Network,
}

/// A link, as it is now.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PeerView {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    /// `None` where there is no link; so is the direction.
    pub(crate) address: Option<String>,
    pub(crate) direction: Option<&'static str>,
    /// `None` until it was measured.
    pub(crate) rtt_ms: Option<f64>,
    /// When the last bytes came from it, in milliseconds since 1970: in `peers` only.
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

    /// The same, and when the peer was last heard.
    pub(crate) fn with_last_seen(self, node: &Node) -> Self {
        let last_seen = node.idle_time(self.id).map(text::unix_millis_ago);
        Self { last_seen, ..self }
    }

    /// Name and first digits, fit for a terminal.
    pub(crate) fn label(&self) -> String {
        text::label(&self.id, &self.name)
    }
}

/// A node that was connected once.
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
        let addresses = known.addresses.into_iter();
        let addresses: Vec<String> = addresses.map(|a| a.without_id().to_string()).collect();
        Self {
            id,
            name: known.name,
            address: addresses.first().cloned(),
            addresses,
            last_seen: known.last_seen,
        }
    }
}

/// A peer that `msg` could not be queued for.
#[derive(Debug, Serialize)]
pub(crate) struct NotSent {
    pub(crate) id: NodeId,
    pub(crate) error: String,
}

/// A round trip.
#[derive(Debug, Serialize)]
pub(crate) struct Ping {
    pub(crate) peer: PeerView,
    /// `None` where no answer came.
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
    /// Empty where nobody has told it.
    pub(crate) name: String,
    pub(crate) address: String,
}

impl NodeView {
    /// All nodes of a discovery, their neighbours by the names that they gave themselves.
    pub(crate) fn all(node: &Node, discovery: &Discovery) -> Vec<Self> {
        let names: HashMap<NodeId, &str> =
            discovery.nodes.iter().map(|info| (info.id, info.name.as_str())).collect();
        let name = |id| names.get(&id).map(|name| (*name).to_owned()).or_else(|| name_of(node, id));
        discovery.nodes.iter().map(|info| Self::new(info, &name)).collect()
    }

    /// One node of a discovery, its neighbours by their names as far as they are known here.
    pub(crate) fn one(node: &Node, info: &NodeInfo) -> Self {
        Self::new(info, &|id| name_of(node, id))
    }

    fn new(info: &NodeInfo, name: &dyn Fn(NodeId) -> Option<String>) -> Self {
        let views = |neighbours: &[Neighbour]| {
            let view = |other: &Neighbour| NeighbourView {
                id: other.id,
                name: name(other.id).unwrap_or_default(),
                address: other.address.clone().without_id().to_string(),
            };
            neighbours.iter().map(view).collect()
        };
        let address = info.addresses.first().cloned();
        Self {
            id: info.id,
            name: info.name.clone(),
            address: address.map(|address| address.without_id().to_string()),
            outbound: info.outbound.iter().map(|other| other.id).collect(),
            inbound: info.inbound.iter().map(|other| other.id).collect(),
            outbound_nodes: views(&info.outbound),
            inbound_nodes: views(&info.inbound),
        }
    }
}

/// The name of this node or of one that it is linked with.
fn name_of(node: &Node, id: NodeId) -> Option<String> {
    match id == node.id() {
        true => Some(node.name().to_owned()),
        false => node.peer(id).map(|peer| peer.name().to_owned()),
    }
}

/// A share that is no longer there.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Gone {
    #[serde(serialize_with = "crate::json::path")]
    pub(crate) path: PathBuf,
    #[serde(flatten)]
    pub(crate) file: Option<SharedFile>,
}

/// Something in a folder that is not shared.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SkippedView {
    #[serde(serialize_with = "crate::json::path")]
    pub(crate) path: PathBuf,
    pub(crate) why: String,
}

impl From<Skipped> for SkippedView {
    fn from(skipped: Skipped) -> Self {
        Self { why: skipped.why.to_string(), path: skipped.path }
    }
}

/// A file or folder that was written under another name.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RenamedView {
    /// Its name, or its path in the fetched folder.
    pub(crate) name: RelPath,
    #[serde(serialize_with = "crate::json::path")]
    pub(crate) path: PathBuf,
    pub(crate) why: String,
}

impl From<Renamed> for RenamedView {
    fn from(renamed: Renamed) -> Self {
        Self { name: renamed.name, path: renamed.path, why: renamed.why.to_string() }
    }
}

/// Something in a fetched folder that could not be written.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LeftOutView {
    pub(crate) path: RelPath,
    pub(crate) why: String,
}

impl From<LeftOut> for LeftOutView {
    fn from(left: LeftOut) -> Self {
        Self { path: left.path, why: left.why.to_string() }
    }
}

/// The entries that a fetch wrote under other names, and those that it could not write: the first of
/// them, and how many more there are.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ChangesView {
    /// Entries that have another name here than at their source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) renamed: Vec<RenamedView>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) more_renamed: usize,
    /// Entries of a folder that this disk can't hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) left_out: Vec<LeftOutView>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) more_left_out: usize,
}

impl ChangesView {
    /// All of them.
    pub(crate) fn all(renamed: Vec<Renamed>, left_out: Vec<LeftOut>) -> Self {
        Self {
            renamed: renamed.into_iter().map(RenamedView::from).collect(),
            more_renamed: 0,
            left_out: left_out.into_iter().map(LeftOutView::from).collect(),
            more_left_out: 0,
        }
    }
}

impl From<&Changes> for ChangesView {
    fn from(changes: &Changes) -> Self {
        let Changes { more_renamed, more_left_out, .. } = *changes;
        let all = Self::all(changes.renamed.clone(), changes.left_out.clone());
        Self { more_renamed, more_left_out, ..all }
    }
}

/// A share, and the files in it if it is a folder.
#[derive(Debug, Serialize)]
pub(crate) struct ListedView {
    #[serde(flatten)]
    pub(crate) file: SharedFile,
    #[serde(flatten)]
    pub(crate) contents: Option<ContentsView>,
}

impl ListedView {
    pub(crate) fn all(node: &Node) -> Vec<Self> {
        let mut left = FILES_IN_ALL;
        let view = |(path, file): (PathBuf, SharedFile)| {
            let contents = ContentsView::first(node, &path, &mut left);
            Self { file, contents }
        };
        node.files().shared_paths().into_iter().map(view).collect()
    }
}

/// Files of a folder that are listed among other shares.
const FILES_OF_ONE: usize = 1_000;

/// Files in folders that are listed with all shares, or of the one that was asked for.
pub(crate) const FILES_IN_ALL: usize = 10_000;

/// The files in a shared folder, or the first of them.
#[derive(Debug, Serialize)]
pub(crate) struct ContentsView {
    pub(crate) files: Vec<FolderFileView>,
    /// Number of files.
    pub(crate) count: usize,
    /// Number of files before the first that is listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) skipped: usize,
}

impl ContentsView {
    pub(crate) fn part(node: &Node, path: &Path, skipped: usize, limit: usize) -> Option<Self> {
        let part = node.files().shared_files(path, skipped, limit)?;
        let files = part.files.into_iter().map(FolderFileView::from).collect();
        Some(Self { files, count: part.total, skipped })
    }

    /// The first of the files, and fewer still where many were listed before. `left` is how many may be
    /// listed.
    fn first(node: &Node, path: &Path, left: &mut usize) -> Option<Self> {
        let contents = Self::part(node, path, 0, FILES_OF_ONE.min(*left))?;
        *left = left.saturating_sub(contents.files.len());
        Some(contents)
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A file in a shared folder.
#[derive(Debug, Serialize)]
pub(crate) struct FolderFileView {
    pub(crate) hash: Hash,
    pub(crate) name: FileName,
    pub(crate) size: u64,
    /// Its path in the folder.
    pub(crate) path: RelPath,
}

impl From<FolderFile> for FolderFileView {
    fn from(found: FolderFile) -> Self {
        let FolderFile { path, file } = found;
        Self { hash: file.hash, name: file.name, size: file.size, path }
    }
}

/// A file or folder that is shared here, from where and with whom.
#[derive(Debug, Serialize)]
pub(crate) struct SharedView {
    #[serde(flatten)]
    pub(crate) file: SharedFile,
    #[serde(serialize_with = "crate::json::path")]
    pub(crate) path: PathBuf,
    #[serde(flatten)]
    pub(crate) contents: Option<ContentsView>,
    /// `open`, `nodes` or `ticket`.
    pub(crate) access: &'static str,
    /// The nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) to: Vec<NodeId>,
}

impl SharedView {
    /// Everything that is shared.
    pub(crate) fn all(node: &Node) -> Vec<Self> {
        let mut left = FILES_IN_ALL;
        let view = |(path, file): (PathBuf, SharedFile)| {
            let contents = ContentsView::first(node, &path, &mut left);
            Self::new(node, path, file, contents)
        };
        node.files().shared_paths().into_iter().map(view).collect()
    }

    /// One share, with its files after the first `skip`.
    pub(crate) fn one(node: &Node, path: PathBuf, file: SharedFile, skip: usize) -> Self {
        let contents = ContentsView::part(node, &path, skip, FILES_IN_ALL);
        Self::new(node, path, file, contents)
    }

    fn new(node: &Node, path: PathBuf, file: SharedFile, contents: Option<ContentsView>) -> Self {
        let (access, to) = match node.files().access(file.hash) {
            None | Some(Access::Open) => ("open", Vec::new()),
            Some(Access::Nodes(nodes)) => ("nodes", nodes),
            Some(Access::Ticket(_)) => ("ticket", Vec::new()),
            Some(_) => ("other", Vec::new()),
        };
        Self { file, path, contents, access, to }
    }
}

/// A file or folder that somebody shares.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FoundView {
    #[serde(flatten)]
    pub(crate) file: SharedFile,
    pub(crate) sources: Vec<NodeId>,
    /// This node shares it itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) here: bool,
}

impl FoundView {
    pub(crate) fn new(node: &Node, found: FoundFile) -> Self {
        let sources: Vec<NodeId> = found.sources.iter().map(|source| source.id).collect();
        Self { here: sources.contains(&node.id()), sources, file: found.file }
    }
}

/// The figures of `network`.
#[derive(Debug, Serialize)]
pub(crate) struct NetworkView {
    /// The network's name.
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    /// Whether every node that was asked has answered.
    pub(crate) complete: bool,
    pub(crate) elapsed_ms: f64,
}
