//! Brings events to the application: to its handler, one at a time, and to every subscriber.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use peerkit_proto::config::Config;
use peerkit_proto::event::{Event, Peer, TimerId};
use peerkit_proto::frame::{Messages, Refusal};
use peerkit_proto::handler::{Action, Context, Handler, World};
use peerkit_proto::message::Message;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::error::Error;
use crate::events::{Events, Queue};
use crate::lock::{read, write};
use crate::trace;

/// Events that do not come from a link's own task, waiting to be delivered.
const NOTICES: usize = 4096;

/// Of these, what broadcasts leave free: for other events, and for broadcasts that waited for those
/// before them, of which an overlay holds 2,048 at the most.
const NOT_FOR_BROADCASTS: usize = 2560;

/// Messages that the handler gets of one link before it may be another's turn.
const TURN: usize = 256;

/// What a link has received.
#[derive(Debug)]
pub(crate) enum Received {
    /// Messages that came as they are.
    Plain(Messages),
    /// One that had to be decompressed.
    Unpacked(Message),
    /// A request that the handler is to answer.
    Request(Box<Asked>),
}

/// A request for the handler.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) message: Message,
    /// Closed once the peer does not wait any more.
    pub(crate) reply: oneshot::Sender<Result<Message, Refusal>>,
}

impl Received {
    /// How many messages, and the bytes of their contents.
    pub(crate) fn size(&self) -> (usize, usize) {
        match self {
            Self::Plain(messages) => (messages.len(), messages.content_len()),
            Self::Unpacked(message) => (1, message.body().len()),
            Self::Request(asked) => (1, asked.message.body().len()),
        }
    }
}

/// The application's ends.
pub(crate) struct Dispatch {
    /// Locked for as long as the handler runs; links wait for it in turn.
    handler: Option<Mutex<Box<dyn Application>>>,
    subscribers: RwLock<Vec<Arc<Queue>>>,
    config: Config,
    notices: mpsc::Sender<Event>,
    missed: AtomicU64,
}

/// A handler whose type can be found out again.
pub(crate) trait Application: Handler + Any {
    /// Returns the name of its type.
    fn type_name(&self) -> &'static str {
        std::any::type_name::<Self>()
    }
}

impl<H: Handler + 'static> Application for H {}

/// Carries out what a handler wants done.
pub(crate) trait Act: World + Send + Sync {
    /// Carries out one action. Never waits.
    fn act(&self, action: Action);
}

impl Dispatch {
    /// The receiver is for [`deliver_notices`].
    pub(crate) fn new(
        handler: Option<Box<dyn Application>>,
        config: &Config,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (notices, receiver) = mpsc::channel(NOTICES);
        // What happens before the application subscribes is kept for its first stream, within the
        // bounds; with a handler there is no such gap.
        let first = handler.is_none().then(|| Queue::new(config));
        let dispatch = Self {
            handler: handler.map(Mutex::new),
            subscribers: RwLock::new(first.into_iter().collect()),
            config: config.clone(),
            notices,
            missed: AtomicU64::new(0),
        };
        (dispatch, receiver)
    }

    /// Returns whether there is a handler, and so whether it answers requests.
    pub(crate) fn has_handler(&self) -> bool {
        self.handler.is_some()
    }

    /// A new stream of events.
    pub(crate) fn subscribe(&self) -> Events {
        let mut subscribers = write(&self.subscribers);
        subscribers.retain(|queue| !queue.is_gone());
        if let Some(first) = subscribers.iter().find(|queue| !queue.is_claimed()) {
            return first.claim();
        }
        let queue = Queue::new(&self.config);
        subscribers.push(queue.clone());
        queue.claim()
    }

    /// Tells the application without waiting for it; what finds no room is counted and told later.
    pub(crate) fn notice(&self, event: Event) {
        if self.notices.try_send(event).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands over an event behind those that wait, once there is room for it.
    pub(crate) async fn notice_when_room(&self, event: Event) {
        // It is closed only once the node has stopped.
        let _ = self.notices.send(event).await;
    }

    /// Whether so many broadcasts find room. Where not the network is asked for them again later:
    /// what the application has no time for is not lost.
    pub(crate) fn takes(&self, broadcasts: usize) -> bool {
        self.notices.capacity() >= broadcasts.saturating_add(NOT_FOR_BROADCASTS)
    }

    /// Delivers one event, after those before it. Subscribers without room are waited for with a
    /// broadcast, as with messages, but no longer.
    pub(crate) async fn event(&self, node: &dyn Act, event: Event) {
        trace::event(&event);
        let queues = self.queues();
        if let Some(handler) = &self.handler {
            let mut handler = handler.lock().await;
            let events = std::iter::once(event.clone());
            self.handle(node, event.name(), events, |event, cx| event.deliver(&mut **handler, cx));
        }
        let waits = matches!(event, Event::NodeBroadcast { .. });
        for queue in &queues {
            match waits {
                true => queue.push_messages(std::iter::once(event.clone())).await,
                false => queue.push(event.clone()),
            }
        }
    }

    /// Delivers a timer. `expired` takes it once it is the handler's turn; `None` if there is none any
    /// more.
    pub(crate) async fn timer(&self, node: &dyn Act, expired: impl FnOnce() -> Option<TimerId>) {
        let Some(handler) = &self.handler else { return };
        let mut handler = handler.lock().await;
        let Some(timer) = expired() else { return };
        let event = Event::NodeTimer { timer };
        let timers = std::iter::once(timer);
        self.handle(node, event.name(), timers, |timer, cx| handler.on_timer(cx, timer));
        drop(handler);
        self.queues().iter().for_each(|queue| queue.push(event.clone()));
    }

    /// Acts as the handler, in turn with its events. Its actions are carried out before the next turn.
    pub(crate) async fn with<H: Handler + 'static, R>(
        &self,
        node: &dyn Act,
        act: impl FnOnce(&mut H, &mut Context<'_>) -> R,
    ) -> Result<R, Error> {
        let mut handler = self.handler.as_ref().ok_or(Error::NoHandler)?.lock().await;
        let found = (**handler).type_name();
        let any: &mut dyn Any = &mut **handler;
        if any.is::<Ended>() {
            return Err(Error::Stopped);
        }
        let wanted = std::any::type_name::<H>();
        let handler = any.downcast_mut::<H>().ok_or(Error::OtherHandler { wanted, found })?;
        let mut actions = Vec::new();
        let result = act(handler, &mut Context::new(node, &mut actions));
        actions.into_iter().for_each(|action| node.act(action));
        Ok(result)
    }

    /// Delivers what came from `peer`, in order. Waits for handler and subscribers.
    pub(crate) async fn messages(&self, node: &dyn Act, peer: &Peer, received: Vec<Received>) {
        for received in received {
            match received {
                Received::Plain(messages) => self.deliver(node, peer, messages).await,
                Received::Unpacked(message) => {
                    self.deliver(node, peer, std::iter::once(message)).await;
                }
                // Boxed: no room is kept for it on a link without requests.
                Received::Request(asked) => Box::pin(self.ask(node, peer, *asked)).await,
            }
        }
    }

    /// Has the handler answer a request of `peer`.
    async fn ask(&self, node: &dyn Act, peer: &Peer, asked: Asked) {
        let Asked { name, message, reply } = asked;
        let Some(handler) = &self.handler else { return };
        let mut handler = handler.lock().await;
        if reply.is_closed() {
            return;
        }
        let mut outcome = Err(Refusal::Failed("the handler panicked".into()));
        self.handle(node, REQUEST, std::iter::once(message), |message, cx| {
            outcome = handler.node_request(cx, peer, &name, message);
        });
        let _ = reply.send(outcome);
    }

    async fn deliver(
        &self,
        node: &dyn Act,
        peer: &Peer,
        messages: impl ExactSizeIterator<Item = Message> + Clone,
    ) {
        if tracing::enabled!(target: "peerkit::message", tracing::Level::DEBUG) {
            messages.clone().for_each(|message| trace::received(peer, &message));
        }
        let queues = self.queues();
        if let Some(handler) = &self.handler {
            let mut left = messages.clone();
            while left.len() != 0 {
                // Given back now and then: another link's message does not wait for all of them.
                let mut handler = handler.lock().await;
                self.handle(node, MESSAGE, left.by_ref().take(TURN), |message, cx| {
                    handler.node_message(cx, peer, message);
                });
            }
        }
        for queue in &queues {
            let event = |message| Event::NodeMessage { peer: peer.clone(), message };
            queue.push_messages(messages.clone().map(event)).await;
        }
    }

    /// Waits until all notices so far have been delivered.
    pub(crate) async fn settle(&self) {
        // The channel has all its room again once nothing waits, and the handler's lock is free
        // once the last one has been handled.
        let _all = self.notices.reserve_many(NOTICES).await;
        if let Some(handler) = &self.handler {
            let _ = handler.lock().await;
        }
    }

    /// No more events will come, and the handler is given back.
    pub(crate) fn end(&self) {
        self.queues().iter().for_each(|queue| queue.end());
        // One that is still at work stays until the node is freed.
        if let Some(handler) = &self.handler
            && let Ok(mut handler) = handler.try_lock()
        {
            let ended = std::mem::replace(&mut *handler, Box::new(Ended));
            drop(handler);
            drop(ended);
        }
    }

    fn queues(&self) -> Vec<Arc<Queue>> {
        read(&self.subscribers).clone()
    }

    /// Runs the handler over events of one name. A panic costs the event that it happened in, and
    /// is told.
    // Within the link's future, which is large, the loop took two and a half times as long.
    #[inline(never)]
    fn handle<T>(
        &self,
        node: &dyn Act,
        name: &'static str,
        mut events: impl Iterator<Item = T>,
        mut deliver: impl FnMut(T, &mut Context<'_>),
    ) {
        let mut actions = Vec::new();
        loop {
            let handled = catch_unwind(AssertUnwindSafe(|| {
                for event in events.by_ref() {
                    deliver(event, &mut Context::new(node, &mut actions));
                    if !actions.is_empty() {
                        actions.drain(..).for_each(|action| node.act(action));
                    }
                }
            }));
            let Err(panic) = handled else { return };
            actions.drain(..).for_each(|action| node.act(action));
            let panic = panic_text(&*panic);
            tracing::error!(event = name, %panic, "the application's handler panicked");
            if name != PANICKED {
                self.notice(Event::NodeHandlerPanicked { event: name, panic });
            }
        }
    }
}

/// In place of the application's handler once the node has stopped.
struct Ended;

impl Handler for Ended {}

const MESSAGE: &str = "node_message";
const REQUEST: &str = "node_request";
const PANICKED: &str = "node_handler_panicked";

/// Delivers what [`Dispatch::notice`] was given, until the channel closes.
pub(crate) async fn deliver_notices(
    dispatch: &Dispatch,
    node: &dyn Act,
    notices: &mut mpsc::Receiver<Event>,
) {
    while let Some(event) = notices.recv().await {
        dispatch.event(node, event).await;
        let missed = dispatch.missed.swap(0, Ordering::Relaxed);
        if missed != 0 {
            dispatch.event(node, Event::NodeLagged { missed }).await;
        }
    }
}

/// What a panic said, where it said it in words.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".to_owned())
}
