//! The JSON lines of `--json`. Programs depend on them: fields may be added, but never renamed or
//! removed.

use std::path::Path;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use peerkit::{Changes, Event, Message, MessageKind, Node, SharedFile, Skipped};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::commands::CommandOutput;
use crate::start::RunningNode;
use crate::text;
use crate::views::{NodeView, PeerView, without_ids};

/// The fields of a JSON object, in their order.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(&'static str, Box<RawValue>)>);

impl Fields {
    /// Adds a field.
    pub(crate) fn with(mut self, name: &'static str, value: impl Serialize) -> Self {
        self.0.push((name, raw(&value)));
        self
    }

    /// Adds a field unless its value is `null`, `false`, 0 or an empty list.
    pub(crate) fn with_some(self, name: &'static str, value: impl Serialize) -> Self {
        let value = raw(&value);
        match value.get() {
            "null" | "false" | "0" | "[]" => self,
            _ => self.with(name, value),
        }
    }

    /// Adds a path. Bytes that are not UTF-8 become U+FFFD, as JSON can't represent them.
    pub(crate) fn with_path(self, path: &Path) -> Self {
        self.with("path", path.to_string_lossy())
    }

    /// Adds the entries of a folder that are not shared. Adds nothing if there are none.
    pub(crate) fn with_skipped(self, skipped: &[Skipped]) -> Self {
        let entry = |skipped: &Skipped| {
            Self::default().with_path(&skipped.path).with("why", skipped.why.to_string())
        };
        self.with_some("skipped", skipped.iter().map(entry).collect::<Vec<_>>())
    }

    /// Adds the entries that a fetch wrote under other names, and those that it could not write.
    pub(crate) fn with_changes(self, changes: &Changes) -> Self {
        let renamed = changes.renamed.iter().map(|renamed| {
            let fields = Self::default().with("name", &renamed.name).with_path(&renamed.path);
            fields.with("why", renamed.why.to_string())
        });
        let left_out = changes
            .left_out
            .iter()
            .map(|left| Self::default().with("path", &left.path).with("why", left.why.to_string()));
        self.with_some("renamed", renamed.collect::<Vec<_>>())
            .with_some("more_renamed", changes.more_renamed)
            .with_some("left_out", left_out.collect::<Vec<_>>())
            .with_some("more_left_out", changes.more_left_out)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Returns the fields that every event begins with.
pub(crate) fn event_fields(name: &str, node: &Node) -> Fields {
    event_fields_at(name, node, unix_millis())
}

fn event_fields_at(name: &str, node: &Node, time: u64) -> Fields {
    Fields::default().with("event", name).with("time", time).with("node", node.id())
}

/// Returns the first line of `peerkit run`, with the shares of its command line.
pub(crate) fn started(
    running: &RunningNode,
    files: &[SharedFile],
    skipped: &[Skipped],
    api: Option<String>,
) -> String {
    let RunningNode { node, state, notes } = running;
    let listening = node.listening().iter().map(ToString::to_string).collect::<Vec<_>>();
    let fields = event_fields("node_started", node)
        .with("name", node.name())
        .with("listen", listening)
        .with("network", node.network().name())
        .with("state", state.display().to_string())
        .with("addresses", without_ids(node.addresses()))
        .with("files", files)
        .with_skipped(skipped)
        .with("resuming", running.resuming())
        .with_some("notes", notes)
        .with_some("api", api);
    line(&fields.with("peer", ()).with("data", ()))
}

/// Returns the line of an event of the library.
pub(crate) fn event(node: &Node, event: &Event) -> String {
    event_at(node, event, unix_millis())
}

/// Returns the line of an event that came at `time`, in milliseconds since 1970.
pub(crate) fn event_at(node: &Node, event: &Event, time: u64) -> String {
    let fields = event_fields_at(event.name(), node, time);
    let fields = fields.with("peer", event.peer().map(|peer| PeerView::new(node, peer)));
    line(&fields.with("data", data(node, event)))
}

/// Returns the last line of `run` or `share`, with the totals of the uploads.
pub(crate) fn stopped(node: &Node) -> String {
    let data = Fields::default().with("uploads", node.files().upload_totals());
    line(&event_fields("node_stopped", node).with("peer", ()).with("data", data))
}

/// Returns the line of the result of a command.
pub(crate) fn result(command: &str, result: &anyhow::Result<CommandOutput>) -> String {
    match result {
        Ok(output) => {
            // The fields are an object, and the line's own fields come before them.
            let fields = output.fields.get();
            let fields = text::json_line(fields.strip_prefix('{').unwrap_or(fields));
            let separator = if fields.starts_with('}') { "" } else { "," };
            format!("{{\"result\":\"{command}\",\"ok\":true{separator}{fields}\n")
        }
        Err(error) => line(
            &Fields::default()
                .with("result", command)
                .with("ok", false)
                .with("error", text::error(error)),
        ),
    }
}

/// Returns the data of an event.
fn data(this: &Node, event: &Event) -> Option<Box<RawValue>> {
    let fields = Fields::default();
    let fields = match event {
        Event::NodeMessage { message, .. } => return Some(content(message)),
        Event::NodeDiscovered { node } => return Some(raw(&NodeView::one(this, node))),
        Event::OutboundNodeDisconnected { link_end, .. }
        | Event::InboundNodeDisconnected { link_end, .. } => {
            fields.with("reason", link_end.reason.to_string()).with("by_peer", link_end.by_peer)
        }
        Event::NodeMessageFailed { failure, .. } => fields
            .with("unsent", failure.unsent)
            .with("unconfirmed", failure.unconfirmed)
            .with("reason", failure.reason.to_string()),
        Event::NodeBroadcast { broadcast } => fields
            .with("id", broadcast.id)
            .with("author", broadcast.author)
            .with("title", &broadcast.title)
            .with("message", content(&broadcast.message))
            .with("time", broadcast.time),
        Event::NodeReconnectionError { address, tries, error } => {
            fields.with("address", address).with("tries", tries).with("error", error)
        }
        Event::OutboundNodeConnectionError { address, error } => {
            fields.with("address", address).with("error", error)
        }
        Event::InboundNodeConnectionError { address, error, others } => {
            fields.with("address", address).with("error", error).with("others", others)
        }
        Event::NodeBroadcastsMissed { author, count } => {
            fields.with("author", author).with("count", count)
        }
        Event::NodeShutdownOrdered { owner } => fields.with("owner", owner),
        Event::NodeShutdownRefused { why, .. } => fields.with("error", why),
        Event::NodeDownloadFinished { hash, path, bytes, changes } => fields
            .with("hash", hash)
            .with("name", path.file_name().map(|name| name.to_string_lossy()))
            .with_path(path)
            .with("bytes", bytes)
            .with_changes(changes),
        Event::NodeDownloadFailed { hash, error } => fields.with("hash", hash).with("error", error),
        Event::NodeSourceDropped { hash, source, why } => {
            fields.with("hash", hash).with("id", source).with("why", why)
        }
        Event::NodeUploadCompleted { upload, .. } => fields
            .with("hash", upload.hash)
            .with("name", &upload.name)
            .with("bytes", upload.bytes)
            .with("size", upload.size),
        Event::NodeShareChanged { hash, name } => fields.with("hash", hash).with("name", name),
        Event::NodeLagged { missed } => fields.with("missed", missed),
        Event::NodeHandlerPanicked { event, panic } => {
            fields.with("event", event).with("panic", panic)
        }
        Event::NodeClockSkew { seconds, .. } => fields.with("seconds", seconds),
        Event::NodeReachabilityChanged { reachability, why } => {
            fields.with("reachability", reachability).with("why", why)
        }
        _ => return None,
    };
    Some(raw(&fields))
}

/// Returns the content of a message: the text, the JSON value, or the bytes in base64.
fn content(message: &Message) -> Box<RawValue> {
    let json = match (message.kind(), message.as_text()) {
        (MessageKind::Text, Some(text)) => Some(raw(text)),
        (MessageKind::Json, Some(text)) => one_line(text),
        _ => None,
    };
    // A message may also claim to be JSON and be invalid: a peer can send any bytes.
    let bytes = || Fields::default().with("bytes", STANDARD.encode(message.body()));
    json.unwrap_or_else(|| raw(&bytes()))
}

/// Returns a JSON value unchanged, but on one line. In valid JSON a newline can only be whitespace
/// between tokens. Returns `None` if the text is not JSON.
fn one_line(text: &str) -> Option<Box<RawValue>> {
    // Not parsed into a `Value`, in which large numbers would lose digits.
    RawValue::from_string(text.trim().replace(['\n', '\r'], " ")).ok()
}

/// Returns the time in milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Returns one line of JSON, with its newline.
pub(crate) fn line(value: &impl Serialize) -> String {
    let mut line = text::json_line(raw(value).get());
    line.push('\n');
    line
}

fn raw(value: &(impl Serialize + ?Sized)) -> Box<RawValue> {
    to_raw_value(value).expect("our own types have a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerkit::{Hash, LeftOut, NameFault, NodeId, Renamed};

    #[test]
    fn a_result_is_one_json_line() {
        let fields = Fields::default().with("size", 3).with("exact", true);
        let size = CommandOutput::new("3 nodes".to_owned(), &fields);
        assert_eq!(
            result("size", &size),
            "{\"result\":\"size\",\"ok\":true,\"size\":3,\"exact\":true}\n"
        );
        let stopping = CommandOutput::new("stopping".to_owned(), &Fields::default());
        assert_eq!(result("exit", &stopping), "{\"result\":\"exit\",\"ok\":true}\n");
        let error = Err(anyhow::anyhow!("inner").context("outer"));
        assert_eq!(
            result("get", &error),
            "{\"result\":\"get\",\"ok\":false,\"error\":\"outer: inner\"}\n"
        );
    }

    #[tokio::test]
    async fn events_of_downloads_have_the_file_and_the_reason() {
        let node = Node::builder().spawn().await.unwrap();
        let value = |event| serde_json::to_value(data(&node, &event).unwrap()).unwrap();
        let hash = Hash::of(b"content");
        let (why, path) = (NameFault::NameInUse, "/d/a film (1)".into());
        let renamed = Renamed { name: "a film".parse().unwrap(), path, why };
        let left = LeftOut { path: "in/a song".parse().unwrap(), why: NameFault::TooLongForDisk };
        let changes = Changes::new(&[renamed], &vec![left; Changes::MAX + 2]);
        let path = "/d/a film (1)".into();
        let data_of = value(Event::NodeDownloadFinished { hash, path, bytes: 7, changes });
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
        assert_eq!(value(event), serde_json::json!({"hash": hash, "error": "no room"}));
        let id = NodeId::from_bytes([1; 32]);
        let event = Event::NodeSourceDropped { hash, source: id, why: "it lied".into() };
        assert_eq!(value(event), serde_json::json!({"hash": hash, "id": id, "why": "it lied"}));
        let upload = peerkit::Upload { hash, name: "a film".into(), bytes: 5, size: 7 };
        let event = Event::NodeUploadCompleted {
            peer: peerkit::Peer::without_link(id, "bob".into()),
            upload,
        };
        assert_eq!(
            value(event),
            serde_json::json!({"hash": hash, "name": "a film", "bytes": 5, "size": 7})
        );
        let event = Event::NodeShareChanged { hash, name: "a film".into() };
        assert_eq!(value(event), serde_json::json!({"hash": hash, "name": "a film"}));
    }

    #[tokio::test]
    async fn clock_skew_is_in_seconds() {
        let node = Node::builder().spawn().await.unwrap();
        let peer = peerkit::Peer::without_link(NodeId::from_bytes([1; 32]), "bob".into());
        for seconds in [300, -900] {
            let event = Event::NodeClockSkew { peer: peer.clone(), seconds };
            let line: serde_json::Value =
                serde_json::from_str(&super::event(&node, &event)).unwrap();
            assert_eq!(line["event"], "node_clock_skew");
            assert_eq!(line["peer"]["id"], peer.id().to_string());
            assert_eq!(line["data"], serde_json::json!({"seconds": seconds}));
            assert!(line["time"].is_u64(), "{line}");
        }
        node.shutdown().await;
    }

    fn content(message: &Message) -> String {
        super::content(message).to_string()
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
