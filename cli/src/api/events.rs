//! The events of the node, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::ApiState;
use crate::json;

/// Streams the events of the node from now on. The name of each is its kind, and its data is the JSON line
/// that `--json` prints. A client that reads too slowly gets `node_lagged` for the events that it missed.
pub(super) async fn stream(State(state): State<Arc<ApiState>>) -> Response {
    // One event waits for the client here. The others wait in the queue of the subscription, which has limits.
    let (sender, received) = mpsc::channel(1);
    let mut events = state.session.node.events();
    // Dropped with the response, which ends the task.
    let mut task = JoinSet::new();
    task.spawn(async move {
        let session = &state.session;
        // `None` comes after the last event of a node that has stopped.
        while let Some(event) = events.next().await {
            let line = json::event(&session.node, &event);
            let event = Event::default().event(event.name()).data(line.trim_end());
            if !session.waits_for_reader(sender.send(event)).await {
                break;
            }
        }
    });
    let stream =
        futures_util::stream::unfold((received, task), |(mut received, task)| async move {
            Some((Ok::<_, Infallible>(received.recv().await?), (received, task)))
        });
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}
