//! An application as a trait: the same code runs on a real node and in the simulator.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::address::Address;
use crate::event::{ActionId, Broadcast, Event, MessageFailure, NodeInfo, Parting, Peer, Upload};
use crate::files::{FoundFile, SharedFile};
use crate::id::{Hash, NodeId};
use crate::message::Message;
use crate::time::Instant;

/// An application. Implement what you need: each method is empty by default.
///
/// Methods are synchronous and get the [`Context`] to act through. They are called one at a time;
/// while one runs, messages wait and their senders are slowed down, so a handler that has much to do
/// should hand it to a task or thread of its own.
///
/// What takes time is asked for through the context, and its result comes as an event of its own:
///
/// ```
/// use peerkit_proto::event::{ActionId, Peer};
/// use peerkit_proto::files::FoundFile;
/// use peerkit_proto::handler::{Context, Handler};
///
/// /// Fetches the first song that the network has.
/// #[derive(Default)]
/// struct Fetcher {
///     search: Option<ActionId>,
/// }
///
/// impl Handler for Fetcher {
///     fn outbound_node_connected(&mut self, cx: &mut Context<'_>, _: &Peer) {
///         self.search = Some(cx.search("song"));
///     }
///
///     fn node_search_completed(&mut self, cx: &mut Context<'_>, id: ActionId, files: &[FoundFile]) {
///         if let (true, Some(found)) = (self.search == Some(id), files.first()) {
///             cx.fetch(found.file.hash, "downloads");
///         }
///     }
/// }
/// ```
#[allow(unused_variables)]
pub trait Handler: Send {
    /// We connected to a node.
    fn outbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {}
    /// A node connected to us.
    fn inbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {}
    /// A link that we had dialled has ended.
    fn outbound_node_disconnected(&mut self, cx: &mut Context<'_>, peer: &Peer, parting: &Parting) {
    }
    /// A link that the other side had dialled has ended.
    fn inbound_node_disconnected(&mut self, cx: &mut Context<'_>, peer: &Peer, parting: &Parting) {}
    /// We are about to close a link that we had dialled.
    fn node_disconnect_with_outbound_node(&mut self, cx: &mut Context<'_>, peer: &Peer) {}
    /// We are about to close a link that the other side had dialled.
    fn node_disconnect_with_inbound_node(&mut self, cx: &mut Context<'_>, peer: &Peer) {}
    /// A message came in.
    fn node_message(&mut self, cx: &mut Context<'_>, peer: &Peer, message: Message) {}
    /// Messages that were accepted for `peer` did not get through, or may not have.
    fn node_message_failed(&mut self, cx: &mut Context<'_>, peer: &Peer, failure: &MessageFailure) {
    }
    /// A broadcast reached us. Each comes once.
    fn node_broadcast(&mut self, cx: &mut Context<'_>, broadcast: Broadcast) {}
    /// A broadcast asked for with [`Context::broadcast`] was not sent.
    fn node_broadcast_failed(&mut self, cx: &mut Context<'_>, title: &str, error: &str) {}
    /// Broadcasts of `author` can't be had any more: see [`Event::NodeBroadcastsMissed`].
    fn node_broadcasts_missed(&mut self, cx: &mut Context<'_>, author: NodeId, count: u64) {}
    /// A discovery of ours heard of a node.
    fn node_discovered(&mut self, cx: &mut Context<'_>, node: &NodeInfo) {}
    /// This node is about to stop: the moment to say goodbye.
    fn node_request_to_stop(&mut self, cx: &mut Context<'_>) {}
    /// The owner of the network has ordered all nodes to stop: this one is about to.
    fn node_shutdown_ordered(&mut self, cx: &mut Context<'_>, owner: NodeId) {}
    /// An order to stop that `peer` passed on was ignored: see [`Event::NodeShutdownRefused`].
    fn node_shutdown_refused(&mut self, cx: &mut Context<'_>, peer: &Peer, why: &str) {}
    /// A download is whole and in its place: see [`Event::NodeDownloadFinished`].
    fn node_download_finished(
        &mut self,
        cx: &mut Context<'_>,
        hash: Hash,
        path: &Path,
        bytes: u64,
    ) {
    }
    /// A download was given up: see [`Event::NodeDownloadFailed`].
    fn node_download_failed(&mut self, cx: &mut Context<'_>, hash: Hash, error: &str) {}
    /// A source of a download did what it should not: see [`Event::NodeSourceDropped`].
    fn node_source_dropped(&mut self, cx: &mut Context<'_>, hash: Hash, source: NodeId, why: &str) {
    }
    /// A peer has received all of a file or folder: see [`Event::NodeUploadCompleted`].
    fn node_upload_completed(&mut self, cx: &mut Context<'_>, peer: &Peer, upload: &Upload) {}
    /// A shared file can't be served any more: see [`Event::NodeShareChanged`].
    fn node_share_changed(&mut self, cx: &mut Context<'_>, hash: Hash, name: &str) {}
    /// A link that is to be kept was lost and could not be made again, `tries` times by now.
    /// Return false to give it up.
    fn node_reconnection_error(
        &mut self,
        cx: &mut Context<'_>,
        address: &Address,
        tries: u32,
        error: &str,
    ) -> bool {
        true
    }
    /// Connecting to a node failed.
    fn outbound_node_connection_error(
        &mut self,
        cx: &mut Context<'_>,
        address: &Address,
        error: &str,
    ) {
    }
    /// Somebody connected to us but did not become a peer.
    fn inbound_node_connection_error(
        &mut self,
        cx: &mut Context<'_>,
        address: &Address,
        error: &str,
    ) {
    }
    /// A discovery asked for with [`Context::discover`] has ended. `nodes` are those within the
    /// depth, this one first; `complete` says whether all of them have answered.
    fn node_discovery_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        nodes: &[NodeInfo],
        complete: bool,
    ) {
    }
    /// A search asked for with [`Context::search`] has ended.
    fn node_search_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        files: &[FoundFile],
    ) {
    }
    /// A ping asked for with [`Context::ping`] was answered.
    fn node_ping_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        node: NodeId,
        rtt: Duration,
    ) {
    }
    /// A fetch asked for with [`Context::fetch`] is whole, checked, and in its place.
    fn node_fetch_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        hash: Hash,
        path: &Path,
        bytes: u64,
    ) {
    }
    /// The path given to [`Context::share`] is shared, but for `skipped` entries of a folder.
    fn node_share_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        file: &SharedFile,
        skipped: usize,
    ) {
    }
    /// The link asked for with [`Context::connect`] is up, or was already.
    fn node_connect_completed(&mut self, cx: &mut Context<'_>, action: ActionId, peer: &Peer) {}
    /// This node is a member of the network that [`Context::join`] was to join.
    fn node_join_completed(&mut self, cx: &mut Context<'_>, action: ActionId) {}
    /// An action asked for through the context has failed: a connect, join, discovery, search, ping,
    /// fetch or share, or one without a number of its own that was not begun because too many waited.
    fn node_action_failed(&mut self, cx: &mut Context<'_>, action: ActionId, error: &str) {}
    /// Events other than messages were left out, because this handler was too slow for them.
    fn node_lagged(&mut self, cx: &mut Context<'_>, missed: u64) {}
    /// This handler panicked while it handled `event`. The node and the link go on.
    fn node_handler_panicked(&mut self, cx: &mut Context<'_>, event: &'static str, panic: &str) {}
    /// The clock of `peer` is `seconds` ahead of this node's: see [`Event::NodeClockSkew`].
    fn node_clock_skew(&mut self, cx: &mut Context<'_>, peer: &Peer, seconds: i64) {}
}

impl Event {
    /// Calls the handler's method for this event.
    pub fn deliver(self, handler: &mut dyn Handler, cx: &mut Context<'_>) {
        match self {
            Self::OutboundNodeConnected { peer } => handler.outbound_node_connected(cx, &peer),
            Self::InboundNodeConnected { peer } => handler.inbound_node_connected(cx, &peer),
            Self::OutboundNodeDisconnected { peer, parting } => {
                handler.outbound_node_disconnected(cx, &peer, &parting);
            }
            Self::InboundNodeDisconnected { peer, parting } => {
                handler.inbound_node_disconnected(cx, &peer, &parting);
            }
            Self::NodeDisconnectWithOutboundNode { peer } => {
                handler.node_disconnect_with_outbound_node(cx, &peer);
            }
            Self::NodeDisconnectWithInboundNode { peer } => {
                handler.node_disconnect_with_inbound_node(cx, &peer);
            }
            Self::NodeMessage { peer, message } => handler.node_message(cx, &peer, message),
            Self::NodeMessageFailed { peer, failure } => {
                handler.node_message_failed(cx, &peer, &failure);
            }
            Self::NodeBroadcast { broadcast } => handler.node_broadcast(cx, broadcast),
            Self::NodeBroadcastFailed { title, error } => {
                handler.node_broadcast_failed(cx, &title, &error);
            }
            Self::NodeBroadcastsMissed { author, count } => {
                handler.node_broadcasts_missed(cx, author, count);
            }
            Self::NodeDiscovered { node } => handler.node_discovered(cx, &node),
            Self::NodeRequestToStop => handler.node_request_to_stop(cx),
            Self::NodeShutdownOrdered { owner } => handler.node_shutdown_ordered(cx, owner),
            Self::NodeShutdownRefused { peer, why } => {
                handler.node_shutdown_refused(cx, &peer, &why);
            }
            Self::NodeDownloadFinished { hash, path, bytes } => {
                handler.node_download_finished(cx, hash, &path, bytes);
            }
            Self::NodeDownloadFailed { hash, error } => {
                handler.node_download_failed(cx, hash, &error);
            }
            Self::NodeSourceDropped { hash, source, why } => {
                handler.node_source_dropped(cx, hash, source, &why);
            }
            Self::NodeUploadCompleted { peer, upload } => {
                handler.node_upload_completed(cx, &peer, &upload);
            }
            Self::NodeShareChanged { hash, name } => handler.node_share_changed(cx, hash, &name),
            Self::NodeReconnectionError { address, tries, error } => {
                if !handler.node_reconnection_error(cx, &address, tries, &error) {
                    cx.stop_reconnecting(address);
                }
            }
            Self::OutboundNodeConnectionError { address, error } => {
                handler.outbound_node_connection_error(cx, &address, &error);
            }
            Self::InboundNodeConnectionError { address, error } => {
                handler.inbound_node_connection_error(cx, &address, &error);
            }
            Self::NodeDiscoveryCompleted { action, nodes, complete } => {
                handler.node_discovery_completed(cx, action, &nodes, complete);
            }
            Self::NodeSearchCompleted { action, files } => {
                handler.node_search_completed(cx, action, &files);
            }
            Self::NodePingCompleted { action, node, rtt } => {
                handler.node_ping_completed(cx, action, node, rtt);
            }
            Self::NodeFetchCompleted { action, hash, path, bytes } => {
                handler.node_fetch_completed(cx, action, hash, &path, bytes);
            }
            Self::NodeShareCompleted { action, file, skipped } => {
                handler.node_share_completed(cx, action, &file, skipped);
            }
            Self::NodeConnectCompleted { action, peer } => {
                handler.node_connect_completed(cx, action, &peer);
            }
            Self::NodeJoinCompleted { action } => handler.node_join_completed(cx, action),
            Self::NodeActionFailed { action, error } => {
                handler.node_action_failed(cx, action, &error);
            }
            Self::NodeLagged { missed } => handler.node_lagged(cx, missed),
            Self::NodeHandlerPanicked { event, panic } => {
                handler.node_handler_panicked(cx, event, &panic);
            }
            Self::NodeClockSkew { peer, seconds } => handler.node_clock_skew(cx, &peer, seconds),
        }
    }
}

/// A callback as an application: every event comes as a value.
///
/// `node_reconnection_error` is answered with [`Context::stop_reconnecting`].
pub struct Callback<F>(pub F);

impl<F: FnMut(&mut Context<'_>, Event) + Send> Handler for Callback<F> {
    fn outbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        (self.0)(cx, Event::OutboundNodeConnected { peer: peer.clone() });
    }

    fn inbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        (self.0)(cx, Event::InboundNodeConnected { peer: peer.clone() });
    }

    fn outbound_node_disconnected(&mut self, cx: &mut Context<'_>, peer: &Peer, parting: &Parting) {
        let (peer, parting) = (peer.clone(), parting.clone());
        (self.0)(cx, Event::OutboundNodeDisconnected { peer, parting });
    }

    fn inbound_node_disconnected(&mut self, cx: &mut Context<'_>, peer: &Peer, parting: &Parting) {
        let (peer, parting) = (peer.clone(), parting.clone());
        (self.0)(cx, Event::InboundNodeDisconnected { peer, parting });
    }

    fn node_disconnect_with_outbound_node(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        (self.0)(cx, Event::NodeDisconnectWithOutboundNode { peer: peer.clone() });
    }

    fn node_disconnect_with_inbound_node(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        (self.0)(cx, Event::NodeDisconnectWithInboundNode { peer: peer.clone() });
    }

    fn node_message(&mut self, cx: &mut Context<'_>, peer: &Peer, message: Message) {
        (self.0)(cx, Event::NodeMessage { peer: peer.clone(), message });
    }

    fn node_message_failed(&mut self, cx: &mut Context<'_>, peer: &Peer, failure: &MessageFailure) {
        let (peer, failure) = (peer.clone(), failure.clone());
        (self.0)(cx, Event::NodeMessageFailed { peer, failure });
    }

    fn node_broadcast(&mut self, cx: &mut Context<'_>, broadcast: Broadcast) {
        (self.0)(cx, Event::NodeBroadcast { broadcast });
    }

    fn node_broadcast_failed(&mut self, cx: &mut Context<'_>, title: &str, error: &str) {
        let (title, error) = (title.to_owned(), error.to_owned());
        (self.0)(cx, Event::NodeBroadcastFailed { title, error });
    }

    fn node_broadcasts_missed(&mut self, cx: &mut Context<'_>, author: NodeId, count: u64) {
        (self.0)(cx, Event::NodeBroadcastsMissed { author, count });
    }

    fn node_discovered(&mut self, cx: &mut Context<'_>, node: &NodeInfo) {
        (self.0)(cx, Event::NodeDiscovered { node: node.clone() });
    }

    fn node_request_to_stop(&mut self, cx: &mut Context<'_>) {
        (self.0)(cx, Event::NodeRequestToStop);
    }

    fn node_shutdown_ordered(&mut self, cx: &mut Context<'_>, owner: NodeId) {
        (self.0)(cx, Event::NodeShutdownOrdered { owner });
    }

    fn node_shutdown_refused(&mut self, cx: &mut Context<'_>, peer: &Peer, why: &str) {
        (self.0)(cx, Event::NodeShutdownRefused { peer: peer.clone(), why: why.to_owned() });
    }

    fn node_download_finished(
        &mut self,
        cx: &mut Context<'_>,
        hash: Hash,
        path: &Path,
        bytes: u64,
    ) {
        (self.0)(cx, Event::NodeDownloadFinished { hash, path: path.to_owned(), bytes });
    }

    fn node_download_failed(&mut self, cx: &mut Context<'_>, hash: Hash, error: &str) {
        (self.0)(cx, Event::NodeDownloadFailed { hash, error: error.to_owned() });
    }

    fn node_source_dropped(&mut self, cx: &mut Context<'_>, hash: Hash, source: NodeId, why: &str) {
        (self.0)(cx, Event::NodeSourceDropped { hash, source, why: why.to_owned() });
    }

    fn node_upload_completed(&mut self, cx: &mut Context<'_>, peer: &Peer, upload: &Upload) {
        let (peer, upload) = (peer.clone(), upload.clone());
        (self.0)(cx, Event::NodeUploadCompleted { peer, upload });
    }

    fn node_share_changed(&mut self, cx: &mut Context<'_>, hash: Hash, name: &str) {
        (self.0)(cx, Event::NodeShareChanged { hash, name: name.to_owned() });
    }

    fn node_reconnection_error(
        &mut self,
        cx: &mut Context<'_>,
        address: &Address,
        tries: u32,
        error: &str,
    ) -> bool {
        let (address, error) = (address.clone(), error.to_owned());
        (self.0)(cx, Event::NodeReconnectionError { address, tries, error });
        true
    }

    fn outbound_node_connection_error(
        &mut self,
        cx: &mut Context<'_>,
        address: &Address,
        error: &str,
    ) {
        let (address, error) = (address.clone(), error.to_owned());
        (self.0)(cx, Event::OutboundNodeConnectionError { address, error });
    }

    fn inbound_node_connection_error(
        &mut self,
        cx: &mut Context<'_>,
        address: &Address,
        error: &str,
    ) {
        let (address, error) = (address.clone(), error.to_owned());
        (self.0)(cx, Event::InboundNodeConnectionError { address, error });
    }

    fn node_discovery_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        nodes: &[NodeInfo],
        complete: bool,
    ) {
        let nodes = nodes.to_vec();
        (self.0)(cx, Event::NodeDiscoveryCompleted { action, nodes, complete });
    }

    fn node_search_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        files: &[FoundFile],
    ) {
        (self.0)(cx, Event::NodeSearchCompleted { action, files: files.to_vec() });
    }

    fn node_ping_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        node: NodeId,
        rtt: Duration,
    ) {
        (self.0)(cx, Event::NodePingCompleted { action, node, rtt });
    }

    fn node_fetch_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        hash: Hash,
        path: &Path,
        bytes: u64,
    ) {
        (self.0)(cx, Event::NodeFetchCompleted { action, hash, path: path.to_owned(), bytes });
    }

    fn node_share_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        file: &SharedFile,
        skipped: usize,
    ) {
        (self.0)(cx, Event::NodeShareCompleted { action, file: file.clone(), skipped });
    }

    fn node_connect_completed(&mut self, cx: &mut Context<'_>, action: ActionId, peer: &Peer) {
        (self.0)(cx, Event::NodeConnectCompleted { action, peer: peer.clone() });
    }

    fn node_join_completed(&mut self, cx: &mut Context<'_>, action: ActionId) {
        (self.0)(cx, Event::NodeJoinCompleted { action });
    }

    fn node_action_failed(&mut self, cx: &mut Context<'_>, action: ActionId, error: &str) {
        (self.0)(cx, Event::NodeActionFailed { action, error: error.to_owned() });
    }

    fn node_lagged(&mut self, cx: &mut Context<'_>, missed: u64) {
        (self.0)(cx, Event::NodeLagged { missed });
    }

    fn node_handler_panicked(&mut self, cx: &mut Context<'_>, event: &'static str, panic: &str) {
        (self.0)(cx, Event::NodeHandlerPanicked { event, panic: panic.to_owned() });
    }

    fn node_clock_skew(&mut self, cx: &mut Context<'_>, peer: &Peer, seconds: i64) {
        (self.0)(cx, Event::NodeClockSkew { peer: peer.clone(), seconds });
    }
}

/// What a handler acts through. Its actions are carried out once the handler has returned.
pub struct Context<'a> {
    world: &'a dyn World,
    actions: &'a mut Vec<Action>,
}

/// What a handler can see: provided by the node, or by the simulator.
pub trait World {
    /// This node's identity.
    fn id(&self) -> NodeId;
    /// The time, as the state machines count it.
    fn now(&self) -> Instant;
    /// All connected peers.
    fn peers(&self) -> Vec<Peer>;
    /// The name that this node gives itself.
    fn name(&self) -> &str;
    /// Returns the application's note about a connected peer under this key.
    fn info(&self, peer: NodeId, key: &str) -> Option<Value>;
    /// A name for an action that no other action has.
    fn next_action(&self) -> ActionId;
}

/// What a handler wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Send a message to one peer.
    Send(Peer, Message),
    /// Send a message to every peer but those listed.
    SendToNodes(Message, Vec<NodeId>),
    /// Tell the whole network: a title and a message.
    Broadcast(String, Message),
    /// Link to an address; true keeps the link.
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
    /// Stop this node.
    Stop,
}

impl<'a> Context<'a> {
    /// A context that sees `world` and leaves what is to be done in `actions`.
    pub fn new(world: &'a dyn World, actions: &'a mut Vec<Action>) -> Self {
        Self { world, actions }
    }

    /// This node's identity.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.world.id()
    }

    /// Returns the name that this node gives itself.
    #[must_use]
    pub fn name(&self) -> &str {
        self.world.name()
    }

    /// The time: use it in place of the system's clock, and the simulator can turn it.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.world.now()
    }

    /// All connected peers, inbound and outbound.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.world.peers()
    }

    /// Returns the connected peer with this identity.
    #[must_use]
    pub fn peer(&self, id: NodeId) -> Option<Peer> {
        self.peers().into_iter().find(|peer| peer.id() == id)
    }

    /// Returns what was noted about a connected peer under `key`. Notes are gone with the link.
    #[must_use]
    pub fn info(&self, peer: NodeId, key: &str) -> Option<Value> {
        // Notes made in this very call are still among the actions.
        let noted = self.actions.iter().rev().find_map(|action| match action {
            Action::SetInfo(of, under, value) if *of == peer && under == key => Some(value.clone()),
            _ => None,
        });
        noted.or_else(|| self.world.info(peer, key))
    }

    /// Notes something about a connected peer under `key`. A peer without a link gets no note.
    pub fn set_info(&mut self, peer: NodeId, key: impl Into<String>, value: impl Into<Value>) {
        self.actions.push(Action::SetInfo(peer, key.into(), value.into()));
    }

    /// Sends a message to a peer; one without a link is dialled, or sent it through others. Where that
    /// can't be done `node_message_failed` says so.
    pub fn send(&mut self, peer: &Peer, message: impl Into<Message>) {
        self.actions.push(Action::Send(peer.clone(), message.into()));
    }

    /// Sends a message to every peer but those in `exclude`. Whom it could not be queued for,
    /// `node_message_failed` tells.
    pub fn send_to_nodes(&mut self, message: impl Into<Message>, exclude: &[NodeId]) {
        self.actions.push(Action::SendToNodes(message.into(), exclude.to_vec()));
    }

    /// Tells the whole network. If that can't be done, `node_broadcast_failed` says why.
    pub fn broadcast(&mut self, title: impl Into<String>, message: impl Into<Message>) {
        self.actions.push(Action::Broadcast(title.into(), message.into()));
    }

    /// Links to `address`; with `reconnect` the link is made again whenever it is lost. The result
    /// comes in `node_connect_completed`, also if there is such a link already, or in
    /// `node_action_failed`. A new link shows in `outbound_node_connected` as well, and a dial that
    /// fails in `outbound_node_connection_error`.
    pub fn connect(&mut self, address: Address, reconnect: bool) -> ActionId {
        self.request(|id| Action::Connect(id, address, reconnect))
    }

    /// Closes the link with a peer, inbound or outbound.
    pub fn disconnect(&mut self, peer: &Peer) {
        self.actions.push(Action::Disconnect(peer.id()));
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
        self.request(|id| Action::Join(id, addresses.to_vec()))
    }

    /// Finds the nodes within `depth` links: 1 is the neighbours, -1 the whole network. Each node
    /// that answers shows in `node_discovered`; all of them come in `node_discovery_completed`, or
    /// `node_action_failed` says why not.
    pub fn discover(&mut self, depth: i32) -> ActionId {
        self.request(|id| Action::Discover(id, depth))
    }

    /// Searches the files that other nodes share, by name. The result comes in
    /// `node_search_completed` or `node_action_failed`. The simulator has no files: a search there
    /// asks all nodes and finds nothing.
    pub fn search(&mut self, text: impl Into<String>) -> ActionId {
        let text = text.into();
        self.request(|id| Action::Search(id, text))
    }

    /// Measures the round-trip time to a node: over its link, or through the network if there is
    /// none. The result comes in `node_ping_completed` or `node_action_failed`.
    pub fn ping(&mut self, node: NodeId) -> ActionId {
        self.request(|id| Action::Ping(id, node))
    }

    /// Fetches the file or folder of this hash to `to`: into it if it is a folder that exists, else
    /// to exactly that path. Every piece is checked against the hash, and no existing file is
    /// overwritten. The result comes in `node_fetch_completed` or `node_action_failed`. In the
    /// simulator a fetch fails, as there are no files.
    pub fn fetch(&mut self, hash: Hash, to: impl Into<PathBuf>) -> ActionId {
        let to = to.into();
        self.request(|id| Action::Fetch(id, hash, to))
    }

    /// Shares a file or folder with everyone: it stays where it is, and others find and fetch it. The
    /// result comes in `node_share_completed` or `node_action_failed`. In the simulator it fails, as
    /// there are no files.
    pub fn share(&mut self, path: impl Into<PathBuf>) -> ActionId {
        let path = path.into();
        self.request(|id| Action::Share(id, path))
    }

    /// Stops this node, as its user would.
    pub fn stop(&mut self) {
        self.actions.push(Action::Stop);
    }

    fn request(&mut self, action: impl FnOnce(ActionId) -> Action) -> ActionId {
        let id = self.world.next_action();
        self.actions.push(action(id));
        id
    }
}
