//! Access to files and folders, for cases that the standard library does not cover: operating systems that
//! differ, symbolic links that must not be followed, pipes that must not block, and files that other users
//! must not read.

use std::fs::File;
use std::io;
use std::path::Path;

pub(crate) mod cached_read;
pub(crate) mod fingerprint;
pub(crate) mod folder;
pub(crate) mod path_bytes;
pub(crate) mod private;
pub(crate) mod small_file;
pub(crate) mod space;

/// Reads bytes from `offset` on until `buffer` is full. Several threads may read the same file at once.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Reads bytes from `offset` on until `buffer` is full. Several threads may read the same file at once.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    // `seek_read` may return fewer bytes than requested. It also moves the file's position, which nothing
    // here uses.
    while !buffer.is_empty() {
        match file.seek_read(buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

/// Writes all of `bytes` from `offset` on. Several threads may write to the same file at once.
#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// Writes all of `bytes` from `offset` on. Several threads may write to the same file at once.
#[cfg(windows)]
pub(crate) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
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

/// Makes new and renamed files in `folder` survive a power cut. Does nothing on systems that can't sync a
/// folder.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Windows can't open a folder as a file.
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Writes all cached data of the file system that holds `folder` to its disk. Returns `false` if the
/// operating system has no call for that, so that nothing was written.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn sync_all(folder: &Path) -> io::Result<bool> {
    rustix::fs::syncfs(File::open(folder)?)?;
    Ok(true)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn sync_all(_: &Path) -> io::Result<bool> {
    Ok(false)
}
