//! The list of the networks for invited nodes in which the node of a state folder has been.
//!
//! A node whose proof has expired or is lost must not start as a node of an open network: it would then take
//! strangers, and offer them what it shares. The list is a file of its own, so that it outlives a damaged
//! `state.redb`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use peerkit_proto::id::NodeId;

use crate::disk::small_file;

/// Name of the file in the state folder.
const FILE: &str = "invited-networks.json";

/// Maximum number of networks in the file. 256: a node is in one network at a time, and few are ever in more.
const MAX_NETWORKS: usize = 256;

/// Maximum size of the file, in bytes. 256 KiB: 256 names of 64 bytes, even if each byte is escaped.
const MAX_FILE: u64 = 256 << 10;

/// The error of a node that was not started, because its file with the networks can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't use {}, which lists the networks for invited nodes of this state folder", path.display())]
pub struct InvitedNetworksError {
    /// The file.
    pub path: PathBuf,
    /// The system's error, or what is wrong with the content.
    #[source]
    pub source: io::Error,
}

/// The networks for invited nodes, by name, each with its owner.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct InvitedNetworks(BTreeMap<String, NodeId>);

impl InvitedNetworks {
    /// Reads the list of a state folder. A missing file is an empty list.
    pub(crate) fn read(folder: &Path) -> Result<Self, InvitedNetworksError> {
        let path = folder.join(FILE);
        let bytes = match small_file::read(&path, MAX_FILE) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(failed(path, invalid("it is too large"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(path, error)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(networks) => Ok(Self(networks)),
            Err(error) => Err(failed(path, invalid(error))),
        }
    }

    /// Adds a network to the list of a state folder. Does nothing if it is there already.
    pub(crate) fn add(
        mut self,
        folder: &Path,
        network: &str,
        owner: NodeId,
    ) -> Result<(), InvitedNetworksError> {
        if self.owner(network) == Some(owner) {
            return Ok(());
        }
        let path = folder.join(FILE);
        self.0.insert(network.to_owned(), owner);
        if self.0.len() > MAX_NETWORKS {
            return Err(failed(path, invalid(format!("it has {MAX_NETWORKS} networks already"))));
        }
        let written = serde_json::to_vec(&self.0).map_err(invalid);
        written
            .and_then(|bytes| small_file::write(&path, &bytes))
            .map_err(|error| failed(path, error))
    }

    /// Returns the owner of a network, or `None` if it is not in the list.
    pub(crate) fn owner(&self, network: &str) -> Option<NodeId> {
        self.0.get(network).copied()
    }

    /// Returns the first network of the list by name, or `None` if the list is empty.
    pub(crate) fn first(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }
}

fn failed(path: PathBuf, source: io::Error) -> InvitedNetworksError {
    InvitedNetworksError { path, source }
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_back_bounded_and_never_taken_for_empty() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let owner = NodeId::from_bytes([7; 32]);
        let read = || InvitedNetworks::read(at).unwrap();
        assert_eq!((read().first(), read().owner("club")), (None, None));
        read().add(at, "club", owner).unwrap();
        read().add(at, "a \"b\"\n", owner).unwrap();
        assert_eq!((read().first(), read().owner("club")), (Some("a \"b\"\n"), Some(owner)));
        for n in 2..MAX_NETWORKS {
            read()
                .add(at, &"\u{1}".repeat(61).replacen('\u{1}', &n.to_string(), 1), owner)
                .unwrap();
        }
        let error = read().add(at, "one more", owner).unwrap_err();
        assert!(error.source.to_string().contains("256 networks"), "{error:?}");
        read().add(at, "club", owner).unwrap();
        for bad in ["", "{", "[]", "{\"club\":1}"] {
            std::fs::write(at.join(FILE), bad).unwrap();
            let error = InvitedNetworks::read(at).unwrap_err();
            assert!(error.to_string().contains(FILE), "{error:?}");
        }
        std::fs::write(at.join(FILE), vec![b' '; 1 << 20]).unwrap();
        assert!(InvitedNetworks::read(at).is_err());
    }
}
