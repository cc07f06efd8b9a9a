//! Tests of compression: limits, damaged payloads, and payloads of other encoders.

use peerkit_proto::message::MessageKind;
use proptest::prelude::*;

use super::*;

/// All compressions but none.
const ALGORITHMS: [Compression; 5] =
    [Compression::Zlib, Compression::Bzip2, Compression::Lzma, Compression::Zstd, Compression::Lz4];

const MIB: usize = 1 << 20;

// Made with Python 3: zlib.compress, bz2.compress and lzma.compress of b"peerkit " * 16.
const PYTHON_ZLIB: &str = "789c2b484d2dcace2c512818201a0078d43141";
const PYTHON_BZ2: &str = "425a6839314159265359a33343d200002f91804000022854002000310c005543\
    3294206040a1030287c5dc914e142428ccd0f480";
const PYTHON_LZMA: &str = "fd377a585a000004e6d6b4460200210116000000742fe5a3e0007f000e5d00381\
    96ce46dc1b41dcade6fab0000000000db8725fa194969c200012a80010000007a25386cb1c467fb020000000004595a";

#[test]
fn a_content_of_the_limit_passes_and_one_byte_more_is_refused() {
    for compression in ALGORITHMS {
        for len in [1, 100, 4095, 4096, 4097, 65_536, 300_000, MIB] {
            let packed = packed(compression, &vec![7; len]);
            let message = unpack(packed.clone(), len).unwrap();
            assert_eq!(message.body(), &vec![7; len]);
            assert_eq!(message.compression(), compression);
            for limit in [0, len / 2, len - 1] {
                assert!(
                    matches!(
                        unpack(packed.clone(), limit),
                        Err(DecompressError::TooLarge { limit: reported }) if reported == limit
                    ),
                    "{compression:?} of {len} with a limit of {limit}"
                );
            }
        }
    }
    let plain = Message::bytes(vec![7; 100]);
    assert!(unpack(pack(plain.clone(), 100).unwrap(), 100).is_ok());
    assert!(matches!(
        unpack(PackedMessage::uncompressed(plain.clone()), 99),
        Err(DecompressError::TooLarge { limit: 99 })
    ));
    assert!(matches!(
        pack(plain.compressed(Compression::Zstd), 99),
        Err(Error::TooLarge { len: 100, limit: 99 })
    ));
}

#[test]
fn an_empty_content_round_trips() {
    for compression in ALGORITHMS {
        assert!(unpack(packed(compression, b""), 0).unwrap().body().is_empty());
    }
}

#[test]
fn two_hundred_mebibytes_of_zeros_are_refused() {
    for compression in ALGORITHMS {
        let bomb = bomb(compression, 200 * MIB);
        assert!(bomb.payload.len() < MIB, "{compression:?}");
        assert!(matches!(unpack(bomb, 16 * MIB), Err(DecompressError::TooLarge { .. })));
    }
}

#[test]
fn the_buffer_never_grows_past_the_limit() {
    for limit in [0, 1, 4095, 5000, 3 * MIB] {
        let mut content = Decompressed::new(10, limit);
        while content.make_room().is_ok() {
            assert!(content.bytes.capacity() <= limit + 1);
            assert!(content.bytes.len() < content.bytes.capacity());
            content.bytes.resize(content.bytes.capacity(), 0);
        }
        assert_eq!(content.bytes.len(), limit + 1);
    }
    assert!(Decompressed::new(usize::MAX, 9).bytes.capacity() <= 10);
}

#[test]
fn a_payload_cut_short_is_refused_wherever_it_is_cut() {
    let content: Vec<u8> = (0..400_u32).flat_map(|n| n.pow(2).to_le_bytes()).collect();
    for compression in ALGORITHMS {
        let whole = packed(compression, &content);
        for len in 0..whole.payload.len() {
            let mut cut = whole.clone();
            cut.payload.truncate(len);
            assert!(
                matches!(unpack(cut, MIB), Err(DecompressError::Truncated(c)) if c == compression),
                "{compression:?} cut at {len} of {}",
                whole.payload.len()
            );
        }
    }
}

#[test]
fn an_lz4_block_that_ends_in_zeros_is_not_taken_for_the_frames_end() {
    let mut payload = compress(&[0; 100], Compression::Lz4).unwrap();
    payload.truncate(LZ4_HEADER);
    payload.extend_from_slice(&(0x8000_0004_u32.to_le_bytes()));
    payload.extend_from_slice(&[0; 4]);
    assert!(matches!(
        unpack(of(Compression::Lz4, payload.clone()), MIB),
        Err(DecompressError::Truncated(_))
    ));
    let mut empty_block = payload.clone();
    empty_block.extend_from_slice(&0x8000_0000_u32.to_le_bytes());
    assert!(matches!(
        unpack(of(Compression::Lz4, empty_block), MIB),
        Err(DecompressError::Truncated(_))
    ));
    payload.extend_from_slice(&[0; 4]);
    let message = unpack(of(Compression::Lz4, payload), MIB).unwrap();
    assert_eq!(message.body(), &vec![0; 4]);
}

#[test]
fn bytes_behind_the_stream_are_refused() {
    for compression in ALGORITHMS {
        let whole = packed(compression, b"peerkit peerkit peerkit peerkit peerkit");
        for extra in [&[0][..], &[0; 4], b"xyz", &whole.payload] {
            let mut longer = whole.clone();
            longer.payload = [&whole.payload, extra].concat().into();
            match unpack(longer, MIB) {
                Err(DecompressError::Trailing { len, .. }) => assert_eq!(len, extra.len()),
                other => panic!("{compression:?} with {extra:?} after it: {other:?}"),
            }
        }
    }
}

#[test]
fn a_header_that_asks_for_a_large_dictionary_is_refused() {
    // Made by hand, because an encoder with such a dictionary takes gigabytes: the header of the stream, the
    // header of a block with one filter, LZMA2, and the start of an uncompressed chunk.
    let mut payload = hex("fd377a585a0000 04e6d6b446 02002101");
    let properties = 40; // 4 GiB - 1, in the format's notation
    payload.extend_from_slice(&[properties, 0, 0, 0]);
    let crc = crc32(&payload[12..]);
    payload.extend_from_slice(&crc.to_le_bytes());
    payload.extend_from_slice(&[1, 0, 0, b'x', 0]);
    assert!(matches!(
        unpack(of(Compression::Lzma, payload), MIB),
        Err(DecompressError::TooMuchMemory(Compression::Lzma))
    ));

    // Magic number, no content size, a window of 2 GiB, then one raw block of one byte.
    let payload = hex("28b52ffd 00 a8 090000 78");
    assert!(matches!(
        unpack(of(Compression::Zstd, payload), MIB),
        Err(DecompressError::TooMuchMemory(Compression::Zstd))
    ));
    // The same frame with the maximum window that is allowed.
    let payload = hex("28b52ffd 00 68 090000 78");
    let message = unpack(of(Compression::Zstd, payload), MIB).unwrap();
    assert_eq!(&message.body()[..], b"x");
}

#[test]
fn payloads_of_pythons_compressors_are_decompressed() {
    let content = b"peerkit ".repeat(16);
    for (compression, payload) in [
        (Compression::Zlib, PYTHON_ZLIB),
        (Compression::Bzip2, PYTHON_BZ2),
        (Compression::Lzma, PYTHON_LZMA),
    ] {
        let message = unpack(of(compression, hex(payload)), 128).unwrap();
        assert_eq!(message.body(), &content);
    }
}

#[test]
fn incompressible_messages_stay_uncompressed() {
    let noise: Vec<u8> =
        (0..1000_u32).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
    for compression in ALGORITHMS {
        let message = Message::bytes(noise.clone()).compressed(compression);
        let packed = pack(message, noise.len()).unwrap();
        assert_eq!(packed.compression, Compression::None);
        assert_eq!(packed.payload, noise);
    }
}

#[test]
fn a_text_that_is_not_utf8_is_refused_after_it_is_decompressed() {
    for compression in ALGORITHMS {
        let mut packed = packed(compression, &[0xff; 100]);
        packed.kind = MessageKind::Text;
        assert!(matches!(unpack(packed, MIB), Err(DecompressError::Content(_))));
    }
}

#[tokio::test]
async fn the_async_functions_have_the_results_of_the_blocking_ones() {
    for compression in ALGORITHMS {
        for len in [0, 1, 100, MAX_INLINE, MAX_INLINE + 1, MIB] {
            let message = Message::bytes(vec![9; len]).compressed(compression);
            let packed = pack_async(message.clone(), MIB).await.unwrap();
            assert_eq!(packed, pack(message.clone(), MIB).unwrap());
            let got = unpack_async(packed.clone(), MIB).await.unwrap();
            assert_eq!(got.body(), message.body());
            if len > 0 {
                assert!(matches!(
                    unpack_async(packed, len - 1).await,
                    Err(DecompressError::TooLarge { limit }) if limit == len - 1
                ));
                assert!(matches!(pack_async(message, len - 1).await, Err(Error::TooLarge { .. })));
            }
        }
    }
}

proptest! {
    #[test]
    fn every_message_round_trips(
        text in any::<String>(),
        bytes in runs(),
        compression in prop::sample::select(&Compression::ALL[..]),
    ) {
        let limit = MIB;
        for message in [
            Message::text(text.clone()),
            Message::json(&text).unwrap(),
            Message::bytes(bytes),
        ] {
            let message = message.compressed(compression);
            let packed = pack(message.clone(), limit).unwrap();
            prop_assert!(packed.payload.len() <= message.body().len());
            let got = unpack(packed, limit).unwrap();
            prop_assert_eq!(got.kind(), message.kind());
            prop_assert_eq!(got.body(), message.body());
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_a_message_within_the_limit(
        payload in prop::collection::vec(any::<u8>(), 0..2000),
        compression in prop::sample::select(&Compression::ALL[..]),
        limit in 0..4096_usize,
    ) {
        if let Ok(message) = unpack(of(compression, payload), limit) {
            prop_assert!(message.body().len() <= limit);
        }
    }

    #[test]
    fn a_damaged_payload_is_an_error_or_a_message_within_the_limit(
        bytes in runs(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        compression in prop::sample::select(&ALGORITHMS[..]),
    ) {
        let limit = bytes.len();
        let mut payload = compress(&bytes, compression).unwrap();
        for (place, value) in damage {
            *place.get_mut(&mut payload) = value;
        }
        if let Ok(message) = unpack(of(compression, payload), limit) {
            prop_assert!(message.body().len() <= limit);
        }
    }
}

/// Generates runs of equal bytes, which compress to some degree or not at all.
fn runs() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec((any::<u8>(), 1..3000_usize), 0..40).prop_map(|runs| {
        runs.into_iter().flat_map(|(byte, len)| std::iter::repeat_n(byte, len)).collect()
    })
}

fn of(compression: Compression, payload: Vec<u8>) -> PackedMessage {
    PackedMessage { kind: MessageKind::Bytes, compression, payload: payload.into() }
}

/// Compresses `content`, even if that makes it longer.
fn packed(compression: Compression, content: &[u8]) -> PackedMessage {
    of(compression, compress(content, compression).unwrap())
}

/// Compresses `len` zeros, which are never in memory as a whole.
fn bomb(compression: Compression, len: usize) -> PackedMessage {
    fn pour(mut encoder: impl Write, len: usize) {
        let zeros = vec![0; MIB];
        for _ in 0..len / MIB {
            encoder.write_all(&zeros).unwrap();
        }
        encoder.flush().unwrap();
    }
    let mut payload = Vec::new();
    match compression {
        Compression::Zlib => {
            pour(flate2::write::ZlibEncoder::new(&mut payload, flate2::Compression::new(6)), len);
        }
        Compression::Bzip2 => {
            pour(bzip2::write::BzEncoder::new(&mut payload, bzip2::Compression::best()), len);
        }
        Compression::Lzma => pour(liblzma::write::XzEncoder::new(&mut payload, 1), len),
        Compression::Zstd => {
            pour(zstd::stream::write::Encoder::new(&mut payload, 3).unwrap().auto_finish(), len);
        }
        Compression::Lz4 => {
            pour(lz4_flex::frame::FrameEncoder::new(&mut payload).auto_finish(), len);
        }
        other => panic!("no bomb of {other:?}"),
    }
    of(compression, payload)
}

fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u32> = digits.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// The CRC-32 of the xz format (IEEE 802.3), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}
