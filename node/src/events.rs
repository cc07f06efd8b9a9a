//! Events as an async stream. Each subscriber has a bounded queue, and gets the number of events
//! that it has missed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use peerkit_proto::config::Config;
use peerkit_proto::event::Event;
use tokio::sync::Notify;

use crate::lock::lock;

/// A stream of a node's events, from the moment of the subscription.
///
/// While the stream's queue is full, the node holds messages back, which slows their senders down. If there
/// is still no room after `Config::event_patience`, the stream misses messages. It misses other events only
/// if its queue has twice as many events as the limit. [`Event::NodeLagged`] has the number of missed
/// events. Dropping the stream unsubscribes.
#[derive(Debug)]
pub struct Events {
    queue: Arc<EventQueue>,
}

impl Events {
    /// Waits for the next event. Returns `None` once the node has stopped and all events have been
    /// read.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Returns the next event without waiting, or `None` if there is none at the moment.
    pub fn try_next(&mut self) -> Option<Event> {
        self.queue.pop(&mut lock(&self.queue.state))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut state = lock(&self.queue.state);
        if let Some(event) = self.queue.pop(&mut state) {
            return Poll::Ready(Some(event));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll(cx)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut state = lock(&self.queue.state);
        state.dropped = true;
        state.events.clear();
        // Tasks that wait for room have to see that the reader is gone.
        self.queue.room.notify_waiters();
    }
}

/// The unread events of one subscriber.
#[derive(Debug)]
pub(crate) struct EventQueue {
    state: Mutex<QueueState>,
    /// Wakes the tasks that wait for room.
    room: Notify,
    max_events: usize,
    max_bytes: usize,
    /// Time for which messages wait for room before they count as missed.
    patience: Duration,
    /// Number of events that the readers of all queues of the node have missed.
    all_missed: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct QueueState {
    events: VecDeque<Event>,
    /// Bytes of the messages in `events`.
    bytes: usize,
    /// Number of missed events that have not been reported to the reader yet.
    missed: u64,
    reader: Option<Waker>,
    /// True once the application has taken the stream. Until then messages do not wait for room.
    claimed: bool,
    /// True once the application has dropped the stream.
    dropped: bool,
    /// True once the node adds no more events.
    ended: bool,
}

impl EventQueue {
    pub(crate) fn new(config: &Config, all_missed: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            room: Notify::new(),
            max_events: config.event_queue.max(1),
            max_bytes: config.event_queue_bytes,
            patience: config.event_patience,
            all_missed,
        })
    }

    /// Hands the stream that reads this queue to the application.
    pub(crate) fn claim(self: &Arc<Self>) -> Events {
        lock(&self.state).claimed = true;
        Events { queue: self.clone() }
    }

    /// Returns whether the application has taken the stream.
    pub(crate) fn is_claimed(&self) -> bool {
        lock(&self.state).claimed
    }

    /// Returns whether the application has dropped the stream.
    pub(crate) fn is_dropped(&self) -> bool {
        lock(&self.state).dropped
    }

    /// Adds an event without waiting. If there is no room, the event counts as missed.
    pub(crate) fn push(&self, event: Event) {
        let mut state = lock(&self.state);
        // All other events may fill twice the room, so that a flood of messages does not hide them.
        let has_room = match event {
            Event::NodeMessage { .. } | Event::NodeBroadcast { .. } => self.has_room(&state),
            _ => state.events.len() < 2 * self.max_events,
        };
        self.add(&mut state, event, has_room);
    }

    /// Adds messages or broadcasts. If the queue is full, waits for room. After `patience` without
    /// room the remaining messages count as missed.
    pub(crate) async fn push_messages(&self, messages: impl Iterator<Item = Event>) {
        let mut messages = messages.peekable();
        loop {
            // This task registers for the notification before it checks the queue. Otherwise the reader
            // could make room in between, and the notification would be lost.
            let mut room_made = std::pin::pin!(self.room.notified());
            room_made.as_mut().enable();
            {
                let mut state = lock(&self.state);
                // Messages do not wait for a stream that the application has not taken, or has
                // dropped.
                while self.has_room(&state) || !state.claimed || state.dropped {
                    let Some(event) = messages.next() else { return };
                    let has_room = self.has_room(&state);
                    self.add(&mut state, event, has_room);
                }
                if messages.peek().is_none() {
                    return;
                }
            }
            // The wait begins anew whenever the reader makes room. So a slow reader only holds the senders
            // back, and a reader that has stopped misses messages.
            if tokio::time::timeout(self.patience, room_made).await.is_err() {
                messages.by_ref().for_each(|event| self.push(event));
                return;
            }
        }
    }

    /// Ends the stream: it returns the queued events, then `None`.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        wake(&mut state);
    }

    fn add(&self, state: &mut QueueState, event: Event, has_room: bool) {
        if state.dropped {
            return;
        }
        if has_room {
            // The report of missed events comes before later events.
            Self::report_missed(state);
            state.bytes += bytes(&event);
            state.events.push_back(event);
        } else {
            state.missed += 1;
            self.all_missed.fetch_add(1, Relaxed);
        }
        wake(state);
    }

    /// Queues the event that reports missed events, if there are any.
    fn report_missed(state: &mut QueueState) {
        if state.missed != 0 {
            let missed = std::mem::take(&mut state.missed);
            state.events.push_back(Event::NodeLagged { missed });
        }
    }

    fn pop(&self, state: &mut QueueState) -> Option<Event> {
        // Without a later event, the report of missed events is not queued yet.
        if state.events.is_empty() {
            Self::report_missed(state);
        }
        let event = state.events.pop_front()?;
        state.bytes = state.bytes.saturating_sub(bytes(&event));
        if self.has_room(state) {
            self.room.notify_waiters();
        }
        Some(event)
    }

    fn has_room(&self, state: &QueueState) -> bool {
        // A queue without messages takes one message of any size.
        state.events.len() < self.max_events && (state.bytes < self.max_bytes || state.bytes == 0)
    }
}

fn wake(state: &mut QueueState) {
    if let Some(reader) = state.reader.take() {
        reader.wake();
    }
}

/// Returns the bytes of the message in an event. Other events count as 0.
fn bytes(event: &Event) -> usize {
    match event {
        Event::NodeMessage { message, .. } => message.body().len(),
        Event::NodeBroadcast { broadcast } => broadcast.message.body().len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerkit_proto::event::{Direction, Peer};
    use peerkit_proto::id::NodeId;
    use peerkit_proto::message::Message;

    fn message(n: usize) -> Event {
        let address = "127.0.0.1:1".parse().unwrap();
        let id = NodeId::from_bytes([1; 32]);
        let peer = Peer::new(id, "x".into(), address, Direction::Inbound);
        Event::NodeMessage { peer, message: Message::text(n.to_string()) }
    }

    fn text(event: Event) -> String {
        match event {
            Event::NodeMessage { message, .. } => message.as_text().unwrap().to_owned(),
            Event::NodeLagged { missed } => format!("lagged {missed}"),
            other => other.name().to_owned(),
        }
    }

    fn queue(events: usize) -> Arc<EventQueue> {
        let mut config = Config::default();
        config.event_queue = events;
        EventQueue::new(&config, Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn messages_wait_for_a_slow_reader_and_the_missed_ones_are_reported() {
        let queue = queue(2);
        let mut events = queue.claim();
        queue.push_messages((0..5).map(message)).await;
        let mut read = Vec::new();
        while let Some(event) = events.try_next() {
            read.push(text(event));
        }
        assert_eq!(read, ["0", "1", "lagged 3"]);
        assert_eq!(queue.all_missed.load(Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_wait_for_room_and_none_is_lost() {
        let queue = queue(2);
        let mut events = queue.claim();
        let writer = tokio::spawn({
            let queue = queue.clone();
            async move { queue.push_messages((0..100).map(message)).await }
        });
        for n in 0..100 {
            assert_eq!(text(events.next().await.unwrap()), n.to_string());
        }
        writer.await.unwrap();
        queue.end();
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn messages_do_not_wait_for_unclaimed_and_dropped_streams() {
        let unclaimed = queue(2);
        unclaimed.push_messages((0..5).map(message)).await;
        let mut events = unclaimed.claim();
        assert_eq!(text(events.next().await.unwrap()), "0");
        drop(events);
        assert!(unclaimed.is_dropped());
        unclaimed.push_messages((0..5).map(message)).await;
        assert!(lock(&unclaimed.state).events.is_empty());
    }

    #[test]
    fn other_events_have_twice_the_room_of_messages() {
        let queue = queue(2);
        let mut events = queue.claim();
        (0..2).for_each(|n| queue.push(message(n)));
        (0..3).for_each(|_| queue.push(Event::NodeRequestToStop));
        let read: Vec<_> = std::iter::from_fn(|| events.try_next()).map(text).collect();
        assert_eq!(read, ["0", "1", "node_request_to_stop", "node_request_to_stop", "lagged 1"]);
    }
}
