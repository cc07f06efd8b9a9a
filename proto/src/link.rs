//! One link as a state machine: Hello, frames in, liveness, acknowledgement, goodbye.
//!
//! It sits behind TLS: the shell has proven who the peer is before the first byte comes here, and
//! carries the bytes. Frames out go through the shell's lanes; the link is told when something was
//! sent, so that it pings only when nothing was.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use crate::config::Config;
use crate::event::Reason;
use crate::frame::{Frame, FrameError, Frames, Messages};
use crate::hello::{Hello, Proof};
use crate::time::{Instant, earliest};
use crate::versions::Agreed;

#[cfg(test)]
mod tests;

/// Pings of ours that may be open at once; the oldest is forgotten.
const MAX_PINGS: usize = 64;

/// After this many messages, or bytes of them, the sender is told that they came without waiting
/// for the delay: it keeps the sender's account of a lost link short. Each telling costs both sides
/// a system call and more: 4 MiB is a few milliseconds' worth on the fastest links.
const ACK_MESSAGES: u64 = 65_536;
const ACK_BYTES: usize = 4 << 20;

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    side: Side,
    /// Until the link is up.
    greeting: Option<Box<Greeting>>,
    agreed: Option<Agreed>,
    config: Arc<Config>,
    stage: Stage,
    opened: Instant,
    heard: Instant,
    sent: Instant,
    /// Set while the shell does not read, because the application has no room: silence is ours.
    paused: bool,
    next_ping: u64,
    pings: BTreeMap<u64, Instant>,
    rtt: Option<Duration>,
    /// Application messages handed on, and how many of them the peer was told of.
    received: u64,
    told: u64,
    told_bytes: usize,
    tell_at: Option<Instant>,
    /// Ours that the peer's application has, as it says.
    confirmed: u64,
    outbox: VecDeque<Output>,
}

/// Which end of a link this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// We dialled: our Hello goes first.
    Dialler,
    /// We were dialled: our Hello goes out once the other's was admitted.
    Acceptor,
}

/// What this node says and expects in Hello.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// Ours.
    pub hello: Hello,
    /// The proof that theirs has to carry, where the network has a secret.
    pub expected: Option<Proof>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Hello has not come.
    Greeting,
    /// Theirs is good; the shell has yet to admit it.
    Admitting,
    /// Up.
    Open,
    /// One side has said goodbye; frames are still taken.
    Parting,
    /// Nothing more comes out.
    Closed,
}

/// What comes out of a link.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Put a frame into the first lane.
    Send(Frame),
    /// The other side's Hello is good: answer with [`Link::admit`] or [`Link::refuse`].
    Greeted(Hello),
    /// Messages for the application, in their order; at least one.
    Messages(Messages),
    /// Another frame for the overlay or the application; a message where it is to be decompressed
    /// or refused.
    Frame(Frame),
    /// The other side said goodbye: flush what is queued, say goodbye too, and close.
    Farewell(Reason),
    /// The link is at its end: close the connection. Nothing comes after it.
    Closed(Reason),
}

impl Link {
    /// A link whose connection has just been secured.
    #[must_use]
    pub fn new(now: Instant, side: Side, greeting: Greeting, config: &Arc<Config>) -> Self {
        let mut outbox = VecDeque::new();
        if side == Side::Dialler {
            outbox.push_back(Output::Send(Frame::Hello(greeting.hello.clone())));
        }
        Self {
            side,
            greeting: Some(Box::new(greeting)),
            agreed: None,
            config: config.clone(),
            stage: Stage::Greeting,
            opened: now,
            heard: now,
            sent: now,
            paused: false,
            next_ping: 0,
            pings: BTreeMap::new(),
            rtt: None,
            received: 0,
            told: 0,
            told_bytes: 0,
            tell_at: None,
            confirmed: 0,
            outbox,
        }
    }

    /// Bytes came in: takes the whole frames off the front of `buffer`.
    ///
    /// A frame that breaks the protocol closes the link; nothing after it is read.
    pub fn receive(&mut self, now: Instant, buffer: &mut BytesMut) {
        self.heard = now;
        if self.stage == Stage::Closed {
            buffer.clear();
            return;
        }
        if self.stage == Stage::Greeting {
            // A stranger gets no room but for its Hello.
            let first = Frames::split_first(buffer, &self.config);
            self.take_frames(now, first);
            if matches!(self.stage, Stage::Greeting | Stage::Closed) {
                return;
            }
        }
        let frames = Frames::split(buffer, &self.config);
        self.take_frames(now, frames);
    }

    /// The other side's Hello is admitted: the link is up.
    pub fn admit(&mut self, now: Instant) {
        if self.stage == Stage::Admitting {
            self.stage = Stage::Open;
            (self.heard, self.sent) = (now, now);
            if let Some(greeting) = self.greeting.take()
                && self.side == Side::Acceptor
            {
                // Before the answer to anything that came right behind theirs.
                self.outbox.push_front(Output::Send(Frame::Hello(greeting.hello)));
            }
            // So that the round-trip time is known from the start.
            self.ping(now);
        }
    }

    /// The other side's Hello is not admitted: says why and closes.
    pub fn refuse(&mut self, reason: Reason) {
        self.fail(reason);
    }

    /// We end the link: what is queued may still go out, then comes our goodbye.
    ///
    /// Returns the goodbye for the shell to send last; frames that come in are still taken.
    pub fn part(&mut self, reason: Reason) -> Frame {
        if self.stage != Stage::Closed {
            self.stage = Stage::Parting;
        }
        Frame::Goodbye { reason, received: self.received }
    }

    /// Something was written to the connection at `now`.
    pub fn sent(&mut self, now: Instant) {
        self.sent = self.sent.max(now);
    }

    /// `messages` of together `bytes` were handed to the application.
    pub fn delivered(&mut self, now: Instant, messages: u64, bytes: usize) {
        self.received = self.received.saturating_add(messages);
        self.told_bytes = self.told_bytes.saturating_add(bytes);
        if self.received - self.told >= ACK_MESSAGES || self.told_bytes >= ACK_BYTES {
            self.tell();
        } else if self.tell_at.is_none() && self.received > self.told {
            self.tell_at = Some(now + self.config.ack_delay);
        }
    }

    /// The shell stops reading because the application has no room: silence is not held against
    /// the other side until [`Link::resume`].
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// The shell reads again.
    pub fn resume(&mut self, now: Instant) {
        self.paused = false;
        self.heard = now;
    }

    /// Returns the version and the features that both ends speak; `None` before the peer's Hello.
    #[must_use]
    pub fn agreed(&self) -> Option<Agreed> {
        self.agreed
    }

    /// Sends a ping; [`Link::rtt`] has its result once the pong is there.
    ///
    /// Returns its number.
    pub fn ping(&mut self, now: Instant) -> u64 {
        let nonce = self.next_ping;
        self.next_ping += 1;
        self.pings.insert(nonce, now);
        if self.pings.len() > MAX_PINGS {
            self.pings.pop_first();
        }
        self.outbox.push_back(Output::Send(Frame::Ping(nonce)));
        self.sent = now;
        nonce
    }

    /// Whether ping `nonce` still waits for its pong.
    #[must_use]
    pub fn awaits(&self, nonce: u64) -> bool {
        self.pings.contains_key(&nonce)
    }

    /// The last round-trip time.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// How many messages of ours the other side's application has, as it says.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// The next output, `None` when there is no more.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// Does what is due at `now`: pings, acknowledges, gives up.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.stage {
            Stage::Closed => {}
            Stage::Greeting | Stage::Admitting => {
                if self.dead_at() <= now {
                    self.fail(Reason::HandshakeTimeout);
                }
            }
            Stage::Open | Stage::Parting => {
                if !self.paused && self.dead_at() <= now {
                    return self.close(Reason::Silent(self.config.dead_after));
                }
                if self.tell_at.is_some_and(|at| at <= now) {
                    self.tell();
                }
                if self.stage == Stage::Open && self.ping_at() <= now {
                    self.ping(now);
                }
            }
        }
    }

    /// When [`Link::handle_timeout`] is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Closed => None,
            Stage::Greeting | Stage::Admitting => Some(self.dead_at()),
            Stage::Open | Stage::Parting => {
                let ping = (self.stage == Stage::Open).then(|| self.ping_at());
                let dead = (!self.paused).then(|| self.dead_at());
                earliest(self.tell_at, earliest(ping, dead))
            }
        }
    }

    /// Gives back the memory that an idle link does not need.
    pub fn shrink(&mut self) {
        self.outbox.shrink_to_fit();
        if self.pings.is_empty() {
            // An emptied map keeps a node.
            self.pings = BTreeMap::new();
        }
    }

    fn take_frames(&mut self, now: Instant, frames: Result<Frames, FrameError>) {
        let mut frames = match frames {
            Ok(frames) if self.agreed.is_some_and(Agreed::has_added_fields) => {
                frames.skip_added_fields()
            }
            Ok(frames) => frames,
            Err(fault) => return self.fail(Reason::Fault(fault.to_string())),
        };
        loop {
            if self.stage != Stage::Greeting {
                let messages = frames.take_messages();
                if messages.len() != 0 {
                    self.outbox.push_back(Output::Messages(messages));
                }
            }
            let Some(frame) = frames.next() else { return };
            match frame {
                Ok(frame) => self.on_frame(now, frame),
                Err(fault) => self.fail(Reason::Fault(fault.to_string())),
            }
            if self.stage == Stage::Closed {
                return;
            }
        }
    }

    fn on_frame(&mut self, now: Instant, frame: Frame) {
        match (self.stage, frame) {
            (Stage::Greeting, Frame::Hello(hello)) => {
                let Some(greeting) = &self.greeting else { return };
                let agreed = hello.agree(&greeting.hello).and_then(|agreed| {
                    hello.check(&greeting.hello.network, greeting.expected.as_ref())?;
                    Ok(agreed)
                });
                match agreed {
                    Ok(agreed) => {
                        self.agreed = Some(agreed);
                        self.stage = Stage::Admitting;
                        self.outbox.push_back(Output::Greeted(hello));
                    }
                    Err(reason) => self.fail(reason),
                }
            }
            // The acceptor refuses us.
            (Stage::Greeting, Frame::Goodbye { reason, .. }) => {
                self.stage = Stage::Closed;
                self.outbox.push_back(Output::Farewell(reason));
            }
            (Stage::Greeting, _) => self.fail(Reason::Fault("a frame before Hello".into())),
            (_, Frame::Hello(_)) => self.fail(Reason::Fault("a second Hello".into())),
            (_, Frame::Goodbye { reason, received }) => {
                self.confirm(received);
                let answered = self.stage == Stage::Parting;
                self.stage = Stage::Parting;
                if !answered {
                    self.outbox.push_back(Output::Farewell(reason));
                }
            }
            (_, Frame::Ping(nonce)) => {
                self.outbox.push_back(Output::Send(Frame::Pong(nonce)));
            }
            (_, Frame::Pong(nonce)) => {
                if let Some(sent) = self.pings.remove(&nonce) {
                    self.rtt = Some(now.since(sent));
                }
            }
            (_, Frame::Received(messages)) => self.confirm(messages),
            (_, Frame::Unknown(_)) => {}
            (_, frame) => self.outbox.push_back(Output::Frame(frame)),
        }
    }

    fn confirm(&mut self, messages: u64) {
        self.confirmed = self.confirmed.max(messages);
    }

    fn tell(&mut self) {
        (self.told, self.told_bytes, self.tell_at) = (self.received, 0, None);
        self.outbox.push_back(Output::Send(Frame::Received(self.received)));
    }

    /// Tells the other side why, then closes.
    fn fail(&mut self, reason: Reason) {
        if self.stage != Stage::Closed {
            let goodbye = Frame::Goodbye { reason: reason.clone(), received: self.received };
            self.outbox.push_back(Output::Send(goodbye));
            self.close(reason);
        }
    }

    fn close(&mut self, reason: Reason) {
        if self.stage != Stage::Closed {
            self.stage = Stage::Closed;
            self.outbox.push_back(Output::Closed(reason));
        }
    }

    fn dead_at(&self) -> Instant {
        match self.stage {
            Stage::Greeting | Stage::Admitting => self.opened + self.config.handshake_timeout,
            _ => self.heard + self.config.dead_after,
        }
    }

    fn ping_at(&self) -> Instant {
        self.sent + self.config.ping_after
    }
}
