//! Bootstrap nodes: the nodes to join through if the application gives no address.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use peerkit_proto::address::{Address, ParseAddressError};

use crate::disk::private;

/// Name of the file in the state folder that lists bootstrap nodes.
pub(crate) const BOOTSTRAP_FILE: &str = "bootstrap";

/// Maximum number of bootstrap nodes. 64: some of them answer, and dialling all of them is cheap.
pub(crate) const MAX_BOOTSTRAP: usize = 64;

/// Maximum size of the file of bootstrap nodes, in bytes. It has room for 64 lines with the longest address,
/// and for comments.
const MAX_FILE: u64 = 64 << 10;

/// The error of a list of bootstrap nodes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The file can't be read.
    #[error("can't read the bootstrap nodes in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A line is not an address.
    #[error("{}, line {line}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The fault in it.
        #[source]
        source: ParseAddressError,
    },
    /// There are more than 64.
    #[error("{0} bootstrap nodes are given, and the maximum is {MAX_BOOTSTRAP}")]
    TooMany(usize),
    /// The file is larger than 64 KiB.
    #[error("{} has more than {MAX_FILE} bytes, so it is not a list of bootstrap nodes", .0.display())]
    TooLarge(PathBuf),
}

/// Reads the list of bootstrap nodes in a state folder: one address on a line, and `#` begins a comment. A
/// missing file is an empty list.
///
/// # Errors
/// If the file can't be read, is too large, or has a line that is not an address.
pub(crate) fn read(folder: &Path) -> Result<Vec<Address>, BootstrapError> {
    let path = folder.join(BOOTSTRAP_FILE);
    let mut text = String::new();
    let reading = private::open_to_read(&path)
        // One byte more than the limit is read: it shows that the file is too large. A file without an end,
        // such as `/dev/zero`, is too large as well.
        .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    match reading {
        Ok(_) if text.len() as u64 > MAX_FILE => return Err(BootstrapError::TooLarge(path)),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(BootstrapError::Read { path, source }),
    }
    let mut addresses = Vec::new();
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    for (at, line) in text.lines().enumerate() {
        let address = line.split('#').next().unwrap_or_default().trim();
        if address.is_empty() {
            continue;
        }
        match address.parse() {
            Ok(address) => addresses.push(address),
            Err(source) => return Err(BootstrapError::Line { path, line: at + 1, source }),
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_line_is_an_address_or_a_comment() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), [], "no file");
        let file = folder.path().join(BOOTSTRAP_FILE);
        let id = peerkit_proto::id::Key::from_secret(&[1; 32]).id();
        fs::write(&file, format!("# ours\n\n a:1 # the first\r\n{id}@[::1]:2\n")).unwrap();
        let read_addresses = read(folder.path()).unwrap();
        let expected: [Address; 2] =
            ["a:1".parse().unwrap(), format!("{id}@[::1]:2").parse().unwrap()];
        assert_eq!(read_addresses, expected);
        fs::write(&file, "\u{feff}a:1\r\n").unwrap();
        assert_eq!(read(folder.path()).unwrap(), expected[..1], "a byte order mark");
        fs::write(&file, "a:1\nb:99999\n").unwrap();
        let error = read(folder.path()).unwrap_err();
        assert!(matches!(error, BootstrapError::Line { line: 2, .. }), "{error:?}");
        fs::write(&file, "#".repeat(70_000)).unwrap();
        assert!(matches!(read(folder.path()), Err(BootstrapError::TooLarge(_))));
        fs::write(&file, [0xff]).unwrap();
        assert!(matches!(read(folder.path()), Err(BootstrapError::Read { .. })));
    }
}
