//! Requests of applications and the replies to them, over simulated links or relayed by other nodes.

use super::Sim;
use super::link::{EndpointState, LinkContent, LinkItem, other};
use super::node::{SimulatedHandlerHost, SimulatedNode};
use super::queue::SimEvent;
use super::stats::MESSAGE;
use crate::event::{ActionId, Event, Peer, Reason};
use crate::frame::{MESSAGE_HEADER_LEN, Refusal};
use crate::handler::{Context, Handler};
use crate::hello::MAX_PROTOCOL;
use crate::id::NodeId;
use crate::message::Message;
use crate::peer::{ConnectionId, Input, OperationId};

/// A request that waits for its reply.
#[derive(Debug)]
pub(super) struct PendingRequest {
    node: usize,
    run: u32,
    action: ActionId,
    to: NodeId,
    /// The link over which it was sent; `None` if other nodes relay it, or it is not sent yet.
    connection: Option<ConnectionId>,
}

/// A request that has arrived and has no answer yet.
#[derive(Debug)]
pub(super) struct IncomingRequest {
    pub(super) path: RequestPath,
    pub(super) peer: Peer,
    pub(super) name: String,
    pub(super) message: Message,
}

/// The way on which a request has arrived. It decides how the reply is sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum RequestPath {
    /// A link.
    Link { connection: ConnectionId, side: usize, request: u64 },
    /// Other nodes have relayed the request. The machine knows it by this id.
    Relayed { id: u64 },
}

impl<H: Handler> Sim<H> {
    /// Sends a request of a node's application, over the link with the peer if there is one. A request that
    /// can't be sent fails with an event.
    pub(super) fn send_request(
        &mut self,
        node: usize,
        action: ActionId,
        to: NodeId,
        name: String,
        message: Message,
    ) {
        if let Err(error) = self.try_request(node, action, to, name, message) {
            self.event(node, Event::NodeActionFailed { action, error });
        }
    }

    fn try_request(
        &mut self,
        node: usize,
        action: ActionId,
        to: NodeId,
        name: String,
        message: Message,
    ) -> Result<(), String> {
        let Some(running) = &self.nodes[node].running else { return Ok(()) };
        // Earlier messages may still be queued for an on-demand link that has just come up. The request has to
        // stay behind them.
        let waits = running.machine.has_messages_for(to);
        let handle = running.handles.get(&to).filter(|_| !waits).cloned();
        let (len, limit) = (message.body().len(), self.config.max_message);
        if len > limit {
            return Err(format!("a message of {len} bytes is over the limit of {limit} bytes"));
        }
        if name.len() > MAX_PROTOCOL {
            return Err(format!("the name of a request has at most {MAX_PROTOCOL} bytes"));
        }
        let request = self.next_id();
        let run = self.nodes[node].run;
        self.pending_requests
            .insert(request, PendingRequest { node, run, action, to, connection: None });
        self.queue
            .put(self.now + self.config.request_timeout, SimEvent::RequestTimeout { request });
        match handle {
            Some(handle) => self.request_over(node, request, handle.connection, name, message),
            None => self.request_without_link(node, OperationId(request), to, (name, message)),
        }
        Ok(())
    }

    /// Sends a request over a link, unless the request has ended.
    pub(super) fn request_over(
        &mut self,
        node: usize,
        request: u64,
        connection: ConnectionId,
        name: String,
        message: Message,
    ) {
        let side = self.links.get(&connection).and_then(|link| link.side_of(node));
        let Some(waiting) = self.pending_requests.get_mut(&request) else { return };
        // From now on the request fails if the link ends.
        waiting.connection = Some(connection);
        let to = waiting.to;
        let (len, body) = (message.body().len(), message.body().to_vec());
        let content = LinkContent::Request { request, name, message };
        let Some(side) = side.filter(|side| self.queue_request(connection, *side, len, content))
        else {
            let error = format!("the queue for {to} is full, or the link is ending");
            return self.request_not_sent(request, error);
        };
        self.sent_on(connection, side, "request", &body);
    }

    /// Ends a request that could not be sent.
    pub(super) fn request_not_sent(&mut self, request: u64, error: String) {
        if let Some(waiting) = self.pending_requests.remove(&request) {
            self.request_ended(waiting, Err(error));
        }
    }

    /// Makes a node's application answer a request, and sends the reply.
    pub(super) fn answer_request(&mut self, node: usize, run: u32, incoming: IncomingRequest) {
        let IncomingRequest { path, peer, name, message } = incoming;
        if self.nodes[node].in_run(run).is_none() {
            return;
        }
        let max = self.config.max_requests_per_peer;
        // Applications answer in no time here, so a request counts as open until the line sends its reply.
        let busy = match path {
            RequestPath::Link { connection, side, .. } => self
                .links
                .get(&connection)
                .is_some_and(|link| link.outboxes[side].queued_replies() >= max),
            RequestPath::Relayed { .. } => false,
        };
        let mut actions = Vec::new();
        let SimulatedNode { id, name: own, app, running, disk, .. } = &mut self.nodes[node];
        let Some(running) = running else { return };
        let host = SimulatedHandlerHost { id: *id, name: own, now: self.now, running, disk };
        let outcome = if busy {
            Err(Refusal::Busy)
        } else {
            app.node_request(&mut Context::new(&host, &mut actions), &peer, &name, message)
        };
        let limit = self.config.max_message;
        let outcome = outcome.and_then(|reply| match reply.body().len() {
            len if len > limit => {
                let why = format!("a message of {len} bytes is over the limit of {limit} bytes");
                Err(Refusal::Failed(why))
            }
            _ => Ok(reply),
        });
        match path {
            RequestPath::Link { connection, side, request } => {
                self.send_reply(connection, side, request, outcome);
            }
            RequestPath::Relayed { id } => self.reply_without_link(node, peer.id(), id, outcome),
        }
        // After the reply, so that messages which the handler has sent arrive after the reply.
        self.perform(node, actions);
    }

    /// Sends a reply over a link. A refusal is small, and goes with the overlay's frames.
    fn send_reply(
        &mut self,
        connection: ConnectionId,
        side: usize,
        request: u64,
        outcome: Result<Message, Refusal>,
    ) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        // The requester learns of the end of the link, which ends its request.
        if !matches!(link.endpoints[side].state, EndpointState::Up | EndpointState::Leaving(_)) {
            return;
        }
        let body = outcome.as_ref().map(|reply| reply.body().to_vec()).unwrap_or_default();
        let bytes = body.len() + MESSAGE_HEADER_LEN;
        let is_refusal = outcome.is_err();
        let item = LinkItem { bytes, content: LinkContent::Reply { request, outcome } };
        if is_refusal {
            link.outboxes[side].queue_unlimited(item);
        } else {
            link.outboxes[side].queue_reply(item);
        }
        self.stats.count(MESSAGE, bytes);
        self.sent_on(connection, side, "reply", &body);
    }

    /// Ends a request with its reply. The reply is ignored if the request has already ended.
    pub(super) fn replied(&mut self, request: u64, outcome: Result<Message, Refusal>) {
        let Some(waiting) = self.pending_requests.remove(&request) else { return };
        self.request_ended(waiting, outcome.map_err(|refusal| refusal.to_string()));
    }

    /// Ends a request whose reply has not arrived in time.
    pub(super) fn request_timed_out(&mut self, request: u64) {
        // The event stays in the queue when a reply arrives. Then it finds no request here.
        let Some(waiting) = self.pending_requests.remove(&request) else { return };
        // The machine remembers a relayed request until it gets the reply, or until this input.
        if waiting.connection.is_none() && self.nodes[waiting.node].in_run(waiting.run).is_some() {
            let operation = OperationId(request);
            self.input(waiting.node, Input::RequestEnded { operation });
        }
        let millis = self.config.request_timeout.as_millis();
        self.request_ended(waiting, Err(format!("no answer within {millis} ms")));
    }

    /// Returns whether a node waits for a reply over a link.
    pub(super) fn awaits_reply(&self, node: usize, connection: ConnectionId) -> bool {
        self.pending_requests
            .values()
            .any(|waiting| (waiting.node, waiting.connection) == (node, Some(connection)))
    }

    /// Fails the requests that a node has sent over a link which has ended.
    pub(super) fn fail_requests(&mut self, node: usize, connection: ConnectionId, reason: &Reason) {
        let is_over = |waiting: &PendingRequest| {
            (waiting.node, waiting.connection) == (node, Some(connection))
        };
        let over: Vec<_> =
            self.pending_requests.extract_if(.., |_, waiting| is_over(waiting)).collect();
        for (_, waiting) in over {
            let error = format!("the link with {} ended: {reason}", waiting.to);
            self.request_ended(waiting, Err(error));
        }
    }

    fn request_ended(&mut self, waiting: PendingRequest, outcome: Result<Message, String>) {
        let PendingRequest { node, run, action, to, .. } = waiting;
        if self.nodes[node].in_run(run).is_some() {
            self.event(
                node,
                match outcome {
                    Ok(reply) => Event::NodeRequestCompleted { action, node: to, reply },
                    Err(error) => Event::NodeActionFailed { action, error },
                },
            );
        }
    }

    /// Queues a request, whose content has `len` bytes, among the messages of a link. Returns false if there is
    /// no room or the link is being closed.
    fn queue_request(
        &mut self,
        connection: ConnectionId,
        side: usize,
        len: usize,
        content: LinkContent,
    ) -> bool {
        let Some(link) = self.links.get_mut(&connection) else { return false };
        let takes =
            matches!(link.endpoints[side].state, EndpointState::Up | EndpointState::Leaving(_));
        let bytes = len + MESSAGE_HEADER_LEN;
        let item = LinkItem { bytes, content };
        if !takes || link.outboxes[side].queue_message(item, &self.config).is_err() {
            return false;
        }
        self.stats.count(MESSAGE, bytes);
        true
    }

    /// Adds a queued request or reply to the trace, and sends as much of the queue as the line can take.
    fn sent_on(&mut self, connection: ConnectionId, side: usize, what: &str, body: &[u8]) {
        if let Some(link) = self.links.get(&connection) {
            let nodes = [link.endpoints[side].node, link.endpoints[other(side)].node];
            self.trace_event(what, nodes, body);
            self.transmit(connection, side);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Latency, Network, SimConfig};
    use super::*;
    use crate::config::Config;
    use crate::sim::NodeOptions;

    const LATENCY: Duration = Duration::from_millis(20);

    /// Answers requests, and records the outcomes of its own requests with their times.
    #[derive(Default)]
    struct Echo(Vec<(Duration, Result<String, String>)>);

    impl Echo {
        fn add(&mut self, cx: &Context<'_>, outcome: Result<String, String>) {
            self.0.push((cx.now().since_origin(), outcome));
        }
    }

    impl Handler for Echo {
        fn node_message(&mut self, cx: &mut Context<'_>, _: &Peer, message: Message) {
            self.add(cx, Ok(message.as_text().unwrap_or_default().to_owned()));
        }

        fn node_request(
            &mut self,
            cx: &mut Context<'_>,
            peer: &Peer,
            name: &str,
            request: Message,
        ) -> Result<Message, Refusal> {
            match name {
                "echo" => Ok(request),
                "large" => Ok("x".repeat(1 << 25).into()),
                "after" => {
                    cx.send(peer, "after the reply");
                    Ok("reply".into())
                }
                "fail" => Err(Refusal::Failed("not today".into())),
                _ => Err(Refusal::NoHandler),
            }
        }

        fn node_request_completed(
            &mut self,
            cx: &mut Context<'_>,
            _: ActionId,
            _: NodeId,
            reply: Message,
        ) {
            self.add(cx, Ok(reply.as_text().unwrap_or_default().to_owned()));
        }

        fn node_action_failed(&mut self, cx: &mut Context<'_>, _: ActionId, error: &str) {
            self.add(cx, Err(error.to_owned()));
        }
    }

    /// Returns a simulation of two nodes with a link.
    fn pair(bandwidth: Option<u64>) -> Sim<Echo> {
        let network = Network { latency: Latency::Fixed(LATENCY), bandwidth, ..Network::default() };
        let mut sim = Sim::new(SimConfig { seed: 3, network, ..SimConfig::default() });
        sim.add(Echo::default());
        sim.add(Echo::default());
        sim.connect(0, 1);
        assert!(sim.run_until(Duration::from_secs(5), |sim| sim.links().len() == 1));
        sim.run_for(Duration::from_secs(1));
        sim
    }

    fn ask(sim: &mut Sim<Echo>, name: &str, text: &str) {
        let to = sim.id(1);
        sim.with(0, |_, cx| cx.request(to, name, text));
    }

    /// Lets `seconds` pass. Returns the messages and outcomes that arrive at node 0 in that time, each with the
    /// time since the beginning.
    fn outcomes(sim: &mut Sim<Echo>, seconds: u64) -> Vec<(Duration, Result<String, String>)> {
        let since = sim.now().since_origin();
        sim.app_mut(0).0.clear();
        sim.run_for(Duration::from_secs(seconds));
        let took = |(at, outcome): &(Duration, _)| (*at - since, Clone::clone(outcome));
        sim.app(0).0.iter().map(took).collect()
    }

    #[test]
    fn a_request_takes_one_round_trip_and_replies_keep_their_order() {
        let mut sim = pair(None);
        ask(&mut sim, "echo", "one");
        ask(&mut sim, "after", "");
        ask(&mut sim, "fail", "");
        ask(&mut sim, "unknown", "");
        ask(&mut sim, "large", "");
        let texts = outcomes(&mut sim, 1);
        assert!(texts.iter().all(|(took, _)| *took == 2 * LATENCY), "{texts:?}");
        let texts: Vec<_> = texts.into_iter().map(|(_, outcome)| outcome).collect();
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(texts[..3], [ok("one"), ok("reply"), ok("after the reply")]);
        let failed: Vec<_> = texts[3..].iter().map(|text| text.clone().unwrap_err()).collect();
        assert!(failed[0].contains("not today"), "{failed:?}");
        assert!(failed[1].contains("no handler of that name"), "{failed:?}");
        assert!(failed[2].contains("over the limit"), "{failed:?}");
    }

    #[test]
    fn the_bandwidth_delays_a_request_and_its_reply() {
        let mut sim = pair(Some(1_000_000));
        ask(&mut sim, "echo", &"x".repeat(500_000));
        let (took, _) = outcomes(&mut sim, 5)[0].clone();
        assert!(took > Duration::from_secs(1) && took < Duration::from_millis(1100), "{took:?}");
    }

    #[test]
    fn a_request_across_a_partition_times_out_and_its_late_reply_is_ignored() {
        let mut sim = pair(None);
        sim.partition(&[&[0]]);
        ask(&mut sim, "echo", "lost");
        let timeout = Config::default().request_timeout;
        let late = outcomes(&mut sim, timeout.as_secs() + 1);
        let [(took, Err(error))] = &late[..] else { panic!("{late:?}") };
        assert!(*took == timeout && error == "no answer within 10000 ms", "{took:?} {error}");
        sim.heal();
        assert!(outcomes(&mut sim, 10).is_empty());
        ask(&mut sim, "echo", "again");
        assert_eq!(outcomes(&mut sim, 1), [(2 * LATENCY, Ok("again".to_owned()))]);
    }

    #[test]
    fn a_request_fails_if_its_link_ends_or_no_node_knows_the_recipient() {
        let mut sim = pair(None);
        ask(&mut sim, "echo", "lost");
        sim.crash(1);
        let failed = outcomes(&mut sim, 1);
        let [(took, Err(error))] = &failed[..] else { panic!("{failed:?}") };
        assert!(*took == LATENCY && error.contains("ended: "), "{took:?} {error}");
        ask(&mut sim, "echo", "no link");
        let failed = sim.app(0).0.last().unwrap().1.clone().unwrap_err();
        assert!(failed.contains("knows where that node is"), "{failed}");
        assert!(sim.pending_requests.is_empty() && sim.pending_sends.is_empty());
    }

    /// Returns three nodes in a line: 0, then 2, then 1. `is_dialable` is for nodes 0 and 1.
    fn line(is_dialable: [bool; 2]) -> Sim<Echo> {
        let latency = Latency::Fixed(LATENCY);
        let network = Network { latency, ..Network::default() };
        let mut sim = Sim::new(SimConfig { seed: 3, network, ..SimConfig::default() });
        for dialable in [is_dialable[0], is_dialable[1], true] {
            sim.add_with(NodeOptions { dialable, ..NodeOptions::default() }, Echo::default());
        }
        sim.connect(0, 2);
        sim.connect(1, 2);
        assert!(sim.run_until(Duration::from_secs(5), |sim| sim.links().len() == 2));
        sim.run_for(Duration::from_secs(1));
        sim
    }

    #[test]
    fn a_request_to_a_node_without_a_link_makes_a_link_on_demand() {
        let mut sim = line([true, true]);
        ask(&mut sim, "echo", "hello");
        ask(&mut sim, "unknown", "");
        let outcomes = outcomes(&mut sim, 5);
        assert_eq!(outcomes[0].1, Ok("hello".to_owned()));
        assert!(outcomes[1].1.clone().unwrap_err().contains("no handler of that name"));
        assert!(
            outcomes.iter().all(|(took, _)| *took < Duration::from_millis(500)),
            "{outcomes:?}"
        );
        assert_eq!(sim.links().len(), 3, "a link was made on demand");
        assert!(sim.pending_requests.is_empty() && sim.pending_sends.is_empty());
    }

    #[test]
    fn a_request_to_a_node_behind_a_nat_is_relayed_and_that_node_dials_to_reply() {
        let mut sim = line([true, false]);
        ask(&mut sim, "echo", "hello");
        let got = outcomes(&mut sim, 9);
        assert_eq!(got.len(), 1, "{got:?}");
        assert_eq!(got[0].1, Ok("hello".to_owned()));
        assert_eq!(sim.links().len(), 3, "the node behind the NAT has dialled the requester");
        ask(&mut sim, "echo", "again");
        assert_eq!(outcomes(&mut sim, 5), [(2 * LATENCY, Ok("again".to_owned()))]);
    }

    #[test]
    fn requests_and_replies_between_two_nodes_behind_nats_are_relayed() {
        let mut sim = line([false, false]);
        for (name, wanted) in [("echo", Ok("hello")), ("unknown", Err("no handler of that name"))] {
            ask(&mut sim, name, "hello");
            let got = outcomes(&mut sim, 9);
            match (&got[..], wanted) {
                ([(_, Ok(got))], Ok(wanted)) => assert_eq!(got, wanted),
                ([(_, Err(got))], Err(wanted)) => assert!(got.contains(wanted), "{got}"),
                _ => panic!("{got:?}"),
            }
        }
        assert_eq!(sim.links().len(), 2, "no link can be made");
        // The reply is too large for other nodes to relay, and the refusal says so.
        ask(&mut sim, "large", "");
        let got = outcomes(&mut sim, 9);
        assert!(got[0].1.clone().unwrap_err().contains("over the limit"), "{got:?}");
    }

    #[test]
    fn a_request_to_a_node_without_a_link_times_out() {
        let mut sim = line([false, false]);
        let to = sim.id(1);
        // The request is relayed, and then the network is split, so that no reply can come back.
        sim.with(0, |_, cx| cx.request(to, "echo", "lost"));
        sim.run_for(Duration::from_millis(3500));
        sim.partition(&[&[0]]);
        let timeout = Config::default().request_timeout;
        let got = outcomes(&mut sim, timeout.as_secs());
        let [(_, Err(error))] = &got[..] else { panic!("{got:?}") };
        assert!(
            error.contains("no answer within") || error.contains("nothing came back"),
            "{error}"
        );
        assert!(sim.pending_requests.is_empty() && sim.pending_sends.is_empty());
    }
}
