//! Incoming records: read ahead, and opened into the reader's buffer.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use peerkit_proto::tls::{
    Alert, ContentType, HEADER_LEN, RecordError, TAG_LEN, content_type_and_len, payload_len,
    read_key_update,
};
use tokio::io::{AsyncReadExt, ReadBuf};

use super::low_watermark::{ExpectedBytes, LowWatermark};
use super::protection::RecordProtection;
use super::transport::Transport;

/// Maximum number of bytes that are read ahead of the reader. 64 KiB: four records.
const MAX_AHEAD: usize = 64 << 10;

/// Maximum number of bytes that are read ahead of a reader of bulk data. They arrive while the reader handles
/// the bytes before them.
const MAX_AHEAD_OF_BULK: usize = 256 << 10;

/// Maximum size of a read while little arrives, in bytes. Such a read needs no buffer on the heap.
const SMALL_READ: usize = 4 << 10;

/// Minimum size of a read after which more reads are likely to follow, in bytes.
const LARGE_READ: usize = 8 << 10;

/// Maximum number of records without data in a row. A peer makes such records faster than this node can open
/// them.
const MAX_EMPTY_RECORDS: u32 = 32;

/// The records that have arrived.
pub(super) struct IncomingRecords {
    keys: RecordProtection,
    /// Bytes that have been read. The records before `taken` have been opened.
    ahead: Vec<u8>,
    taken: usize,
    /// Maximum number of bytes in `ahead`.
    room: usize,
    /// Much data arrives: reads are large, and the buffers are kept.
    busy: bool,
    low_watermark: Option<Box<LowWatermark>>,
    /// The content of a record that did not fit into the reader's buffer. The reader has received the bytes
    /// before `delivered`.
    opened: Vec<u8>,
    delivered: usize,
    /// Number of records without data in a row.
    empty: u32,
    end: Option<SessionEnd>,
    update_requested: bool,
}

/// The reason why no more data follows.
#[derive(Debug, Clone, Copy)]
enum SessionEnd {
    /// The peer has closed its direction, or reported a failure.
    Alert(Alert),
    /// The peer has sent something invalid.
    Invalid(RecordError),
}

impl SessionEnd {
    /// Returns the result of a read at the end: `Ok`, which means end of file, or an error.
    fn result(self) -> io::Result<()> {
        match self {
            Self::Alert(Alert::CloseNotify) => Ok(()),
            Self::Alert(Alert::Failure(number)) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!("the peer has ended the session: TLS alert {number}"),
            )),
            Self::Invalid(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

impl IncomingRecords {
    /// Creates the state of a new session. `read` has the bytes that were read behind the handshake.
    pub(super) fn new(keys: RecordProtection, read: Vec<u8>) -> Self {
        Self {
            keys,
            ahead: read,
            taken: 0,
            room: MAX_AHEAD,
            busy: false,
            low_watermark: None,
            opened: Vec::new(),
            delivered: 0,
            empty: 0,
            end: None,
            update_requested: false,
        }
    }

    pub(super) fn expect_bulk(&mut self) -> ExpectedBytes {
        self.room = MAX_AHEAD_OF_BULK;
        let low_watermark = self.low_watermark.get_or_insert_with(|| Box::new(LowWatermark::new()));
        low_watermark.expected.clone()
    }

    /// Returns the number of the alert to send, if the peer has sent something invalid.
    pub(super) fn alert(&self) -> Option<u8> {
        match self.end {
            Some(SessionEnd::Invalid(error)) => Some(error.alert()),
            _ => None,
        }
    }

    /// Returns whether the peer has requested a key update since the last call.
    pub(super) fn take_update_request(&mut self) -> bool {
        std::mem::take(&mut self.update_requested)
    }

    /// Opens records into `out`. Reads from `transport` until at least one record has data.
    pub(super) fn poll_read(
        &mut self,
        transport: &mut impl Transport,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        loop {
            self.open_all(out);
            let opened = out.filled().len() - before;
            // Data comes first. The next read returns the error or the end behind it.
            if opened > 0 || out.remaining() == 0 {
                if let Some(low_watermark) = &mut self.low_watermark {
                    low_watermark.expected.subtract(opened);
                }
                return Poll::Ready(Ok(()));
            }
            if let Some(end) = self.end {
                return Poll::Ready(end.result());
            }
            let read = self.read_ahead(transport, cx);
            if let Some(low_watermark) = &mut self.low_watermark {
                match read {
                    Poll::Pending => {
                        low_watermark.set_before_wait(transport, self.ahead.len(), cx);
                    }
                    Poll::Ready(_) => low_watermark.arrived(),
                }
            }
            if ready!(read)? == 0 {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection ended without a TLS close_notify",
                )));
            }
        }
    }

    /// Opens all complete records that fit into `out`.
    fn open_all(&mut self, out: &mut ReadBuf<'_>) {
        loop {
            if let Some(rest @ [_, ..]) = self.opened.get(self.delivered..) {
                let len = rest.len().min(out.remaining());
                out.put_slice(rest.get(..len).unwrap_or_default());
                self.delivered += len;
                if self.delivered < self.opened.len() {
                    return;
                }
                self.delivered = 0;
                // The buffer is freed while little arrives, so that an idle connection has none.
                if self.busy {
                    self.opened.clear();
                } else {
                    self.opened = Vec::new();
                }
            }
            if self.end.is_some() || out.remaining() == 0 {
                return;
            }
            match self.open_next(out) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // A reader must not receive bytes of a record that failed its check.
                    self.opened.clear();
                    self.end = Some(SessionEnd::Invalid(error));
                }
            }
        }
    }

    /// Opens the next record, directly into `out` if it fits. Returns false if it is incomplete.
    fn open_next(&mut self, out: &mut ReadBuf<'_>) -> Result<bool, RecordError> {
        let ahead = self.ahead.get(self.taken..).unwrap_or_default();
        let Some(payload) = payload_len(ahead)? else { return Ok(false) };
        let Some(record) = ahead.get(..HEADER_LEN + payload) else { return Ok(false) };
        let room = payload - TAG_LEN;
        self.taken += record.len();
        // Opening a record into the reader's buffer saves a copy. The buffer needs room for the kind
        // and the padding too, although the reader gets only the data in front of them.
        let is_direct = out.remaining() >= room;
        let opened = if is_direct {
            out.initialize_unfilled_to(room)
        } else {
            self.opened.resize(room, 0);
            &mut self.opened[..]
        };
        self.keys.open(record, opened)?;
        let (kind, len) = content_type_and_len(opened)?;
        let content = opened.get(..len).unwrap_or_default();
        let mut data = 0;
        match kind {
            ContentType::Data => data = len,
            ContentType::Alert => self.end = Some(SessionEnd::Alert(Alert::decode(content)?)),
            ContentType::Handshake => {
                // All records behind this one are sealed with the next key.
                if let Some(is_requested) = read_key_update(content)? {
                    self.keys.update().map_err(|_| RecordError::Malformed)?;
                    self.update_requested |= is_requested;
                }
            }
        }
        // The number of bytes of data in `opened` is known only after the record is opened.
        if is_direct {
            out.advance(data);
        } else {
            self.opened.truncate(data);
        }
        if self.end.is_none() {
            self.count(data)?;
        }
        Ok(true)
    }

    /// Counts a record with `data` bytes of data.
    fn count(&mut self, data: usize) -> Result<(), RecordError> {
        self.empty = if data == 0 { self.empty + 1 } else { 0 };
        match self.empty {
            ..=MAX_EMPTY_RECORDS => Ok(()),
            _ => Err(RecordError::Unexpected(ContentType::Data.number())),
        }
    }

    /// Reads available bytes and appends them to `ahead`. Returns their number; zero is the end of the
    /// stream.
    fn read_ahead(
        &mut self,
        transport: &mut impl Transport,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.taken > 0 {
            self.ahead.drain(..self.taken);
            self.taken = 0;
        }
        if !self.busy {
            // An idle connection waits here, without a buffer.
            let mut small = [MaybeUninit::uninit(); SMALL_READ];
            let mut small = ReadBuf::uninit(&mut small);
            if self.ahead.is_empty() {
                self.ahead = Vec::new();
            }
            ready!(Pin::new(transport).poll_read(cx, &mut small))?;
            self.ahead.extend_from_slice(small.filled());
            self.busy = small.remaining() == 0;
            return Poll::Ready(Ok(small.filled().len()));
        }
        // An incomplete record is always shorter than the room, so this reads at least one byte.
        let room = self.room.saturating_sub(self.ahead.len());
        self.ahead.reserve_exact(room);
        let before = self.ahead.len();
        let read = pin!(transport.take(room as u64).read_buf(&mut self.ahead)).poll(cx);
        self.busy = read.is_pending() || self.ahead.len() - before >= LARGE_READ;
        if self.ahead.is_empty() {
            // The wait may be long, so the connection keeps no buffer.
            self.ahead = Vec::new();
        }
        read
    }
}
