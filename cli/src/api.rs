//! The local API of a running node: HTTP and JSON on the loopback interface, or HTTPS on any address.
//!
//! Every command except `help` is an endpoint under `/api/v1` (see [`crate::commands`]). There are also the
//! event stream, the OpenAPI document, the metrics and two health checks. `api.json` in the state folder has
//! the address of the API, and the tokens that requests need.
//!
//! The API has a thread of its own, with a low priority, so that its clients do not delay the links of the node.
//! Commands run on the threads of the node, since they may start tasks of the node.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::address::seen_from_here;
use crate::session::NodeSession;
use crate::usage;
use access::ApiAccess;
use connection_slots::ConnectionSlots;
use metrics::RequestCounters;
use tls::ApiTls;
use unauthenticated::{Unauthenticated, UnauthenticatedConnections};

mod access;
mod certificate;
mod connection;
mod connection_slots;
mod events;
mod health;
mod metrics;
mod openapi;
mod plain;
mod problem;
mod route;
mod tls;
mod unauthenticated;

pub(crate) use certificate::{ApiCertificate, fingerprint};
pub(crate) use connection::ApiConnection;
pub(crate) use route::COLOUR_HEADER;
pub(crate) use tls::provider;

/// The file in the state folder with the address and the tokens.
pub(crate) const FILE: &str = "api.json";

/// Maximum time for the head of a request. 10 s: a client on this machine needs milliseconds.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of the head of a request, and of the events that wait for the socket of one client. 64 KiB: a
/// batch of events.
const MAX_BUFFERED: usize = 64 << 10;

/// Size of the send buffer of a connection in the system, in bytes. 256 KiB: by default it would grow to 4 MiB for
/// each client that does not read.
const SEND_BUFFER: u32 = 256 << 10;

/// Nice value of the API's thread. 10: a node that is busy with its links still answers, with a tenth of its
/// processor time.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NICE: i32 = 10;

/// Maximum size of a request's body. 17 MiB: a text of 16 MiB, the limit of a message, in JSON.
const MAX_BODY: usize = 17 << 20;

/// Maximum time for which a stopping node still answers requests that have already begun.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Wait after a failed accept, as when the process has no free file descriptor.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The address and the tokens of an API, as `api.json` has them.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ApiFile {
    /// `http://127.0.0.1:PORT`, or `https://` if the API has a certificate.
    pub(crate) url: String,
    /// The token for all requests.
    pub(crate) token: String,
    /// The token for requests that only read.
    pub(crate) read_token: String,
    /// The SHA-256 hash of the API's certificate in hex digits, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate_sha256: Option<String>,
}

/// The address of an API, and the certificate for HTTPS.
pub(crate) struct ApiOptions {
    at: SocketAddr,
    certificate: Option<Arc<ApiCertificate>>,
}

impl ApiOptions {
    /// Makes options for an API that listens on `at`.
    ///
    /// # Errors
    /// If other machines can reach the address, and there is no certificate.
    pub(crate) fn new(at: SocketAddr, certificate: Option<ApiCertificate>) -> anyhow::Result<Self> {
        if certificate.is_none() && !at.ip().to_canonical().is_loopback() {
            return Err(usage(format!(
                "--api {at}: other machines could reach the API, and its token would cross the network \
                 unencrypted. Give a certificate with --api-cert and --api-key, or an address of this \
                 machine, such as 127.0.0.1:{}",
                at.port()
            )));
        }
        Ok(Self { at, certificate: certificate.map(Arc::new) })
    }
}

/// The API of a node, while it runs.
pub(crate) struct ApiServer {
    url: String,
    file: PathBuf,
    /// Ends with the API's thread.
    ended: oneshot::Receiver<()>,
    stop: CancellationToken,
}

/// The state that all endpoints share.
pub(crate) struct ApiState {
    pub(crate) session: Arc<NodeSession>,
    /// Runs the tasks of the node, and the commands.
    pub(crate) node_tasks: Handle,
    pub(crate) requests: Arc<RequestCounters>,
    stream_budget: events::StreamBudget,
}

impl ApiServer {
    /// Starts the API of a node and writes `api.json`.
    ///
    /// # Errors
    /// If the address is in use, if the file can't be written, or if there can be no further thread.
    pub(crate) async fn start(
        options: &ApiOptions,
        state: &Path,
        session: Arc<NodeSession>,
    ) -> anyhow::Result<Self> {
        let ApiOptions { at, ref certificate } = *options;
        let listener = listen(at).with_context(|| format!("the API can't listen on {at}"))?;
        // The other thread waits for connections with a runtime of its own.
        let listener = listener.into_std()?;
        let at = listener.local_addr()?;
        let access = Arc::new(ApiAccess::new(at, certificate.clone())?);
        let file = state.join(FILE);
        let scheme = if certificate.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", seen_from_here(at));
        let written = ApiFile {
            url: url.clone(),
            token: access.token.text().to_owned(),
            read_token: access.read_token.text().to_owned(),
            certificate_sha256: certificate.as_ref().map(|certificate| certificate.fingerprint()),
        };
        write_private(&file, &serde_json::to_vec(&written)?)
            .with_context(|| format!("can't write {}", file.display()))?;
        let stop = CancellationToken::new();
        let requests = access.requests.clone();
        let node_tasks = Handle::current();
        let state = ApiState { session, node_tasks, requests, stream_budget: Default::default() };
        let service = ApiService {
            router: router(state, access),
            tls: certificate.as_ref().map(|certificate| Arc::new(ApiTls::new(certificate, &url))),
        };
        let ended = start_thread(listener, service, stop.clone()).await;
        let ended = ended.context("the API can't have a thread")?;
        Ok(Self { url, file, ended, stop })
    }

    /// Returns the URL at which programs on this machine reach the API.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Removes `api.json`. Requests are still answered, so that clients that know the address see the node stop.
    ///
    /// The node still holds its state folder, so the file is not that of another run.
    pub(crate) fn withdraw(&self) {
        let _ = std::fs::remove_file(&self.file);
    }

    /// Accepts no more connections. Requests that have begun get their answers, and event streams the last
    /// events. To be called once the node has stopped.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let _ = self.ended.await;
    }
}

/// Listens on an address. The connections have send buffers of a fixed size.
fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As with `TcpListener::bind`: on Windows, the option would let two programs share the address.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(at)?;
    socket.listen(1024)
}

/// Writes a file that only its owner may read. The file appears at `path` only when it is complete.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let folder = path.parent().unwrap_or(Path::new("."));
    // Temporary files have mode 0600.
    let mut file = tempfile::Builder::new().prefix(FILE).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

fn router(state: ApiState, access: Arc<ApiAccess>) -> Router {
    let state = Arc::new(state);
    plain::add_routes(route::commands())
        .fallback(route::not_found)
        .method_not_allowed_fallback(route::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn_with_state(access, access::checked))
        .with_state(state)
}

/// Accepts TLS on connections, and routes their requests. Each connection has a clone.
#[derive(Clone)]
struct ApiService {
    router: Router,
    /// `None` if the API has no certificate.
    tls: Option<Arc<ApiTls>>,
}

/// Starts the thread of the API. Returns a receiver that ends with the thread.
async fn start_thread(
    listener: std::net::TcpListener,
    service: ApiService,
    stop: CancellationToken,
) -> std::io::Result<oneshot::Receiver<()>> {
    let (started, start) = oneshot::channel();
    let (running, ended) = oneshot::channel();
    std::thread::Builder::new().name("api".to_owned()).spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let built = runtime.and_then(|runtime| {
            let guard = runtime.enter();
            let listener = TcpListener::from_std(listener)?;
            drop(guard);
            Ok((runtime, listener))
        });
        match built {
            Ok((runtime, listener)) => {
                let _ = started.send(Ok(()));
                yield_to_other_threads();
                runtime.block_on(serve(listener, service, stop));
            }
            Err(error) => drop(started.send(Err(error))),
        }
        drop(running);
    })?;
    start.await.map_err(std::io::Error::other)??;
    Ok(ended)
}

/// Lowers the priority of this thread. On other systems, only that of the whole process could be lowered.
fn yield_to_other_threads() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the API's thread has the priority of the others");
    }
}

/// Accepts connections until `stop` is cancelled, and then ends them.
async fn serve(listener: TcpListener, service: ApiService, stop: CancellationToken) {
    let slots = Arc::new(ConnectionSlots::default());
    let unauthenticated = Arc::new(UnauthenticatedConnections::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        // A connection beyond the limit is closed at once, so that the client can try again later.
        let Some(slot) = slots.take(from.ip()) else { continue };
        let connection = unauthenticated.add(slot.machine());
        let (service, stop) = (service.clone(), stop.clone());
        connections.spawn(async move {
            tokio::select! {
                () = service.converse(stream, connection.clone(), &stop) => {}
                () = connection.gives_way() => {}
            }
            drop(slot);
        });
        // The new connection may send its token before the next one is accepted.
        tokio::task::yield_now().await;
    }
    // Requests that are being answered get their answers.
    let _ = tokio::time::timeout(LAST_ANSWERS, connections.join_all()).await;
}

impl ApiService {
    /// Answers the requests of one connection. After `stop` is cancelled, answers only the current request.
    async fn converse(
        self,
        stream: TcpStream,
        unauthenticated: Unauthenticated,
        stop: &CancellationToken,
    ) {
        // Each answer is written at once, and must not wait until the client has confirmed the one before.
        let _ = stream.set_nodelay(true);
        let stream = match &self.tls {
            Some(tls) => tokio::select! {
                secured = tls.accept(stream) => secured,
                () = stop.cancelled() => return,
            },
            None => Some(ApiConnection::Plain(stream)),
        };
        let Some(stream) = stream else { return };
        let router = TowerToHyperService::new(self.router);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(unauthenticated.clone());
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .max_buf_size(MAX_BUFFERED)
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the API ended early");
        }
    }
}
