//! What a handler does by itself, and acting as it from outside.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::*;
use peerkit::{ActionId, Context, Error, Event, Handler, MAX_TIMERS, Node, TimerId};
use tokio::sync::mpsc;

const HOUR: Duration = Duration::from_secs(3600);

/// Reports the timers that expire.
struct Clock {
    expired: mpsc::UnboundedSender<TimerId>,
    failed: mpsc::UnboundedSender<ActionId>,
    /// Cancelled when the first timer expires.
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

/// Sets a timer whenever one expires, and logs what it is called for.
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

/// Counts what others broadcast.
#[derive(Default)]
struct Ears(usize);

impl Handler for Ears {
    fn node_broadcast(&mut self, _: &mut Context<'_>, _: peerkit::Broadcast) {
        self.0 += 1;
    }
}

#[tokio::test]
async fn a_handler_is_reached_from_outside() {
    let ann = builder("ann").handler(Ears::default()).spawn().await.unwrap();
    let bob = builder("bob").handler(Ears::default()).spawn().await.unwrap();
    link(&bob, &ann).await;
    let mut events = ann.events();
    let name = bob.with(|_: &mut Ears, cx| {
        cx.broadcast("news", "some");
        cx.name().to_owned()
    });
    assert_eq!(name.await.unwrap(), "bob");
    expect(&mut events, "node_broadcast").await;
    assert_eq!(ann.with(|ears: &mut Ears, _| ears.0).await.unwrap(), 1);

    let other = ann.with(|_: &mut Restless, _| ()).await.unwrap_err();
    assert!(matches!(other, Error::OtherHandler { .. }));
    let text = other.to_string();
    assert!(text.contains("Restless") && text.contains("Ears"), "{text}");
    ann.shutdown().await;
    let stopped = ann.with(|ears: &mut Ears, _| ears.0).await;
    assert!(matches!(stopped, Err(Error::Stopped)));
    bob.shutdown().await;

    let cid = node("cid").await;
    assert!(matches!(cid.with(|_: &mut Ears, _| ()).await, Err(Error::NoHandler)));
    cid.shutdown().await;
}
