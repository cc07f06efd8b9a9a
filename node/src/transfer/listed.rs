//! What a folder that is fetched has to be.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use peerkit_proto::files::{Entry, FileName, Manifest, PieceList, Place, RelPath};
use peerkit_proto::id::Hash;

use super::FetchError;

/// A folder's manifest, and the lists of the larger files in it.
#[derive(Debug)]
pub(super) struct Listed {
    manifest: Arc<Manifest>,
    /// The entries that are files, and the lists of those of several pieces.
    files: Vec<(usize, Option<Arc<PieceList>>)>,
}

impl Listed {
    /// `lists` has one of each file, in order; `None` where that has at most one piece.
    pub(super) fn new(manifest: Manifest, lists: Vec<Option<Arc<PieceList>>>) -> Self {
        let is_file = |entry: &Entry| matches!(entry, Entry::File { .. });
        let files = manifest.entries().iter().enumerate().filter(|(_, e)| is_file(e));
        let files = files.map(|(at, _)| at).zip(lists).collect();
        Self { manifest: Arc::new(manifest), files }
    }

    pub(super) fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The path and the mode of one of the files.
    pub(super) fn file(&self, file: usize) -> Option<(&RelPath, u32)> {
        let (at, _) = self.files.get(file)?;
        self.manifest.entries().get(*at).map(|entry| (entry.path(), entry.mode()))
    }

    /// The paths of the folders in it, each before those that are in it.
    pub(super) fn folders(&self) -> impl Iterator<Item = &RelPath> {
        self.manifest.entries().iter().filter_map(|entry| match entry {
            Entry::Folder { path, .. } => Some(path),
            Entry::File { .. } => None,
        })
    }

    /// The lists of its larger files, by their hashes.
    pub(super) fn lists(&self) -> impl Iterator<Item = (&Hash, &Arc<PieceList>)> {
        self.files.iter().filter_map(|(at, list)| match self.manifest.entries().get(*at) {
            Some(Entry::File { hash, .. }) => Some((hash, list.as_ref()?)),
            _ => None,
        })
    }

    /// Checks a piece.
    ///
    /// # Errors
    /// Where it is not what it should be.
    pub(super) fn verify(&self, place: &Place, bytes: &[u8]) -> Result<(), FetchError> {
        let (at, list) = self.files.get(place.file).ok_or(FetchError::Unfinished)?;
        match (list, self.manifest.entries().get(*at)) {
            (Some(list), _) => list.verify_piece(place.index, bytes)?,
            (None, Some(Entry::File { hash, size, .. })) => {
                let list = PieceList::single(hash, *size).ok_or(FetchError::Unfinished)?;
                list.verify_piece(0, bytes)?;
            }
            _ => return Err(FetchError::Unfinished),
        }
        Ok(())
    }

    /// Whether the folder at `path` has the same names and sizes, and nothing else in it.
    pub(super) fn is_like(&self, path: &Path) -> io::Result<bool> {
        let mut found = 0;
        Ok(self.fits(path, None, &mut found)? && found == self.manifest.entries().len())
    }

    fn fits(&self, at: &Path, within: Option<&RelPath>, found: &mut usize) -> io::Result<bool> {
        for there in fs::read_dir(at)? {
            let there = there?;
            let path = there.path();
            let fits = match (self.find(&path, within), there.metadata()?) {
                (Some(Entry::Folder { path: rel, .. }), is) if is.is_dir() => {
                    self.fits(&path, Some(rel), found)?
                }
                (Some(Entry::File { size, .. }), is) => is.is_file() && is.len() == *size,
                _ => false,
            };
            if !fits {
                return Ok(false);
            }
            *found += 1;
        }
        Ok(true)
    }

    /// Removes from the folder at `at`, which is `within` the whole, what does not belong there.
    pub(super) fn sweep(&self, at: &Path, within: Option<&RelPath>) -> io::Result<()> {
        for found in fs::read_dir(at)? {
            let found = found?;
            let (path, is_folder) = (found.path(), found.file_type()?.is_dir());
            match (self.find(&path, within), is_folder) {
                (Some(Entry::Folder { path: rel, .. }), true) => self.sweep(&path, Some(rel))?,
                (Some(Entry::File { .. }), false) => {}
                (_, true) => fs::remove_dir_all(&path)?,
                (_, false) => fs::remove_file(&path)?,
            }
        }
        Ok(())
    }

    /// The entry of what is at `path`, in the folder `within`.
    fn find(&self, path: &Path, within: Option<&RelPath>) -> Option<&Entry> {
        let name = FileName::of_path(path).ok()?;
        let rel = match within {
            None => name.into(),
            Some(within) => within.child(&name).ok()?,
        };
        let entries = self.manifest.entries();
        let at = entries.binary_search_by(|entry| entry.path().cmp(&rel)).ok()?;
        entries.get(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_like_it_with_all_of_it_and_nothing_else() {
        let path = |text: &str| RelPath::new(text).unwrap();
        let file = |text: &str| {
            let (path, hash) = (path(text), Hash::of(b"abc"));
            Entry::File { path, size: 3, hash, mode: 0o644 }
        };
        let entries =
            vec![Entry::Folder { path: path("in"), mode: 0o755 }, file("in/a"), file("b")];
        let listed = Listed::new(Manifest::new(entries).unwrap(), vec![None, None]);
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let is_like = || listed.is_like(folder.path()).unwrap();
        fs::create_dir(at("in")).unwrap();
        fs::write(at("b"), "abc").unwrap();
        assert!(!is_like(), "something is missing");
        fs::write(at("in/a"), "xyz").unwrap();
        assert!(is_like(), "what is in the files is not looked at");
        fs::write(at("in/a"), "longer").unwrap();
        assert!(!is_like(), "another size");
        fs::write(at("in/a"), "abc").unwrap();
        fs::write(at("in/more"), "").unwrap();
        assert!(!is_like(), "something else");
        listed.sweep(folder.path(), None).unwrap();
        assert!(is_like());
        fs::remove_file(at("b")).unwrap();
        fs::create_dir(at("b")).unwrap();
        assert!(!is_like(), "a folder in place of a file");
        assert!(listed.is_like(&at("none")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_not_what_it_leads_to() {
        let path = RelPath::new("a").unwrap();
        let entry = Entry::File { path, size: 1, hash: Hash::of(b"a"), mode: 0o644 };
        let listed = Listed::new(Manifest::new(vec![entry]).unwrap(), vec![None]);
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other");
        fs::write(&other, "a").unwrap();
        let within = folder.path().join("within");
        fs::create_dir(&within).unwrap();
        std::os::unix::fs::symlink(&other, within.join("a")).unwrap();
        assert!(!listed.is_like(&within).unwrap());
    }
}
