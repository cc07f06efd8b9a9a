//! The context through which a handler acts, the node behind it, and the handler's actions.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::address::Address;
use crate::event::{ActionId, Peer, TimerId};
use crate::id::{Hash, NodeId};
use crate::message::Message;
use crate::time::Instant;

/// Most bytes of a file that a handler reads or writes. 16 MiB: the largest message by default. What is
/// larger would keep the handler busy for too long.
pub const MAX_FILE_IN_MEMORY: usize = 16 << 20;

/// The context that a handler acts through. Actions are carried out once the handler has returned.
pub struct Context<'a> {
    host: &'a dyn HandlerHost,
    actions: &'a mut Vec<Action>,
}

/// The node as a handler sees it; the node or the simulator implements it.
pub trait HandlerHost {
    /// Returns this node's identity.
    fn id(&self) -> NodeId;
    /// Returns the time, as the state machines count it.
    fn now(&self) -> Instant;
    /// Returns all connected peers.
    fn peers(&self) -> Vec<Peer>;
    /// Returns the name that this node gives itself.
    fn name(&self) -> &str;
    /// Returns the application's note about a connected peer under this key.
    fn info(&self, peer: NodeId, key: &str) -> Option<Value>;
    /// Returns the number of the next action.
    fn next_action(&self) -> ActionId;
    /// Returns the content of a file.
    ///
    /// # Errors
    /// As [`Context::read_file`].
    fn read_file(&self, path: &Path) -> io::Result<Bytes>;
    /// Writes a file.
    ///
    /// # Errors
    /// As [`Context::write_file`].
    fn write_file(&self, path: &Path, content: Bytes) -> io::Result<()>;
}

/// An action that a handler asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Send a message to one peer.
    Send(Peer, Message),
    /// Send a message to every peer but those listed.
    SendToNodes(Message, Vec<NodeId>),
    /// Send a title and a message to the whole network.
    Broadcast(String, Message),
    /// Link to an address; if true, keep the link.
    Connect(ActionId, Address, bool),
    /// Close the link with a peer.
    Disconnect(NodeId),
    /// Give up keeping the link to an address.
    StopReconnecting(Address),
    /// Become a member of the network of the nodes at these addresses.
    Join(ActionId, Vec<Address>),
    /// Note something about a connected peer, under a key.
    SetInfo(NodeId, String, Value),
    /// Find the nodes within a depth; -1 is the whole network.
    Discover(ActionId, i32),
    /// Search the network's files for a text.
    Search(ActionId, String),
    /// Measure the round-trip time to a node.
    Ping(ActionId, NodeId),
    /// Fetch a file or folder to a path.
    Fetch(ActionId, Hash, PathBuf),
    /// Share a file or folder with everyone.
    Share(ActionId, PathBuf),
    /// Send a named request to a peer.
    Request(ActionId, NodeId, String, Message),
    /// Set a timer that expires after this time.
    SetTimer(TimerId, Duration),
    /// Cancel a timer.
    CancelTimer(TimerId),
    /// Stop this node.
    Stop,
}

impl<'a> Context<'a> {
    /// Returns a context that sees `host` and adds the handler's actions to `actions`.
    pub fn new(host: &'a dyn HandlerHost, actions: &'a mut Vec<Action>) -> Self {
        Self { host, actions }
    }

    /// Returns this node's identity.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.host.id()
    }

    /// Returns the name that this node gives itself.
    #[must_use]
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// Returns the time. A handler that uses it in place of the system's clock runs in the simulator's
    /// time as well.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.host.now()
    }

    /// Returns all connected peers, inbound and outbound.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.host.peers()
    }

    /// Returns the connected peer with this identity.
    #[must_use]
    pub fn peer(&self, id: NodeId) -> Option<Peer> {
        self.peers().into_iter().find(|peer| peer.id() == id)
    }

    /// Returns the note about a connected peer under `key`. Notes are dropped with the link.
    #[must_use]
    pub fn info(&self, peer: impl Into<NodeId>, key: &str) -> Option<Value> {
        let peer = peer.into();
        // Notes made in this very call are still among the actions.
        let noted = self.actions.iter().rev().find_map(|action| match action {
            Action::SetInfo(of, under, value) if *of == peer && under == key => Some(value.clone()),
            _ => None,
        });
        noted.or_else(|| self.host.info(peer, key))
    }

    /// Notes something about a connected peer under `key`. A peer without a link gets no note.
    pub fn set_info(
        &mut self,
        peer: impl Into<NodeId>,
        key: impl Into<String>,
        value: impl Into<Value>,
    ) {
        self.actions.push(Action::SetInfo(peer.into(), key.into(), value.into()));
    }

    /// Sends a message to a peer, or to the node with an identity, such as the author of a broadcast. A
    /// node without a link is dialled, or other nodes pass the message on. If the message can't be
    /// sent, `node_message_failed` says so.
    pub fn send(&mut self, to: impl Into<Peer>, message: impl Into<Message>) {
        self.actions.push(Action::Send(to.into(), message.into()));
    }

    /// Sends a message to every peer but those in `exclude`. `node_message_failed` names each peer for
    /// which it could not be queued.
    pub fn send_to_nodes(&mut self, message: impl Into<Message>, exclude: &[NodeId]) {
        self.actions.push(Action::SendToNodes(message.into(), exclude.to_vec()));
    }

    /// Sends a message to the whole network. If it can't be sent, `node_broadcast_failed` says why.
    /// This node gets no event for its own broadcast.
    pub fn broadcast(&mut self, title: impl Into<String>, message: impl Into<Message>) {
        self.actions.push(Action::Broadcast(title.into(), message.into()));
    }

    /// Links to `address`; with `reconnect` the link is made again whenever it is lost. The result
    /// comes in `node_connect_completed`, also if there is such a link already, or in
    /// `node_action_failed`. A new link shows in `outbound_node_connected` as well, and a dial that
    /// fails in `outbound_node_connection_error`.
    pub fn connect(&mut self, address: Address, reconnect: bool) -> ActionId {
        self.begin(|id| Action::Connect(id, address, reconnect))
    }

    /// Closes the link with a peer, inbound or outbound.
    pub fn disconnect(&mut self, peer: impl Into<NodeId>) {
        self.actions.push(Action::Disconnect(peer.into()));
    }

    /// Gives up keeping the link to `address`.
    pub fn stop_reconnecting(&mut self, address: Address) {
        self.actions.push(Action::StopReconnecting(address));
    }

    /// Becomes a member of the network that the nodes at `addresses` belong to. Without addresses the
    /// bootstrap nodes and the peers of earlier runs are tried, which the simulator does not have.
    /// The result comes in `node_join_completed` or `node_action_failed`. Each node that is reached
    /// shows in `outbound_node_connected` as well, and each dial that fails in
    /// `outbound_node_connection_error`.
    pub fn join(&mut self, addresses: &[Address]) -> ActionId {
        self.begin(|id| Action::Join(id, addresses.to_vec()))
    }

    /// Finds the nodes within `depth` links: 1 is the neighbours, -1 the whole network. Each node
    /// that answers shows in `node_discovered`; all of them come in `node_discovery_completed`, or
    /// `node_action_failed` says why not.
    pub fn discover(&mut self, depth: i32) -> ActionId {
        self.begin(|id| Action::Discover(id, depth))
    }

    /// Searches the files that other nodes share, by name. The result comes in `node_search_completed`
    /// or `node_action_failed`. In the simulator the text is words, each of them a part of the name:
    /// patterns are not known there.
    pub fn search(&mut self, text: impl Into<String>) -> ActionId {
        let text = text.into();
        self.begin(|id| Action::Search(id, text))
    }

    /// Measures the round-trip time to a node: over its link, or through the network if there is
    /// none. The result comes in `node_ping_completed` or `node_action_failed`.
    pub fn ping(&mut self, node: impl Into<NodeId>) -> ActionId {
        let node = node.into();
        self.begin(|id| Action::Ping(id, node))
    }

    /// Fetches the file or folder of this hash to `to`: into it if it is a folder that exists, else
    /// to exactly that path. Every piece is checked against the hash, and no existing file is
    /// overwritten. The result comes in `node_fetch_completed` or `node_action_failed`. In the
    /// simulator the path is one of the node's simulated disk.
    pub fn fetch(&mut self, hash: Hash, to: impl Into<PathBuf>) -> ActionId {
        let to = to.into();
        self.begin(|id| Action::Fetch(id, hash, to))
    }

    /// Shares a file or folder with everyone: it stays where it is, and others find and fetch it. The
    /// result comes in `node_share_completed` or `node_action_failed`. In the simulator it is a file of
    /// the node's simulated disk; folders can't be shared there.
    pub fn share(&mut self, path: impl Into<PathBuf>) -> ActionId {
        let path = path.into();
        self.begin(|id| Action::Share(id, path))
    }

    /// Returns the content of a file of at most [`MAX_FILE_IN_MEMORY`] bytes, such as one that
    /// [`fetch`](Self::fetch) has brought. On a real node the handler waits for the disk; in the simulator
    /// the file is on the node's simulated disk.
    ///
    /// # Errors
    /// If there is no such file, it is larger, or it can't be read.
    pub fn read_file(&self, path: impl AsRef<Path>) -> io::Result<Bytes> {
        self.host.read_file(path.as_ref())
    }

    /// Writes a file at once, in place of one that is there, so that it can be shared in the same call.
    /// On a real node the handler waits for the disk; in the simulator the file is on the node's
    /// simulated disk.
    ///
    /// # Errors
    /// If the content is over [`MAX_FILE_IN_MEMORY`], or it can't be written: nothing, or a part of it,
    /// may be on the disk then.
    pub fn write_file(
        &mut self,
        path: impl AsRef<Path>,
        content: impl Into<Bytes>,
    ) -> io::Result<()> {
        let content = content.into();
        if content.len() > MAX_FILE_IN_MEMORY {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.host.write_file(path.as_ref(), content)
    }

    /// Sends a request to a node. `name` is the kind of request, in at most
    /// [`MAX_PROTOCOL`](crate::hello::MAX_PROTOCOL) bytes: the node's [`node_request`] answers it.
    /// The reply comes in `node_request_completed`. A node without a link is dialled, or other nodes
    /// relay the request and the reply. If the node can't be found, refuses, the link ends, or no reply
    /// comes within [`request_timeout`](crate::config::Config::request_timeout), `node_action_failed`
    /// says so.
    ///
    /// A message that is sent in the same call may arrive before the request.
    ///
    /// [`node_request`]: super::Handler::node_request
    ///
    /// ```
    /// use peerkit_proto::event::{ActionId, Peer};
    /// use peerkit_proto::frame::Refusal;
    /// use peerkit_proto::handler::{Context, Handler};
    /// use peerkit_proto::id::NodeId;
    /// use peerkit_proto::message::Message;
    ///
    /// /// Learns the number of peers of each node that it connects to.
    /// struct Census;
    ///
    /// impl Handler for Census {
    ///     fn outbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
    ///         cx.request(peer, "peers", "");
    ///     }
    ///
    ///     fn node_request(
    ///         &mut self,
    ///         cx: &mut Context<'_>,
    ///         _: &Peer,
    ///         name: &str,
    ///         _: Message,
    ///     ) -> Result<Message, Refusal> {
    ///         match name {
    ///             "peers" => Ok(cx.peers().len().to_string().into()),
    ///             _ => Err(Refusal::NoHandler),
    ///         }
    ///     }
    ///
    ///     fn node_request_completed(
    ///         &mut self,
    ///         _: &mut Context<'_>,
    ///         _: ActionId,
    ///         node: NodeId,
    ///         reply: Message,
    ///     ) {
    ///         println!("{node} has {} peers", reply.as_text().unwrap_or("?"));
    ///     }
    /// }
    /// ```
    pub fn request(
        &mut self,
        peer: impl Into<NodeId>,
        name: impl Into<String>,
        message: impl Into<Message>,
    ) -> ActionId {
        let (peer, name, message) = (peer.into(), name.into(), message.into());
        self.begin(|id| Action::Request(id, peer, name, message))
    }

    /// Sets a timer that expires once, `after` from now: `on_timer` is called then. In the simulator
    /// that is virtual time. The shortest time is a millisecond.
    ///
    /// A handler has at most [`MAX_TIMERS`](super::MAX_TIMERS) timers at once. One that is over that is
    /// not set, and `node_action_failed` has its number, [`TimerId::action`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use peerkit_proto::event::{Peer, TimerId};
    /// use peerkit_proto::handler::{Context, Handler};
    ///
    /// /// Says hello to all peers every minute.
    /// struct Greeter;
    ///
    /// impl Handler for Greeter {
    ///     fn outbound_node_connected(&mut self, cx: &mut Context<'_>, _: &Peer) {
    ///         cx.set_timer(Duration::from_secs(60));
    ///     }
    ///
    ///     fn on_timer(&mut self, cx: &mut Context<'_>, _: TimerId) {
    ///         cx.send_to_nodes("hello", &[]);
    ///         cx.set_timer(Duration::from_secs(60));
    ///     }
    /// }
    /// ```
    pub fn set_timer(&mut self, after: Duration) -> TimerId {
        let timer = TimerId::new(self.host.next_action());
        self.actions.push(Action::SetTimer(timer, after));
        timer
    }

    /// Cancels a timer: `on_timer` is not called for it any more. Does nothing if it has expired.
    pub fn cancel_timer(&mut self, timer: TimerId) {
        self.actions.push(Action::CancelTimer(timer));
    }

    /// Stops this node, as its user would.
    pub fn stop(&mut self) {
        self.actions.push(Action::Stop);
    }

    fn begin(&mut self, action: impl FnOnce(ActionId) -> Action) -> ActionId {
        let id = self.host.next_action();
        self.actions.push(action(id));
        id
    }
}
