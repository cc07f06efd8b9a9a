//! Permissions: files and folders that only their owner may read, with modes 0600 and 0700 on Unix.
//!
//! Each is created with that mode, whatever the process's umask is: a mode that is set afterwards comes
//! too late. On Windows the folder's access list decides.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

#[cfg(unix)]
use super::folder::unix;

/// Prefixes of the names of all files that a node or the program puts into a state folder, except the key.
/// A key that others could read is refused, and not quietly made private.
const OURS: [&str; 7] =
    ["state.redb", "history", "api.json", "bootstrap", "peers.json", ".peers.json", ".key-"];

/// Name of the key file.
const KEY: &str = "key";

/// Creates `folder` and those above it, for the owner alone. Does not change existing ones.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Opens the file at `path` for reading and writing. Creates it, for the owner alone, if it is missing.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    private(&mut options).open(path)
}

/// Opens the file at `path` for reading. A pipe without a writer reads as empty: waiting for a writer would
/// block the start of a node for ever.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::{CWD, OFlags, fcntl_setfl};
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = unix::opened(CWD, path, flags, 0)?;
        // Reads from a pipe with a writer, such as the shell's `<(command)`, wait for its data.
        fcntl_setfl(&file, OFlags::empty())?;
        Ok(file.into())
    }
    #[cfg(not(unix))]
    File::open(path)
}

/// Opens a pipe, a device or a link at `path` for writing. A pipe without a reader is an error: waiting for
/// a reader would block for ever.
pub(crate) fn open_to_write(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::{CWD, OFlags, fcntl_setfl};
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CREATE;
        let file = unix::opened(CWD, path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, 0o600)?;
        fcntl_setfl(&file, OFlags::empty())?;
        Ok(file.into())
    }
    #[cfg(not(unix))]
    File::create(path)
}

/// Writes a new file at `path`, for the owner alone. Replaces an existing file. The data is on disk when
/// this returns.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Creates a file at `path`, for the owner alone. Replaces an existing file.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    // Not reused: other users may be able to read a file that an earlier crash has left.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    private(&mut options).open(path)
}

/// Makes files that are created with `options` private to the owner.
pub(crate) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Removes the access of other users to the files of a node in a state folder.
///
/// The folder itself is made private only if it holds nothing else, so that a state folder `.` does not lock
/// other users out of a folder with other files. A folder with the sticky bit, such as `/tmp`, is for all
/// users and stays so. Files of another user can't be changed and are left as they are.
pub(crate) fn tighten(folder: &Path) -> io::Result<()> {
    let mut is_ours_alone = true;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if OURS.iter().any(|ours| name.starts_with(ours)) && entry.file_type()?.is_file() {
            make_private(&entry.path());
        // A folder with a state file in it is the state folder of another node of the same owner.
        } else if name != KEY && !entry.path().join("state.redb").exists() {
            is_ours_alone = false;
        }
    }
    if is_ours_alone && !is_for_everyone(folder)? {
        make_private(folder);
    }
    Ok(())
}

/// Returns whether a folder has the sticky bit, so that all users keep files in it.
fn is_for_everyone(folder: &Path) -> io::Result<bool> {
    let metadata = fs::metadata(folder)?;
    #[cfg(unix)]
    return Ok(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o1000 != 0);
    #[cfg(not(unix))]
    {
        let _ = metadata;
        Ok(false)
    }
}

/// Removes the access of other users to `path`, or to its target if it is a link.
#[cfg(unix)]
pub(crate) fn make_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let changed = fs::metadata(path).and_then(|metadata| {
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 == 0 {
            return Ok(());
        }
        tracing::info!(path = %path.display(), "others could use this: from now on they can't");
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7700))
    });
    if let Err(error) = changed {
        tracing::warn!(path = %path.display(), %error, "others may be able to read this");
    }
}

#[cfg(not(unix))]
pub(crate) fn make_private(_: &Path) {}

/// Returns whether other users may do anything with a file. On Windows the access list of the folder decides,
/// so this is false.
pub(crate) fn is_open_to_others(metadata: &fs::Metadata) -> bool {
    #[cfg(unix)]
    return std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0;
    #[cfg(not(unix))]
    {
        let _ = metadata;
        false
    }
}

/// Returns the permissions of a file or folder as Unix has them. On other systems these are the usual ones of
/// a file that everyone may read.
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
    fn new_files_are_private_from_the_start_and_existing_ones_are_left() {
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
    fn a_file_is_replaced_by_one_of_the_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".peers.json.part");
        make(&path, 0o644);
        write_new(&path, b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o600));
    }

    #[test]
    fn a_loose_state_folder_is_tightened() {
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
        tighten(folder.path()).unwrap();
        for name in files {
            assert_eq!(mode(&at(name)), 0o600, "{name}");
        }
        assert_eq!(mode(&at("key")), 0o644, "refused later, and not closed quietly");
        assert_eq!(mode(folder.path()), 0o700);
    }

    #[test]
    fn a_folder_of_all_users_stays_theirs_and_other_bits_stay() {
        let folder = tempfile::tempdir().unwrap();
        let bits = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        for (before, after) in [(0o1777, 0o1777), (0o2775, 0o2700), (0o755, 0o700)] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(before)).unwrap();
            make(&folder.path().join("state.redb"), 0o644);
            tighten(folder.path()).unwrap();
            assert_eq!(bits(folder.path()), after, "{before:o}");
            assert_eq!(mode(&folder.path().join("state.redb")), 0o600);
        }
    }

    #[test]
    fn a_pipe_without_a_writer_is_empty() {
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
    fn a_folder_that_holds_more_than_the_state_stays_open() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        make(&at("state.redb"), 0o666);
        make(&at("thesis.txt"), 0o644);
        make(&at("elsewhere"), 0o644);
        std::os::unix::fs::symlink(at("elsewhere"), at("history")).unwrap();
        tighten(folder.path()).unwrap();
        assert_eq!(mode(&at("state.redb")), 0o600);
        assert_eq!(mode(&at("thesis.txt")), 0o644);
        assert_eq!(mode(&at("elsewhere")), 0o644, "links are not followed");
        assert_eq!(mode(folder.path()), 0o755);
    }
}
