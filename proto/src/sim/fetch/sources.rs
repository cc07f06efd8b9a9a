//! How a fetch reaches its sources: it dials them, is called back by them, or connects beside a link with them.

use std::time::Duration;

use super::super::Sim;
use super::super::dial::Reachability;
use super::super::link::DIALLER;
use super::super::network::address;
use super::super::queue::{CallBackStep, SimEvent, StreamStep};
use super::super::stream::SimulatedStream;
use super::{Fault, Input, SourceCandidate, SourceId};
use crate::address::Scheme;
use crate::frame::query::{AnswerBody, QueryAnswer, QueryKind};
use crate::handler::Handler;
use crate::id::NodeId;
use crate::peer::OperationId;

/// The token of all call-backs for streams. A real node draws one for each.
const TOKEN: [u8; 16] = [1; 16];

/// Time before a connection beside a new link is tried again, as on a real node.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// A source that was asked to connect to the node that fetches, or to make a link with it.
#[derive(Debug)]
pub(in crate::sim) struct CallBack {
    fetch: u64,
    source: SourceId,
    pub(in crate::sim) node: usize,
    pub(in crate::sim) id: NodeId,
    has_answered: bool,
}

impl<H: Handler> Sim<H> {
    /// Dials a source. If no address can be dialled, the source calls back, or the two nodes meet.
    pub(super) fn dial_source(
        &mut self,
        fetch_id: u64,
        source: SourceId,
        candidate: &SourceCandidate,
    ) {
        let Some(fetch) = self.transfers.fetches.get(&fetch_id) else { return };
        let node = fetch.node;
        let results: Vec<_> =
            candidate.addresses.iter().map(|at| self.reachable(node, at)).collect();
        let reached = results.iter().find_map(|result| match result {
            // Two round trips: TCP and TLS.
            Reachability::Node(to) => Some((*to, self.latency(node, *to) * 4)),
            _ => None,
        });
        let called_back = candidate.id.and_then(|id| {
            let linked = self.nodes[node].running.as_ref()?.handles.contains_key(&id);
            let to = self.node_of(id).filter(|_| linked)?;
            let back = address(self.nodes[node].announced_ip(node));
            let can_call_back = self.reachable(to, &back) == Reachability::Node(node);
            // One latency for the query that asks for the call-back, then the two round trips of the dial.
            can_call_back.then(|| (to, self.latency(node, to) * 5))
        });
        if let Some((to, wait)) = reached.or(called_back) {
            return self.open_source(fetch_id, source, (to, None), candidate.id, wait);
        }
        if let Some(id) = candidate.id.filter(|_| self.nodes[node].options.meets) {
            return self.ask_for_call_back(fetch_id, source, node, id);
        }
        let refused = results.iter().find_map(|result| match result {
            // One round trip: the SYN and the RST.
            Reachability::NotRunning(to) => Some(self.latency(node, *to) * 2),
            _ => None,
        });
        let at = self.now + refused.unwrap_or(self.config.connect_timeout);
        self.queue.put(at, SimEvent::SourceUnreachable { fetch: fetch_id, source });
    }

    /// Opens a stream to a source, which takes the time `wait`. It may go through a relay.
    fn open_source(
        &mut self,
        fetch_id: u64,
        source: SourceId,
        (to, relay): (usize, Option<usize>),
        expected: Option<NodeId>,
        wait: Duration,
    ) {
        let Some(fetch) = self.transfers.fetches.get(&fetch_id) else { return };
        let (node, hash) = (fetch.node, fetch.hash);
        let stream_id = self.next_id();
        let nodes = [(node, self.nodes[node].run), (to, self.nodes[to].run)];
        let latency = match relay {
            Some(relay) => self.latency(node, relay) + self.latency(relay, to),
            None => self.latency(node, to),
        };
        let opened = SimulatedStream::new(
            (fetch_id, source),
            (hash, expected),
            (nodes, relay),
            latency,
            self.now,
        );
        self.transfers.streams.insert(stream_id, opened);
        if let Some(fetch) = self.transfers.fetches.get_mut(&fetch_id) {
            fetch.streams.insert(source, stream_id);
        }
        self.queue
            .put(self.now + wait, SimEvent::Stream { stream: stream_id, step: StreamStep::Opened });
    }

    /// Reports that no node answers at the addresses of a source.
    pub(in crate::sim) fn source_unreachable(&mut self, fetch_id: u64, source: SourceId) {
        self.fetch_input(fetch_id, Input::Failed { source, fault: Fault::Unreachable });
    }

    /// Asks a source through the network to connect to this node, unless there is a link with it.
    fn ask_for_call_back(&mut self, fetch_id: u64, source: SourceId, node: usize, id: NodeId) {
        let is_linked = |running: &super::super::NodeRun| running.handles.contains_key(&id);
        let is_linked = self.nodes[node].running.as_ref().is_some_and(is_linked);
        let operation = if is_linked {
            self.next_operation()
        } else {
            let what = QueryKind::CallBack { target: id, token: TOKEN, addresses: Vec::new() };
            let Some(operation) = self.begin_query(node, what, -1) else { return };
            operation
        };
        let call_back = CallBack { fetch: fetch_id, source, node, id, has_answered: is_linked };
        self.transfers.call_backs.insert(operation, call_back);
        let overdue = self.now + self.config.connect_timeout;
        let step = CallBackStep::Overdue;
        self.queue.put(overdue, SimEvent::CallBack { operation: operation.0, step });
        if is_linked {
            self.connect_beside_link(operation);
        }
    }

    /// Handles a later step of a call-back.
    pub(in crate::sim) fn step_call_back(&mut self, operation: OperationId, step: CallBackStep) {
        match step {
            CallBackStep::Retry => self.connect_beside_link(operation),
            CallBackStep::Overdue => self.call_back_failed(operation),
        }
    }

    /// Takes an answer to a query for a call-back.
    pub(in crate::sim) fn take_call_back_answer(
        &mut self,
        operation: OperationId,
        answer: &QueryAnswer,
    ) {
        let Some(call_back) = self.transfers.call_backs.get_mut(&operation) else { return };
        if answer.node != call_back.id || answer.body != AnswerBody::Here {
            return;
        }
        call_back.has_answered = true;
        let (node, id) = (call_back.node, call_back.id);
        let Some(to) = self.node_of(id) else { return };
        let back = address(self.nodes[node].announced_ip(node));
        // If this node can be dialled, the source dials it while it answers.
        if self.reachable(to, &back) == Reachability::Node(node)
            && let Some(CallBack { fetch, source, .. }) =
                self.transfers.call_backs.remove(&operation)
        {
            let wait = self.latency(node, to) * 4;
            self.open_source(fetch, source, (to, None), Some(id), wait);
        }
    }

    /// Notes the end of a query for a call-back. If all nodes have answered, but not the source, it does not call back.
    pub(in crate::sim) fn call_back_ended(&mut self, operation: OperationId, complete: bool) {
        let call_back = self.transfers.call_backs.get(&operation);
        if complete && call_back.is_some_and(|call_back| !call_back.has_answered) {
            self.call_back_failed(operation);
        }
    }

    fn call_back_failed(&mut self, operation: OperationId) {
        if let Some(CallBack { fetch, source, .. }) = self.transfers.call_backs.remove(&operation) {
            self.source_unreachable(fetch, source);
        }
    }

    /// Connects a node to the sources with which it has a link now.
    pub(in crate::sim) fn call_backs_linked(&mut self, node: usize, id: NodeId) {
        let waiting = self.transfers.call_backs.iter();
        let waiting = waiting.filter(|(_, call_back)| (call_back.node, call_back.id) == (node, id));
        for operation in waiting.map(|(operation, _)| *operation).collect::<Vec<_>>() {
            self.connect_beside_link(operation);
        }
    }

    /// Opens a stream in the same way as the link with a source: over its connection, or through its relay.
    fn connect_beside_link(&mut self, operation: OperationId) {
        let Some(call_back) = self.transfers.call_backs.get(&operation) else { return };
        let (node, id) = (call_back.node, call_back.id);
        let Some(to) = self.node_of(id) else { return };
        let handle = self.nodes[node].running.as_ref().and_then(|run| run.handles.get(&id));
        let link =
            handle.and_then(|handle| Some((self.links.get(&handle.connection)?, handle.side)));
        let Some((link, side)) = link else { return };
        let (relay, latency) = (link.relay, link.latency);
        let wait = match (link.scheme, relay) {
            // A stream of an open connection needs no handshake.
            (Scheme::Quic, _) => latency * 2,
            (Scheme::Relay, Some(relay)) => {
                // The node that has dialled the relay dials it again. The other one asks for that over the link.
                let (from, target, asking) = match side {
                    DIALLER => (node, id, Duration::ZERO),
                    _ => (to, self.nodes[node].id, latency),
                };
                match self.relay_to(relay, from, target) {
                    // TCP, TLS, the question and its answer, then TLS between the two ends.
                    Ok((_, reached)) => {
                        asking + self.latency(from, relay) * 6 + reached + latency * 2
                    }
                    Err(_) => {
                        let event = SimEvent::CallBack {
                            operation: operation.0,
                            step: CallBackStep::Retry,
                        };
                        return self.queue.put(self.now + RETRY_AFTER, event);
                    }
                }
            }
            _ => return,
        };
        if let Some(CallBack { fetch, source, .. }) = self.transfers.call_backs.remove(&operation) {
            self.open_source(fetch, source, (to, relay), Some(id), wait);
        }
    }
}
