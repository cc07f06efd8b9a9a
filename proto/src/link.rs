//! One link as a state machine: Hello, incoming frames, liveness, acknowledgements and goodbye.
//!
//! TLS is below it. The shell has proven the peer's identity before the first byte comes here, and
//! carries the bytes. Outgoing frames go through the queues of the shell. The shell reports when it has
//! sent bytes, as a link sends pings only if nothing else was sent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use crate::config::Config;
use crate::event::Reason;
use crate::frame::{Frame, FrameError, Frames, Messages};
use crate::hello::{Hello, Proof};
use crate::time::{Instant, earliest};
use crate::versions::Agreement;

#[cfg(test)]
mod tests;

/// Most open pings of ours. If there are more, the oldest is forgotten.
const MAX_PINGS: usize = 64;

/// Messages, and bytes of them, after which an acknowledgement does not wait for its delay. So fewer
/// messages are unconfirmed if the link is lost. Each acknowledgement costs both ends a system call and
/// more. 4 MiB: a few milliseconds on the fastest links.
const ACK_MESSAGES: u64 = 65_536;
const ACK_BYTES: usize = 4 << 20;

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    side: Side,
    /// Kept until the link is up.
    greeting: Option<Box<Greeting>>,
    agreed: Option<Agreement>,
    config: Arc<Config>,
    stage: LinkStage,
    opened: Instant,
    last_received: Instant,
    last_sent: Instant,
    /// Set while the shell does not read, because the application has no room. The silence is not the
    /// peer's.
    paused: bool,
    next_ping: u64,
    pings: BTreeMap<u64, Instant>,
    rtt: Option<Duration>,
    /// Number of application messages received, and of those that are acknowledged.
    received: u64,
    acknowledged: u64,
    unacknowledged_bytes: usize,
    /// The time of the next acknowledgement.
    ack_at: Option<Instant>,
    /// Number of our messages that the peer has acknowledged.
    confirmed: u64,
    outputs: VecDeque<Output>,
}

/// An end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This node has dialled. Its Hello goes first.
    Dialler,
    /// This node was dialled. Its Hello goes out once the peer's is admitted.
    Acceptor,
}

/// This node's Hello, and what it expects of the peer's.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// Our Hello.
    pub hello: Hello,
    /// The proof that the peer's Hello has to have, if the network has a secret.
    pub expected: Option<Proof>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkStage {
    /// The peer's Hello has not been received.
    AwaitingHello,
    /// The peer's Hello is valid. The shell has yet to admit it.
    AwaitingAdmission,
    /// The link is up.
    Open,
    /// One end has said goodbye. Frames are still received.
    Closing,
    /// The link is over.
    Closed,
}

/// An output of a link.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Queue a control frame.
    Send(Frame),
    /// The peer's Hello is valid. Answer with [`Link::admit`] or [`Link::refuse`].
    Greeted(Hello),
    /// Messages for the application, in order. There is at least one.
    Messages(Messages),
    /// Another frame for the overlay or the application. A message here has to be decompressed or
    /// refused.
    Frame(Frame),
    /// The peer has said goodbye. Send the queued frames, say goodbye too, and close the connection.
    GoodbyeReceived(Reason),
    /// The link is over. Close the connection. This is the last output.
    Closed(Reason),
}

impl Link {
    /// Creates a link on a connection that has just been secured.
    #[must_use]
    pub fn new(now: Instant, side: Side, greeting: Greeting, config: &Arc<Config>) -> Self {
        let mut outputs = VecDeque::new();
        if side == Side::Dialler {
            outputs.push_back(Output::Send(Frame::Hello(greeting.hello.clone())));
        }
        Self {
            side,
            greeting: Some(Box::new(greeting)),
            agreed: None,
            config: config.clone(),
            stage: LinkStage::AwaitingHello,
            opened: now,
            last_received: now,
            last_sent: now,
            paused: false,
            next_ping: 0,
            pings: BTreeMap::new(),
            rtt: None,
            received: 0,
            acknowledged: 0,
            unacknowledged_bytes: 0,
            ack_at: None,
            confirmed: 0,
            outputs,
        }
    }

    /// Takes the whole frames off the front of `buffer`, to which the shell has added received bytes.
    ///
    /// A frame that breaks the protocol closes the link. Nothing behind it is read.
    pub fn receive(&mut self, now: Instant, buffer: &mut BytesMut) {
        self.last_received = now;
        if self.stage == LinkStage::Closed {
            buffer.clear();
            return;
        }
        if self.stage == LinkStage::AwaitingHello {
            // A stranger gets no memory but for its Hello.
            let first = Frames::split_first(buffer, &self.config);
            self.take_frames(now, first);
            if matches!(self.stage, LinkStage::AwaitingHello | LinkStage::Closed) {
                return;
            }
        }
        // The peer need not wait for the answer to its Hello: frames may come right behind it.
        let frames = Frames::split(buffer, &self.config);
        self.take_frames(now, frames);
    }

    /// Admits the peer's Hello. The link is up then.
    pub fn admit(&mut self, now: Instant) {
        if self.stage == LinkStage::AwaitingAdmission {
            self.stage = LinkStage::Open;
            // The time until the shell has decided is not silence of the peer.
            (self.last_received, self.last_sent) = (now, now);
            if let Some(greeting) = self.greeting.take()
                && self.side == Side::Acceptor
            {
                // It goes before the answers to frames that came right behind the peer's Hello.
                self.outputs.push_front(Output::Send(Frame::Hello(greeting.hello)));
            }
            // Makes the round-trip time known from the start.
            self.ping(now);
        }
    }

    /// Closes the link because the peer is refused or has broken the protocol. A goodbye says why.
    pub fn refuse(&mut self, reason: Reason) {
        if self.stage != LinkStage::Closed {
            let goodbye = Frame::Goodbye { reason: reason.clone(), received: self.received };
            self.outputs.push_back(Output::Send(goodbye));
            self.close(reason);
        }
    }

    /// Begins to close the link. The queued frames may still go out.
    ///
    /// Returns the goodbye, which the shell sends last. Frames are still received.
    pub fn begin_close(&mut self, reason: Reason) -> Frame {
        if self.stage != LinkStage::Closed {
            self.stage = LinkStage::Closing;
        }
        Frame::Goodbye { reason, received: self.received }
    }

    /// Notes that bytes were written to the connection at `now`.
    pub fn sent(&mut self, now: Instant) {
        // A ping that was queued meanwhile may have set a later time.
        self.last_sent = self.last_sent.max(now);
    }

    /// Notes that the application has received `messages` of `bytes` in all. They are acknowledged.
    pub fn delivered(&mut self, now: Instant, messages: u64, bytes: usize) {
        self.received = self.received.saturating_add(messages);
        self.unacknowledged_bytes = self.unacknowledged_bytes.saturating_add(bytes);
        if self.received - self.acknowledged >= ACK_MESSAGES
            || self.unacknowledged_bytes >= ACK_BYTES
        {
            self.acknowledge();
        } else if self.ack_at.is_none() && self.received > self.acknowledged {
            self.ack_at = Some(now + self.config.ack_delay);
        }
    }

    /// Notes that the shell does not read, as the application has no room. Until [`Link::resume`] the
    /// peer's silence does not end the link.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Notes that the shell reads again.
    pub fn resume(&mut self, now: Instant) {
        self.paused = false;
        self.last_received = now;
    }

    /// Returns the version and the features that both ends speak; `None` before the peer's Hello.
    #[must_use]
    pub fn agreed(&self) -> Option<Agreement> {
        self.agreed
    }

    /// Sends a ping and returns its number. [`Link::rtt`] has its result once the pong is received.
    pub fn ping(&mut self, now: Instant) -> u64 {
        let nonce = self.next_ping;
        self.next_ping += 1;
        self.pings.insert(nonce, now);
        if self.pings.len() > MAX_PINGS {
            self.pings.pop_first();
        }
        self.outputs.push_back(Output::Send(Frame::Ping(nonce)));
        self.last_sent = now;
        nonce
    }

    /// Returns whether ping `nonce` still waits for its pong.
    #[must_use]
    pub fn awaits_pong(&self, nonce: u64) -> bool {
        self.pings.contains_key(&nonce)
    }

    /// Returns the last round-trip time.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Returns the number of our messages that the peer's application has received, as the peer says.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Returns the next output, or `None` if there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Does what is due at `now`: sends pings and acknowledgements, or ends a silent link.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.stage {
            LinkStage::Closed => {}
            LinkStage::AwaitingHello | LinkStage::AwaitingAdmission => {
                if self.dead_at() <= now {
                    self.refuse(Reason::HandshakeTimeout);
                }
            }
            LinkStage::Open | LinkStage::Closing => {
                // While the shell does not read, it can't tell whether the peer is silent.
                if !self.paused && self.dead_at() <= now {
                    return self.close(Reason::Silent(self.config.dead_after));
                }
                if self.ack_at.is_some_and(|at| at <= now) {
                    self.acknowledge();
                }
                // A goodbye is the last frame, so a link that is closing sends no more pings.
                if self.stage == LinkStage::Open && self.ping_at() <= now {
                    self.ping(now);
                }
            }
        }
    }

    /// Returns when [`Link::handle_timeout`] is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            LinkStage::Closed => None,
            LinkStage::AwaitingHello | LinkStage::AwaitingAdmission => Some(self.dead_at()),
            LinkStage::Open | LinkStage::Closing => {
                let ping = (self.stage == LinkStage::Open).then(|| self.ping_at());
                let dead = (!self.paused).then(|| self.dead_at());
                earliest(self.ack_at, earliest(ping, dead))
            }
        }
    }

    /// Frees memory that an idle link does not need.
    pub fn shrink(&mut self) {
        self.outputs.shrink_to_fit();
        if self.pings.is_empty() {
            // An emptied map keeps the memory of one of its nodes.
            self.pings = BTreeMap::new();
        }
    }

    fn take_frames(&mut self, now: Instant, frames: Result<Frames, FrameError>) {
        let mut frames = match frames {
            Ok(frames) if self.agreed.is_some_and(Agreement::has_added_fields) => {
                frames.skip_added_fields()
            }
            Ok(frames) => frames,
            Err(fault) => return self.refuse(Reason::Fault(fault.to_string())),
        };
        loop {
            // Messages before Hello are a fault, which `on_frame` finds.
            if self.stage != LinkStage::AwaitingHello {
                let messages = frames.take_messages();
                if messages.len() != 0 {
                    self.outputs.push_back(Output::Messages(messages));
                }
            }
            let Some(frame) = frames.next() else { return };
            match frame {
                Ok(frame) => self.on_frame(now, frame),
                Err(fault) => self.refuse(Reason::Fault(fault.to_string())),
            }
            // Nothing behind a fault is read.
            if self.stage == LinkStage::Closed {
                return;
            }
        }
    }

    fn on_frame(&mut self, now: Instant, frame: Frame) {
        match (self.stage, frame) {
            (LinkStage::AwaitingHello, Frame::Hello(hello)) => {
                let Some(greeting) = &self.greeting else { return };
                let agreed = hello.agree(&greeting.hello).and_then(|agreed| {
                    hello.check(&greeting.hello.network, greeting.expected.as_ref())?;
                    Ok(agreed)
                });
                match agreed {
                    Ok(agreed) => {
                        self.agreed = Some(agreed);
                        self.stage = LinkStage::AwaitingAdmission;
                        self.outputs.push_back(Output::Greeted(hello));
                    }
                    Err(reason) => self.refuse(reason),
                }
            }
            // The peer refuses the link.
            (LinkStage::AwaitingHello, Frame::Goodbye { reason, .. }) => {
                self.stage = LinkStage::Closed;
                self.outputs.push_back(Output::GoodbyeReceived(reason));
            }
            (LinkStage::AwaitingHello, _) => {
                self.refuse(Reason::Fault("a frame before Hello".into()))
            }
            (_, Frame::Hello(_)) => self.refuse(Reason::Fault("a second Hello".into())),
            (_, Frame::Goodbye { reason, received }) => {
                self.confirm(received);
                // If we have said goodbye before, this is the answer, which gets no answer of its own.
                let answered = self.stage == LinkStage::Closing;
                self.stage = LinkStage::Closing;
                if !answered {
                    self.outputs.push_back(Output::GoodbyeReceived(reason));
                }
            }
            (_, Frame::Ping(nonce)) => {
                self.outputs.push_back(Output::Send(Frame::Pong(nonce)));
            }
            (_, Frame::Pong(nonce)) => {
                // A pong that was not asked for, or comes twice, says nothing about the round-trip
                // time.
                if let Some(sent) = self.pings.remove(&nonce) {
                    self.rtt = Some(now.since(sent));
                }
            }
            (_, Frame::Received(messages)) => self.confirm(messages),
            // Later versions may have more kinds of frames.
            (_, Frame::Unknown(_)) => {}
            (_, frame) => self.outputs.push_back(Output::Frame(frame)),
        }
    }

    fn confirm(&mut self, messages: u64) {
        // A peer can't take back an acknowledgement.
        self.confirmed = self.confirmed.max(messages);
    }

    fn acknowledge(&mut self) {
        (self.acknowledged, self.unacknowledged_bytes, self.ack_at) = (self.received, 0, None);
        self.outputs.push_back(Output::Send(Frame::Received(self.received)));
    }

    fn close(&mut self, reason: Reason) {
        if self.stage != LinkStage::Closed {
            self.stage = LinkStage::Closed;
            self.outputs.push_back(Output::Closed(reason));
        }
    }

    fn dead_at(&self) -> Instant {
        match self.stage {
            // From the opening on, so that a peer that sends a byte now and then can't keep its place.
            LinkStage::AwaitingHello | LinkStage::AwaitingAdmission => {
                self.opened + self.config.handshake_timeout
            }
            _ => self.last_received + self.config.dead_after,
        }
    }

    fn ping_at(&self) -> Instant {
        self.last_sent + self.config.ping_after
    }
}
