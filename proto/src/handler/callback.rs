//! A handler that is one callback, which gets events as values.

use std::path::Path;
use std::time::Duration;

use super::{Context, Handler};
use crate::address::Address;
use crate::event::{
    ActionId, Broadcast, Event, MessageFailure, NodeInfo, Parting, Peer, TimerId, Upload,
};
use crate::files::{Changes, FoundFile, SharedFile};
use crate::id::{Hash, NodeId};
use crate::message::Message;

/// A callback as an application. Every event is a value.
///
/// To give up a link after a [`NodeReconnectionError`](Event::NodeReconnectionError), call
/// [`Context::stop_reconnecting`].
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
        changes: &Changes,
    ) {
        let (path, changes) = (path.to_owned(), changes.clone());
        (self.0)(cx, Event::NodeDownloadFinished { hash, path, bytes, changes });
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

    fn node_request_completed(
        &mut self,
        cx: &mut Context<'_>,
        action: ActionId,
        node: NodeId,
        reply: Message,
    ) {
        (self.0)(cx, Event::NodeRequestCompleted { action, node, reply });
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, timer: TimerId) {
        (self.0)(cx, Event::NodeTimer { timer });
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
