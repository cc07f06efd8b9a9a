//! What goes out: bytes sealed into records, up to where the system takes them.

use std::io::{self, IoSlice};

use aws_lc_rs::error::Unspecified;
use peerkit_proto::tls::{HEADER, Kind, MAX_CONTENT, TAIL, key_update};

use super::traffic::Traffic;

/// Bytes that are sealed, and then given to the system at once: one system call, and one wake-up at
/// the other end, for 256 KiB and what is said of them.
const AT_ONCE: usize = 17 * MAX_CONTENT;

/// Sealed bytes that wait, from which on no more are taken: a record's worth.
const FULL: usize = MAX_CONTENT;

/// What was less is followed by nothing in the next moment: no memory is kept for that.
const LITTLE: usize = 8 << 10;

/// The sealed records that are to be sent.
pub(super) struct Outgoing {
    keys: Traffic,
    /// Sealed bytes up to `filled`, of which those before `sent` are sent; behind them is room.
    bytes: Vec<u8>,
    filled: usize,
    sent: usize,
    /// The other side wants our next key to be used before anything else is said.
    update: bool,
    closed: bool,
}

impl Outgoing {
    /// `said` goes before everything.
    pub(super) fn new(keys: Traffic, said: Vec<u8>) -> Self {
        let filled = said.len();
        Self { keys, bytes: said, filled, sent: 0, update: false, closed: false }
    }

    pub(super) fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..self.filled).unwrap_or_default()
    }

    /// So many of the bytes that were not sent are.
    pub(super) fn sent(&mut self, sent: usize) {
        self.sent += sent;
        if self.sent >= self.filled {
            if self.filled < LITTLE {
                self.bytes = Vec::new();
            }
            (self.sent, self.filled) = (0, 0);
        }
    }

    /// Whether some has to be sent before more is sealed.
    pub(super) fn is_full(&self) -> bool {
        self.unsent().len() >= FULL
    }

    pub(super) fn update_before_next(&mut self) {
        self.update = true;
    }

    #[cfg(test)]
    pub(super) fn wear_after(&mut self, records: u64) {
        self.keys.wear_after(records);
    }

    /// Seals the bytes of `slices`, from the first on, and tells how many.
    ///
    /// # Errors
    /// The end was said.
    pub(super) fn seal(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let there = slices.iter().fold(0, |sum: usize, slice| sum.saturating_add(slice.len()));
        let (mut left, mut slices) = (there.min(AT_ONCE), Slices { slices, taken: 0 });
        let records = left.div_ceil(MAX_CONTENT);
        self.reserve(left + records * (HEADER + TAIL));
        let taken = left;
        while left > 0 {
            self.refresh()?;
            let len = left.min(MAX_CONTENT);
            let whole = slices.take(len);
            let (keys, record) = self.room(HEADER + len + TAIL);
            let sealed = match whole {
                Some(content) => keys.seal(Kind::Data, content, record),
                None => {
                    slices.copy_to(record.get_mut(HEADER..HEADER + len).unwrap_or_default());
                    keys.seal_in_place(Kind::Data, record)
                }
            };
            sealed.map_err(not_sealed)?;
            left -= len;
        }
        Ok(taken)
    }

    /// Says that nothing more comes, and why; once.
    pub(super) fn close(&mut self, alert: [u8; 2]) -> io::Result<()> {
        match std::mem::replace(&mut self.closed, true) {
            true => Ok(()),
            false => self.put(Kind::Alert, &alert),
        }
    }

    /// Goes on to the next key where that is due.
    fn refresh(&mut self) -> io::Result<()> {
        if self.update || self.keys.is_worn() {
            self.update = false;
            self.put(Kind::Handshake, &key_update(false))?;
            self.keys.update().map_err(not_sealed)?;
        }
        Ok(())
    }

    fn put(&mut self, kind: Kind, content: &[u8]) -> io::Result<()> {
        let (keys, record) = self.room(HEADER + content.len() + TAIL);
        keys.seal(kind, content, record).map_err(not_sealed)
    }

    /// Has memory for `len` bytes more, that is taken at once.
    fn reserve(&mut self, len: usize) {
        let end = self.filled + len;
        if self.bytes.len() >= end {
            return;
        }
        if self.filled == 0 {
            // Memory that is made of zeros costs less than what is filled with them.
            self.bytes = vec![0; end];
        } else {
            self.bytes.reserve_exact(end - self.bytes.len());
            self.bytes.resize(end, 0);
        }
    }

    /// The keys, and room for a record of `len` bytes behind the others.
    fn room(&mut self, len: usize) -> (&mut Traffic, &mut [u8]) {
        self.reserve(len);
        let from = self.filled;
        self.filled += len;
        (&mut self.keys, self.bytes.get_mut(from..self.filled).unwrap_or_default())
    }
}

fn not_sealed(_: Unspecified) -> io::Error {
    io::Error::other("a TLS record can't be sealed")
}

/// Slices, of which some bytes are taken.
struct Slices<'a> {
    slices: &'a [IoSlice<'a>],
    /// Bytes of the first that are taken.
    taken: usize,
}

impl<'a> Slices<'a> {
    /// The next `len` bytes, where they stand in one place.
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

    /// Takes as many bytes as `out` has room for: there are as many.
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
