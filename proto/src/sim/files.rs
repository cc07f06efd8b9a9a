//! Files of simulated nodes: disks, shares and searches.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::Sim;
use super::fetch::{CallBack, SimulatedFetch};
use super::stream::SimulatedStream;
use crate::event::{ActionId, Event};
use crate::files::seeding::Seeding;
use crate::files::{FileKind, FileName, PieceList, PieceSet, SharedFile, folded};
use crate::frame::query::{QueryId, QueryKind};
use crate::handler::{Handler, MAX_FILE_IN_MEMORY};
use crate::id::Hash;
use crate::peer::{Command, OperationId};

/// The fetches of a simulation, their streams, and the contents that are shared.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    /// All contents that were ever shared. A node that has fetched and checked a content refers to these bytes,
    /// so the copies of a thousand nodes take no memory.
    pub(super) contents: BTreeMap<Hash, SharedContent>,
    pub(super) fetches: BTreeMap<u64, SimulatedFetch>,
    /// For each search for sources, the fetch that has begun it.
    pub(super) searches: BTreeMap<OperationId, u64>,
    /// Sources that were asked to call back.
    pub(super) call_backs: BTreeMap<OperationId, CallBack>,
    pub(super) streams: BTreeMap<u64, SimulatedStream>,
    /// For each source and content, the source's observations of the nodes that fetch the content from it.
    pub(super) seeding: BTreeMap<(usize, Hash), Seeding>,
}

/// A content that is shared, and the list of its pieces.
#[derive(Debug, Clone)]
pub(super) struct SharedContent {
    pub(super) bytes: Bytes,
    pub(super) list: PieceList,
}

/// The disk of a node. It outlives the node's runs.
#[derive(Debug, Default)]
pub(super) struct SimulatedDisk {
    files: BTreeMap<PathBuf, Bytes>,
    /// The pieces that unfinished fetches have written, by the hash of the content.
    pub(super) parts: BTreeMap<Hash, PieceSet>,
}

/// A file that a node shares.
#[derive(Debug)]
pub(super) struct SimulatedShare {
    path: PathBuf,
    pub(super) file: SharedFile,
    bytes: Bytes,
}

/// The part of a content that a node can serve.
pub(super) enum Servable<'a> {
    /// The whole content, under this name.
    Whole(&'a FileName),
    /// These pieces, under this name. The node is fetching the content, or has fetched it recently.
    Part(&'a PieceSet, &'a FileName),
}

impl SimulatedDisk {
    /// Reads a file for an application, which gets an error if the file is too large.
    pub(super) fn read(&self, path: &Path) -> io::Result<Bytes> {
        let bytes = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        if bytes.len() > MAX_FILE_IN_MEMORY {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes.clone())
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Bytes> {
        self.files.get(path)
    }

    pub(super) fn write(&mut self, path: &Path, bytes: Bytes) {
        self.files.insert(path.to_owned(), bytes);
    }

    /// Writes a fetched content to its place, as a real node does: into `to` if that is a folder, and under
    /// another name if there is another file of that name. Returns the path.
    pub(super) fn place(&mut self, to: &Path, name: &FileName, bytes: Bytes) -> PathBuf {
        // The simulated disk has only files. A path is a folder if there is a file below it.
        let is_folder = self.files.keys().any(|path| path != to && path.starts_with(to));
        let target = if is_folder { to.join(name.as_str()) } else { to.to_owned() };
        let mut path = target.clone();
        for number in 1_u64.. {
            match self.files.get(&path) {
                // A file with the same content is what the fetch would write.
                Some(there) if *there != bytes => path = numbered(&target, number),
                _ => break,
            }
        }
        self.write(&path, bytes);
        path
    }
}

/// Returns a path with a number in the name, for a file whose own name is taken.
fn numbered(path: &Path, number: u64) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let numbered = format!("{stem} ({number})");
    path.with_file_name(match path.extension() {
        Some(extension) => format!("{numbered}.{}", extension.to_string_lossy()),
        None => numbered,
    })
}

/// Returns whether a search finds a file: each word of the search is part of the file's name.
fn matches_search(text: &str, name: &FileName) -> bool {
    let name = folded(name.as_str());
    folded(text).split_whitespace().all(|word| name.contains(word))
}

impl<H: Handler> Sim<H> {
    /// Writes a file to a node's disk, and replaces an existing file. The disk outlives the node's runs.
    pub fn write_file(&mut self, node: usize, path: impl AsRef<Path>, content: impl Into<Bytes>) {
        self.nodes[node].disk.get_mut().write(path.as_ref(), content.into());
    }

    /// Returns the content of a file on a node's disk, whatever its size; `None` if there is no such file.
    #[must_use]
    pub fn read_file(&self, node: usize, path: impl AsRef<Path>) -> Option<Bytes> {
        self.nodes[node].disk.borrow().get(path.as_ref()).cloned()
    }

    /// Returns the number of bytes of pieces that a node has sent to others.
    #[must_use]
    pub fn uploaded(&self, node: usize) -> u64 {
        self.nodes[node].uploaded
    }

    /// Shares a file on a node's disk for the node's application.
    pub(super) fn share_file(&mut self, node: usize, action: ActionId, path: &Path) {
        let bytes = self.nodes[node].disk.borrow().get(path).cloned();
        let shared = match (bytes, FileName::of_path(path)) {
            (None, _) => Err(format!(
                "there is no file {}: folders can't be shared in the simulator",
                path.display()
            )),
            (_, Err(error)) => Err(error.to_string()),
            (Some(bytes), Ok(name)) => Ok((bytes, name)),
        };
        let (bytes, name) = match shared {
            Ok(shared) => shared,
            Err(error) => return self.event(node, Event::NodeActionFailed { action, error }),
        };
        let list = PieceList::of(&bytes);
        let (hash, size) = (list.root(), list.size());
        let file = SharedFile { hash, name, size, kind: FileKind::File };
        let content = SharedContent { bytes: bytes.clone(), list };
        // If another node already shares the same content, its bytes serve for both.
        self.transfers.contents.entry(hash).or_insert(content);
        let share = SimulatedShare { path: path.to_owned(), file: file.clone(), bytes };
        self.nodes[node].shares.insert(hash, share);
        self.trace_event("shared", [node, node], hash.as_bytes());
        self.event(node, Event::NodeShareCompleted { action, file, skipped: 0 });
    }

    /// Answers a query of another node about the files of a node.
    pub(super) fn look_up(&mut self, node: usize, query: QueryId, what: &QueryKind) {
        let mut files: Vec<SharedFile> = match what {
            QueryKind::Search(text) => self.search_shares(node, text),
            QueryKind::HasFile(hash) => self.nodes[node]
                .shares
                .get(hash)
                .map(|share| share.file.clone())
                .into_iter()
                .collect(),
            _ => Vec::new(),
        };
        // A node that is still fetching the content is also a source.
        if let QueryKind::HasFile(hash) = what
            && files.is_empty()
            && let Some(Servable::Part(_, name)) = self.servable(node, hash)
            && let Some(content) = self.transfers.contents.get(hash)
        {
            let (size, kind) = (content.list.size(), FileKind::File);
            files.push(SharedFile { hash: *hash, name: name.clone(), size, kind });
        }
        // The machine has begun to dial the candidates of the asking node.
        let here =
            matches!(what, QueryKind::SignedCallBack { .. }) && self.nodes[node].options.meets;
        self.command(node, Command::Answer { query, files, here });
    }

    /// Returns the shared files of a node that a search finds.
    pub(super) fn search_shares(&self, node: usize, text: &str) -> Vec<SharedFile> {
        let shares = self.nodes[node].shares.values().map(|share| &share.file);
        let found = shares.filter(|file| matches_search(text, &file.name));
        found.take(self.config.max_search_results).cloned().collect()
    }

    /// Returns the part of a content that a node can serve.
    pub(super) fn servable(&self, node: usize, hash: &Hash) -> Option<Servable<'_>> {
        if let Some(share) = self.nodes[node].shares.get(hash) {
            return Some(Servable::Whole(&share.file.name));
        }
        let mut fetches = self.transfers.fetches.values();
        fetches.find_map(|fetch| fetch.servable(node, self.nodes[node].run, hash))
    }

    /// Stops sharing a file if it was changed on the disk since it was shared. Returns whether it was changed.
    pub(super) fn drop_changed_share(&mut self, node: usize, hash: Hash) -> bool {
        let disk = &self.nodes[node].disk;
        let is_changed = |share: &SimulatedShare| {
            // An unchanged file is usually the same memory, so the contents need not be compared.
            let is_same = |now: &Bytes| now.as_ptr() == share.bytes.as_ptr() || *now == share.bytes;
            !disk.borrow().get(&share.path).is_some_and(is_same)
        };
        if !self.nodes[node].shares.get(&hash).is_some_and(is_changed) {
            return false;
        }
        if let Some(share) = self.nodes[node].shares.remove(&hash) {
            let name = share.file.name.to_string();
            self.event(node, Event::NodeShareChanged { hash, name });
        }
        true
    }
}
