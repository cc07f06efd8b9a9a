//! The unfinished part of a download: a file or folder beside the target, under a name of its own.
//!
//! The name is `.NAME.HASH.part`, where HASH is the first eight digits of the hash. The part is locked while
//! a download writes to it, so that two downloads of the same content do not share one. A part that a
//! killed process has left is not locked, so the next download of the content continues from it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use peerkit_proto::files::{FileKind, Platform};
use peerkit_proto::id::{Hash, hex};

use crate::disk::fingerprint::Fingerprint;
use crate::disk::folder::new_file;
use crate::disk::space;

/// Minimum of [`longest_name`], in bytes: enough for the suffix of a part and some bytes of its name.
const MIN_NAME: usize = 32;

/// Maximum number of parts of one hash beside one target.
const MAX_PARTS: u32 = 1000;

/// The name of the file in a part folder that is locked.
const LOCK: &str = "lock";

/// The name of the folder in a part folder that becomes the target.
const FILES: &str = "files";

/// An unfinished file or folder. It stays on disk when this is dropped, unless it is
/// [discarded](Self::discard).
#[derive(Debug)]
pub(super) struct DownloadPart {
    path: PathBuf,
    kind: FileKind,
    /// The part file, or the lock file of a part folder. Locked until this is dropped.
    file: Option<Arc<File>>,
    is_new: bool,
    is_discarded: AtomicBool,
}

/// Removes the parts that downloads of `hash` have left beside `path`, and in `path` if that is a folder. Parts
/// that another download is writing to stay.
pub(super) fn remove(path: &Path, hash: &Hash) {
    for part in parts_for(path, hash) {
        let (path, is_folder) = (part.path(), part.file_type().is_ok_and(|kind| kind.is_dir()));
        let locked = if is_folder { path.join(LOCK) } else { path.clone() };
        let removed =
            reopen(&locked).and_then(|file| lock(&file)).and_then(|is_free| match is_free {
                true if is_folder => fs::remove_dir_all(&path),
                true => fs::remove_file(&path),
                false => Ok(()),
            });
        if let Err(error) = removed {
            tracing::info!(path = %path.display(), %error, "the part of a download can't be removed");
        }
    }
}

/// Returns whether a download of `hash` has left a part beside `path`, or in `path` if that is a folder.
pub(super) fn is_left_anywhere(path: &Path, hash: &Hash) -> bool {
    parts_for(path, hash).next().is_some()
}

/// Returns whether a download of `hash` has left a part that the next download to `target` continues from.
pub(super) fn is_left_for_target(target: &Path, hash: &Hash) -> bool {
    fs::symlink_metadata(part_path(target, hash, 0)).is_ok()
}

/// Returns whether a download of `hash` has left a part in `folder`.
pub(super) fn is_left_in_folder(folder: &Path, hash: &Hash) -> bool {
    parts_in(folder, hash).next().is_some()
}

/// Returns the parts of `hash` beside `path`, and those in it if it is a folder.
fn parts_for(path: &Path, hash: &Hash) -> impl Iterator<Item = fs::DirEntry> {
    [Some(path), path.parent()].into_iter().flatten().flat_map(|folder| parts_in(folder, hash))
}

fn parts_in(folder: &Path, hash: &Hash) -> impl Iterator<Item = fs::DirEntry> {
    let digits = format!(".{}.", hex(&hash.as_bytes()[..4]));
    let is_part = move |found: &fs::DirEntry| {
        found.file_name().to_str().is_some_and(|name| is_part_name(name) && name.contains(&digits))
    };
    fs::read_dir(folder).into_iter().flatten().flatten().filter(is_part)
}

/// Returns whether a file of this name is the part of a download. Parts are not shared.
pub(crate) fn is_part_name(name: &str) -> bool {
    let Some((stem, "part")) = name.rsplit_once('.') else {
        return false;
    };
    let is_hash = |text: &str| text.len() == 8 && text.bytes().all(|c| c.is_ascii_hexdigit());
    stem.starts_with('.') && stem.rsplit('.').take(2).any(is_hash)
}

impl DownloadPart {
    /// Opens a part of `hash` beside `target` that no other download has: one that is left from an earlier
    /// download, or a new one.
    pub(super) fn open(target: &Path, hash: &Hash, kind: FileKind) -> io::Result<Self> {
        for number in 0..MAX_PARTS {
            if let Some(part) = Self::open_at(part_path(target, hash, number), kind)? {
                return Ok(part);
            }
        }
        Err(io::Error::other("too many downloads of this content at the same time"))
    }

    /// Opens the part at `path`. Returns `None` if another download has it.
    fn open_at(path: PathBuf, kind: FileKind) -> io::Result<Option<Self>> {
        let locked = match kind {
            FileKind::File => path.clone(),
            FileKind::Folder => {
                create_folder(&path)?;
                if !fs::symlink_metadata(&path)?.is_dir() {
                    return Ok(None);
                }
                path.join(LOCK)
            }
        };
        // Mode 0: the file is not executable.
        let file = match new_file(&locked, 0) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => reopen(&locked)?,
            other => other?,
        };
        if !lock(&file)? || !is_at(&file, &locked) {
            return Ok(None);
        }
        let is_new = match kind {
            FileKind::File => file.metadata()?.len() == 0,
            FileKind::Folder => create_folder(&path.join(FILES))?,
        };
        let file = Some(Arc::new(file));
        Ok(Some(Self { path, kind, file, is_new, is_discarded: AtomicBool::new(false) }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the part file, or the lock file of a part folder.
    pub(super) fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    /// Returns the folder in a part folder that becomes the target.
    pub(super) fn files(&self) -> PathBuf {
        self.path.join(FILES)
    }

    /// Returns whether the part was empty when it was opened. If so, no earlier download has left anything to
    /// check in it, and zeros need not be written to a part file.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Marks the part to be removed from disk when it is dropped.
    pub(super) fn discard(&self) {
        self.is_discarded.store(true, Ordering::Release);
    }
}

impl Drop for DownloadPart {
    fn drop(&mut self) {
        if *self.is_discarded.get_mut() {
            match (self.kind, &self.file) {
                // If this file has got its final name, another download may have a file under the part's name.
                (FileKind::File, Some(file)) if is_at(file, &self.path) => {
                    let _ = fs::remove_file(&self.path);
                }
                (FileKind::File, _) => {}
                (FileKind::Folder, _) => {
                    // Windows does not remove an open file. Elsewhere the folder is removed while it is still
                    // locked, before another download can open it.
                    self.file.take_if(|_| cfg!(windows));
                    let _ = fs::remove_dir_all(&self.path);
                }
            }
        }
        // A stream that still serves the part has the file open as well. The next download need not wait
        // for it.
        if let Some(file) = &self.file {
            let _ = file.unlock();
        }
    }
}

/// Sets the size of a part file, and reserves room on the disk for all of its bytes, so that a full disk is
/// noticed at the beginning.
///
/// The file takes `stored` bytes on the disk of its source. If that is less than seven eighths of `size`, the
/// file has holes. Then nothing is reserved, and only the room for `stored` bytes is checked.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`] if there is not enough room.
pub(super) fn reserve(part: &DownloadPart, file: &File, size: u64, stored: u64) -> io::Result<()> {
    let there = space::bytes_on_disk(&file.metadata()?);
    let is_sparse = stored < size - size / 8;
    let needed = if is_sparse { stored } else { size };
    space::check(part.path(), needed.saturating_sub(there))?;
    file.set_len(size)?;
    if is_sparse { Ok(()) } else { space::reserve(file, size) }
}

/// Creates a folder unless it exists. Returns whether it was created.
fn create_folder(path: &Path) -> io::Result<bool> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        created => created.map(|()| true),
    }
}

/// Returns the path of a part of `hash` beside `target`. The first one has the number 0.
fn part_path(target: &Path, hash: &Hash, number: u32) -> PathBuf {
    let name = target.file_name().unwrap_or(OsStr::new("fetch")).to_string_lossy();
    let longest = longest_name(target.parent().unwrap_or(Path::new(".")));
    let digits = hex(&hash.as_bytes()[..4]);
    let ending = match number {
        0 => format!(".{digits}.part"),
        n => format!(".{digits}.{n}.part"),
    };
    let cut = name.floor_char_boundary(longest.saturating_sub(1 + ending.len()));
    target.with_file_name(format!(".{}{ending}", &name[..cut]))
}

/// Returns the length of the longest name that a file in `folder` can have, in bytes. Returns at least
/// [`MIN_NAME`], even if the path of the folder leaves less.
pub(super) fn longest_name(folder: &Path) -> usize {
    let left = Platform::HERE.max_path().saturating_sub(absolute_len(folder)).saturating_sub(1);
    // If the folder's path leaves less than `MIN_NAME`, the system refuses to create the file.
    space::max_name(folder).min(left).max(MIN_NAME)
}

/// Returns the length of a path, in bytes, once it is made absolute.
pub(super) fn absolute_len(path: &Path) -> usize {
    std::path::absolute(path).map_or(0, |path| path.as_os_str().len())
}

/// Opens a file that a killed process has left, but never through a symbolic link.
fn reopen(path: &Path) -> io::Result<File> {
    if !fs::symlink_metadata(path)?.is_file() {
        let text = format!("{} is in the way: remove it", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    OpenOptions::new().read(true).write(true).open(path)
}

/// Locks a file. Returns false if another open file holds the lock. On file systems without locks, it always
/// counts as free.
fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Returns whether `file` is still at `path`. The download that had it before may have removed it meanwhile.
fn is_at(file: &File, path: &Path) -> bool {
    let open = file.metadata().map(|found| Fingerprint::of(&found).inode);
    let there = fs::symlink_metadata(path).map(|found| Fingerprint::of(&found).inode);
    matches!((open, there), (Ok(open), Ok(there)) if open == there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerkit_proto::files::MAX_NAME;

    fn file(target: &Path, hash: &Hash) -> io::Result<DownloadPart> {
        DownloadPart::open(target, hash, FileKind::File)
    }

    fn folder_of(target: &Path, hash: &Hash) -> io::Result<DownloadPart> {
        DownloadPart::open(target, hash, FileKind::Folder)
    }

    #[test]
    fn names_of_parts_are_recognised() {
        for name in [".a.txt.0123abcd.part", ".a.0123abcd.7.part", "..0123abcd.part"] {
            assert!(is_part_name(name), "{name}");
        }
        for name in ["a.0123abcd.part", ".a.part", "song.part", ".a.xyz.part", ""] {
            assert!(!is_part_name(name), "{name}");
        }
    }

    #[test]
    fn two_downloads_never_share_a_part_and_a_left_part_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x".repeat(255));
        let hash = Hash::of(b"");
        let first = file(&target, &hash).unwrap();
        let second = file(&target, &hash).unwrap();
        assert_ne!(first.path(), second.path());
        let name = first.path().file_name().unwrap().to_str().unwrap();
        assert!(is_part_name(name) && name.len() <= MAX_NAME);
        let path = first.path().to_owned();
        first.discard();
        second.discard();
        drop((first, second));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(!is_left_for_target(&target, &hash));
        fs::write(&path, b"left by a crash").unwrap();
        assert!(is_left_for_target(&target, &hash) && is_left_in_folder(folder.path(), &hash));
        assert!(!is_left_for_target(&target, &Hash::of(b"another")));
        let again = file(&target, &hash).unwrap();
        assert_eq!(again.path(), path);
        let served = Arc::clone(again.file().unwrap());
        drop(again);
        let again = file(&target, &hash).unwrap();
        assert_eq!(
            again.path(),
            path,
            "a stream that serves the part does not hold up the next download"
        );
        again.discard();
        drop((again, served));

        let first = folder_of(&target, &hash).unwrap();
        let second = folder_of(&target, &hash).unwrap();
        assert_ne!(first.path, second.path);
        second.discard();
        drop((first, second));
        fs::create_dir_all(path.join("files/old")).unwrap();
        let again = folder_of(&target, &hash).unwrap();
        assert_eq!(again.path, path);
        assert!(again.files().join("old").exists(), "opening a left part removes nothing from it");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        let hash = Hash::of(b"");
        let part = file(&target, &hash).unwrap();
        let path = part.path().to_owned();
        part.discard();
        drop(part);
        let victim = folder.path().join("victim");
        fs::write(&victim, b"precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(file(&target, &hash).is_err());
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }
}
