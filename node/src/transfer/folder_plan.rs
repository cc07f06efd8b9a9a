//! The plan of a folder that is fetched: its entries, their piece lists, and their names on this disk.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use peerkit_proto::files::disk::nonportable_part;
use peerkit_proto::files::{
    DiskNames, DiskRules, FileName, Layout, Manifest, ManifestEntry, PieceError, PieceList,
    PiecePosition, RelPath,
};
use peerkit_proto::id::Hash;

/// A folder's manifest, the piece lists of its files with several pieces, and the path of each entry on the
/// disk. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct FolderPlan {
    manifest: Arc<Manifest>,
    names: Arc<DiskNames>,
    /// For each file its index among the entries, and its piece list if it has several pieces.
    files: Arc<[(usize, Option<Arc<PieceList>>)]>,
}

impl FolderPlan {
    /// Plans a folder whose names on the disk follow `rules`. `lists` has one item for each file, in order:
    /// its piece list, or `None` if the file has at most one piece.
    pub(super) fn new(
        manifest: Manifest,
        lists: Vec<Option<Arc<PieceList>>>,
        rules: &DiskRules,
    ) -> Self {
        let is_file = |entry: &ManifestEntry| matches!(entry, ManifestEntry::File { .. });
        let files = manifest.entries().iter().enumerate().filter(|(_, e)| is_file(e));
        let files = files.map(|(at, _)| at).zip(lists).collect();
        let names = Arc::new(DiskNames::plan(&manifest, rules, &BTreeSet::new()));
        Self { manifest: Arc::new(manifest), names, files }
    }

    /// Leaves out the entries whose names the disk refuses. Which names these are depends on the file system,
    /// and no system call returns it. So each is tried: a folder with this name is created in `at` and
    /// removed again.
    pub(super) fn try_names(&mut self, at: &Path, rules: &DiskRules) {
        let mut tried = BTreeSet::new();
        let mut refused = BTreeSet::new();
        for entry in self.manifest.entries() {
            let Some(name) = entry.path().components().next_back() else { continue };
            let Some(part) = nonportable_part(name) else { continue };
            // Names with the same nonportable part are refused alike, so one of them is tried: there may be a
            // million.
            if tried.insert(part.clone()) && is_refused(at, name) {
                refused.insert(part);
            }
        }
        if !refused.is_empty() {
            self.names = Arc::new(DiskNames::plan(&self.manifest, rules, &refused));
        }
    }

    pub(super) fn names(&self) -> &DiskNames {
        &self.names
    }

    /// Returns the entries that are written, each folder before its content, and their paths on the disk.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&ManifestEntry, &RelPath)> {
        let entries = self.manifest.entries().iter().enumerate();
        entries.filter_map(|(at, entry)| Some((entry, self.names.path(&self.manifest, at)?)))
    }

    /// Returns the pieces of files that are left out.
    pub(super) fn left_out(&self, layout: &Layout) -> impl Iterator<Item = u64> {
        let files = self.files.iter().enumerate();
        let files = files.filter(|(_, (at, _))| self.names.is_left_out(*at));
        files.flat_map(|(file, _)| layout.pieces(file))
    }

    /// Returns the number of bytes in the files that are written.
    pub(super) fn total(&self) -> u64 {
        let left_out = self.names.left_out().map(|(at, _)| match self.manifest.entries().get(at) {
            Some(ManifestEntry::File { size, .. }) => *size,
            _ => 0,
        });
        self.manifest.total().saturating_sub(left_out.fold(0, u64::saturating_add))
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the path on the disk and the mode of a file, or `None` if it is left out.
    pub(super) fn file(&self, file: usize) -> Option<(&RelPath, u32)> {
        let (at, _) = self.files.get(file)?;
        let entry = self.manifest.entries().get(*at)?;
        Some((self.names.path(&self.manifest, *at)?, entry.mode()))
    }

    /// Returns the piece lists of the files with several pieces, each with the hash of its file.
    pub(super) fn lists(&self) -> impl Iterator<Item = (Hash, Arc<PieceList>)> {
        self.files.iter().filter_map(|(at, list)| match self.manifest.entries().get(*at) {
            Some(ManifestEntry::File { hash, .. }) => Some((*hash, list.clone()?)),
            _ => None,
        })
    }

    /// Checks a piece against the list of its file.
    ///
    /// # Errors
    /// If the bytes are not those of the piece, or there is no such piece.
    pub(super) fn verify(&self, position: &PiecePosition, bytes: &[u8]) -> Result<(), PieceError> {
        let file = self.files.get(position.file);
        let entry = file.and_then(|(at, _)| self.manifest.entries().get(*at));
        match (file, entry) {
            (Some((_, Some(list))), _) => list.verify_piece(position.index, bytes),
            (_, Some(ManifestEntry::File { hash, size, .. })) => PieceList::single(hash, *size)
                .ok_or(PieceError::NoPiece(position.index))?
                .verify_piece(position.index, bytes),
            _ => Err(PieceError::NoPiece(position.index)),
        }
    }

    /// Returns whether the folder at `path` has exactly the planned entries, with the same names, kinds and
    /// sizes. The content of the files is not compared.
    pub(super) fn matches(&self, path: &Path) -> io::Result<bool> {
        let mut found = 0;
        Ok(self.has_only_planned(path, None, &mut found)? && found == self.entries().count())
    }

    /// Returns whether every entry of the folder at `at` is planned, and adds the number of entries to `found`.
    /// `within` is the path of `at` in the fetched folder.
    fn has_only_planned(
        &self,
        at: &Path,
        within: Option<&RelPath>,
        found: &mut usize,
    ) -> io::Result<bool> {
        for entry in fs::read_dir(at)? {
            let entry = entry?;
            let path = entry.path();
            // A symbolic link never matches: the metadata of a directory entry is that of the link itself.
            let is_planned = match (self.find(&path, within), entry.metadata()?) {
                (Some((ManifestEntry::Folder { .. }, rel)), metadata) if metadata.is_dir() => {
                    self.has_only_planned(&path, Some(&rel), found)?
                }
                (Some((ManifestEntry::File { size, .. }, _)), metadata) => {
                    metadata.is_file() && metadata.len() == *size
                }
                _ => false,
            };
            if !is_planned {
                return Ok(false);
            }
            *found += 1;
        }
        Ok(true)
    }

    /// Removes from the folder at `at` everything that is not in the plan. `within` is the path of `at` in
    /// the fetched folder, or `None` for the fetched folder itself.
    pub(super) fn sweep(&self, at: &Path, within: Option<&RelPath>) -> io::Result<()> {
        for found in fs::read_dir(at)? {
            let found = found?;
            // The type is that of the entry itself, so a link to a folder is removed and never followed:
            // its target is not ours to delete.
            let (path, is_folder) = (found.path(), found.file_type()?.is_dir());
            match (self.find(&path, within), is_folder) {
                (Some((ManifestEntry::Folder { .. }, rel)), true) => {
                    self.sweep(&path, Some(&rel))?;
                }
                (Some((ManifestEntry::File { .. }, _)), false) => {}
                (_, true) => fs::remove_dir_all(&path)?,
                (_, false) => fs::remove_file(&path)?,
            }
        }
        Ok(())
    }

    /// Returns the entry that is planned at `path` in the folder `within`, and its path in the fetched
    /// folder.
    fn find(&self, path: &Path, within: Option<&RelPath>) -> Option<(&ManifestEntry, RelPath)> {
        let name = FileName::of_path(path).ok()?;
        let rel = match within {
            None => name.into(),
            Some(within) => within.child(&name).ok()?,
        };
        let at = self.names.entry_at(&self.manifest, &rel)?;
        Some((self.manifest.entries().get(at)?, rel))
    }
}

/// Returns whether the file system refuses this name in the folder `at`.
fn is_refused(at: &Path, name: &str) -> bool {
    let path = at.join(name);
    match fs::create_dir(&path) {
        Ok(()) => {
            let _ = fs::remove_dir(&path);
            false
        }
        // The kinds below say nothing about the name. Either the folder exists already, from an earlier
        // fetch, or the disk would refuse any name now.
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::AlreadyExists
                | io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::NotFound
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerkit_proto::files::Platform;

    #[test]
    fn an_entry_with_another_name_on_the_disk_is_found() {
        let file = |text: &str| {
            let (path, hash) = (RelPath::new(text).unwrap(), Hash::of(b"abc"));
            ManifestEntry::File { path, size: 3, hash, mode: 0o644 }
        };
        let folder = ManifestEntry::Folder { path: RelPath::new("aux").unwrap(), mode: 0o755 };
        let manifest = Manifest::new(vec![folder, file("aux/a:b"), file("long name")]).unwrap();
        let layout = Layout::folder(&manifest);
        let rules = DiskRules { max_name: 5, ..DiskRules::new(Platform::Windows) };
        let plan = FolderPlan::new(manifest, vec![None, None], &rules);
        assert_eq!(plan.file(0).unwrap().0.as_str(), "aux_/a_b");
        assert_eq!(plan.file(1), None);
        assert_eq!((plan.total(), plan.left_out(&layout).collect::<Vec<_>>()), (3, vec![1]));
        let disk = tempfile::tempdir().unwrap();
        fs::create_dir(disk.path().join("aux_")).unwrap();
        fs::write(disk.path().join("aux_/a_b"), "abc").unwrap();
        assert!(plan.matches(disk.path()).unwrap());
        fs::write(disk.path().join("aux_/a:b"), "abc").unwrap();
        plan.sweep(disk.path(), None).unwrap();
        assert!(plan.matches(disk.path()).unwrap());
    }

    #[test]
    fn a_folder_matches_its_plan_only_with_the_same_names_and_sizes() {
        let path = |text: &str| RelPath::new(text).unwrap();
        let file = |text: &str| {
            let (path, hash) = (path(text), Hash::of(b"abc"));
            ManifestEntry::File { path, size: 3, hash, mode: 0o644 }
        };
        let entries =
            vec![ManifestEntry::Folder { path: path("in"), mode: 0o755 }, file("in/a"), file("b")];
        let rules = DiskRules::new(Platform::Unix);
        let plan = FolderPlan::new(Manifest::new(entries).unwrap(), vec![None, None], &rules);
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let matches = || plan.matches(folder.path()).unwrap();
        fs::create_dir(at("in")).unwrap();
        fs::write(at("b"), "abc").unwrap();
        assert!(!matches(), "a file is missing");
        fs::write(at("in/a"), "xyz").unwrap();
        assert!(matches(), "the content of files is not compared");
        fs::write(at("in/a"), "longer").unwrap();
        assert!(!matches(), "a file has another size");
        fs::write(at("in/a"), "abc").unwrap();
        fs::write(at("in/more"), "").unwrap();
        assert!(!matches(), "an entry that is not planned");
        plan.sweep(folder.path(), None).unwrap();
        assert!(matches());
        fs::remove_file(at("b")).unwrap();
        fs::create_dir(at("b")).unwrap();
        assert!(!matches(), "a folder in place of a file");
        assert!(plan.matches(&at("none")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_not_taken_for_a_file() {
        let path = RelPath::new("a").unwrap();
        let entry = ManifestEntry::File { path, size: 1, hash: Hash::of(b"a"), mode: 0o644 };
        let rules = DiskRules::new(Platform::Unix);
        let plan = FolderPlan::new(Manifest::new(vec![entry]).unwrap(), vec![None], &rules);
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other");
        fs::write(&other, "a").unwrap();
        let within = folder.path().join("within");
        fs::create_dir(&within).unwrap();
        std::os::unix::fs::symlink(&other, within.join("a")).unwrap();
        assert!(!plan.matches(&within).unwrap());
    }
}
