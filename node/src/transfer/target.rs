//! Where verified pieces go, and what is there already.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use peerkit_proto::files::{
    Access, Description, FileName, Layout, LeftOut, NameFault, PieceList, PieceSet, Place, RelPath,
    Renamed,
};
use peerkit_proto::id::Hash;

use super::FetchError;
use super::checking::{Checking, read_good};
use super::get::Destination;
use super::listed::Listed;
use super::part::{PartFile, PartFolder, write_all_at};
use super::partial::Partial;
use super::place::{Goal, check_merge, place_file, place_folder, rules_below};
use super::prove::{Content as ProvenContent, Proven};
use crate::folder::OpenFolder;
use crate::lock::lock;

/// Files of a folder that are kept open because they have several pieces.
const OPEN: usize = 8;

/// What is fetched, on this machine's disk: not whole yet, under a name that says so.
///
/// Every method blocks on the disk.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) hash: Hash,
    pub(super) description: Description,
    pub(super) layout: Arc<Layout>,
    /// Where it is to be.
    pub(super) path: PathBuf,
    /// Its name, as a ticket or its source has it.
    name: FileName,
    /// Why it does not have that name at its path, if the user chose none.
    fault: Option<NameFault>,
    /// Bytes of all that is written.
    pub(super) total: u64,
    content: Content,
    /// Pieces that are there: written, or being written. None is written twice.
    written: Mutex<PieceSet>,
    /// What is in the part is known: `written` leaves nothing out.
    is_checked: AtomicBool,
    /// Dropped after the content.
    _made: MadeFolders,
}

/// Folders that were made for a target. Those that are empty when this is dropped are removed: nothing
/// was put into them.
#[derive(Debug)]
struct MadeFolders(Vec<PathBuf>);

impl MadeFolders {
    /// Of the folder that a fetch to `to` makes, and of those above it, the ones that are not there
    /// yet.
    fn before(to: &Destination) -> Self {
        let Destination::Folder(folder) = to else { return Self(Vec::new()) };
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        Self(folder.ancestors().take_while(is_missing).map(Path::to_owned).collect())
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for folder in &self.0 {
            // Not empty, in most cases: then those above it are not either.
            if fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }
}

impl Drop for Target {
    /// A part that holds nothing is not worth keeping, however the fetch has ended.
    fn drop(&mut self) {
        if self.is_checked.load(Ordering::Acquire) && self.written().is_empty() {
            self.discard();
        }
    }
}

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
    /// The same of a folder.
    FolderThere {
        path: PathBuf,
        listed: Listed,
    },
}

#[derive(Debug)]
struct Folder {
    part: PartFolder,
    /// The folder that becomes the target.
    files: OpenFolder,
    listed: Listed,
    /// The larger files that are being written, the last used at the end.
    open: Mutex<Vec<(usize, Arc<File>)>>,
    /// Files of several pieces that were made here. On a disk that does not tell `A` from `a` another
    /// name may be the same file: that is seen by its being there already.
    made: Mutex<HashSet<usize>>,
}

/// Verified in part: pieces of one source that are to be checked and written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Only ever grows: what is after `len` is left over from before.
    bytes: Vec<u8>,
    len: usize,
    /// The pieces, each with how many of the bytes it has, in order.
    pub(super) pieces: Vec<(u64, usize)>,
}

impl Batch {
    /// How many bytes its pieces have.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Makes it empty; its memory stays.
    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.pieces.clear();
    }

    /// Where the `len` bytes of one more piece go.
    pub(super) fn put(&mut self, piece: u64, len: usize) -> &mut [u8] {
        let start = self.len;
        self.len = start.saturating_add(len);
        if self.bytes.len() < self.len {
            self.bytes.resize(self.len, 0);
        }
        self.pieces.push((piece, len));
        self.bytes.get_mut(start..self.len).unwrap_or_default()
    }

    /// Forgets the last piece, whose bytes have not come.
    pub(super) fn take_back(&mut self) {
        if let Some((_, len)) = self.pieces.pop() {
            self.len = self.len.saturating_sub(len);
        }
    }
}

impl Target {
    /// Opens the place for what was proven: takes up what an earlier fetch has left of it, checks
    /// all of that, and tells which pieces are there. Where the very same is in its place already it
    /// is that. With `overwrite` it is going to replace what has its name. `name` is the one that it
    /// was asked for by; without one it is that of the source.
    ///
    /// # Errors
    /// Where the disk refuses, or has too little room, or `checking` was stopped.
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

    /// The pieces that are not fetched, as their files are left out.
    pub(super) fn left_out(&self) -> impl Iterator<Item = u64> {
        self.listed().into_iter().flat_map(|listed| listed.left_out(&self.layout))
    }

    /// What has another name on the disk than at its source, now that it all is at `path`, and what
    /// of it could not be written.
    pub(super) fn changes(&self, path: &Path) -> (Vec<Renamed>, Vec<LeftOut>) {
        let mut renamed = Vec::new();
        // The name that a number was added to is that which the user has chosen, if so.
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
    /// The piece that is not what it should be, or could not be written; those before it were.
    pub(super) fn keep(&self, batch: &Batch) -> Result<(), FetchError> {
        let mut rest = &batch.bytes[..];
        for (piece, len) in &batch.pieces {
            let (bytes, after) = rest.split_at_checked(*len).unwrap_or_default();
            rest = after;
            let place = self.layout.place(*piece).ok_or(FetchError::Unfinished)?;
            self.verify(&place, bytes).map_err(self.within(&place))?;
            if !self.written().insert(*piece) {
                continue;
            }
            if let Err(error) = self.write(&place, bytes) {
                self.written().remove(*piece);
                return Err(error);
            }
        }
        Ok(())
    }

    /// What others are served of it while it is fetched, `held` at first.
    ///
    /// # Errors
    /// Where it has too many pieces.
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

    /// The error of a source where the file was changed: in a folder the one of this piece.
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

    /// Puts what is whole in its place, on disk for good, and tells where that is. `partial` is
    /// told too.
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

    /// Marks the content on disk as not worth keeping: it is removed when it is dropped.
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
                self.make_folders(folder)?;
                self.take_up(folder, &mut held, checking)?;
            }
        }
        *self.written() = held;
        self.is_checked.store(true, Ordering::Release);
        Ok(())
    }

    /// Sees to it that there is room for what is not in `held`.
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

    fn make_folders(&self, folder: &Folder) -> Result<(), FetchError> {
        for path in folder.listed.folders() {
            let path = path.under(folder.files.path());
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(disk(&path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Looks at the files that an earlier fetch has left: those that are not what they should be are
    /// removed, and empty ones are made.
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
                        lock(&folder.made).insert(file);
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

    /// Adds to `held` those of `pieces` that `file` has as they should be.
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
            // Nothing of it is asked for.
            Content::FileThere { .. } | Content::FolderThere { .. } => Err(FetchError::Unfinished),
            Content::Folder(folder) => {
                let (path, mode) = folder.listed.file(place.file).ok_or(FetchError::Unfinished)?;
                let at = || path.under(folder.files.path());
                let size = self.layout.size(place.file).unwrap_or_default();
                let written = match size == place.len() {
                    true => folder
                        .files
                        .create(path, mode)
                        .and_then(|file| write_all_at(&file, bytes, 0)),
                    false => folder
                        .large(place.file, path, mode, size)
                        .and_then(|file| write_all_at(&file, bytes, place.range.start)),
                };
                written.map_err(|error| disk(&at())(error))
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
                    FetchError::InFolder { path: path.clone(), source: Box::new(source) }
                }
                None => source,
            }
        }
    }

    fn written(&self) -> MutexGuard<'_, PieceSet> {
        lock(&self.written)
    }
}

impl Folder {
    fn new(part: PartFolder, listed: Listed) -> Self {
        Self {
            files: OpenFolder::new(part.files()),
            part,
            listed,
            open: Mutex::default(),
            made: Mutex::default(),
        }
    }

    /// The file of several pieces, made where it was not.
    fn large(&self, file: usize, path: &RelPath, mode: u32, size: u64) -> io::Result<Arc<File>> {
        let mut open = lock(&self.open);
        if let Some(at) = open.iter().position(|(known, _)| *known == file) {
            let found = open.remove(at);
            open.push(found.clone());
            return Ok(found.1);
        }
        let opened = match lock(&self.made).contains(&file) {
            true => {
                fs::OpenOptions::new().read(true).write(true).open(path.under(self.files.path()))?
            }
            false => {
                let made = self.files.create(path, mode)?;
                made.set_len(size)?;
                made
            }
        };
        lock(&self.made).insert(file);
        let opened = Arc::new(opened);
        if open.len() >= OPEN {
            open.remove(0);
        }
        open.push((file, Arc::clone(&opened)));
        Ok(opened)
    }
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::Disk { path, source }
}

#[cfg(test)]
mod tests {
    use peerkit_proto::files::{AccessKind, Entry, FileKind, MAX_FILE, Manifest};

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
