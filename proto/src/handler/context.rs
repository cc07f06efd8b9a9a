//! The context through which a handler acts, the interface to the node behind it, and the actions
//! of a handler.

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

/// Maximum size in bytes of a file that a handler reads or writes. 16 MiB: the maximum size of a
/// message by default. A larger file would block the handler for too long.
pub const MAX_FILE_IN_MEMORY: usize = 16 << 20;

/// The context through which a handler acts. The node carries out the actions after the handler has
/// returned.
pub struct Context<'a> {
    host: &'a dyn HandlerHost,
    actions: &'a mut Vec<Action>,
}

/// The node that a handler runs on. The real node and the simulator implement this trait.
pub trait HandlerHost {
    /// Returns this node's identity.
    fn id(&self) -> NodeId;
    /// Returns the time that the state machines use.
    fn now(&self) -> Instant;
    /// Returns all connected peers.
    fn peers(&self) -> Vec<Peer>;
    /// Returns the name that this node gives itself.
    fn name(&self) -> &str;
    /// Returns the value that the application has stored about a connected peer under this key.
    fn info(&self, peer: NodeId, key: &str) -> Option<Value>;
    /// Returns an identifier for a new action.
    fn next_action(&self) -> ActionId;
    /// Returns the content of a file.
    ///
    /// # Errors
    /// The same as for [`Context::read_file`].
    fn read_file(&self, path: &Path) -> io::Result<Bytes>;
    /// Writes a file.
    ///
    /// # Errors
    /// The same as for [`Context::write_file`].
    fn write_file(&self, path: &Path, content: Bytes) -> io::Result<()>;
}

/// An action of a handler, which the node carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Send a message to one peer.
    Send(Peer, Message),
    /// Send a message to every peer except the listed ones.
    SendToNodes(Message, Vec<NodeId>),
    /// Send a title and a message to the whole network.
    Broadcast(String, Message),
    /// Make a link to an address. If the flag is true, make it again whenever it is lost.
    Connect(ActionId, Address, bool),
    /// Close the link with a peer.
    Disconnect(NodeId),
    /// Report a peer that has misbehaved, with the reason.
    Penalize(NodeId, String),
    /// Stop reconnecting to an address.
    StopReconnecting(Address),
    /// Become a member of the network of the nodes at these addresses.
    Join(ActionId, Vec<Address>),
    /// Store a value about a connected peer under a key.
    SetInfo(NodeId, String, Value),
    /// Find the nodes within a depth. -1 means the whole network.
    Discover(ActionId, i32),
    /// Search the files of the network by name.
    Search(ActionId, String),
    /// Measure the round-trip time to a node.
    Ping(ActionId, NodeId),
    /// Fetch a file or folder to a path.
    Fetch(ActionId, Hash, PathBuf),
    /// Share a file or folder with all nodes.
    Share(ActionId, PathBuf),
    /// Send a request with a name to a node.
    Request(ActionId, NodeId, String, Message),
    /// Set a timer that expires after this time.
    SetTimer(TimerId, Duration),
    /// Cancel a timer.
    CancelTimer(TimerId),
    /// Stop this node.
    Stop,
}

impl<'a> Context<'a> {
    /// Creates a context that reads from `host` and appends the handler's actions to `actions`.
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

    /// Returns the current time. A handler that uses this time, and not the system's clock, also
    /// works in the virtual time of the simulator.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.host.now()
    }

    /// Returns all connected peers, inbound and outbound.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.host.peers()
    }

    /// Returns the connected peer with this identity, or `None` if there is no link with it.
    #[must_use]
    pub fn peer(&self, id: NodeId) -> Option<Peer> {
        self.peers().into_iter().find(|peer| peer.id() == id)
    }

    /// Returns the value that [`set_info`](Self::set_info) has stored about a connected peer under
    /// `key`. The values are dropped when the link ends.
    #[must_use]
    pub fn info(&self, peer: impl Into<NodeId>, key: &str) -> Option<Value> {
        let peer = peer.into();
        // A value stored in this call of the handler is still among the actions.
        let noted = self.actions.iter().rev().find_map(|action| match action {
            Action::SetInfo(of, under, value) if *of == peer && under == key => Some(value.clone()),
            _ => None,
        });
        noted.or_else(|| self.host.info(peer, key))
    }

    /// Stores a value about a connected peer under `key`. Does nothing for a peer without a link.
    pub fn set_info(
        &mut self,
        peer: impl Into<NodeId>,
        key: impl Into<String>,
        value: impl Into<Value>,
    ) {
        self.actions.push(Action::SetInfo(peer.into(), key.into(), value.into()));
    }

    /// Sends a message to a peer, or to a node of which only the identity is known, such as the
    /// author of a broadcast. A node without a link is dialled, or other nodes relay the message.
    /// If the message can't be sent, `node_message_failed` is called.
    pub fn send(&mut self, to: impl Into<Peer>, message: impl Into<Message>) {
        self.actions.push(Action::Send(to.into(), message.into()));
    }

    /// Sends a message to every peer except those in `exclude`. For each peer for which the message
    /// could not be queued, `node_message_failed` is called.
    pub fn send_to_nodes(&mut self, message: impl Into<Message>, exclude: &[NodeId]) {
        self.actions.push(Action::SendToNodes(message.into(), exclude.to_vec()));
    }

    /// Sends a message to the whole network. If it can't be sent, `node_broadcast_failed` is called
    /// with the reason. This node gets no event for its own broadcast.
    pub fn broadcast(&mut self, title: impl Into<String>, message: impl Into<Message>) {
        self.actions.push(Action::Broadcast(title.into(), message.into()));
    }

    /// Makes a link to `address`. If `reconnect` is true, the link is made again whenever it is
    /// lost. When the link is up, or if it was up before, `node_connect_completed` is called. If
    /// the dial fails, `node_action_failed` is called. A new link also causes
    /// `outbound_node_connected`, and a dial that fails also causes
    /// `outbound_node_connection_error`.
    pub fn connect(&mut self, address: Address, reconnect: bool) -> ActionId {
        self.begin(|id| Action::Connect(id, address, reconnect))
    }

    /// Closes the link with a peer, inbound or outbound.
    pub fn disconnect(&mut self, peer: impl Into<NodeId>) {
        self.actions.push(Action::Disconnect(peer.into()));
    }

    /// Reports a peer that has misbehaved. Its link is closed, and the peer's user sees `why` in at most 200
    /// bytes. For ten minutes this node refuses links with it and does not dial it by itself, as after a
    /// violation of the protocol. A [`connect`](Self::connect) to the peer ends that.
    ///
    /// ```
    /// use peerkit_proto::event::Peer;
    /// use peerkit_proto::handler::{Context, Handler};
    /// use peerkit_proto::message::Message;
    ///
    /// /// Accepts numbers only.
    /// struct Numbers;
    ///
    /// impl Handler for Numbers {
    ///     fn node_message(&mut self, cx: &mut Context<'_>, peer: &Peer, message: Message) {
    ///         if message.as_text().is_none_or(|text| text.parse::<u64>().is_err()) {
    ///             cx.penalize(peer, "not a number");
    ///         }
    ///     }
    /// }
    /// ```
    pub fn penalize(&mut self, peer: impl Into<NodeId>, why: impl Into<String>) {
        self.actions.push(Action::Penalize(peer.into(), why.into()));
    }

    /// Stops reconnecting to `address`: when the link to it is lost, it is not made again.
    pub fn stop_reconnecting(&mut self, address: Address) {
        self.actions.push(Action::StopReconnecting(address));
    }

    /// Makes this node a member of the network of the nodes at `addresses`. If `addresses` is
    /// empty, the node tries its bootstrap nodes and the peers of earlier runs. A simulated node
    /// has neither. The result comes in `node_join_completed` or `node_action_failed`. Each node
    /// that is reached also causes `outbound_node_connected`, and each dial that fails
    /// `outbound_node_connection_error`.
    pub fn join(&mut self, addresses: &[Address]) -> ActionId {
        self.begin(|id| Action::Join(id, addresses.to_vec()))
    }

    /// Finds the nodes within `depth` links. 1 means the nodes with a link to this node, -1 the
    /// whole network. Each node that answers causes `node_discovered`. At the end all of them come
    /// in `node_discovery_completed`, or `node_action_failed` is called with the reason.
    pub fn discover(&mut self, depth: i32) -> ActionId {
        self.begin(|id| Action::Discover(id, depth))
    }

    /// Searches the files that other nodes share, by name. The result comes in
    /// `node_search_completed` or `node_action_failed`. In the simulator each word of the text has
    /// to be a part of the name, and there are no patterns.
    pub fn search(&mut self, text: impl Into<String>) -> ActionId {
        let text = text.into();
        self.begin(|id| Action::Search(id, text))
    }

    /// Measures the round-trip time to a node, over the link with it or, without a link, through
    /// other nodes. The result comes in `node_ping_completed` or `node_action_failed`.
    pub fn ping(&mut self, node: impl Into<NodeId>) -> ActionId {
        let node = node.into();
        self.begin(|id| Action::Ping(id, node))
    }

    /// Fetches the file or folder with this hash. If `to` is an existing folder, it is stored in
    /// that folder, otherwise at exactly the path `to`. Every piece is verified against the hash,
    /// and no existing file is overwritten. The result comes in `node_fetch_completed` or
    /// `node_action_failed`. In the simulator `to` is a path on the node's simulated disk.
    pub fn fetch(&mut self, hash: Hash, to: impl Into<PathBuf>) -> ActionId {
        let to = to.into();
        self.begin(|id| Action::Fetch(id, hash, to))
    }

    /// Shares a file or folder with all nodes, so that they can find and fetch it. It stays where
    /// it is on the disk. The result comes in `node_share_completed` or `node_action_failed`. In
    /// the simulator `path` is a file on the node's simulated disk, and folders can't be shared.
    pub fn share(&mut self, path: impl Into<PathBuf>) -> ActionId {
        let path = path.into();
        self.begin(|id| Action::Share(id, path))
    }

    /// Returns the content of a file of at most [`MAX_FILE_IN_MEMORY`] bytes, such as one that
    /// [`fetch`](Self::fetch) has stored. On a real node the handler waits for the disk. In the
    /// simulator the file is on the node's simulated disk.
    ///
    /// # Errors
    /// If the file does not exist, is too large, or can't be read.
    pub fn read_file(&self, path: impl AsRef<Path>) -> io::Result<Bytes> {
        self.host.read_file(path.as_ref())
    }

    /// Writes a file before it returns, and replaces an existing file. So the handler can share the
    /// file in the same call. On a real node the handler waits for the disk. In the simulator the
    /// file is on the node's simulated disk.
    ///
    /// # Errors
    /// If the content is over [`MAX_FILE_IN_MEMORY`], or if the file can't be written. After a
    /// failed write the disk may have a part of the content.
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

    /// Sends a request to a node. Its method [`node_request`] gets `name` and answers. `name` is
    /// the kind of request, in at most [`MAX_PROTOCOL`](crate::hello::MAX_PROTOCOL) bytes. The
    /// reply comes in `node_request_completed`. A node without a link is dialled, or other nodes
    /// relay the request and the reply. `node_action_failed` is called if the node can't be found,
    /// if it refuses the request, if the link ends, or if no reply comes within
    /// [`request_timeout`](crate::config::Config::request_timeout).
    ///
    /// A message that the handler sends in the same call may arrive before the request.
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
    /// /// Asks each node that it connects to for its number of peers.
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

    /// Sets a timer. When the time `after` has passed, the timer expires and `on_timer` is called
    /// once. In the simulator the time is virtual. The minimum is one millisecond.
    ///
    /// A handler has at most [`MAX_TIMERS`](super::MAX_TIMERS) timers at the same time. If it has
    /// that many, no other timer is set, and `node_action_failed` is called with the
    /// [`TimerId::action`] of the new timer.
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

    /// Cancels a timer, so that `on_timer` is not called for it. Does nothing if it has expired.
    pub fn cancel_timer(&mut self, timer: TimerId) {
        self.actions.push(Action::CancelTimer(timer));
    }

    /// Stops this node in the same way as its user would.
    pub fn stop(&mut self) {
        self.actions.push(Action::Stop);
    }

    fn begin(&mut self, action: impl FnOnce(ActionId) -> Action) -> ActionId {
        let id = self.host.next_action();
        self.actions.push(action(id));
        id
    }
}
