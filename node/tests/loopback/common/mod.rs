//! Helpers for the tests: nodes on the loopback interface, and waits with a time-out.

#![allow(dead_code, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use peerkit::{Builder, Config, Event, Events, Node, Peer};

/// The time-out of every wait. It is long enough for the slowest machine, so a test that reaches it has
/// failed.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

/// Returns a builder for a node that listens on the loopback interface.
pub(crate) fn builder(name: &str) -> Builder {
    let mut config = Config::default();
    // Without this, a download without a source would fail only after a minute.
    config.download_patience = Duration::from_secs(5);
    Node::builder().name(name).listen("127.0.0.1:0").config(config)
}

/// Returns a configuration whose deadlines are longer than [`WAIT_TIMEOUT`]. A test that has to wait for one
/// of them fails.
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
pub(crate) fn address_of(node: &Node) -> SocketAddr {
    node.listening()[0]
}

/// Connects `from` to `to`, and waits until both nodes have the link.
pub(crate) async fn link(from: &Node, to: &Node) -> Peer {
    let peer = from.connect(address_of(to)).await.unwrap();
    wait_until("both nodes to have the link", || to.peer(from.id()).is_some()).await;
    peer
}

/// Returns the result of `future`. Panics if it takes longer than [`WAIT_TIMEOUT`].
pub(crate) async fn within<T>(what: &str, future: impl IntoFuture<Output = T>) -> T {
    match tokio::time::timeout(WAIT_TIMEOUT, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited too long for: {what}"),
    }
}

/// Waits until `condition` returns true.
pub(crate) async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) async fn next_event(events: &mut Events) -> Event {
    within("an event", events.next()).await.expect("the events have ended")
}

/// Returns the next event with this name. Skips all other events.
pub(crate) async fn expect_event(events: &mut Events, name: &str) -> Event {
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

/// Returns the next message, without its sender.
pub(crate) async fn next_message(events: &mut Events) -> peerkit::Message {
    match expect_event(events, "node_message").await {
        Event::NodeMessage { message, .. } => message,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn next_text(events: &mut Events) -> String {
    next_message(events).await.as_text().unwrap().to_owned()
}

pub(crate) async fn shutdown<'n>(nodes: impl IntoIterator<Item = &'n Node>) {
    for node in nodes {
        within("shutdown", node.shutdown()).await;
    }
}

/// A separate tokio runtime, for nodes that block its threads or crash.
pub(crate) struct OtherRuntime(Option<tokio::runtime::Runtime>);

impl OtherRuntime {
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

    /// Ends all tasks of this runtime, as a crash would. Sockets are closed without a goodbye.
    pub(crate) fn crash(mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

impl Drop for OtherRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A random number generator (splitmix64) that gives the same numbers in every run.
pub(crate) struct SeededRandom(pub(crate) u64);

impl SeededRandom {
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
