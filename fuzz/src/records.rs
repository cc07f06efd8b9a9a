//! The receiving half of the record layer. It is compiled from the node's files and not taken from its crate,
//! because that needs a database, five compressors and a cryptographic library, which each fuzzer and sanitizer
//! would have to build again.
//!
//! A script seals records, puts other bytes between them, delivers them in parts and reads. The data that is
//! read has to be the data of the records.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use peerkit_proto::tls::{
    Alert, ContentType, MAX_PAYLOAD, TAG_LEN, content_type_and_len, read_key_update,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

#[path = "../../node/src/tls/records/incoming.rs"]
mod incoming;
#[path = "../../node/src/tls/records/low_watermark.rs"]
mod low_watermark;
mod protection;
#[allow(dead_code, reason = "only the receiving half is used")]
#[path = "../../node/src/tls/records/transport.rs"]
mod transport;

use incoming::IncomingRecords;
use protection::RecordProtection;
use transport::Transport;

/// Maximum number of consecutive records without data that the receiver accepts.
const MAX_EMPTY: u32 = 32;

/// Maximum number of bytes of records in one script. The receiver never reads so many bytes ahead.
const MAX_WIRE: usize = 300 << 10;

/// Steps of a script. The arguments of a step follow it. Numbers are big-endian.
pub(crate) mod step {
    /// Seals a record of data. The length of the data is a `u16`.
    pub(crate) const DATA: u8 = 0;
    /// Seals a record. Its content, kind and padding are the next bytes, after their number as a `u8`.
    pub(crate) const INNER: u8 = 1;
    /// Puts the next bytes between the records, after their number as a `u8`.
    pub(crate) const PLAIN: u8 = 2;
    /// Flips a bit in one of the last 256 bytes. A `u8` is the distance of the byte from the end.
    pub(crate) const FLIP: u8 = 3;
    /// Delivers bytes. Their number is a `u16`.
    pub(crate) const DELIVER: u8 = 4;
    /// Reads bytes. Their maximum number is a `u16`.
    pub(crate) const READ: u8 = 5;
    /// Sets the size that the receiver expects. It is a `u8`, in KiB.
    pub(crate) const EXPECT: u8 = 6;
    pub(super) const COUNT: u8 = 7;
}

/// Runs a script. The byte before it selects whether the bytes that are delivered before the first read were
/// already read together with the handshake.
pub fn records(data: &[u8]) {
    // An expected size sets a timer, which needs a runtime.
    thread_local!(static RUNTIME: Runtime =
        Builder::new_current_thread().enable_time().build().expect("a runtime without I/O starts"));
    if let Some((how, script)) = data.split_first() {
        RUNTIME.with(|runtime| {
            let _entered = runtime.enter();
            Session::new(how & 1 == 0).run(script);
        });
    }
}

/// Both ends, and the bytes between them.
struct Session {
    sender: RecordProtection,
    wire: Wire,
    expected: Expected,
    is_read_with_handshake: bool,
    /// Created by the first read.
    incoming: Option<IncomingRecords>,
    /// Number of bytes of data that were read.
    read: usize,
}

impl Session {
    fn new(is_read_with_handshake: bool) -> Self {
        Self {
            sender: RecordProtection::new(),
            wire: Wire::default(),
            expected: Expected::default(),
            is_read_with_handshake,
            incoming: None,
            read: 0,
        }
    }

    fn run(mut self, mut script: &[u8]) {
        let script = &mut script;
        while let Some(step) = take_byte(script) {
            match step % step::COUNT {
                step::DATA => {
                    let len = usize::from(take_u16(script));
                    let from = self.wire.bytes.len();
                    let mut inner: Vec<u8> = (from..from + len).map(|at| at as u8).collect();
                    inner.push(ContentType::Data.number());
                    self.seal(&inner);
                }
                step::INNER => self.seal(take_bytes(script)),
                step::PLAIN => {
                    let bytes = take_bytes(script);
                    self.wire.bytes.extend_from_slice(bytes);
                    self.expected.is_intact &= bytes.is_empty();
                }
                step::FLIP => {
                    let back = usize::from(take_byte(script).unwrap_or_default());
                    let delivered = self.wire.delivered;
                    let unread = self.wire.bytes.get_mut(delivered..).unwrap_or_default();
                    if let Some(byte) = unread.iter_mut().nth_back(back) {
                        *byte ^= 4;
                        self.expected.is_intact = false;
                    }
                }
                step::DELIVER => self.wire.deliver(usize::from(take_u16(script))),
                step::READ => drop(self.read(usize::from(take_u16(script)))),
                _ => {
                    let bytes = u64::from(take_byte(script).unwrap_or_default()) << 10;
                    self.incoming().expect_bulk().set(bytes);
                }
            }
        }
        self.read_to_end();
    }

    /// Seals a record of `inner`, which is content, kind and padding.
    fn seal(&mut self, inner: &[u8]) {
        // A record's length has 16 bits.
        if self.wire.bytes.len() + inner.len() > MAX_WIRE || inner.len() + TAG_LEN > 0xffff {
            return;
        }
        self.sender.seal(inner, &mut self.wire.bytes);
        if self.expected.record(inner, self.wire.bytes.len()) {
            self.sender.update().expect("it has another secret");
        }
    }

    fn incoming(&mut self) -> &mut IncomingRecords {
        self.incoming.get_or_insert_with(|| {
            let ahead = if self.is_read_with_handshake { self.wire.take(usize::MAX) } else { &[] };
            IncomingRecords::new(RecordProtection::new(), ahead.to_vec())
        })
    }

    /// Reads at most `room` bytes, and checks them. Returns the end, if it is reached.
    fn read(&mut self, room: usize) -> Option<End> {
        let mut buffer = vec![0; room];
        let mut buffer = ReadBuf::new(&mut buffer);
        self.incoming();
        let incoming = self.incoming.as_mut()?;
        let cx = &mut Context::from_waker(Waker::noop());
        let polled = incoming.poll_read(&mut self.wire, cx, &mut buffer);
        let alert = incoming.alert();

        let got = buffer.filled();
        let unread = self.expected.data.get(self.read..).expect("no more is read than was sent");
        assert!(unread.starts_with(got), "other data than was sent");
        self.read += got.len();
        let end = match polled {
            _ if room == 0 => None,
            Poll::Ready(Ok(())) if !got.is_empty() => None,
            Poll::Ready(Ok(())) => Some(End::Closed),
            Poll::Ready(Err(error)) => Some(match error.kind() {
                io::ErrorKind::UnexpectedEof => End::Cut,
                io::ErrorKind::ConnectionAborted => End::Failure,
                io::ErrorKind::InvalidData => End::Invalid,
                _ => panic!("{error}"),
            }),
            Poll::Pending => {
                let is_due = self.read < self.expected.due(self.wire.delivered);
                assert!(!is_due || !self.expected.is_intact, "delivered data is not read");
                None
            }
        };
        if let Some(end) = end {
            let is_expected = end == self.expected.end.unwrap_or(End::Cut);
            // If the bytes are not intact, the receiver stops at the fault and may not reach the end.
            assert!(
                is_expected && self.read == self.expected.data.len() || !self.expected.is_intact
            );
            assert!(end != End::Closed || is_expected, "a clean end that was not sent");
            assert_eq!(alert.is_some(), end == End::Invalid);
        }
        end
    }

    fn read_to_end(mut self) {
        self.wire.deliver(usize::MAX);
        self.wire.has_ended = true;
        let end = loop {
            let before = self.read;
            match self.read(1_000) {
                Some(end) => break end,
                None => assert!(self.read > before, "neither data nor the end"),
            }
        };
        assert_eq!(self.read(10), Some(end), "the same end when read again");
        let is_requested = self.incoming().take_update_request();
        assert!(is_requested == self.expected.is_requested || !self.expected.is_intact);
        assert!(!self.incoming().take_update_request(), "requested once");
    }
}

/// The way in which the data ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Failure,
    Invalid,
    /// The connection ends without an alert.
    Cut,
}

/// The expected result of the records.
struct Expected {
    data: Vec<u8>,
    /// For each record with data: where it ends on the wire, and the number of bytes of data up to there.
    due: Vec<(usize, usize)>,
    end: Option<End>,
    /// Number of consecutive records without data.
    empty: u32,
    /// A record has requested a key update.
    is_requested: bool,
    /// The wire has only records, and none of them was changed.
    is_intact: bool,
}

impl Default for Expected {
    fn default() -> Self {
        Self {
            data: Vec::new(),
            due: Vec::new(),
            end: None,
            empty: 0,
            is_requested: false,
            is_intact: true,
        }
    }
}

impl Expected {
    /// Adds a record, which ends at `at` on the wire. Returns whether the record after it has the next key.
    fn record(&mut self, inner: &[u8], at: usize) -> bool {
        if self.end.is_some() {
            return false;
        }
        let before = self.data.len();
        let mut is_update = false;
        match content_type_and_len(inner) {
            _ if inner.len() + TAG_LEN > MAX_PAYLOAD => self.end = Some(End::Invalid),
            Err(_) => self.end = Some(End::Invalid),
            Ok((ContentType::Data, len)) => self.data.extend_from_slice(&inner[..len]),
            Ok((ContentType::Alert, len)) => {
                self.end = Some(match Alert::decode(&inner[..len]) {
                    Ok(Alert::CloseNotify) => End::Closed,
                    Ok(Alert::Failure(_)) => End::Failure,
                    Err(_) => End::Invalid,
                });
            }
            Ok((ContentType::Handshake, len)) => match read_key_update(&inner[..len]) {
                Ok(update) => {
                    is_update = update.is_some();
                    self.is_requested |= update == Some(true);
                }
                Err(_) => self.end = Some(End::Invalid),
            },
        }
        if self.data.len() > before {
            self.empty = 0;
            self.due.push((at, self.data.len()));
        } else {
            self.empty += 1;
        }
        if self.empty > MAX_EMPTY {
            self.end.get_or_insert(End::Invalid);
        }
        is_update
    }

    /// Returns the number of bytes of data in the records of the first `delivered` bytes.
    fn due(&self, delivered: usize) -> usize {
        let records = self.due.partition_point(|(at, _)| *at <= delivered);
        self.due[..records].last().map_or(0, |(_, data)| *data)
    }
}

/// The bytes between sender and receiver.
#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
    taken: usize,
    delivered: usize,
    has_ended: bool,
}

impl Wire {
    fn deliver(&mut self, len: usize) {
        self.delivered = self.delivered.saturating_add(len).min(self.bytes.len());
    }

    /// Takes at most `len` of the delivered bytes.
    fn take(&mut self, len: usize) -> &[u8] {
        let from = self.taken;
        self.taken += len.min(self.delivered - from);
        &self.bytes[from..self.taken]
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let has_ended = self.has_ended;
        let bytes = self.take(out.remaining());
        out.put_slice(bytes);
        if bytes.is_empty() && !has_ended { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Transport for Wire {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn set_low_watermark(&self, _: u64) -> bool {
        true
    }
}

fn take_byte(script: &mut &[u8]) -> Option<u8> {
    let (first, rest) = script.split_first()?;
    *script = rest;
    Some(*first)
}

fn take_u16(script: &mut &[u8]) -> u16 {
    let mut next = || take_byte(script).unwrap_or_default();
    u16::from_be_bytes([next(), next()])
}

/// Takes the number of bytes that the first byte contains, or all bytes if there are fewer.
fn take_bytes<'a>(script: &mut &'a [u8]) -> &'a [u8] {
    let len = usize::from(take_byte(script).unwrap_or_default());
    let (bytes, rest) = script.split_at(len.min(script.len()));
    *script = rest;
    bytes
}
