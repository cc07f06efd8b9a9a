//! Access to files and folders: where operating systems differ, and where a symbolic link must not be
//! followed, a pipe must not block, or other users must not read a file.

use std::fs::File;
use std::io;
use std::path::Path;

pub(crate) mod cached_read;
pub(crate) mod fingerprint;
pub(crate) mod folder;
pub(crate) mod path_bytes;
pub(crate) mod private;
pub(crate) mod space;
pub(crate) mod whole;

/// Reads bytes from `offset` on until `buffer` is full. Other threads may read the file at the same time.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Reads bytes from `offset` on until `buffer` is full. Other threads may read the file at the same time.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    // Windows reads at an offset too, but may return fewer bytes than asked for, and moves the file's
    // position, which is not used here.
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

/// Writes all of `bytes` from `offset` on. Other threads may write to the file at the same time.
#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// Writes all of `bytes` from `offset` on. Other threads may write to the file at the same time.
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

/// Makes a rename or a new file in `folder` survive a power cut, on systems that can sync folders.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Windows does not open folders as files.
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Writes all cached data of the disk that holds `folder`. Returns `false` if the system can't.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn sync_all(folder: &Path) -> io::Result<bool> {
    rustix::fs::syncfs(File::open(folder)?)?;
    Ok(true)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn sync_all(_: &Path) -> io::Result<bool> {
    Ok(false)
}
