//! Files and folders of this machine: what differs between systems, and what must not follow a link,
//! block on a pipe, or be readable by other users.

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

/// Fills `buffer` from `offset` on, whatever else reads the file at the same time.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Fills `buffer` from `offset` on, whatever else reads the file at the same time.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
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

/// Makes a rename or a new file in `folder` survive a power cut, where folders can be synced.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Writes everything on the disk that `folder` is on. Returns `false` where the system can't.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn sync_all(folder: &Path) -> io::Result<bool> {
    rustix::fs::syncfs(File::open(folder)?)?;
    Ok(true)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn sync_all(_: &Path) -> io::Result<bool> {
    Ok(false)
}
