//! What to fetch, from which nodes, and where to put it.

use std::path::PathBuf;

use peerkit_proto::address::Address;
use peerkit_proto::files::fetch::Candidate;
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
    /// The name under which it arrives, if the caller has chosen one.
    pub(crate) name: Option<FileName>,
    pub(crate) to: Destination,
    /// Whether `to` was chosen by the caller; if not, the node's download folder is used.
    pub(crate) to_chosen: bool,
    pub(crate) from: Vec<Candidate>,
    pub(crate) overwrite: bool,
    pub(crate) ask_network: bool,
    /// Whether the fetch ends with its handle.
    pub(crate) is_foreground: bool,
}

/// The destination of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// This path; if it is an existing folder, into it, under the name that the content has at its
    /// source. The folder above has to exist.
    Path(PathBuf),
    /// Into this folder, which is created if it is missing, under the name at the source.
    Folder(PathBuf),
}

impl FetchRequest {
    /// Requests the file or folder of this hash, from the nodes of the network that have it, into
    /// the [download folder](crate::FilesHandle::download_folder) of the node that fetches it.
    pub fn new(hash: Hash) -> Self {
        Self {
            hash,
            secret: None,
            name: None,
            to: Destination::Path(PathBuf::from(".")),
            to_chosen: false,
            from: Vec::new(),
            overwrite: false,
            ask_network: true,
            is_foreground: false,
        }
    }

    /// Requests what a ticket is for, under the name that the ticket was made for: from the node that
    /// it names, and from others that have it.
    pub fn ticket(ticket: &Ticket) -> Self {
        let sharer = Candidate { id: Some(ticket.node), addresses: ticket.addresses.clone() };
        Self {
            secret: ticket.secret,
            name: ticket.name.clone(),
            from: vec![sharer],
            ..Self::new(ticket.hash)
        }
    }

    /// Sets the name under which it arrives in a folder, such as one that a search has shown. Without
    /// this that is the name at the first source: the same content may be shared under several.
    pub fn named(mut self, name: FileName) -> Self {
        self.name = Some(name);
        self
    }

    /// Fetches to exactly this path; or, if it is an existing folder, into it under the name that the
    /// content has at its source.
    pub fn to(mut self, path: impl Into<PathBuf>) -> Self {
        self.to = Destination::Path(path.into());
        self.to_chosen = true;
        self
    }

    /// Fetches into this folder, which is created if it is missing, under the name that the content
    /// has at its source.
    pub fn into_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.to = Destination::Folder(folder.into());
        self.to_chosen = true;
        self
    }

    /// Adds the node at this address to the sources. Call it again for more.
    pub fn from(mut self, address: Address) -> Self {
        self.from.push(Candidate { id: address.id, addresses: vec![address] });
        self
    }

    /// Sets whether an existing file or folder of that name is replaced; without it the new one gets a
    /// number. Files that a folder has beside the fetched ones stay in it.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Sets whether the network is asked which nodes have it; it is by default.
    pub fn ask_network(mut self, ask: bool) -> Self {
        self.ask_network = ask;
        self
    }

    /// Ends the fetch with its handle. When the last clone of the [`Download`](crate::Download) is
    /// dropped, and so when the future that awaits it is, the fetch stops and is no longer listed. It
    /// is not continued after a restart either. Pieces that were verified stay on disk, and the next
    /// fetch of the same content to the same place continues from them.
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
