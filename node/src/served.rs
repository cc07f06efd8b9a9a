//! The handlers that answer requests and streams, by name.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, RwLock};

use peerkit_proto::event::Peer;
use peerkit_proto::message::Message;
use tokio::sync::Semaphore;

use crate::lock::{read, write};
use crate::stream::Stream;

/// Maximum number of relayed requests that are answered at the same time. More are refused as busy. 100: the
/// limit for the requests of one linked peer.
const RELAYED_REQUESTS: usize = 100;

/// The handlers of the application and of the node itself.
pub(crate) struct Served {
    pub(crate) requests: ByName<RequestHandler>,
    pub(crate) streams: ByName<StreamHandler>,
    /// A request that other nodes have relayed has a permit while it is answered.
    pub(crate) relayed: Arc<Semaphore>,
}

impl Default for Served {
    fn default() -> Self {
        let relayed = Arc::new(Semaphore::new(RELAYED_REQUESTS));
        Self { requests: ByName::default(), streams: ByName::default(), relayed }
    }
}

/// Handlers by name. A new handler replaces the earlier one of the same name.
pub(crate) struct ByName<H>(RwLock<HashMap<String, H>>);

impl<H> Default for ByName<H> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<H: Clone> ByName<H> {
    pub(crate) fn insert(&self, name: &str, handler: H) {
        write(&self.0).insert(name.to_owned(), handler);
    }

    /// Removes all handlers.
    pub(crate) fn clear(&self) {
        let mut table = write(&self.0);
        let handlers = std::mem::take(&mut *table);
        // A handler may own anything: it is not dropped under the lock.
        drop(table);
        drop(handlers);
    }

    pub(crate) fn get(&self, name: &str) -> Option<H> {
        // A clone, so that the lock is not held while the handler runs.
        read(&self.0).get(name).cloned()
    }
}

type ReplyFuture = Pin<Box<dyn Future<Output = Result<Message, String>> + Send>>;

/// A named handler of requests.
#[derive(Clone)]
pub(crate) struct RequestHandler(Arc<dyn Fn(Peer, Message) -> ReplyFuture + Send + Sync>);

impl RequestHandler {
    pub(crate) fn new<F, A, E>(handler: F) -> Self
    where
        F: Fn(Peer, Message) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Message, E>> + Send + 'static,
        E: std::fmt::Display,
    {
        Self(Arc::new(move |peer, message| {
            let answering = handler(peer, message);
            Box::pin(async move { answering.await.map_err(|error| error.to_string()) })
        }))
    }

    /// Calls the handler.
    pub(crate) fn answer(&self, peer: Peer, message: Message) -> ReplyFuture {
        (self.0)(peer, message)
    }
}

/// The future that runs a stream to its end.
pub(crate) type StreamFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A named handler of streams.
#[derive(Clone)]
pub(crate) struct StreamHandler(Arc<dyn Fn(Stream) -> StreamFuture + Send + Sync>);

impl StreamHandler {
    pub(crate) fn new<F, R>(handler: F) -> Self
    where
        F: Fn(Stream) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(move |stream| Box::pin(handler(stream))))
    }

    /// Calls the handler.
    pub(crate) fn run(&self, stream: Stream) -> StreamFuture {
        (self.0)(stream)
    }
}
