//! The files on disk that a download writes its verified pieces to.

mod batch;
mod folder;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use peerkit_proto::files::{
    Access, Description, FileName, Layout, LeftOut, NameFault, PieceList, PieceSet, Place, Renamed,
};
use peerkit_proto::id::Hash;

pub(super) use self::batch::Batch;
use self::folder::{Folder, MadeFolders};

use super::checking::{Checking, read_good};
use super::error::FetchError;
use super::fetch_request::Destination;
use super::listed::Listed;
use super::part::{PartFile, PartFolder};
use super::place::{Goal, check_merge, place_file, place_folder, rules_below};
use super::prove::{Content as ProvenContent, Proven};
use crate::lock::lock;
use crate::transfer::partial::Partial;

/// A download on the disk. Until it is whole it has a name that says so.
///
/// Every method blocks on the disk.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) hash: Hash,
    pub(super) description: Description,
    pub(super) layout: Arc<Layout>,
    /// Its path once it is whole.
    pub(super) path: PathBuf,
    /// Its name in the ticket, or at its source.
    name: FileName,
    /// The reason why its path has another name, if the user chose none.
    fault: Option<NameFault>,
    /// Number of bytes that are written in all.
    pub(super) total: u64,
    content: Content,
    /// The pieces that are written, or being written. No piece is written twice.
    written: Mutex<PieceSet>,
    /// The part was checked, so `written` is complete.
    is_checked: AtomicBool,
    /// Dropped after the content.
    _made: MadeFolders,
}

impl Drop for Target {
    /// Removes a part that holds nothing, however the download has ended.
    fn drop(&mut self) {
        if self.is_checked.load(Ordering::Acquire) && self.written().is_empty() {
            self.discard();
        }
    }
}

/// The content of a download on the disk.
#[derive(Debug)]
enum Content {
    File {
        part: PartFile,
        list: Arc<PieceList>,
    },
    /// The file is there already, under its name or another.
    FileThere {
        path: PathBuf,
        file: Arc<File>,
        list: Arc<PieceList>,
    },
    Folder(Folder),
    /// The folder is there already, under its name or another.
    FolderThere {
        path: PathBuf,
        listed: Listed,
    },
}

impl Target {
    /// Opens the files for proven content, and checks what an earlier download has left of them.
    /// Returns the pieces that are there. If the same content is there already, under its name, that
    /// is the target. With `overwrite` the download will replace what has its name. `name` is the name
    /// that it was asked for by; without one the source's name is taken.
    ///
    /// # Errors
    /// If the disk fails or has too little room, or if `checking` was stopped.
    pub(super) fn open(
        hash: Hash,
        proven: Proven,
        name: Option<&FileName>,
        (to, overwrite): (&Destination, bool),
        checking: &Checking,
    ) -> Result<(Self, PieceSet), FetchError> {
        let Proven { description, content } = proven;
        let name = name.unwrap_or(&description.name).clone();
        let made = MadeFolders::before(to);
        let goal = to.resolve(&name, overwrite)?;
        let path = goal.path.clone();
        let target = match content {
            ProvenContent::File { list } => {
                let layout = Arc::new(Layout::file(list.size())?);
                let content = match checking.there(&path, &list, overwrite)? {
                    Some((path, file)) => {
                        Content::FileThere { path, file: Arc::new(file), list: Arc::new(list) }
                    }
                    None => {
                        let part = PartFile::open(&path, &hash).map_err(disk(&path))?;
                        Content::File { part, list: Arc::new(list) }
                    }
                };
                Self::new(hash, description, layout, (name, goal, made), content)?
            }
            ProvenContent::Folder { manifest, lists } => {
                let layout = Arc::new(Layout::folder(&manifest));
                let rules = rules_below(&path);
                let mut listed = Listed::new(manifest, lists, &rules);
                if overwrite {
                    check_merge(&path, &listed)?;
                }
                let content = match checking.folder_there(&path, (&listed, &layout), overwrite)? {
                    Some(path) => Content::FolderThere { path, listed },
                    None => {
                        let part = PartFolder::open(&path, &hash).map_err(disk(&path))?;
                        listed.try_names(&part.files(), &rules);
                        Content::Folder(Folder::new(part, listed))
                    }
                };
                Self::new(hash, description, layout, (name, goal, made), content)?
            }
        };
        checking.begin(target.total);
        target.find(checking)?;
        let held = target.written().clone();
        target.make_room(&held)?;
        Ok((target, held))
    }

    fn new(
        hash: Hash,
        description: Description,
        layout: Arc<Layout>,
        (name, goal, _made): (FileName, Goal, MadeFolders),
        content: Content,
    ) -> Result<Self, FetchError> {
        let written = Mutex::new(PieceSet::of_count(layout.count())?);
        let total = match &content {
            Content::File { list, .. } | Content::FileThere { list, .. } => list.size(),
            Content::Folder(Folder { listed, .. }) | Content::FolderThere { listed, .. } => {
                listed.total()
            }
        };
        let is_checked = AtomicBool::new(match &content {
            Content::File { part, .. } => part.is_new(),
            Content::Folder(folder) => folder.part.is_new(),
            Content::FileThere { .. } | Content::FolderThere { .. } => false,
        });
        let Goal { path, fault } = goal;
        Ok(Self {
            hash,
            description,
            layout,
            path,
            name,
            fault,
            total,
            content,
            written,
            is_checked,
            _made,
        })
    }

    /// Returns the pieces that are not fetched because their files are left out.
    pub(super) fn left_out(&self) -> impl Iterator<Item = u64> {
        self.listed().into_iter().flat_map(|listed| listed.left_out(&self.layout))
    }

    /// Returns the entries that have another name on the disk than at the source, now that all is at
    /// `path`, and those that could not be written.
    pub(super) fn changes(&self, path: &Path) -> (Vec<Renamed>, Vec<LeftOut>) {
        let mut renamed = Vec::new();
        // If a number was added, it was added to the name that the user chose, if any.
        let taken = (path != self.path).then_some(NameFault::Taken);
        let wanted = match self.fault {
            Some(_) => Ok(self.name.clone()),
            None => FileName::of_path(&self.path),
        };
        if let (Some(why), Ok(name)) = (self.fault.or(taken), wanted) {
            renamed.push(Renamed { name: name.into(), path: path.to_owned(), why });
        }
        let Some(listed) = self.listed() else { return (renamed, Vec::new()) };
        let entries = listed.manifest().entries();
        let name = |at: usize| entries.get(at).map(|entry| entry.path().clone());
        renamed.extend(listed.names().renamed().filter_map(|(at, to, why)| {
            Some(Renamed { name: name(at)?, path: to.under(path), why })
        }));
        let left_out = listed.names().left_out();
        let left_out = left_out.filter_map(|(at, why)| Some(LeftOut { path: name(at)?, why }));
        (renamed, left_out.collect())
    }

    fn listed(&self) -> Option<&Listed> {
        match &self.content {
            Content::File { .. } | Content::FileThere { .. } => None,
            Content::Folder(Folder { listed, .. }) | Content::FolderThere { listed, .. } => {
                Some(listed)
            }
        }
    }

    /// Checks pieces, and writes those that are new.
    ///
    /// # Errors
    /// If a piece is wrong or can't be written. The pieces before it were written.
    pub(super) fn keep(&self, batch: &Batch) -> Result<(), FetchError> {
        for (piece, bytes) in batch.iter() {
            let place = self.layout.place(piece).ok_or(FetchError::Unfinished)?;
            self.verify(&place, bytes).map_err(self.within(&place))?;
            if !self.written().insert(piece) {
                continue;
            }
            if let Err(error) = self.write(&place, bytes) {
                self.written().remove(piece);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns what others are served of the download while it goes on, at first the pieces `held`.
    ///
    /// # Errors
    /// If it has too many pieces.
    pub(super) fn partial(&self, access: Access, held: &PieceSet) -> Result<Partial, FetchError> {
        let (description, layout) = (self.description.clone(), Arc::clone(&self.layout));
        let partial = Partial::new(self.hash, description, access, layout)?;
        let serve_folder = |path: &Path, listed: &Listed| {
            let (manifest, names) = (Arc::clone(listed.manifest()), Arc::clone(listed.names()));
            partial.set_folder(path.to_owned(), manifest, names);
            listed.lists().for_each(|(hash, list)| partial.add_list(*hash, Arc::clone(list)));
        };
        match &self.content {
            Content::File { part, list } => {
                partial.set_file(Arc::clone(part.file()));
                partial.add_list(self.hash, Arc::clone(list));
            }
            Content::FileThere { file, list, .. } => {
                partial.set_file(Arc::clone(file));
                partial.add_list(self.hash, Arc::clone(list));
            }
            Content::Folder(Folder { files, listed, .. }) => {
                serve_folder(files.path(), listed);
            }
            Content::FolderThere { path, listed } => serve_folder(path, listed),
        }
        held.pieces().for_each(|piece| partial.add(piece..piece.saturating_add(1)));
        Ok(partial)
    }

    /// Returns the error of a source at which the file was changed: in a folder, the file of this piece.
    pub(super) fn changed(&self, piece: Option<u64>) -> FetchError {
        let name = &self.description.name;
        let file = piece.and_then(|piece| self.layout.place(piece)).map(|place| place.file);
        let inside = match &self.content {
            Content::Folder(Folder { listed, .. }) => file.and_then(|file| listed.file(file)),
            _ => None,
        };
        let name = match inside {
            Some((path, _)) => format!("{name}/{path}"),
            None => name.to_string(),
        };
        FetchError::Changed { name }
    }

    /// Syncs a whole download to the disk and moves it to its place. Returns that path, and notes it in
    /// `partial`.
    pub(super) fn place(&self, overwrite: bool, partial: &Partial) -> Result<PathBuf, FetchError> {
        match &self.content {
            Content::File { part, .. } => place_file(part, &self.path, &self.hash, overwrite),
            Content::FileThere { path, .. } | Content::FolderThere { path, .. } => Ok(path.clone()),
            Content::Folder(Folder { part, listed, .. }) => {
                let path = place_folder(part, &self.path, listed, overwrite)?;
                partial.moved(path.clone());
                Ok(path)
            }
        }
    }

    /// Has the content on disk removed when it is dropped.
    fn discard(&self) {
        match &self.content {
            Content::File { part, .. } => part.discard(),
            Content::FileThere { .. } | Content::FolderThere { .. } => {}
            Content::Folder(folder) => folder.part.discard(),
        }
    }

    /// Finds out which pieces are there.
    fn find(&self, checking: &Checking) -> Result<(), FetchError> {
        let mut held = PieceSet::of_count(self.layout.count())?;
        match &self.content {
            Content::File { part, .. } => {
                let file = part.file();
                let there = file.metadata().map_err(disk(part.path()))?.len();
                if there > 0 {
                    self.check(&mut held, 0..self.layout.count(), file, checking)?;
                }
            }
            Content::FileThere { .. } | Content::FolderThere { .. } => {
                let left_out: BTreeSet<u64> = self.left_out().collect();
                let there = (0..held.count()).filter(|piece| !left_out.contains(piece));
                there.for_each(|piece| _ = held.insert(piece));
            }
            Content::Folder(folder) => {
                if !folder.part.is_new() {
                    let files = folder.files.path();
                    folder.listed.sweep(files, None).map_err(disk(files))?;
                }
                folder.make_folders()?;
                self.take_up(folder, &mut held, checking)?;
            }
        }
        *self.written() = held;
        self.is_checked.store(true, Ordering::Release);
        Ok(())
    }

    /// Reserves room for the pieces that are not `held`, or checks that there is room.
    fn make_room(&self, held: &PieceSet) -> Result<(), FetchError> {
        match &self.content {
            Content::File { part, list } => {
                let size = list.size();
                let reserved = part.reserve(size, self.description.stored);
                reserved.map_err(FetchError::no_space(part.path(), size))
            }
            Content::FileThere { .. } | Content::FolderThere { .. } => Ok(()),
            Content::Folder(folder) => {
                let missing: u64 = held
                    .missing_of(None, 0)
                    .filter_map(|piece| self.layout.place(piece))
                    .filter(|place| folder.listed.file(place.file).is_some())
                    .fold(0, |sum, place| sum.saturating_add(place.len()));
                let checked = folder.part.check_room(missing);
                checked.map_err(FetchError::no_space(folder.part.path(), missing))
            }
        }
    }

    /// Checks the files that an earlier download has left. Wrong ones are removed, and empty ones are
    /// made.
    fn take_up(
        &self,
        folder: &Folder,
        held: &mut PieceSet,
        checking: &Checking,
    ) -> Result<(), FetchError> {
        for file in 0..self.layout.files() {
            let pieces = self.layout.pieces(file);
            if folder.part.is_new() && !pieces.is_empty() {
                continue;
            }
            let Some((path, mode)) = folder.listed.file(file) else { continue };
            let at = path.under(folder.files.path());
            let found = match folder.part.is_new() {
                true => Err(io::ErrorKind::NotFound.into()),
                false => fs::symlink_metadata(&at),
            };
            match found {
                Ok(found) if found.is_file() => {
                    let size = self.layout.size(file).unwrap_or_default();
                    let opened = fs::OpenOptions::new().read(true).write(true).open(&at);
                    if let Some(file) = opened.ok().filter(|_| found.len() == size) {
                        self.check(held, pieces.clone(), &file, checking)?;
                    }
                    if pieces.clone().any(|piece| held.contains(piece))
                        || (size == 0 && found.len() == 0)
                    {
                        folder.note_made(file);
                        continue;
                    }
                    fs::remove_file(&at).map_err(disk(&at))?;
                }
                Ok(_) => {
                    let error = io::Error::new(io::ErrorKind::AlreadyExists, "it is in the way");
                    return Err(disk(&at)(error));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(disk(&at)(error)),
            }
            if pieces.is_empty() {
                folder.files.create(path, mode).map_err(disk(&at))?;
            }
        }
        Ok(())
    }

    /// Adds to `held` those of `pieces` that are right in `file`.
    fn check(
        &self,
        held: &mut PieceSet,
        pieces: std::ops::Range<u64>,
        file: &File,
        checking: &Checking,
    ) -> Result<(), FetchError> {
        let look = |piece, buffer: &mut Vec<u8>| {
            let place = self.layout.place(piece)?;
            read_good(file, place.range.clone(), buffer, |bytes| self.verify(&place, bytes).is_ok())
        };
        for piece in checking.good(pieces, look)? {
            held.insert(piece);
        }
        Ok(())
    }

    fn verify(&self, place: &Place, bytes: &[u8]) -> Result<(), FetchError> {
        match &self.content {
            Content::File { list, .. } | Content::FileThere { list, .. } => {
                Ok(list.verify_piece(place.index, bytes)?)
            }
            Content::Folder(Folder { listed, .. }) | Content::FolderThere { listed, .. } => {
                listed.verify(place, bytes)
            }
        }
    }

    fn write(&self, place: &Place, bytes: &[u8]) -> Result<(), FetchError> {
        match &self.content {
            Content::File { part, .. } => {
                part.write(bytes, place.range.start).map_err(disk(part.path()))
            }
            // All of it is there, so no piece is asked for.
            Content::FileThere { .. } | Content::FolderThere { .. } => Err(FetchError::Unfinished),
            Content::Folder(folder) => {
                folder.write(place, self.layout.size(place.file).unwrap_or_default(), bytes)
            }
        }
    }

    /// Names the file of a folder in an error.
    fn within(&self, place: &Place) -> impl FnOnce(FetchError) -> FetchError {
        let file = place.file;
        move |source| {
            let Content::Folder(folder) = &self.content else { return source };
            match folder.listed.file(file) {
                Some((path, _)) => {
                    FetchError::InFolder { path: path.clone(), error: Box::new(source) }
                }
                None => source,
            }
        }
    }

    fn written(&self) -> MutexGuard<'_, PieceSet> {
        lock(&self.written)
    }
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |error| FetchError::Disk { path, error }
}

#[cfg(test)]
mod tests {
    use peerkit_proto::files::{AccessKind, Entry, FileKind, MAX_FILE, Manifest, RelPath};

    use super::super::status::Shown;
    use super::*;

    fn proven(entries: Vec<Entry>) -> Proven {
        let manifest = Manifest::new(entries).unwrap();
        let size = manifest.encode().len() as u64;
        let description = Description {
            kind: FileKind::Folder,
            access: AccessKind::Open,
            whole: true,
            size,
            stored: size,
            name: "album".parse().unwrap(),
        };
        let lists = vec![None; manifest.entries().len()];
        Proven { description, content: ProvenContent::Folder { manifest, lists } }
    }

    fn open(proven: Proven, to: &Destination) -> Result<(Target, PieceSet), FetchError> {
        let hash = Hash::of(b"album");
        Target::open(hash, proven, None, (to, false), &Checking::new(Shown::new(hash, None)))
    }

    fn file(name: &str, size: u64) -> Entry {
        let (path, hash) = (RelPath::new(name).unwrap(), Hash::of(b"?"));
        Entry::File { path, size, hash, mode: 0o644 }
    }

    #[test]
    fn nothing_is_left_where_there_is_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let to = Destination::Folder(folder.path().join("new/deep"));
        // 16 TiB.
        let large = (0..4).map(|n| file(&n.to_string(), MAX_FILE)).collect();
        let failed = open(proven(large), &to).unwrap_err();
        assert!(matches!(failed, FetchError::NoSpace { .. }), "{failed:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_left_of_what_nothing_came_of() {
        let folder = tempfile::tempdir().unwrap();
        let to = Destination::Folder(folder.path().join("new/deep"));
        let (target, held) = open(proven(vec![file("a", 5)]), &to).unwrap();
        assert!(held.is_empty() && folder.path().join("new/deep").exists());
        drop(target);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // What was there before stays.
        fs::create_dir(folder.path().join("old")).unwrap();
        let to = Destination::Folder(folder.path().join("old/new"));
        drop(open(proven(vec![file("a", 5)]), &to).unwrap());
        assert_eq!(fs::read_dir(folder.path().join("old")).unwrap().count(), 0);
        assert!(folder.path().join("old").exists());
        // A part that may hold something is kept if it was not looked at to the end.
        let (target, _) = open(proven(vec![file("a", 5)]), &to).unwrap();
        let Content::Folder(part) = &target.content else { panic!() };
        let inside = part.files.path().join("a");
        target.written().insert(0);
        drop(target);
        fs::write(&inside, "12345").unwrap();
        let hash = Hash::of(b"album");
        let checking = Checking::new(Shown::new(hash, None));
        checking.stop();
        let stopped = Target::open(hash, proven(vec![file("a", 5)]), None, (&to, false), &checking);
        assert!(matches!(stopped, Err(FetchError::Stopped)));
        assert!(inside.exists());
    }
}
