//! The corpus to start from: something valid of every kind, and what is known to be nasty.

use peerkit_proto::message::{Compression, Kind, Message};

/// One input with its file's name.
pub type Seed = (String, Vec<u8>);

/// The inputs of every target.
#[must_use]
pub fn all() -> Vec<(&'static str, Vec<Seed>)> {
    vec![("address", addresses()), ("message", messages())]
}

fn addresses() -> Vec<Seed> {
    let id = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let texts = [
        "127.0.0.1:7117".to_owned(),
        "example.org:80".to_owned(),
        "[::1]:7117".to_owned(),
        "[fe80::1%eth0]:7117".to_owned(),
        "tcp://node.example:65535".to_owned(),
        format!("{id}@[2001:db8::2]:7117"),
        format!("tcp://{id}@host:1"),
        "a:b:c".to_owned(),
        "iroh://".to_owned(),
        format!("{}:1", "a".repeat(253)),
        "[::ffff:1.2.3.4]:0".to_owned(),
        String::new(),
    ];
    number(texts.map(String::into_bytes))
}

fn messages() -> Vec<Seed> {
    let mut inputs = Vec::new();
    for kind in [Kind::Text, Kind::Json, Kind::Bytes] {
        for compression in Compression::ALL {
            let mut input = vec![Message::head(kind, compression)];
            input.extend_from_slice(match kind {
                Kind::Json => b"[\"a\",null,{\"b\":1e9}]",
                Kind::Text => "h\u{e9}llo \u{1f980}".as_bytes(),
                _ => b"\x04\xff\x00\x04",
            });
            inputs.push(input);
        }
    }
    inputs.push(vec![0, 0xff]);
    inputs.push(vec![0xff]);
    inputs.push(Vec::new());
    number(inputs)
}

fn number(inputs: impl IntoIterator<Item = Vec<u8>>) -> Vec<Seed> {
    (0..)
        .zip(inputs)
        .map(|(n, input)| (format!("{n:02}"), input))
        .collect()
}
