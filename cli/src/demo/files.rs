//! The files that the demo shares, and their comparison with the fetched copies.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use peerkit::{Hash, Skipped};

/// Name of the folder that the demo makes.
pub(super) const FOLDER: &str = "holiday";

/// Name of the largest file in it.
pub(super) const LARGEST: &str = "film.bin";

/// The names and sizes of the files. Beside tiny files, there are files of about 1 KiB (a chunk of BLAKE3),
/// of about 1 MiB (a piece), and of several pieces.
const FILES: [(&str, usize); 8] = [
    ("empty.txt", 0),
    ("letter.txt", 1),
    ("list with spaces.txt", 1024),
    ("photos/sunset.jpg", (1 << 20) - 1),
    ("photos/harbour.jpg", 1 << 20),
    ("photos/2024/märz/boat.jpg", (1 << 20) + 1),
    ("notes/deep/er/still.md", 1025),
    (LARGEST, (4 << 20) + 12_345),
];

/// Makes the folder with its files, which have the same content every time.
pub(super) fn make(folder: &Path) -> anyhow::Result<()> {
    for (name, len) in FILES {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(&path, content(name, len))
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

/// Returns `len` bytes that look random and are the same every time: BLAKE3's extended output.
pub(super) fn content(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new_derive_key("peerkit demo 2026 files");
    hasher.update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Returns the hash of a file, computed by the blake3 crate and not by the node under test.
pub(super) fn hash(path: &Path) -> anyhow::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).with_context(|| format!("could not open {}", path.display()))?;
    hasher.update_reader(file)?;
    Ok(Hash::from_bytes(*hasher.finalize().as_bytes()))
}

/// The files of a folder, under their paths in it.
pub(super) struct FileTree {
    root: PathBuf,
    /// The length and the hash of each file.
    files: BTreeMap<PathBuf, (u64, Hash)>,
}

impl FileTree {
    /// Reads and hashes the files in a folder, except symbolic links and the `skipped` entries.
    pub(super) fn read(root: &Path, skipped: &[Skipped]) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder);
            for entry in entries.with_context(|| format!("could not read {}", folder.display()))? {
                let entry = entry?;
                let (path, kind) = (entry.path(), entry.file_type()?);
                // The node does not share skipped entries, so they can't be fetched either.
                if skipped.iter().any(|skipped| skipped.path == path) {
                    continue;
                }
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() {
                    let name = path.strip_prefix(root)?.to_owned();
                    files.insert(name, (entry.metadata()?.len(), hash(&path)?));
                }
            }
        }
        let root = root.to_owned();
        Ok(Self { root, files })
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|(len, _)| len).sum()
    }

    /// Checks that `copy` has the same files, each with the same bytes.
    pub(super) fn compare(&self, copy: &Self) -> anyhow::Result<()> {
        for (name, file) in &self.files {
            let Some(other) = copy.files.get(name) else {
                bail!("{} was not fetched", name.display());
            };
            ensure!(file == other, "the hash of {} differs", name.display());
            // Equal hashes imply equal bytes, but this check does not rely on BLAKE3.
            let equal = same_bytes(&self.root.join(name), &copy.root.join(name))?;
            ensure!(equal, "the bytes of {} differ", name.display());
        }
        if let Some(name) = copy.files.keys().find(|name| !self.files.contains_key(*name)) {
            bail!("{} was fetched but not shared", name.display());
        }
        Ok(())
    }

    /// Returns the hash and the path of each file. Paths are relative to `above`, if it contains them.
    pub(super) fn hash_lines(&self, above: &Path) -> impl Iterator<Item = (Hash, String)> {
        let root = self.root.strip_prefix(above).unwrap_or(&self.root);
        let files = self.files.iter();
        files.map(move |(name, (_, hash))| (*hash, root.join(name).display().to_string()))
    }
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    use io::{BufRead, BufReader};
    let mut one = BufReader::with_capacity(1 << 16, File::open(one)?);
    let mut other = BufReader::with_capacity(1 << 16, File::open(other)?);
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        // The two reads may have returned different amounts.
        let len = left.len().min(right.len());
        if left[..len] != right[..len] {
            return Ok(false);
        }
        if len == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        one.consume(len);
        other.consume(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_missing_or_added_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        make(&one).unwrap();
        make(&other).unwrap();
        let compare =
            || FileTree::read(&one, &[]).unwrap().compare(&FileTree::read(&other, &[]).unwrap());
        compare().unwrap();
        assert!(!same_bytes(&one.join(LARGEST), &one.join("empty.txt")).unwrap());
        assert!(!same_bytes(&one.join("letter.txt"), &one.join(LARGEST)).unwrap());
        fs::write(other.join("letter.txt"), "?").unwrap();
        assert!(compare().unwrap_err().to_string().contains("letter.txt"));
        fs::remove_file(other.join("letter.txt")).unwrap();
        assert!(compare().unwrap_err().to_string().contains("not fetched"));
        fs::copy(one.join("letter.txt"), other.join("letter.txt")).unwrap();
        fs::write(other.join("more"), "").unwrap();
        assert!(compare().unwrap_err().to_string().contains("not shared"));
    }
}
