//! A node under attack, and the checks after each attack.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerkit::{Builder, Config, Event, LinkEnd, Message, Node, NodeId};
use tokio::sync::{Notify, OwnedMutexGuard};

use super::{LONG, descriptors, tasks, until, within};

/// A node that keeps its events and answers the request `echo`.
pub struct Victim {
    pub node: Node,
    secret: Option<&'static str>,
    log: Arc<Log>,
    tasks: usize,
    descriptors: usize,
    _alone: OwnedMutexGuard<()>,
}

#[derive(Default)]
struct Log {
    events: Mutex<Vec<Event>>,
    more: Notify,
}

/// Returns short deadlines, so that tests of deadlines are fast.
pub fn config() -> Config {
    let mut config = Config::default();
    config.handshake_timeout = Duration::from_secs(4);
    config.flush_timeout = Duration::from_millis(500);
    config.connect_timeout = Duration::from_secs(5);
    config
}

impl Victim {
    pub async fn new() -> Self {
        Self::with(config()).await
    }

    pub async fn with(config: Config) -> Self {
        Self::build(config, None).await
    }

    /// Starts a victim in a network with this secret.
    pub async fn guarded(secret: &'static str) -> Self {
        Self::build(config(), Some(secret)).await
    }

    async fn build(config: Config, secret: Option<&'static str>) -> Self {
        let alone = super::alone().await;
        let log = Arc::new(Log::default());
        let writing = log.clone();
        let builder = member(secret).name("victim").listen("127.0.0.1:0").config(config);
        let builder = builder.callback(move |_, event| {
            writing.events.lock().unwrap().push(event);
            writing.more.notify_waiters();
        });
        let node = builder.spawn().await.unwrap();
        node.serve("echo", |_, message| async move { Ok::<_, String>(message) });
        let mut victim = Self { node, secret, log, tasks: 0, descriptors: 0, _alone: alone };
        victim.talks().await;
        victim.settles().await;
        (victim.tasks, victim.descriptors) = (tasks(), descriptors());
        victim
    }

    pub fn address(&self) -> SocketAddr {
        self.node.listening()[0]
    }

    pub fn id(&self) -> NodeId {
        self.node.id()
    }

    /// Takes all events so far.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.log.events.lock().unwrap())
    }

    /// Waits for an event that `pick` accepts, among those that were not taken. It is not taken.
    pub async fn event<T>(&self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let mut more = std::pin::pin!(self.log.more.notified());
                more.as_mut().enable();
                if let Some(picked) = self.log.events.lock().unwrap().iter().find_map(&pick) {
                    return picked;
                }
                more.await;
            }
        };
        tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| {
            let events = self.take_events();
            let names: Vec<_> = events.iter().map(Event::name).collect();
            panic!("no {what} among {} events: {:?}", names.len(), &names[..names.len().min(40)])
        })
    }

    /// Waits for the event that the link with `peer` has ended.
    pub async fn parted(&self, peer: NodeId) -> LinkEnd {
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

    /// Waits for the event of a connection that did not become a link. Returns the reason.
    pub async fn stranger(&self) -> String {
        let failed = |event: &Event| match event {
            Event::InboundNodeConnectionError { error, .. } => Some(error.clone()),
            _ => None,
        };
        self.event("inbound_node_connection_error", failed).await
    }

    /// Waits for a message of `peer`.
    pub async fn message(&self, from: NodeId) -> Message {
        let said = |event: &Event| match event {
            Event::NodeMessage { peer, message } if peer.id() == from => Some(message.clone()),
            _ => None,
        };
        self.event("node_message", said).await
    }

    /// Checks that an honest node can connect, send a message, get a reply, and find the victim.
    pub async fn talks(&self) {
        let honest = member(self.secret).name("honest").spawn().await.unwrap();
        let connecting = honest.connect(self.address());
        within(LONG, "an honest node's link", connecting).await.unwrap();
        honest.send(self.id(), "good day").await.unwrap();
        let message = self.message(honest.id()).await;
        assert_eq!(message.as_text(), Some("good day"));
        let answer = honest.request(self.id(), "echo", "hello?").await.unwrap();
        assert_eq!(answer.as_text(), Some("hello?"));
        let found = within(LONG, "a discovery", honest.discover(1)).await.unwrap();
        assert!(found.nodes.iter().any(|node| node.id == self.id()), "not discovered");
        honest.shutdown().await;
    }

    /// Checks the state after an attack whose connections are gone: honest nodes are served, and
    /// nothing is left behind.
    pub async fn unharmed(self) {
        self.talks().await;
        self.settles().await;
        let (before, most) = (self.tasks, self.descriptors);
        let left =
            || format!("{} tasks of {before}, {} descriptors of {most}", tasks(), descriptors());
        until("no tasks left over", || tasks() <= before, left).await;
        until("no descriptors left over", || descriptors() <= most, left).await;
        within(LONG, "the victim stops", self.node.shutdown()).await;
        until("no tasks after the stop", || tasks() == 0, left).await;
    }

    /// Waits until all links are gone and the application has got their events.
    async fn settles(&self) {
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
