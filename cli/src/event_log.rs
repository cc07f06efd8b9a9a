//! The last events of the node, for other programs: `events` lists them, and streams follow them.
//!
//! One task reads the node's events into the log. It never waits for a reader, so a slow reader costs the node
//! nothing. All readers share the events and their JSON lines. A message becomes a JSON line only when a reader
//! needs the line, and only once. A reader that is too slow misses the oldest events, and gets their number.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};

use axum::body::Bytes;
use futures_util::Stream as _;
use peerkit::{Event, Events, Message, Node};
use tokio::sync::Notify;

use crate::json;
use crate::lock::lock;

/// Maximum number of events that `events` lists.
const MAX_RECENT: usize = 256;

/// Maximum number of bytes of the events that `events` lists. 1 MiB: an event may hold a message of 16 MiB.
const MAX_RECENT_BYTES: usize = 1 << 20;

/// Maximum number of events that wait for all readers together. 4,096: as many as wait for a subscriber of the
/// library.
const MAX_UNREAD: usize = 4096;

/// Maximum number of bytes of these events, unless a single one has more. 4 MiB: 4,096 messages of 1 KiB. The JSON
/// line of a message may have six times the bytes of the message.
const MAX_UNREAD_BYTES: usize = 4 << 20;

/// Maximum number of events that a reader takes at a time.
const MAX_BATCH: usize = 64;

/// Maximum number of bytes of these events, unless a single one has more.
const MAX_BATCH_BYTES: usize = 64 << 10;

/// Maximum number of events that the task moves into the log before the other tasks run.
const MAX_MOVED: usize = 256;

/// Maximum size of a message that is copied. The body of a message may be a part of a read buffer, which the
/// log would keep in memory. 16 KiB: copying so little is cheap.
const MAX_COPIED: usize = 16 << 10;

/// The last events of a node. Clones share them.
#[derive(Clone)]
pub(crate) struct EventLog(Arc<SharedLog>);

struct SharedLog {
    node: Node,
    state: Mutex<LogState>,
    /// Wakes the readers when there are new events, and when the log ends.
    added: Notify,
}

struct LogState {
    source: Events,
    /// The events that `events` lists.
    recent: EventRing,
    /// The events for the readers. Empty if there are none.
    unread: EventRing,
    readers: usize,
    /// The number of the next event.
    next: u64,
    /// True once the node has stopped.
    ended: bool,
}

/// An event, its place in the log, and its JSON line.
pub(crate) struct LoggedEvent {
    pub(crate) event: Event,
    number: u64,
    /// Time at which it came, in milliseconds since 1970.
    time: u64,
    /// Number of bytes for which it counts.
    bytes: usize,
    line: OnceLock<Bytes>,
}

/// The last events, up to a number and a size.
struct EventRing {
    events: VecDeque<Arc<LoggedEvent>>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

/// A reader of the events from now on.
pub(crate) struct EventReader {
    log: EventLog,
    /// The number of the next event that it reads.
    next: u64,
}

/// Events for a reader, in their order.
pub(crate) struct EventBatch {
    /// Number of events before these that the reader has missed.
    pub(crate) missed: u64,
    pub(crate) events: Vec<Arc<LoggedEvent>>,
    /// True if there are no further events at the moment.
    pub(crate) is_last: bool,
}

impl EventLog {
    /// Starts a log of the events of a node. It ends when the node stops.
    pub(crate) fn start(node: &Node, source: Events) -> Self {
        let log = Self(Arc::new(SharedLog {
            node: node.clone(),
            state: Mutex::new(LogState::new(source)),
            added: Notify::new(),
        }));
        let moving = log.clone();
        tokio::spawn(poll_fn(move |cx| moving.poll_move(cx)));
        log
    }

    /// Moves new events into the log. Returns `Ready` once the node has stopped.
    fn poll_move(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut log = lock(&self.0.state);
        let before = log.next;
        let moved = loop {
            match Pin::new(&mut log.source).poll_next(cx) {
                Poll::Ready(Some(event)) => log.push(&self.0.node, event),
                Poll::Ready(None) => {
                    log.ended = true;
                    break Poll::Ready(());
                }
                Poll::Pending => break Poll::Pending,
            }
            if log.next.wrapping_sub(before) >= MAX_MOVED as u64 {
                cx.waker().wake_by_ref();
                break Poll::Pending;
            }
        };
        let is_news = log.ended || (log.next != before && log.readers > 0);
        drop(log);
        if is_news {
            self.0.added.notify_waiters();
        }
        moved
    }

    /// Returns the last events, the oldest first.
    pub(crate) fn recent(&self) -> Vec<Arc<LoggedEvent>> {
        let mut log = lock(&self.0.state);
        let before = log.next;
        // An event that another program has already seen must be among them, even if the task has not moved it
        // yet.
        for _ in 0..MAX_MOVED {
            let Some(event) = log.source.try_next() else { break };
            log.push(&self.0.node, event);
        }
        let is_news = log.next != before && log.readers > 0;
        let recent = log.recent.events.iter().cloned().collect();
        drop(log);
        // The task finds no news any more, so it would not wake the readers.
        if is_news {
            self.0.added.notify_waiters();
        }
        recent
    }

    /// Returns a reader of the events from now on.
    pub(crate) fn reader(&self) -> EventReader {
        let mut log = lock(&self.0.state);
        log.readers += 1;
        EventReader { next: log.next, log: self.clone() }
    }

    /// Returns the JSON line of an event, without a newline.
    pub(crate) fn line(&self, event: &LoggedEvent) -> Bytes {
        event.line(&self.0.node)
    }

    /// Returns the JSON line of an event as text, without a newline.
    pub(crate) fn line_text(&self, event: &LoggedEvent) -> String {
        String::from_utf8_lossy(&self.line(event)).into_owned()
    }

    /// Returns the JSON line that reports missed events.
    pub(crate) fn lagged(&self, missed: u64) -> String {
        without_newline(json::event(&self.0.node, &Event::NodeLagged { missed }))
    }
}

impl LogState {
    fn new(source: Events) -> Self {
        Self {
            source,
            recent: EventRing::new(MAX_RECENT, MAX_RECENT_BYTES),
            unread: EventRing::new(MAX_UNREAD, MAX_UNREAD_BYTES),
            readers: 0,
            next: 0,
            ended: false,
        }
    }

    fn push(&mut self, node: &Node, event: Event) {
        let event = Arc::new(LoggedEvent::new(self.next, node, event));
        self.next = self.next.wrapping_add(1);
        if self.readers > 0 {
            self.unread.push(event.clone());
        }
        // An event that is too large by itself would push out all others.
        if event.bytes <= MAX_RECENT_BYTES {
            self.recent.push(event);
        }
    }

    /// Returns the events from the number `next` on, up to the limits of a batch. Returns `None` if there are
    /// none yet.
    fn batch(&self, next: u64) -> Option<EventBatch> {
        let events = &self.unread.events;
        let first = events.partition_point(|event| event.number < next);
        let mut bytes = 0;
        let taken = events.range(first..).take(MAX_BATCH).take_while(|event| {
            let has_room = bytes == 0 || bytes + event.bytes <= MAX_BATCH_BYTES;
            bytes += event.bytes;
            has_room
        });
        let taken: Vec<_> = taken.cloned().collect();
        let missed = taken.first()?.number.saturating_sub(next);
        let is_last = first + taken.len() == events.len();
        Some(EventBatch { missed, events: taken, is_last })
    }
}

impl LoggedEvent {
    fn new(number: u64, node: &Node, mut event: Event) -> Self {
        let time = json::unix_millis();
        let body = match &mut event {
            Event::NodeMessage { message, .. } => Some(unpinned(message)),
            Event::NodeBroadcast { broadcast } => Some(unpinned(&mut broadcast.message)),
            _ => None,
        };
        let logged = Self { event, number, time, bytes: body.unwrap_or(0), line: OnceLock::new() };
        if body.is_some() {
            return logged;
        }
        // Only messages come in great numbers. The line of any other event shows its peer as it is now.
        let bytes = logged.line(node).len();
        Self { bytes, ..logged }
    }

    /// Returns the JSON line, without a newline.
    fn line(&self, node: &Node) -> Bytes {
        let line = || without_newline(json::event_at(node, &self.event, self.time)).into();
        self.line.get_or_init(line).clone()
    }
}

impl EventRing {
    const fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { events: VecDeque::new(), bytes: 0, max_events, max_bytes }
    }

    /// Adds an event. Removes the oldest ones if there are too many.
    fn push(&mut self, event: Arc<LoggedEvent>) {
        self.bytes += event.bytes;
        self.events.push_back(event);
        while (self.events.len() > self.max_events || self.bytes > self.max_bytes)
            && self.events.len() > 1
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= oldest.bytes;
        }
    }
}

impl EventReader {
    /// Waits for events. Returns `None` once the node has stopped and all events have been read.
    pub(crate) async fn next(&mut self) -> Option<EventBatch> {
        loop {
            // Registered before the log is read, so that an event in between is not overlooked.
            let mut added = pin!(self.log.0.added.notified());
            added.as_mut().enable();
            {
                let log = lock(&self.log.0.state);
                if let Some(batch) = log.batch(self.next) {
                    self.next += batch.missed + batch.events.len() as u64;
                    return Some(batch);
                }
                if log.ended {
                    return None;
                }
            }
            added.await;
        }
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        let mut log = lock(&self.log.0.state);
        log.readers -= 1;
        if log.readers == 0 {
            log.unread = EventRing::new(MAX_UNREAD, MAX_UNREAD_BYTES);
        }
    }
}

/// Copies the body of a small message, so that the message keeps no read buffer in memory. Returns the size of
/// the body.
fn unpinned(message: &mut Message) -> usize {
    let bytes = message.body().len();
    if bytes <= MAX_COPIED {
        *message = Message::new(message.kind(), Bytes::copy_from_slice(message.body()));
    }
    bytes
}

fn without_newline(mut line: String) -> String {
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use peerkit::{NodeId, Peer};

    use super::*;

    fn message(size: usize) -> Event {
        let peer = Peer::without_link(NodeId::from_bytes([1; 32]), "bob".into());
        Event::NodeMessage { peer, message: Message::text("x".repeat(size)) }
    }

    fn numbered(number: u64) -> Event {
        Event::NodeLagged { missed: number }
    }

    /// Returns a log without a task. The test adds its events.
    async fn log() -> EventLog {
        let node = Node::builder().spawn().await.unwrap();
        let state = Mutex::new(LogState::new(node.events()));
        EventLog(Arc::new(SharedLog { node, state, added: Notify::new() }))
    }

    fn push(log: &EventLog, event: Event) {
        lock(&log.0.state).push(&log.0.node, event);
        log.0.added.notify_waiters();
    }

    /// Reads all batches that there are. Returns the number of missed events, and the lines.
    fn read(reader: &mut EventReader) -> (u64, Vec<Bytes>) {
        let log = reader.log.clone();
        let (mut missed, mut lines) = (0, Vec::new());
        while let Some(batch) = reader.next().now_or_never() {
            let batch = batch.expect("the log has not ended");
            assert!(batch.events.len() <= MAX_BATCH);
            missed += batch.missed;
            lines.extend(batch.events.iter().map(|event| log.line(event)));
            assert_eq!(batch.is_last, reader.next == lock(&log.0.state).next);
        }
        (missed, lines)
    }

    fn count(lines: &[Bytes]) -> impl Iterator<Item = u64> {
        let missed = |line: &Bytes| -> u64 {
            let line: serde_json::Value = serde_json::from_slice(line).unwrap();
            line["data"]["missed"].as_u64().unwrap()
        };
        lines.iter().map(missed)
    }

    #[tokio::test]
    async fn only_the_last_events_are_listed() {
        let log = log().await;
        let listed = || -> Vec<Bytes> { log.recent().iter().map(|one| log.line(one)).collect() };
        for number in 0..MAX_RECENT as u64 + 10 {
            push(&log, numbered(number));
        }
        let all = listed();
        assert!(count(&all).eq(10..MAX_RECENT as u64 + 10));
        push(&log, message(MAX_RECENT_BYTES + 1));
        assert_eq!(listed(), all, "it is larger than all that may be listed");
        push(&log, message(MAX_RECENT_BYTES));
        assert_eq!(log.recent().len(), 1);
        log.0.node.shutdown().await;
    }

    /// The log has no task here, so only the list can wake the reader.
    #[tokio::test]
    async fn a_list_of_the_last_events_wakes_the_readers() {
        let log = log().await;
        let mut reader = log.reader();
        let waiting = tokio::spawn(async move { reader.next().await });
        let other = Node::builder().listen("127.0.0.1:0").spawn().await.unwrap();
        log.0.node.connect(other.listening()[0]).await.unwrap();
        while log.recent().is_empty() {
            tokio::task::yield_now().await;
        }
        let batch = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        let batch = batch.expect("the reader sleeps").unwrap().unwrap();
        assert_eq!(batch.events[0].event.name(), "outbound_node_connected");
    }

    #[tokio::test]
    async fn a_slow_reader_misses_the_oldest_events_and_gets_their_number() {
        let log = log().await;
        push(&log, numbered(0));
        let (mut fast, mut slow) = (log.reader(), log.reader());
        assert!(fast.next().now_or_never().is_none(), "earlier events are not for readers");
        let last = MAX_UNREAD as u64 + 100;
        let mut lines = Vec::new();
        for number in 1..=last {
            push(&log, numbered(number));
            if number % 50 == 0 {
                let (missed, more) = read(&mut fast);
                assert_eq!(missed, 0);
                lines.extend(more);
            }
        }
        lines.extend(read(&mut fast).1);
        assert!(count(&lines).eq(1..=last));
        let (missed, rest) = read(&mut slow);
        assert_eq!(missed, 100);
        assert!(count(&rest).eq(101..=last));
        for (line, same) in lines[100..].iter().zip(&rest) {
            assert_eq!(line.as_ptr(), same.as_ptr(), "both readers share the line");
        }
        let news = async { slow.next().await.expect("an event").events.len() };
        let (read, ()) = tokio::join!(news, async { push(&log, numbered(0)) });
        assert_eq!(read, 1, "the reader continues");
        drop((fast, slow));
        push(&log, numbered(0));
        assert!(lock(&log.0.state).unread.events.is_empty(), "nothing is kept without readers");
        log.0.node.shutdown().await;
    }

    #[tokio::test]
    async fn messages_become_lines_only_for_readers_and_are_bounded_by_their_bytes() {
        let log = log().await;
        push(&log, message(10));
        let recent = log.recent();
        assert!(recent[0].line.get().is_none());
        let line = log.line(&recent[0]);
        assert_eq!(log.line(&log.recent()[0]).as_ptr(), line.as_ptr(), "the line is made once");

        let mut reader = log.reader();
        for _ in 0..9 {
            push(&log, message(MAX_UNREAD_BYTES / 8));
        }
        assert_eq!(read(&mut reader).0, 1);
        push(&log, message(3 * MAX_UNREAD_BYTES));
        let (missed, lines) = read(&mut reader);
        assert_eq!((missed, lines.len()), (0, 1), "a single message may be larger");
        push(&log, message(1));
        let events = lock(&log.0.state).unread.events.len();
        assert_eq!((events, read(&mut reader).0), (1, 0));
        log.0.node.shutdown().await;
    }

    #[tokio::test]
    async fn the_log_has_the_events_of_the_node_and_ends_with_it() {
        let node = Node::builder().listen("127.0.0.1:0").spawn().await.unwrap();
        let log = EventLog::start(&node, node.events());
        let mut reader = log.reader();
        let other = Node::builder().spawn().await.unwrap();
        let at = node.listening()[0].to_string();
        other.connect(at.as_str()).await.unwrap();
        let first = reader.next().await.unwrap();
        assert_eq!(first.events[0].event.name(), "inbound_node_connected");
        assert_eq!(log.recent()[0].event.name(), "inbound_node_connected");
        other.shutdown().await;
        node.shutdown().await;
        while reader.next().await.is_some() {}
    }
}
