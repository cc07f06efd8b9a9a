//! Errors of the API: problem details (RFC 9457).

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use peerkit::Error;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{UsageError, text};

/// The media type of a problem.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// An error of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The status of the response.
    pub(crate) status: u16,
    /// The meaning of the status.
    pub(crate) title: String,
    /// What went wrong with this request.
    pub(crate) detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or_default().to_owned();
        Self { status: status.as_u16(), title, detail: detail.into() }
    }

    /// Returns the problem of a command that has failed.
    pub(crate) fn of_command(error: &anyhow::Error) -> Self {
        Self::new(status(error), text::error(error))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_string(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
        let kind = HeaderValue::from_static(MEDIA_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// Returns the status for the error of a command. A node that can't be reached is no error of the server,
/// so it is not a status of 500 or more.
fn status(error: &anyhow::Error) -> StatusCode {
    if error.is::<UsageError>() {
        return StatusCode::BAD_REQUEST;
    }
    match error.downcast_ref::<Error>() {
        Some(
            Error::UnknownPeer(_)
            | Error::UnknownNode(_)
            | Error::NoDownload(_)
            | Error::NotBanned(_),
        ) => StatusCode::NOT_FOUND,
        Some(Error::AmbiguousPeer(_) | Error::NotConnected(_)) => StatusCode::CONFLICT,
        Some(Error::Address(_) | Error::NotAKey(_)) => StatusCode::BAD_REQUEST,
        Some(Error::NotOwner(_) | Error::NoOwner) => StatusCode::FORBIDDEN,
        Some(Error::TooLarge { .. } | Error::TooLargeToPass { .. }) => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        Some(Error::Full(_)) => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
