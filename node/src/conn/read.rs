//! The reading half of a link: bytes in, frames to the overlay, messages to the application.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use peerkit_proto::event::{Direction, Event, Parting, Reason};
use peerkit_proto::frame::{Frame, Refusal};
use peerkit_proto::link::{Link, Output};
use peerkit_proto::message::{Compression, Message, Packed};
use peerkit_proto::time::Instant;
use tokio::io::AsyncRead;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::Conn;
use super::alarm::Alarm;
use super::fill::fill;
use super::run::Ended;
use crate::actor::mailbox::FromLink;
use crate::compress;
use crate::dispatch::Received;
use crate::inner::Inner;
use crate::lock::lock;
use crate::rate::{Pause, Throttle};
use crate::request;

/// Room for one read: from little on an idle link to much on a busy one.
const READ_MIN: usize = 512;
const READ_MAX: usize = 256 << 10;

/// Bytes read until others have their turn: half a millisecond's worth on the fastest links.
const TURN: usize = 1 << 20;

/// From so many reads on, since the last rest, a link's buffers are kept between them.
const KEPT: usize = 4;

/// After so long without anything to write the buffers are given back.
const REST: Duration = Duration::from_secs(1);

/// Pings that somebody waits for, open at once; more wait. Half of what a link keeps account of.
const OPEN_PINGS: usize = 32;

/// The longest that a link is not read from because of its limit. 10 s: below `ping_after`.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// A request of the peer that is being answered.
struct Serving {
    task: AbortHandle,
    /// The application's handler answers it, not a function.
    is_for_handler: bool,
}

/// The reading half of a link.
pub(super) struct Reader<R> {
    inner: Arc<Inner>,
    conn: Arc<Conn>,
    link: Link,
    from: R,
    buffer: BytesMut,
    room: usize,
    /// Reads since the last rest, up to [`KEPT`].
    reads: usize,
    /// Bytes read since others last had their turn.
    turn: usize,
    /// Pings that somebody waits for.
    asked: BTreeMap<u64, Vec<oneshot::Sender<Duration>>>,
    /// Requests of the peer that are being handled.
    serving: BTreeMap<u64, Serving>,
    /// Outputs that came while others were being acted on.
    later: VecDeque<Output>,
    alarm: Alarm,
    /// Set while the limit of what is read from a peer has the link wait.
    pause: Option<Pause>,
    throttle: Throttle,
    /// What ended the connection, where bytes were read before that.
    broken: Option<io::Error>,
    /// How the link ends, once that is known.
    end: Option<Parting>,
    /// When to stop waiting for the other side's goodbye.
    close_at: Option<Instant>,
}

/// Waits for the end of a pause, where there is one.
async fn paused(pause: &mut Option<Pause>) {
    if let Some(pause) = pause {
        pause.await;
    }
}

fn closed() -> Reason {
    Reason::Lost("closed without a goodbye".into())
}

/// What one step of reading brought, in order.
#[derive(Default)]
struct Batch {
    received: Vec<Received>,
    messages: usize,
    /// Bytes of their contents.
    bytes: usize,
    overlay: Vec<Frame>,
}

impl Batch {
    fn add(&mut self, received: Received) {
        let (messages, bytes) = received.size();
        self.messages += messages;
        self.bytes += bytes;
        self.received.push(received);
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// `buffer` holds what was read behind the other side's Hello, and `later` what the link had to tell
    /// while it said its own.
    pub(super) fn new(
        inner: Arc<Inner>,
        conn: Arc<Conn>,
        link: Link,
        from: R,
        buffer: BytesMut,
        later: VecDeque<Output>,
    ) -> Self {
        Self {
            inner,
            conn,
            link,
            from,
            buffer,
            room: READ_MIN,
            reads: 0,
            turn: 0,
            asked: BTreeMap::new(),
            serving: BTreeMap::new(),
            later,
            alarm: Alarm::default(),
            pause: None,
            throttle: Throttle::default(),
            broken: None,
            end: None,
            close_at: None,
        }
    }

    /// Reads until the link is over.
    pub(super) async fn read(&mut self) -> Ended {
        // Frames may have come with the Hello.
        let mut more = !self.buffer.is_empty();
        let mut flush = Duration::ZERO;
        loop {
            if more {
                self.link.receive(self.inner.clock.now(), &mut self.buffer);
            }
            if self.drain().await {
                // It is told why before the connection is closed.
                flush = self.inner.config.flush_timeout;
                break;
            }
            if self.turn >= TURN {
                // What it answers goes out, and whom its messages have woken runs, before the next.
                self.turn = 0;
                tokio::task::yield_now().await;
            }
            match self.wait().await {
                Ok(read) => more = read,
                Err(lost) => {
                    self.end(lost, false);
                    break;
                }
            }
        }
        self.serving.values().for_each(|serving| serving.task.abort());
        let lost = || Parting { reason: Reason::Lost("closed".into()), by_peer: false };
        let parting = self.end.take().unwrap_or_else(lost);
        if matches!(parting.reason, Reason::Silent(_)) {
            flush = Duration::ZERO;
        }
        Ended { parting, confirmed: self.link.confirmed(), flush }
    }

    /// Waits for one thing; true where bytes came. An error ends the link.
    async fn wait(&mut self) -> Result<bool, Reason> {
        self.link.sent(self.conn.wrote());
        self.asked.retain(|nonce, asked| {
            self.link.awaits(*nonce) && asked.iter().any(|waiting| !waiting.is_closed())
        });
        let due = peerkit_proto::time::earliest(self.link.poll_timeout(), self.close_at);
        if self.reads < KEPT && self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.link.shrink();
        } else if self.buffer.capacity() - self.buffer.len() < self.room / 2 {
            self.buffer.reserve(self.room);
        }
        tokio::select! {
            () = self.conn.closing.notified() => {
                if let Some(reason) = self.conn.take_leaving() {
                    self.tell_leaving().await;
                    self.conn.hang_up(reason);
                }
                self.close();
                Ok(false)
            }
            () = self.conn.pinging.notified(), if self.asked.len() < OPEN_PINGS => {
                let nonce = self.link.ping(self.inner.clock.now());
                self.asked.insert(nonce, std::mem::take(&mut *lock(&self.conn.pings)));
                Ok(false)
            }
            () = paused(&mut self.pause), if self.pause.is_some() => {
                self.pause = None;
                Ok(false)
            }
            read = fill(&mut self.from, &mut self.buffer, &mut self.broken),
                if self.pause.is_none() => match read {
                Ok(0) => Err(closed()),
                Ok(bytes) => {
                    self.count(bytes);
                    Ok(true)
                }
                // TLS's own end is missing too where the other side was killed.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(closed()),
                Err(error) => Err(Reason::Lost(error.to_string())),
            },
            () = self.alarm.ring(&self.inner, due) => {
                let now = self.inner.clock.now();
                if self.close_at.is_some_and(|at| at <= now) {
                    return Err(Reason::Lost("no goodbye in time".into()));
                }
                self.link.handle_timeout(now);
                self.rest();
                Ok(false)
            }
        }
    }

    /// Gives back the memory of buffers where little happens.
    fn rest(&mut self) {
        if self.buffer.is_empty() {
            (self.room, self.reads) = (READ_MIN, 0);
        }
        if self.inner.clock.now().since(self.conn.wrote()) >= REST {
            self.conn.outbox.shrink();
        }
    }

    /// A read that filled its room earns the next one more.
    fn count(&mut self, bytes: usize) {
        self.conn.read.store(self.inner.clock.micros(), Ordering::Relaxed);
        self.conn.meter.received_bytes(bytes);
        self.inner.meter.received_bytes(bytes);
        self.turn += bytes;
        self.reads = KEPT.min(self.reads + 1);
        if bytes >= self.room {
            self.room = (self.room * 4).min(READ_MAX);
        }
        let limit = self.inner.rates.peer_receive();
        if limit != 0 {
            self.pause_reading(bytes, limit);
        }
    }

    /// Reads little at once, and waits as long as that may take at this limit.
    fn pause_reading(&mut self, bytes: usize, limit: u64) {
        let often = usize::try_from(limit / 20).unwrap_or(usize::MAX);
        self.room = self.room.min(often.max(READ_MIN));
        if let Some(due) = self.throttle.debit(bytes, limit) {
            // A link from which nothing is read for too long would be taken for dead.
            let latest = tokio::time::Instant::now() + MAX_PAUSE.min(self.inner.config.ping_after);
            self.pause = Some(self.inner.rates.pause(due.min(latest)));
        }
    }

    /// Acts on the link's outputs; true once the link is over.
    async fn drain(&mut self) -> bool {
        let mut batch = Batch::default();
        let mut over = false;
        self.conn.outbox.receiving();
        while let Some(output) = self.poll() {
            match output {
                Output::Send(frame @ Frame::Goodbye { .. }) => {
                    let Frame::Goodbye { reason, .. } = frame else { continue };
                    self.conn.outbox.break_off(reason, true);
                }
                Output::Send(frame) => self.conn.control(&frame),
                Output::Messages(messages) => batch.add(Received::Plain(messages)),
                // Boxed: no room is kept for it on a link where nothing happens.
                Output::Frame(frame) => Box::pin(self.on_frame(frame, &mut batch)).await,
                Output::Farewell(reason) => {
                    // Where we have said goodbye already this is the answer to ours.
                    match self.conn.outbox.closed() {
                        None | Some(Reason::Lost(_)) => self.end(reason.clone(), true),
                        Some(ours) => self.end(ours, false),
                    }
                    self.conn.hang_up(reason);
                }
                Output::Closed(reason) => {
                    self.end(reason, false);
                    over = true;
                }
                Output::Greeted(_) => {}
            }
        }
        if let Some(rtt) = self.link.rtt() {
            self.conn.set_rtt(rtt);
            let link = &self.link;
            for (_, asked) in self.asked.extract_if(.., |nonce, _| !link.awaits(*nonce)) {
                for waiting in asked {
                    let _ = waiting.send(rtt);
                }
            }
        }
        self.deliver(&mut batch).await;
        self.conn.outbox.received(self.conn.meter.messages_received());
        over && self.later.is_empty()
    }

    /// The next output, those put off first.
    fn poll(&mut self) -> Option<Output> {
        self.later.pop_front().or_else(|| self.link.poll())
    }

    async fn on_frame(&mut self, frame: Frame, batch: &mut Batch) {
        match frame {
            Frame::Message(packed) => {
                if let Some(message) = self.unpack(packed).await {
                    batch.add(Received::Unpacked(message));
                }
            }
            Frame::Request { id, name, body } => {
                if let Some(message) = self.unpack(body).await {
                    self.serve(id, name, message, batch).await;
                }
            }
            Frame::Reply { id, outcome } => {
                let outcome = match outcome {
                    Ok(packed) => {
                        let Some(message) = self.unpack(packed).await else { return };
                        self.received(1, message.body().len());
                        Ok(message)
                    }
                    Err(refusal) => Err(refusal),
                };
                self.conn.reply(id, outcome);
            }
            Frame::Cancel(id) => {
                if let Some(serving) = self.serving.remove(&id) {
                    serving.task.abort();
                }
            }
            Frame::CallBack { token } => self.inner.call_back_peer(&self.conn, token),
            overlay => batch.overlay.push(overlay),
        }
    }

    /// The message, decompressed where it was compressed; what can't be taken is the peer's fault.
    async fn unpack(&mut self, packed: Packed) -> Option<Message> {
        let (len, limit) = (packed.payload.len(), self.inner.config.max_message);
        let unpacked = match packed.compression {
            Compression::None if len > limit => {
                Err(format!("a message of {len} bytes is over the limit of {limit}"))
            }
            _ => compress::unpack_async(packed, limit).await.map_err(|fault| fault.to_string()),
        };
        unpacked.map_err(|fault| self.link.refuse(Reason::Fault(fault))).ok()
    }

    /// Has a request answered, in its order among the messages: by the function for its name, or else by
    /// the application's handler.
    async fn serve(&mut self, id: u64, name: String, message: Message, batch: &mut Batch) {
        self.serving.retain(|_, serving| !serving.task.is_finished());
        if self.serving.contains_key(&id) {
            // Its reply could not be told from the other's, and it would not be counted.
            self.link.refuse(Reason::Fault("two requests of the same number".into()));
            return;
        }
        let function = self.inner.served.requests.get(&name);
        let (inner, conn) = (&self.inner, &self.conn);
        let is_for_handler = function.is_none() && inner.dispatch.has_handler();
        // Counted apart: functions that take long don't keep the handler from refusing what is not served.
        let same = self.serving.values().filter(|one| one.is_for_handler == is_for_handler);
        let is_busy = same.count() >= inner.config.max_requests_per_peer;
        if is_for_handler && !is_busy {
            let (asked, task) = request::ask_handler(inner, conn, id, name, message);
            self.serving.insert(id, Serving { task, is_for_handler });
            return batch.add(Received::Request(Box::new(asked)));
        }
        self.deliver(batch).await;
        self.received(1, message.body().len());
        let refusal = match function {
            None if !is_for_handler => Refusal::NoHandler,
            Some(function) if !is_busy => {
                let task = request::answer(&self.inner, &self.conn, id, function, message);
                self.serving.insert(id, Serving { task, is_for_handler });
                return;
            }
            _ => Refusal::Busy,
        };
        self.conn.refuse(id, refusal);
    }

    /// Hands a batch to the application and the overlay. While it waits for either the link's
    /// timers run, and the other side's silence is not held against it.
    async fn deliver(&mut self, batch: &mut Batch) {
        let messages = std::mem::take(&mut batch.messages) as u64;
        let bytes = std::mem::take(&mut batch.bytes);
        let frames = std::mem::take(&mut batch.overlay);
        if messages == 0 && frames.is_empty() {
            return;
        }
        self.link.pause();
        let (mut leaving, mut told) = (false, false);
        {
            let (inner, conn) = (self.inner.clone(), self.conn.clone());
            let mut delivery = std::pin::pin!(async {
                if messages != 0 {
                    let received = std::mem::take(&mut batch.received);
                    inner.dispatch.messages(&*inner, &conn.peer, received).await;
                }
                if !frames.is_empty() {
                    inner.actor.tell(FromLink::Frames(conn.clone(), frames)).await;
                }
            });
            loop {
                let due = self.link.poll_timeout();
                tokio::select! {
                    biased;
                    () = &mut delivery => break,
                    () = inner.tasks.halt.called() => break,
                    () = self.conn.closing.notified(), if !leaving => {
                        // The goodbye does not wait for the application; the event does.
                        leaving = true;
                        if let Some(reason) = self.conn.take_leaving() {
                            self.conn.hang_up(reason);
                        } else {
                            told = true;
                        }
                    }
                    () = self.alarm.ring(&inner, due) => {
                        self.link.sent(self.conn.wrote());
                        self.link.handle_timeout(self.inner.clock.now());
                        // Pings and acknowledgements go out now; what came in keeps its order.
                        while let Some(output) = self.link.poll() {
                            match output {
                                Output::Send(frame) => self.conn.control(&frame),
                                other => self.later.push_back(other),
                            }
                        }
                    }
                }
            }
        }
        let now = self.inner.clock.now();
        self.link.resume(now);
        self.received(messages, bytes);
        if leaving {
            if !told {
                self.tell_leaving().await;
            }
            // What it woke us for is still to be done.
            self.conn.closing.notify_one();
        }
    }

    /// Tells the application that this node is about to close the link.
    async fn tell_leaving(&self) {
        let peer = self.conn.peer.clone();
        let event = match peer.direction() {
            Direction::Outbound => Event::NodeDisconnectWithOutboundNode { peer },
            Direction::Inbound => Event::NodeDisconnectWithInboundNode { peer },
        };
        // Boxed: no room is kept for it on a link that stays.
        Box::pin(self.inner.tell(event)).await;
    }

    fn received(&mut self, messages: u64, bytes: usize) {
        self.conn.meter.received(messages);
        self.inner.meter.received(messages);
        self.link.delivered(self.inner.clock.now(), messages, bytes);
    }

    /// This node closes the link, or has lost it while writing.
    fn close(&mut self) {
        let Some(reason) = self.conn.outbox.closed() else { return };
        self.end(reason.clone(), false);
        // The goodbye itself waits in the outbox, behind what was queued before.
        let _ = self.link.part(reason);
        let until = self.inner.clock.now() + self.inner.config.flush_timeout;
        self.close_at.get_or_insert(until);
    }

    /// The first to know why decides.
    fn end(&mut self, reason: Reason, by_peer: bool) {
        self.end.get_or_insert(Parting { reason, by_peer });
    }
}
