//! Compresses messages on their way out and decompresses them on their way in.
//!
//! What comes in was written by others. A few bytes can claim to be gigabytes, so the content is
//! decompressed in steps into a buffer that never grows past the limit, each decoder has a memory
//! bound of its own, and a payload that goes on after the end of its compressed stream, or stops
//! short of it, is refused.

use std::io::{self, BufRead, Read, Write};

use bytes::Bytes;
use liblzma::stream::{Action, Check, Filters, LzmaOptions, Stream};
use peerkit_proto::codec::DecodeError;
use peerkit_proto::message::{Compression, Message, Packed};

use crate::blocking;
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

/// The largest content, in bytes, that is compressed or decompressed on the spot. More goes to the
/// runtime's blocking threads, so that no other task waits for it.
///
/// 16 KiB: on a machine of 2025 it takes 0.1 ms to compress with zstd and lz4, 0.6 ms with zlib and
/// 1 ms with bzip2, 3 ms with lzma, and at most half a millisecond to decompress.
pub(crate) const INLINE: usize = 16 << 10;

/// What the xz decoder may hold, in bytes. 10 MiB: the encoder's preset 6 has a dictionary of 8 MiB,
/// for which the decoder needs 9 MiB (xz's manual); a header may claim 4 GiB.
const XZ_MEMORY: u64 = 10 << 20;

/// The zstd decoder's largest window, as a power of two. 8 MiB: what RFC 8878 recommends that
/// decoders support and encoders stay within; a header may claim 2 GiB.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Size of the blocks that lz4 contents are cut into, compressed each on its own. 64 KiB: the
/// default of the lz4 library, and little to set up for a short message.
///
/// The decoder holds two blocks, three where a peer links them. The format stops at 4 MiB blocks,
/// which bounds that to about 12 MiB.
const LZ4_BLOCK: lz4_flex::frame::BlockSize = lz4_flex::frame::BlockSize::Max64KB;

/// The start of an lz4 frame. Legacy and skippable frames start otherwise and are not taken.
const LZ4_MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();

/// Length of the shortest header of an lz4 frame, in bytes.
const LZ4_HEADER: usize = 7;

/// The decompressed content's first buffer, in bytes, before its size is known.
const FIRST_ROOM: usize = 4 << 10;

/// Why a message was not compressed. Nothing was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CompressError {
    /// The content is over the limit, before any compression.
    #[error("a message of {len} bytes is over the limit of {limit}: send it in parts or as a file")]
    TooLarge {
        /// Bytes of content.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The compressor failed, which it does where memory is short.
    #[error("could not compress with {}", .0.name())]
    Failed(Compression, #[source] io::Error),
    /// The runtime is shutting down.
    #[error("the node is stopping")]
    Stopping,
}

/// Why a payload was not decompressed: the sender's fault, but for [`DecompressError::Stopping`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DecompressError {
    /// The content is over the limit, found before more than that was held.
    #[error("the message is over the limit of {limit} bytes once decompressed")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The payload asks for a dictionary or window that is over the decoder's bound.
    #[error("the {} payload needs more memory to decompress than it may have", .0.name())]
    TooMuchMemory(Compression),
    /// The payload stops before the compressed stream's end.
    #[error("the {} payload ends too early", .0.name())]
    Truncated(Compression),
    /// The payload goes on after the compressed stream's end.
    #[error("{len} bytes follow the end of the {} payload", .compression.name())]
    Trailing {
        /// The payload's compression.
        compression: Compression,
        /// Bytes that follow.
        len: usize,
    },
    /// The payload is not what its head byte says, or was damaged.
    #[error("the {} payload is damaged: {reason}", .compression.name())]
    Corrupt {
        /// The payload's compression.
        compression: Compression,
        /// What the decoder says.
        reason: String,
    },
    /// The content is not what its kind says.
    #[error(transparent)]
    Content(#[from] DecodeError),
    /// The runtime is shutting down.
    #[error("the node is stopping")]
    Stopping,
}

/// Makes `message` ready for a frame, compressed as it asks for.
///
/// Where compression would not make it smaller it travels as it is, so the payload is never over
/// `limit` bytes either. Takes a second for 16 MiB with zlib, up to twenty with lzma: see [`pack_async`].
///
/// # Errors
/// Where the content is over `limit` bytes, or the compressor fails.
pub(crate) fn pack(message: Message, limit: usize) -> Result<Packed, CompressError> {
    let (len, compression) = (message.body().len(), message.compression());
    if len > limit {
        return Err(CompressError::TooLarge { len, limit });
    }
    if compression == Compression::None {
        return Ok(Packed::plain(message));
    }
    let payload = compress(message.body(), compression)
        .map_err(|error| CompressError::Failed(compression, error))?;
    if payload.len() >= len {
        return Ok(Packed::plain(message));
    }
    Ok(Packed { kind: message.kind(), compression, payload: payload.into() })
}

/// The message that `packed` holds, its content decompressed and at most `limit` bytes.
///
/// Holds at most `limit` + 1 bytes of content, while it grows half of that again, and what the
/// decoder needs: 12 MiB at most, with lz4. Takes up to 0.4 s for 16 MiB, however short the payload: see [`unpack_async`].
///
/// # Errors
/// Where the content is over `limit`, or the payload is anything but one whole compressed stream,
/// or the text in it is not text.
pub(crate) fn unpack(packed: Packed, limit: usize) -> Result<Message, DecompressError> {
    let body = match packed.compression {
        Compression::None if packed.payload.len() > limit => {
            return Err(DecompressError::TooLarge { limit });
        }
        Compression::None => packed.payload.clone(),
        compression => decompress(&packed.payload, compression, limit)?,
    };
    Ok(packed.unpack(body)?)
}

/// [`pack`] for an async task: what would take long is done on a blocking thread.
///
/// # Errors
/// As [`pack`], or where the runtime is shutting down.
pub(crate) async fn pack_async(message: Message, limit: usize) -> Result<Packed, CompressError> {
    let len = message.body().len();
    if message.compression() == Compression::None || len <= INLINE || len > limit {
        return pack(message, limit);
    }
    blocking::run(move || pack(message, limit)).await.unwrap_or(Err(CompressError::Stopping))
}

/// [`unpack`] for an async task: what would take long is done on a blocking thread.
///
/// A short payload may hold a long content, so it is tried on the spot only up to [`INLINE`] bytes
/// of content.
///
/// # Errors
/// As [`unpack`], or where the runtime is shutting down.
pub(crate) async fn unpack_async(packed: Packed, limit: usize) -> Result<Message, DecompressError> {
    if packed.compression == Compression::None {
        return unpack(packed, limit);
    }
    if packed.payload.len() <= INLINE {
        match unpack(packed.clone(), limit.min(INLINE)) {
            Err(DecompressError::TooLarge { .. }) if limit > INLINE => {}
            done => return done,
        }
    }
    blocking::run(move || unpack(packed, limit)).await.unwrap_or(Err(DecompressError::Stopping))
}

fn compress(body: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
    match compression {
        Compression::Zlib => {
            let level = flate2::Compression::new(6);
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body)?;
            encoder.finish()
        }
        Compression::Bzip2 => {
            let level = bzip2::Compression::best();
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), level);
            encoder.write_all(body)?;
            encoder.finish()
        }
        Compression::Lzma => {
            let mut encoder =
                liblzma::write::XzEncoder::new_stream(Vec::new(), xz_encoder(body.len())?);
            encoder.write_all(body)?;
            encoder.finish()
        }
        Compression::Zstd => zstd::bulk::compress(body, 3),
        Compression::Lz4 => {
            let frame = lz4_flex::frame::FrameInfo::new().block_size(LZ4_BLOCK);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(body)?;
            Ok(encoder.finish()?)
        }
        _ => Ok(body.to_vec()),
    }
}

/// xz's preset 6 with a CRC-64, which is what Python's `lzma.compress` does, but for the
/// dictionary: one longer than the content gains nothing and takes memory on both sides.
fn xz_encoder(len: usize) -> io::Result<Stream> {
    let dictionary = len.clamp(4 << 10, 8 << 20) as u32;
    let mut options = LzmaOptions::new_preset(6)?;
    options.dict_size(dictionary);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    Ok(Stream::new_stream_encoder(&filters, Check::Crc64)?)
}

fn decompress(
    payload: &[u8],
    compression: Compression,
    limit: usize,
) -> Result<Bytes, DecompressError> {
    let mut content = Content::new(payload.len(), limit);
    match compression {
        Compression::Zlib => content.fill(payload, &mut Zlib::new()),
        Compression::Bzip2 => content.fill(payload, &mut Bzip2::new()),
        Compression::Lzma => content.fill(payload, &mut Xz::new()?),
        Compression::Zstd => content.fill(payload, &mut Zstd::new()?),
        Compression::Lz4 => content.fill_lz4(payload),
        other => Err(corrupt(other, "no decoder for it")),
    }?;
    content.bytes.shrink_to_fit();
    Ok(content.bytes.into())
}

/// What has been decompressed so far.
struct Content {
    bytes: Vec<u8>,
    limit: usize,
}

impl Content {
    /// Takes little at first: four times the payload, a common ratio, at most the limit.
    fn new(payload: usize, limit: usize) -> Self {
        let room = payload.saturating_mul(4).max(FIRST_ROOM);
        Self { bytes: Vec::with_capacity(room.min(limit.saturating_add(1))), limit }
    }

    /// Makes room for more where there is none: twice as much, at most one byte over the limit,
    /// which is how contents over the limit show.
    fn make_room(&mut self) -> Result<(), DecompressError> {
        if self.bytes.len() > self.limit {
            return Err(DecompressError::TooLarge { limit: self.limit });
        }
        if self.bytes.len() == self.bytes.capacity() {
            let most = self.limit.saturating_add(1);
            let room = self.bytes.len().saturating_mul(2).clamp(1, most);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        Ok(())
    }

    /// Decompresses the whole of `payload`.
    fn fill<D: Decoder>(&mut self, payload: &[u8], decoder: &mut D) -> Result<(), DecompressError> {
        let mut rest = payload;
        loop {
            self.make_room()?;
            let before = self.bytes.len();
            let step = decoder.step(rest, &mut self.bytes)?;
            rest = rest.get(step.taken..).unwrap_or_default();
            if step.ended {
                break;
            }
            if step.taken == 0 && self.bytes.len() == before {
                return Err(DecompressError::Truncated(D::COMPRESSION));
            }
        }
        if self.bytes.len() > self.limit {
            return Err(DecompressError::TooLarge { limit: self.limit });
        }
        trailing(D::COMPRESSION, rest.len())
    }

    /// As [`Content::fill`], for a decoder that reads by itself.
    fn fill_lz4(&mut self, payload: &[u8]) -> Result<(), DecompressError> {
        let compression = Compression::Lz4;
        if payload.len() < LZ4_HEADER {
            return Err(DecompressError::Truncated(compression));
        }
        if !payload.starts_with(&LZ4_MAGIC) {
            return Err(corrupt(compression, "not an lz4 frame"));
        }
        let mut decoder = lz4_flex::frame::FrameDecoder::new(Source::new(payload));
        loop {
            let block = match decoder.fill_buf() {
                Ok(block) => block,
                Err(error) => {
                    return Err(if decoder.get_ref().short {
                        DecompressError::Truncated(compression)
                    } else {
                        corrupt(compression, error)
                    });
                }
            };
            let len = block.len();
            if len == 0 {
                break;
            }
            if len > self.limit - self.bytes.len() {
                return Err(DecompressError::TooLarge { limit: self.limit });
            }
            while self.bytes.capacity() - self.bytes.len() < len {
                let most = self.limit.saturating_add(1);
                let room = self.bytes.capacity().saturating_mul(2).clamp(1, most);
                self.bytes.reserve_exact(room - self.bytes.len());
            }
            self.bytes.extend_from_slice(block);
            decoder.consume(len);
        }
        trailing(compression, decoder.get_ref().rest.len())?;
        // The decoder says "no more" at the frame's end and where the input ends between two
        // blocks. Asked again it looks for a new frame only in the first case.
        let _ = decoder.fill_buf();
        if decoder.get_ref().asked_for_frame {
            Ok(())
        } else {
            Err(DecompressError::Truncated(compression))
        }
    }
}

/// A decoder that is fed by hand.
trait Decoder {
    /// What it decodes.
    const COMPRESSION: Compression;

    /// Decodes from `input` into the room that `output` has, without growing it.
    fn step(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, DecompressError>;
}

/// What one step did.
struct Step {
    /// Bytes of the input that it took.
    taken: usize,
    /// The compressed stream is at its end.
    ended: bool,
}

struct Zlib(flate2::Decompress);

impl Zlib {
    fn new() -> Self {
        Self(flate2::Decompress::new(true))
    }
}

impl Decoder for Zlib {
    const COMPRESSION: Compression = Compression::Zlib;

    fn step(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, DecompressError> {
        let before = self.0.total_in();
        let status = self
            .0
            .decompress_vec(input, output, flate2::FlushDecompress::None)
            .map_err(|error| corrupt(Self::COMPRESSION, error))?;
        Ok(Step {
            taken: (self.0.total_in() - before) as usize,
            ended: status == flate2::Status::StreamEnd,
        })
    }
}

struct Bzip2(bzip2::Decompress);

impl Bzip2 {
    fn new() -> Self {
        Self(bzip2::Decompress::new(false))
    }
}

impl Decoder for Bzip2 {
    const COMPRESSION: Compression = Compression::Bzip2;

    fn step(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, DecompressError> {
        let before = self.0.total_in();
        let status = self
            .0
            .decompress_vec(input, output)
            .map_err(|error| corrupt(Self::COMPRESSION, error))?;
        Ok(Step {
            taken: (self.0.total_in() - before) as usize,
            ended: status == bzip2::Status::StreamEnd,
        })
    }
}

struct Xz(Stream);

impl Xz {
    fn new() -> Result<Self, DecompressError> {
        Stream::new_stream_decoder(XZ_MEMORY, 0).map(Self).map_err(Self::error)
    }

    fn error(error: liblzma::stream::Error) -> DecompressError {
        match error {
            liblzma::stream::Error::MemLimit => DecompressError::TooMuchMemory(Compression::Lzma),
            other => corrupt(Compression::Lzma, other),
        }
    }
}

impl Decoder for Xz {
    const COMPRESSION: Compression = Compression::Lzma;

    fn step(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, DecompressError> {
        let before = self.0.total_in();
        let status = self.0.process_vec(input, output, Action::Run).map_err(Self::error)?;
        Ok(Step {
            taken: (self.0.total_in() - before) as usize,
            ended: status == liblzma::stream::Status::StreamEnd,
        })
    }
}

struct Zstd(DCtx<'static>);

impl Zstd {
    fn new() -> Result<Self, DecompressError> {
        let mut context = DCtx::try_create()
            .ok_or_else(|| corrupt(Compression::Zstd, "no memory for the decoder"))?;
        context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)).map_err(Self::error)?;
        Ok(Self(context))
    }

    /// zstd's functions return the error's number, negated.
    fn error(code: zstd_safe::ErrorCode) -> DecompressError {
        let window = zstd_safe::zstd_sys::ZSTD_ErrorCode::ZSTD_error_frameParameter_windowTooLarge;
        if code.wrapping_neg() == window as usize {
            return DecompressError::TooMuchMemory(Compression::Zstd);
        }
        corrupt(Compression::Zstd, zstd_safe::get_error_name(code))
    }
}

impl Decoder for Zstd {
    const COMPRESSION: Compression = Compression::Zstd;

    fn step(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, DecompressError> {
        let written = output.len();
        let mut input = InBuffer::around(input);
        let mut output = OutBuffer::around_pos(output, written);
        let left = self.0.decompress_stream(&mut output, &mut input).map_err(Self::error)?;
        Ok(Step { taken: input.pos(), ended: left == 0 })
    }
}

/// A payload that remembers how it was read past its end, which the lz4 decoder does not tell.
struct Source<'a> {
    rest: &'a [u8],
    /// More was needed than there was.
    short: bool,
    /// A new frame was looked for at the payload's end.
    asked_for_frame: bool,
}

impl<'a> Source<'a> {
    fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, short: false, asked_for_frame: false }
    }
}

impl Read for Source<'_> {
    /// Only a frame's first bytes are read so: everything after them is needed whole.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.asked_for_frame |= self.rest.is_empty();
        self.rest.read(buffer)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.short |= buffer.len() > self.rest.len();
        self.rest.read_exact(buffer)
    }
}

fn trailing(compression: Compression, len: usize) -> Result<(), DecompressError> {
    if len == 0 { Ok(()) } else { Err(DecompressError::Trailing { compression, len }) }
}

fn corrupt(compression: Compression, reason: impl ToString) -> DecompressError {
    DecompressError::Corrupt { compression, reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
