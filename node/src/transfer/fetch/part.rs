//! What is not whole yet: a file or folder beside the target, under a name that says so.
//!
//! `.NAME.HASH.part`, HASH being the first eight digits. It is locked while a download has it, so
//! that two of the same hash do not meet in one, and what a killed process left is taken over.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use peerkit_proto::files::Platform;
use peerkit_proto::id::{Hash, hex};

use crate::disk::fingerprint::Fingerprint;
use crate::disk::folder::new_file;
use crate::disk::space;

/// A name that is cut for a number or a suffix keeps so many bytes.
const SHORTEST: usize = 32;

/// Downloads of one hash to one place at the same time.
const MAX_BESIDE: u32 = 1000;

/// The file inside a part folder that is locked.
const LOCK: &str = "lock";

/// The folder inside a part folder that becomes the target.
const FILES: &str = "files";

/// A file that is being fetched. It stays when this is dropped, for the next fetch of it.
#[derive(Debug)]
pub(super) struct PartFile {
    path: PathBuf,
    file: Arc<File>,
    /// It had nothing in it when it was opened, so that what was never written is zeros.
    is_new: bool,
    /// To be removed when dropped.
    discarded: AtomicBool,
}

/// A folder that is being fetched. It stays when this is dropped, for the next fetch of it.
#[derive(Debug)]
pub(super) struct PartFolder {
    path: PathBuf,
    /// Locked as long as it is open; there until this is dropped.
    lock: Option<File>,
    /// There is nothing in it that was not made since it was opened.
    is_new: bool,
    /// To be removed when dropped.
    discarded: AtomicBool,
}

/// Removes what fetches of `hash` have left for a target at `path`, or in it where that is a folder.
/// What another fetch is at stays.
pub(super) fn remove(path: &Path, hash: &Hash) {
    let folders = [Some(path), path.parent()];
    for entry in folders.into_iter().flatten().filter_map(|folder| fs::read_dir(folder).ok()) {
        for found in entry.flatten().filter(|found| is_part_of(found, hash)) {
            let (path, is_folder) = (found.path(), found.file_type().is_ok_and(|t| t.is_dir()));
            let locked = if is_folder { path.join(LOCK) } else { path.clone() };
            let is_free = reopen(&locked).and_then(|file| lock(&file));
            let removed = match (is_free, is_folder) {
                (Ok(true), true) => fs::remove_dir_all(&path),
                (Ok(true), false) => fs::remove_file(&path),
                (Ok(false), _) => Ok(()),
                (Err(error), _) => Err(error),
            };
            if let Err(error) = removed {
                tracing::info!(path = %path.display(), %error, "an unfinished fetch is left");
            }
        }
    }
}

/// Returns whether a fetch of `hash` has left something for a target at `path`, or in it if that is
/// a folder.
pub(super) fn is_left(path: &Path, hash: &Hash) -> bool {
    [Some(path), path.parent()].into_iter().flatten().any(|folder| is_left_in(folder, hash))
}

/// Returns whether a fetch of `hash` has left a part that the next fetch to `target` takes up.
pub(super) fn is_left_for(target: &Path, hash: &Hash) -> bool {
    fs::symlink_metadata(part_path(target, hash, 0)).is_ok()
}

/// Returns whether a fetch of `hash` has left something in `folder`.
pub(super) fn is_left_in(folder: &Path, hash: &Hash) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.flatten().any(|found| is_part_of(&found, hash))
}

fn is_part_of(found: &fs::DirEntry, hash: &Hash) -> bool {
    let name = found.file_name();
    let digits = hex(&hash.as_bytes()[..4]);
    name.to_str().is_some_and(|name| is_part_name(name) && name.contains(&format!(".{digits}.")))
}

/// Whether a file of this name is an unfinished fetch: such are not shared.
pub(crate) fn is_part_name(name: &str) -> bool {
    let Some((stem, "part")) = name.rsplit_once('.') else {
        return false;
    };
    let is_hash = |text: &str| text.len() == 8 && text.bytes().all(|c| c.is_ascii_hexdigit());
    stem.starts_with('.') && stem.rsplit('.').take(2).any(is_hash)
}

impl PartFile {
    /// Opens the part file of `hash` beside `target`: one that nobody else has.
    pub(super) fn open(target: &Path, hash: &Hash) -> io::Result<Self> {
        claim(target, hash, |path| {
            let file = match new_file(path, 0) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => reopen(path)?,
                other => other?,
            };
            if !lock(&file)? || !is_at(&file, path) {
                return Ok(None);
            }
            let path = path.to_owned();
            let file = Arc::new(file);
            let is_new = file.metadata()?.len() == 0;
            Ok(Some(Self { path, file, is_new, discarded: AtomicBool::new(false) }))
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Whether it had nothing in it when it was opened.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Gives it its size, and its room on disk, so that the disk is not found full at the end. What
    /// takes less where it comes from, `stored`, has holes, and will have them here.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] where there is not so much room.
    pub(super) fn reserve(&self, size: u64, stored: u64) -> io::Result<()> {
        let there = space::taken(&self.file.metadata()?);
        let is_sparse = stored < size - size / 8;
        let needed = if is_sparse { stored } else { size };
        space::check(&self.path, needed.saturating_sub(there))?;
        self.file.set_len(size)?;
        match is_sparse {
            true => Ok(()),
            false => space::reserve(&self.file, size),
        }
    }

    /// Writes all of `bytes` at `offset`. Where that is nothing but zeros there is nothing to write:
    /// that is what the file has where it was never written.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.is_new && is_zero(bytes) {
            true => Ok(()),
            false => write_all_at(&self.file, bytes, offset),
        }
    }

    /// It is not to be kept: it is removed when this is dropped.
    pub(super) fn discard(&self) {
        self.discarded.store(true, Ordering::Release);
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Whole blocks without a way out in between are compared many bytes at a time.
    bytes.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // Once it has its own name, another part may have taken the one that it had.
        if *self.discarded.get_mut() && is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
        // Whoever is still served of it has the file open: the next fetch of it need not wait.
        let _ = self.file.unlock();
    }
}

impl PartFolder {
    /// Opens the part folder of `hash` beside `target`: one that nobody else has.
    pub(super) fn open(target: &Path, hash: &Hash) -> io::Result<Self> {
        claim(target, hash, |path| {
            match fs::create_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ if !fs::symlink_metadata(path)?.is_dir() => return Ok(None),
                _ => {}
            }
            let at = path.join(LOCK);
            let file = match new_file(&at, 0) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => reopen(&at)?,
                other => other?,
            };
            if !lock(&file)? || !is_at(&file, &at) {
                return Ok(None);
            }
            let discarded = AtomicBool::new(false);
            let files = fs::create_dir(path.join(FILES));
            let is_new = match files {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                made => made.is_ok(),
            };
            Ok(Some(Self { path: path.to_owned(), lock: Some(file), is_new, discarded }))
        })
    }

    /// The folder that becomes the target.
    pub(super) fn files(&self) -> PathBuf {
        self.path.join(FILES)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing was in it when it was opened.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether there is room for so many bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] where there is not.
    pub(super) fn check_room(&self, bytes: u64) -> io::Result<()> {
        space::check(&self.path, bytes)
    }

    /// It is not to be kept: it is removed when this is dropped.
    pub(super) fn discard(&self) {
        self.discarded.store(true, Ordering::Release);
    }
}

impl Drop for PartFolder {
    fn drop(&mut self) {
        if *self.discarded.get_mut() {
            // Windows may not remove what is open. Elsewhere it is removed before others can have it.
            self.lock.take_if(|_| cfg!(windows));
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Tries names until `open` takes one: `None` from it means that another download has it.
fn claim<T>(
    target: &Path,
    hash: &Hash,
    mut open: impl FnMut(&Path) -> io::Result<Option<T>>,
) -> io::Result<T> {
    for number in 0..MAX_BESIDE {
        if let Some(part) = open(&part_path(target, hash, number))? {
            return Ok(part);
        }
    }
    Err(io::Error::other("too many downloads of the same at once"))
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

/// The longest name, in bytes, of a file in `folder`.
pub(super) fn longest_name(folder: &Path) -> usize {
    let left = Platform::HERE.max_path().saturating_sub(absolute_len(folder)).saturating_sub(1);
    // A path that is too long altogether is for the system to refuse.
    space::max_name(folder).min(left).max(SHORTEST)
}

pub(super) fn absolute_len(path: &Path) -> usize {
    std::path::absolute(path).map_or(0, |path| path.as_os_str().len())
}

/// Opens what a killed process left: never through a link that someone put there.
fn reopen(path: &Path) -> io::Result<File> {
    if !fs::symlink_metadata(path)?.is_file() {
        let text = format!("{} is in the way: remove it", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    OpenOptions::new().read(true).write(true).open(path)
}

/// Whether the lock was free. Some file systems have none: then it is as if it were.
fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether `file` still has its name: whoever had it before may have removed it meanwhile.
fn is_at(file: &File, path: &Path) -> bool {
    let open = file.metadata().map(|found| Fingerprint::of(&found).inode);
    let there = fs::symlink_metadata(path).map(|found| Fingerprint::of(&found).inode);
    matches!((open, there), (Ok(open), Ok(there)) if open == there)
}

/// Writes all of `bytes` at `offset`, whatever else writes to the file at the same time.
#[cfg(unix)]
pub(super) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// Writes all of `bytes` at `offset`, whatever else writes to the file at the same time.
#[cfg(windows)]
pub(super) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        match file.seek_write(bytes, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerkit_proto::files::MAX_NAME;

    #[test]
    fn part_names_are_known() {
        for name in [".a.txt.0123abcd.part", ".a.0123abcd.7.part", "..0123abcd.part"] {
            assert!(is_part_name(name), "{name}");
        }
        for name in ["a.0123abcd.part", ".a.part", "song.part", ".a.xyz.part", ""] {
            assert!(!is_part_name(name), "{name}");
        }
    }

    #[test]
    fn two_downloads_do_not_meet_and_a_left_one_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x".repeat(255));
        let hash = Hash::of(b"");
        let first = PartFile::open(&target, &hash).unwrap();
        let second = PartFile::open(&target, &hash).unwrap();
        assert_ne!(first.path(), second.path());
        let name = first.path().file_name().unwrap().to_str().unwrap();
        assert!(is_part_name(name) && name.len() <= MAX_NAME);
        let path = first.path().to_owned();
        first.discard();
        second.discard();
        drop((first, second));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(!is_left_for(&target, &hash));
        fs::write(&path, b"left by a crash").unwrap();
        assert!(is_left_for(&target, &hash) && is_left_in(folder.path(), &hash));
        assert!(!is_left_for(&target, &Hash::of(b"another")));
        let again = PartFile::open(&target, &hash).unwrap();
        assert_eq!(again.path(), path);
        let served = Arc::clone(again.file());
        drop(again);
        let again = PartFile::open(&target, &hash).unwrap();
        assert_eq!(again.path(), path, "who is served of it does not keep it from being taken up");
        again.discard();
        drop((again, served));

        let first = PartFolder::open(&target, &hash).unwrap();
        let second = PartFolder::open(&target, &hash).unwrap();
        assert_ne!(first.path, second.path);
        second.discard();
        drop((first, second));
        fs::create_dir_all(path.join("files/old")).unwrap();
        let again = PartFolder::open(&target, &hash).unwrap();
        assert_eq!(again.path, path);
        assert!(again.files().join("old").exists(), "whether it is wanted the fetch knows");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        let hash = Hash::of(b"");
        let part = PartFile::open(&target, &hash).unwrap();
        let path = part.path().to_owned();
        part.discard();
        drop(part);
        let victim = folder.path().join("victim");
        fs::write(&victim, b"precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(PartFile::open(&target, &hash).is_err());
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }
}
