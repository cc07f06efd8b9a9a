//! Shared files: their names, their pieces, and the protocol to fetch them.
//!
//! A file's id is its BLAKE3 hash, what `b3sum` prints. A folder's id is the hash of its
//! [`Manifest`], which is itself fetched as if it were a file. Either is cut into pieces of
//! [`PIECE`] bytes whose values are inner nodes of the very tree that the hash is the root of
//! ([`PieceList`]), so that the list is checked against the hash once and then each piece alone.
//! Names from the network exist only as [`FileName`] and [`RelPath`], which can't lead out of the
//! folder they are joined to, and [`disk`] decides what they become there. [`wire`] has the requests
//! and answers, byte by byte.

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

/// A shared file or folder as it is listed and found.
///
/// In a search answer: hash (32 bytes), kind (one byte, see [`FileKind`]), size (`u64`), name
/// (`u16` length and UTF-8); numbers are little-endian.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SharedFile {
    /// The id to fetch it by.
    pub hash: Hash,
    /// Its own name, without the folders above it.
    pub name: FileName,
    /// Size in bytes: of a folder the sum of the files in it. Until it is fetched, the sharer's word for it.
    pub size: u64,
    /// A file or a folder.
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
    /// Its identity.
    pub id: NodeId,
    /// The name that it gave itself.
    pub name: String,
    /// Addresses where it may be dialled, as far as it knows them.
    pub addresses: Vec<Address>,
}

/// The results of a search: what each node that has answered shares, by name.
#[derive(Debug, Default)]
pub struct FoundFiles {
    /// By name and hash: the same content may have several names.
    files: BTreeMap<(FileName, Hash), SharedFile>,
    /// The nodes that have the content of a hash, under any name.
    sources: BTreeMap<Hash, Vec<FileSource>>,
}

impl FoundFiles {
    /// Adds what one node shares.
    pub fn add(&mut self, files: Vec<SharedFile>, source: &FileSource) {
        for file in files {
            let sources = self.sources.entry(file.hash).or_default();
            // A node that shares the content under two names is still one source.
            if !sources.contains(source) {
                sources.push(source.clone());
            }
            // Sharers may claim different sizes. None of them is proven, so the first one stays.
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

/// The kind of content that a hash stands for. On the wire 0 is a file, 1 a folder.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// The content itself.
    #[default]
    File,
    /// A [`Manifest`], and through it all that the folder holds.
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

    /// Returns it in the form for a search answer: under a name that every system can have.
    ///
    /// Older nodes hang up on an answer with any other name, and answers pass through nodes of any version.
    #[must_use]
    pub fn portable(&self) -> Self {
        Self { name: disk::portable(&self.name), ..self.clone() }
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// If it is cut short, the kind is unknown, or [`FileName`] refuses the name.
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
    fn a_shared_file_travels() {
        let mut out = Vec::new();
        shared("Ünï code.tar.gz").encode(&mut out);
        let mut reader = Reader::new(out.into());
        assert_eq!(SharedFile::decode(&mut reader), Ok(shared("Ünï code.tar.gz")));
        assert!(reader.finish().is_ok());
    }

    #[test]
    fn a_name_that_leads_elsewhere_does_not_arrive() {
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
    fn its_json_is_what_the_program_prints() {
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
        fn any_bytes_are_read_or_refused(bytes in any::<Vec<u8>>()) {
            let mut reader = Reader::new(Bytes::from(bytes.clone()));
            if let Ok(file) = SharedFile::decode(&mut reader) {
                let mut out = Vec::new();
                file.encode(&mut out);
                prop_assert_eq!(&out[..], &bytes[..out.len()]);
            }
        }
    }
}
