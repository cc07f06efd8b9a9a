//! Every frame of a link: its kind, its limit, its bytes.
//!
//! A frame is a four-byte little-endian length, one kind byte, and a body; the length counts the
//! kind byte and the body. Frames of unknown kinds are skipped, so that the protocol can grow.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, Writer};
use crate::config::Config;
use crate::event::Reason;
use crate::hello::{Hello, MAX_PROTOCOL};
use crate::message::Packed;
use crate::versions::VersionGap;

pub mod broadcast;
pub mod direct;
pub mod membership;
mod messages;
pub mod order;
pub mod query;

use broadcast::{Batch, Have, MAX_HAVES, RunId, Want};
use direct::{Forward, Forwarded};
use membership::{
    Beacon, Disconnect, ForwardJoin, NeighbourReply, NeighbourRequest, Shuffle, ShuffleReply,
};
use messages::Front;
pub use messages::Messages;
use order::Order;
use query::{Answer, Query, QueryDone};

/// Bytes of a frame's length.
const LENGTH: usize = 4;

/// Bytes before a frame's body: the length and the kind.
pub const HEADER: usize = LENGTH + 1;

/// What a frame may have beyond the content that a limit is about: names, numbers, signatures.
pub const OVERHEAD: usize = 1024;

/// Longest text that explains a goodbye or a failed request, in bytes.
const MAX_TEXT: usize = 200;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// The first frame, in both directions.
    Hello(Hello),
    /// The last frame: why the sender ends the link, and how many messages reached it.
    Goodbye {
        /// Why.
        reason: Reason,
        /// Application messages received in all.
        received: u64,
    },
    /// Asks for a pong with the same number.
    Ping(u64),
    /// The answer to a ping.
    Pong(u64),
    /// How many application messages reached the sender's application in all.
    Received(u64),
    /// An application's message.
    Message(Packed),
    /// A request that waits for a reply.
    Request {
        /// Chosen by the asking side, unique among its requests on this link.
        id: u64,
        /// The handler that is to answer.
        name: String,
        /// What is asked.
        body: Packed,
    },
    /// The reply to a request.
    Reply {
        /// The request's number.
        id: u64,
        /// The answer, or why there is none.
        outcome: Result<Packed, Refusal>,
    },
    /// The asking side no longer waits for the reply.
    Cancel(u64),
    /// A question to the network.
    Query(Query),
    /// A node's answer to a query, on its way back.
    Answer(Answer),
    /// A branch of the network has nothing more to say to a query.
    QueryDone(QueryDone),
    /// A message on its way to a node that is not the sender's neighbour.
    Forward(Forward),
    /// What came of such a message, on its way back.
    Forwarded(Forwarded),
    /// Messages to the whole network.
    Broadcast(Batch),
    /// What the sender has of broadcasts, for whoever has less.
    Have(Vec<Have>),
    /// Asks for broadcasts.
    Want(Want),
    /// That was all that the sender gives in answer to a [`Want`], and how far it is itself.
    Given(Have),
    /// The receiver need not pass on a run's broadcasts to the sender, who gets them from others.
    Prune(RunId),
    /// Asks to be neighbours.
    NeighbourRequest(NeighbourRequest),
    /// Says whether the two are neighbours.
    NeighbourReply(NeighbourReply),
    /// Tells of a new node.
    ForwardJoin(ForwardJoin),
    /// Ends being neighbours.
    Disconnect(Disconnect),
    /// Whom the sender knows, on a random walk.
    Shuffle(Shuffle),
    /// The answer to a shuffle, on its way back.
    ShuffleReply(ShuffleReply),
    /// A sign of life of the least node.
    Beacon(Beacon),
    /// Asks the other side to open a stream towards the sender, who could not open one.
    CallBack {
        /// Tells the stream from others.
        token: [u8; 16],
    },
    /// The network's owner orders all nodes to stop.
    Order(Order),
    /// The sender's clock, in milliseconds since 1970: it has refused a broadcast for its
    /// time.
    Clock(u64),
    /// A frame of a kind that this version does not know.
    Unknown(u8),
}

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The other side has no handler of that name.
    #[error("the other side has no handler of that name")]
    NoHandler,
    /// The other side handles as many requests of this node as it is willing to.
    #[error("the other side is busy")]
    Busy,
    /// The handler failed, and says why.
    #[error("the handler failed: {0}")]
    Failed(String),
}

const HELLO: u8 = 0x01;
const GOODBYE: u8 = 0x02;
const PING: u8 = 0x03;
const PONG: u8 = 0x04;
const RECEIVED: u8 = 0x05;
const MESSAGE: u8 = 0x10;
/// The kind of [`Frame::Request`].
pub const REQUEST: u8 = 0x11;
/// The kind of [`Frame::Reply`].
pub const REPLY: u8 = 0x12;
const CANCEL: u8 = 0x13;
const QUERY: u8 = 0x20;
const ANSWER: u8 = 0x21;
const QUERY_DONE: u8 = 0x22;
const FORWARD: u8 = 0x23;
const FORWARDED: u8 = 0x24;
const BROADCAST: u8 = 0x30;
const HAVE: u8 = 0x31;
const WANT: u8 = 0x32;
const PRUNE: u8 = 0x33;
const GIVEN: u8 = 0x34;
const CALL_BACK: u8 = 0x40;
const NEIGHBOUR_REQUEST: u8 = 0x50;
const NEIGHBOUR_REPLY: u8 = 0x51;
const FORWARD_JOIN: u8 = 0x52;
const DISCONNECT: u8 = 0x53;
const SHUFFLE: u8 = 0x54;
const SHUFFLE_REPLY: u8 = 0x55;
const BEACON: u8 = 0x56;
const ORDER: u8 = 0x60;
const CLOCK: u8 = 0x61;

/// Bytes of a message's frame before its content: the header and the head byte.
pub const MESSAGE_HEAD: usize = HEADER + 1;

/// What stands before a message's content: `head` is the content's head byte, `len` its bytes.
#[must_use]
pub fn message_head(head: u8, len: usize) -> [u8; MESSAGE_HEAD] {
    let [a, b, c, d] = u32::try_from(len + 2).unwrap_or(u32::MAX).to_le_bytes();
    [a, b, c, d, MESSAGE, head]
}

impl Frame {
    /// The largest body of a frame of this kind, in bytes.
    #[must_use]
    pub fn limit(kind: u8, config: &Config) -> usize {
        match kind {
            MESSAGE | REQUEST | REPLY => config.max_message.saturating_add(OVERHEAD),
            BROADCAST => config.max_broadcast.saturating_add(OVERHEAD),
            _ => config.max_control,
        }
    }

    /// Whether it is the application's: such frames wait in the second lane and are counted.
    #[must_use]
    pub fn is_application(&self) -> bool {
        matches!(self, Self::Message(_) | Self::Request { .. } | Self::Reply { .. })
    }

    /// Appends the whole frame, header and body, to `out`.
    ///
    /// Senders check contents against the limits before: a frame over four GiB can't be written.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32(0);
        match self {
            Self::Hello(hello) => {
                out.put_u8(HELLO);
                hello.encode(out);
            }
            Self::Goodbye { reason, received } => {
                out.put_u8(GOODBYE);
                put_reason(out, reason);
                out.put_u64(*received);
            }
            Self::Ping(nonce) => put_number(out, PING, *nonce),
            Self::Pong(nonce) => put_number(out, PONG, *nonce),
            Self::Received(messages) => put_number(out, RECEIVED, *messages),
            Self::Message(packed) => {
                out.put_u8(MESSAGE);
                put_packed(out, packed);
            }
            Self::Request { id, name, body } => {
                put_number(out, REQUEST, *id);
                out.put_str(name);
                put_packed(out, body);
            }
            Self::Reply { id, outcome } => {
                put_number(out, REPLY, *id);
                put_outcome(out, outcome);
            }
            Self::Cancel(id) => put_number(out, CANCEL, *id),
            Self::Query(query) => {
                out.put_u8(QUERY);
                query.encode(out);
            }
            Self::Answer(answer) => {
                out.put_u8(ANSWER);
                answer.encode(out);
            }
            Self::QueryDone(done) => {
                out.put_u8(QUERY_DONE);
                done.encode(out);
            }
            Self::Forward(forward) => {
                out.put_u8(FORWARD);
                forward.encode(out);
            }
            Self::Forwarded(forwarded) => {
                out.put_u8(FORWARDED);
                forwarded.encode(out);
            }
            Self::Broadcast(batch) => {
                out.put_u8(BROADCAST);
                batch.encode(out);
            }
            Self::Have(haves) => {
                out.put_u8(HAVE);
                let haves = &haves[..haves.len().min(MAX_HAVES)];
                out.put_list(haves, |out, have| have.encode(out));
            }
            Self::Want(want) => {
                out.put_u8(WANT);
                want.encode(out);
            }
            Self::Given(have) => {
                out.put_u8(GIVEN);
                have.encode(out);
            }
            Self::Prune(run) => {
                out.put_u8(PRUNE);
                run.encode(out);
            }
            Self::NeighbourRequest(request) => {
                out.put_u8(NEIGHBOUR_REQUEST);
                request.encode(out);
            }
            Self::NeighbourReply(reply) => {
                out.put_u8(NEIGHBOUR_REPLY);
                reply.encode(out);
            }
            Self::ForwardJoin(join) => {
                out.put_u8(FORWARD_JOIN);
                join.encode(out);
            }
            Self::Disconnect(disconnect) => {
                out.put_u8(DISCONNECT);
                disconnect.encode(out);
            }
            Self::Shuffle(shuffle) => {
                out.put_u8(SHUFFLE);
                shuffle.encode(out);
            }
            Self::ShuffleReply(reply) => {
                out.put_u8(SHUFFLE_REPLY);
                reply.encode(out);
            }
            Self::Beacon(beacon) => {
                out.put_u8(BEACON);
                beacon.encode(out);
            }
            Self::CallBack { token } => {
                out.put_u8(CALL_BACK);
                out.put_raw(token);
            }
            Self::Order(order) => {
                out.put_u8(ORDER);
                order.encode(out);
            }
            Self::Clock(unix) => put_number(out, CLOCK, *unix),
            Self::Unknown(kind) => out.put_u8(*kind),
        }
        let len = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// Reads a frame of kind `kind` from its body. Contents are shared with `body`, not copied.
    ///
    /// # Errors
    /// [`DecodeError`] if a field is missing, too long or without meaning, or bytes follow the last.
    pub fn decode(kind: u8, body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let frame = Self::read(kind, &mut reader)?;
        reader.finish()?;
        Ok(frame)
    }

    fn read(kind: u8, reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match kind {
            HELLO => Self::Hello(Hello::decode(reader.take_rest())?),
            GOODBYE => {
                Self::Goodbye { reason: read_reason(reader)?, received: reader.u64("received")? }
            }
            PING => Self::Ping(reader.u64("ping")?),
            PONG => Self::Pong(reader.u64("pong")?),
            RECEIVED => Self::Received(reader.u64("received")?),
            MESSAGE => Self::Message(Packed::decode(reader)?),
            REQUEST => Self::Request {
                id: reader.u64("request")?,
                name: reader.str(MAX_PROTOCOL, "request name")?,
                body: Packed::decode(reader)?,
            },
            REPLY => Self::Reply { id: reader.u64("reply")?, outcome: read_outcome(reader)? },
            CANCEL => Self::Cancel(reader.u64("cancel")?),
            QUERY => Self::Query(Query::decode(reader)?),
            ANSWER => Self::Answer(Answer::decode(reader)?),
            QUERY_DONE => Self::QueryDone(QueryDone::decode(reader)?),
            FORWARD => Self::Forward(Forward::decode(reader)?),
            FORWARDED => Self::Forwarded(Forwarded::decode(reader)?),
            BROADCAST => Self::Broadcast(Batch::decode(reader.take_rest())?),
            HAVE => Self::Have(reader.list(MAX_HAVES, "runs", Have::decode)?),
            WANT => Self::Want(Want::decode(reader)?),
            GIVEN => Self::Given(Have::decode(reader)?),
            PRUNE => Self::Prune(RunId::decode(reader)?),
            NEIGHBOUR_REQUEST => Self::NeighbourRequest(NeighbourRequest::decode(reader)?),
            NEIGHBOUR_REPLY => Self::NeighbourReply(NeighbourReply::decode(reader)?),
            FORWARD_JOIN => Self::ForwardJoin(ForwardJoin::decode(reader)?),
            DISCONNECT => Self::Disconnect(Disconnect::decode(reader)?),
            SHUFFLE => Self::Shuffle(Shuffle::decode(reader)?),
            SHUFFLE_REPLY => Self::ShuffleReply(ShuffleReply::decode(reader)?),
            BEACON => Self::Beacon(Beacon::decode(reader)?),
            CALL_BACK => Self::CallBack { token: reader.array("call-back token")? },
            ORDER => Self::Order(Order::decode(reader)?),
            CLOCK => Self::Clock(reader.u64("clock")?),
            unknown => {
                reader.take_rest();
                Self::Unknown(unknown)
            }
        })
    }
}

/// Why bytes of a link are not frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A frame announces more than its kind may have. Nothing was taken for it.
    #[error("a frame of kind {kind:#04x} announces {len} bytes; at most {limit} are allowed")]
    TooLong {
        /// The frame's kind.
        kind: u8,
        /// The body's length that it announced.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A frame without a kind byte.
    #[error("a frame without a kind")]
    Empty,
    /// A frame whose body is not what its kind has.
    #[error("a frame of kind {kind:#04x}: {error}")]
    Body {
        /// The frame's kind.
        kind: u8,
        /// The fault in it.
        error: DecodeError,
    },
}

/// Whole frames, cut off the front of what a link received.
#[derive(Debug)]
pub struct Frames {
    block: Bytes,
    /// The messages that come first, as far as they are known.
    front: Front,
    max_message: usize,
    may_go_on: bool,
}

impl Frames {
    /// Takes all whole frames off the front of `buffer`, in one block that they share.
    ///
    /// What is left is the start of a frame, if anything.
    ///
    /// # Errors
    /// Where a frame announces more than it may have: as soon as its header is there.
    pub fn split(buffer: &mut BytesMut, config: &Config) -> Result<Self, FrameError> {
        let front = Front::of(buffer, config.max_message);
        let mut end = front.end;
        while let Some(next) = whole(buffer, end, |kind| Frame::limit(kind, config))? {
            end = next;
        }
        let block = buffer.split_to(end).freeze();
        Ok(Self { block, front, max_message: config.max_message, may_go_on: false })
    }

    /// Takes the first frame off the front of `buffer` once it is there whole; of any kind it may
    /// have no more than a control frame. For strangers, who have not said Hello.
    ///
    /// # Errors
    /// As [`Frames::split`].
    pub fn split_first(buffer: &mut BytesMut, config: &Config) -> Result<Self, FrameError> {
        let end = whole(buffer, 0, |_| config.max_control)?.unwrap_or_default();
        let block = buffer.split_to(end).freeze();
        let front = Front::default();
        Ok(Self { block, front, max_message: config.max_message, may_go_on: false })
    }

    /// Has [`Frames::next`] skip what follows the last field of a frame, where it would be an error.
    /// So later versions can add fields.
    #[must_use]
    pub fn skip_added_fields(self) -> Self {
        Self { may_go_on: true, ..self }
    }

    /// Takes the messages that come next, up to a frame of another kind or a message that still
    /// needs work: a compressed one, or one that is to be refused.
    ///
    /// The same as [`Frames::next`] for each, without the detour over the sum of all frames.
    pub fn take_messages(&mut self) -> Messages {
        let mut front = std::mem::take(&mut self.front);
        if front.end == 0 {
            front = Front::of(&self.block, self.max_message);
        }
        Messages::take(&mut self.block, front)
    }

    /// The next frame.
    ///
    /// # Errors
    /// Where its body is not what its kind has. The frames after it can still be read.
    #[allow(clippy::should_implement_trait)] // an iterator can't share its blocks' lifetime better
    pub fn next(&mut self) -> Option<Result<Frame, FrameError>> {
        let (kind, len) = header(&self.block).ok()??;
        self.front = Front::default();
        self.block.advance(HEADER);
        let body = self.block.split_to(len.min(self.block.len()));
        let frame = match self.may_go_on {
            true => Frame::read(kind, &mut Reader::new(body)),
            false => Frame::decode(kind, body),
        };
        Some(frame.map_err(|error| FrameError::Body { kind, error }))
    }
}

/// Where the frame that begins at `at` ends, if it is there whole.
fn whole(
    buffer: &[u8],
    at: usize,
    limit: impl Fn(u8) -> usize,
) -> Result<Option<usize>, FrameError> {
    let Some((kind, len)) = header(buffer.get(at..).unwrap_or_default())? else {
        return Ok(None);
    };
    let limit = limit(kind);
    if len > limit {
        return Err(FrameError::TooLong { kind, len, limit });
    }
    Ok(at.checked_add(HEADER + len).filter(|end| *end <= buffer.len()))
}

/// The kind and the body's length of the frame at the start of `bytes`, once they are there.
#[inline]
pub fn header(bytes: &[u8]) -> Result<Option<(u8, usize)>, FrameError> {
    let Some(&[a, b, c, d, kind]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    match (u32::from_le_bytes([a, b, c, d]) as usize).checked_sub(1) {
        Some(len) => Ok(Some((kind, len))),
        None => Err(FrameError::Empty),
    }
}

fn put_number(out: &mut Vec<u8>, kind: u8, number: u64) {
    out.put_u8(kind);
    out.put_u64(number);
}

fn put_packed(out: &mut Vec<u8>, packed: &Packed) {
    out.put_u8(packed.head());
    out.put_raw(&packed.payload);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_str(&text[..text.floor_char_boundary(MAX_TEXT)]);
}

fn put_outcome(out: &mut Vec<u8>, outcome: &Result<Packed, Refusal>) {
    match outcome {
        Ok(packed) => {
            out.put_u8(0);
            put_packed(out, packed);
        }
        Err(Refusal::NoHandler) => out.put_u8(1),
        Err(Refusal::Busy) => out.put_u8(2),
        Err(Refusal::Failed(why)) => {
            out.put_u8(3);
            put_text(out, why);
        }
    }
}

fn read_outcome(reader: &mut Reader) -> Result<Result<Packed, Refusal>, DecodeError> {
    Ok(match reader.u8("outcome")? {
        0 => Ok(Packed::decode(reader)?),
        1 => Err(Refusal::NoHandler),
        2 => Err(Refusal::Busy),
        3 => Err(Refusal::Failed(reader.str(MAX_TEXT, "failure")?)),
        _ => return Err(DecodeError::Invalid("outcome")),
    })
}

/// Codes of the reasons that need no text; the position is the code, from 1.
const REASONS: [Reason; 16] = [
    Reason::Requested,
    Reason::Stopping,
    Reason::Duplicate,
    Reason::Replaced,
    Reason::OtherNetwork,
    Reason::WrongSecret,
    Reason::Version(None),
    Reason::Full,
    Reason::FullForAddress,
    Reason::Myself,
    Reason::Slow,
    Reason::HandshakeTimeout,
    Reason::Traded,
    Reason::NotNeeded,
    Reason::Left,
    Reason::KeptAway,
];
const VERSION: u16 = 7;
const KEPT_AWAY: u16 = 16;
const FAULT: u16 = 100;
const LOST: u16 = 101;
const SILENT: u16 = 102;

fn put_reason(out: &mut Vec<u8>, reason: &Reason) {
    let (code, text) = match reason {
        Reason::Fault(text) => (FAULT, Cow::from(text)),
        Reason::Lost(text) => (LOST, text.into()),
        Reason::Silent(after) => (SILENT, after.as_secs().to_string().into()),
        Reason::Version(Some(gap)) => (VERSION, gap.to_wire().into()),
        Reason::Other(code, text) => (*code, text.into()),
        // Versions before this reason show its text.
        Reason::KeptAway => (KEPT_AWAY, "disconnected by hand".into()),
        plain => {
            let at = REASONS.iter().position(|known| known == plain).unwrap_or_default();
            (u16::try_from(at).unwrap_or_default() + 1, "".into())
        }
    };
    out.put_u16(code);
    put_text(out, &text);
}

fn read_reason(reader: &mut Reader) -> Result<Reason, DecodeError> {
    let code = reader.u16("reason")?;
    let text = reader.str(MAX_TEXT, "reason text")?;
    let known = usize::from(code).checked_sub(1).and_then(|at| REASONS.get(at));
    Ok(match code {
        FAULT => Reason::Fault(text),
        LOST => Reason::Lost(text),
        VERSION => Reason::Version(VersionGap::from_wire(&text)),
        SILENT => {
            let seconds = text.parse().map_err(|_| DecodeError::Invalid("reason text"))?;
            Reason::Silent(std::time::Duration::from_secs(seconds))
        }
        _ => known.cloned().unwrap_or(Reason::Other(code, text)),
    })
}

#[cfg(test)]
mod tests;
