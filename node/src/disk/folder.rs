//! Opening and creating files in a folder that stays open, without following links or blocking on pipes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use peerkit_proto::files::RelPath;

/// A folder that stays open, so that its files can be opened relative to it.
///
/// Without that, the system would resolve the path of each file from the root, which is a large part of the
/// cost of opening many small files. If the folder can't be opened, or the system can't open files relative
/// to a folder, each file is opened by its full path.
#[derive(Debug)]
pub(crate) struct OpenFolder {
    path: PathBuf,
    #[cfg(unix)]
    handle: Option<std::os::fd::OwnedFd>,
}

impl OpenFolder {
    /// Opens the folder at `path`. Does not fail: if the folder can't be opened, its files are opened by
    /// their full paths.
    pub(crate) fn new(path: PathBuf) -> Self {
        #[cfg(unix)]
        let handle = unix::folder(&path).ok();
        Self {
            path,
            #[cfg(unix)]
            handle,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file in the folder, as [`open_no_follow`] does. `path` has the form of a [`RelPath`].
    pub(crate) fn open(&self, path: &str) -> io::Result<File> {
        #[cfg(unix)]
        if let Some(handle) = &self.handle {
            return unix::open(handle, Path::new(path));
        }
        open_no_follow(&self.full(path))
    }

    /// Creates a file in the folder, as [`new_file`] does. The subfolder that the file is in has to exist.
    pub(crate) fn create(&self, path: &RelPath, mode: u32) -> io::Result<File> {
        #[cfg(unix)]
        if let Some(handle) = &self.handle {
            return unix::create(handle, Path::new(path.as_str()), mode);
        }
        new_file(&self.full(path.as_str()), mode)
    }

    fn full(&self, path: &str) -> PathBuf {
        let mut full = self.path.clone();
        full.extend(path.split('/'));
        full
    }
}

/// Opens a file for reading. Fails if the path is a symbolic link. If a pipe has replaced the file, does not
/// wait for a writer.
pub(crate) fn open_no_follow(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    return unix::open(rustix::fs::CWD, path);
    #[cfg(not(unix))]
    if std::fs::symlink_metadata(path)?.is_file() {
        File::open(path)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Creates a file for reading and writing. Fails if the file exists: on a file system that ignores case, two
/// names may be the same file. The umask decides which users may read and write the file, and `mode` decides
/// which may execute it.
pub(crate) fn new_file(path: &Path, mode: u32) -> io::Result<File> {
    #[cfg(unix)]
    return unix::create(rustix::fs::CWD, path, mode);
    #[cfg(not(unix))]
    {
        let _ = mode;
        File::options().read(true).write(true).create_new(true).open(path)
    }
}

#[cfg(unix)]
pub(super) mod unix {
    use std::fs::File;
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::path::Path;

    use rustix::fs::{CWD, Mode, OFlags, RawMode, openat};
    use rustix::io::retry_on_intr;

    pub(super) fn folder(path: &Path) -> io::Result<OwnedFd> {
        open_at(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, 0)
    }

    pub(super) fn open(folder: impl AsFd, path: &Path) -> io::Result<File> {
        // NOCTTY: if a terminal has replaced the file, it must not become the terminal that controls this
        // process.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        open_at(folder, path, flags, 0).map(File::from)
    }

    pub(super) fn create(folder: impl AsFd, path: &Path, mode: u32) -> io::Result<File> {
        // With EXCL, a symbolic link at the path is an error too, even if its target does not exist (POSIX).
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        open_at(folder, path, flags, 0o666 | (mode & 0o111)).map(File::from)
    }

    /// Opens a path relative to a folder. Programs that this process starts do not inherit the file.
    pub(in crate::disk) fn open_at(
        folder: impl AsFd,
        path: &Path,
        flags: OFlags,
        mode: u32,
    ) -> io::Result<OwnedFd> {
        let (flags, mode) = (flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode as RawMode));
        Ok(retry_on_intr(|| openat(folder.as_fd(), path, flags, mode))?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_created_once_and_opened_by_its_path_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        let open = OpenFolder::new(folder.path().to_owned());
        let path = RelPath::new("in/a").unwrap();
        open.create(&path, 0o644).unwrap();
        let error = open.create(&path, 0o644).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        fs::write(folder.path().join("in/a"), "text").unwrap();
        assert_eq!(io::read_to_string(open.open("in/a").unwrap()).unwrap(), "text");
        assert_eq!(open.open("b").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_folder_that_did_not_exist_is_used_by_its_full_path() {
        let folder = tempfile::tempdir().unwrap();
        let open = OpenFolder::new(folder.path().join("later"));
        assert_eq!(open.open("a").unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::create_dir(folder.path().join("later")).unwrap();
        open.create(&RelPath::new("a").unwrap(), 0).unwrap();
        assert!(open.open("a").is_ok() && folder.path().join("later/a").exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_new_file_gets_only_the_execute_bits_of_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let open = OpenFolder::new(folder.path().to_owned());
        let mode = |name: &str, mode| {
            let made = open.create(&RelPath::new(name).unwrap(), mode).unwrap();
            made.metadata().unwrap().permissions().mode() & 0o7111
        };
        assert_eq!(mode("run", 0o4700), 0o100);
        assert_eq!(mode("text", 0o644), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "text").unwrap();
        std::os::unix::fs::symlink("secret", folder.path().join("link")).unwrap();
        let open = OpenFolder::new(folder.path().to_owned());
        assert!(open.open("secret").is_ok());
        assert!(open.open("link").is_err());
    }
}
