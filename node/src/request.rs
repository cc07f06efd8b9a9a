//! Requests with replies: named functions or the application's handler on one side, a wait with a deadline
//! on the other.

use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::event::Reason;
use peerkit_proto::frame::{Frame, Refusal};
use peerkit_proto::hello::MAX_PROTOCOL;
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::compress;
use crate::conn::Conn;
use crate::dispatch::Asked;
use crate::error::{Error, NameKind};
use crate::inner::Inner;
use crate::outgoing::Built;
use crate::served::ServedRequest;

/// Answers a request with a function, in a task of its own. Aborting it means that the peer does not wait
/// any more.
pub(crate) fn answer(
    inner: &Arc<Inner>,
    conn: &Arc<Conn>,
    id: u64,
    handler: ServedRequest,
    message: Message,
) -> AbortHandle {
    let peer = conn.peer.clone();
    let answering = async move {
        // In a task of its own too, so that the peer learns of a panic.
        let answering = tokio::spawn(async move { handler.answer(peer, message).await });
        let answering = tokio_util::task::AbortOnDropHandle::new(answering);
        match answering.await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(why)) => Err(Refusal::Failed(why)),
            Err(error) if error.is_panic() => {
                let panic = crate::dispatch::panic_text(&*error.into_panic());
                tracing::error!(%panic, "a request handler panicked");
                Err(Refusal::Failed(format!("the handler panicked: {panic}")))
            }
            Err(_) => Err(stopping()),
        }
    };
    reply(inner, conn, id, answering)
}

/// Takes a request to the application's handler: returns what the handler is to answer, and the task that
/// sends the answer on.
pub(crate) fn ask_handler(
    inner: &Arc<Inner>,
    conn: &Arc<Conn>,
    id: u64,
    name: String,
    message: Message,
) -> (Asked, AbortHandle) {
    let (answer, answered) = oneshot::channel();
    let answering = async { answered.await.unwrap_or_else(|_| Err(stopping())) };
    (Asked { name, message, reply: answer }, reply(inner, conn, id, answering))
}

/// Sends the reply to a request once it is there.
fn reply(
    inner: &Arc<Inner>,
    conn: &Arc<Conn>,
    id: u64,
    answering: impl Future<Output = Result<Message, Refusal>> + Send + 'static,
) -> AbortHandle {
    let (inner_, conn) = (inner.clone(), conn.clone());
    let task = async move {
        let outcome = match answering.await {
            Ok(message) => pack_reply(&inner_, message).await,
            Err(refusal) => Err(refusal),
        };
        match outcome {
            // A link that has ended tells its other side itself.
            Ok(packed) => {
                let reply = Built::reply(id, packed);
                let _ = conn.outbox.application(&reply.parcel()).await;
            }
            Err(refusal) => conn.refuse(id, refusal),
        }
    };
    inner.tasks.spawn(task).abort_handle()
}

fn stopping() -> Refusal {
    Refusal::Failed("the node is stopping".into())
}

async fn pack_reply(
    inner: &Inner,
    message: Message,
) -> Result<peerkit_proto::message::Packed, Refusal> {
    Error::check_size(message.body(), inner.config.max_message)
        .map_err(|error| Refusal::Failed(error.to_string()))?;
    let packed = compress::pack_async(message, inner.config.max_message).await;
    packed.map_err(|error| Refusal::Failed(error.to_string()))
}

impl Inner {
    /// Asks `peer` and waits for its reply. Dropping the future tells the other side.
    pub(crate) async fn request(
        &self,
        peer: NodeId,
        name: &str,
        body: Message,
        timeout: Duration,
    ) -> Result<Message, Error> {
        Error::check_name(NameKind::Request, name, MAX_PROTOCOL)?;
        let conn = self.links.get(peer)?;
        let body = compress::pack_async(body, self.config.max_message).await?;
        let (id, reply) = conn.open_request();
        // Forgets the request however this ends, and tells the other side if it still works on it.
        let _open = Open { conn: &conn, id };
        let asking = async {
            let request = Built::request(id, name, body);
            let lost = |reason| Error::LinkLost { peer, reason };
            conn.outbox.application(&request.parcel()).await.map_err(lost)?;
            match reply.await {
                Ok(outcome) => outcome.map_err(Error::Request),
                Err(_) => {
                    let ended = conn.outbox.closed();
                    Err(lost(ended.unwrap_or(Reason::Lost("the link ended".into()))))
                }
            }
        };
        let waited = tokio::time::timeout(timeout, asking).await;
        waited.unwrap_or(Err(Error::Timeout(timeout)))
    }
}

struct Open<'a> {
    conn: &'a Conn,
    id: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.conn.close_request(self.id) {
            self.conn.control(&Frame::Cancel(self.id));
        }
    }
}
