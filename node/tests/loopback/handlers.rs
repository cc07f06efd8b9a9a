//! Handlers: their timers, their requests and replies, and calls to them by `Node::with`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::*;
use peerkit::{
    ActionId, Config, Context, Error, Event, Handler, MAX_TIMERS, Message, Node, NodeId, Peer,
    Refusal, TimerId,
};
use tokio::sync::mpsc;

const HOUR: Duration = Duration::from_secs(3600);

/// A handler that reports each timer that expires, and each failed action.
struct TimerReporter {
    expired: mpsc::UnboundedSender<TimerId>,
    failed: mpsc::UnboundedSender<ActionId>,
    /// The timer to cancel when the first one expires.
    to_cancel: Option<TimerId>,
}

impl Handler for TimerReporter {
    fn on_timer(&mut self, cx: &mut Context<'_>, timer: TimerId) {
        if let Some(other) = self.to_cancel.take() {
            cx.cancel_timer(other);
        }
        self.expired.send(timer).unwrap();
    }

    fn node_action_failed(&mut self, _: &mut Context<'_>, action: ActionId, error: &str) {
        assert!(error.contains("1024 timers"), "{error}");
        self.failed.send(action).unwrap();
    }
}

/// Starts a node with a [`TimerReporter`]. Also returns the channels of the expired timers and of the failed
/// actions.
async fn start_with_timers()
-> (Node, mpsc::UnboundedReceiver<TimerId>, mpsc::UnboundedReceiver<ActionId>) {
    let (expired, timers) = mpsc::unbounded_channel();
    let (failed, failures) = mpsc::unbounded_channel();
    let handler = TimerReporter { expired, failed, to_cancel: None };
    let node = builder("ann").handler(handler).spawn().await.unwrap();
    (node, timers, failures)
}

#[tokio::test]
async fn timers_expire_once_and_in_order_and_cancelled_timers_do_not() {
    let (node, mut expired, _) = start_with_timers().await;
    let act = |handler: &mut TimerReporter, cx: &mut Context<'_>| {
        let late = cx.set_timer(Duration::from_millis(60));
        let early = cx.set_timer(Duration::from_millis(1));
        // This timer is due at the same moment as `early`, which cancels it.
        handler.to_cancel = Some(cx.set_timer(Duration::from_millis(1)));
        let never = cx.set_timer(Duration::from_millis(30));
        cx.cancel_timer(never);
        (early, late)
    };
    let (early, late) = node.with(act).await.unwrap();
    assert_eq!(within("the first timer", expired.recv()).await, Some(early));
    assert_eq!(within("the last timer", expired.recv()).await, Some(late));
    node.shutdown().await;
    assert_eq!(expired.recv().await, None);
}

#[tokio::test]
async fn a_timer_beyond_the_maximum_fails() {
    let (node, _expired, mut failed) = start_with_timers().await;
    let act = |_: &mut TimerReporter, cx: &mut Context<'_>| {
        let timers: Vec<_> = (0..=MAX_TIMERS).map(|_| cx.set_timer(HOUR)).collect();
        cx.cancel_timer(timers[0]);
        cx.set_timer(HOUR);
        timers[MAX_TIMERS]
    };
    let failing = node.with(act).await.unwrap();
    assert_eq!(within("the failure", failed.recv()).await, Some(failing.action()));
    node.shutdown().await;
    assert_eq!(failed.recv().await, None);
}

/// A handler that sets a new timer whenever a timer expires, and records its calls.
struct TimerLoop(Arc<Mutex<Vec<&'static str>>>);

impl Handler for TimerLoop {
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
async fn no_timer_expires_after_the_node_began_to_stop() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let node = builder("ann").handler(TimerLoop(log.clone())).spawn().await.unwrap();
    let mut events = node.events();
    node.with(|_: &mut TimerLoop, cx| cx.set_timer(Duration::ZERO)).await.unwrap();
    assert!(matches!(expect_event(&mut events, "node_timer").await, Event::NodeTimer { .. }));
    wait_until("several timers to expire", || log.lock().unwrap().len() > 3).await;
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
async fn the_application_can_call_its_handler() {
    let ann = builder("ann").handler(BroadcastCounter::default()).spawn().await.unwrap();
    let bob = builder("bob").handler(BroadcastCounter::default()).spawn().await.unwrap();
    link(&bob, &ann).await;
    let mut events = ann.events();
    let name = bob.with(|_: &mut BroadcastCounter, cx| {
        cx.broadcast("news", "some");
        cx.name().to_owned()
    });
    assert_eq!(name.await.unwrap(), "bob");
    expect_event(&mut events, "node_broadcast").await;
    assert_eq!(ann.with(|counter: &mut BroadcastCounter, _| counter.0).await.unwrap(), 1);

    let error = ann.with(|_: &mut TimerLoop, _| ()).await.unwrap_err();
    assert!(matches!(error, Error::OtherHandler { .. }));
    let text = error.to_string();
    assert!(text.contains("TimerLoop") && text.contains("BroadcastCounter"), "{text}");
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
async fn a_handler_gets_requests_and_messages_in_order() {
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
    let event = expect_event(&mut events, "node_handler_panicked").await;
    assert!(matches!(event, Event::NodeHandlerPanicked { event: "node_request", .. }));
    let reply = bob.request(&peer, "peers", "").await.unwrap();
    assert_eq!(reply.as_text(), Some("1"), "the handler still works after the panic");
    ann.shutdown().await;
    bob.shutdown().await;
}

#[tokio::test]
async fn a_handler_gets_the_reply_or_the_failure_of_each_request() {
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

    let request =
        ann.with(|_: &mut Answers, cx| cx.request(id, "messages", "hello")).await.unwrap();
    let (action, outcome) = within("the reply", outcomes.recv()).await.unwrap();
    assert_eq!((action, outcome), (request, Ok("hello ann ".into())));
    let request = ann.with(|_: &mut Answers, cx| cx.request(id, "fail", "")).await.unwrap();
    let (action, outcome) = within("the refusal", outcomes.recv()).await.unwrap();
    assert!(action == request && outcome.unwrap_err().contains("not today"));

    ann.with(|_: &mut Answers, cx| cx.request(id, "never", "")).await.unwrap();
    bob.shutdown().await;
    let (_, outcome) = within("the end of the link", outcomes.recv()).await.unwrap();
    let error = outcome.unwrap_err();
    assert!(error.contains("ended") || error.contains("no node that"), "{error}");
    wait_until("the link to end", || ann.peers().is_empty()).await;
    ann.with(|_: &mut Answers, cx| cx.request(id, "messages", "")).await.unwrap();
    let (_, outcome) = within("the failure", outcomes.recv()).await.unwrap();
    let error = outcome.unwrap_err();
    assert!(error.contains("no node that"), "{error}");
    ann.shutdown().await;
}
