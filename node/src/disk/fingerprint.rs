//! File fingerprints. They show whether a file was changed, without reading its content.

use std::fs::Metadata;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerkit_proto::codec::{DecodeError, Reader, Writer};

/// Minimum time between the last change of a file and its hashing, for its times to prove anything. 2 s: a
/// file that is changed twice within one tick of the file system's clock keeps its times. A tick is 10 ms, or
/// 2 s on FAT.
const FRESH: Duration = Duration::from_secs(2);

/// The size, times and inode of a file when it was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of its content, in nanoseconds since 1970.
    pub modified: i64,
    /// Time of the last change of its content or metadata (Unix's ctime, which programs can't set), in
    /// nanoseconds since 1970; 0 if the system has no such time.
    pub changed: i64,
    /// Inode number; 0 if the system has no such number.
    pub inode: u64,
    /// True if the file had been changed less than `FRESH` before. Then its times prove nothing.
    pub fresh: bool,
}

/// The result of comparing a file with its fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// The file has not changed.
    Same,
    /// The file may have changed, so its content has to be checked.
    Doubtful,
    /// The file has changed.
    Different,
}

impl Fingerprint {
    /// Makes the fingerprint of a file from its metadata.
    #[must_use]
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let now = SystemTime::now();
        // If the system has no such time, the file counts as just changed, so that its content is checked.
        let modified = metadata.modified().unwrap_or(now);
        let (changed, inode) = unix_only(metadata);
        Self {
            size: metadata.len(),
            modified: nanos(modified),
            changed,
            inode,
            fresh: modified.checked_add(FRESH).is_none_or(|then| then > now),
        }
    }

    /// Compares this fingerprint with `now`, the current one of the same file.
    #[must_use]
    pub(crate) fn compare(&self, now: &Self) -> Comparison {
        if (self.size, self.modified, self.inode) != (now.size, now.modified, now.inode) {
            Comparison::Different
        // A backup or a change of permissions also changes ctime, so another ctime alone proves nothing.
        } else if self.fresh || self.changed != now.changed {
            Comparison::Doubtful
        } else {
            Comparison::Same
        }
    }

    pub(crate) fn encode(&self, out: &mut impl Writer) {
        out.put_u64(self.size);
        out.put_raw(&self.modified.to_le_bytes());
        out.put_raw(&self.changed.to_le_bytes());
        out.put_u64(self.inode);
        out.put_bool(self.fresh);
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            size: reader.u64("fingerprint size")?,
            modified: i64::from_le_bytes(reader.array("fingerprint modified")?),
            changed: i64::from_le_bytes(reader.array("fingerprint changed")?),
            inode: reader.u64("fingerprint inode")?,
            fresh: reader.bool("fingerprint fresh")?,
        })
    }
}

fn nanos(time: SystemTime) -> i64 {
    let clamp = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => clamp(after),
        Err(before) => -clamp(before.duration()),
    }
}

#[cfg(unix)]
fn unix_only(metadata: &Metadata) -> (i64, u64) {
    use std::os::unix::fs::MetadataExt;
    let seconds = metadata.ctime().saturating_mul(1_000_000_000);
    (seconds.saturating_add(metadata.ctime_nsec()), metadata.ino())
}

#[cfg(not(unix))]
fn unix_only(_: &Metadata) -> (i64, u64) {
    (0, 0)
}
