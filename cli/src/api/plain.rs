//! The endpoints that are no commands: the event stream, the OpenAPI document, the metrics and the health checks.
//!
//! The router, the OpenAPI document and the rules of access are all made from [`ENDPOINTS`].

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, get};

use super::{ApiState, events, health, metrics, openapi};

/// An endpoint that is no command. Its method is GET.
pub(super) struct PlainEndpoint {
    pub(super) path: &'static str,
    /// The name in the OpenAPI document, from which generators of clients make the name of a function.
    pub(super) operation_id: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    /// The media type of the answer, without parameters.
    pub(super) media_type: &'static str,
    /// False if requests need no token.
    pub(super) needs_token: bool,
    /// True if the answer may have status 503.
    pub(super) may_be_unavailable: bool,
    handler: fn() -> MethodRouter<Arc<ApiState>>,
}

/// All endpoints that are no commands.
pub(super) const ENDPOINTS: [PlainEndpoint; 5] = [
    PlainEndpoint {
        path: "/api/v1/events",
        operation_id: "event_stream",
        summary: "Stream the events of the node from now on",
        description: "Server-sent events. The name of each is its kind, and its data is the JSON line that \
                      `peerkit run --json` prints. A client that reads too slowly gets `node_lagged` for the \
                      events that it missed. The stream ends when the node has stopped",
        media_type: "text/event-stream",
        needs_token: true,
        may_be_unavailable: false,
        handler: || get(events::stream),
    },
    PlainEndpoint {
        path: "/api/v1/openapi.json",
        operation_id: "openapi",
        summary: "Return this document",
        description: "",
        media_type: "application/json",
        needs_token: true,
        may_be_unavailable: false,
        handler: || get(openapi::document),
    },
    PlainEndpoint {
        path: "/metrics",
        operation_id: "metrics",
        summary: "Return the metrics of the node",
        description: "OpenMetrics text, as Prometheus reads it",
        media_type: metrics::MEDIA_TYPE,
        needs_token: true,
        may_be_unavailable: false,
        handler: || get(metrics::metrics),
    },
    PlainEndpoint {
        path: "/healthz",
        operation_id: "healthz",
        summary: "Check that the process serves requests",
        description: "",
        media_type: "text/plain",
        needs_token: false,
        may_be_unavailable: false,
        handler: || get(health::healthy),
    },
    PlainEndpoint {
        path: "/readyz",
        operation_id: "readyz",
        summary: "Check that the node has finished its start, and is not stopping",
        description: "",
        media_type: "text/plain",
        needs_token: false,
        may_be_unavailable: true,
        handler: || get(health::ready),
    },
];

/// Adds the routes of all these endpoints.
pub(super) fn add_routes(router: Router<Arc<ApiState>>) -> Router<Arc<ApiState>> {
    ENDPOINTS
        .iter()
        .fold(router, |router, endpoint| router.route(endpoint.path, (endpoint.handler)()))
}

/// Returns whether requests for a path need a token.
pub(super) fn needs_token(path: &str) -> bool {
    ENDPOINTS.iter().all(|endpoint| endpoint.needs_token || endpoint.path != path)
}
