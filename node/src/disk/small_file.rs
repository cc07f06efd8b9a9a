//! Reads and replaces small files as a whole.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use peerkit_proto::files::MAX_NAME;

use super::private;

/// Reads a file of at most `max` bytes. Returns `None` if the file is larger, or has no end like `/dev/zero`.
/// A pipe without a writer is read as empty.
pub(crate) fn read(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    private::open_to_read(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= max).then_some(bytes))
}

/// Replaces a file: writes a new file beside it, which only the owner may read, and renames the new file.
/// After a crash or on a full disk, there is the old file or the new one. A pipe, a device or a link is not
/// replaced but written to.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return private::open_to_write(path)?.write_all(bytes);
    }
    let beside = beside(path);
    let written = private::write_new(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    // The error is returned whether or not the unfinished file can be removed.
    written.inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// Returns the path `.NAME.part` in the folder of a file. Cuts a long name.
fn beside(path: &Path) -> PathBuf {
    const ADDED: usize = "..part".len();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let cut = name.floor_char_boundary(MAX_NAME - ADDED);
    path.with_file_name(format!(".{}.part", name.get(..cut).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_created_or_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["peers.json".to_owned(), "é".repeat(127), "x".repeat(255)] {
            let path = folder.path().join(&name);
            for text in ["old", "new"] {
                write(&path, text.as_bytes()).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), text);
            }
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "an unfinished file is left");
        fs::create_dir(folder.path().join("folder")).unwrap();
        assert!(write(&folder.path().join("folder"), b"x").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_target_that_is_not_a_regular_file_is_written_to_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        write(Path::new("/dev/null"), b"x").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_without_another_end_and_an_endless_file_do_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        assert_eq!(read(&pipe, 9).unwrap(), Some(Vec::new()));
        assert!(write(&pipe, b"x").is_err());
        assert_eq!(read(Path::new("/dev/zero"), 1 << 20).unwrap(), None);
    }
}
