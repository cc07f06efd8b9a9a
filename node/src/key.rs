//! The key file. It consists of 64 hex digits and a newline, and only the user who owns it may read it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use peerkit_proto::id::{Hash, ID_LEN, Key, hex};

use crate::disk::{private, sync_folder};

/// An error of a key file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Other users of the machine can access the file. The key in it was not used.
    #[error("other users can access the key file {path}: it was not used", path = .0.display())]
    Readable(PathBuf),
    /// The file does not hold 64 hex digits.
    #[error(
        "{path} is not a key file (64 hex digits): choose another, or remove it to become a new node",
        path = .0.display()
    )]
    Malformed(PathBuf),
    /// The file exists already. It was left unchanged.
    #[error("{path} exists already: choose another name for the key file", path = .0.display())]
    Exists(PathBuf),
    /// The file can't be read or written.
    #[error("can't use the key file {path}: {error}", path = .path.display())]
    Io {
        /// The key file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The system's generator of random bytes failed.
    #[error("the system's generator of random bytes failed: {0}")]
    Random(getrandom::Error),
}

/// Creates a key pair from the system's random bytes.
///
/// # Errors
/// Fails with [`KeyError::Random`].
pub(crate) fn generate() -> Result<Key, KeyError> {
    random().map(|secret| Key::from_secret(&secret))
}

/// Loads the key in the file at `path`. If there is no such file, creates a key and saves it there.
///
/// If two processes call this at the same time, both get the same key.
///
/// # Errors
/// Fails with any [`KeyError`] except [`Exists`](KeyError::Exists). An existing file is left unchanged.
pub fn load_or_create(path: &Path) -> Result<Key, KeyError> {
    match load(path) {
        Err(KeyError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    match create(path) {
        // Another process has created the file in the meantime. Both processes use the key in it.
        Err(KeyError::Exists(_)) => load(path),
        other => other,
    }
}

/// Creates a key and saves it in a new file at `path`.
///
/// # Errors
/// Fails if the file exists already or can't be written, or if the system's generator of random bytes fails.
pub fn create(path: &Path) -> Result<Key, KeyError> {
    let key = generate()?;
    save(path, &key)?;
    Ok(key)
}

/// Loads the key in the file at `path`.
///
/// # Errors
/// Fails if the file is missing or not a key file, or (on Unix) if other users can access it.
pub fn load(path: &Path) -> Result<Key, KeyError> {
    let mut file = private::open_to_read(path).map_err(io_error(path))?;
    let metadata = file.metadata().map_err(io_error(path))?;
    if metadata.is_dir() {
        return Err(KeyError::Malformed(path.to_owned()));
    }
    if private::is_open_to_others(&metadata) {
        return Err(KeyError::Readable(path.to_owned()));
    }
    // Reads one byte more than the longest key file has, so that a longer file is recognised as malformed.
    let mut text = Vec::with_capacity(2 * ID_LEN + 3);
    (&mut file).take(2 * ID_LEN as u64 + 3).read_to_end(&mut text).map_err(io_error(path))?;
    let secret = parse(&text).ok_or_else(|| KeyError::Malformed(path.to_owned()))?;
    Ok(Key::from_secret(&secret))
}

/// Saves `key` in a new file at `path` (mode 0600), and creates missing folders above it (mode 0700). The
/// file is on disk when this returns.
///
/// # Errors
/// Fails with [`KeyError::Exists`], or with an error of the system. Then no new file is left.
pub(crate) fn save(path: &Path, key: &Key) -> Result<(), KeyError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    private::create_folder(folder).map_err(io_error(path))?;
    let temporary = folder.join(format!(".key-{}.new", hex(&random()?[..8])));
    let text = format!("{}\n", hex(key.secret()));
    // The key is first written to a temporary file, so that another process never reads half a key at `path`.
    let written =
        private::write_new(&temporary, text.as_bytes()).and_then(|()| publish(&temporary, path));
    let _ = fs::remove_file(&temporary);
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(KeyError::Exists(path.to_owned()));
        }
        other => other.map_err(io_error(path))?,
    }
    sync_folder(folder).map_err(io_error(path))
}

/// Gives the temporary file its final name by a hard link, which unlike a rename does not replace an existing
/// file. On a file system without hard links, renames the file if there is none with that name.
fn publish(temporary: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.try_exists()? => {
            fs::rename(temporary, path)
        }
        other => other,
    }
}

/// Returns the secret key in the text of a key file; `None` if the text is not that of a key file.
fn parse(text: &[u8]) -> Option<[u8; ID_LEN]> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_suffix("\r\n").or(text.strip_suffix('\n')).unwrap_or(text);
    if digits.len() != 2 * ID_LEN {
        return None;
    }
    Some(*digits.parse::<Hash>().ok()?.as_bytes())
}

fn random() -> Result<[u8; ID_LEN], KeyError> {
    let mut bytes = [0; ID_LEN];
    getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
    Ok(bytes)
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> KeyError {
    move |error| KeyError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_node_loads_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/deep/key");
        let first = load_or_create(&path).unwrap();
        let second = load_or_create(&path).unwrap();
        assert_eq!(first.id(), second.id());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", hex(first.secret())));
        let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 1, "no other file is left in the folder");
        assert_ne!(generate().unwrap().id(), first.id());
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = create(&path).unwrap();
        assert!(matches!(create(&path), Err(KeyError::Exists(_))));
        assert_eq!(load(&path).unwrap().id(), key.id());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn callers_at_the_same_time_get_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let ids = std::thread::scope(|scope| {
            let starts: Vec<_> =
                (0..8).map(|_| scope.spawn(|| load_or_create(&path).unwrap().id())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
    }

    #[test]
    fn a_malformed_key_file_is_refused_and_left_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for text in ["", "abc\n", &"g".repeat(64), &"a".repeat(66), &"é".repeat(32)] {
            let _ = fs::remove_file(&path);
            private::write_new(&path, text.as_bytes()).unwrap();
            let error = load_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyError::Malformed(_)), "{text}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let missing = load(&folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("none"), "{missing}");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_that_other_users_can_access_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/key");
        create(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        for open in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
            let error = load_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyError::Readable(_)));
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(load(&path).is_ok());
    }
}
