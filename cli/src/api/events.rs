//! The events of the node, as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use tokio::time::{Instant, sleep, sleep_until};

use super::ApiState;
use crate::event_log::{EventBatch, EventLog, EventReader};
use crate::lock::lock;

/// Interval at which a stream sends new events, unless there are more than one batch. 20 ms: people do not notice
/// it. Without it, 100 streams would cost 100 writes for each event.
const INTERVAL: Duration = Duration::from_millis(20);

/// Maximum number of bytes that all streams together are sent in a second. 64 MiB: enough for one stream of all
/// messages that a node can receive, and little enough that other requests do not wait.
const MAX_RATE: u64 = 64 << 20;

/// Time for which unused bytes can be sent later. 20 ms: timers are about 1 ms late.
const MAX_CREDIT: Duration = Duration::from_millis(20);

/// Interval of comments in a stream without events, which show that the node still runs.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Maximum size of a line that is copied. A longer one is sent from the memory that all streams share.
const MAX_COPIED: usize = 16 << 10;

/// Streams the events of the node from now on. The name of each is its kind, and its data is the JSON line
/// that `--json` prints. A client that reads too slowly gets `node_lagged` for the events that it missed, and
/// then the oldest event that is kept.
pub(super) async fn stream(State(state): State<Arc<ApiState>>) -> Response {
    let stream = EventStream {
        reader: state.session.event_log.reader(),
        parts: VecDeque::new(),
        next_batch: Instant::now(),
        state,
    };
    let parts = futures_util::stream::unfold(stream, async |mut stream| {
        let part = stream.next().await?;
        Some((Ok::<_, Infallible>(part), stream))
    });
    let mut response = Response::new(Body::from_stream(parts));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// The bytes that all streams may send.
#[derive(Default)]
pub(super) struct StreamBudget(Mutex<Option<Instant>>);

impl StreamBudget {
    /// Takes bytes from the budget. Returns the time until which the stream has to wait.
    fn take(&self, bytes: usize, now: Instant) -> Instant {
        let mut until = lock(&self.0);
        let earliest = now.checked_sub(MAX_CREDIT).unwrap_or(now);
        let micros = (bytes as u64).saturating_mul(1_000_000) / MAX_RATE;
        let begun = until.unwrap_or(earliest).max(earliest);
        *until.insert(begun + Duration::from_micros(micros))
    }
}

/// The stream of events to one client.
struct EventStream {
    state: Arc<ApiState>,
    reader: EventReader,
    /// Parts of the text that are not sent yet.
    parts: VecDeque<Bytes>,
    /// The earliest time of the next batch of events.
    next_batch: Instant,
}

impl EventStream {
    /// Waits for the next part of the text. Returns `None` when the stream ends.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(part) = self.parts.pop_front() {
            return Some(part);
        }
        let batch = async {
            sleep_until(self.next_batch).await;
            self.reader.next().await
        };
        let batch = tokio::select! {
            // `None` after the last event of a node that has stopped.
            batch = batch => batch?,
            () = sleep(KEEP_ALIVE) => return Some(Bytes::from_static(b":\n\n")),
        };
        self.parts = parts(&self.state.session.event_log, &batch);
        let now = Instant::now();
        let bytes = self.parts.iter().map(Bytes::len).sum();
        let allowed = self.state.stream_budget.take(bytes, now);
        self.next_batch = if batch.is_last { allowed.max(now + INTERVAL) } else { allowed };
        self.parts.pop_front()
    }
}

/// Returns the text of events, in parts.
fn parts(log: &EventLog, batch: &EventBatch) -> VecDeque<Bytes> {
    let (mut parts, mut text) = (VecDeque::new(), Vec::new());
    if batch.missed > 0 {
        let line = log.lagged(batch.missed);
        text.extend_from_slice(format!("event: node_lagged\ndata: {line}\n\n").as_bytes());
    }
    for logged in &batch.events {
        let line = log.line(logged);
        text.extend_from_slice(b"event: ");
        text.extend_from_slice(logged.event.name().as_bytes());
        text.extend_from_slice(b"\ndata: ");
        if line.len() > MAX_COPIED {
            parts.push_back(std::mem::take(&mut text).into());
            parts.push_back(line);
        } else {
            text.extend_from_slice(&line);
        }
        text.extend_from_slice(b"\n\n");
    }
    parts.push_back(text.into());
    parts
}

#[cfg(test)]
mod tests {
    use peerkit::Node;

    use super::*;

    #[tokio::test]
    async fn streams_share_large_lines_and_say_first_what_they_missed() {
        let (alice, bob) = (Node::builder(), Node::builder().listen("127.0.0.1:0"));
        let (alice, bob) = (alice.spawn().await.unwrap(), bob.spawn().await.unwrap());
        let log = EventLog::start(&bob, bob.events());
        let (mut first, mut second) = (log.reader(), log.reader());
        let at = bob.listening()[0].to_string();
        let peer = alice.connect(at.as_str()).await.unwrap();
        assert_eq!(first.next().await.unwrap().events.len(), 1);
        assert_eq!(second.next().await.unwrap().events.len(), 1);
        alice.send(peer.id(), "x".repeat(MAX_COPIED)).await.unwrap();
        let batch = EventBatch { missed: 3, ..first.next().await.unwrap() };
        let parts = [parts(&log, &batch), parts(&log, &second.next().await.unwrap())];
        let text = |at: usize| String::from_utf8(parts[at].iter().flatten().copied().collect());
        let (lagged, rest) = text(0).unwrap().split_once("\n\n").map(both_owned).unwrap();
        assert!(lagged.starts_with("event: node_lagged\ndata: {"), "{lagged}");
        assert!(lagged.ends_with("\"data\":{\"missed\":3}}"), "{lagged}");
        assert_eq!(rest, text(1).unwrap());
        assert!(rest.starts_with("event: node_message\ndata: {") && rest.ends_with("x\"}\n\n"));
        assert_eq!(parts[0][1].as_ptr(), parts[1][1].as_ptr());
        alice.shutdown().await;
        bob.shutdown().await;
    }

    #[tokio::test]
    async fn all_streams_together_have_a_rate() {
        let (budget, start) = (StreamBudget::default(), Instant::now());
        let second = usize::try_from(MAX_RATE).unwrap();
        assert_eq!(budget.take(second, start), start + Duration::from_secs(1) - MAX_CREDIT);
        assert_eq!(budget.take(second, start), start + Duration::from_secs(2) - MAX_CREDIT);
        let later = start + Duration::from_secs(9);
        assert!(budget.take(1, later) < later, "unused bytes can be sent later");
        assert!(budget.take(second, later) > later + Duration::from_millis(900));
    }

    fn both_owned((first, second): (&str, &str)) -> (String, String) {
        (first.to_owned(), second.to_owned())
    }
}
