//! What to fetch, from whom, and where to put it.

use std::path::PathBuf;

use peerkit_proto::address::Address;
use peerkit_proto::files::{FileName, Secret, Ticket};
use peerkit_proto::id::{Hash, NodeId};

/// Something to be fetched: see [`Node::download`](crate::Node::download).
///
/// ```
/// # use peerkit::{Get, Hash};
/// let get = Get::new(Hash::of(b"content")).into_folder("downloads");
/// # let _ = get;
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is fetched until it is given to a node"]
pub struct Get {
    pub(crate) hash: Hash,
    pub(crate) secret: Option<Secret>,
    /// Its name, if that is known beforehand.
    pub(crate) name: Option<FileName>,
    pub(crate) to: Destination,
    /// Whether `to` was chosen by the caller; if not, the node's download folder is used.
    pub(crate) to_chosen: bool,
    pub(crate) from: Vec<Candidate>,
    pub(crate) overwrite: bool,
    pub(crate) ask_network: bool,
}

/// The destination of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// This path; where it is a folder that exists, into it, under the name that it has at the
    /// source. The folder above it has to exist.
    Path(PathBuf),
    /// Into this folder, which is made where it is missing, under the name at the source.
    Folder(PathBuf),
}

/// Somebody who may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Who; `None` for whoever answers at the addresses.
    pub(crate) id: Option<NodeId>,
    /// Where it may be.
    pub(crate) addresses: Vec<Address>,
}

impl Get {
    /// The file or folder of this hash, from the nodes of the network that have it, into the
    /// [download folder](crate::Node::download_folder) of the node that fetches it.
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
        }
    }

    /// Fetches what a ticket is for, under the name that the ticket was made for: from the node that
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

    /// To exactly this path; or, where it is a folder that exists, into it under the name that it has
    /// at its source.
    pub fn to(mut self, path: impl Into<PathBuf>) -> Self {
        self.to = Destination::Path(path.into());
        self.to_chosen = true;
        self
    }

    /// Into this folder, which is made where it is missing, under the name that it has at its source.
    pub fn into_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.to = Destination::Folder(folder.into());
        self.to_chosen = true;
        self
    }

    /// From the node at this address as well. Call it again for more.
    pub fn from(mut self, address: Address) -> Self {
        self.from.push(Candidate { id: address.id, addresses: vec![address] });
        self
    }

    /// Whether what has the name already is replaced; without it this one gets a number. What a
    /// folder has beside the fetched files stays in it.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Whether the network is asked who has it, as it is by default.
    pub fn ask_network(mut self, ask: bool) -> Self {
        self.ask_network = ask;
        self
    }
}
