//! Compresses messages on their way out and decompresses them on their way in.
//!
//! Payloads come from other nodes, and a few bytes can decompress to gigabytes. So a content is decompressed
//! in steps, into a buffer that never grows past the limit. Each decoder has a memory bound of its own. A
//! payload is refused if its compressed stream is not complete, or if bytes follow the end of that stream.

use std::io::{self, BufRead, Read, Write};

use bytes::Bytes;
use liblzma::stream::{Action, Check, Filters, LzmaOptions, Stream};
use peerkit_proto::codec::DecodeError;
use peerkit_proto::message::{Compression, Message, PackedMessage};
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

use crate::blocking;
use crate::error::Error;

/// Maximum size of a content, in bytes, that is compressed or decompressed in the task that needs it. Larger
/// contents go to the runtime's blocking threads, so that other tasks do not wait for them.
///
/// 16 KiB: on a computer of 2025, compressing that takes 0.1 ms with zstd and lz4, 0.6 ms with zlib, 1 ms
/// with bzip2 and 3 ms with lzma. Decompressing takes at most half a millisecond.
pub(crate) const MAX_INLINE: usize = 16 << 10;

/// Maximum memory of the xz decoder, in bytes. 10 MiB: the encoder's preset 6 has a dictionary of 8 MiB,
/// for which the decoder needs 9 MiB (xz's manual). A header may ask for 4 GiB.
const XZ_MEMORY: u64 = 10 << 20;

/// Maximum window of the zstd decoder, as a power of two. 8 MiB: the size that RFC 8878 recommends as the
/// maximum for encoders and the minimum for decoders. A header may ask for 2 GiB.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Size of the blocks into which a content is cut for lz4, which compresses each block separately. 64 KiB:
/// the default of the lz4 library, and little memory to set up for a short message.
///
/// The decoder has two blocks in memory, and three if the peer's blocks depend on each other. The format
/// allows blocks of at most 4 MiB, so the decoder needs at most about 12 MiB.
const LZ4_BLOCK: lz4_flex::frame::BlockSize = lz4_flex::frame::BlockSize::Max64KB;

/// The start of an lz4 frame. Legacy and skippable frames start differently and are refused.
const LZ4_MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();

/// Minimum length of the header of an lz4 frame, in bytes.
const LZ4_HEADER: usize = 7;

/// Minimum size of the first buffer for a decompressed content, in bytes.
const FIRST_ROOM: usize = 4 << 10;

/// The reason why a payload was not decompressed. All reasons except [`DecompressError::Stopping`] are the
/// sender's fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DecompressError {
    /// The content is over the limit. It never took more memory than the limit allows.
    #[error("the message is over the limit of {limit} bytes once decompressed")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The payload needs a dictionary or window that is over the decoder's memory bound.
    #[error("the {} payload needs more memory to decompress than it may have", .0.name())]
    TooMuchMemory(Compression),
    /// The payload stops before the compressed stream's end.
    #[error("the {} payload ends too early", .0.name())]
    Truncated(Compression),
    /// Bytes follow the end of the compressed stream.
    #[error("{len} bytes follow the end of the {} payload", .compression.name())]
    Trailing {
        /// The payload's compression.
        compression: Compression,
        /// Bytes that follow.
        len: usize,
    },
    /// The payload is damaged, or is not compressed as its head byte says.
    #[error("the {} payload is damaged: {reason}", .compression.name())]
    Corrupt {
        /// The payload's compression.
        compression: Compression,
        /// The decoder's reason.
        reason: String,
    },
    /// The decompressed content is not of the kind that its head byte says.
    #[error(transparent)]
    Content(#[from] DecodeError),
    /// The runtime is shutting down.
    #[error("the node is stopping")]
    Stopping,
}

/// Returns the payload of `message` for a frame, with the compression that the message has set.
///
/// A message that compression would not make smaller stays uncompressed, so the payload too has at most
/// `limit` bytes. Compressing 16 MiB takes a second with zlib, and up to twenty seconds with lzma: see
/// [`pack_async`].
///
/// # Errors
/// If the content is over `limit` bytes, or the compressor fails.
pub(crate) fn pack(message: Message, limit: usize) -> Result<PackedMessage, Error> {
    let (len, compression) = (message.body().len(), message.compression());
    if len > limit {
        return Err(Error::TooLarge { len, limit });
    }
    if compression == Compression::None {
        return Ok(PackedMessage::uncompressed(message));
    }
    let payload = compress(message.body(), compression)
        .map_err(|error| Error::Compress(compression, error))?;
    // Decompressing a payload that is no smaller than its content would cost the receiver time for nothing.
    if payload.len() >= len {
        return Ok(PackedMessage::uncompressed(message));
    }
    Ok(PackedMessage { kind: message.kind(), compression, payload: payload.into() })
}

/// Decompresses the message in `packed`. Its content may have at most `limit` bytes.
///
/// Needs memory for `limit` + 1 bytes of content, for half as many more while the buffer grows, and at most
/// 12 MiB for the decoder (that of lz4). A content of 16 MiB takes up to 0.4 s, however short the payload
/// is: see [`unpack_async`].
///
/// # Errors
/// If the content is over `limit`, if the payload is not exactly one complete compressed stream, or if a
/// text is not UTF-8.
pub(crate) fn unpack(packed: PackedMessage, limit: usize) -> Result<Message, DecompressError> {
    let body = match packed.compression {
        Compression::None if packed.payload.len() > limit => {
            return Err(DecompressError::TooLarge { limit });
        }
        Compression::None => packed.payload.clone(),
        compression => decompress(&packed.payload, compression, limit)?,
    };
    Ok(packed.unpack(body)?)
}

/// Does the same as [`pack`] for an async task: compresses large contents on a blocking thread.
///
/// # Errors
/// As for [`pack`], or if the runtime is shutting down.
pub(crate) async fn pack_async(message: Message, limit: usize) -> Result<PackedMessage, Error> {
    let len = message.body().len();
    if message.compression() == Compression::None || len <= MAX_INLINE || len > limit {
        return pack(message, limit);
    }
    blocking::run(move || pack(message, limit)).await.unwrap_or(Err(Error::Stopped))
}

/// Does the same as [`unpack`] for an async task: decompresses large contents on a blocking thread.
///
/// A short payload may have a large content. So a short payload is first decompressed in this task, up to
/// [`MAX_INLINE`] bytes of content. If there is more, a blocking thread decompresses it from the start.
///
/// # Errors
/// As for [`unpack`], or if the runtime is shutting down.
pub(crate) async fn unpack_async(
    packed: PackedMessage,
    limit: usize,
) -> Result<Message, DecompressError> {
    if packed.compression == Compression::None {
        return unpack(packed, limit);
    }
    if packed.payload.len() <= MAX_INLINE {
        match unpack(packed.clone(), limit.min(MAX_INLINE)) {
            Err(DecompressError::TooLarge { .. }) if limit > MAX_INLINE => {}
            done => return done,
        }
    }
    blocking::run(move || unpack(packed, limit)).await.unwrap_or(Err(DecompressError::Stopping))
}

fn compress(body: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
    // These are the default levels of each format's own tools: 6 for zlib, 9 for bzip2, 3 for zstd.
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

/// Returns an encoder with xz's preset 6 and a CRC-64, as in Python's `lzma.compress`. Only the dictionary is
/// smaller: a dictionary that is longer than the content has no use, and takes memory on both sides.
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
    let mut content = Decompressed::new(payload.len(), limit);
    match compression {
        Compression::Zlib => content.fill_zlib(payload),
        Compression::Bzip2 => content.fill_bzip2(payload),
        Compression::Lzma => content.fill_xz(payload),
        Compression::Zstd => content.fill_zstd(payload),
        Compression::Lz4 => content.fill_lz4(payload),
        other => Err(corrupt(other, "no decoder for it")),
    }?;
    // The message may be kept for a long time, and would keep the unused room too.
    content.bytes.shrink_to_fit();
    Ok(content.bytes.into())
}

/// The content that has been decompressed so far.
struct Decompressed {
    bytes: Vec<u8>,
    limit: usize,
}

impl Decompressed {
    /// Creates a small buffer: four times the size of the payload, a common ratio, and at most the limit.
    fn new(payload: usize, limit: usize) -> Self {
        let room = payload.saturating_mul(4).max(FIRST_ROOM);
        Self { bytes: Vec::with_capacity(room.min(limit.saturating_add(1))), limit }
    }

    /// If the buffer is full, doubles it, to at most one byte over the limit. A content that fills that byte
    /// is over the limit.
    fn make_room(&mut self) -> Result<(), DecompressError> {
        if self.bytes.len() > self.limit {
            return Err(DecompressError::TooLarge { limit: self.limit });
        }
        if self.bytes.len() == self.bytes.capacity() {
            self.grow(self.bytes.len());
        }
        Ok(())
    }

    /// Doubles `room`, to at most one byte over the limit.
    fn grow(&mut self, room: usize) {
        let room = room.saturating_mul(2).clamp(1, self.limit.saturating_add(1));
        self.bytes.reserve_exact(room - self.bytes.len());
    }

    /// Decompresses the whole of `payload` with `step`, which decodes a part of its input into the free room
    /// of its output, and must not grow the output.
    fn fill(
        &mut self,
        compression: Compression,
        payload: &[u8],
        mut step: impl FnMut(&[u8], &mut Vec<u8>) -> Result<Decoded, DecompressError>,
    ) -> Result<(), DecompressError> {
        let mut rest = payload;
        loop {
            self.make_room()?;
            let before = (rest.len(), self.bytes.len());
            let Decoded { consumed, ended } = step(rest, &mut self.bytes)?;
            rest =
                usize::try_from(consumed).ok().and_then(|at| payload.get(at..)).unwrap_or_default();
            if ended {
                break;
            }
            // There was room, so a decoder without progress needs more input than there is.
            if (rest.len(), self.bytes.len()) == before {
                return Err(DecompressError::Truncated(compression));
            }
        }
        if self.bytes.len() > self.limit {
            return Err(DecompressError::TooLarge { limit: self.limit });
        }
        trailing(compression, rest.len())
    }

    fn fill_zlib(&mut self, payload: &[u8]) -> Result<(), DecompressError> {
        let mut decoder = flate2::Decompress::new(true);
        self.fill(Compression::Zlib, payload, |input, output| {
            let status = decoder.decompress_vec(input, output, flate2::FlushDecompress::None);
            let status = status.map_err(|error| corrupt(Compression::Zlib, error))?;
            let ended = status == flate2::Status::StreamEnd;
            Ok(Decoded { consumed: decoder.total_in(), ended })
        })
    }

    fn fill_bzip2(&mut self, payload: &[u8]) -> Result<(), DecompressError> {
        // False turns off the mode that saves memory. That mode takes twice the time, and a block needs less
        // than 4 MiB even without it.
        let mut decoder = bzip2::Decompress::new(false);
        self.fill(Compression::Bzip2, payload, |input, output| {
            let status = decoder.decompress_vec(input, output);
            let status = status.map_err(|error| corrupt(Compression::Bzip2, error))?;
            Ok(Decoded { consumed: decoder.total_in(), ended: status == bzip2::Status::StreamEnd })
        })
    }

    fn fill_xz(&mut self, payload: &[u8]) -> Result<(), DecompressError> {
        // Without the flag for concatenated streams, so that a second one counts as trailing bytes.
        let mut decoder = Stream::new_stream_decoder(XZ_MEMORY, 0).map_err(xz_error)?;
        self.fill(Compression::Lzma, payload, |input, output| {
            let status = decoder.process_vec(input, output, Action::Run).map_err(xz_error)?;
            let ended = status == liblzma::stream::Status::StreamEnd;
            Ok(Decoded { consumed: decoder.total_in(), ended })
        })
    }

    fn fill_zstd(&mut self, payload: &[u8]) -> Result<(), DecompressError> {
        let mut decoder = DCtx::try_create()
            .ok_or_else(|| corrupt(Compression::Zstd, "no memory for the decoder"))?;
        decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)).map_err(zstd_error)?;
        let mut consumed = 0;
        self.fill(Compression::Zstd, payload, |input, output| {
            let written = output.len();
            let mut input = InBuffer::around(input);
            let mut output = OutBuffer::around_pos(output, written);
            let left = decoder.decompress_stream(&mut output, &mut input).map_err(zstd_error)?;
            consumed += input.pos() as u64;
            // Zero only at the end of a frame. A second frame is refused as trailing bytes.
            Ok(Decoded { consumed, ended: left == 0 })
        })
    }

    /// Decompresses with lz4's decoder, which reads the payload by itself.
    fn fill_lz4(&mut self, payload: &[u8]) -> Result<(), DecompressError> {
        let compression = Compression::Lz4;
        if payload.len() < LZ4_HEADER {
            return Err(DecompressError::Truncated(compression));
        }
        if !payload.starts_with(&LZ4_MAGIC) {
            return Err(corrupt(compression, "not an lz4 frame"));
        }
        let mut decoder = lz4_flex::frame::FrameDecoder::new(Lz4Payload::new(payload));
        loop {
            let block = match decoder.fill_buf() {
                Ok(block) => block,
                Err(error) => {
                    let truncated = decoder.get_ref().short;
                    let error = corrupt(compression, error);
                    return Err(if truncated {
                        DecompressError::Truncated(compression)
                    } else {
                        error
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
                self.grow(self.bytes.capacity());
            }
            self.bytes.extend_from_slice(block);
            decoder.consume(len);
        }
        // Bytes behind the frame are refused, even if they are another frame. No node sends two.
        trailing(compression, decoder.get_ref().rest.len())?;
        // The decoder reports the end at the end of the frame, and also if the input ends between two blocks.
        // Only in the first case another call looks for a new frame.
        let _ = decoder.fill_buf();
        if decoder.get_ref().asked_for_frame {
            Ok(())
        } else {
            Err(DecompressError::Truncated(compression))
        }
    }
}

/// The outcome of one step of a decoder.
struct Decoded {
    /// Number of bytes of the payload that are consumed by now.
    consumed: u64,
    /// The compressed stream is at its end.
    ended: bool,
}

fn xz_error(error: liblzma::stream::Error) -> DecompressError {
    match error {
        liblzma::stream::Error::MemLimit => DecompressError::TooMuchMemory(Compression::Lzma),
        other => corrupt(Compression::Lzma, other),
    }
}

/// Returns the error for a return code of zstd, which is the negated number of the error.
fn zstd_error(code: zstd_safe::ErrorCode) -> DecompressError {
    let window = zstd_safe::zstd_sys::ZSTD_ErrorCode::ZSTD_error_frameParameter_windowTooLarge;
    if code.wrapping_neg() == window as usize {
        return DecompressError::TooMuchMemory(Compression::Zstd);
    }
    corrupt(Compression::Zstd, zstd_safe::get_error_name(code))
}

/// A payload that notes whether the lz4 decoder has read past its end, which the decoder does not report.
struct Lz4Payload<'a> {
    rest: &'a [u8],
    /// The decoder has requested more bytes than the payload has.
    short: bool,
    /// The decoder has looked for a new frame at the payload's end.
    asked_for_frame: bool,
}

impl<'a> Lz4Payload<'a> {
    fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, short: false, asked_for_frame: false }
    }
}

impl Read for Lz4Payload<'_> {
    /// Called for a frame's first bytes only. The decoder reads all later parts with `read_exact`.
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
