//! The events of the node, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};

use super::ApiState;
use crate::json;

/// Streams the events of the node from now on. The name of each is its kind, and its data is the JSON line
/// that `--json` prints. A client that reads too slowly gets `node_lagged` for the events that it missed.
pub(super) async fn stream(State(state): State<Arc<ApiState>>) -> Response {
    let events = state.session.node.events();
    let stream = futures_util::stream::unfold((events, state), |(mut events, state)| async move {
        // `None` after the last event of a node that has stopped.
        let event = events.next().await?;
        let line = json::event(&state.session.node, &event);
        let sent = Event::default().event(event.name()).data(line.trim_end());
        Some((Ok::<_, Infallible>(sent), (events, state)))
    });
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}
