//! Outgoing records: the bytes of the writer are sealed, and the records are kept until the transport takes
//! them.

use std::io::{self, IoSlice};

use aws_lc_rs::error::Unspecified;
use peerkit_proto::tls::{ContentType, HEADER_LEN, MAX_CONTENT, TRAILER_LEN, key_update_message};

use super::protection::RecordProtection;

/// Maximum number of bytes that one write seals and sends together. A block of 256 KiB and its header fit, so
/// they take one system call and wake the reader once.
const MAX_SEALED: usize = 17 * MAX_CONTENT;

/// Number of unsent bytes at which sealing stops until records are sent. 16 KiB: the content of one record.
const MAX_UNSENT: usize = MAX_CONTENT;

/// Minimum size of a buffer that is kept after it is sent, in bytes. Few writes follow a smaller one.
const MIN_KEPT_BUFFER: usize = 8 << 10;

/// The records that have not been sent, and the keys for further ones.
pub(super) struct OutgoingRecords {
    keys: RecordProtection,
    /// Records up to `filled`, and free space behind them. The bytes before `sent` are sent.
    bytes: Vec<u8>,
    filled: usize,
    sent: usize,
    /// The key has to be updated before the next data.
    update: bool,
    closed: bool,
    poisoned: bool,
}

/// A record could not be sealed. The channel is unusable from then on: its keys or record numbers may be
/// wrong, and a record number must never be used twice.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a TLS record could not be sealed; nothing more is sent")]
pub(super) struct RecordSealError;

impl From<RecordSealError> for io::Error {
    fn from(error: RecordSealError) -> Self {
        Self::other(error)
    }
}

impl OutgoingRecords {
    /// Creates the queue. `first` has the unsent bytes of the handshake.
    pub(super) fn new(keys: RecordProtection, first: Vec<u8>) -> Self {
        Self {
            keys,
            filled: first.len(),
            bytes: first,
            sent: 0,
            update: false,
            closed: false,
            poisoned: false,
        }
    }

    /// Returns the error of a channel on which sealing has failed.
    pub(super) fn check(&self) -> Result<(), RecordSealError> {
        if self.poisoned { Err(RecordSealError) } else { Ok(()) }
    }

    pub(super) fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..self.filled).unwrap_or_default()
    }

    /// Marks the first `len` unsent bytes as sent.
    pub(super) fn sent(&mut self, len: usize) {
        self.sent += len;
        if self.sent >= self.filled {
            // An idle connection has no buffer.
            if self.filled < MIN_KEPT_BUFFER {
                self.bytes = Vec::new();
            }
            (self.sent, self.filled) = (0, 0);
        }
    }

    /// Returns whether records have to be sent before more are sealed.
    pub(super) fn is_full(&self) -> bool {
        self.unsent().len() >= MAX_UNSENT
    }

    pub(super) fn update_before_next(&mut self) {
        self.update = true;
    }

    #[cfg(test)]
    pub(super) fn limit_records(&mut self, records: u64) {
        self.keys.limit_records(records);
    }

    /// Seals the first bytes of `slices`, and returns the number of sealed bytes.
    ///
    /// # Errors
    /// `BrokenPipe` after [`close`](Self::close), or [`RecordSealError`].
    pub(super) fn seal(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.check()?;
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sealed = self.seal_records(slices);
        Ok(self.poison_on_error(sealed)?)
    }

    /// Seals `alert` on the first call. No data may follow.
    ///
    /// # Errors
    /// [`RecordSealError`].
    pub(super) fn close(&mut self, alert: [u8; 2]) -> Result<(), RecordSealError> {
        self.check()?;
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        let sealed = self.put(ContentType::Alert, &alert);
        self.poison_on_error(sealed)
    }

    fn seal_records(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, Unspecified> {
        let len = slices.iter().fold(0, |sum: usize, slice| sum.saturating_add(slice.len()));
        let taken = len.min(MAX_SEALED);
        let mut slices = Slices { slices, taken: 0 };
        let mut left = taken;
        // Room for all records is reserved at once: a buffer that grows by one record would be copied for
        // each record.
        self.reserve(left + left.div_ceil(MAX_CONTENT) * (HEADER_LEN + TRAILER_LEN));
        while left > 0 {
            self.refresh()?;
            let len = left.min(MAX_CONTENT);
            // Bytes of one slice are sealed in their place. Only a record with bytes of several slices is
            // copied first.
            let whole = slices.take(len);
            let (keys, record) = self.room(HEADER_LEN + len + TRAILER_LEN);
            match whole {
                Some(content) => keys.seal(ContentType::Data, content, record)?,
                None => {
                    slices
                        .copy_to(record.get_mut(HEADER_LEN..HEADER_LEN + len).unwrap_or_default());
                    keys.seal_in_place(ContentType::Data, record)?;
                }
            }
            left -= len;
        }
        Ok(taken)
    }

    /// Drops all records if sealing has failed: the last record may still be plain text.
    fn poison_on_error<T>(&mut self, sealed: Result<T, Unspecified>) -> Result<T, RecordSealError> {
        sealed.map_err(|Unspecified| {
            self.poisoned = true;
            self.bytes = Vec::new();
            (self.sent, self.filled) = (0, 0);
            RecordSealError
        })
    }

    /// Updates the key if the peer has requested that, or if the key reaches its limit.
    fn refresh(&mut self) -> Result<(), Unspecified> {
        if self.update || self.keys.needs_update() {
            self.update = false;
            // The announcement is the last record under the old key.
            self.put(ContentType::Handshake, &key_update_message(false))?;
            self.keys.update()?;
        }
        Ok(())
    }

    fn put(&mut self, kind: ContentType, content: &[u8]) -> Result<(), Unspecified> {
        let (keys, record) = self.room(HEADER_LEN + content.len() + TRAILER_LEN);
        keys.seal(kind, content, record)
    }

    /// Makes room for `len` more bytes.
    fn reserve(&mut self, len: usize) {
        let end = self.filled + len;
        if self.bytes.len() >= end {
            return;
        }
        if self.filled == 0 {
            // A new zeroed buffer is cheaper than an existing one that has to be filled with zeros.
            self.bytes = vec![0; end];
        } else {
            self.bytes.reserve_exact(end - self.bytes.len());
            self.bytes.resize(end, 0);
        }
    }

    /// Appends room for a record of `len` bytes, and returns it with the keys.
    fn room(&mut self, len: usize) -> (&mut RecordProtection, &mut [u8]) {
        self.reserve(len);
        let from = self.filled;
        self.filled += len;
        (&mut self.keys, self.bytes.get_mut(from..self.filled).unwrap_or_default())
    }
}

/// A cursor over slices.
struct Slices<'a> {
    slices: &'a [IoSlice<'a>],
    /// Number of bytes that are taken from the first slice.
    taken: usize,
}

impl<'a> Slices<'a> {
    /// Takes the next `len` bytes if they are in one slice. Returns `None` otherwise.
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        while let Some((first, rest)) = self.slices.split_first()
            && first.len() == self.taken
        {
            (self.slices, self.taken) = (rest, 0);
        }
        let slices = self.slices;
        let whole = slices.first()?.get(self.taken..self.taken.checked_add(len)?)?;
        self.taken += len;
        Some(whole)
    }

    /// Fills `out` with the next bytes. The slices must have enough bytes.
    fn copy_to(&mut self, mut out: &mut [u8]) {
        while !out.is_empty()
            && let Some((first, rest)) = self.slices.split_first()
        {
            let some = first.get(self.taken..).unwrap_or_default();
            let len = some.len().min(out.len());
            let (here, behind) = out.split_at_mut(len);
            here.copy_from_slice(some.get(..len).unwrap_or_default());
            out = behind;
            self.taken += len;
            if self.taken == first.len() {
                (self.slices, self.taken) = (rest, 0);
            }
        }
    }
}
