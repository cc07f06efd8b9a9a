//! The health checks: whether the process answers, and whether the node has finished its start.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use futures_util::FutureExt as _;

use super::ApiState;
use super::problem::Problem;

/// Answers as long as the process serves requests.
pub(super) async fn healthy() -> &'static str {
    "ok\n"
}

/// Answers with an error until the node has finished its start, and while it stops.
pub(super) async fn ready(State(state): State<Arc<ApiState>>) -> Result<&'static str, Problem> {
    let session = &state.session;
    let progress = NodeProgress {
        is_stopping: session.stop.is_cancelled() || session.node.is_stopping(),
        has_shares: session.node.files().restored().now_or_never().is_some(),
        has_tried_to_join: session.first_join.is_cancelled(),
    };
    match progress.missing() {
        Some(detail) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)),
        None => Ok("ok\n"),
    }
}

/// The progress of a node between its start and its stop.
struct NodeProgress {
    is_stopping: bool,
    /// The shares of the last run are restored.
    has_shares: bool,
    /// The first attempt to join through the given addresses has ended.
    has_tried_to_join: bool,
}

impl NodeProgress {
    /// Returns the reason why the node is not ready.
    fn missing(&self) -> Option<&'static str> {
        match self {
            Self { is_stopping: true, .. } => Some("the node is stopping"),
            Self { has_shares: false, .. } => Some("the shares of the last run are being restored"),
            Self { has_tried_to_join: false, .. } => Some("the node is joining its network"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_after_its_start_and_before_its_stop() {
        let missing = |is_stopping, has_shares, has_tried_to_join| {
            NodeProgress { is_stopping, has_shares, has_tried_to_join }.missing().unwrap_or("")
        };
        assert!(missing(false, false, false).contains("restored"));
        assert!(missing(false, true, false).contains("joining"));
        assert_eq!(missing(false, true, true), "");
        assert!(missing(true, true, true).contains("stopping"));
    }
}
