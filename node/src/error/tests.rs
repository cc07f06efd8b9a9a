//! Tests of the texts of errors: a chain of errors repeats no text, and names no option of the program.

use std::error::Error as StdError;

use peerkit_proto::codec::DecodeError;
use peerkit_proto::files::{FileName, ManifestError, PieceError, RelPath, Ticket, WireError};
use redb::StorageError;

use super::*;
use crate::transfer::InTheWay;

fn io(text: &str) -> io::Error {
    // An error with a source, as other crates make it. The system's own errors have none.
    io::Error::other(io::Error::other(text.to_owned()))
}

fn database() -> Box<redb::Error> {
    Box::new(StorageError::Io(io("the disk is gone")).into())
}

fn path() -> PathBuf {
    "some/file".into()
}

fn address() -> Address {
    "host.example:7117".parse().unwrap()
}

/// Returns an error of each kind that is easy to construct.
fn errors() -> Vec<Error> {
    let hash = Hash::of(b"content");
    let (id, other) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
    let peer = Peer::from(id);
    let timeout = Duration::from_secs(1);
    let decode = || DecodeError::Invalid("text");
    let name_error = || FileName::new("a/b").unwrap_err();
    let rel = || RelPath::new("in/a").unwrap();
    let mut errors = vec![
        Error::Stopped,
        Error::Address("".parse::<Address>().unwrap_err()),
        Error::Resolve { address: address(), error: io("no such host") },
        Error::Connect { address: address(), error: io("refused") },
        Error::NoneAnswered(vec![Error::Stopped, Error::NoAddress]),
        Error::Handshake { address: address(), error: io("no TLS") },
        Error::NotAKey(id),
        Error::WrongNode { address: address(), found: id },
        Error::Refused { address: address(), reason: Reason::OtherNetwork },
        Error::LinksByHand(peer.clone()),
        Error::NoPlace(peer),
        Error::NotOwner(id),
        Error::NoOwner,
        Error::NotConnected(id),
        Error::TooManyActions(1),
        Error::ThisNode,
        Error::NotFound(id),
        Error::NoAddress,
        Error::TooLargeToPass { peer: id, len: 2, limit: 1 },
        Error::UnknownPeer("bob".into()),
        Error::UnknownNode("bob".into()),
        Error::AmbiguousPeer("b".into()),
        Error::TooLarge { len: 2, limit: 1 },
        Error::Full(id),
        Error::CompressionNotAccepted { peer: id, compression: Compression::Lzma },
        Error::LinkLost { peer: id, reason: Reason::Slow },
        Error::Timeout(timeout),
        Error::Request(Refusal::Failed("no".into())),
        Error::StreamRefused { peer: id, why: "no".into() },
        Error::StreamBroken { peer: id, error: io("broken") },
        Error::Unreachable { peer: id, why: "no".into() },
        Error::NoSource(hash),
        Error::NoDownload(hash),
        Error::AlreadyReported(hash),
        Error::SearchTooLong { len: 2, limit: 1 },
        Error::PortInUse(([127, 0, 0, 1], 1).into()),
        Error::Listen { address: "x:1".into(), error: io("no such address") },
        Error::NoBootstrap,
        Error::AllDisconnected,
        Error::OnlyThisNode,
        Error::NotBanned(id),
        Error::TooManyBans(4096),
        Error::NoneReached { tried: 2, first: Box::new(Error::NoAddress) },
        Error::PeersFile { path: path(), error: io("not JSON") },
        Error::Json(serde_json::from_str::<u8>("x").unwrap_err()),
        Error::Id("x".parse::<Hash>().unwrap_err()),
        Error::Ticket("x".parse::<Ticket>().unwrap_err()),
        Error::Ticket(TicketError::Decode(decode())),
        Error::NameTooLong { kind: NameKind::Node, name: "n".into(), limit: 1 },
        Error::TooManyAddresses { count: 2, limit: 1 },
        Error::OwnerMismatch { key: id, given: other },
        Error::OwnerNotAKey(id),
        Error::Tls(rustls::Error::HandshakeNotComplete.into()),
        Error::Compress(Compression::Zlib, io("no memory")),
        Error::NoCurrentFolder(io("it was removed")),
        Error::UnknownAction,
        BootstrapError::Read { path: path(), source: io("no access") }.into(),
        BootstrapError::Line { path: path(), line: 1, source: "".parse::<Address>().unwrap_err() }
            .into(),
        BootstrapError::TooMany(65).into(),
        BootstrapError::TooLarge(path()).into(),
        KeyError::Readable(path()).into(),
        KeyError::Malformed(path()).into(),
        KeyError::Exists(path()).into(),
        KeyError::Io { path: path(), error: io("no access") }.into(),
        StoreError::InUse(path()).into(),
        StoreError::Open { folder: path(), error: database() }.into(),
        StoreError::Damaged { file: path(), source: Some(database()) }.into(),
        StoreError::NotMigrated { file: path(), source: database() }.into(),
        StoreError::Database(database()).into(),
        ShareError::Io { path: path(), error: io("no access") }.into(),
        ShareError::Special(path()).into(),
        ShareError::Nameless(path()).into(),
        ShareError::Name(name_error()).into(),
        ShareError::Changing(path()).into(),
        ShareError::Folder { path: path(), error: ManifestError::NoFolder(rel()) }.into(),
        ShareError::Store(StoreError::Database(database())).into(),
        ShareError::Stopped.into(),
    ];
    let in_folder = |error: FetchError| FetchError::InFolder { path: rel(), error: error.into() };
    let fetching = [
        FetchError::Refused(peerkit_proto::files::FileRefusal::NotFound),
        FetchError::Changed { name: "a".into() },
        FetchError::Lie(PieceError::BadList),
        FetchError::Manifest(ManifestError::Decode(decode())),
        FetchError::Manifest(ManifestError::Name(name_error())),
        FetchError::Protocol(WireError::Decode(decode())),
        FetchError::Protocol(WireError::Name(name_error())),
        FetchError::Unexpected("a piece"),
        FetchError::TooLarge { size: 2, limit: 1 },
        FetchError::Stalled,
        FetchError::Stream(io("broken")),
        FetchError::Direct,
        in_folder(FetchError::Stream(io("broken"))),
        FetchError::Disk { path: path(), error: io("full") },
        FetchError::NotAFile { path: path(), kind: InTheWay::Folder },
        FetchError::NoSpace { path: path(), needed: 2, free: 1 },
        FetchError::NoMore,
        FetchError::Unfinished,
        FetchError::Cancelled,
        FetchError::Stopped,
    ];
    errors.extend(fetching.map(Error::from));
    errors
}

/// Returns the text of an error, followed by those of its sources. Panics if a text is repeated.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        assert!(!text.contains(&more), "`{more}` is repeated: {text}");
        (text, source) = (format!("{text}: {more}"), error.source());
    }
    text
}

#[test]
fn a_chain_of_errors_repeats_no_text_and_names_no_option() {
    for error in errors() {
        let text = chain(&error);
        assert!(!text.is_empty() && !text.contains("--"), "{text}");
    }
}

#[test]
fn the_text_of_every_cause_is_part_of_the_chain() {
    for error in errors() {
        let (text, debug) = (chain(&error), format!("{error:?}"));
        for cause in ["refused", "no TLS", "no such host", "broken", "the disk is gone", "full"] {
            let is_cause = debug.contains(&format!("{cause:?}"));
            assert!(!is_cause || text.contains(cause), "{debug} leaves out `{cause}`: {text}");
        }
    }
}
