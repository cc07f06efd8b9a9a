//! Putting what is whole in its place, never over something else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use peerkit_proto::files::{Entry, FileKind, FileName, Manifest, PIECE, PieceHasher};
use peerkit_proto::id::Hash;

use super::get::Destination;
use super::part::{PartFile, PartFolder};
use crate::key::sync_folder;
use crate::room;

/// Numbers tried before giving up: `name (1)` to `name (9999)`.
const MAX_NUMBER: u32 = 9999;

/// Entries of a folder from which on it is written to disk with one call.
const MANY: usize = 64;

impl Destination {
    /// Where something called `name` at its source goes. Makes the folder for it where that is
    /// wanted.
    pub(super) fn resolve(&self, name: &FileName) -> io::Result<PathBuf> {
        match self {
            Self::Path(path) if path.is_dir() => Ok(path.join(name.as_str())),
            Self::Path(path) if path.file_name().is_none() => {
                let text = "it has to end with a name";
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
            Self::Path(path) => Ok(path.clone()),
            Self::Folder(folder) => {
                fs::create_dir_all(folder)?;
                Ok(folder.join(name.as_str()))
            }
        }
    }

    /// What to name in an error before the name at the source is known.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Path(path) | Self::Folder(path) => path,
        }
    }
}

/// Puts a whole file at `target`, or beside it under a numbered name where something else is
/// there. Where the very same content is there already, that stays and is what is returned.
/// With `overwrite` it takes the place of the file that is there.
pub(super) fn place_file(
    part: &PartFile,
    target: &Path,
    hash: &Hash,
    overwrite: bool,
) -> io::Result<PathBuf> {
    part.file().sync_all()?;
    if overwrite {
        fs::rename(part.path(), target)?;
        sync_folder(parent(target))?;
        return Ok(target.to_owned());
    }
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
    manifest: &Manifest,
    overwrite: bool,
) -> io::Result<PathBuf> {
    let files = part.files();
    sync_tree(&files, manifest)?;
    if overwrite && fs::symlink_metadata(target).is_ok_and(|found| found.is_dir()) {
        move_into(&files, target, manifest)?;
        part.discard();
        return Ok(target.to_owned());
    }
    for path in numbered(target, FileKind::Folder) {
        // An empty folder holds the name, and on Unix a rename replaces it.
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => {
                other?;
                if cfg!(windows) {
                    fs::remove_dir(&path)?;
                }
                fs::rename(&files, &path)?;
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
fn sync_tree(files: &Path, manifest: &Manifest) -> io::Result<()> {
    if manifest.entries().len() > MANY && room::sync_all(files)? {
        return Ok(());
    }
    for entry in manifest.entries() {
        let path = entry.path().under(files);
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
fn move_into(files: &Path, target: &Path, manifest: &Manifest) -> io::Result<()> {
    for entry in manifest.entries() {
        let to = entry.path().under(target);
        match entry {
            Entry::Folder { .. } => match fs::create_dir(&to) {
                // Not through a link: it could lead anywhere.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !fs::symlink_metadata(&to)?.is_dir() {
                        return Err(error);
                    }
                }
                made => made?,
            },
            Entry::File { .. } => fs::rename(entry.path().under(files), &to)?,
        }
    }
    sync_folder(target)
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
    fs::rename(from, to)
}

/// Whether the file at `path` has the content that `file`, of this hash, has.
fn holds(path: &Path, file: &File, hash: &Hash) -> bool {
    let sizes = fs::symlink_metadata(path)
        .ok()
        .filter(fs::Metadata::is_file)
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

/// `a.txt`, `a (1).txt`, `a (2).txt`, ...; a folder's name has no ending.
fn numbered(target: &Path, kind: FileKind) -> impl Iterator<Item = PathBuf> {
    let (stem, ending) = match kind {
        FileKind::File => (target.file_stem(), target.extension()),
        FileKind::Folder => (target.file_name(), None),
    };
    let stem = stem.unwrap_or_default().to_owned();
    let ending = ending.map(std::ffi::OsStr::to_owned);
    (0..=MAX_NUMBER).map(move |number| {
        if number == 0 {
            return target.to_owned();
        }
        let mut name = stem.clone();
        name.push(format!(" ({number})"));
        if let Some(ending) = &ending {
            name.push(".");
            name.push(ending);
        }
        target.with_file_name(name)
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
        assert_eq!(fs::read(&to).unwrap(), b"new");
    }
}
