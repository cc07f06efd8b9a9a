//! Requests with replies. At the requester, a task waits for the reply until a deadline. At the other end,
//! the function registered for the request's name answers it, or else the application's handler.

use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::event::{Peer, Reason};
use peerkit_proto::frame::{Frame, Refusal};
use peerkit_proto::hello::MAX_PROTOCOL;
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::compress;
use crate::conn::Conn;
use crate::dispatch::{HandlerRequest, Received};
use crate::error::{Error, NameKind};
use crate::inner::Inner;
use crate::outbox::OwnedFrame;
use crate::served::RequestHandler;
use crate::unlinked::RequestRoute;

/// Answers a request with a function, in a task of its own. Returns the handle with which the task is aborted
/// if the requester cancels the request.
pub(crate) fn answer(
    inner: &Arc<Inner>,
    conn: &Arc<Conn>,
    id: u64,
    handler: RequestHandler,
    message: Message,
) -> AbortHandle {
    send_reply_of(inner, conn, id, call_function(handler, conn.peer.clone(), message))
}

/// Calls the function for a request. Runs it in a task of its own, so that a panic can be reported to the
/// requester.
async fn call_function(
    handler: RequestHandler,
    peer: Peer,
    message: Message,
) -> Result<Message, Refusal> {
    let answering = tokio::spawn(async move { handler.answer(peer, message).await });
    // If the request is cancelled, the task that runs this code is aborted. That has to abort the function
    // too.
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
}

/// Answers a request that other nodes have relayed. The reply is routed like a message to the requester.
pub(crate) fn answer_relayed(
    inner: &Arc<Inner>,
    peer: Peer,
    id: u64,
    name: String,
    message: Message,
) {
    // A link limits the requests that arrive over it. Relayed requests have no such link, so all of them
    // share one limit.
    let permit = inner.served.relayed.clone().try_acquire_owned();
    let (node, to) = (inner.clone(), peer.id());
    inner.tasks.spawn(async move {
        let outcome = match permit {
            Ok(_permit) => answer_by_name(&node, peer, name, message).await,
            Err(_) => Err(Refusal::Busy),
        };
        // If the reply can't be sent, the requester gets a timeout at its own deadline.
        let _ = node.send_reply(to, id, outcome).await;
    });
}

/// Answers a request with the function for its name, or else with the application's handler.
async fn answer_by_name(
    inner: &Arc<Inner>,
    peer: Peer,
    name: String,
    message: Message,
) -> Result<Message, Refusal> {
    if let Some(function) = inner.served.requests.get(&name) {
        return call_function(function, peer, message).await;
    }
    if !inner.dispatch.has_handler() {
        return Err(Refusal::NoHandler);
    }
    let (reply, answered) = oneshot::channel();
    let asked = Received::Request(Box::new(HandlerRequest { name, message, reply }));
    inner.dispatch.deliver_received(&**inner, &peer, vec![asked]).await;
    answered.await.unwrap_or_else(|_| Err(stopping()))
}

/// Prepares a request for the application's handler, and starts the task that sends the handler's answer.
/// Returns the prepared request, and the handle that aborts the task.
pub(crate) fn prepare_for_handler(
    inner: &Arc<Inner>,
    conn: &Arc<Conn>,
    id: u64,
    name: String,
    message: Message,
) -> (HandlerRequest, AbortHandle) {
    let (answer, answered) = oneshot::channel();
    let answering = async { answered.await.unwrap_or_else(|_| Err(stopping())) };
    (HandlerRequest { name, message, reply: answer }, send_reply_of(inner, conn, id, answering))
}

/// Starts a task that waits for `answering` and then sends its outcome as the reply.
fn send_reply_of(
    inner: &Arc<Inner>,
    conn: &Arc<Conn>,
    id: u64,
    answering: impl Future<Output = Result<Message, Refusal>> + Send + 'static,
) -> AbortHandle {
    let (node, conn) = (inner.clone(), conn.clone());
    let task = async move {
        let outcome = match answering.await {
            Ok(message) => {
                let packed = compress::pack_async(message, node.config.max_message).await;
                let checked = packed.and_then(|packed| {
                    conn.check_compression(&packed)?;
                    Ok(packed)
                });
                checked.map_err(|error| Refusal::Failed(error.to_string()))
            }
            Err(refusal) => Err(refusal),
        };
        match outcome {
            // If the link has ended, the requester has noticed it, so the error is ignored.
            Ok(packed) => {
                let reply = OwnedFrame::reply(id, packed);
                let _ = conn.outbox.push(&reply.as_encoded()).await;
            }
            Err(refusal) => conn.refuse(id, refusal),
        }
    };
    inner.tasks.spawn(task).abort_handle()
}

fn stopping() -> Refusal {
    Refusal::Failed("the node is stopping".into())
}

impl Inner {
    /// Sends a request to a node and waits for its reply. Dropping the future cancels the request, unless the
    /// request was relayed.
    pub(crate) async fn request(
        &self,
        peer: NodeId,
        name: &str,
        body: Message,
        timeout: Duration,
    ) -> Result<Message, Error> {
        Error::check_name(NameKind::Request, name, MAX_PROTOCOL)?;
        let asking = async {
            let (conn, body) = match self.linked(peer) {
                Some(conn) => (conn, body),
                None => match self.route_request(peer, name, body).await? {
                    RequestRoute::Link(conn, body) => (conn, body),
                    RequestRoute::Relayed(outcome) => return outcome.map_err(Error::Request),
                },
            };
            self.request_over(&conn, name, body).await
        };
        // One deadline covers everything: finding the node, dialling it, and waiting for the reply.
        let waited = tokio::time::timeout(timeout, asking).await;
        waited.unwrap_or(Err(Error::Timeout(timeout)))
    }

    async fn request_over(&self, conn: &Conn, name: &str, body: Message) -> Result<Message, Error> {
        // Compresses before the request is open, so that an error leaves no open request.
        let body = compress::pack_async(body, self.config.max_message).await?;
        conn.check_compression(&body)?;
        let (id, reply) = conn.open_request();
        let _cancel = CancelOnDrop { conn, id };
        let request = OwnedFrame::request(id, name, body);
        let lost = |reason| Error::LinkLost { peer: conn.peer.id(), reason };
        conn.outbox.push(&request.as_encoded()).await.map_err(lost)?;
        match reply.await {
            Ok(outcome) => outcome.map_err(Error::Request),
            Err(_) => {
                // The link has ended. Its outbox has the reason.
                let ended = conn.outbox.closed();
                Err(lost(ended.unwrap_or(Reason::Lost("the link ended".into()))))
            }
        }
    }
}

/// Closes a request when dropped. If there is no reply yet, sends the peer a cancellation.
struct CancelOnDrop<'a> {
    conn: &'a Conn,
    id: u64,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.conn.close_request(self.id) {
            self.conn.send_control(&Frame::Cancel(self.id));
        }
    }
}
