//! The frames of a link: their kinds, their limits and their encoding.
//!
//! A frame is a four-byte little-endian length, one byte for the kind, and a body. The length
//! counts the kind and the body. Frames of unknown kinds are skipped, so that later versions can
//! add kinds.

use bytes::{Buf, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, Writer};
use crate::config::Config;
use crate::event::Reason;
use crate::hello::{Hello, MAX_PROTOCOL};
use crate::id::Hash;
use crate::invitation::{MembershipProof, Revocation};
use crate::message::PackedMessage;

pub mod broadcast;
mod goodbye;
pub mod membership;
mod messages;
pub mod owner;
pub mod query;
pub mod relay;

use broadcast::{Batch, Have, MAX_HAVES, RunId, Want};
use goodbye::{put_reason, read_reason};
use membership::{
    Beacon, Disconnect, ForwardJoin, NeighbourReply, NeighbourRequest, Shuffle, ShuffleReply,
    SignedBeacon,
};
use messages::LeadingMessages;
pub use messages::Messages;
use owner::ShutdownOrder;
use query::{Query, QueryAnswer, QueryDone};
use relay::{Forward, Forwarded};

/// Length in bytes of the length field at the start of a frame.
const LENGTH_FIELD_LEN: usize = 4;

/// Length in bytes of a frame's header: the length field and the kind.
pub const HEADER_LEN: usize = LENGTH_FIELD_LEN + 1;

/// Maximum number of bytes in a frame's body besides its content: names, numbers and signatures.
pub const OVERHEAD: usize = 1024;

/// Maximum number of records of members, or of revocations, in one frame.
pub const MAX_RECORDS: usize = 64;

/// Maximum length in bytes of the text in a goodbye or for a failed request.
const MAX_TEXT: usize = 200;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// The first frame of each side.
    Hello(Hello),
    /// The last frame of a side, which ends the link.
    Goodbye {
        /// The reason.
        reason: Reason,
        /// Number of application messages that the sender has received over this link.
        received: u64,
    },
    /// A request for a pong with the same number.
    Ping(u64),
    /// The answer to a ping.
    Pong(u64),
    /// An acknowledgement: the number of messages that the sender's application has received over
    /// this link.
    Received(u64),
    /// A message between applications.
    Message(PackedMessage),
    /// A request between applications.
    Request {
        /// The number of the request. The requester has no other open request with this number on
        /// this link.
        id: u64,
        /// The kind of request.
        name: String,
        /// The content of the request.
        body: PackedMessage,
    },
    /// The reply to a request.
    Reply {
        /// The request's number.
        id: u64,
        /// The answer, or the reason why there is none.
        outcome: Result<PackedMessage, Refusal>,
    },
    /// The requester no longer waits for the reply to the request with this number.
    Cancel(u64),
    /// A query to the network.
    Query(Query),
    /// A node's answer to a query, on its way back.
    Answer(QueryAnswer),
    /// The end of the answers to a query from one branch of the network.
    QueryDone(QueryDone),
    /// A message that is relayed to a node without a link.
    Forward(Forward),
    /// The outcome of a relayed message, on its way back.
    Forwarded(Forwarded),
    /// Broadcasts of one author.
    Broadcast(Batch),
    /// An announcement of the broadcasts that the sender has.
    Have(Vec<Have>),
    /// A request for broadcasts.
    Want(Want),
    /// The end of the answer to a [`Want`]. It says up to which place of the run the sender has all
    /// broadcasts.
    Given(Have),
    /// A request to pass on no more broadcasts of a run to the sender, which gets them from other
    /// nodes.
    Prune(RunId),
    /// A request to become neighbours.
    NeighbourRequest(NeighbourRequest),
    /// The answer to a neighbour request.
    NeighbourReply(NeighbourReply),
    /// The announcement of a new node, on a random walk.
    ForwardJoin(ForwardJoin),
    /// The notice that the two nodes are no longer neighbours.
    Disconnect(Disconnect),
    /// Records of nodes that the sender knows, on a random walk.
    Shuffle(Shuffle),
    /// The answer to a shuffle, on its way back.
    ShuffleReply(ShuffleReply),
    /// A sign of life from the node with the least identity, without a signature, as nodes of version 1
    /// send it.
    Beacon(Beacon),
    /// A signed sign of life from the node with the least identity.
    SignedBeacon(SignedBeacon),
    /// A request to open a stream to the sender, which can't dial the receiver.
    CallBack {
        /// The token by which the sender recognizes the stream.
        token: [u8; 16],
    },
    /// The order of the network's owner that all nodes stop.
    ShutdownOrder(ShutdownOrder),
    /// The time of the sender's clock, in milliseconds since 1970. A node sends it after it has
    /// refused a broadcast because of the broadcast's time.
    Clock(u64),
    /// A hash over the sender's roster: see [`Roster::digest`](crate::invitation::Roster::digest).
    RosterDigest(Hash),
    /// Proofs of members of a network whose owner invites.
    Members(Vec<MembershipProof>),
    /// Revocations of the network's owner.
    Revocations(Vec<Revocation>),
    /// A frame of a kind that this version does not know.
    Unknown(u8),
}

/// The reason why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer has no handler for requests of that name.
    #[error("the other side has no handler of that name")]
    NoHandler,
    /// The peer already handles the maximum number of requests of this node.
    #[error("the other side is busy")]
    Busy,
    /// The handler of the peer failed with this error.
    #[error("the handler failed: {0}")]
    Failed(String),
}

const HELLO: u8 = 0x01;
const GOODBYE: u8 = 0x02;
const PING: u8 = 0x03;
const PONG: u8 = 0x04;
const RECEIVED: u8 = 0x05;
const MESSAGE: u8 = 0x10;
const REQUEST: u8 = 0x11;
const REPLY: u8 = 0x12;
const CANCEL: u8 = 0x13;
const QUERY: u8 = 0x20;
const ANSWER: u8 = 0x21;
const QUERY_DONE: u8 = 0x22;
const FORWARD: u8 = 0x23;
const FORWARDED: u8 = 0x24;
const SIGNED_QUERY: u8 = 0x25;
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
const SIGNED_BEACON: u8 = 0x57;
const SHUTDOWN_ORDER: u8 = 0x60;
const CLOCK: u8 = 0x61;
const ROSTER_DIGEST: u8 = 0x62;
const MEMBERS: u8 = 0x63;
const REVOCATIONS: u8 = 0x64;

/// Number of bytes before the content in the frame of a message: the header and the head byte.
pub const MESSAGE_HEADER_LEN: usize = HEADER_LEN + 1;

/// Returns the bytes before the content in the frame of a message. `head` is the head byte, and
/// `len` the length of the content.
#[must_use]
pub fn message_header(head: u8, len: usize) -> [u8; MESSAGE_HEADER_LEN] {
    // The length also counts the kind and the head byte.
    let [a, b, c, d] = u32::try_from(len + 2).unwrap_or(u32::MAX).to_le_bytes();
    [a, b, c, d, MESSAGE, head]
}

impl Frame {
    /// Returns the maximum length of the body of a frame of this kind, in bytes.
    #[must_use]
    pub fn limit(kind: u8, config: &Config) -> usize {
        match kind {
            MESSAGE | REQUEST | REPLY => config.max_message.saturating_add(OVERHEAD),
            BROADCAST => config.max_broadcast.saturating_add(OVERHEAD),
            // Frames of unknown kinds are limited too, because they are received completely before
            // they are skipped.
            _ => config.max_control,
        }
    }

    /// Returns whether this is a frame of the application: a message, a request or a reply. Such
    /// frames have a separate queue, and are counted for acknowledgements.
    #[must_use]
    pub fn is_application(&self) -> bool {
        matches!(self, Self::Message(_) | Self::Request { .. } | Self::Reply { .. })
    }

    /// Appends the frame to `out`, both header and body.
    ///
    /// The caller has checked that the content is within its limit. The length field of a frame
    /// over 4 GiB would be wrong.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        // The length is filled in at the end, once it is known.
        out.put_u32(0);
        match self {
            Self::Hello(hello) => put(out, HELLO, |out| hello.encode(out)),
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
                put_message(out, packed);
            }
            Self::Request { id, name, body } => {
                put_number(out, REQUEST, *id);
                out.put_str(name);
                put_message(out, body);
            }
            Self::Reply { id, outcome } => {
                put_number(out, REPLY, *id);
                put_outcome(out, outcome);
            }
            Self::Cancel(id) => put_number(out, CANCEL, *id),
            Self::Query(query) => {
                let kind = if query.is_signed() { SIGNED_QUERY } else { QUERY };
                put(out, kind, |out| query.encode(out));
            }
            Self::Answer(answer) => put(out, ANSWER, |out| answer.encode(out)),
            Self::QueryDone(done) => put(out, QUERY_DONE, |out| done.encode(out)),
            Self::Forward(forward) => put(out, FORWARD, |out| forward.encode(out)),
            Self::Forwarded(forwarded) => put(out, FORWARDED, |out| forwarded.encode(out)),
            Self::Broadcast(batch) => put(out, BROADCAST, |out| batch.encode(out)),
            Self::Have(haves) => {
                out.put_u8(HAVE);
                let haves = &haves[..haves.len().min(MAX_HAVES)];
                out.put_list(haves, |out, have| have.encode(out));
            }
            Self::Want(want) => put(out, WANT, |out| want.encode(out)),
            Self::Given(have) => put(out, GIVEN, |out| have.encode(out)),
            Self::Prune(run) => put(out, PRUNE, |out| run.encode(out)),
            Self::NeighbourRequest(request) => {
                put(out, NEIGHBOUR_REQUEST, |out| request.encode(out));
            }
            Self::NeighbourReply(reply) => put(out, NEIGHBOUR_REPLY, |out| reply.encode(out)),
            Self::ForwardJoin(join) => put(out, FORWARD_JOIN, |out| join.encode(out)),
            Self::Disconnect(disconnect) => put(out, DISCONNECT, |out| disconnect.encode(out)),
            Self::Shuffle(shuffle) => put(out, SHUFFLE, |out| shuffle.encode(out)),
            Self::ShuffleReply(reply) => put(out, SHUFFLE_REPLY, |out| reply.encode(out)),
            Self::Beacon(beacon) => put(out, BEACON, |out| beacon.encode(out)),
            Self::SignedBeacon(beacon) => put(out, SIGNED_BEACON, |out| beacon.encode(out)),
            Self::CallBack { token } => put(out, CALL_BACK, |out| out.put_raw(token)),
            Self::ShutdownOrder(order) => put(out, SHUTDOWN_ORDER, |out| order.encode(out)),
            Self::Clock(unix) => put_number(out, CLOCK, *unix),
            Self::RosterDigest(digest) => {
                put(out, ROSTER_DIGEST, |out| out.put_raw(digest.as_bytes()));
            }
            Self::Members(proofs) => put(out, MEMBERS, |out| {
                let proofs = &proofs[..proofs.len().min(MAX_RECORDS)];
                out.put_list(proofs, |out, proof| proof.encode(out));
            }),
            Self::Revocations(revocations) => put(out, REVOCATIONS, |out| {
                let revocations = &revocations[..revocations.len().min(MAX_RECORDS)];
                out.put_list(revocations, |out, revocation| revocation.encode(out));
            }),
            Self::Unknown(kind) => out.put_u8(*kind),
        }
        let len = u32::try_from(out.len() - start - LENGTH_FIELD_LEN).unwrap_or(u32::MAX);
        out[start..start + LENGTH_FIELD_LEN].copy_from_slice(&len.to_le_bytes());
    }

    /// Returns the bytes of a frame before its content. This frame has an empty content, and
    /// `content` is the one that the caller sends after these bytes. So a large content need not be
    /// copied.
    #[must_use]
    pub fn encode_header(&self, content: &[u8]) -> Vec<u8> {
        let mut head = Vec::new();
        self.encode(&mut head);
        let len = u32::try_from(head.len() - LENGTH_FIELD_LEN + content.len()).unwrap_or(u32::MAX);
        head[..LENGTH_FIELD_LEN].copy_from_slice(&len.to_le_bytes());
        head
    }

    /// Reads a frame of this kind from its body. Contents are shared with `body`, not copied.
    ///
    /// # Errors
    /// [`DecodeError`] if a field is missing, too long or invalid, or if bytes follow the last
    /// field.
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
            MESSAGE => Self::Message(PackedMessage::decode(reader)?),
            REQUEST => Self::Request {
                id: reader.u64("request")?,
                name: reader.str(MAX_PROTOCOL, "request name")?,
                body: PackedMessage::decode(reader)?,
            },
            REPLY => Self::Reply { id: reader.u64("reply")?, outcome: read_outcome(reader)? },
            CANCEL => Self::Cancel(reader.u64("cancel")?),
            QUERY | SIGNED_QUERY => {
                let query = Query::decode(reader)?;
                // A node of version 1 would end the link over the other kind.
                if query.is_signed() != (kind == SIGNED_QUERY) {
                    return Err(DecodeError::Invalid("query kind"));
                }
                Self::Query(query)
            }
            ANSWER => Self::Answer(QueryAnswer::decode(reader)?),
            QUERY_DONE => Self::QueryDone(QueryDone::decode(reader)?),
            FORWARD => Self::Forward(Forward::decode(reader)?),
            FORWARDED => Self::Forwarded(Forwarded::decode(reader)?),
            // The batch keeps its bytes and is passed on unchanged, so that its signature stays
            // valid.
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
            SIGNED_BEACON => Self::SignedBeacon(SignedBeacon::decode(reader)?),
            CALL_BACK => Self::CallBack { token: reader.array("call-back token")? },
            SHUTDOWN_ORDER => Self::ShutdownOrder(ShutdownOrder::decode(reader)?),
            CLOCK => Self::Clock(reader.u64("clock")?),
            ROSTER_DIGEST => Self::RosterDigest(reader.hash("roster digest")?),
            MEMBERS => {
                Self::Members(reader.list(MAX_RECORDS, "members", MembershipProof::decode)?)
            }
            REVOCATIONS => {
                Self::Revocations(reader.list(MAX_RECORDS, "revocations", Revocation::decode)?)
            }
            unknown => {
                // Otherwise `finish` would report bytes after the last field.
                reader.take_rest();
                Self::Unknown(unknown)
            }
        })
    }
}

/// The reason why received bytes are not valid frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length of a frame is over the limit of its kind. No memory was reserved for the frame.
    #[error("a frame of kind {kind:#04x} announces {len} bytes; at most {limit} are allowed")]
    TooLong {
        /// The frame's kind.
        kind: u8,
        /// The length of its body, according to the header.
        len: usize,
        /// The maximum length of the body.
        limit: usize,
    },
    /// A frame has the length zero, so it has no kind.
    #[error("a frame without a kind")]
    Empty,
    /// The body of a frame is invalid for its kind.
    #[error("a frame of kind {kind:#04x}: {error}")]
    Body {
        /// The frame's kind.
        kind: u8,
        /// The error in the body.
        error: DecodeError,
    },
}

/// Complete frames, split off the front of the bytes that a link has received.
#[derive(Debug)]
pub struct Frames {
    block: Bytes,
    /// The messages at the front of `block`, if [`Frames::split`] has found them.
    leading: LeadingMessages,
    max_message: usize,
    skips_added_fields: bool,
}

impl Frames {
    /// Splits all complete frames off the front of `buffer`. They share one block of memory. At
    /// most an incomplete frame is left in `buffer`.
    ///
    /// # Errors
    /// If a frame has no kind or is over its limit. That is known as soon as its header has
    /// arrived.
    pub fn split(buffer: &mut BytesMut, config: &Config) -> Result<Self, FrameError> {
        let leading = LeadingMessages::find(buffer, config.max_message);
        // `find` has checked the messages at the front, so their headers need not be read again.
        let mut end = leading.end;
        while let Some(next) = frame_end(buffer, end, |kind| Frame::limit(kind, config))? {
            end = next;
        }
        let block = buffer.split_to(end).freeze();
        Ok(Self { block, leading, max_message: config.max_message, skips_added_fields: false })
    }

    /// Splits the first frame off the front of `buffer` if it is complete. Its limit is that of a
    /// control frame, as the peer has not sent its Hello yet.
    ///
    /// # Errors
    /// As for [`Frames::split`].
    pub fn split_first(buffer: &mut BytesMut, config: &Config) -> Result<Self, FrameError> {
        let end = frame_end(buffer, 0, |_| config.max_control)?.unwrap_or_default();
        let block = buffer.split_to(end).freeze();
        let leading = LeadingMessages::default();
        Ok(Self { block, leading, max_message: config.max_message, skips_added_fields: false })
    }

    /// Makes [`Frames::next`] skip bytes after the last field of a frame. Otherwise they are an
    /// error. So later versions can add fields.
    #[must_use]
    pub fn skip_added_fields(self) -> Self {
        Self { skips_added_fields: true, ..self }
    }

    /// Takes the messages that come next. They end before the first frame of another kind, and
    /// before the first message that is compressed or invalid.
    ///
    /// The messages are the same as those from [`Frames::next`], but this is much faster.
    pub fn take_messages(&mut self) -> Messages {
        let mut leading = std::mem::take(&mut self.leading);
        // `split` has found only the messages for the first call.
        if leading.end == 0 {
            leading = LeadingMessages::find(&self.block, self.max_message);
        }
        Messages::take(&mut self.block, leading)
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// If the body of the frame is invalid. The frames after it can still be read.
    #[allow(clippy::should_implement_trait)] // `take_messages` is called in between
    pub fn next(&mut self) -> Option<Result<Frame, FrameError>> {
        // `split` has checked every header in the block, so an error here means the end of the
        // block.
        let (kind, len) = read_header(&self.block).ok()??;
        // `leading` counts from the start of the block, and the start moves here.
        self.leading = LeadingMessages::default();
        self.block.advance(HEADER_LEN);
        let body = self.block.split_to(len.min(self.block.len()));
        let frame = if self.skips_added_fields {
            Frame::read(kind, &mut Reader::new(body))
        } else {
            Frame::decode(kind, body)
        };
        Some(frame.map_err(|error| FrameError::Body { kind, error }))
    }
}

/// Returns the end of the frame that begins at `at`, or `None` if the frame is incomplete.
fn frame_end(
    buffer: &[u8],
    at: usize,
    limit: impl Fn(u8) -> usize,
) -> Result<Option<usize>, FrameError> {
    let Some((kind, len)) = read_header(buffer.get(at..).unwrap_or_default())? else {
        return Ok(None);
    };
    let limit = limit(kind);
    if len > limit {
        return Err(FrameError::TooLong { kind, len, limit });
    }
    Ok(at.checked_add(HEADER_LEN + len).filter(|end| *end <= buffer.len()))
}

/// Returns the kind of the frame at the start of `bytes` and the length of its body, or `None` if
/// the header is incomplete.
#[inline]
pub fn read_header(bytes: &[u8]) -> Result<Option<(u8, usize)>, FrameError> {
    let Some(&[a, b, c, d, kind]) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    match (u32::from_le_bytes([a, b, c, d]) as usize).checked_sub(1) {
        Some(len) => Ok(Some((kind, len))),
        None => Err(FrameError::Empty),
    }
}

fn put(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.put_u8(kind);
    body(out);
}

fn put_number(out: &mut Vec<u8>, kind: u8, number: u64) {
    put(out, kind, |out| out.put_u64(number));
}

pub(crate) fn put_message(out: &mut Vec<u8>, packed: &PackedMessage) {
    out.put_u8(packed.head_byte());
    out.put_raw(&packed.payload);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_str(&text[..text.floor_char_boundary(MAX_TEXT)]);
}

pub(crate) fn put_outcome(out: &mut Vec<u8>, outcome: &Result<PackedMessage, Refusal>) {
    match outcome {
        Ok(packed) => {
            out.put_u8(0);
            put_message(out, packed);
        }
        Err(Refusal::NoHandler) => out.put_u8(1),
        Err(Refusal::Busy) => out.put_u8(2),
        Err(Refusal::Failed(why)) => {
            out.put_u8(3);
            put_text(out, why);
        }
    }
}

pub(crate) fn read_outcome(
    reader: &mut Reader,
) -> Result<Result<PackedMessage, Refusal>, DecodeError> {
    Ok(match reader.u8("outcome")? {
        0 => Ok(PackedMessage::decode(reader)?),
        1 => Err(Refusal::NoHandler),
        2 => Err(Refusal::Busy),
        3 => Err(Refusal::Failed(reader.str(MAX_TEXT, "failure")?)),
        _ => return Err(DecodeError::Invalid("outcome")),
    })
}

#[cfg(test)]
mod tests;
