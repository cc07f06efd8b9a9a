//! Putting what is whole in its place, never over something else.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use peerkit_proto::files::disk::with_suffix;
use peerkit_proto::files::{
    DiskRules, Entry, FileKind, FileName, MAX_NAME, NameFault, PIECE, PieceHasher, Platform,
};
use peerkit_proto::id::Hash;

use super::error::{FetchError, InTheWay};
use super::fetch_request::Destination;
use super::listed::Listed;
use super::part::{PartFile, PartFolder, absolute_len, longest_name};
use crate::disk::{space, sync_all, sync_folder};

/// Numbers tried before giving up: `name (1)` to `name (9999)`.
const MAX_NUMBER: u32 = 9999;

/// Entries of a folder from which on it is written to disk with one call.
const MANY: usize = 64;

/// The destination of a fetch.
#[derive(Debug, Clone)]
pub(super) struct Goal {
    pub(super) path: PathBuf,
    /// Why it does not have its own name there.
    pub(super) fault: Option<NameFault>,
}

impl Destination {
    /// Decides where something called `name` at its source goes. Creates the folder for it if that is
    /// wanted. A path that the user chose is taken as it is; a name from the network is made harmless.
    ///
    /// # Errors
    /// If something is there that is no file, and would be replaced or written beside; or if the disk
    /// refuses.
    pub(super) fn resolve(&self, name: &FileName, overwrite: bool) -> Result<Goal, FetchError> {
        let disk = |error| FetchError::Disk { path: self.path().to_owned(), error };
        let goal = match self {
            Self::Path(path) if path.is_dir() => Goal::in_folder(path, name),
            Self::Path(path) if path.file_name().is_none() => {
                let text = "it has to end with a name";
                return Err(disk(io::Error::new(io::ErrorKind::InvalidInput, text)));
            }
            Self::Path(path) => {
                check_special(path)?;
                check_length(path)?;
                Goal { path: path.clone(), fault: None }
            }
            Self::Folder(folder) => {
                fs::create_dir_all(folder).map_err(disk)?;
                Goal::in_folder(folder, name)
            }
        };
        if overwrite {
            check_replaceable(&goal.path)?;
        }
        Ok(goal)
    }

    /// Returns the path that something called `name` goes to, as far as that is known beforehand. Blocks
    /// on the disk.
    pub(super) fn target(&self, name: Option<&FileName>) -> Option<PathBuf> {
        match self {
            Self::Path(path) if !path.is_dir() => Some(path.clone()),
            Self::Path(folder) | Self::Folder(folder) => Some(Goal::in_folder(folder, name?).path),
        }
    }

    /// Returns the folder that a part lies in. Blocks on the disk.
    pub(super) fn folder(&self) -> &Path {
        match self {
            Self::Path(path) if !path.is_dir() => parent(path),
            Self::Path(folder) | Self::Folder(folder) => folder,
        }
    }

    /// What to name in an error before the name at the source is known.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Path(path) | Self::Folder(path) => path,
        }
    }
}

impl Goal {
    fn in_folder(folder: &Path, name: &FileName) -> Self {
        let rules = DiskRules { max_name: longest_name(folder), ..DiskRules::new(Platform::HERE) };
        let (name, fault) = rules.top_name(name);
        Self { path: folder.join(name.as_str()), fault }
    }
}

/// The rules for what goes into a new folder at `target`, or at a numbered name beside it.
pub(super) fn rules_below(target: &Path) -> DiskRules {
    // Until it is whole it is below `.NAME.HASH.part/files`, which is longer than any such name.
    const MORE: usize = "..01234567.9999.part/files/".len();
    let name = target.file_name().map_or(0, OsStr::len).saturating_add(MORE);
    let name = name.min(MAX_NAME + "/files/".len());
    let used = absolute_len(parent(target)).saturating_add(1).saturating_add(name);
    let max_path = Platform::HERE.max_path().saturating_sub(used);
    let max_name = space::max_name(parent(target));
    DiskRules { platform: Platform::HERE, max_name, max_path }
}

/// Refuses to write to, or beside, what the user named and is neither a file nor a folder.
fn check_special(path: &Path) -> Result<(), FetchError> {
    match special(path) {
        Some(kind) => Err(FetchError::NotAFile { path: path.to_owned(), kind }),
        None => Ok(()),
    }
}

/// Refuses a path that is too long for the disk before anything is fetched. A part has a shorter name, so
/// that the whole file would come in, and then have no place.
fn check_length(path: &Path) -> Result<(), FetchError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
            Err(FetchError::Disk { path: path.to_owned(), error })
        }
        _ => Ok(()),
    }
}

fn special(path: &Path) -> Option<InTheWay> {
    if Platform::HERE == Platform::Windows {
        let name = FileName::of_path(path).ok()?;
        let (_, fault) = DiskRules::new(Platform::Windows).top_name(&name);
        return (fault == Some(NameFault::Reserved)).then_some(InTheWay::Device);
    }
    // Such as `/dev/fd/1`, or `/dev/stdout`, which is a link into /proc.
    let is_descriptors = |folder: Option<&Path>| {
        let folder = folder.and_then(|folder| fs::canonicalize(folder).ok());
        let folders = ["/proc", "/dev/fd"].map(Path::new);
        folder.is_some_and(|folder| folders.iter().any(|known| folder.starts_with(known)))
    };
    let leads_to = fs::read_link(path).ok();
    if is_descriptors(path.parent()) || is_descriptors(leads_to.as_deref().and_then(Path::parent)) {
        return Some(InTheWay::Descriptor);
    }
    let found = fs::metadata(path).ok()?;
    kind_of(&found).filter(|kind| kind.takes_bytes())
}

/// Refuses to replace what is not a regular file. A folder at the place of a folder is merged.
fn check_replaceable(path: &Path) -> Result<(), FetchError> {
    let kind = fs::symlink_metadata(path).ok().and_then(|found| kind_of(&found));
    match kind {
        None | Some(InTheWay::Folder) => Ok(()),
        Some(kind) => Err(FetchError::NotAFile { path: path.to_owned(), kind }),
    }
}

/// What it is, if it is no regular file.
fn kind_of(found: &Metadata) -> Option<InTheWay> {
    let kind = found.file_type();
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return Some(InTheWay::Pipe);
        }
        if kind.is_socket() {
            return Some(InTheWay::Socket);
        }
        if kind.is_char_device() || kind.is_block_device() {
            return Some(InTheWay::Device);
        }
    }
    if kind.is_dir() {
        return Some(InTheWay::Folder);
    }
    (!kind.is_file()).then_some(InTheWay::Link)
}

/// Puts a whole file at `target`, or beside it under a numbered name where something else is
/// there. Where the very same content is there already, that stays and is what is returned.
/// With `overwrite` it takes the place of the file that is there.
pub(super) fn place_file(
    part: &PartFile,
    target: &Path,
    hash: &Hash,
    overwrite: bool,
) -> Result<PathBuf, FetchError> {
    let disk = |error| FetchError::Disk { path: target.to_owned(), error };
    part.file().sync_all().map_err(disk)?;
    if overwrite {
        replace(part.path(), target)?;
        sync_folder(parent(target)).map_err(disk)?;
        return Ok(target.to_owned());
    }
    place_beside(part, target, hash).map_err(disk)
}

/// Renames `from` to `to`, over the file that is there.
fn replace(from: &Path, to: &Path) -> Result<(), FetchError> {
    let kind = fs::symlink_metadata(to).ok().and_then(|found| kind_of(&found));
    if let Some(kind) = kind {
        return Err(FetchError::NotAFile { path: to.to_owned(), kind });
    }
    fs::rename(from, to).map_err(|error| FetchError::Disk { path: to.to_owned(), error })
}

fn place_beside(part: &PartFile, target: &Path, hash: &Hash) -> io::Result<PathBuf> {
    for path in numbered(target, FileKind::File) {
        match move_file(part.path(), &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if holds(&path, part.file(), hash) {
                    part.discard();
                    return Ok(path);
                }
            }
            other => {
                other?;
                sync_folder(parent(&path))?;
                return Ok(path);
            }
        }
    }
    Err(no_name_left())
}

/// Puts a whole folder at `target`, or beside it under a numbered name where something is there.
/// With `overwrite` its files take the place of those that are there; others stay.
pub(super) fn place_folder(
    part: &PartFolder,
    target: &Path,
    listed: &Listed,
    overwrite: bool,
) -> Result<PathBuf, FetchError> {
    let disk = |error| FetchError::Disk { path: target.to_owned(), error };
    let files = part.files();
    sync_tree(&files, listed).map_err(disk)?;
    if overwrite && fs::symlink_metadata(target).is_ok_and(|found| found.is_dir()) {
        move_into(&files, target, listed)?;
        part.discard();
        return Ok(target.to_owned());
    }
    place_folder_beside(part, target).map_err(disk)
}

fn place_folder_beside(part: &PartFolder, target: &Path) -> io::Result<PathBuf> {
    let files = part.files();
    for path in numbered(target, FileKind::Folder) {
        // An empty folder holds the name, and on Unix a rename replaces it.
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => {
                other?;
                if cfg!(windows) {
                    fs::remove_dir(&path)?;
                }
                if let Err(error) = fs::rename(&files, &path) {
                    let _ = fs::remove_dir(&path);
                    return Err(error);
                }
                sync_folder(parent(&path))?;
                // Nothing but its lock is left.
                part.discard();
                return Ok(path);
            }
        }
    }
    Err(no_name_left())
}

/// Has all files of the folder on disk. One by one that takes a while for many, so where the system
/// can write a whole file system's files at once it does.
fn sync_tree(files: &Path, listed: &Listed) -> io::Result<()> {
    if listed.manifest().entries().len() > MANY && sync_all(files)? {
        return Ok(());
    }
    for (entry, path) in listed.entries() {
        let path = path.under(files);
        match entry {
            // Windows writes out only what was opened for writing.
            Entry::File { .. } => {
                File::options().read(true).write(cfg!(windows)).open(path)?.sync_all()?;
            }
            Entry::Folder { .. } => sync_folder(&path)?,
        }
    }
    sync_folder(files)
}

/// Moves what is in `files` into `target`, over files of the same names.
fn move_into(files: &Path, target: &Path, listed: &Listed) -> Result<(), FetchError> {
    check_merge(target, listed)?;
    for (entry, path) in listed.entries() {
        let to = path.under(target);
        let disk = |error| FetchError::Disk { path: to.clone(), error };
        match entry {
            Entry::Folder { .. } => match fs::create_dir(&to) {
                // Not through a link: it could lead anywhere.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !fs::symlink_metadata(&to).map_err(disk)?.is_dir() {
                        return Err(disk(error));
                    }
                }
                made => made.map_err(disk)?,
            },
            Entry::File { .. } => replace(&path.under(files), &to)?,
        }
    }
    sync_folder(target).map_err(|error| FetchError::Disk { path: target.to_owned(), error })
}

/// Checks that files of a folder would replace nothing but files in the folder at `target`. Nothing of
/// it is moved otherwise: it would be half of the one and half of the other.
pub(super) fn check_merge(target: &Path, listed: &Listed) -> Result<(), FetchError> {
    for (entry, path) in listed.entries() {
        let path = path.under(target);
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        match (entry, kind_of(&found)) {
            (Entry::File { .. }, Some(kind)) => return Err(FetchError::NotAFile { path, kind }),
            (Entry::Folder { .. }, Some(kind)) if kind != InTheWay::Folder => {
                return Err(FetchError::NotAFile { path, kind });
            }
            _ => {}
        }
    }
    Ok(())
}

/// A link, unlike a rename, does not replace what is there. Where the file system has no links, or
/// the system does not take the old name from a file that is open, an empty file holds the name.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    if !cfg!(windows) {
        match fs::hard_link(from, to) {
            Ok(()) => return fs::remove_file(from),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
        }
    }
    OpenOptions::new().write(true).create_new(true).open(to)?;
    fs::rename(from, to).inspect_err(|_| {
        // The empty file that held the name must not be taken for the real one.
        let _ = fs::remove_file(to);
    })
}

/// Whether the file at `path` has the content that `file`, of this hash, has.
fn holds(path: &Path, file: &File, hash: &Hash) -> bool {
    let sizes = fs::symlink_metadata(path)
        .ok()
        .filter(Metadata::is_file)
        .zip(file.metadata().ok())
        .map(|(there, ours)| (there.len(), ours.len()));
    let alike = matches!(sizes, Some((there, ours)) if there == ours);
    alike && hash_of(path).is_ok_and(|there| there == *hash)
}

fn hash_of(path: &Path) -> io::Result<Hash> {
    let mut file = File::open(path)?;
    let mut hasher = PieceHasher::new();
    let mut buffer = vec![0; usize::try_from(PIECE).map_err(io::Error::other)?];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish().root()),
            n => hasher.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}

/// Where what is to be at `target` may go, in the order in which they are tried.
pub(super) fn candidates(
    target: &Path,
    kind: FileKind,
    overwrite: bool,
) -> impl Iterator<Item = PathBuf> {
    let tried = if overwrite { 1 } else { usize::MAX };
    numbered(target, kind).take(tried)
}

/// `a.txt`, `a (1).txt`, `a (2).txt`, ...; a folder's name has no extension. A long name is cut for the
/// number.
fn numbered(target: &Path, kind: FileKind) -> impl Iterator<Item = PathBuf> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let longest = longest_name(parent(target));
    (0..=MAX_NUMBER).map(move |number| match number {
        0 => target.to_owned(),
        _ => {
            let suffix = format!(" ({number})");
            target.with_file_name(with_suffix(&name, &suffix, kind == FileKind::File, longest))
        }
    })
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn no_name_left() -> io::Error {
    let text = format!("it and {MAX_NUMBER} numbered names beside it are taken");
    io::Error::new(io::ErrorKind::AlreadyExists, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_before_the_ending() {
        let second = |path, kind| numbered(Path::new(path), kind).nth(2).unwrap();
        let name = |path: &'static str| second(path, FileKind::File);
        assert_eq!(name("/d/a.txt"), Path::new("/d/a (2).txt"));
        assert_eq!(name("a"), Path::new("a (2)"));
        assert_eq!(name(".hidden"), Path::new(".hidden (2)"));
        assert_eq!(second("v1.2", FileKind::Folder), Path::new("v1.2 (2)"));
        let first = numbered(Path::new("a"), FileKind::File).next();
        assert_eq!(first.unwrap(), Path::new("a"));
    }

    #[test]
    fn a_number_fits_a_name_of_the_longest() {
        let folder = tempfile::tempdir().unwrap();
        for (name, kind) in
            [("é".repeat(127), FileKind::Folder), ("x".repeat(251) + ".txt", FileKind::File)]
        {
            let target = folder.path().join(&name);
            for path in numbered(&target, kind).take(12) {
                fs::write(&path, b"").unwrap();
                assert_eq!(path.extension(), target.extension(), "{path:?}");
            }
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 24);
    }

    #[test]
    fn a_name_from_the_network_is_made_harmless_and_one_that_was_chosen_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let name = FileName::new(".bash_profile").unwrap();
        for to in [
            Destination::Path(folder.path().to_owned()),
            Destination::Folder(folder.path().join("made")),
        ] {
            let goal = to.resolve(&name, true).unwrap();
            assert_eq!(goal.path, to.path().join("_bash_profile"));
            assert_eq!(goal.fault, Some(NameFault::Hidden));
        }
        let chosen = folder.path().join(".profile");
        let goal = Destination::Path(chosen.clone()).resolve(&name, false).unwrap();
        assert_eq!((goal.path, goal.fault), (chosen, None));
    }

    #[cfg(unix)]
    #[test]
    fn only_a_regular_file_is_replaced() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let folder = tempfile::tempdir().unwrap();
        let name = FileName::new("name").unwrap();
        let at = |name: &str| folder.path().join(name);
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        fs::write(at("file"), b"").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        let kind =
            |path: PathBuf, overwrite| match Destination::Path(path).resolve(&name, overwrite) {
                Ok(_) => None,
                Err(FetchError::NotAFile { kind, .. }) => Some(kind),
                Err(other) => panic!("{other:?}"),
            };
        for overwrite in [true, false] {
            assert_eq!(kind(at("pipe"), overwrite), Some(InTheWay::Pipe));
            assert_eq!(kind(at("socket"), overwrite), Some(InTheWay::Socket));
            assert_eq!(kind("/dev/null".into(), overwrite), Some(InTheWay::Device));
            assert_eq!(kind("/dev/fd/1".into(), overwrite), Some(InTheWay::Descriptor));
            assert_eq!(kind("/dev/stdout".into(), overwrite), Some(InTheWay::Descriptor));
            assert_eq!(kind(at("file"), overwrite), None);
        }
        assert_eq!(kind(at("link"), true), Some(InTheWay::Link));
        assert_eq!(kind(at("link"), false), None, "it gets a number");
        // The same where the name comes from the network.
        let name = FileName::new("pipe").unwrap();
        let to = Destination::Folder(folder.path().to_owned());
        let refused = to.resolve(&name, true);
        assert!(matches!(refused, Err(FetchError::NotAFile { .. })), "{refused:?}");
        assert!(to.resolve(&name, false).is_ok());
        // And at the end, if something has got there meanwhile.
        let error = replace(&at("file"), &at("pipe")).unwrap_err();
        assert!(matches!(error, FetchError::NotAFile { .. }) && at("file").exists());
    }

    #[test]
    fn a_move_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, b"new").unwrap();
        fs::write(&to, b"old").unwrap();
        let error = move_file(&from, &to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).unwrap(), b"old");
        fs::remove_file(&to).unwrap();
        move_file(&from, &to).unwrap();
        assert!(!from.exists());
        let again = folder.path().join("again");
        assert!(move_file(&from, &again).is_err());
        assert!(!again.exists(), "no empty file is left where the move failed");
        assert_eq!(fs::read(&to).unwrap(), b"new");
    }
}
