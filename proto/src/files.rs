//! Shared files: their names, their pieces, and the protocol to fetch them.
//!
//! A file's id is its BLAKE3 hash, as `b3sum` prints it. A folder's id is the hash of its [`Manifest`], which
//! is fetched in the same way as a file.
//!
//! A file or manifest is cut into pieces of [`PIECE`] bytes. The value of each piece is an inner node of the
//! BLAKE3 tree whose root is the file's hash. The list of these values ([`PieceList`]) is checked against the
//! hash once. Then each piece is checked against its value in the list.
//!
//! Names from the network are always held as [`FileName`] or [`RelPath`], which can't lead out of the folder
//! that they are joined to. [`disk`] decides which names files get on this computer. [`wire`] describes the
//! requests and answers, byte by byte.

pub mod access;
pub mod changes;
pub mod disk;
pub mod fetch;
pub mod layout;
pub mod manifest;
pub mod path;
pub mod pieces;
pub mod seeding;
pub mod ticket;
pub mod wire;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Hash, NodeId};

pub use access::{Access, AccessKind, Asker, Secret, TicketKey};
pub use changes::{Changes, LeftOut, Renamed};
pub use disk::{DiskNames, DiskRules, Platform};
pub use layout::{Layout, PiecePosition};
pub use manifest::{MAX_ENTRIES, MAX_MANIFEST, Manifest, ManifestEntry, ManifestError};
pub use path::{FileName, MAX_DEPTH, MAX_NAME, MAX_PATH, NameError, NameFault, RelPath, folded};
pub use pieces::{
    IncomingList, MAX_FILE, MAX_PIECES, PIECE, PieceError, PieceHasher, PieceList, PieceSet,
    PieceValue,
};
pub use ticket::{Ticket, TicketError};
pub use wire::{Answer, Description, FILES_PROTOCOL, FileRefusal, Request, WireError};

/// A shared file or folder, as listings and search answers describe it.
///
/// In a search answer: hash (32 bytes), kind (one byte, see [`FileKind`]), size (`u64`), name
/// (`u16` length and UTF-8); numbers are little-endian.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SharedFile {
    /// The id by which it is fetched.
    pub hash: Hash,
    /// Its own name, without the folders above it.
    pub name: FileName,
    /// Size in bytes; of a folder, the total size of its files. The sharing node claims this size, and it is
    /// not proven until the content is fetched.
    pub size: u64,
    /// The kind: a file or a folder.
    pub kind: FileKind,
}

/// A file or folder that a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// The file or folder.
    pub file: SharedFile,
    /// The nodes that share it.
    pub sources: Vec<FileSource>,
}

/// A node that shares a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSource {
    /// The identity of the node.
    pub id: NodeId,
    /// The name that the node gave itself.
    pub name: String,
    /// The addresses at which the node can be dialled, as far as it knows them itself.
    pub addresses: Vec<Address>,
}

/// The results of a search: the files that the answering nodes share, merged by name and hash.
#[derive(Debug, Default)]
pub struct FoundFiles {
    /// By name and hash: the same content may have several names.
    files: BTreeMap<(FileName, Hash), SharedFile>,
    /// The nodes that have the content of a hash, under any name.
    sources: BTreeMap<Hash, Vec<FileSource>>,
}

impl FoundFiles {
    /// Adds the files that one node shares.
    pub fn add(&mut self, files: Vec<SharedFile>, source: &FileSource) {
        for file in files {
            let sources = self.sources.entry(file.hash).or_default();
            // A node that shares the content under two names is still one source.
            if !sources.contains(source) {
                sources.push(source.clone());
            }
            // Nodes may claim different sizes. No claim is proven, so the first one is kept.
            self.files.entry((file.name.clone(), file.hash)).or_insert(file);
        }
    }

    /// Returns the files in the order of their names.
    #[must_use]
    pub fn into_files(self) -> Vec<FoundFile> {
        let sources = |file: &SharedFile| self.sources.get(&file.hash).cloned().unwrap_or_default();
        let files = self.files.into_values();
        files.map(|file| FoundFile { sources: sources(&file), file }).collect()
    }
}

/// The kind of content that a hash stands for. On the wire, 0 is a file and 1 is a folder.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A file: the hash is that of its bytes.
    #[default]
    File,
    /// A folder: the hash is that of its [`Manifest`], which lists its files and subfolders.
    Folder,
}

impl SharedFile {
    /// Appends the wire form.
    #[doc(hidden)]
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_raw(self.hash.as_bytes());
        self.kind.encode(out);
        out.put_u64(self.size);
        out.put_str(self.name.as_str());
    }

    /// Returns a copy for a search answer, with a [portable](FileName::is_portable) name.
    ///
    /// Older nodes close the link if an answer has any other name, and an answer may pass through nodes of
    /// any version.
    #[must_use]
    pub fn portable(&self) -> Self {
        Self { name: disk::portable(&self.name), ..self.clone() }
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// If bytes are missing, the kind is unknown, or [`FileName`] refuses the name.
    #[doc(hidden)]
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let hash = reader.hash("file hash")?;
        let kind = FileKind::decode(reader)?;
        let size = reader.u64("file size")?;
        let name = reader.str(MAX_NAME, "file name")?;
        let name = FileName::new(name).map_err(|_| DecodeError::Invalid("file name"))?;
        Ok(Self { hash, name, size, kind })
    }
}

impl FileKind {
    fn encode(self, out: &mut impl Writer) {
        out.put_u8(match self {
            Self::File => 0,
            Self::Folder => 1,
        });
    }

    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.u8("file kind")? {
            0 => Ok(Self::File),
            1 => Ok(Self::Folder),
            _ => Err(DecodeError::Invalid("file kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn shared(name: &str) -> SharedFile {
        SharedFile {
            hash: Hash::of(name.as_bytes()),
            name: FileName::new(name).unwrap(),
            size: u64::MAX,
            kind: FileKind::Folder,
        }
    }

    #[test]
    fn an_encoded_file_is_decoded_unchanged() {
        let mut out = Vec::new();
        shared("Ünï code.tar.gz").encode(&mut out);
        let mut reader = Reader::new(out.into());
        assert_eq!(SharedFile::decode(&mut reader), Ok(shared("Ünï code.tar.gz")));
        assert!(reader.finish().is_ok());
    }

    #[test]
    fn a_name_that_leads_out_of_the_folder_is_refused() {
        let mut out = Vec::new();
        shared("aa").encode(&mut out);
        let end = out.len();
        out[end - 2..].copy_from_slice(b"..");
        assert_eq!(
            SharedFile::decode(&mut Reader::new(out.into())),
            Err(DecodeError::Invalid("file name"))
        );
    }

    #[test]
    fn a_shared_file_in_json_has_its_name_kind_and_hash_as_text() {
        let json = serde_json::to_value(shared("a")).unwrap();
        assert_eq!(json["name"], "a");
        assert_eq!(json["kind"], "folder");
        assert_eq!(json["hash"], shared("a").hash.to_string());
        assert_eq!(serde_json::from_value::<SharedFile>(json).unwrap(), shared("a"));
        let evil = r#"{"hash":"00","name":"../a","size":1,"kind":"file"}"#;
        assert!(serde_json::from_str::<SharedFile>(evil).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in any::<Vec<u8>>()) {
            let mut reader = Reader::new(Bytes::from(bytes.clone()));
            if let Ok(file) = SharedFile::decode(&mut reader) {
                let mut out = Vec::new();
                file.encode(&mut out);
                prop_assert_eq!(&out[..], &bytes[..out.len()]);
            }
        }
    }
}
