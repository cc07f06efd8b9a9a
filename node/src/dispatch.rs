//! Delivers events to the application: to its handler, one at a time, and to all subscribers.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use peerkit_proto::config::Config;
use peerkit_proto::event::{Event, Peer, TimerId};
use peerkit_proto::frame::{Messages, Refusal};
use peerkit_proto::handler::{Action, Context, Handler, HandlerHost};
use peerkit_proto::message::Message;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::error::Error;
use crate::events::{EventQueue, Events};
use crate::lock::{read, write};
use crate::trace;

/// Maximum number of notices, which are events that wait to be delivered. Events of a link are not notices:
/// the link's own task delivers them.
const MAX_NOTICES: usize = 4096;

/// Number of places in the queue of notices that new broadcasts must not use. 2,560: the overlay may hold
/// 2,048 broadcasts that wait for earlier ones, and 512 places are for other events.
const RESERVED_NOTICES: usize = 2560;

/// Number of messages of one link after which the handler may get those of another link.
const MESSAGES_PER_TURN: usize = 256;

/// Messages or a request that a link has received.
#[derive(Debug)]
pub(crate) enum Received {
    /// Messages that came uncompressed.
    Plain(Messages),
    /// A message that had to be decompressed.
    Unpacked(Message),
    /// A request that the handler has to answer.
    Request(Box<HandlerRequest>),
}

/// A request for the handler.
#[derive(Debug)]
pub(crate) struct HandlerRequest {
    pub(crate) name: String,
    pub(crate) message: Message,
    /// Closed if the requester no longer waits.
    pub(crate) reply: oneshot::Sender<Result<Message, Refusal>>,
}

impl Received {
    /// Returns the number of messages, and the bytes of their contents.
    pub(crate) fn size(&self) -> (usize, usize) {
        match self {
            Self::Plain(messages) => (messages.len(), messages.content_len()),
            Self::Unpacked(message) => (1, message.body().len()),
            Self::Request(request) => (1, request.message.body().len()),
        }
    }
}

/// The application's handler and its subscribers.
pub(crate) struct Dispatch {
    /// Locked while the handler runs. Tasks get the lock in the order in which they have asked for it.
    handler: Option<Mutex<Box<dyn AnyHandler>>>,
    subscribers: RwLock<Vec<Arc<EventQueue>>>,
    config: Config,
    notices: mpsc::Sender<Event>,
    /// Number of notices that found no room and that no event has reported yet.
    missed: AtomicU64,
    /// Number of events that found no room, here or in the queue of a subscriber, since the node started.
    all_missed: Arc<AtomicU64>,
}

/// A handler that can be cast back to its type.
pub(crate) trait AnyHandler: Handler + Any {
    /// Returns the name of the handler's type.
    fn type_name(&self) -> &'static str {
        std::any::type_name::<Self>()
    }
}

impl<H: Handler + 'static> AnyHandler for H {}

/// Carries out the actions of a handler.
pub(crate) trait ActionSink: HandlerHost + Send + Sync {
    /// Carries out one action. Never waits.
    fn act(&self, action: Action);
}

impl Dispatch {
    /// Returns the dispatch, and the receiver of notices for [`deliver_notices`].
    pub(crate) fn new(
        handler: Option<Box<dyn AnyHandler>>,
        config: &Config,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (notices, receiver) = mpsc::channel(MAX_NOTICES);
        // Without a handler, a queue keeps events for the first subscriber, within the bounds of a queue.
        let all_missed = Arc::new(AtomicU64::new(0));
        let first = handler.is_none().then(|| EventQueue::new(config, all_missed.clone()));
        let dispatch = Self {
            handler: handler.map(Mutex::new),
            subscribers: RwLock::new(first.into_iter().collect()),
            config: config.clone(),
            notices,
            missed: AtomicU64::new(0),
            all_missed,
        };
        (dispatch, receiver)
    }

    /// Returns whether there is a handler. A handler answers requests.
    pub(crate) fn has_handler(&self) -> bool {
        self.handler.is_some()
    }

    /// Returns a new stream of events.
    pub(crate) fn subscribe(&self) -> Events {
        let mut subscribers = write(&self.subscribers);
        subscribers.retain(|queue| !queue.is_dropped());
        if let Some(first) = subscribers.iter().find(|queue| !queue.is_claimed()) {
            return first.claim();
        }
        let queue = EventQueue::new(&self.config, self.all_missed.clone());
        subscribers.push(queue.clone());
        queue.claim()
    }

    /// Returns the number of events since the node started that their readers missed. An event that two
    /// readers missed counts twice.
    pub(crate) fn missed_events(&self) -> u64 {
        self.all_missed.load(Ordering::Relaxed)
    }

    /// Queues an event for the application without waiting. If there is no room, the event counts as missed.
    pub(crate) fn queue_notice(&self, event: Event) {
        if self.notices.try_send(event).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
            self.all_missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues an event for the application once there is room.
    pub(crate) async fn queue_notice_when_room(&self, event: Event) {
        // The channel is closed only when the node has stopped.
        let _ = self.notices.send(event).await;
    }

    /// Returns whether there is room for this number of broadcasts. If not, the node drops the broadcasts and
    /// requests them from the network later, so that a slow application does not lose them.
    pub(crate) fn has_room_for_broadcasts(&self, broadcasts: usize) -> bool {
        self.notices.capacity() >= broadcasts.saturating_add(RESERVED_NOTICES)
    }

    /// Delivers one event to the handler, then to the subscribers. Waits until the handler has handled earlier
    /// events. A broadcast also waits for subscribers whose queue is full, as messages do.
    pub(crate) async fn deliver_event(&self, node: &dyn ActionSink, event: Event) {
        trace::event(&event);
        let queues = self.queues();
        if let Some(handler) = &self.handler {
            let mut handler = handler.lock().await;
            let events = std::iter::once(event.clone());
            self.handle(node, event.name(), events, |event, cx| event.deliver(&mut **handler, cx));
        }
        let waits = matches!(event, Event::NodeBroadcast { .. });
        for queue in &queues {
            if waits {
                queue.push_messages(std::iter::once(event.clone())).await;
            } else {
                queue.push(event.clone());
            }
        }
    }

    /// Delivers an expired timer. `expired` is called once the handler has handled earlier events. It returns
    /// `None` if the handler has cancelled the timer meanwhile.
    pub(crate) async fn deliver_timer(
        &self,
        node: &dyn ActionSink,
        expired: impl FnOnce() -> Option<TimerId>,
    ) {
        let Some(handler) = &self.handler else { return };
        let mut handler = handler.lock().await;
        let Some(timer) = expired() else { return };
        let event = Event::NodeTimer { timer };
        let events = std::iter::once(event.clone());
        self.handle(node, event.name(), events, |event, cx| handler.on_event(cx, event));
        drop(handler);
        self.queues().iter().for_each(|queue| queue.push(event.clone()));
    }

    /// Calls `act` with the handler, between two events. The actions of `act` are carried out before the next
    /// event.
    pub(crate) async fn with<H: Handler + 'static, R>(
        &self,
        node: &dyn ActionSink,
        act: impl FnOnce(&mut H, &mut Context<'_>) -> R,
    ) -> Result<R, Error> {
        let mut handler = self.handler.as_ref().ok_or(Error::NoHandler)?.lock().await;
        // The error needs the names of both types if they differ.
        let found = (**handler).type_name();
        let any: &mut dyn Any = &mut **handler;
        if any.is::<StoppedHandler>() {
            return Err(Error::Stopped);
        }
        let wanted = std::any::type_name::<H>();
        let handler = any.downcast_mut::<H>().ok_or(Error::OtherHandler { wanted, found })?;
        let mut actions = Vec::new();
        let result = act(handler, &mut Context::new(node, &mut actions));
        actions.into_iter().for_each(|action| node.act(action));
        Ok(result)
    }

    /// Delivers messages and requests of `peer`, in order. Waits for the handler, and for subscribers whose
    /// queue is full.
    pub(crate) async fn deliver_received(
        &self,
        node: &dyn ActionSink,
        peer: &Peer,
        received: Vec<Received>,
    ) {
        for received in received {
            match received {
                Received::Plain(messages) => self.deliver_messages(node, peer, messages).await,
                Received::Unpacked(message) => {
                    self.deliver_messages(node, peer, std::iter::once(message)).await;
                }
                // Boxed, so that the task of a link without requests has no room for this large future.
                Received::Request(request) => {
                    Box::pin(self.ask_handler(node, peer, *request)).await;
                }
            }
        }
    }

    /// Has the handler answer a request of `peer`.
    async fn ask_handler(&self, node: &dyn ActionSink, peer: &Peer, request: HandlerRequest) {
        let HandlerRequest { name, message, reply } = request;
        let Some(handler) = &self.handler else { return };
        let mut handler = handler.lock().await;
        // The requester may have given up while the handler was busy.
        if reply.is_closed() {
            return;
        }
        // This stays the reply if the handler panics.
        let mut outcome = Err(Refusal::Failed("the handler panicked".into()));
        self.handle(node, REQUEST, std::iter::once(message), |message, cx| {
            outcome = handler.node_request(cx, peer, &name, message);
        });
        let _ = reply.send(outcome);
    }

    async fn deliver_messages(
        &self,
        node: &dyn ActionSink,
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
                // The lock is released after each turn, so that a message of another link does not wait for
                // all of these.
                let mut handler = handler.lock().await;
                self.handle(node, MESSAGE, left.by_ref().take(MESSAGES_PER_TURN), |message, cx| {
                    handler.node_message(cx, peer, message);
                });
            }
        }
        for queue in &queues {
            let event = |message| Event::NodeMessage { peer: peer.clone(), message };
            queue.push_messages(messages.clone().map(event)).await;
        }
    }

    /// Waits until all notices that are queued by now have been taken out of the queue, and then until the
    /// handler is free. The last notice may still be on its way to the handler or to a subscriber.
    pub(crate) async fn settle(&self) {
        // All room of the channel is free when no notice waits.
        let _all = self.notices.reserve_many(MAX_NOTICES).await;
        if let Some(handler) = &self.handler {
            let _ = handler.lock().await;
        }
    }

    /// Ends all streams of events, and drops the handler.
    pub(crate) fn end(&self) {
        self.queues().iter().for_each(|queue| queue.end());
        // A handler that still runs is dropped with the node.
        if let Some(handler) = &self.handler
            && let Ok(mut handler) = handler.try_lock()
        {
            let ended = std::mem::replace(&mut *handler, Box::new(StoppedHandler));
            // The lock is released first: the handler may own anything, even this node, and is dropped here.
            drop(handler);
            drop(ended);
        }
    }

    fn queues(&self) -> Vec<Arc<EventQueue>> {
        read(&self.subscribers).clone()
    }

    /// Calls the handler for events of one name. If the handler panics, that event is lost, the panic is
    /// reported, and the next event follows.
    // Not inlined: in the large future of a link the loop takes two and a half times as long.
    #[inline(never)]
    fn handle<T>(
        &self,
        node: &dyn ActionSink,
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
            // Actions that the handler has requested before it panicked are still carried out.
            actions.drain(..).for_each(|action| node.act(action));
            let panic = panic_text(&*panic);
            tracing::error!(event = name, %panic, "the application's handler panicked");
            // A handler that panics on the event about a panic would get that event for ever.
            if name != PANICKED {
                self.queue_notice(Event::NodeHandlerPanicked { event: name, panic });
            }
        }
    }
}

/// The handler that replaces the application's handler when the node has stopped.
struct StoppedHandler;

impl Handler for StoppedHandler {}

const MESSAGE: &str = "node_message";
const REQUEST: &str = "node_request";
const PANICKED: &str = "node_handler_panicked";

/// Delivers the events that [`Dispatch::queue_notice`] has queued, until the channel closes.
pub(crate) async fn deliver_notices(
    dispatch: &Dispatch,
    node: &dyn ActionSink,
    notices: &mut mpsc::Receiver<Event>,
) {
    while let Some(event) = notices.recv().await {
        dispatch.deliver_event(node, event).await;
        let missed = dispatch.missed.swap(0, Ordering::Relaxed);
        if missed != 0 {
            dispatch.deliver_event(node, Event::NodeLagged { missed }).await;
        }
    }
}

/// Returns the message of a panic, if it has one.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}
