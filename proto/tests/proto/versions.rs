//! The bytes of the negotiation of versions, as PROTOCOL.md prints them.

use bytes::BytesMut;
use peerkit_proto::config::Config;
use peerkit_proto::event::Reason;
use peerkit_proto::frame::{Frame, Frames};
use peerkit_proto::hello::Hello;
use peerkit_proto::id::hex;
use peerkit_proto::versions::{VersionGap, Versions};

const PROTOCOL: &str = include_str!("../../../PROTOCOL.md");

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Checks that `frame` is encoded as these digits, that it is read back from them, and that
/// PROTOCOL.md prints them.
fn vector(frame: &Frame, digits: &str) {
    let mut out = Vec::new();
    frame.encode(&mut out);
    assert_eq!(hex(&out), squeeze(digits));
    let mut buffer = BytesMut::from(&out[..]);
    let mut frames = Frames::split(&mut buffer, &Config::default()).unwrap();
    assert_eq!(frames.next(), Some(Ok(frame.clone())));
    assert!(squeeze(PROTOCOL).contains(&squeeze(digits)), "PROTOCOL.md does not print {digits}");
}

#[test]
fn the_negotiation_of_versions_has_the_documented_bytes() {
    let hello = Hello {
        version_min: Versions::OURS.min,
        version_max: Versions::OURS.max,
        network: "peerkit".into(),
        name: "ann".into(),
        incarnation: 0x0102_0304_0506_0708,
        features: 0,
        addresses: vec!["192.0.2.7:7117".parse().unwrap()],
        proof: None,
        owner: None,
        time: Some(1_700_000_000_000),
        membership: None,
    };
    vector(&Frame::Hello(hello), HELLO);
    let theirs = Versions { min: 3, max: 9 };
    let gap = VersionGap { refusing: Versions::OURS, refused: theirs };
    let refusal = |gap| Frame::Goodbye { reason: Reason::Version(gap), received: 0 };
    vector(&refusal(Some(gap)), GOODBYE_VERSION);
    vector(&refusal(None), GOODBYE_VERSION_1);
}

const HELLO: &str = "\
    46000000 01 0100 0200 0700 706565726b6974 0300 616e6e 0807060504030201 0000000000000000 \
    0100 0e00 3139322e302e322e373a37313137 00 0100 0200 08000000 0068e5cf8b010000";
const GOODBYE_VERSION: &str = "14000000 02 0700 0700 312d3220332d39 0000000000000000";
const GOODBYE_VERSION_1: &str = "0d000000 02 0700 0000 0000000000000000";
