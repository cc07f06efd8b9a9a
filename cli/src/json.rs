//! The JSON lines of `--json`: a contract. Fields may be added, never renamed or removed.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use peerkit::{Event, Hash, Kind, Message, Node, NodeId, SharedFile, UploadTotals};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::outcome::{ChangesView, NodeView, Outcome, PeerView, SkippedView};
use crate::start::Running;
use crate::text;

/// The first line of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Started<'a> {
    event: &'static str,
    time: u64,
    node: NodeId,
    name: String,
    listen: Vec<String>,
    network: String,
    state: String,
    /// Where others can dial this node, as far as it knows.
    addresses: Vec<String>,
    /// What the command line has it share.
    files: &'a [SharedFile],
    /// Entries of it that are not shared.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    skipped: &'a [SkippedView],
    /// Fetches of earlier runs that go on.
    resuming: usize,
    /// Notes on what the node decided by itself, a sentence each.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [String],
    peer: Option<PeerView>,
    data: Option<Data>,
}

impl<'a> Started<'a> {
    pub(crate) fn new(
        running: &'a Running,
        files: &'a [SharedFile],
        skipped: &'a [SkippedView],
    ) -> Self {
        let Running { node, state, notes } = running;
        let addresses = node.addresses().into_iter();
        let downloads = node.files().downloads();
        let resuming = downloads.iter().filter(|download| download.state.is_under_way()).count();
        Self {
            event: "node_started",
            time: unix_millis(),
            node: node.id(),
            name: node.name().to_owned(),
            listen: node.listening().iter().map(ToString::to_string).collect(),
            network: node.network().name().to_owned(),
            state: state.display().to_string(),
            addresses: addresses.map(|a| a.without_id().to_string()).collect(),
            files,
            skipped,
            resuming,
            notes,
            peer: None,
            data: None,
        }
    }
}

/// Any other event.
#[derive(Debug, Serialize)]
pub(crate) struct EventLine<'a> {
    event: &'a str,
    /// When it is printed, in milliseconds since 1970.
    time: u64,
    node: NodeId,
    peer: Option<PeerView>,
    data: Option<Data>,
}

impl<'a> EventLine<'a> {
    pub(crate) fn new(node: &Node, event: &'a Event) -> Self {
        Self {
            event: event.name(),
            time: unix_millis(),
            node: node.id(),
            peer: event.peer().map(|peer| PeerView::new(node, peer)),
            data: Data::of(node, event),
        }
    }
}

/// The last line of a node: what it has sent.
#[derive(Debug, Serialize)]
pub(crate) struct Stopped {
    event: &'static str,
    time: u64,
    node: NodeId,
    peer: Option<PeerView>,
    data: Uploads,
}

#[derive(Debug, Serialize)]
struct Uploads {
    uploads: UploadTotals,
}

impl Stopped {
    pub(crate) fn new(node: &Node) -> Self {
        let data = Uploads { uploads: node.files().upload_totals() };
        Self { event: "node_stopped", time: unix_millis(), node: node.id(), peer: None, data }
    }
}

/// What an event carries beside the peer.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Data {
    Message(Content),
    Parting {
        reason: String,
        by_peer: bool,
    },
    Failed {
        unsent: u64,
        unconfirmed: u64,
        reason: String,
    },
    Broadcast {
        id: String,
        author: NodeId,
        title: String,
        message: Content,
        time: u64,
    },
    Node(NodeView),
    Reconnection {
        address: String,
        tries: u32,
        error: String,
    },
    Connection {
        address: String,
        error: String,
    },
    Missed {
        author: NodeId,
        count: u64,
    },
    Ordered {
        owner: NodeId,
    },
    Refused {
        error: String,
    },
    Fetched {
        hash: Hash,
        name: Option<String>,
        #[serde(serialize_with = "crate::json::path")]
        path: PathBuf,
        bytes: u64,
        #[serde(flatten)]
        changes: ChangesView,
    },
    NotFetched {
        hash: Hash,
        error: String,
    },
    Dropped {
        hash: Hash,
        id: NodeId,
        why: String,
    },
    Uploaded {
        hash: Hash,
        name: String,
        bytes: u64,
        size: u64,
    },
    ShareChanged {
        hash: Hash,
        name: String,
    },
    Lagged {
        missed: u64,
    },
    Panicked {
        event: &'static str,
        panic: String,
    },
    ClockSkew {
        seconds: i64,
    },
}

impl Data {
    fn of(this: &Node, event: &Event) -> Option<Self> {
        Some(match event {
            Event::OutboundNodeDisconnected { parting, .. }
            | Event::InboundNodeDisconnected { parting, .. } => {
                Self::Parting { reason: parting.reason.to_string(), by_peer: parting.by_peer }
            }
            Event::NodeMessage { message, .. } => Self::Message(Content::of(message)),
            Event::NodeMessageFailed { failure, .. } => Self::Failed {
                unsent: failure.unsent,
                unconfirmed: failure.unconfirmed,
                reason: failure.reason.to_string(),
            },
            Event::NodeBroadcast { broadcast } => Self::Broadcast {
                id: broadcast.id.to_string(),
                author: broadcast.author,
                title: broadcast.title.clone(),
                message: Content::of(&broadcast.message),
                time: broadcast.time,
            },
            Event::NodeDiscovered { node } => Self::Node(NodeView::one(this, node)),
            Event::NodeReconnectionError { address, tries, error } => Self::Reconnection {
                address: address.to_string(),
                tries: *tries,
                error: error.clone(),
            },
            Event::OutboundNodeConnectionError { address, error }
            | Event::InboundNodeConnectionError { address, error } => {
                Self::Connection { address: address.to_string(), error: error.clone() }
            }
            Event::NodeBroadcastsMissed { author, count } => {
                Self::Missed { author: *author, count: *count }
            }
            Event::NodeShutdownOrdered { owner } => Self::Ordered { owner: *owner },
            Event::NodeShutdownRefused { why, .. } => Self::Refused { error: why.clone() },
            Event::NodeDownloadFinished { hash, path, bytes, changes } => Self::Fetched {
                hash: *hash,
                name: path.file_name().map(|name| name.to_string_lossy().into_owned()),
                path: path.clone(),
                bytes: *bytes,
                changes: ChangesView::from(changes),
            },
            Event::NodeDownloadFailed { hash, error } => {
                Self::NotFetched { hash: *hash, error: error.clone() }
            }
            Event::NodeSourceDropped { hash, source, why } => {
                Self::Dropped { hash: *hash, id: *source, why: why.clone() }
            }
            Event::NodeUploadCompleted { upload, .. } => Self::Uploaded {
                hash: upload.hash,
                name: upload.name.clone(),
                bytes: upload.bytes,
                size: upload.size,
            },
            Event::NodeShareChanged { hash, name } => {
                Self::ShareChanged { hash: *hash, name: name.clone() }
            }
            Event::NodeLagged { missed } => Self::Lagged { missed: *missed },
            Event::NodeHandlerPanicked { event, panic } => {
                Self::Panicked { event, panic: panic.clone() }
            }
            Event::NodeClockSkew { seconds, .. } => Self::ClockSkew { seconds: *seconds },
            _ => return None,
        })
    }
}

/// What a message says: the text, the JSON value, or the bytes in base64.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Json(Box<RawValue>),
    Bytes { bytes: String },
}

impl Content {
    fn of(message: &Message) -> Self {
        match (message.kind(), message.as_text()) {
            (Kind::Text, Some(text)) => Self::Text(text.to_owned()),
            (Kind::Json, Some(text)) => {
                one_line(text).map_or_else(|| Self::raw(message), Self::Json)
            }
            _ => Self::raw(message),
        }
    }

    fn raw(message: &Message) -> Self {
        Self::Bytes { bytes: STANDARD.encode(message.body()) }
    }
}

/// The JSON value as it was sent, digit for digit, on one line: in valid JSON a line end can only
/// be white space between tokens. `None` where it is not JSON.
fn one_line(text: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(text.trim().replace(['\n', '\r'], " ")).ok()
}

/// The result of a command.
#[derive(Debug, Serialize)]
pub(crate) struct ResultLine<'a> {
    result: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    fields: Option<&'a Outcome>,
}

impl<'a> ResultLine<'a> {
    pub(crate) fn new(command: &'a str, result: &'a Result<Outcome, anyhow::Error>) -> Self {
        Self {
            result: command,
            ok: result.is_ok(),
            error: result.as_ref().err().map(text::error),
            fields: result.as_ref().ok(),
        }
    }
}

/// Now, in milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Writes a path as JSON text. Of one that is not UTF-8, which JSON can't hold, what is not becomes
/// U+FFFD: serde would refuse it.
pub(crate) fn path<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

/// One line of JSON, with its end.
pub(crate) fn line(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("our own types have a JSON form");
    let mut line = text::json_line(&json);
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerkit::{Changes, LeftOut, NameFault, Renamed};

    #[test]
    fn results_have_the_form_of_the_design() {
        let ok = Ok(Outcome::Size { size: 3, exact: true, error: None });
        assert_eq!(
            line(&ResultLine::new("size", &ok)),
            "{\"result\":\"size\",\"ok\":true,\"size\":3,\"exact\":true}\n"
        );
        let ok = Ok(Outcome::Stopping { what: crate::outcome::Stops::Node });
        assert_eq!(line(&ResultLine::new("exit", &ok)), "{\"result\":\"exit\",\"ok\":true}\n");
        let error = Err(anyhow::anyhow!("inner").context("outer"));
        assert_eq!(
            line(&ResultLine::new("get", &error)),
            "{\"result\":\"get\",\"ok\":false,\"error\":\"outer: inner\"}\n"
        );
    }

    #[tokio::test]
    async fn events_of_downloads_say_what_and_why() {
        let node = Node::builder().spawn().await.unwrap();
        let data = |event| serde_json::to_value(Data::of(&node, &event).unwrap()).unwrap();
        let hash = Hash::of(b"content");
        let (why, path) = (NameFault::Taken, "/d/a film (1)".into());
        let renamed = Renamed { name: "a film".parse().unwrap(), path, why };
        let left = LeftOut { path: "in/a song".parse().unwrap(), why: NameFault::TooLongHere };
        let changes = Changes::new(&[renamed], &vec![left; Changes::MAX + 2]);
        let path = "/d/a film (1)".into();
        let data_of = data(Event::NodeDownloadFinished { hash, path, bytes: 7, changes });
        let left = serde_json::json!({"path": "in/a song", "why": "it is too long for this disk"});
        let left = vec![left; Changes::MAX];
        let expected = serde_json::json!({
            "hash": hash, "name": "a film (1)", "path": "/d/a film (1)", "bytes": 7,
            "renamed": [
                {"name": "a film", "path": "/d/a film (1)", "why": "another file has that name"}
            ],
            "left_out": left, "more_left_out": 2
        });
        assert_eq!(data_of, expected);
        let event = Event::NodeDownloadFailed { hash, error: "no room".into() };
        assert_eq!(data(event), serde_json::json!({"hash": hash, "error": "no room"}));
        let id = NodeId::from_bytes([1; 32]);
        let event = Event::NodeSourceDropped { hash, source: id, why: "it lied".into() };
        assert_eq!(data(event), serde_json::json!({"hash": hash, "id": id, "why": "it lied"}));
        let upload = peerkit::Upload { hash, name: "a film".into(), bytes: 5, size: 7 };
        let event = Event::NodeUploadCompleted {
            peer: peerkit::Peer::without_link(id, "bob".into()),
            upload,
        };
        assert_eq!(
            data(event),
            serde_json::json!({"hash": hash, "name": "a film", "bytes": 5, "size": 7})
        );
        let event = Event::NodeShareChanged { hash, name: "a film".into() };
        assert_eq!(data(event), serde_json::json!({"hash": hash, "name": "a film"}));
    }

    #[tokio::test]
    async fn clocks_that_are_apart_are_told_in_seconds() {
        let node = Node::builder().spawn().await.unwrap();
        let peer = peerkit::Peer::without_link(NodeId::from_bytes([1; 32]), "bob".into());
        for seconds in [300, -900] {
            let event = Event::NodeClockSkew { peer: peer.clone(), seconds };
            let line: serde_json::Value =
                serde_json::from_str(&line(&EventLine::new(&node, &event))).unwrap();
            assert_eq!(line["event"], "node_clock_skew");
            assert_eq!(line["peer"]["id"], peer.id().to_string());
            assert_eq!(line["data"], serde_json::json!({"seconds": seconds}));
            assert!(line["time"].is_u64(), "{line}");
        }
        node.shutdown().await;
    }

    fn content(message: &Message) -> String {
        serde_json::to_string(&Content::of(message)).unwrap()
    }

    #[test]
    fn content_is_text_value_or_bytes() {
        assert_eq!(content(&Message::text("a\nb")), "\"a\\nb\"");
        assert_eq!(content(&Message::bytes(vec![4, 255])), "{\"bytes\":\"BP8=\"}");
        let json = Message::json(&serde_json::json!({"b": 1, "a": [true]})).unwrap();
        assert_eq!(content(&json), content(&json).replace(' ', ""));
        assert!(content(&json).contains("\"a\":[true]"));
    }
}
