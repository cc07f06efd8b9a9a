//! The reading half of a link: bytes in, frames to the overlay, messages to the application.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use peerkit_proto::event::{Event, LinkEnd, Reason};
use peerkit_proto::frame::{Frame, Refusal};
use peerkit_proto::link::{Link, Output};
use peerkit_proto::message::{Compression, Message, PackedMessage};
use peerkit_proto::time::{Instant, earliest};
use tokio::io::AsyncRead;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Sleep;

use super::Conn;
use super::fill::fill;
use super::run::EndedLink;
use crate::actor::mailbox::LinkReport;
use crate::compress;
use crate::dispatch::Received;
use crate::inner::Inner;
use crate::lock::lock;
use crate::rate::{Pause, Rates, Throttle};
use crate::request;

/// Size of a read on an idle link, in bytes.
const READ_MIN: usize = 512;

/// Maximum size of a read, in bytes. Reads grow up to this size as long as each read is full.
const READ_MAX: usize = 256 << 10;

/// Number of bytes after which this task lets others run. 1 MiB: half a millisecond on the fastest links.
const BYTES_PER_TURN: usize = 1 << 20;

/// Number of reads after which the link keeps its buffers between reads. The count starts again whenever the
/// link was idle.
const READS_TO_KEEP_BUFFERS: usize = 4;

/// Time without a write after which the outgoing buffers are freed.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// Maximum number of unanswered pings that tasks wait for. At the maximum, no further ping is sent until one
/// is answered. All tasks that have asked for a ping by then share the next ping. 32: half of the pings that a
/// [`Link`] keeps track of.
const MAX_OPEN_PINGS: usize = 32;

/// Maximum time for which a link is not read because of its rate limit. 10 s: less than `ping_after`.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// A request of the peer that is being answered.
struct ActiveRequest {
    task: AbortHandle,
    /// True if the application's handler answers the request. False if a function answers it that the
    /// application has registered for the request's name, with `Node::serve`.
    is_for_handler: bool,
}

/// The reading half of a link.
pub(super) struct LinkReader<R> {
    inner: Arc<Inner>,
    conn: Arc<Conn>,
    link: Link,
    from: R,
    buffer: BytesMut,
    /// Size of the next read.
    read_size: usize,
    /// Number of reads since the link was last idle, up to [`READS_TO_KEEP_BUFFERS`].
    reads: usize,
    /// Bytes read since this task last yielded. A task that waits also lets others run, but does not reset
    /// this number.
    read_this_turn: usize,
    /// The tasks that wait for the results of open pings.
    pings: BTreeMap<u64, Vec<oneshot::Sender<Duration>>>,
    requests: BTreeMap<u64, ActiveRequest>,
    /// Outputs of the link that came before the reading half started, or while earlier outputs were being
    /// delivered.
    deferred: VecDeque<Output>,
    timer: LinkTimer,
    /// On while the link is not read because of its rate limit, or because its peer has sent too much.
    pause: ReadPause,
    throttle: Throttle,
    /// An error that followed bytes in the same read. The next read returns it.
    broken: Option<io::Error>,
    /// The end of the link, once it is known.
    end: Option<LinkEnd>,
    /// The time at which the wait for the peer's goodbye ends.
    close_at: Option<Instant>,
}

/// The pause of a link that is not read: its end, and the future that waits for it.
#[derive(Default)]
struct ReadPause(Option<(tokio::time::Instant, Pause)>);

impl ReadPause {
    /// Pauses until `due`, or until the rate limits change. A pause that is longer stays.
    fn extend(&mut self, rates: &Rates, due: tokio::time::Instant) {
        if self.0.as_ref().is_none_or(|(until, _)| *until < due) {
            self.0 = Some((due, rates.pause(due)));
        }
    }

    fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for the end of the pause.
    async fn wait(&mut self) {
        if let Some((_, pause)) = &mut self.0 {
            pause.await;
        }
        self.0 = None;
    }
}

fn closed_without_goodbye() -> Reason {
    Reason::Lost("closed without a goodbye".into())
}

/// The messages and overlay frames of one read, in order.
#[derive(Default)]
struct ReadBatch {
    received: Vec<Received>,
    messages: usize,
    /// Bytes of the messages' contents.
    bytes: usize,
    overlay: Vec<Frame>,
}

impl ReadBatch {
    fn add(&mut self, received: Received) {
        let (messages, bytes) = received.size();
        self.messages += messages;
        self.bytes += bytes;
        self.received.push(received);
    }
}

impl<R: AsyncRead + Unpin> LinkReader<R> {
    /// Creates the reading half. The peer's Hello was read before: `buffer` has the bytes that were read after
    /// it, and `deferred` the outputs that the link has made meanwhile.
    pub(super) fn new(
        inner: Arc<Inner>,
        conn: Arc<Conn>,
        link: Link,
        from: R,
        buffer: BytesMut,
        deferred: VecDeque<Output>,
    ) -> Self {
        Self {
            inner,
            conn,
            link,
            from,
            buffer,
            read_size: READ_MIN,
            reads: 0,
            read_this_turn: 0,
            pings: BTreeMap::new(),
            requests: BTreeMap::new(),
            deferred,
            timer: LinkTimer::default(),
            pause: ReadPause::default(),
            throttle: Throttle::default(),
            broken: None,
            end: None,
            close_at: None,
        }
    }

    /// Reads until the link is over.
    pub(super) async fn read(&mut self) -> EndedLink {
        // Frames may have come with the Hello.
        let mut has_bytes = !self.buffer.is_empty();
        let mut flush = Duration::ZERO;
        loop {
            if has_bytes {
                self.link.receive(self.inner.clock.now(), &mut self.buffer);
            }
            if self.drain().await {
                // The goodbye has the reason, so it goes out before the connection is closed.
                flush = self.inner.config.flush_timeout;
                break;
            }
            if self.read_this_turn >= BYTES_PER_TURN {
                // Without this yield a fast peer would keep the task busy: answers would not go out, and
                // tasks that the peer's messages have woken would not run.
                self.read_this_turn = 0;
                tokio::task::yield_now().await;
            }
            match self.wait().await {
                Ok(read) => has_bytes = read,
                Err(lost) => {
                    self.end(lost, false);
                    break;
                }
            }
        }
        self.requests.values().for_each(|request| request.task.abort());
        let lost = || LinkEnd { reason: Reason::Lost("closed".into()), by_peer: false };
        let link_end = self.end.take().unwrap_or_else(lost);
        // A silent peer does not read either, so no frames are sent to it.
        if matches!(link_end.reason, Reason::Silent(_)) {
            flush = Duration::ZERO;
        }
        EndedLink { link_end, confirmed: self.link.confirmed(), flush }
    }

    /// Waits for bytes, a deadline, a ping to send or the order to close the link. Returns whether bytes were
    /// read. An error ends the link.
    async fn wait(&mut self) -> Result<bool, Reason> {
        if let Some(until) = self.conn.take_pause()
            && until > self.inner.clock.now()
        {
            self.pause.extend(&self.inner.rates, self.inner.clock.at(until));
            // The peer floods this node. What waits in the socket is read in small parts, one after each pause.
            (self.read_size, self.reads) = (READ_MIN, 0);
            self.buffer = BytesMut::from(self.buffer.as_ref());
        }
        self.link.sent(self.conn.last_write());
        self.pings.retain(|nonce, waiting| {
            self.link.awaits_pong(*nonce) && waiting.iter().any(|task| !task.is_closed())
        });
        let due = earliest(self.link.poll_timeout(), self.close_at);
        if self.reads < READS_TO_KEEP_BUFFERS && self.buffer.is_empty() {
            // Thousands of idle links wait here, so they hold no buffers.
            self.buffer = BytesMut::new();
            self.link.shrink();
        } else if self.buffer.capacity() - self.buffer.len() < self.read_size / 2 {
            self.buffer.reserve(self.read_size);
        }
        tokio::select! {
            () = self.conn.closing.notified() => {
                if let Some(reason) = self.conn.take_close_request() {
                    self.announce_close().await;
                    self.conn.hang_up(reason);
                }
                self.close();
                Ok(false)
            }
            () = self.conn.pinging.notified(), if self.pings.len() < MAX_OPEN_PINGS => {
                let nonce = self.link.ping(self.inner.clock.now());
                self.pings.insert(nonce, std::mem::take(&mut *lock(&self.conn.pings)));
                Ok(false)
            }
            () = self.pause.wait(), if self.pause.is_on() => Ok(false),
            read = fill(&mut self.from, &mut self.buffer, &mut self.broken),
                if !self.pause.is_on() => match read {
                Ok(0) => Err(closed_without_goodbye()),
                Ok(bytes) => {
                    self.count(bytes);
                    Ok(true)
                }
                // A peer that was killed sends neither a goodbye nor the end of TLS.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(closed_without_goodbye()),
                Err(error) => Err(Reason::Lost(error.to_string())),
            },
            () = self.timer.wait_until(&self.inner, due) => {
                let now = self.inner.clock.now();
                if self.close_at.is_some_and(|at| at <= now) {
                    return Err(Reason::Lost("no goodbye in time".into()));
                }
                self.link.handle_timeout(now);
                self.free_buffers();
                Ok(false)
            }
        }
    }

    /// Frees the buffers if the link is idle.
    fn free_buffers(&mut self) {
        if self.buffer.is_empty() {
            (self.read_size, self.reads) = (READ_MIN, 0);
        }
        if self.inner.clock.now().since(self.conn.last_write()) >= IDLE_TIME {
            self.conn.outbox.shrink();
        }
    }

    /// Counts bytes that were read. After a full read the next one is larger.
    fn count(&mut self, bytes: usize) {
        self.conn.last_read.store(self.inner.clock.micros(), Ordering::Relaxed);
        self.conn.meter.received_bytes(bytes);
        self.inner.meter.received_bytes(bytes);
        self.read_this_turn += bytes;
        self.reads = READS_TO_KEEP_BUFFERS.min(self.reads + 1);
        // More bytes wait than one read takes, so the next read is larger.
        if bytes >= self.read_size {
            self.read_size = (self.read_size * 4).min(READ_MAX);
        }
        let limit = self.inner.rates.peer_receive();
        if limit != 0 {
            self.pause_reading(bytes, limit);
        }
    }

    /// Pauses for as long as these bytes take at the rate limit, and makes the next reads small.
    fn pause_reading(&mut self, bytes: usize, limit: u64) {
        let per_read = usize::try_from(limit / 20).unwrap_or(usize::MAX);
        self.read_size = self.read_size.min(per_read.max(READ_MIN));
        if let Some(due) = self.throttle.debit(bytes, limit) {
            // If the link were not read for too long, the peer would seem dead.
            let latest = tokio::time::Instant::now() + MAX_PAUSE.min(self.inner.config.ping_after);
            self.pause.extend(&self.inner.rates, due.min(latest));
        }
    }

    /// Acts on the link's outputs. Returns true once the link is over.
    async fn drain(&mut self) -> bool {
        let mut batch = ReadBatch::default();
        let mut over = false;
        // The goodbye contains the number of messages received, so the outbox holds it back until
        // `end_receiving` has set this number.
        self.conn.outbox.begin_receiving();
        while let Some(output) = self.poll() {
            match output {
                Output::Send(Frame::Goodbye { reason, .. }) => {
                    // The link refuses the peer. Messages that wait are dropped, and the goodbye is sent.
                    self.conn.outbox.abort(reason, true);
                }
                Output::Send(frame) => self.conn.send_control(&frame),
                Output::Messages(messages) => batch.add(Received::Plain(messages)),
                // Boxed, because this future is large. A link without such frames then needs no memory for it.
                Output::Frame(frame) => Box::pin(self.on_frame(frame, &mut batch)).await,
                Output::GoodbyeReceived(reason) => {
                    // If this node has said goodbye before, the peer's goodbye is the answer to it.
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
            for (_, waiting) in self.pings.extract_if(.., |nonce, _| !link.awaits_pong(*nonce)) {
                for task in waiting {
                    let _ = task.send(rtt);
                }
            }
        }
        self.deliver(&mut batch).await;
        self.conn.outbox.end_receiving(self.conn.meter.messages_received());
        over && self.deferred.is_empty()
    }

    /// Returns the next output, deferred ones first.
    fn poll(&mut self) -> Option<Output> {
        self.deferred.pop_front().or_else(|| self.link.poll())
    }

    async fn on_frame(&mut self, frame: Frame, batch: &mut ReadBatch) {
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
                if let Some(request) = self.requests.remove(&id) {
                    request.task.abort();
                }
            }
            Frame::CallBack { token } => self.inner.call_back_peer(&self.conn, token),
            overlay => batch.overlay.push(overlay),
        }
    }

    /// Decompresses a message. An invalid message is the peer's fault, and ends the link.
    async fn unpack(&mut self, packed: PackedMessage) -> Option<Message> {
        let (len, limit) = (packed.payload.len(), self.inner.config.max_message);
        let unpacked = match packed.compression {
            Compression::None if len > limit => {
                Err(format!("a message of {len} bytes is over the limit of {limit}"))
            }
            // The peer's own node does not send it, as this node's Hello says what it accepts.
            compression if !self.inner.config.compressions.contains(compression) => Err(format!(
                "a message compressed with {}, which is not accepted",
                compression.name()
            )),
            _ => compress::unpack_async(packed, limit).await.map_err(|fault| fault.to_string()),
        };
        unpacked.map_err(|fault| self.link.refuse(Reason::Fault(fault))).ok()
    }

    /// Has a request answered, in sequence with the messages: by the function that is registered for its name,
    /// or by the application's handler if there is none.
    async fn serve(&mut self, id: u64, name: String, message: Message, batch: &mut ReadBatch) {
        self.requests.retain(|_, request| !request.task.is_finished());
        if self.requests.contains_key(&id) {
            // The peer could not tell the two replies apart. In `requests` the second request would replace
            // the first, so that the first would not count towards the limit.
            self.link.refuse(Reason::Fault("two requests of the same number".into()));
            return;
        }
        let function = self.inner.served.requests.get(&name);
        let (inner, conn) = (&self.inner, &self.conn);
        let is_for_handler = function.is_none() && inner.dispatch.has_handler();
        // Requests for the handler and for functions are counted separately, so that slow functions do not
        // use up the handler's share.
        let same = self.requests.values().filter(|one| one.is_for_handler == is_for_handler);
        let is_busy = same.count() >= inner.config.max_requests_per_peer;
        if is_for_handler && !is_busy {
            let (for_handler, task) = request::prepare_for_handler(inner, conn, id, name, message);
            self.requests.insert(id, ActiveRequest { task, is_for_handler });
            return batch.add(Received::Request(Box::new(for_handler)));
        }
        self.deliver(batch).await;
        self.received(1, message.body().len());
        let refusal = match function {
            None if !is_for_handler => Refusal::NoHandler,
            Some(function) if !is_busy => {
                let task = request::answer(&self.inner, &self.conn, id, function, message);
                self.requests.insert(id, ActiveRequest { task, is_for_handler });
                return;
            }
            _ => Refusal::Busy,
        };
        self.conn.refuse(id, refusal);
    }

    /// Hands a batch to the application and the overlay. The link's timers run meanwhile, but silence of the
    /// peer does not end the link.
    async fn deliver(&mut self, batch: &mut ReadBatch) {
        let ReadBatch { received, messages, bytes, overlay } = std::mem::take(batch);
        if messages == 0 && overlay.is_empty() {
            return;
        }
        // The link is not read meanwhile, so it can't know whether the peer is silent.
        self.link.pause();
        // `close_requested`: this node wants to close the link. `announced`: the application has the event
        // about that.
        let (mut close_requested, mut announced) = (false, false);
        {
            let (inner, conn) = (self.inner.clone(), self.conn.clone());
            let mut delivery = std::pin::pin!(async {
                if messages != 0 {
                    inner.dispatch.deliver_received(&*inner, &conn.peer, received).await;
                }
                if !overlay.is_empty() {
                    inner.actor.report(LinkReport::Frames(conn.clone(), overlay)).await;
                }
            });
            loop {
                let due = self.link.poll_timeout();
                tokio::select! {
                    biased;
                    () = &mut delivery => break,
                    () = inner.tasks.halt.signalled() => break,
                    () = self.conn.closing.notified(), if !close_requested => {
                        close_requested = true;
                        // The goodbye does not wait for the application. The event has to wait, because
                        // the handler may still be busy with this batch.
                        if let Some(reason) = self.conn.take_close_request() {
                            self.conn.hang_up(reason);
                        } else {
                            announced = true;
                        }
                    }
                    () = self.timer.wait_until(&inner, due) => {
                        self.link.sent(self.conn.last_write());
                        self.link.handle_timeout(self.inner.clock.now());
                        // Pings and acknowledgements go out now. All other outputs keep their order
                        // behind the batch.
                        while let Some(output) = self.link.poll() {
                            match output {
                                Output::Send(frame) => self.conn.send_control(&frame),
                                other => self.deferred.push_back(other),
                            }
                        }
                    }
                }
            }
        }
        self.link.resume(self.inner.clock.now());
        self.received(messages as u64, bytes);
        if close_requested {
            if !announced {
                self.announce_close().await;
            }
            // `wait` still has to close the link, and needs the wake-up that was used here.
            self.conn.closing.notify_one();
        }
    }

    /// Tells the application that this node is about to close the link.
    async fn announce_close(&self) {
        let event = Event::disconnecting(self.conn.peer.clone());
        // Boxed, because this future is large. A link that is open then needs no memory for it.
        Box::pin(self.inner.deliver_event(event)).await;
    }

    /// Counts messages that the application has received.
    fn received(&mut self, messages: u64, bytes: usize) {
        self.conn.meter.received(messages);
        self.inner.meter.received(messages);
        self.link.delivered(self.inner.clock.now(), messages, bytes);
    }

    /// Begins to close the link, if this node closes it or could not write to it.
    fn close(&mut self) {
        let Some(reason) = self.conn.outbox.closed() else { return };
        self.end(reason.clone(), false);
        // The outbox sends the goodbye itself, after the frames that were queued before.
        let _ = self.link.begin_close(reason);
        let until = self.inner.clock.now() + self.inner.config.flush_timeout;
        self.close_at.get_or_insert(until);
    }

    /// Sets how the link ends. The first call decides.
    fn end(&mut self, reason: Reason, by_peer: bool) {
        self.end.get_or_insert(LinkEnd { reason, by_peer });
    }
}

/// One timer for all deadlines of a link. Most deadlines are postponed before they are reached. Postponing
/// costs nothing: the timer goes off at the old time, and is then set to the new one.
#[derive(Debug, Default)]
struct LinkTimer {
    timer: Option<Pin<Box<Sleep>>>,
    /// The deadline that the timer is set to.
    set: Option<Instant>,
}

impl LinkTimer {
    /// Waits until `due`; for ever if it is `None`.
    async fn wait_until(&mut self, inner: &Inner, due: Option<Instant>) {
        let Some(due) = due else { return std::future::pending().await };
        loop {
            if self.set.is_none_or(|set| set > due) {
                let at = inner.clock.at(due);
                match &mut self.timer {
                    Some(timer) => timer.as_mut().reset(at),
                    none => *none = Some(Box::pin(tokio::time::sleep_until(at))),
                }
                self.set = Some(due);
            }
            let Some(timer) = &mut self.timer else { return };
            timer.await;
            self.set = None;
            if inner.clock.now() >= due {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use peerkit_proto::config::Config;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_short_pause_does_not_shorten_a_long_one() {
        let (rates, start) = (Rates::new(&Config::default()), tokio::time::Instant::now());
        for (first, second) in [(10, 1), (1, 10)] {
            let mut pause = ReadPause::default();
            let begun = tokio::time::Instant::now();
            pause.extend(&rates, begun + Duration::from_secs(first));
            pause.extend(&rates, begun + Duration::from_secs(second));
            pause.wait().await;
            assert!(begun.elapsed() >= Duration::from_secs(10) && !pause.is_on());
        }
        assert!(start.elapsed() < Duration::from_secs(21));
    }
}
