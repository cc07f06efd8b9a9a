//! The content of a download on the disk: checks what is there, and writes verified pieces.

mod folder;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use peerkit_proto::files::{
    Access, Description, FileKind, FileName, Layout, LeftOut, NameFault, PieceError, PieceList,
    PiecePosition, PieceSet, Renamed,
};
use peerkit_proto::id::Hash;

use self::folder::{CreatedFolders, Folder};

use super::disk_check::DiskCheck;
use super::error::FetchError;
use super::fetch_request::FetchRequest;
use super::part::{DownloadPart, reserve};
use super::place::{TargetPath, candidates, check_merge, place_file, place_folder, rules_below};
use super::prove::{Proven, ProvenContent};
use super::writer::PieceBatch;
use crate::disk::{read_exact_at, space, write_all_at};
use crate::lock::lock;
use crate::transfer::folder_plan::FolderPlan;
use crate::transfer::partial::{Partial, PartialContent};

/// The content of a download on the disk. Until it is complete, it has the name of its [part](DownloadPart).
///
/// Every method blocks on the disk.
#[derive(Debug)]
pub(super) struct DownloadTarget {
    pub(super) hash: Hash,
    pub(super) description: Description,
    pub(super) layout: Arc<Layout>,
    /// Its path once it is complete.
    pub(super) path: PathBuf,
    /// Its name in the ticket, or at its source.
    name: FileName,
    /// The reason why `path` does not end with `name`. `None` if it does, or if the user chose the path.
    fault: Option<NameFault>,
    /// Total number of bytes to be written.
    pub(super) total: u64,
    content: TargetContent,
    storage: Storage,
    /// The pieces that are written, or being written. No piece is written twice.
    written: Mutex<PieceSet>,
    /// If true, the part was checked, so `written` has all pieces that are on the disk.
    is_checked: AtomicBool,
    /// Dropped after the content and its part.
    _created: CreatedFolders,
}

/// The files that pieces are read from and written to.
#[derive(Debug)]
enum TargetContent {
    File { file: Arc<File>, list: Arc<PieceList> },
    Folder(Folder),
}

/// The place of the content on the disk while it is fetched.
#[derive(Debug)]
enum Storage {
    Part(DownloadPart),
    /// The whole content was found here.
    Found(PathBuf),
}

impl Drop for DownloadTarget {
    /// Removes a part without pieces, no matter how the download has ended.
    fn drop(&mut self) {
        if let Some(part) = self.part()
            && self.is_checked.load(Ordering::Acquire)
            && self.written().is_empty()
        {
            part.discard();
        }
    }
}

impl DownloadTarget {
    /// Opens the files for proven content, and checks what an earlier download has left of them. Returns the
    /// pieces that are there. If the complete content is found at one of the paths that the download may get,
    /// that is the target.
    ///
    /// # Errors
    /// If the disk fails or has too little room, or if `checking` was stopped.
    pub(super) fn open(
        request: &FetchRequest,
        proven: Proven,
        checking: &DiskCheck,
    ) -> Result<(Self, PieceSet), FetchError> {
        let Proven { description, content } = proven;
        let name = request.name.as_ref().unwrap_or(&description.name).clone();
        let made = CreatedFolders::before(&request.to);
        let TargetPath { path, fault } = request.to.resolve(&name, request.overwrite)?;
        let layout = Arc::new(match &content {
            ProvenContent::File { list } => Layout::file(list.size())?,
            ProvenContent::Folder { manifest, .. } => Layout::folder(manifest),
        });
        let (content, storage) = open_content(request, content, &path, &layout, checking)?;
        let is_new = matches!(&storage, Storage::Part(part) if part.is_new());
        let target = Self {
            hash: request.hash,
            description,
            path,
            name,
            fault,
            total: content.total(),
            content,
            storage,
            written: Mutex::new(PieceSet::of_count(layout.count())?),
            layout,
            is_checked: AtomicBool::new(is_new),
            _created: made,
        };
        checking.begin(target.total);
        let held = target.find_held(checking)?;
        target.written().clone_from(&held);
        target.is_checked.store(true, Ordering::Release);
        target.reserve_room(&held)?;
        Ok((target, held))
    }

    /// Returns the pieces that are not fetched because their files are left out.
    pub(super) fn left_out(&self) -> impl Iterator<Item = u64> {
        self.plan().into_iter().flat_map(|plan| plan.left_out(&self.layout))
    }

    /// Returns the entries that have another name on the disk than at the source, and those that could not be
    /// written. `path` is the final path of the content.
    pub(super) fn changes(&self, path: &Path) -> (Vec<Renamed>, Vec<LeftOut>) {
        let mut renamed = Vec::new();
        // A number is added to the last name of `self.path`, which the user may have chosen.
        let taken = (path != self.path).then_some(NameFault::NameInUse);
        let wanted = match self.fault {
            Some(_) => Ok(self.name.clone()),
            None => FileName::of_path(&self.path),
        };
        if let (Some(why), Ok(name)) = (self.fault.or(taken), wanted) {
            renamed.push(Renamed { name: name.into(), path: path.to_owned(), why });
        }
        let Some(plan) = self.plan() else { return (renamed, Vec::new()) };
        let entries = plan.manifest().entries();
        let name = |at: usize| entries.get(at).map(|entry| entry.path().clone());
        renamed.extend(plan.names().renamed().filter_map(|(at, to, why)| {
            Some(Renamed { name: name(at)?, path: to.join_to(path), why })
        }));
        let left_out = plan.names().left_out();
        let left_out = left_out.filter_map(|(at, why)| Some(LeftOut { path: name(at)?, why }));
        (renamed, left_out.collect())
    }

    /// Verifies pieces, and writes those that are new.
    ///
    /// # Errors
    /// If a piece is wrong or can't be written. The pieces before it were written.
    pub(super) fn verify_and_write(&self, batch: &PieceBatch) -> Result<(), FetchError> {
        for (piece, bytes) in batch.iter() {
            let position = self.layout.position(piece).ok_or(FetchError::Unfinished)?;
            self.content
                .verify(&position, bytes)
                .map_err(|error| self.in_folder(&position, error))?;
            // Noted before it is written, as two sources may send the same piece at the same time.
            if !self.written().insert(piece) {
                continue;
            }
            if let Err(error) = self.write(&position, bytes) {
                self.written().remove(piece);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns the download in the form in which it is served to other nodes, with the pieces `held` to begin
    /// with.
    ///
    /// # Errors
    /// If it has too many pieces.
    pub(super) fn partial(&self, access: Access, held: &PieceSet) -> Result<Partial, FetchError> {
        let content = match &self.content {
            TargetContent::File { file, list } => {
                PartialContent::File(Arc::clone(file), Arc::clone(list))
            }
            TargetContent::Folder(folder) => {
                PartialContent::folder(folder.files.path().to_owned(), folder.plan.clone())
            }
        };
        let description = self.description.clone();
        let layout = Arc::clone(&self.layout);
        let partial = Partial::new(self.hash, description, access, layout, content)?;
        held.pieces().for_each(|piece| partial.add(piece..piece.saturating_add(1)));
        Ok(partial)
    }

    /// Returns the error for content that was changed at its source. If it is a folder, `piece` is part of
    /// the changed file.
    pub(super) fn changed(&self, piece: Option<u64>) -> FetchError {
        let name = &self.description.name;
        let position = piece.and_then(|piece| self.layout.position(piece));
        let inside =
            self.plan().zip(position).and_then(|(plan, position)| plan.file(position.file));
        let name = match inside {
            Some((path, _)) => format!("{name}/{path}"),
            None => name.to_string(),
        };
        FetchError::Changed { name }
    }

    /// Syncs the complete content to the disk and moves it to its path. Returns this path, and passes it to
    /// `partial`.
    pub(super) fn place(&self, overwrite: bool, partial: &Partial) -> Result<PathBuf, FetchError> {
        let part = match &self.storage {
            Storage::Found(path) => return Ok(path.clone()),
            Storage::Part(part) => part,
        };
        match &self.content {
            TargetContent::File { file, .. } => {
                place_file((part, file), &self.path, &self.hash, overwrite)
            }
            TargetContent::Folder(folder) => {
                let path = place_folder(part, &self.path, &folder.plan, overwrite)?;
                partial.set_folder_path(path.clone());
                Ok(path)
            }
        }
    }

    fn part(&self) -> Option<&DownloadPart> {
        match &self.storage {
            Storage::Part(part) => Some(part),
            Storage::Found(_) => None,
        }
    }

    fn plan(&self) -> Option<&FolderPlan> {
        match &self.content {
            TargetContent::File { .. } => None,
            TargetContent::Folder(folder) => Some(&folder.plan),
        }
    }

    /// Returns the pieces that are on the disk.
    fn find_held(&self, checking: &DiskCheck) -> Result<PieceSet, FetchError> {
        let mut held = PieceSet::of_count(self.layout.count())?;
        match (self.part(), &self.content) {
            (None, _) => {
                // All pieces were checked when the content was found.
                let left_out: BTreeSet<u64> = self.left_out().collect();
                let there = (0..held.count()).filter(|piece| !left_out.contains(piece));
                there.for_each(|piece| _ = held.insert(piece));
            }
            (Some(part), TargetContent::File { .. }) => {
                if !part.is_new() {
                    self.check(&mut held, 0..self.layout.count(), checking)?;
                }
            }
            (Some(part), TargetContent::Folder(folder)) => {
                if !part.is_new() {
                    let files = folder.files.path();
                    folder.plan.sweep(files, None).map_err(disk(files))?;
                }
                folder.create_folders()?;
                self.check_folder_files(folder, part.is_new(), &mut held, checking)?;
            }
        }
        Ok(held)
    }

    /// Reserves room for the pieces that are not `held`, or checks that there is room.
    fn reserve_room(&self, held: &PieceSet) -> Result<(), FetchError> {
        let Some(part) = self.part() else { return Ok(()) };
        let (made, needed) = match &self.content {
            TargetContent::File { file, list } => {
                (reserve(part, file, list.size(), self.description.stored), list.size())
            }
            TargetContent::Folder(folder) => {
                let missing: u64 = held
                    .missing(None, 0)
                    .filter_map(|piece| self.layout.position(piece))
                    .filter(|position| folder.plan.file(position.file).is_some())
                    .fold(0, |sum, position| sum.saturating_add(position.len()));
                (space::check(part.path(), missing), missing)
            }
        };
        made.map_err(FetchError::no_space(part.path(), needed))
    }

    /// Checks the files that an earlier download has left in a folder. Removes those without a right piece,
    /// and creates those that have no bytes.
    fn check_folder_files(
        &self,
        folder: &Folder,
        is_new: bool,
        held: &mut PieceSet,
        checking: &DiskCheck,
    ) -> Result<(), FetchError> {
        for file in 0..self.layout.files() {
            let pieces = self.layout.pieces(file);
            // Files with content are created when their first piece is written.
            if is_new && !pieces.is_empty() {
                continue;
            }
            let Some((path, mode)) = folder.plan.file(file) else { continue };
            let at = path.join_to(folder.files.path());
            let found = if is_new {
                Err(io::ErrorKind::NotFound.into())
            } else {
                fs::symlink_metadata(&at)
            };
            match found {
                Ok(found) if found.is_file() => {
                    let size = self.layout.size(file).unwrap_or_default();
                    // A file that can't be written to could not be finished.
                    let opened = fs::OpenOptions::new().read(true).write(true).open(&at);
                    if opened.is_ok() && found.len() == size {
                        self.check(held, pieces.clone(), checking)?;
                    }
                    if pieces.clone().any(|piece| held.contains(piece))
                        || (size == 0 && found.len() == 0)
                    {
                        folder.note_created(file);
                        continue;
                    }
                    // No piece in it is right. On a disk that ignores case, it may be the file of another
                    // name.
                    fs::remove_file(&at).map_err(disk(&at))?;
                }
                Ok(_) => {
                    let error = io::Error::new(
                        io::ErrorKind::AlreadyExists,
                        "something else has this name",
                    );
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

    /// Adds to `held` those of `pieces` that are right on the disk.
    fn check(
        &self,
        held: &mut PieceSet,
        pieces: Range<u64>,
        checking: &DiskCheck,
    ) -> Result<(), FetchError> {
        let check_piece =
            |piece, buffer: &mut Vec<u8>| self.content.check(&self.layout.position(piece)?, buffer);
        for piece in checking.good_pieces(pieces, check_piece)? {
            held.insert(piece);
        }
        Ok(())
    }

    fn write(&self, position: &PiecePosition, bytes: &[u8]) -> Result<(), FetchError> {
        // If the complete content was found, no piece is requested.
        let part = self.part().ok_or(FetchError::Unfinished)?;
        match &self.content {
            // A new file has zeros wherever it was not written.
            TargetContent::File { .. } if part.is_new() && is_zero(bytes) => Ok(()),
            TargetContent::File { file, .. } => {
                write_all_at(file, bytes, position.range.start).map_err(disk(part.path()))
            }
            TargetContent::Folder(folder) => {
                folder.write(position, self.layout.size(position.file).unwrap_or_default(), bytes)
            }
        }
    }

    /// Adds the path of the file to an error, if the content is a folder.
    fn in_folder(&self, position: &PiecePosition, error: impl Into<FetchError>) -> FetchError {
        match self.plan().and_then(|plan| plan.file(position.file)) {
            Some((path, _)) => {
                FetchError::InFolder { path: path.clone(), error: Box::new(error.into()) }
            }
            None => error.into(),
        }
    }

    fn written(&self) -> MutexGuard<'_, PieceSet> {
        lock(&self.written)
    }
}

impl TargetContent {
    /// Returns the total number of bytes to be written.
    fn total(&self) -> u64 {
        match self {
            Self::File { list, .. } => list.size(),
            Self::Folder(folder) => folder.plan.total(),
        }
    }

    fn verify(&self, position: &PiecePosition, bytes: &[u8]) -> Result<(), PieceError> {
        match self {
            Self::File { list, .. } => list.verify_piece(position.index, bytes),
            Self::Folder(folder) => folder.plan.verify(position, bytes),
        }
    }

    /// Reads a piece from the disk. Returns its length if it is there and right. The pieces of files that are
    /// left out count as right, with no bytes.
    fn check(&self, position: &PiecePosition, buffer: &mut Vec<u8>) -> Option<u64> {
        let opened;
        let file = match self {
            Self::File { file, .. } => &**file,
            Self::Folder(folder) => {
                let Some((path, _)) = folder.plan.file(position.file) else { return Some(0) };
                opened = folder.files.open(path.as_str()).ok()?;
                &opened
            }
        };
        buffer.resize(usize::try_from(position.len()).ok()?, 0);
        read_exact_at(file, buffer, position.range.start).ok()?;
        self.verify(position, buffer).is_ok().then_some(position.len())
    }
}

/// Opens the files of a download to `path`: the whole content if it is there, or else a part.
fn open_content(
    request: &FetchRequest,
    content: ProvenContent,
    path: &Path,
    layout: &Layout,
    checking: &DiskCheck,
) -> Result<(TargetContent, Storage), FetchError> {
    let part = |kind| DownloadPart::open(path, &request.hash, kind).map_err(disk(path));
    match content {
        ProvenContent::File { list } => {
            let list = Arc::new(list);
            let content = |file| TargetContent::File { file, list: Arc::clone(&list) };
            let whole_at = |path: &Path| {
                let found = fs::symlink_metadata(path).ok()?;
                let fits = found.is_file() && found.len() == list.size();
                let file = fits.then(|| File::open(path)).and_then(Result::ok)?;
                Some(content(Arc::new(file)))
            };
            let paths = candidates(path, FileKind::File, request.overwrite);
            if let Some(there) = find_whole(paths, layout, checking, whole_at)? {
                return Ok(there);
            }
            let part = part(FileKind::File)?;
            let file = part.file().ok_or(FetchError::Unfinished)?;
            Ok((content(Arc::clone(file)), Storage::Part(part)))
        }
        ProvenContent::Folder { manifest, lists } => {
            let rules = rules_below(path);
            let mut plan = FolderPlan::new(manifest, lists, &rules);
            if request.overwrite {
                check_merge(path, &plan)?;
            }
            let whole_at = |path: &Path| {
                let is_folder = fs::symlink_metadata(path).ok()?.is_dir();
                let is_whole = is_folder && plan.matches(path).unwrap_or(false);
                is_whole.then(|| TargetContent::Folder(Folder::new(path.to_owned(), plan.clone())))
            };
            let paths = candidates(path, FileKind::Folder, request.overwrite);
            if let Some(there) = find_whole(paths, layout, checking, whole_at)? {
                return Ok(there);
            }
            let part = part(FileKind::Folder)?;
            plan.try_names(&part.files(), &rules);
            Ok((TargetContent::Folder(Folder::new(part.files(), plan)), Storage::Part(part)))
        }
    }
}

/// Finds the complete content at one of `paths`. Stops at the first path at which there is nothing. `open`
/// opens a path at which the content may be.
fn find_whole(
    paths: impl Iterator<Item = PathBuf>,
    layout: &Layout,
    checking: &DiskCheck,
    open: impl Fn(&Path) -> Option<TargetContent>,
) -> Result<Option<(TargetContent, Storage)>, FetchError> {
    for path in paths.take_while(|path| fs::symlink_metadata(path).is_ok()) {
        let Some(content) = open(&path) else { continue };
        checking.begin(content.total());
        let check_piece =
            |piece, buffer: &mut Vec<u8>| content.check(&layout.position(piece)?, buffer);
        if checking.all_good(layout.count(), check_piece)? {
            return Ok(Some((content, Storage::Found(path))));
        }
    }
    Ok(None)
}

fn is_zero(bytes: &[u8]) -> bool {
    // Blocks without an early exit are compared many bytes at a time.
    bytes.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |error| FetchError::Disk { path, error }
}

#[cfg(test)]
mod tests {
    use peerkit_proto::files::{AccessKind, MAX_FILE, Manifest, ManifestEntry, RelPath};

    use super::super::fetch_request::FetchDestination;
    use super::super::status::SharedStatus;
    use super::*;

    fn proven(entries: Vec<ManifestEntry>) -> Proven {
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

    fn request(to: &FetchDestination) -> FetchRequest {
        FetchRequest { to: to.clone(), ..FetchRequest::new(Hash::of(b"album")) }
    }

    fn open(
        proven: Proven,
        to: &FetchDestination,
    ) -> Result<(DownloadTarget, PieceSet), FetchError> {
        DownloadTarget::open(
            &request(to),
            proven,
            &DiskCheck::new(SharedStatus::new(Hash::of(b"album"), None)),
        )
    }

    fn file(name: &str, size: u64) -> ManifestEntry {
        let (path, hash) = (RelPath::new(name).unwrap(), Hash::of(b"?"));
        ManifestEntry::File { path, size, hash, mode: 0o644 }
    }

    #[test]
    fn a_download_without_room_leaves_nothing_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let to = FetchDestination::Folder(folder.path().join("new/deep"));
        // 16 TiB.
        let large = (0..4).map(|n| file(&n.to_string(), MAX_FILE)).collect();
        let failed = open(proven(large), &to).unwrap_err();
        assert!(matches!(failed, FetchError::NoSpace { .. }), "{failed:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_download_without_pieces_leaves_nothing_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let to = FetchDestination::Folder(folder.path().join("new/deep"));
        let (target, held) = open(proven(vec![file("a", 5)]), &to).unwrap();
        assert!(held.is_empty() && folder.path().join("new/deep").exists());
        drop(target);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // A folder that was there before stays.
        fs::create_dir(folder.path().join("old")).unwrap();
        let to = FetchDestination::Folder(folder.path().join("old/new"));
        drop(open(proven(vec![file("a", 5)]), &to).unwrap());
        assert_eq!(fs::read_dir(folder.path().join("old")).unwrap().count(), 0);
        assert!(folder.path().join("old").exists());
        // A part whose check was stopped is kept, as it may hold pieces.
        let (target, _) = open(proven(vec![file("a", 5)]), &to).unwrap();
        let TargetContent::Folder(part) = &target.content else { panic!() };
        let inside = part.files.path().join("a");
        target.written().insert(0);
        drop(target);
        fs::write(&inside, "12345").unwrap();
        let checking = DiskCheck::new(SharedStatus::new(Hash::of(b"album"), None));
        checking.stop();
        let stopped = DownloadTarget::open(&request(&to), proven(vec![file("a", 5)]), &checking);
        assert!(matches!(stopped, Err(FetchError::Stopped)));
        assert!(inside.exists());
    }
}
