//! Private files and folders, which only their owner may use. On Unix they have the modes 0600 and 0700.
//!
//! They are created with these modes, whatever the umask of the process is. If the mode were set after the
//! creation, other users could open the file before. On Windows the access list of the folder decides.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

#[cfg(unix)]
use super::folder::unix;

/// Prefixes of the names of all files in a state folder that a node or the program writes, except the key.
/// The key is not listed, because a key that other users could read has to be refused, and not made private
/// silently.
const STATE_FILES: [&str; 9] = [
    "state.redb",
    "history",
    "api.json",
    "bootstrap",
    "peers.json",
    ".peers.json",
    "invited-networks.json",
    ".invited-networks.json",
    ".key-",
];

/// Name of the file with the node's key.
const KEY: &str = "key";

/// Creates `folder` and the missing folders above it, private to the owner. Does not change existing folders.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Opens the file at `path` for reading and writing. If the file is missing, creates it, private to the
/// owner.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    set_private(&mut options).open(path)
}

/// Opens the file at `path` for reading. A pipe without a writer is read as empty, because a wait for a
/// writer could block the start of a node for ever.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::{CWD, OFlags, fcntl_setfl};
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = unix::open_at(CWD, path, flags, 0)?;
        // From here on, reads block: a pipe with a writer, such as the shell's `<(command)`, is read to its
        // end.
        fcntl_setfl(&file, OFlags::empty())?;
        Ok(file.into())
    }
    #[cfg(not(unix))]
    File::open(path)
}

/// Opens a pipe, a device or a link at `path` for writing. Fails for a pipe without a reader, because a wait
/// for a reader could block for ever.
pub(crate) fn open_to_write(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::{CWD, OFlags, fcntl_setfl};
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CREATE;
        let file = unix::open_at(CWD, path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, 0o600)?;
        fcntl_setfl(&file, OFlags::empty())?;
        Ok(file.into())
    }
    #[cfg(not(unix))]
    File::create(path)
}

/// Writes a new file at `path`, private to the owner. Replaces an existing file. Returns when the data is on
/// disk.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Creates a file at `path`, private to the owner. Replaces an existing file.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    // An existing file, such as one that a crash has left, is not reused: other users may have access to it.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    set_private(&mut options).open(path)
}

/// Makes files that are created with `options` private to the owner.
fn set_private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Removes the access of other users to the state files in a state folder.
///
/// Also makes the folder itself private, but only if it holds nothing but state files and state folders.
/// Otherwise a state folder `.` would lock other users out of a folder with other files. A folder with the
/// sticky bit, such as `/tmp`, is meant for all users and not changed. Files of another user can't be
/// changed.
pub(crate) fn make_state_private(folder: &Path) -> io::Result<()> {
    let mut has_only_state = true;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if STATE_FILES.iter().any(|prefix| name.starts_with(prefix)) && entry.file_type()?.is_file()
        {
            make_private(&entry.path());
        // A subfolder with a state file is the state folder of another node of this user.
        } else if name != KEY && !entry.path().join("state.redb").exists() {
            has_only_state = false;
        }
    }
    if has_only_state && !is_for_all_users(folder)? {
        make_private(folder);
    }
    Ok(())
}

/// Returns whether a folder has the sticky bit, which means that all users may keep files in it.
fn is_for_all_users(folder: &Path) -> io::Result<bool> {
    let metadata = fs::metadata(folder)?;
    #[cfg(unix)]
    return Ok(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o1000 != 0);
    #[cfg(not(unix))]
    {
        let _ = metadata;
        Ok(false)
    }
}

/// Removes the access of other users to `path`, or to its target if it is a link. If that fails, logs a
/// warning.
#[cfg(unix)]
pub(crate) fn make_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let changed = fs::metadata(path).and_then(|metadata| {
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 == 0 {
            return Ok(());
        }
        tracing::info!(path = %path.display(), "the access of other users is removed");
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7700))
    });
    if let Err(error) = changed {
        tracing::warn!(path = %path.display(), %error, "can't remove the access of other users");
    }
}

#[cfg(not(unix))]
pub(crate) fn make_private(_: &Path) {}

/// Returns whether other users have any access to a file. Returns false on Windows, where the access list of
/// the folder decides.
pub(crate) fn is_open_to_others(metadata: &fs::Metadata) -> bool {
    #[cfg(unix)]
    return std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0;
    #[cfg(not(unix))]
    {
        let _ = metadata;
        false
    }
}

/// Returns the Unix permission bits of a file or folder. On other systems, returns the usual bits of a file
/// or folder that all users may read.
pub(crate) fn mode_of(metadata: &fs::Metadata) -> u32 {
    #[cfg(unix)]
    return std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    #[cfg(not(unix))]
    if metadata.is_dir() { 0o755 } else { 0o644 }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn make(path: &Path, mode: u32) {
        fs::write(path, b"x").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn new_files_are_private_and_existing_files_are_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        create_folder(path.parent().unwrap()).unwrap();
        open_or_create(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(mode(&folder.path().join("a")), 0o700);
        make(&path, 0o640);
        open_or_create(&path).unwrap();
        assert_eq!(mode(&path), 0o640);
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }

    #[test]
    fn a_file_is_replaced_by_a_private_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".peers.json.part");
        make(&path, 0o644);
        write_new(&path, b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o600));
    }

    #[test]
    fn a_state_folder_and_its_files_are_made_private() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let files = ["state.redb", "state.redb.damaged-2", "history", "api.json", ".key-ab.new"];
        for name in files {
            make(&at(name), 0o644);
        }
        make(&at("key"), 0o644);
        fs::create_dir(at("share")).unwrap();
        make(&at("share/state.redb"), 0o644);
        make_state_private(folder.path()).unwrap();
        for name in files {
            assert_eq!(mode(&at(name)), 0o600, "{name}");
        }
        assert_eq!(mode(&at("key")), 0o644, "a key that others can read is refused later");
        assert_eq!(mode(folder.path()), 0o700);
    }

    #[test]
    fn a_folder_for_all_users_is_not_made_private() {
        let folder = tempfile::tempdir().unwrap();
        let bits = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        for (before, after) in [(0o1777, 0o1777), (0o2775, 0o2700), (0o755, 0o700)] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(before)).unwrap();
            make(&folder.path().join("state.redb"), 0o644);
            make_state_private(folder.path()).unwrap();
            assert_eq!(bits(folder.path()), after, "{before:o}");
            assert_eq!(mode(&folder.path().join("state.redb")), 0o600);
        }
    }

    #[test]
    fn a_pipe_without_a_writer_is_read_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert_eq!(io::read_to_string(open_to_read(&pipe).unwrap()).unwrap(), "");
        let error = crate::key::load_or_create(&pipe).unwrap_err();
        assert!(matches!(error, crate::key::KeyError::Malformed(_)), "{error}");
        fs::rename(&pipe, folder.path().join("bootstrap")).unwrap();
        assert_eq!(crate::bootstrap::read(folder.path()).unwrap(), []);
    }

    #[test]
    fn a_folder_with_other_files_is_not_made_private() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        make(&at("state.redb"), 0o666);
        make(&at("thesis.txt"), 0o644);
        make(&at("elsewhere"), 0o644);
        std::os::unix::fs::symlink(at("elsewhere"), at("history")).unwrap();
        make_state_private(folder.path()).unwrap();
        assert_eq!(mode(&at("state.redb")), 0o600);
        assert_eq!(mode(&at("thesis.txt")), 0o644);
        assert_eq!(mode(&at("elsewhere")), 0o644, "links are not followed");
        assert_eq!(mode(folder.path()), 0o755);
    }
}
