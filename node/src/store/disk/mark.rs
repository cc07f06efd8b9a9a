//! The mark beside a closed database. It saves the next start the check of the whole file.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use crate::disk::fingerprint::Fingerprint;
use crate::disk::private;

/// The file with the fingerprint that the database had when it was closed. If the database has another
/// fingerprint at the next start, it is checked.
pub(in crate::store) const CLOSED_FILE: &str = "state.redb.closed";

/// Maximum number of bytes that are read of the mark. A valid mark is shorter.
const MAX_MARK: u64 = 64;

/// Writes the mark of the closed database at `file`.
pub(in crate::store) fn leave_mark(file: &Path) -> io::Result<()> {
    private::write_new(&file.with_file_name(CLOSED_FILE), &mark(&fs::metadata(file)?))
}

/// Returns the content of a mark: the fingerprint of a database with this metadata.
pub(super) fn mark(metadata: &fs::Metadata) -> Vec<u8> {
    // `fresh` depends on the time of the call, so it is always written as false.
    let fingerprint = Fingerprint { fresh: false, ..Fingerprint::of(metadata) };
    let mut bytes = Vec::new();
    fingerprint.encode(&mut bytes);
    bytes
}

/// Reads the mark at `closed`. If another file is in its place, reads at most [`MAX_MARK`] bytes of that.
pub(super) fn read_mark(closed: &Path) -> io::Result<Vec<u8>> {
    let file = private::open_to_read(closed)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_MARK).read_to_end(&mut bytes)?;
    Ok(bytes)
}
