//! Moves a finished download to its path. Nothing is replaced unless the user wants that.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use peerkit_proto::files::disk::with_suffix;
use peerkit_proto::files::{
    DiskRules, FileKind, FileName, MAX_NAME, ManifestEntry, NameFault, Platform,
};
use peerkit_proto::id::Hash;

use super::error::{FetchError, InTheWay};
use super::fetch_request::FetchDestination;
use super::part::{DownloadPart, absolute_len, longest_name};
use crate::disk::{space, sync_all, sync_folder};
use crate::transfer::folder_plan::FolderPlan;

/// Maximum number in a numbered name: `name (1)` to `name (9999)` are tried.
const MAX_NUMBER: u32 = 9999;

/// Number of entries of a folder above which the whole file system is synced with one call.
const SYNC_ALL_FROM: usize = 64;

/// The path that the content of a fetch gets.
#[derive(Debug, Clone)]
pub(super) struct TargetPath {
    pub(super) path: PathBuf,
    /// The reason why the content has another name there than at its source.
    pub(super) fault: Option<NameFault>,
}

impl FetchDestination {
    /// Returns the path for content that is called `name` at its source. Creates the folder of a
    /// [`Folder`](Self::Folder). A path that the user chose is used as it is; a name from the network is made
    /// harmless.
    ///
    /// # Errors
    /// If the download would replace, or be written beside, something that is not a file; or if the disk
    /// fails.
    pub(super) fn resolve(
        &self,
        name: &FileName,
        overwrite: bool,
    ) -> Result<TargetPath, FetchError> {
        let disk = |error| FetchError::Disk { path: self.path().to_owned(), error };
        let goal = match self {
            Self::Path(path) if path.is_dir() => TargetPath::in_folder(path, name),
            Self::Path(path) if path.file_name().is_none() => {
                let text = "it has to end with a name";
                return Err(disk(io::Error::new(io::ErrorKind::InvalidInput, text)));
            }
            Self::Path(path) => {
                check_special(path)?;
                check_length(path)?;
                TargetPath { path: path.clone(), fault: None }
            }
            Self::Folder(folder) => {
                fs::create_dir_all(folder).map_err(disk)?;
                TargetPath::in_folder(folder, name)
            }
        };
        if overwrite {
            check_replaceable(&goal.path, true)?;
        }
        Ok(goal)
    }

    /// Returns the path for content that is called `name`. Returns `None` if the path needs a name and there
    /// is none. Blocks on the disk.
    pub(super) fn target(&self, name: Option<&FileName>) -> Option<PathBuf> {
        match self {
            Self::Path(path) if !path.is_dir() => Some(path.clone()),
            Self::Path(folder) | Self::Folder(folder) => {
                Some(TargetPath::in_folder(folder, name?).path)
            }
        }
    }

    /// Returns the folder that a part is in. Blocks on the disk.
    pub(super) fn folder(&self) -> &Path {
        match self {
            Self::Path(path) if !path.is_dir() => parent(path),
            Self::Path(folder) | Self::Folder(folder) => folder,
        }
    }

    /// Returns the path that errors name as long as the name at the source is not known.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Path(path) | Self::Folder(path) => path,
        }
    }
}

impl TargetPath {
    fn in_folder(folder: &Path, name: &FileName) -> Self {
        let rules = DiskRules { max_name: longest_name(folder), ..DiskRules::new(Platform::HERE) };
        let (name, fault) = rules.top_name(name);
        Self { path: folder.join(name.as_str()), fault }
    }
}

/// Returns the rules for names in a new folder at `target`, or at a numbered name beside it.
pub(super) fn rules_below(target: &Path) -> DiskRules {
    // An unfinished folder is below `.NAME.HASH.part/files`, which is longer than any numbered name.
    const MORE: usize = "..01234567.9999.part/files/".len();
    let name = target.file_name().map_or(0, OsStr::len).saturating_add(MORE);
    let name = name.min(MAX_NAME + "/files/".len());
    let used = absolute_len(parent(target)).saturating_add(1).saturating_add(name);
    let max_path = Platform::HERE.max_path().saturating_sub(used);
    let max_name = space::max_name(parent(target));
    DiskRules { platform: Platform::HERE, max_name, max_path }
}

/// Refuses to write to, or beside, a path of the user that is neither a file nor a folder.
fn check_special(path: &Path) -> Result<(), FetchError> {
    match special(path) {
        Some(kind) => Err(FetchError::NotAFile { path: path.to_owned(), kind }),
        None => Ok(()),
    }
}

/// Refuses a path that is too long for the disk before anything is fetched. The part has a shorter name, so
/// without this check the whole file would be fetched before the disk refuses its name.
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
        return (fault == Some(NameFault::WindowsDevice)).then_some(InTheWay::Device);
    }
    // Finds paths such as `/dev/fd/1`, or `/dev/stdout`, which is a link into /proc.
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

/// Checks that the content may replace what is at `path`. A regular file may be replaced. If the content
/// `is_folder`, a folder at `path` is merged with it. Anything else is refused.
fn check_replaceable(path: &Path, is_folder: bool) -> Result<(), FetchError> {
    match fs::symlink_metadata(path).ok().and_then(|found| kind_of(&found)) {
        None => Ok(()),
        Some(InTheWay::Folder) if is_folder => Ok(()),
        Some(kind) => Err(FetchError::NotAFile { path: path.to_owned(), kind }),
    }
}

/// Returns the kind of the file, or `None` if it is a regular file.
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

/// Moves a complete file to `target`, or to a numbered name beside it if something else is there. If a file
/// with the same content is there already, that file stays, and its path is returned. With `overwrite` the
/// file replaces the one that is there.
pub(super) fn place_file(
    (part, file): (&DownloadPart, &File),
    target: &Path,
    hash: &Hash,
    overwrite: bool,
) -> Result<PathBuf, FetchError> {
    let disk = |error| FetchError::Disk { path: target.to_owned(), error };
    file.sync_all().map_err(disk)?;
    if overwrite {
        replace(part.path(), target)?;
        sync_folder(parent(target)).map_err(disk)?;
        return Ok(target.to_owned());
    }
    let place_at = |path: &Path| match move_file(part.path(), path) {
        Err(error)
            if error.kind() == io::ErrorKind::AlreadyExists
                && has_same_content(path, file, hash) =>
        {
            part.discard();
            Ok(())
        }
        moved => moved,
    };
    place_beside(target, FileKind::File, place_at).map_err(disk)
}

/// Moves a complete folder to `target`, or to a numbered name beside it if something is there. With
/// `overwrite` its files replace those that are there, and others stay.
pub(super) fn place_folder(
    part: &DownloadPart,
    target: &Path,
    plan: &FolderPlan,
    overwrite: bool,
) -> Result<PathBuf, FetchError> {
    let disk = |error| FetchError::Disk { path: target.to_owned(), error };
    let files = part.files();
    sync_tree(&files, plan).map_err(disk)?;
    let placed = if overwrite && fs::symlink_metadata(target).is_ok_and(|found| found.is_dir()) {
        move_into(&files, target, plan)?;
        target.to_owned()
    } else {
        place_beside(target, FileKind::Folder, |path| move_folder(&files, path)).map_err(disk)?
    };
    // Nothing but the lock file is left in the part.
    part.discard();
    Ok(placed)
}

/// Tries `target` and the numbered names beside it, until `place_at` finds one that is free.
fn place_beside(
    target: &Path,
    kind: FileKind,
    place_at: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<PathBuf> {
    for path in numbered(target, kind) {
        match place_at(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            placed => {
                placed?;
                sync_folder(parent(&path))?;
                return Ok(path);
            }
        }
    }
    let text = format!("it and {MAX_NUMBER} numbered names beside it are taken");
    Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
}

/// Renames `from` to `to`, over the file that is there.
fn replace(from: &Path, to: &Path) -> Result<(), FetchError> {
    check_replaceable(to, false)?;
    fs::rename(from, to).map_err(|error| FetchError::Disk { path: to.to_owned(), error })
}

/// Syncs all files of the folder to the disk. Syncing many files one by one takes long, so the whole file
/// system is synced in their place if the system can do that.
fn sync_tree(files: &Path, plan: &FolderPlan) -> io::Result<()> {
    if plan.manifest().entries().len() > SYNC_ALL_FROM && sync_all(files)? {
        return Ok(());
    }
    for (entry, path) in plan.entries() {
        let path = path.join_to(files);
        match entry {
            // Windows syncs a file only if it was opened for writing.
            ManifestEntry::File { .. } => {
                File::options().read(true).write(cfg!(windows)).open(path)?.sync_all()?;
            }
            ManifestEntry::Folder { .. } => sync_folder(&path)?,
        }
    }
    sync_folder(files)
}

/// Moves the content of `files` into `target`, where it replaces files of the same names.
fn move_into(files: &Path, target: &Path, plan: &FolderPlan) -> Result<(), FetchError> {
    check_merge(target, plan)?;
    for (entry, path) in plan.entries() {
        let to = path.join_to(target);
        let disk = |error| FetchError::Disk { path: to.clone(), error };
        match entry {
            ManifestEntry::Folder { .. } => match fs::create_dir(&to) {
                // Files must not be moved through a link, which could lead anywhere.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !fs::symlink_metadata(&to).map_err(disk)?.is_dir() {
                        return Err(disk(error));
                    }
                }
                made => made.map_err(disk)?,
            },
            ManifestEntry::File { .. } => replace(&path.join_to(files), &to)?,
        }
    }
    sync_folder(target).map_err(|error| FetchError::Disk { path: target.to_owned(), error })
}

/// Checks that the files of a folder would replace only files in the folder at `target`. This is checked
/// before the first file is moved, so that the target never becomes a mixture of both.
pub(super) fn check_merge(target: &Path, plan: &FolderPlan) -> Result<(), FetchError> {
    for (entry, path) in plan.entries() {
        let is_folder = matches!(entry, ManifestEntry::Folder { .. });
        check_replaceable(&path.join_to(target), is_folder)?;
    }
    Ok(())
}

/// Moves a file to a name that is free.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    // A hard link, unlike a rename, does not replace what is there. On Windows the old name of an open file
    // can't be removed afterwards.
    if !cfg!(windows) {
        match fs::hard_link(from, to) {
            Ok(()) => return fs::remove_file(from),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            // The file system has no hard links.
            Err(_) => {}
        }
    }
    // An empty file reserves the name.
    OpenOptions::new().write(true).create_new(true).open(to)?;
    fs::rename(from, to).inspect_err(|_| {
        // The empty file must not be taken for the real one.
        let _ = fs::remove_file(to);
    })
}

/// Moves a folder to a name that is free.
fn move_folder(from: &Path, to: &Path) -> io::Result<()> {
    // An empty folder reserves the name, and on Unix a rename replaces it.
    fs::create_dir(to)?;
    if cfg!(windows) {
        fs::remove_dir(to)?;
    }
    fs::rename(from, to).inspect_err(|_| {
        let _ = fs::remove_dir(to);
    })
}

/// Returns whether the file at `path` has the same content as `file`, which has this hash.
fn has_same_content(path: &Path, file: &File, hash: &Hash) -> bool {
    let sizes = (fs::symlink_metadata(path), file.metadata());
    let (Ok(there), Ok(ours)) = sizes else { return false };
    there.is_file() && there.len() == ours.len() && hash_of(path).is_ok_and(|there| there == *hash)
}

fn hash_of(path: &Path) -> io::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(Hash::from_bytes(*hasher.finalize().as_bytes()))
}

/// Returns the paths that a download to `target` may get, in the order in which they are tried.
pub(super) fn candidates(
    target: &Path,
    kind: FileKind,
    overwrite: bool,
) -> impl Iterator<Item = PathBuf> {
    let tried = if overwrite { 1 } else { usize::MAX };
    numbered(target, kind).take(tried)
}

/// Returns `a.txt`, `a (1).txt`, `a (2).txt`, ...; a folder's name has no extension. A long name is cut to
/// make room for the number.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_goes_before_the_extension() {
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
    fn the_longest_names_can_get_a_number() {
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
            FetchDestination::Path(folder.path().to_owned()),
            FetchDestination::Folder(folder.path().join("made")),
        ] {
            let goal = to.resolve(&name, true).unwrap();
            assert_eq!(goal.path, to.path().join("_bash_profile"));
            assert_eq!(goal.fault, Some(NameFault::LeadingDot));
        }
        let chosen = folder.path().join(".profile");
        let goal = FetchDestination::Path(chosen.clone()).resolve(&name, false).unwrap();
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
        let kind = |path: PathBuf, overwrite| match FetchDestination::Path(path)
            .resolve(&name, overwrite)
        {
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
        // The same holds for a name from the network.
        let name = FileName::new("pipe").unwrap();
        let to = FetchDestination::Folder(folder.path().to_owned());
        let refused = to.resolve(&name, true);
        assert!(matches!(refused, Err(FetchError::NotAFile { .. })), "{refused:?}");
        assert!(to.resolve(&name, false).is_ok());
        // The path is checked again at the end, as something may have been created there meanwhile.
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
