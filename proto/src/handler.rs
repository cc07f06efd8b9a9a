//! The application as a trait. The same application runs on a real node and in the simulator.

mod context;
mod timers;

use std::path::Path;
use std::time::Duration;

pub use self::context::{Action, Context, HandlerHost, MAX_FILE_IN_MEMORY};
pub use self::timers::{MAX_TIMERS, Timers, TooManyTimers};

use crate::address::Address;
use crate::event::{
    ActionId, Broadcast, Event, LinkEnd, MessageFailure, NodeInfo, Peer, Reachability, TimerId,
    Upload,
};
use crate::files::{Changes, FoundFile, SharedFile};
use crate::frame::Refusal;
use crate::id::{Hash, NodeId};
use crate::message::Message;

/// An application. Implement the methods that you need. The others do nothing by default.
///
/// Methods are synchronous and act through the [`Context`]. They are called one at a time. While a
/// method runs, arriving messages wait and their senders are slowed down. So do long work in a
/// separate task or thread.
///
/// The context also begins actions that take time. The result of such an action comes later, as an
/// event:
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
    /// Handles an event. By default this calls the method for the event. Override it to get events
    /// as values. Messages do not come here but to [`node_message`](Self::node_message), as there
    /// may be very many.
    fn on_event(&mut self, cx: &mut Context<'_>, event: Event) {
        event.call_method(self, cx);
    }
    /// A link that this node dialled is up.
    fn outbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {}
    /// A link that the peer dialled is up.
    fn inbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {}
    /// A link that this node dialled has ended.
    fn outbound_node_disconnected(
        &mut self,
        cx: &mut Context<'_>,
        peer: &Peer,
        link_end: &LinkEnd,
    ) {
    }
    /// A link that the peer dialled has ended.
    fn inbound_node_disconnected(&mut self, cx: &mut Context<'_>, peer: &Peer, link_end: &LinkEnd) {
    }
    /// This node is about to close a link that it dialled.
    fn node_disconnect_with_outbound_node(&mut self, cx: &mut Context<'_>, peer: &Peer) {}
    /// This node is about to close a link that the peer dialled.
    fn node_disconnect_with_inbound_node(&mut self, cx: &mut Context<'_>, peer: &Peer) {}
    /// A message has arrived.
    fn node_message(&mut self, cx: &mut Context<'_>, peer: &Peer, message: Message) {}
    /// Messages that this node accepted for `peer` were not delivered, or may not have been.
    fn node_message_failed(&mut self, cx: &mut Context<'_>, peer: &Peer, failure: &MessageFailure) {
    }
    /// A broadcast has arrived. Each broadcast is delivered once.
    ///
    /// The author of a broadcast gets no event for it. A node that joins the network gets the
    /// broadcasts of the last ten minutes.
    fn node_broadcast(&mut self, cx: &mut Context<'_>, broadcast: Broadcast) {}
    /// A broadcast made with [`Context::broadcast`] was not sent.
    fn node_broadcast_failed(&mut self, cx: &mut Context<'_>, title: &str, error: &str) {}
    /// This node has missed `count` broadcasts of `author`, and will not get them any more: see
    /// [`Event::NodeBroadcastsMissed`].
    fn node_broadcasts_missed(&mut self, cx: &mut Context<'_>, author: NodeId, count: u64) {}
    /// A discovery of this node has found a node.
    fn node_discovered(&mut self, cx: &mut Context<'_>, node: &NodeInfo) {}
    /// This node is about to stop. Messages that the handler sends in this method are still sent.
    fn node_request_to_stop(&mut self, cx: &mut Context<'_>) {}
    /// The network's owner has ordered all nodes to stop, so this node is about to stop.
    fn node_shutdown_ordered(&mut self, cx: &mut Context<'_>, owner: NodeId) {}
    /// An order to stop that `peer` passed on was ignored: see [`Event::NodeShutdownRefused`].
    fn node_shutdown_refused(&mut self, cx: &mut Context<'_>, peer: &Peer, why: &str) {}
    /// A download has finished: see [`Event::NodeDownloadFinished`].
    fn node_download_finished(
        &mut self,
        cx: &mut Context<'_>,
        hash: Hash,
        path: &Path,
        bytes: u64,
        changes: &Changes,
    ) {
    }
    /// A download has failed: see [`Event::NodeDownloadFailed`].
    fn node_download_failed(&mut self, cx: &mut Context<'_>, hash: Hash, error: &str) {}
    /// A source of a download sent something that was not requested, and is not used any more: see
    /// [`Event::NodeSourceDropped`].
    fn node_source_dropped(&mut self, cx: &mut Context<'_>, hash: Hash, source: NodeId, why: &str) {
    }
    /// A peer has received all of a file or folder: see [`Event::NodeUploadCompleted`].
    fn node_upload_completed(&mut self, cx: &mut Context<'_>, peer: &Peer, upload: &Upload) {}
    /// A shared file was changed or removed, so this node can't serve it any more: see
    /// [`Event::NodeShareChanged`].
    fn node_share_changed(&mut self, cx: &mut Context<'_>, hash: Hash, name: &str) {}
    /// A link that this node keeps was lost, and `tries` dials to make it again have failed. Return
    /// false to give up the link.
    fn node_reconnection_error(
        &mut self,
        cx: &mut Context<'_>,
        address: &Address,
        tries: u32,
        error: &str,
    ) -> bool {
        true
    }
    /// This node could not connect to an address.
    fn outbound_node_connection_error(
        &mut self,
        cx: &mut Context<'_>,
        address: &Address,
        error: &str,
    ) {
    }
    /// An inbound connection did not become a link. This method is called at most once a second;
    /// [`Event::InboundNodeConnectionError`] also has the number of the other failures.
    fn inbound_node_connection_error(
        &mut self,
        cx: &mut Context<'_>,
        address: &Address,
        error: &str,
    ) {
    }
    /// A discovery begun with [`Context::discover`] has ended. `nodes` has the nodes within the
    /// depth, this node first. `complete` is true if all of them have answered.
    fn node_discovery_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        nodes: &[NodeInfo],
        complete: bool,
    ) {
    }
    /// A search begun with [`Context::search`] has ended.
    fn node_search_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        files: &[FoundFile],
    ) {
    }
    /// A ping sent with [`Context::ping`] was answered.
    fn node_ping_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        node: NodeId,
        rtt: Duration,
    ) {
    }
    /// A fetch begun with [`Context::fetch`] has finished. The content is complete, verified and
    /// stored at `path`.
    fn node_fetch_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        hash: Hash,
        path: &Path,
        bytes: u64,
    ) {
    }
    /// The file or folder given to [`Context::share`] is shared. `skipped` is the number of entries
    /// of a folder that can't be shared.
    fn node_share_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        file: &SharedFile,
        skipped: usize,
    ) {
    }
    /// The link requested with [`Context::connect`] is up. It may have been up before the request.
    fn node_connect_completed(&mut self, cx: &mut Context<'_>, action: ActionId, peer: &Peer) {}
    /// This node has become a member of the network, as requested with [`Context::join`].
    fn node_join_completed(&mut self, cx: &mut Context<'_>, action: ActionId) {}
    /// Answers a request of a peer, or refuses it. `name` is the kind of request. The method has to
    /// return the reply without waiting. If the work takes longer, send its result later in a
    /// message.
    ///
    /// A request is not an [`Event`], so a [`Callback`] refuses all requests. On a real node,
    /// `Node::serve` can register a function for a name. Requests with that name go to the function
    /// and not to the handler.
    ///
    /// # Errors
    /// Return [`Refusal::NoHandler`] for a name that this handler does not know, as the default
    /// method does for every name. Return [`Refusal::Failed`] for a request that this handler can't
    /// answer. The peer's request fails with this error.
    fn node_request(
        &mut self,
        cx: &mut Context<'_>,
        peer: &Peer,
        name: &str,
        request: Message,
    ) -> Result<Message, Refusal> {
        Err(Refusal::NoHandler)
    }
    /// A request made with [`Context::request`] was answered with `reply`.
    fn node_request_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        node: NodeId,
        reply: Message,
    ) {
    }
    /// A timer set with [`Context::set_timer`] has expired. No timer expires once the node is
    /// stopping.
    fn on_timer(&mut self, cx: &mut Context<'_>, timer: TimerId) {}
    /// An action of this handler has failed: a connect, join, discovery, search, ping, fetch, share
    /// or request, or a timer that was not set. [`Context::disconnect`],
    /// [`Context::penalize`] and [`Context::stop_reconnecting`] return no [`ActionId`]. If such an action is dropped because
    /// too many actions are waiting, this method is called with a new [`ActionId`].
    fn node_action_failed(&mut self, cx: &mut Context<'_>, action: ActionId, error: &str) {}
    /// This handler was too slow, so `missed` events were dropped for it. Messages are not among
    /// them.
    fn node_lagged(&mut self, cx: &mut Context<'_>, missed: u64) {}
    /// This handler panicked while it handled `event`. The node and its links keep running.
    fn node_handler_panicked(&mut self, cx: &mut Context<'_>, event: &'static str, panic: &str) {}
    /// The clock of `peer` is `seconds` ahead of this node's: see [`Event::NodeClockSkew`].
    fn node_clock_skew(&mut self, cx: &mut Context<'_>, peer: &Peer, seconds: i64) {}
    /// Other nodes reach this node in another way than before: see [`Event::NodeReachabilityChanged`].
    fn node_reachability_changed(
        &mut self,
        cx: &mut Context<'_>,
        reachability: Reachability,
        why: &str,
    ) {
    }
}

/// A callback as an application. It gets every event as a value.
///
/// To give up a link in a [`NodeReconnectionError`](Event::NodeReconnectionError), the callback
/// calls [`Context::stop_reconnecting`].
pub struct Callback<F>(pub F);

impl<F: FnMut(&mut Context<'_>, Event) + Send> Handler for Callback<F> {
    fn on_event(&mut self, cx: &mut Context<'_>, event: Event) {
        (self.0)(cx, event);
    }

    fn node_message(&mut self, cx: &mut Context<'_>, peer: &Peer, message: Message) {
        (self.0)(cx, Event::NodeMessage { peer: peer.clone(), message });
    }
}

impl Event {
    /// Passes the event to a handler.
    pub fn deliver(self, handler: &mut dyn Handler, cx: &mut Context<'_>) {
        match self {
            Self::NodeMessage { peer, message } => handler.node_message(cx, &peer, message),
            event => handler.on_event(cx, event),
        }
    }

    /// Calls the method of the handler for this event.
    fn call_method<H: Handler + ?Sized>(self, handler: &mut H, cx: &mut Context<'_>) {
        match self {
            Self::OutboundNodeConnected { peer } => handler.outbound_node_connected(cx, &peer),
            Self::InboundNodeConnected { peer } => handler.inbound_node_connected(cx, &peer),
            Self::OutboundNodeDisconnected { peer, link_end } => {
                handler.outbound_node_disconnected(cx, &peer, &link_end);
            }
            Self::InboundNodeDisconnected { peer, link_end } => {
                handler.inbound_node_disconnected(cx, &peer, &link_end);
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
            Self::NodeDownloadFinished { hash, path, bytes, changes } => {
                handler.node_download_finished(cx, hash, &path, bytes, &changes);
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
            Self::InboundNodeConnectionError { address, error, others: _ } => {
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
            Self::NodeRequestCompleted { action, node, reply } => {
                handler.node_request_completed(cx, action, node, reply);
            }
            Self::NodeTimer { timer } => handler.on_timer(cx, timer),
            Self::NodeActionFailed { action, error } => {
                handler.node_action_failed(cx, action, &error);
            }
            Self::NodeLagged { missed } => handler.node_lagged(cx, missed),
            Self::NodeHandlerPanicked { event, panic } => {
                handler.node_handler_panicked(cx, event, &panic);
            }
            Self::NodeClockSkew { peer, seconds } => handler.node_clock_skew(cx, &peer, seconds),
            Self::NodeReachabilityChanged { reachability, why } => {
                handler.node_reachability_changed(cx, reachability, &why);
            }
        }
    }
}
