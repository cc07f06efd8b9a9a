//! Helpers of the tests: nodes on loopback, and waits with a time-out.

#![allow(dead_code, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use peerkit::{Builder, Config, Event, Events, Node, Peer};

/// Time-out of every wait. It is long enough for the slowest machine, so a longer wait is a
/// failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Returns a builder of a node that listens on loopback.
pub(crate) fn builder(name: &str) -> Builder {
    let mut config = Config::default();
    // A test whose download has no source should not wait for the usual minute.
    config.download_patience = Duration::from_secs(5);
    Node::builder().name(name).listen("127.0.0.1:0").config(config)
}

/// Returns settings whose deadlines are longer than [`PATIENCE`], so that a test fails if anything in
/// it waits for one of them.
pub(crate) fn without_deadlines() -> Config {
    const NEVER: Duration = Duration::from_secs(3600);
    let mut config = Config::default();
    (config.handshake_timeout, config.connect_timeout) = (NEVER, NEVER);
    (config.flush_timeout, config.dead_after) = (NEVER, NEVER);
    (config.query_timeout, config.query_ttl) = (NEVER, NEVER);
    config
}

pub(crate) async fn node(name: &str) -> Node {
    builder(name).spawn().await.unwrap()
}

/// Returns the address at which a node listens.
pub(crate) fn at(node: &Node) -> SocketAddr {
    node.listening()[0]
}

/// Links two nodes, and waits until both have the link.
pub(crate) async fn link(from: &Node, to: &Node) -> Peer {
    let peer = from.connect(at(to)).await.unwrap();
    until("the link is there on both sides", || to.peer(from.id()).is_some()).await;
    peer
}

/// Returns the result of `future`. Panics if it takes longer than [`PATIENCE`].
pub(crate) async fn within<T>(what: &str, future: impl IntoFuture<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited too long: {what}"),
    }
}

/// Waits until `condition` returns true.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) async fn next(events: &mut Events) -> Event {
    within("an event", events.next()).await.expect("the events have ended")
}

/// Returns the next event of that name, and skips all others.
pub(crate) async fn expect(events: &mut Events, name: &str) -> Event {
    within(name, async {
        while let Some(event) = events.next().await {
            if event.name() == name {
                return event;
            }
        }
        panic!("the events ended before {name}");
    })
    .await
}

/// Returns the content of the next message.
pub(crate) async fn message(events: &mut Events) -> peerkit::Message {
    match expect(events, "node_message").await {
        Event::NodeMessage { message, .. } => message,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn text(events: &mut Events) -> String {
    message(events).await.as_text().unwrap().to_owned()
}

pub(crate) async fn shutdown<'n>(nodes: impl IntoIterator<Item = &'n Node>) {
    for node in nodes {
        within("shutdown", node.shutdown()).await;
    }
}

/// A separate tokio runtime, for nodes that block its threads or crash.
pub(crate) struct Elsewhere(Option<tokio::runtime::Runtime>);

impl Elsewhere {
    pub(crate) fn new() -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Self(Some(builder.worker_threads(2).enable_all().build().unwrap()))
    }

    /// Runs a task on this runtime and waits for its result.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> T {
        self.0.as_ref().unwrap().spawn(task).await.unwrap()
    }

    /// Ends all tasks of this runtime at once, as a crash would: sockets are closed without a goodbye.
    pub(crate) fn crash(mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A generator of random numbers that are the same in every run: splitmix64.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
