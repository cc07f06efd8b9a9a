//! What comes in: records read ahead, and opened into the room of whoever reads.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use peerkit_proto::tls::{
    Alert, HEADER, Kind, RecordError, TAG, content, is_key_update, payload_len,
};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;

use super::floor::{Expected, Floor};
use super::traffic::Traffic;

/// Bytes read ahead at most, where messages are to be expected: four records.
const AHEAD: usize = 64 << 10;

/// The same where bulk is: what has come while the last was looked at.
const AHEAD_OF_BULK: usize = 256 << 10;

/// What a read brings where little comes in: that has no memory of its own.
const LITTLE: usize = 4 << 10;

/// A read that brings as much is followed by more.
const MUCH: usize = 8 << 10;

/// Records without data that may follow each other: they cost more to open than to make.
const MAX_EMPTY: u32 = 32;

/// The records that have come.
pub(super) struct Incoming {
    keys: Traffic,
    /// What was read, of which the bytes before `taken` are opened.
    ahead: Vec<u8>,
    taken: usize,
    /// How much is read ahead.
    room: usize,
    /// Much came in last time.
    busy: bool,
    /// How much is waited for, where bulk is to be expected.
    floor: Option<Box<Floor>>,
    /// The content of a record for which the reader had no room, from `given` on.
    opened: Vec<u8>,
    given: usize,
    /// Records without data, one after the other.
    empty: u32,
    end: Option<End>,
    asked: bool,
}

/// Why nothing more comes.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The other side has said so.
    Closed,
    /// It has given up, and told why.
    Failure(u8),
    /// What it sends is wrong.
    Wrong(RecordError),
}

impl End {
    fn error(self) -> io::Result<()> {
        match self {
            Self::Closed => Ok(()),
            Self::Failure(number) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!("the other side has given up: TLS alert {number}"),
            )),
            Self::Wrong(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

impl Incoming {
    /// `read` has come already.
    pub(super) fn new(keys: Traffic, read: Vec<u8>) -> Self {
        Self {
            keys,
            ahead: read,
            taken: 0,
            room: AHEAD,
            busy: false,
            floor: None,
            opened: Vec::new(),
            given: 0,
            empty: 0,
            end: None,
            asked: false,
        }
    }

    pub(super) fn expect_bulk(&mut self) -> Expected {
        self.room = AHEAD_OF_BULK;
        self.floor.get_or_insert_with(|| Box::new(Floor::new())).expected.clone()
    }

    /// The number of the alert that the other side is owed.
    pub(super) fn alert(&self) -> Option<u8> {
        match self.end {
            Some(End::Wrong(error)) => Some(error.alert()),
            _ => None,
        }
    }

    /// Whether the other side has asked for our next key, once.
    pub(super) fn take_asked(&mut self) -> bool {
        std::mem::take(&mut self.asked)
    }

    /// Opens what has come into `out`, and reads from `tcp` where that is nothing.
    pub(super) fn poll_read(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        loop {
            self.open_all(out);
            let opened = out.filled().len() - before;
            if opened > 0 || out.remaining() == 0 {
                if let Some(floor) = &mut self.floor {
                    floor.expected.came(opened);
                }
                return Poll::Ready(Ok(()));
            }
            if let Some(end) = self.end {
                return Poll::Ready(end.error());
            }
            let read = self.read_ahead(tcp, cx);
            if let Some(floor) = &mut self.floor {
                match read {
                    Poll::Pending => floor.wait(tcp, self.ahead.len(), cx),
                    Poll::Ready(_) => floor.heard(),
                }
            }
            if ready!(read)? == 0 {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection has ended without a word",
                )));
            }
        }
    }

    /// Opens as many records as have come and fit.
    fn open_all(&mut self, out: &mut ReadBuf<'_>) {
        loop {
            if let Some(rest @ [_, ..]) = self.opened.get(self.given..) {
                let len = rest.len().min(out.remaining());
                out.put_slice(rest.get(..len).unwrap_or_default());
                self.given += len;
                if self.given < self.opened.len() {
                    return;
                }
                self.given = 0;
                match self.busy {
                    true => self.opened.clear(),
                    false => self.opened = Vec::new(),
                }
            }
            if self.end.is_some() || out.remaining() == 0 {
                return;
            }
            match self.open_next(out) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // Nobody gets to see what failed its check.
                    self.opened.clear();
                    self.end = Some(End::Wrong(error));
                }
            }
        }
    }

    /// Opens the next record; false where it is not there as a whole.
    fn open_next(&mut self, out: &mut ReadBuf<'_>) -> Result<bool, RecordError> {
        let ahead = self.ahead.get(self.taken..).unwrap_or_default();
        let Some(payload) = payload_len(ahead)? else { return Ok(false) };
        let Some(record) = ahead.get(..HEADER + payload) else { return Ok(false) };
        let room = payload - TAG;
        self.taken += record.len();
        let is_direct = out.remaining() >= room;
        let opened = if is_direct {
            out.initialize_unfilled_to(room)
        } else {
            self.opened.resize(room, 0);
            &mut self.opened[..]
        };
        self.keys.open(record, opened)?;
        let (kind, len) = content(opened)?;
        let data = match kind {
            Kind::Data => len,
            _ => {
                let said = opened.get(..len).unwrap_or_default();
                Self::heed(kind, said, &mut self.keys, &mut self.end, &mut self.asked)?;
                0
            }
        };
        if is_direct {
            out.advance(data);
        } else {
            self.opened.truncate(data);
        }
        self.count(data)?;
        Ok(true)
    }

    /// A record with so many bytes of data has come.
    fn count(&mut self, data: usize) -> Result<(), RecordError> {
        self.empty = if data == 0 { self.empty + 1 } else { 0 };
        match self.empty {
            ..=MAX_EMPTY => Ok(()),
            _ => Err(RecordError::Unexpected(Kind::Data.number())),
        }
    }

    /// Acts on what is said about the session itself.
    fn heed(
        kind: Kind,
        said: &[u8],
        keys: &mut Traffic,
        end: &mut Option<End>,
        asked: &mut bool,
    ) -> Result<(), RecordError> {
        match kind {
            Kind::Alert => {
                *end = Some(match Alert::decode(said)? {
                    Alert::CloseNotify => End::Closed,
                    Alert::Failure(number) => End::Failure(number),
                });
            }
            Kind::Handshake => {
                if let Some(is_asked) = is_key_update(said)? {
                    keys.update().map_err(|_| RecordError::Malformed)?;
                    *asked |= is_asked;
                }
            }
            Kind::Data => {}
        }
        Ok(())
    }

    /// Reads what there is behind what has been read; zero is the end.
    fn read_ahead(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.taken > 0 {
            self.ahead.drain(..self.taken);
            self.taken = 0;
        }
        if !self.busy {
            let mut little = [MaybeUninit::uninit(); LITTLE];
            let mut little = ReadBuf::uninit(&mut little);
            if self.ahead.is_empty() {
                self.ahead = Vec::new();
            }
            ready!(Pin::new(tcp).poll_read(cx, &mut little))?;
            self.ahead.extend_from_slice(little.filled());
            self.busy = little.remaining() == 0;
            return Poll::Ready(Ok(little.filled().len()));
        }
        // A record that has begun is shorter than the room.
        let room = self.room.saturating_sub(self.ahead.len());
        self.ahead.reserve_exact(room);
        let before = self.ahead.len();
        let read = pin!(tcp.take(room as u64).read_buf(&mut self.ahead)).poll(cx);
        self.busy = read.is_pending() || self.ahead.len() - before >= MUCH;
        if self.ahead.is_empty() {
            // Nobody knows how long until there is more.
            self.ahead = Vec::new();
        }
        read
    }
}
