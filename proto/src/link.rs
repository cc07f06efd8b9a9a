//! One end of a link as a state machine: Hello, received frames, liveness, acknowledgements and
//! goodbye.
//!
//! The shell has the connection and its TLS. It has verified the peer's identity before it passes
//! the first byte to a link. The frames that a link sends go into the queues of the shell. The
//! shell also reports when it has sent bytes, because a link sends a ping only if nothing else was
//! sent.

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

/// Maximum number of our pings that wait for a pong. One more drops the oldest.
const MAX_PINGS: usize = 64;

/// Number of unacknowledged messages at which an acknowledgement is sent without a delay. So fewer
/// messages are unconfirmed if the link is lost. 65,536: each acknowledgement costs both ends a
/// system call.
const ACK_MESSAGES: u64 = 65_536;

/// Number of bytes in unacknowledged messages at which an acknowledgement is sent without a delay.
/// 4 MiB: a few milliseconds on the fastest links.
const ACK_BYTES: usize = 4 << 20;

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    side: Side,
    /// This node's Hello and the expected proof. `None` once the link is up.
    greeting: Option<Box<Greeting>>,
    agreed: Option<Agreement>,
    config: Arc<Config>,
    stage: LinkStage,
    opened: Instant,
    last_received: Instant,
    last_sent: Instant,
    /// True while the shell does not read because the application has no room. Silence does not end
    /// the link then.
    paused: bool,
    next_ping: u64,
    pings: BTreeMap<u64, Instant>,
    rtt: Option<Duration>,
    /// Number of messages that the application has received.
    received: u64,
    /// Number of received messages that this node has acknowledged.
    acknowledged: u64,
    unacknowledged_bytes: usize,
    /// The time of the next acknowledgement.
    ack_at: Option<Instant>,
    /// Number of this node's messages that the peer has acknowledged.
    confirmed: u64,
    outputs: VecDeque<Output>,
}

/// The side that a node has on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This node dialled. It sends its Hello first.
    Dialler,
    /// The peer dialled. This node sends its Hello once the shell has admitted the peer's Hello.
    Acceptor,
}

/// This node's Hello, and the proof that it expects in the peer's Hello.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// This node's Hello.
    pub hello: Hello,
    /// The proof that has to be in the peer's Hello, if the network has a secret.
    pub expected_proof: Option<Proof>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkStage {
    /// The peer's Hello has not been received.
    AwaitingHello,
    /// The peer's Hello is valid. The shell has not admitted or refused it yet.
    AwaitingAdmission,
    /// The link is up.
    Open,
    /// One end has sent its goodbye. Frames are still received.
    Closing,
    /// The link is over.
    Closed,
}

/// An output of a link.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Put this control frame into the queue.
    Send(Frame),
    /// The peer's Hello is valid. Answer with [`Link::admit`] or [`Link::refuse`].
    Greeted(Hello),
    /// Messages for the application, in order. There is at least one.
    Messages(Messages),
    /// A frame of another kind, for the overlay or the application. If it is a message, it is
    /// compressed or invalid: the shell has to decompress or refuse it.
    Frame(Frame),
    /// The peer has sent its goodbye. Send the queued frames and a goodbye, and close the
    /// connection.
    GoodbyeReceived(Reason),
    /// The link is over. Close the connection. This is the last output.
    Closed(Reason),
}

impl Link {
    /// Creates a link on a connection whose TLS handshake has just ended.
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

    /// Takes all complete frames off the front of `buffer`, to which the shell has appended the
    /// received bytes.
    ///
    /// A frame that violates the protocol closes the link, and no frame after it is read.
    pub fn receive(&mut self, now: Instant, buffer: &mut BytesMut) {
        self.last_received = now;
        if self.stage == LinkStage::Closed {
            buffer.clear();
            return;
        }
        if self.stage == LinkStage::AwaitingHello {
            // Before its Hello a peer gets memory for one control frame only.
            let first = Frames::split_first(buffer, &self.config);
            self.take_frames(now, first);
            if matches!(self.stage, LinkStage::AwaitingHello | LinkStage::Closed) {
                return;
            }
        }
        // Frames may follow right after the peer's Hello, before this node has admitted it.
        let frames = Frames::split(buffer, &self.config);
        self.take_frames(now, frames);
    }

    /// Admits the peer's Hello. This brings the link up.
    pub fn admit(&mut self, now: Instant) {
        if self.stage == LinkStage::AwaitingAdmission {
            self.stage = LinkStage::Open;
            // The time in which the shell decided does not count as silence of the peer.
            (self.last_received, self.last_sent) = (now, now);
            if let Some(greeting) = self.greeting.take()
                && self.side == Side::Acceptor
            {
                // The Hello goes before the answers to frames that followed the peer's Hello.
                self.outputs.push_front(Output::Send(Frame::Hello(greeting.hello)));
            }
            // The first ping measures the round-trip time right at the start.
            self.ping(now);
        }
    }

    /// Closes the link because the peer is refused or has violated the protocol. The goodbye has
    /// the reason.
    pub fn refuse(&mut self, reason: Reason) {
        if self.stage != LinkStage::Closed {
            let goodbye = Frame::Goodbye { reason: reason.clone(), received: self.received };
            self.outputs.push_back(Output::Send(goodbye));
            self.close(reason);
        }
    }

    /// Begins to close the link. The shell still sends the queued frames, and then the returned
    /// goodbye. Frames are still received.
    pub fn begin_close(&mut self, reason: Reason) -> Frame {
        if self.stage != LinkStage::Closed {
            self.stage = LinkStage::Closing;
        }
        Frame::Goodbye { reason, received: self.received }
    }

    /// Notes that bytes were written to the connection at `now`.
    pub fn sent(&mut self, now: Instant) {
        // A ping that was queued after `now` has set a later time.
        self.last_sent = self.last_sent.max(now);
    }

    /// Notes that the application has received this number of messages, with `bytes` bytes in
    /// total. The link acknowledges them.
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

    /// Notes that the shell stops reading because the application has no room. Until
    /// [`Link::resume`] is called, silence does not end the link.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Notes that the shell reads again.
    pub fn resume(&mut self, now: Instant) {
        self.paused = false;
        self.last_received = now;
    }

    /// Returns the version and the features of the link, or `None` before the peer's Hello.
    #[must_use]
    pub fn agreed(&self) -> Option<Agreement> {
        self.agreed
    }

    /// Sends a ping and returns its number. Once the pong is received, [`Link::rtt`] returns the
    /// round-trip time.
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

    /// Returns whether the ping with this number still waits for its pong.
    #[must_use]
    pub fn awaits_pong(&self, nonce: u64) -> bool {
        self.pings.contains_key(&nonce)
    }

    /// Returns the last measured round-trip time, or `None` before the first pong.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Returns the number of this node's messages that the peer's application has received, as
    /// acknowledged by the peer.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Returns the next output, or `None` if there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Does everything that is due at `now`: sends pings and acknowledgements, and closes a silent
    /// link.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.stage {
            LinkStage::Closed => {}
            LinkStage::AwaitingHello | LinkStage::AwaitingAdmission => {
                if self.dead_at() <= now {
                    self.refuse(Reason::HandshakeTimeout);
                }
            }
            LinkStage::Open | LinkStage::Closing => {
                // While the shell does not read, it does not know whether the peer is silent.
                if !self.paused && self.dead_at() <= now {
                    return self.close(Reason::Silent(self.config.dead_after));
                }
                if self.ack_at.is_some_and(|at| at <= now) {
                    self.acknowledge();
                }
                // The goodbye is the last frame, so a closing link sends no more pings.
                if self.stage == LinkStage::Open && self.ping_at() <= now {
                    self.ping(now);
                }
            }
        }
    }

    /// Returns the time of the next call of [`Link::handle_timeout`], or `None` if the link is
    /// closed.
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
            // An emptied map still keeps memory. A new map has none.
            self.pings = BTreeMap::new();
        }
    }

    fn take_frames(&mut self, now: Instant, frames: Result<Frames, FrameError>) {
        let mut frames = match frames {
            // From version 2 on, a peer of a later version may add fields to a frame, which are ignored.
            Ok(frames) if self.agreed.is_some_and(Agreement::has_added_fields) => {
                frames.skip_added_fields()
            }
            Ok(frames) => frames,
            Err(fault) => return self.refuse(Reason::Fault(fault.to_string())),
        };
        loop {
            // Messages before Hello violate the protocol. `on_frame` reports that.
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
            // No frame after a fault is read.
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
                    hello.check(&greeting.hello.network, greeting.expected_proof.as_ref())?;
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
                self.refuse(Reason::Fault("a frame before Hello".into()));
            }
            (_, Frame::Hello(_)) => self.refuse(Reason::Fault("a second Hello".into())),
            (_, Frame::Goodbye { reason, received }) => {
                self.confirm(received);
                // If this node has sent its goodbye before, this goodbye is the answer, and is not
                // answered.
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
                // A pong without an open ping is ignored: it does not measure the round-trip time.
                if let Some(sent) = self.pings.remove(&nonce) {
                    self.rtt = Some(now.since(sent));
                }
            }
            (_, Frame::Received(messages)) => self.confirm(messages),
            // A frame of a kind from a later version is skipped.
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
            // The time counts from the opening, not from the last byte. So a peer can't stay for
            // ever by sending a byte from time to time.
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
