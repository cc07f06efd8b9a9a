//! Disk space and limits: finds and reserves free space, and finds the maximum length of names.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use peerkit_proto::files::MAX_NAME;

/// Checks whether the disk that holds `path` has room for `bytes` more. Succeeds if the system does not
/// report the free space.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`] if there is not enough room.
pub(crate) fn check(path: &Path, bytes: u64) -> io::Result<()> {
    match free(path) {
        Some(free) if free < bytes => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    }
}

/// Returns the number of free bytes on the disk that holds `path`, or its parent folder if `path` does not
/// exist.
#[cfg(unix)]
pub(crate) fn free(path: &Path) -> Option<u64> {
    let found =
        rustix::fs::statvfs(path).ok().or_else(|| rustix::fs::statvfs(path.parent()?).ok())?;
    // `f_bavail` counts the blocks for ordinary users. `f_bfree` also counts those that are reserved for
    // root.
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
pub(crate) fn free(_: &Path) -> Option<u64> {
    None
}

/// Returns the maximum length of a name, in bytes, on the disk that holds `folder`.
#[cfg(unix)]
pub(crate) fn max_name(folder: &Path) -> usize {
    let found = rustix::fs::statvfs(folder).ok().map(|found| found.f_namemax);
    let found = found.and_then(|found| usize::try_from(found).ok()).filter(|max| *max > 0);
    found.unwrap_or(MAX_NAME).min(MAX_NAME)
}

#[cfg(not(unix))]
pub(crate) fn max_name(_: &Path) -> usize {
    MAX_NAME
}

/// Returns the number of bytes that a file takes on its disk.
#[cfg(unix)]
pub(crate) fn bytes_on_disk(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata).saturating_mul(512)
}

#[cfg(not(unix))]
pub(crate) fn bytes_on_disk(metadata: &Metadata) -> u64 {
    metadata.len()
}

/// Returns whether the file is on a tmpfs.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn is_memory(file: &File) -> bool {
    // The number that Linux has given to tmpfs.
    const TMPFS: u64 = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type as u64 == TMPFS)
}

/// Reserves space for `size` bytes of `file` on its disk. Does nothing if the file system can't.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn reserve(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    use rustix::io::Errno;
    // On a tmpfs this gains nothing and takes time.
    if size == 0 || is_memory(file) {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::NOSPC | Errno::DQUOT) => Err(io::ErrorKind::StorageFull.into()),
        // Other errors are ignored, because not every file system can reserve space.
        _ => Ok(()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn reserve(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}
