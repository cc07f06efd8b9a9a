//! The node under attack, and the checks after each attack.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerkit::{Builder, Config, Event, LinkEnd, Message, Node, NodeId};
use tokio::sync::{Notify, OwnedMutexGuard};

use super::{STEP_TIMEOUT, open_sockets, tasks, until, within};

/// A node that records its events and answers the request `echo`.
pub struct Victim {
    pub node: Node,
    secret: Option<&'static str>,
    log: Arc<Log>,
    /// Number of tasks before the attack.
    tasks: usize,
    /// Number of open sockets before the attack.
    sockets: usize,
    _turn: OwnedMutexGuard<()>,
}

#[derive(Default)]
struct Log {
    events: Mutex<Vec<Event>>,
    /// Notified after each event.
    changed: Notify,
}

/// Returns a configuration with short deadlines, so that tests of deadlines are fast.
pub fn config() -> Config {
    let mut config = Config::default();
    config.handshake_timeout = Duration::from_secs(4);
    config.flush_timeout = Duration::from_millis(500);
    config.connect_timeout = Duration::from_secs(5);
    config
}

impl Victim {
    pub async fn new() -> Self {
        Self::with_config(config()).await
    }

    pub async fn with_config(config: Config) -> Self {
        Self::build(config, None).await
    }

    /// Starts a victim in a network with this secret.
    pub async fn with_secret(secret: &'static str) -> Self {
        Self::build(config(), Some(secret)).await
    }

    async fn build(config: Config, secret: Option<&'static str>) -> Self {
        let turn = super::wait_for_turn().await;
        let log = Arc::new(Log::default());
        let writing = log.clone();
        let builder = member(secret).name("victim").listen("127.0.0.1:0").config(config);
        let builder = builder.callback(move |_, event| {
            writing.events.lock().unwrap().push(event);
            writing.changed.notify_waiters();
        });
        let node = builder.spawn().await.unwrap();
        node.serve("echo", |_, message| async move { Ok::<_, String>(message) });
        let mut victim = Self { node, secret, log, tasks: 0, sockets: 0, _turn: turn };
        victim.check_honest_node_is_served().await;
        victim.wait_until_links_are_gone().await;
        (victim.tasks, victim.sockets) = (tasks(), open_sockets());
        victim
    }

    pub fn address(&self) -> SocketAddr {
        self.node.listening()[0]
    }

    pub fn id(&self) -> NodeId {
        self.node.id()
    }

    /// Removes all recorded events and returns them.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.log.events.lock().unwrap())
    }

    /// Waits for an event for which `pick` returns a value, and returns the value. Only looks at events that
    /// [`Victim::take_events`] has not taken, and takes none.
    pub async fn event<T>(&self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let mut changed = std::pin::pin!(self.log.changed.notified());
                changed.as_mut().enable();
                if let Some(picked) = self.log.events.lock().unwrap().iter().find_map(&pick) {
                    return picked;
                }
                changed.await;
            }
        };
        tokio::time::timeout(STEP_TIMEOUT, waiting).await.unwrap_or_else(|_| {
            let events = self.take_events();
            let names: Vec<_> = events.iter().map(Event::name).collect();
            panic!("no {what} among {} events: {:?}", names.len(), &names[..names.len().min(40)])
        })
    }

    /// Waits until the link with `peer` has ended. Returns how it ended.
    pub async fn link_end(&self, peer: NodeId) -> LinkEnd {
        let ended = |event: &Event| match event {
            Event::InboundNodeDisconnected { peer: ended, link_end }
            | Event::OutboundNodeDisconnected { peer: ended, link_end }
                if ended.id() == peer =>
            {
                Some(link_end.clone())
            }
            _ => None,
        };
        self.event("disconnected", ended).await
    }

    /// Waits for the event of an inbound connection that did not become a link. Returns the error.
    pub async fn connection_error(&self) -> String {
        let failed = |event: &Event| match event {
            Event::InboundNodeConnectionError { error, .. } => Some(error.clone()),
            _ => None,
        };
        self.event("inbound_node_connection_error", failed).await
    }

    /// Waits for a message from the peer `from`.
    pub async fn message(&self, from: NodeId) -> Message {
        let received = |event: &Event| match event {
            Event::NodeMessage { peer, message } if peer.id() == from => Some(message.clone()),
            _ => None,
        };
        self.event("node_message", received).await
    }

    /// Checks that an honest node can connect to the victim, send it a message, get a reply and discover it.
    pub async fn check_honest_node_is_served(&self) {
        let honest = member(self.secret).name("honest").spawn().await.unwrap();
        let connecting = honest.connect(self.address());
        within(STEP_TIMEOUT, "an honest node's link", connecting).await.unwrap();
        honest.send(self.id(), "good day").await.unwrap();
        let message = self.message(honest.id()).await;
        assert_eq!(message.as_text(), Some("good day"));
        let answer = honest.request(self.id(), "echo", "hello?").await.unwrap();
        assert_eq!(answer.as_text(), Some("hello?"));
        let found = within(STEP_TIMEOUT, "a discovery", honest.discover(1)).await.unwrap();
        assert!(found.nodes.iter().any(|node| node.id == self.id()), "not discovered");
        honest.shutdown().await;
    }

    /// Checks the victim after an attack whose connections have ended: it serves honest nodes, and has
    /// neither tasks nor sockets left over.
    pub async fn check_unharmed(self) {
        self.check_honest_node_is_served().await;
        self.wait_until_links_are_gone().await;
        let (tasks_before, sockets_before) = (self.tasks, self.sockets);
        let left = || {
            format!(
                "{} tasks (before: {tasks_before}), {} sockets (before: {sockets_before})",
                tasks(),
                open_sockets()
            )
        };
        until("no tasks left over", || tasks() <= tasks_before, left).await;
        until("no sockets left over", || open_sockets() <= sockets_before, left).await;
        within(STEP_TIMEOUT, "the victim's stop", self.node.shutdown()).await;
        until("no tasks after the stop", || tasks() == 0, left).await;
    }

    /// Waits until the victim has no links.
    async fn wait_until_links_are_gone(&self) {
        let links = || format!("{:?}", self.node.peers());
        until("no links left over", || self.node.peers().is_empty(), links).await;
    }
}

fn member(secret: Option<&str>) -> Builder {
    match secret {
        Some(secret) => Node::builder().secret(secret),
        None => Node::builder(),
    }
}
