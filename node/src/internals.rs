//! Parts of the path of a message, each without the rest of a node, for the benches. Not part of the public
//! API.

use std::io;
use std::path::Path;
use std::task::Waker;

use bytes::{Buf, Bytes};
use peerkit_proto::config::Config;
use peerkit_proto::event::{ActionId, Direction, Event, Peer};
use peerkit_proto::frame::{MESSAGE_HEADER_LEN, Messages};
use peerkit_proto::handler::{Action, Handler, HandlerHost};
use peerkit_proto::id::NodeId;
use peerkit_proto::time::Instant;
use tokio::sync::mpsc;

use crate::clock::NodeClock;
use crate::dispatch::{ActionSink, Dispatch, Received};
use crate::events::Events;
use crate::outbox::{Outbox, WriteBatch, WriterStep};
use crate::outgoing_message::OutgoingMessage;

/// The outbox of a link, without the link.
#[derive(Debug)]
pub struct OutboxBench {
    outbox: Outbox,
    batch: WriteBatch,
}

impl OutboxBench {
    /// Creates an empty outbox.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { outbox: Outbox::new(config, NodeClock::start()), batch: WriteBatch::default() }
    }

    /// Adds a message, as [`crate::Sender::send`] does. Returns false if the outbox is full, so that `send`
    /// would wait.
    #[inline]
    pub fn put(&self, message: &[u8]) -> bool {
        let message = OutgoingMessage::from(message);
        self.outbox.try_push_ahead(&message.encode(&mut [0; MESSAGE_HEADER_LEN]))
    }

    /// Takes all messages out of the outbox, as a link's writer does if each write call writes one slice.
    /// Returns the number of messages.
    pub fn take(&mut self) -> u64 {
        let (mut messages, mut has_written) = (0, false);
        loop {
            match self.outbox.take(
                &mut self.batch,
                (std::mem::take(&mut has_written), true),
                Waker::noop(),
            ) {
                WriterStep::Write => {
                    messages += self.batch.messages();
                    while self.batch.has_remaining() {
                        let written = self.batch.chunk().len();
                        self.batch.advance(written);
                    }
                    has_written = true;
                }
                // No other thread adds to the block, so it does not grow.
                WriterStep::LetGrow => {}
                WriterStep::Sleep | WriterStep::AwaitCount | WriterStep::Close => return messages,
            }
        }
    }
}

/// The delivery of events and messages to the application, without a node.
pub struct DispatchBench {
    dispatch: Dispatch,
    peer: Peer,
    _notices: mpsc::Receiver<Event>,
}

impl DispatchBench {
    /// Creates the delivery to an application, with or without a handler.
    #[must_use]
    pub fn new(handler: Option<impl Handler + 'static>, config: &Config) -> Self {
        let handler = handler.map(|handler| Box::new(handler) as _);
        let (dispatch, _notices) = Dispatch::new(handler, config);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into();
        let peer = Peer::new(IsolatedNode.id(), "peer".into(), address, Direction::Inbound);
        Self { dispatch, peer, _notices }
    }

    /// Returns a stream of the delivered events.
    #[must_use]
    pub fn subscribe(&self) -> Events {
        self.dispatch.subscribe()
    }

    /// Delivers messages, as a link's reader does.
    pub async fn messages(&self, messages: Messages) {
        self.dispatch
            .deliver_received(&IsolatedNode, &self.peer, vec![Received::Plain(messages)])
            .await;
    }
}

impl std::fmt::Debug for DispatchBench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DispatchBench({:?})", self.peer)
    }
}

/// A node that has no peers and ignores all actions of the handler.
struct IsolatedNode;

impl HandlerHost for IsolatedNode {
    fn id(&self) -> NodeId {
        NodeId::from_bytes([1; 32])
    }

    fn now(&self) -> Instant {
        Instant::ZERO
    }

    fn peers(&self) -> Vec<Peer> {
        Vec::new()
    }

    fn name(&self) -> &str {
        "isolated"
    }

    fn info(&self, _: NodeId, _: &str) -> Option<serde_json::Value> {
        None
    }

    fn next_action(&self) -> ActionId {
        ActionId::new(0)
    }

    fn read_file(&self, _: &Path) -> io::Result<Bytes> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_file(&self, _: &Path, _: Bytes) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl ActionSink for IsolatedNode {
    fn act(&self, _: Action) {}
}
