//! Events as an async stream: a bounded queue for each subscriber, which learns how many it has missed.

use std::collections::VecDeque;
use std::pin::Pin;
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
/// If the reader is slow, messages and their senders wait for a while. After that the reader misses
/// messages. It misses other events if twice as many as the limit wait. [`Event::NodeLagged`] has the
/// number of missed events. Dropping the stream unsubscribes.
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

    /// Returns the next event if there is one now.
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
        state.gone = true;
        state.events.clear();
        self.queue.room.notify_waiters();
    }
}

/// The unread events of one subscriber.
#[derive(Debug)]
pub(crate) struct EventQueue {
    state: Mutex<QueueState>,
    room: Notify,
    max_events: usize,
    max_bytes: usize,
    patience: Duration,
}

#[derive(Debug, Default)]
struct QueueState {
    events: VecDeque<Event>,
    /// Bytes of the messages in `events`.
    bytes: usize,
    missed: u64,
    reader: Option<Waker>,
    /// The application holds the stream. Before that messages do not wait.
    claimed: bool,
    gone: bool,
    ended: bool,
}

impl EventQueue {
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            room: Notify::new(),
            max_events: config.event_queue.max(1),
            max_bytes: config.event_queue_bytes,
            patience: config.event_patience,
        })
    }

    /// Returns the stream that reads this queue.
    pub(crate) fn claim(self: &Arc<Self>) -> Events {
        lock(&self.state).claimed = true;
        Events { queue: self.clone() }
    }

    /// Returns whether the application has taken the stream.
    pub(crate) fn is_claimed(&self) -> bool {
        lock(&self.state).claimed
    }

    /// Returns whether the stream was dropped.
    pub(crate) fn is_gone(&self) -> bool {
        lock(&self.state).gone
    }

    /// Adds an event without waiting. If there is no room, it counts as missed.
    pub(crate) fn push(&self, event: Event) {
        let mut state = lock(&self.state);
        // Events about the node itself get twice the room, as a flood of messages should not hide them.
        let room = match event {
            Event::NodeMessage { .. } | Event::NodeBroadcast { .. } => self.has_room(&state),
            _ => state.events.len() < 2 * self.max_events,
        };
        self.add(&mut state, event, room);
    }

    /// Adds messages or broadcasts. Waits for room if there is none, but no longer than the patience.
    pub(crate) async fn push_messages(&self, messages: impl Iterator<Item = Event>) {
        let mut messages = messages.peekable();
        loop {
            // Registered before the queue is looked at, so that room made in between is not missed.
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            {
                let mut state = lock(&self.state);
                // Nothing waits for a stream that the application has not taken yet, or has dropped.
                while self.has_room(&state) || !state.claimed || state.gone {
                    let Some(event) = messages.next() else { return };
                    let room = self.has_room(&state);
                    self.add(&mut state, event, room);
                }
                if messages.peek().is_none() {
                    return;
                }
            }
            if tokio::time::timeout(self.patience, room).await.is_err() {
                messages.by_ref().for_each(|event| self.push(event));
                return;
            }
        }
    }

    /// Ends the stream: no more events will come.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        wake(&mut state);
    }

    fn add(&self, state: &mut QueueState, event: Event, room: bool) {
        if state.gone {
            return;
        }
        if room {
            // The reader learns of missed events before it gets later ones.
            Self::tell_missed(state);
            state.bytes += bytes(&event);
            state.events.push_back(event);
        } else {
            state.missed += 1;
        }
        wake(state);
    }

    fn tell_missed(state: &mut QueueState) {
        if state.missed != 0 {
            let missed = std::mem::take(&mut state.missed);
            state.events.push_back(Event::NodeLagged { missed });
        }
    }

    fn pop(&self, state: &mut QueueState) -> Option<Event> {
        if state.events.is_empty() {
            Self::tell_missed(state);
        }
        let event = state.events.pop_front()?;
        state.bytes = state.bytes.saturating_sub(bytes(&event));
        if self.has_room(state) {
            self.room.notify_waiters();
        }
        Some(event)
    }

    fn has_room(&self, state: &QueueState) -> bool {
        // An empty queue takes one message of any size.
        state.events.len() < self.max_events && (state.bytes < self.max_bytes || state.bytes == 0)
    }
}

fn wake(state: &mut QueueState) {
    if let Some(reader) = state.reader.take() {
        reader.wake();
    }
}

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
        EventQueue::new(&config)
    }

    #[tokio::test(start_paused = true)]
    async fn messages_wait_for_a_slow_reader_which_then_learns_how_many_it_missed() {
        let queue = queue(2);
        let mut events = queue.claim();
        queue.push_messages((0..5).map(message)).await;
        let mut read = Vec::new();
        while let Some(event) = events.try_next() {
            read.push(text(event));
        }
        assert_eq!(read, ["0", "1", "lagged 3"]);
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
    async fn unclaimed_and_dropped_streams_wait_for_nothing() {
        let unclaimed = queue(2);
        unclaimed.push_messages((0..5).map(message)).await;
        let mut events = unclaimed.claim();
        assert_eq!(text(events.next().await.unwrap()), "0");
        drop(events);
        assert!(unclaimed.is_gone());
        unclaimed.push_messages((0..5).map(message)).await;
        assert!(lock(&unclaimed.state).events.is_empty());
    }

    #[test]
    fn other_events_have_room_beyond_the_messages() {
        let queue = queue(2);
        let mut events = queue.claim();
        (0..2).for_each(|n| queue.push(message(n)));
        (0..3).for_each(|_| queue.push(Event::NodeRequestToStop));
        let read: Vec<_> = std::iter::from_fn(|| events.try_next()).map(text).collect();
        assert_eq!(read, ["0", "1", "node_request_to_stop", "node_request_to_stop", "lagged 1"]);
    }
}
