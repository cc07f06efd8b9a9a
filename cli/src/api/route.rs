//! The endpoints of the commands: a request becomes a command, and its outcome becomes the response.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, RawPathParams, Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, on};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::ApiState;
use super::problem::Problem;
use crate::commands::endpoint::{ApiEndpoint, BASE, Method};
use crate::commands::{
    COMMANDS, CommandContext, CommandOrigin, CommandOutput, CommandSpec, ParsedCommand,
};
use crate::progress::{CommandEvent, ProgressSink};
use crate::text::Paint;

/// The header of a request for a text with colours.
pub(crate) const COLOUR_HEADER: &str = "peerkit-colour";

/// Maximum time for the body of a request. 10 s: a client on this machine needs less than a second for the
/// largest one.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of progress reports that wait for a client. Further reports are left out.
const REPORTS: usize = 16;

/// Returns the routes of all commands.
pub(crate) fn commands() -> Router<Arc<ApiState>> {
    let endpoints = COMMANDS.iter().filter_map(|spec| Some((spec, spec.endpoint?)));
    endpoints.fold(Router::new(), |router, (spec, endpoint)| {
        let filter = match endpoint.method {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
            Method::Put => MethodFilter::PUT,
            Method::Patch => MethodFilter::PATCH,
            Method::Delete => MethodFilter::DELETE,
        };
        let handler =
            move |State(state): State<Arc<ApiState>>, path: RawPathParams, request: Request| {
                carry_out(spec, endpoint, state, path, request)
            };
        router.route(&format!("{BASE}{}", endpoint.path), on(filter, handler))
    })
}

async fn carry_out(
    spec: &'static CommandSpec,
    endpoint: ApiEndpoint,
    state: Arc<ApiState>,
    path: RawPathParams,
    request: Request,
) -> Response {
    let headers = request.headers().clone();
    match read(spec, endpoint, &path, request).await {
        Err(problem) => problem.into_response(),
        Ok(command) if accepts_events(&headers) => as_events(spec, state, command, paint(&headers)),
        Ok(command) => match run(&state, command).await {
            Ok(output) => {
                if spec.stops {
                    state.session.stop.cancel();
                }
                json(output)
            }
            Err(error) => Problem::of_command(&error).into_response(),
        },
    }
}

/// Carries out a command on the threads of the node, since it may start tasks of the node.
async fn run(state: &Arc<ApiState>, command: ParsedCommand) -> anyhow::Result<CommandOutput> {
    let state = state.clone();
    let node_tasks = state.node_tasks.clone();
    let running = async move {
        let context = CommandContext {
            session: &state.session,
            progress: ProgressSink::Hidden,
            paint: Paint::none(),
            origin: CommandOrigin::Request,
        };
        command.run(&context).await
    };
    // Dropped if the client closes the connection, which ends the command.
    let mut task = JoinSet::new();
    task.spawn_on(running, &node_tasks);
    match task.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        _ => Err(anyhow!("the node stopped before the command was done")),
    }
}

/// Reads the command of a request.
async fn read(
    spec: &CommandSpec,
    endpoint: ApiEndpoint,
    path: &RawPathParams,
    request: Request,
) -> Result<ParsedCommand, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let query = request.uri().query().unwrap_or_default().to_owned();
    if endpoint.method == Method::Get {
        let mut all = form_urlencoded(path.iter());
        all.push_str(&query);
        for (name, value) in form_pairs(&all) {
            if value.is_empty() && spec.needs_text(&name) {
                return Err(bad(format!("`{name}` is empty")));
            }
        }
        return (spec.from_query)(&all).map_err(bad);
    }
    if !query.is_empty() {
        return Err(bad("the arguments belong into the body, and not into the URL".to_owned()));
    }
    let is_json = request.headers().get(CONTENT_TYPE).is_none_or(|kind| {
        kind.to_str()
            .is_ok_and(|kind| kind.split(';').next().map(str::trim) == Some("application/json"))
    });
    let body = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await;
    let body = body.map_err(|_| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")
    })?;
    let body = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    if !is_json && !body.is_empty() {
        let detail = "the body has to be application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let mut fields: Map<String, Value> = match &body[..] {
        [] => Map::new(),
        body => serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?,
    };
    for (name, value) in path {
        if fields.insert(name.to_owned(), value.into()).is_some() {
            return Err(bad(format!("`{name}` is in the path and in the body")));
        }
    }
    for (name, value) in &fields {
        let is_empty = |value: &Value| value.as_str().is_some_and(str::is_empty);
        let has_empty = value.as_array().is_some_and(|values| values.iter().any(is_empty));
        if (is_empty(value) || has_empty) && spec.needs_text(name) {
            return Err(bad(format!("`{name}` is empty")));
        }
    }
    (spec.from_json)(fields).map_err(bad)
}

/// Returns the names and values in a query. A query that can't be read has none.
fn form_pairs(query: &str) -> Vec<(String, String)> {
    serde_urlencoded::from_str(query).unwrap_or_default()
}

/// Encodes names and values as the beginning of a query, which ends with `&` unless it is empty.
fn form_urlencoded<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = serde_urlencoded::to_string(pairs.collect::<Vec<_>>()).unwrap_or_default();
    if !text.is_empty() {
        text.push('&');
    }
    text
}

fn accepts_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/event-stream"))
}

fn paint(headers: &HeaderMap) -> Paint {
    if headers.contains_key(COLOUR_HEADER) { Paint::colours() } else { Paint::none() }
}

fn json(output: CommandOutput) -> Response {
    let fields: Box<str> = output.fields.into();
    let mut response = Response::new(Body::from(String::from(fields)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Carries out a command with its progress as events. The last event is `result`, with the fields and the
/// text of the outcome, or `error`. If the client closes the connection, the command ends.
fn as_events(
    spec: &'static CommandSpec,
    state: Arc<ApiState>,
    command: ParsedCommand,
    paint: Paint,
) -> Response {
    let (sender, received) = mpsc::channel(REPORTS);
    // Dropped with the response, which ends the task.
    let mut task = JoinSet::new();
    let node_tasks = state.node_tasks.clone();
    let running = async move {
        let progress = ProgressSink::Reports(sender.clone());
        let origin = CommandOrigin::Shell;
        let context = CommandContext { session: &state.session, progress, paint, origin };
        let result = command.run(&context).await;
        let event = match &result {
            Ok(output) => CommandEvent::new("result", output),
            Err(error) => CommandEvent::new("error", &Problem::of_command(error)),
        };
        let _ = sender.send(event).await;
        if spec.stops && result.is_ok() {
            state.session.stop.cancel();
        }
    };
    task.spawn_on(running, &node_tasks);
    let events =
        futures_util::stream::unfold((received, task), |(mut received, task)| async move {
            let CommandEvent { name, data } = received.recv().await?;
            let event = sse::Event::default().event(name).data(data);
            Some((Ok::<_, Infallible>(event), (received, task)))
        });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

pub(super) async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing here: /api/v1/openapi.json lists what is")
}

pub(super) async fn wrong_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this can't be done here: /api/v1/openapi.json lists what can",
    )
}
