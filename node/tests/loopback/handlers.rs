//! Handlers: their timers, requests and replies, and calls into them from outside.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::*;
use peerkit::{
    ActionId, Config, Context, Error, Event, Handler, MAX_TIMERS, Message, Node, NodeId, Peer,
    Refusal, TimerId,
};
use tokio::sync::mpsc;

const HOUR: Duration = Duration::from_secs(3600);

/// A handler that reports the timers that expire.
struct Clock {
    expired: mpsc::UnboundedSender<TimerId>,
    failed: mpsc::UnboundedSender<ActionId>,
    /// The timer to cancel when the first one expires.
    cancels: Option<TimerId>,
}

impl Handler for Clock {
    fn on_timer(&mut self, cx: &mut Context<'_>, timer: TimerId) {
        if let Some(other) = self.cancels.take() {
            cx.cancel_timer(other);
        }
        self.expired.send(timer).unwrap();
    }

    fn node_action_failed(&mut self, _: &mut Context<'_>, action: ActionId, error: &str) {
        assert!(error.contains("1024 timers"), "{error}");
        self.failed.send(action).unwrap();
    }
}

async fn clock() -> (Node, mpsc::UnboundedReceiver<TimerId>, mpsc::UnboundedReceiver<ActionId>) {
    let (expired, timers) = mpsc::unbounded_channel();
    let (failed, failures) = mpsc::unbounded_channel();
    let clock = Clock { expired, failed, cancels: None };
    let node = builder("ann").handler(clock).spawn().await.unwrap();
    (node, timers, failures)
}

#[tokio::test]
async fn timers_expire_in_order_once_and_cancelled_ones_never() {
    let (node, mut expired, _) = clock().await;
    let act = |clock: &mut Clock, cx: &mut Context<'_>| {
        let late = cx.set_timer(Duration::from_millis(60));
        let early = cx.set_timer(Duration::from_millis(1));
        // Due at the same moment, and cancelled by the one before it.
        clock.cancels = Some(cx.set_timer(Duration::from_millis(1)));
        let never = cx.set_timer(Duration::from_millis(30));
        cx.cancel_timer(never);
        (early, late)
    };
    let (early, late) = node.with(act).await.unwrap();
    assert_eq!(within("the first", expired.recv()).await, Some(early));
    assert_eq!(within("the last", expired.recv()).await, Some(late));
    node.shutdown().await;
    assert_eq!(expired.recv().await, None);
}

#[tokio::test]
async fn timers_over_the_limit_fail() {
    let (node, _expired, mut failed) = clock().await;
    let act = |_: &mut Clock, cx: &mut Context<'_>| {
        let set: Vec<_> = (0..=MAX_TIMERS).map(|_| cx.set_timer(HOUR)).collect();
        cx.cancel_timer(set[0]);
        cx.set_timer(HOUR);
        set[MAX_TIMERS]
    };
    let over = node.with(act).await.unwrap();
    assert_eq!(within("the failure", failed.recv()).await, Some(over.action()));
    node.shutdown().await;
    assert_eq!(failed.recv().await, None);
}

/// A handler that sets a timer whenever one expires, and logs its calls.
struct Restless(Arc<Mutex<Vec<&'static str>>>);

impl Handler for Restless {
    fn on_timer(&mut self, cx: &mut Context<'_>, _: TimerId) {
        self.0.lock().unwrap().push("timer");
        cx.set_timer(Duration::ZERO);
    }

    fn node_request_to_stop(&mut self, cx: &mut Context<'_>) {
        self.0.lock().unwrap().push("stop");
        cx.set_timer(Duration::ZERO);
    }
}

#[tokio::test]
async fn no_timer_expires_once_a_node_stops() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let node = builder("ann").handler(Restless(log.clone())).spawn().await.unwrap();
    let mut events = node.events();
    node.with(|_: &mut Restless, cx| cx.set_timer(Duration::ZERO)).await.unwrap();
    assert!(matches!(expect(&mut events, "node_timer").await, Event::NodeTimer { .. }));
    until("several have expired", || log.lock().unwrap().len() > 3).await;
    node.shutdown().await;
    let log = log.lock().unwrap();
    assert_eq!(log.iter().position(|called| *called == "stop"), Some(log.len() - 1), "{log:?}");
}

/// A handler that counts the broadcasts of other nodes.
#[derive(Default)]
struct BroadcastCounter(usize);

impl Handler for BroadcastCounter {
    fn node_broadcast(&mut self, _: &mut Context<'_>, _: peerkit::Broadcast) {
        self.0 += 1;
    }
}

#[tokio::test]
async fn a_handler_is_called_from_outside() {
    let ann = builder("ann").handler(BroadcastCounter::default()).spawn().await.unwrap();
    let bob = builder("bob").handler(BroadcastCounter::default()).spawn().await.unwrap();
    link(&bob, &ann).await;
    let mut events = ann.events();
    let name = bob.with(|_: &mut BroadcastCounter, cx| {
        cx.broadcast("news", "some");
        cx.name().to_owned()
    });
    assert_eq!(name.await.unwrap(), "bob");
    expect(&mut events, "node_broadcast").await;
    assert_eq!(ann.with(|counter: &mut BroadcastCounter, _| counter.0).await.unwrap(), 1);

    let other = ann.with(|_: &mut Restless, _| ()).await.unwrap_err();
    assert!(matches!(other, Error::OtherHandler { .. }));
    let text = other.to_string();
    assert!(text.contains("Restless") && text.contains("BroadcastCounter"), "{text}");
    ann.shutdown().await;
    let stopped = ann.with(|counter: &mut BroadcastCounter, _| counter.0).await;
    assert!(matches!(stopped, Err(Error::Stopped)));
    bob.shutdown().await;

    let cid = node("cid").await;
    assert!(matches!(cid.with(|_: &mut BroadcastCounter, _| ()).await, Err(Error::NoHandler)));
    cid.shutdown().await;
}

/// A handler that answers requests, and reports the outcomes of its own requests.
struct Answers {
    messages: String,
    outcomes: mpsc::UnboundedSender<(ActionId, Result<String, String>)>,
}

impl Handler for Answers {
    fn node_message(&mut self, _: &mut Context<'_>, _: &Peer, message: Message) {
        self.messages += message.as_text().unwrap();
    }

    fn node_request(
        &mut self,
        cx: &mut Context<'_>,
        peer: &Peer,
        name: &str,
        request: Message,
    ) -> Result<Message, Refusal> {
        let text = request.as_text().unwrap();
        match name {
            "messages" => Ok(format!("{text} {} {}", peer.name(), self.messages).into()),
            "function" => Ok("the handler".into()),
            "panic" => panic!("as requested"),
            "peers" => Ok(cx.peers().len().to_string().into()),
            "fail" => Err(Refusal::Failed("not today".into())),
            _ => Err(Refusal::NoHandler),
        }
    }

    fn node_request_completed(
        &mut self,
        _: &mut Context<'_>,
        action: ActionId,
        _: NodeId,
        reply: Message,
    ) {
        self.outcomes.send((action, Ok(reply.as_text().unwrap().to_owned()))).unwrap();
    }

    fn node_action_failed(&mut self, _: &mut Context<'_>, action: ActionId, error: &str) {
        self.outcomes.send((action, Err(error.to_owned()))).unwrap();
    }
}

type Outcomes = mpsc::UnboundedReceiver<(ActionId, Result<String, String>)>;

async fn answering(name: &str, config: Config) -> (Node, Outcomes) {
    let (outcomes, receiver) = mpsc::unbounded_channel();
    let handler = Answers { messages: String::new(), outcomes };
    let builder = Node::builder().name(name).listen("127.0.0.1:0").config(config);
    (builder.handler(handler).spawn().await.unwrap(), receiver)
}

#[tokio::test]
async fn a_handler_answers_requests_in_their_order_among_messages() {
    let (ann, _) = answering("ann", Config::default()).await;
    ann.serve("function", |_, _| async { Ok::<_, Error>("the function".into()) });
    let bob = node("bob").await;
    let peer = link(&bob, &ann).await;
    bob.send(&peer, "one ").await.unwrap();
    bob.send(&peer, "two").await.unwrap();
    let reply = bob.request(&peer, "messages", "hm").await.unwrap();
    assert_eq!(reply.as_text(), Some("hm bob one two"));
    let reply = bob.request(&peer, "function", "").await.unwrap();
    assert_eq!(reply.as_text(), Some("the function"));

    let refused = bob.request(&peer, "unknown", "").await.unwrap_err();
    assert!(matches!(refused, Error::Request(Refusal::NoHandler)), "{refused}");
    let refused = bob.request(&peer, "fail", "").await.unwrap_err().to_string();
    assert!(refused.contains("not today"), "{refused}");
    let mut events = ann.events();
    let refused = bob.request(&peer, "panic", "").await.unwrap_err().to_string();
    assert!(refused.contains("panicked"), "{refused}");
    let event = expect(&mut events, "node_handler_panicked").await;
    assert!(matches!(event, Event::NodeHandlerPanicked { event: "node_request", .. }));
    let reply = bob.request(&peer, "peers", "").await.unwrap();
    assert_eq!(reply.as_text(), Some("1"), "the handler still works after the panic");
    ann.shutdown().await;
    bob.shutdown().await;
}

#[tokio::test]
async fn a_handler_gets_replies_and_failures_of_its_requests() {
    let mut config = Config::default();
    config.request_timeout = Duration::from_millis(50);
    let (hasty, mut too_late) = answering("hasty", config).await;
    let (ann, mut outcomes) = answering("ann", Config::default()).await;
    let (bob, _) = answering("bob", Config::default()).await;
    bob.serve("never", |_, _| std::future::pending::<Result<Message, Error>>());
    link(&hasty, &bob).await;
    link(&ann, &bob).await;
    let id = bob.id();

    let late = hasty.with(|_: &mut Answers, cx| cx.request(id, "never", "")).await.unwrap();
    let (action, outcome) = within("the time-out", too_late.recv()).await.unwrap();
    assert_eq!((action, outcome), (late, Err("no answer within 50 ms".into())));
    hasty.shutdown().await;

    let asked = ann.with(|_: &mut Answers, cx| cx.request(id, "messages", "hello")).await.unwrap();
    let (action, outcome) = within("the reply", outcomes.recv()).await.unwrap();
    assert_eq!((action, outcome), (asked, Ok("hello ann ".into())));
    let asked = ann.with(|_: &mut Answers, cx| cx.request(id, "fail", "")).await.unwrap();
    let (action, outcome) = within("the refusal", outcomes.recv()).await.unwrap();
    assert!(action == asked && outcome.unwrap_err().contains("not today"));

    ann.with(|_: &mut Answers, cx| cx.request(id, "never", "")).await.unwrap();
    bob.shutdown().await;
    let (_, outcome) = within("the end of the link", outcomes.recv()).await.unwrap();
    let error = outcome.unwrap_err();
    assert!(error.contains("ended") || error.contains("no node that"), "{error}");
    until("the link is gone", || ann.peers().is_empty()).await;
    ann.with(|_: &mut Answers, cx| cx.request(id, "messages", "")).await.unwrap();
    let (_, outcome) = within("the failure", outcomes.recv()).await.unwrap();
    let error = outcome.unwrap_err();
    assert!(error.contains("no node that"), "{error}");
    ann.shutdown().await;
}
