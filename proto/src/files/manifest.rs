//! The manifest of a shared folder: the list of its entries.
//!
//! The canonical bytes of a manifest, all numbers little-endian:
//!
//! ```text
//! magic    "peerkit folder 1\n"                      17 bytes
//! count    u32                                       number of entries, at most 1,000,000
//! entries  kind u8      0 folder, 1 file
//!          path u16 length and UTF-8                 see RelPath
//!          mode u16                                  permission bits, at most 0o777
//!          size u64     \ of a file only
//!          hash 32 B    /
//! ```
//!
//! Entries are sorted by path, component by component. Each path occurs once, and every subfolder comes
//! before its content. So equal folders have the same manifest and the same hash, and no entry is inside a
//! file. The manifest does not contain the folder's own name. The id of the folder is the BLAKE3 hash of
//! these bytes. They are at most 64 MiB.

use bytes::Bytes;

use super::path::{MAX_PATH, NameError, RelPath};
use super::pieces::MAX_FILE;
use crate::codec::{DecodeError, Reader, Writer};
use crate::id::Hash;

/// Maximum number of entries of a manifest.
pub const MAX_ENTRIES: usize = 1_000_000;

/// Maximum size of a manifest, in bytes.
pub const MAX_MANIFEST: usize = 64 << 20;

const MAGIC: &[u8; 17] = b"peerkit folder 1\n";

/// The list of a folder's entries, in canonical order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    entries: Vec<ManifestEntry>,
    total: u64,
}

/// One file or subfolder of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestEntry {
    /// A subfolder, which may be empty.
    Folder {
        /// Its path in the folder.
        path: RelPath,
        /// Permission bits (`0o777`).
        mode: u32,
    },
    /// A file.
    File {
        /// Its path in the folder.
        path: RelPath,
        /// Size in bytes.
        size: u64,
        /// The hash of its content, by which it is fetched.
        hash: Hash,
        /// Permission bits (`0o777`).
        mode: u32,
    },
}

/// The reason why entries or bytes do not make a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes do not have the form of a manifest.
    #[error("the folder's list can't be read: {0}")]
    Decode(DecodeError),
    /// A path could lead out of the folder, or is refused for another reason: see
    /// [`NameFault`](super::NameFault).
    #[error("a name in the folder's list is refused: {0}")]
    Name(NameError),
    /// The entries are not sorted, or a path occurs twice.
    #[error("the folder's list has {0} out of order or twice")]
    Order(RelPath),
    /// The parent folder of an entry is not in the list, or is a file.
    #[error("the folder's list has {0}, but not the folder that it is in")]
    NoFolder(RelPath),
    /// A mode has bits other than the permission bits.
    #[error("the folder's list gives {0} a mode other than permission bits")]
    Mode(RelPath),
    /// A file is over [`MAX_FILE`], or the total size does not fit into 64 bits.
    #[error("the folder's list gives {0} a size over the limit")]
    Size(RelPath),
    /// There are more than [`MAX_ENTRIES`] entries.
    #[error("a folder of {0} entries is over the limit of {MAX_ENTRIES}: share its parts")]
    TooMany(usize),
    /// The manifest has more than [`MAX_MANIFEST`] bytes.
    #[error("a folder's list of {0} bytes is over the limit of {MAX_MANIFEST}: share its parts")]
    TooLong(usize),
}

impl From<DecodeError> for ManifestError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<NameError> for ManifestError {
    fn from(error: NameError) -> Self {
        Self::Name(error)
    }
}

impl Manifest {
    /// Makes the manifest of these entries, which may be in any order.
    ///
    /// # Errors
    /// If the entries do not make a folder, or are over a limit.
    pub fn new(mut entries: Vec<ManifestEntry>) -> Result<Self, ManifestError> {
        entries.sort_by(|a, b| a.path().cmp(b.path()));
        let manifest = Self::from_sorted(entries)?;
        match manifest.encoded_len() {
            // Nodes that fetch the folder would refuse a longer one.
            len if len > MAX_MANIFEST => Err(ManifestError::TooLong(len)),
            _ => Ok(manifest),
        }
    }

    /// Returns the entries, sorted. Each subfolder comes before its content.
    #[must_use]
    pub fn entries(&self) -> &[ManifestEntry] {
        &self.entries
    }

    /// Returns the total size of all files, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns the canonical bytes, whose hash is the folder's id.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        out.put_raw(MAGIC);
        out.put_u32(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        for entry in &self.entries {
            entry.encode(&mut out);
        }
        out
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// If [`encode`](Self::encode) would not write exactly these bytes.
    pub fn decode(bytes: Bytes) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST {
            return Err(ManifestError::TooLong(bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        if reader.array("manifest magic")? != *MAGIC {
            return Err(DecodeError::Invalid("manifest magic").into());
        }
        let count = reader.u32("manifest count")? as usize;
        if count > MAX_ENTRIES {
            return Err(ManifestError::TooMany(count));
        }
        // No memory is reserved for a count that may be a lie.
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(ManifestEntry::decode(&mut reader)?);
        }
        reader.finish()?;
        Self::from_sorted(entries)
    }

    fn from_sorted(entries: Vec<ManifestEntry>) -> Result<Self, ManifestError> {
        if entries.len() > MAX_ENTRIES {
            return Err(ManifestError::TooMany(entries.len()));
        }
        let mut total = 0u64;
        let mut last: Option<&RelPath> = None;
        // The folders above the previous entry, outermost first, and the entry itself if it is a folder.
        let mut folders: Vec<&str> = Vec::new();
        for entry in &entries {
            let path = entry.path();
            // Equal paths are refused too, so no path occurs twice.
            if last.is_some_and(|last| last >= path) {
                return Err(ManifestError::Order(path.clone()));
            }
            let parent = path.parent();
            // An entry inside a file finds no parent here.
            while folders.last().copied() != parent {
                if folders.pop().is_none() {
                    return Err(ManifestError::NoFolder(path.clone()));
                }
            }
            match entry {
                ManifestEntry::Folder { .. } => folders.push(path.as_str()),
                ManifestEntry::File { size, .. } => {
                    total = Some(*size)
                        .filter(|size| *size <= MAX_FILE)
                        .and_then(|size| total.checked_add(size))
                        .ok_or_else(|| ManifestError::Size(path.clone()))?;
                }
            }
            // A manifest from the network must not set the set-user-ID or set-group-ID bit of a file.
            if entry.mode() & !0o777 != 0 {
                return Err(ManifestError::Mode(path.clone()));
            }
            last = Some(path);
        }
        Ok(Self { entries, total })
    }

    fn encoded_len(&self) -> usize {
        let entries = self.entries.iter().map(ManifestEntry::encoded_len);
        MAGIC.len() + 4 + entries.sum::<usize>()
    }
}

impl ManifestEntry {
    /// Returns its path in the folder.
    #[must_use]
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Folder { path, .. } | Self::File { path, .. } => path,
        }
    }

    /// Returns its permission bits.
    #[must_use]
    pub fn mode(&self) -> u32 {
        match self {
            Self::Folder { mode, .. } | Self::File { mode, .. } => *mode,
        }
    }

    fn encoded_len(&self) -> usize {
        let head = 1 + 2 + self.path().as_str().len() + 2;
        match self {
            Self::Folder { .. } => head,
            Self::File { .. } => head + 8 + 32,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(match self {
            Self::Folder { .. } => 0,
            Self::File { .. } => 1,
        });
        out.put_str(self.path().as_str());
        out.put_u16(u16::try_from(self.mode()).unwrap_or(u16::MAX));
        if let Self::File { size, hash, .. } = self {
            out.put_u64(*size);
            out.put_raw(hash.as_bytes());
        }
    }

    fn decode(reader: &mut Reader) -> Result<Self, ManifestError> {
        let kind = reader.u8("manifest entry kind")?;
        let path = RelPath::new(reader.str(MAX_PATH, "manifest path")?)?;
        let mode = u32::from(reader.u16("manifest mode")?);
        match kind {
            0 => Ok(Self::Folder { path, mode }),
            1 => Ok(Self::File {
                path,
                size: reader.u64("manifest size")?,
                hash: reader.hash("manifest hash")?,
                mode,
            }),
            _ => Err(DecodeError::Invalid("manifest entry kind").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::path::NameFault;
    use proptest::prelude::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    fn folder(text: &str) -> ManifestEntry {
        ManifestEntry::Folder { path: path(text), mode: 0o755 }
    }

    fn file(text: &str, size: u64) -> ManifestEntry {
        ManifestEntry::File { path: path(text), size, hash: Hash::of(text.as_bytes()), mode: 0o644 }
    }

    /// Returns the bytes of a manifest with these paths, sizes and modes, which need not be valid.
    fn raw(entries: &[(&[u8], u64, u16)]) -> Bytes {
        let mut out = MAGIC.to_vec();
        out.put_u32(entries.len() as u32);
        for (path, size, mode) in entries {
            out.put_u8(1);
            out.put_u16(path.len() as u16);
            out.put_raw(path);
            out.put_u16(*mode);
            out.put_u64(*size);
            out.put_raw(&[0; 32]);
        }
        out.into()
    }

    #[test]
    fn the_order_of_the_given_entries_does_not_matter() {
        let entries = vec![folder("a"), folder("a/empty"), file("a/x", 3), file("a.txt", 4)];
        let manifest = Manifest::new(entries.clone()).unwrap();
        let reversed = Manifest::new(entries.into_iter().rev().collect()).unwrap();
        assert_eq!(manifest, reversed);
        assert_eq!(manifest.total(), 7);
        assert_eq!(manifest.encode().len(), manifest.encoded_len());
        assert_eq!(Manifest::decode(manifest.encode().into()), Ok(manifest));
    }

    #[test]
    fn an_entry_needs_a_parent_that_is_a_folder() {
        let used = Manifest::new(vec![file("a", 1), file("a/b", 1)]);
        assert_eq!(used, Err(ManifestError::NoFolder(path("a/b"))));
        let missing = Manifest::new(vec![folder("a"), folder("b"), file("b/c/d", 1)]);
        assert_eq!(missing, Err(ManifestError::NoFolder(path("b/c/d"))));
        let twice = Manifest::new(vec![folder("a"), file("a", 1)]);
        assert_eq!(twice, Err(ManifestError::Order(path("a"))));
    }

    #[test]
    fn a_dangerous_manifest_is_refused_with_the_path_at_fault() {
        for evil in [&b"../../x"[..], b"/etc/x", b"a\0x", b"a/./b"] {
            match Manifest::decode(raw(&[(evil, 1, 0)])) {
                Err(ManifestError::Name(error)) => {
                    assert_eq!(error.name.as_bytes(), evil);
                }
                other => panic!("{other:?}"),
            }
        }
        let escaping = Manifest::decode(raw(&[(b"..", 1, 0)])).unwrap_err();
        assert!(matches!(escaping, ManifestError::Name(e) if e.fault == NameFault::Dots));
        assert_eq!(
            Manifest::decode(raw(&[(b"b", 1, 0), (b"a", 1, 0)])),
            Err(ManifestError::Order(path("a")))
        );
        assert_eq!(
            Manifest::decode(raw(&[(b"a", 1, 0), (b"a", 1, 0)])),
            Err(ManifestError::Order(path("a")))
        );
        assert_eq!(
            Manifest::decode(raw(&[(b"a", u64::MAX, 0)])),
            Err(ManifestError::Size(path("a")))
        );
        assert_eq!(
            Manifest::decode(raw(&[(b"a", 1, 0o4755)])),
            Err(ManifestError::Mode(path("a")))
        );
    }

    #[test]
    fn no_memory_is_reserved_for_a_false_count() {
        let mut out = MAGIC.to_vec();
        out.put_u32(u32::MAX);
        assert_eq!(
            Manifest::decode(out.clone().into()),
            Err(ManifestError::TooMany(u32::MAX as usize))
        );
        let end = out.len();
        out[end - 4..].copy_from_slice(&1_000_000u32.to_le_bytes());
        assert!(matches!(
            Manifest::decode(out.into()),
            Err(ManifestError::Decode(DecodeError::Short(_)))
        ));
        let long = Bytes::from(vec![0; MAX_MANIFEST + 1]);
        assert!(matches!(Manifest::decode(long), Err(ManifestError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn what_is_decoded_is_encoded_to_the_same_bytes(bytes in any::<Vec<u8>>(), tree in proptest::collection::btree_set("[ab]{1,2}(/[ab]{1,2}){0,2}", 0..12)) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend(bytes);
            if let Ok(manifest) = Manifest::decode(with_magic.clone().into()) {
                prop_assert_eq!(manifest.encode(), with_magic);
            }
            let entries: Vec<_> = tree.iter().map(|path| folder(path)).collect();
            let complete = tree.iter().all(|p| path(p).parent().is_none_or(|parent| tree.contains(parent)));
            let manifest = Manifest::new(entries);
            prop_assert_eq!(manifest.is_ok(), complete);
            if let Ok(manifest) = manifest {
                prop_assert_eq!(Manifest::decode(manifest.encode().into()), Ok(manifest));
            }
        }

        #[test]
        fn a_flipped_bit_gives_another_manifest_or_an_error(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let manifest = Manifest::new(vec![folder("a"), file("a/x", 3), file("b", 4)]).unwrap();
            let mut bytes = manifest.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(other) = Manifest::decode(bytes.clone().into()) {
                prop_assert_ne!(&other, &manifest);
                prop_assert_eq!(other.encode(), bytes);
            }
        }
    }
}
