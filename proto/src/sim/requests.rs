//! Requests of applications, and the replies to them, over simulated links.

use super::Sim;
use super::link::{Content, Parcel, State, other};
use super::node::{Handle, Node, Seen};
use super::queue::Due;
use super::stats::MESSAGE;
use crate::event::{ActionId, Event, Peer, Reason};
use crate::frame::{MESSAGE_HEAD, Refusal};
use crate::handler::{Context, Handler};
use crate::hello::MAX_PROTOCOL;
use crate::id::NodeId;
use crate::message::Message;

/// A request that waits for its reply.
#[derive(Debug)]
pub(super) struct Waiting {
    node: usize,
    run: u32,
    action: ActionId,
    to: NodeId,
    link: u64,
}

/// A request that has arrived and is to be answered.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) link: u64,
    pub(super) side: usize,
    pub(super) peer: Peer,
    pub(super) request: u64,
    pub(super) name: String,
    pub(super) message: Message,
}

impl<H: Handler> Sim<H> {
    /// Sends a request of a node's application over the link with a peer.
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
        let running = self.nodes[node].running.as_ref();
        let handle = running.and_then(|running| running.handles.get(&to)).cloned();
        let Handle { link: serial, side, .. } =
            handle.ok_or_else(|| format!("not connected to {to}"))?;
        let (len, limit) = (message.body().len(), self.config.max_message);
        if len > limit {
            return Err(format!("a message of {len} bytes is over the limit of {limit} bytes"));
        }
        if name.len() > MAX_PROTOCOL {
            return Err(format!("the name of a request has at most {MAX_PROTOCOL} bytes"));
        }
        let request = self.next_serial();
        let (run, body) = (self.nodes[node].run, message.body().to_vec());
        let content = Content::Request { request, name, message };
        if !self.put_application(serial, side, len, content) {
            return Err(format!("the queue for {to} is full, or the link is ending"));
        }
        self.waiting.insert(request, Waiting { node, run, action, to, link: serial });
        self.queue.put(self.now + self.config.request_timeout, Due::NoReply { request });
        self.sent_on(serial, side, "request", &body);
        Ok(())
    }

    /// Has the application answer a request, and sends the reply.
    pub(super) fn answer_request(&mut self, node: usize, run: u32, asked: Asked) {
        let Asked { link: serial, side, peer, request, name, message } = asked;
        if self.nodes[node].run(run).is_none() {
            return;
        }
        let busy = self
            .links
            .get(&serial)
            .is_some_and(|link| link.lanes[side].replies() >= self.config.max_requests_per_peer);
        let mut actions = Vec::new();
        let Node { id, name: own, app, running, .. } = &mut self.nodes[node];
        let Some(running) = running else { return };
        let seen = Seen { id: *id, name: own, now: self.now, running };
        let outcome = match busy {
            true => Err(Refusal::Busy),
            false => {
                app.node_request(&mut Context::new(&seen, &mut actions), &peer, &name, message)
            }
        };
        let limit = self.config.max_message;
        let outcome = outcome.and_then(|reply| match reply.body().len() {
            len if len > limit => {
                let why = format!("a message of {len} bytes is over the limit of {limit} bytes");
                Err(Refusal::Failed(why))
            }
            _ => Ok(reply),
        });
        self.send_reply(serial, side, request, outcome);
        self.perform(node, actions);
    }

    /// Sends a reply. One that is a refusal is small, and goes with the overlay's frames.
    fn send_reply(
        &mut self,
        serial: u64,
        side: usize,
        request: u64,
        outcome: Result<Message, Refusal>,
    ) {
        let Some(link) = self.links.get_mut(&serial) else { return };
        if !matches!(link.ends[side].state, State::Up | State::Leaving(_)) {
            return;
        }
        let body = outcome.as_ref().map(|reply| reply.body().to_vec()).unwrap_or_default();
        let bytes = body.len() + MESSAGE_HEAD;
        let is_refusal = outcome.is_err();
        let parcel = Parcel { bytes, content: Content::Reply { request, outcome } };
        match is_refusal {
            true => link.lanes[side].urgent(parcel),
            false => link.lanes[side].reply(parcel),
        }
        self.stats.count(MESSAGE, bytes);
        self.sent_on(serial, side, "reply", &body);
    }

    /// A reply has arrived. It is ignored if the request has been given up.
    pub(super) fn replied(&mut self, request: u64, outcome: Result<Message, Refusal>) {
        let Some(waiting) = self.waiting.remove(&request) else { return };
        self.request_ended(waiting, outcome.map_err(|refusal| refusal.to_string()));
    }

    /// The time for a reply is over.
    pub(super) fn no_reply(&mut self, request: u64) {
        let Some(waiting) = self.waiting.remove(&request) else { return };
        let millis = self.config.request_timeout.as_millis();
        self.request_ended(waiting, Err(format!("no answer within {millis} ms")));
    }

    /// Returns whether a node waits for a reply over a link.
    pub(super) fn awaits_reply(&self, node: usize, serial: u64) -> bool {
        self.waiting.values().any(|waiting| (waiting.node, waiting.link) == (node, serial))
    }

    /// A node's link has ended: no reply comes over it any more.
    pub(super) fn fail_requests(&mut self, node: usize, serial: u64, reason: &Reason) {
        let is_over = |waiting: &Waiting| (waiting.node, waiting.link) == (node, serial);
        let over: Vec<_> = self.waiting.extract_if(.., |_, waiting| is_over(waiting)).collect();
        for (_, waiting) in over {
            let error = format!("the link with {} ended: {reason}", waiting.to);
            self.request_ended(waiting, Err(error));
        }
    }

    fn request_ended(&mut self, waiting: Waiting, outcome: Result<Message, String>) {
        let Waiting { node, run, action, to, .. } = waiting;
        if self.nodes[node].run(run).is_some() {
            self.event(
                node,
                match outcome {
                    Ok(reply) => Event::NodeRequestCompleted { action, node: to, reply },
                    Err(error) => Event::NodeActionFailed { action, error },
                },
            );
        }
    }

    /// Puts a request into a link's second lane, with `len` bytes of content. Returns false if it has no
    /// room or takes nothing any more.
    fn put_application(&mut self, serial: u64, side: usize, len: usize, content: Content) -> bool {
        let Some(link) = self.links.get_mut(&serial) else { return false };
        let takes = matches!(link.ends[side].state, State::Up | State::Leaving(_));
        let bytes = len + MESSAGE_HEAD;
        let parcel = Parcel { bytes, content };
        if !takes || link.lanes[side].application(parcel, &self.config).is_err() {
            return false;
        }
        self.stats.count(MESSAGE, bytes);
        true
    }

    /// Notes what was put into a lane of a link, and lets it go.
    fn sent_on(&mut self, serial: u64, side: usize, what: &str, body: &[u8]) {
        if let Some(link) = self.links.get(&serial) {
            let nodes = [link.ends[side].node, link.ends[other(side)].node];
            self.note(what, nodes, body);
            self.pump(serial, side);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Latency, Network, SimConfig};
    use super::*;
    use crate::config::Config;

    const LATENCY: Duration = Duration::from_millis(20);

    /// Answers with what it was asked, and keeps what comes of its own requests and when.
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

    /// Two nodes with a link.
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

    /// What has come to node 0 from `since` on, and how long after that.
    fn outcomes(sim: &mut Sim<Echo>, wait: u64) -> Vec<(Duration, Result<String, String>)> {
        let since = sim.now().since_origin();
        sim.app_mut(0).0.clear();
        sim.run_for(Duration::from_secs(wait));
        let took = |(at, outcome): &(Duration, _)| (*at - since, Clone::clone(outcome));
        sim.app(0).0.iter().map(took).collect()
    }

    #[test]
    fn a_request_takes_a_round_trip_and_comes_back_in_order() {
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
    fn a_slow_line_delays_request_and_reply() {
        let mut sim = pair(Some(1_000_000));
        ask(&mut sim, "echo", &"x".repeat(500_000));
        let (took, _) = outcomes(&mut sim, 5)[0].clone();
        assert!(took > Duration::from_secs(1) && took < Duration::from_millis(1100), "{took:?}");
    }

    #[test]
    fn a_request_times_out_where_the_network_is_split_and_its_late_reply_is_ignored() {
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
    fn a_request_fails_with_its_link_and_without_one() {
        let mut sim = pair(None);
        ask(&mut sim, "echo", "lost");
        sim.crash(1);
        let failed = outcomes(&mut sim, 1);
        let [(took, Err(error))] = &failed[..] else { panic!("{failed:?}") };
        assert!(*took == LATENCY && error.contains("ended: "), "{took:?} {error}");
        ask(&mut sim, "echo", "no link");
        let failed = sim.app(0).0.last().unwrap().1.clone().unwrap_err();
        assert!(failed.starts_with("not connected to"), "{failed}");
        assert!(sim.waiting.is_empty());
    }
}
