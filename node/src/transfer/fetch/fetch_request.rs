//! The request of a fetch: the content, its sources, and its destination.

use std::path::PathBuf;

use peerkit_proto::address::Address;
use peerkit_proto::files::fetch::SourceCandidate;
use peerkit_proto::files::{FileName, Secret, Ticket};
use peerkit_proto::id::Hash;

/// A file or folder to fetch: see [`Node::fetch`](crate::Node::fetch).
///
/// ```
/// use peerkit::{FetchRequest, Hash};
///
/// let request = FetchRequest::new(Hash::of(b"content")).into_folder("downloads");
/// # let _ = request;
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is fetched until the request is given to a node"]
pub struct FetchRequest {
    pub(crate) hash: Hash,
    pub(crate) secret: Option<Secret>,
    /// The name that the content gets, if the caller has chosen one.
    pub(crate) name: Option<FileName>,
    pub(crate) to: FetchDestination,
    /// If false, the caller has not chosen `to`, and the node's download folder is used.
    pub(crate) to_chosen: bool,
    pub(crate) from: Vec<SourceCandidate>,
    pub(crate) overwrite: bool,
    pub(crate) ask_network: bool,
    /// If true, the fetch ends when its last handle is dropped.
    pub(crate) is_foreground: bool,
}

/// The destination of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FetchDestination {
    /// This path, whose parent folder must exist. If the path is an existing folder, the content gets a path
    /// in it, with the name that it has at its source.
    Path(PathBuf),
    /// A path in this folder, with the name that the content has at its source. The folder is created if it
    /// is missing.
    Folder(PathBuf),
}

impl FetchRequest {
    /// Requests the file or folder with this hash, from the nodes of the network that have it, into the
    /// [download folder](crate::FilesHandle::download_folder) of the node that fetches it.
    pub fn new(hash: Hash) -> Self {
        Self {
            hash,
            secret: None,
            name: None,
            to: FetchDestination::Path(PathBuf::from(".")),
            to_chosen: false,
            from: Vec::new(),
            overwrite: false,
            ask_network: true,
            is_foreground: false,
        }
    }

    /// Requests the content of a ticket, under the name in the ticket: from the node that the ticket names,
    /// and from other nodes that have the content.
    pub fn ticket(ticket: &Ticket) -> Self {
        let sharer = SourceCandidate { id: Some(ticket.node), addresses: ticket.addresses.clone() };
        Self {
            secret: ticket.secret,
            name: ticket.name.clone(),
            from: vec![sharer],
            ..Self::new(ticket.hash)
        }
    }

    /// Sets the name that the content gets in a folder, such as a name that a search has shown. The default
    /// is the name at the first source. The same content may be shared under several names.
    pub fn named(mut self, name: FileName) -> Self {
        self.name = Some(name);
        self
    }

    /// Fetches to exactly this path. If it is an existing folder, fetches into it, under the name that the
    /// content has at its source.
    pub fn to(mut self, path: impl Into<PathBuf>) -> Self {
        self.to = FetchDestination::Path(path.into());
        self.to_chosen = true;
        self
    }

    /// Fetches into this folder, which is created if it is missing, under the name that the content
    /// has at its source.
    pub fn into_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.to = FetchDestination::Folder(folder.into());
        self.to_chosen = true;
        self
    }

    /// Adds the node at this address to the sources. Can be called several times.
    pub fn from(mut self, address: Address) -> Self {
        self.from.push(SourceCandidate { id: address.id, addresses: vec![address] });
        self
    }

    /// Sets whether an existing file or folder with the name of the content is replaced. By default the new
    /// one gets a number. Other files in a replaced folder stay in it.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Sets whether the network is asked which nodes have the content. The default is true.
    pub fn ask_network(mut self, ask: bool) -> Self {
        self.ask_network = ask;
        self
    }

    /// Ties the fetch to its handle. When the last clone of the [`Download`](crate::Download) is dropped, or
    /// the future that awaits it, the fetch stops and is no longer listed. It is not continued after a
    /// restart. Pieces that were verified stay on disk, and the next fetch of the same content to the same
    /// place continues from them.
    ///
    /// Without this a fetch runs in the background: it continues after the handle is dropped and, if the
    /// node has a state folder, after a restart.
    pub fn foreground(mut self) -> Self {
        self.is_foreground = true;
        self
    }
}

impl From<Hash> for FetchRequest {
    fn from(hash: Hash) -> Self {
        Self::new(hash)
    }
}

impl From<&Ticket> for FetchRequest {
    fn from(ticket: &Ticket) -> Self {
        Self::ticket(ticket)
    }
}
