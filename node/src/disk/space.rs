//! Free disk space: checks whether there is enough, and reserves it.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use peerkit_proto::files::MAX_NAME;

/// Checks whether the disk that `path` is on has room for `bytes` more.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`] if it has not. Passes if the system does not say.
pub(crate) fn check(path: &Path, bytes: u64) -> io::Result<()> {
    match free(path) {
        Some(free) if free < bytes => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    }
}

/// Returns the free bytes on the disk that `path`, or else its folder, is on.
#[cfg(unix)]
pub(crate) fn free(path: &Path) -> Option<u64> {
    let found =
        rustix::fs::statvfs(path).ok().or_else(|| rustix::fs::statvfs(path.parent()?).ok())?;
    // The blocks for ordinary users. `f_bfree` counts those that are reserved for root as well.
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
pub(crate) fn free(_: &Path) -> Option<u64> {
    None
}

/// Returns the longest name, in bytes, that the disk with the folder `folder` allows.
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

/// Returns the bytes that a file takes on its disk.
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
    // The number of tmpfs among Linux's file systems.
    const TMPFS: u64 = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type as u64 == TMPFS)
}

/// Reserves the space for `size` bytes of `file` on its disk, if the file system can.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn reserve(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    use rustix::io::Errno;
    // On a tmpfs nothing is gained, and it takes time.
    if size == 0 || is_memory(file) {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::NOSPC | Errno::DQUOT) => Err(io::ErrorKind::StorageFull.into()),
        // Not every file system can.
        _ => Ok(()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn reserve(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}
