//! The fuzz targets, each a plain function that takes any bytes and panics on a fault.
//!
//! `fuzz_targets/` hands them to libFuzzer; `tests/smoke.rs` runs them on the committed corpus and
//! on mutations of it, with a stable compiler. A target does not only wait for a panic inside the
//! decoder: what was decoded, encoded again and decoded again has to be the same.

use std::str::FromStr;

use bytes::Bytes;
use peerkit_proto::address::{Address, MAX_ADDRESS};
use peerkit_proto::codec::Reader;
use peerkit_proto::message::{Compression, Message, Packed};

pub mod mutate;
pub mod seeds;

/// A target: takes any bytes.
pub type Target = fn(&[u8]);

/// Every target with its name, which is also its corpus folder's and its program's.
pub const TARGETS: [(&str, Target); 2] = [("address", address), ("message", message)];

/// An address as a person or a peer writes it.
pub fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(address) = Address::from_str(text) else {
        return;
    };
    let printed = address.to_string();
    assert!(printed.len() <= MAX_ADDRESS, "{printed} is too long");
    assert_eq!(Address::from_str(&printed).as_ref(), Ok(&address));
    assert_eq!(address.clone().without_id().id, None);
    if let Some(socket) = address.socket() {
        assert_eq!(socket.port(), address.port);
    }
}

/// A message as it stands in a frame, up to its payload.
pub fn message(data: &[u8]) {
    let Ok(packed) = Packed::decode(&mut Reader::new(Bytes::copy_from_slice(data))) else {
        return;
    };
    assert_eq!(packed.head(), data[0]);
    assert_eq!(packed.payload, data[1..]);
    let (kind, compression) = (packed.kind, packed.compression);
    assert_eq!(Message::head(kind, compression), data[0]);
    if compression != Compression::None {
        return;
    }
    let payload = packed.payload.clone();
    if let Ok(message) = packed.clone().unpack(payload) {
        assert_eq!(message.kind(), kind);
        let _ = message.to_json::<Vec<Option<String>>>();
        if let Some(text) = message.as_text() {
            assert_eq!(text.as_bytes(), &data[1..]);
        }
        assert_eq!(Packed::plain(message), packed);
    }
}
