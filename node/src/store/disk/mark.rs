//! The mark beside a closed database, which saves the next start a check of the whole file.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use crate::disk::fingerprint::Fingerprint;
use crate::disk::private;

/// The file beside the database with the database's fingerprint when it was closed. The next start checks a
/// database that has another fingerprint.
pub(in crate::store) const CLOSED_FILE: &str = "state.redb.closed";

/// Most bytes that are read of the mark, which is shorter.
const MAX_MARK: u64 = 64;

/// Writes the fingerprint of the database at `file`, which is closed, beside it.
pub(in crate::store) fn leave_mark(file: &Path) -> io::Result<()> {
    private::write_new(&file.with_file_name(CLOSED_FILE), &mark(&fs::metadata(file)?))
}

/// Returns a database's fingerprint: bytes that are equal only if it was not changed.
pub(super) fn mark(metadata: &fs::Metadata) -> Vec<u8> {
    // `fresh` depends on the time of this call, so it is left out.
    let fingerprint = Fingerprint { fresh: false, ..Fingerprint::of(metadata) };
    let mut bytes = Vec::new();
    fingerprint.encode(&mut bytes);
    bytes
}

/// Reads the fingerprint that the last node left at `closed`. Of another file in its place it reads
/// no more than [`MAX_MARK`] bytes.
pub(super) fn read_mark(closed: &Path) -> io::Result<Vec<u8>> {
    let file = private::open_to_read(closed)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_MARK).read_to_end(&mut bytes)?;
    Ok(bytes)
}
