//! Requests. Each ends with a reply, or with an error that has the reason.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::common::*;
use peerkit::{Compression, Config, Error, Message, Node, Reason, Refusal};
use tokio::sync::{Semaphore, mpsc};

/// Starts two linked nodes: one that sends requests, and one with the configuration `config` that answers
/// them.
async fn pair(config: Config) -> (Node, Node) {
    let requester = node("requester").await;
    let responder = builder("responder").config(config).spawn().await.unwrap();
    link(&requester, &responder).await;
    (requester, responder)
}

fn echo(node: &Node) {
    node.serve("echo", |_, message| async move { Ok::<_, Infallible>(message) });
}

#[tokio::test]
async fn a_request_is_answered_in_both_directions() {
    let (requester, responder) = pair(Config::default()).await;
    responder.serve("whoami", |peer, message| async move {
        let text = format!("{}, {}", peer.name(), message.as_text().unwrap());
        Ok::<_, Infallible>(Message::text(text))
    });
    echo(&requester);
    let reply = requester.request(responder.id(), "whoami", "please").await.unwrap();
    assert_eq!(reply, Message::text("requester, please"));
    for content in [Message::text(""), Message::bytes(vec![4, 0xff]), Message::text("{}")] {
        let reply = responder.request(requester.id(), "echo", content.clone()).await.unwrap();
        assert_eq!(reply, content);
    }
    // Serving a name again replaces its handler.
    responder.serve("whoami", |_, _| async { Ok::<_, Infallible>(Message::text("changed")) });
    let reply = requester.request(responder.id(), "whoami", "").await.unwrap();
    assert_eq!(reply.as_text(), Some("changed"));
    shutdown([&requester, &responder]).await;
}

#[tokio::test]
async fn a_request_that_fails_has_the_reason() {
    let mut config = Config::default();
    config.max_message = 1000;
    let (requester, responder) = pair(config).await;
    let to = responder.id();
    responder.serve("fail", |_, _| async { Err::<Message, _>("out of paper") });
    responder.serve("panic", |_, message| async move {
        assert!(message.as_text() == Some("nothing"), "a bad day");
        Ok::<_, Infallible>(message)
    });
    responder.serve("large", |_, _| async { Ok::<_, Infallible>(vec![0; 1001].into()) });
    let refusal = async |name: &str| match requester.request(to, name, "").await {
        Err(Error::Request(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal("nothing").await, Refusal::NoHandler);
    assert_eq!(refusal("fail").await, Refusal::Failed("out of paper".into()));
    let Refusal::Failed(why) = refusal("panic").await else { panic!() };
    assert!(why.contains("panicked") && why.contains("a bad day"), "{why}");
    let Refusal::Failed(why) = refusal("large").await else { panic!() };
    assert!(why.contains("1001 bytes"), "{why}");
    let long = "n".repeat(1000);
    assert!(matches!(requester.request(to, &long, "").await, Err(Error::NameTooLong { .. })));
    let stranger = node("stranger").await;
    let unlinked = requester.request(stranger.id(), "x", "").await;
    assert!(matches!(unlinked, Err(Error::NotFound(id)) if id == stranger.id()), "{unlinked:?}");
    assert!(matches!(requester.request(requester.id(), "x", "").await, Err(Error::ThisNode)));
    // These failures have not ended the link.
    assert_eq!(refusal("fail").await, Refusal::Failed("out of paper".into()));
    assert_eq!(responder.peers().len(), 1);
    shutdown([&requester, &responder, &stranger]).await;
}

#[tokio::test]
async fn a_busy_node_refuses_requests_and_later_answers_again() {
    let mut config = Config::default();
    config.max_requests_per_peer = 2;
    let (requester, responder) = pair(config).await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let go = Arc::new(Semaphore::new(0));
    let going = go.clone();
    responder.serve("slow", move |_, message| {
        let (started, going) = (started.clone(), going.clone());
        async move {
            started.send(()).unwrap();
            going.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(message)
        }
    });
    let ask = |text: &'static str| {
        let (requester, to) = (requester.clone(), responder.id());
        tokio::spawn(async move { requester.request(to, "slow", text).await })
    };
    let (first, second) = (ask("1"), ask("2"));
    for _ in 0..2 {
        within("a start", starts.recv()).await.unwrap();
    }
    let third = ask("3").await.unwrap();
    assert!(matches!(third, Err(Error::Request(Refusal::Busy))), "{third:?}");
    go.add_permits(3);
    assert_eq!(first.await.unwrap().unwrap().as_text(), Some("1"));
    assert_eq!(second.await.unwrap().unwrap().as_text(), Some("2"));
    assert_eq!(ask("4").await.unwrap().unwrap().as_text(), Some("4"));
    shutdown([&requester, &responder]).await;
}

/// A guard that reports when it is dropped.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// Serves the request `never`, which gets no reply. The first channel reports that its handler has started,
/// the second that its future was dropped.
fn serve_never(node: &Node) -> (mpsc::UnboundedReceiver<()>, mpsc::UnboundedReceiver<()>) {
    let (started, starts) = mpsc::unbounded_channel();
    let (dropped, drops) = mpsc::unbounded_channel();
    node.serve("never", move |_, _| {
        let (started, guard) = (started.clone(), Dropped(dropped.clone()));
        async move {
            let _guard = guard;
            started.send(()).unwrap();
            std::future::pending::<Result<Message, Infallible>>().await
        }
    });
    (starts, drops)
}

#[tokio::test]
async fn a_requester_that_gives_up_ends_the_handler_at_the_peer() {
    let (requester, responder) = pair(Config::default()).await;
    let (mut starts, mut drops) = serve_never(&responder);
    let to = responder.id();

    // On a busy machine a request may time out before its handler has started.
    for millis in (50..).step_by(50) {
        let timeout = Duration::from_millis(millis);
        let late = requester.request_within(to, "never", "", timeout).await;
        assert!(matches!(late, Err(Error::Timeout(waited)) if waited == timeout), "{late:?}");
        if starts.try_recv().is_ok() {
            break;
        }
    }
    within("the end of the handler after a time-out", drops.recv()).await.unwrap();

    let sender = requester.clone();
    let request = tokio::spawn(async move { sender.request(to, "never", "").await });
    within("the start", starts.recv()).await.unwrap();
    assert!(drops.try_recv().is_err());
    request.abort();
    within("the end of the handler after a drop", drops.recv()).await.unwrap();
    shutdown([&requester, &responder]).await;
}

#[tokio::test]
async fn a_request_ends_with_its_link() {
    let (requester, responder) = pair(Config::default()).await;
    let (mut starts, mut drops) = serve_never(&responder);
    let to = responder.id();
    let ask = || {
        let requester = requester.clone();
        tokio::spawn(async move { requester.request(to, "never", "").await })
    };
    let request = ask();
    within("the start", starts.recv()).await.unwrap();
    responder.disconnect(requester.id()).await.unwrap();
    let lost = within("the error", request).await.unwrap();
    let Err(Error::LinkLost { peer, reason: Reason::Requested }) = lost else { panic!("{lost:?}") };
    assert_eq!(peer, to);
    within("the end of the handler", drops.recv()).await.unwrap();

    // The requester ends the link.
    wait_until("the link to end", || requester.peers().is_empty() && responder.peers().is_empty())
        .await;
    link(&requester, &responder).await;
    let request = ask();
    within("the start", starts.recv()).await.unwrap();
    requester.disconnect(to).await.unwrap();
    let lost = within("the error", request).await.unwrap();
    assert!(matches!(lost, Err(Error::LinkLost { .. })), "{lost:?}");
    within("the end of the handler", drops.recv()).await.unwrap();

    // The responder node crashes.
    let other_runtime = OtherRuntime::new();
    let crashing = other_runtime.run(builder("crashing").spawn()).await.unwrap();
    let (mut starts, _) = serve_never(&crashing);
    link(&requester, &crashing).await;
    let (sender, to) = (requester.clone(), crashing.id());
    let request = tokio::spawn(async move { sender.request(to, "never", "").await });
    within("the start", starts.recv()).await.unwrap();
    other_runtime.crash();
    let lost = within("the error", request).await.unwrap();
    assert!(matches!(lost, Err(Error::LinkLost { reason: Reason::Lost(_), .. })), "{lost:?}");
    shutdown([&requester, &responder]).await;
}

#[tokio::test]
async fn requests_and_replies_of_16_mib_arrive() {
    let (requester, responder) = pair(Config::default()).await;
    echo(&responder);
    let body = SeededRandom(4).bytes(16 << 20);
    let reply = requester.request(responder.id(), "echo", body.clone()).await.unwrap();
    assert!(reply.into_body() == body);
    let compressible = Message::bytes(vec![9; 16 << 20]).compressed(Compression::Lz4);
    let reply = requester.request(responder.id(), "echo", compressible.clone()).await.unwrap();
    assert!(reply == compressible);
    assert!(responder.counters().bytes_sent < 20 << 20, "the reply was not compressed");
    shutdown([&requester, &responder]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_each_get_their_own_reply() {
    let (requester, responder) = pair(Config::default()).await;
    responder.serve("square", |_, message| async move {
        let n: u64 = message.to_json()?;
        // Some replies take longer, so the order of replies differs from that of requests.
        for _ in 0..n % 7 {
            tokio::task::yield_now().await;
        }
        Message::json(&(n * n))
    });
    echo(&requester);
    let mut tasks = Vec::new();
    for worker in 0..100_u64 {
        let (requester, responder) = (requester.clone(), responder.clone());
        tasks.push(tokio::spawn(async move {
            for n in worker * 20..worker * 20 + 20 {
                let body = Message::json(&n).unwrap();
                let reply = requester.request(responder.id(), "square", body).await.unwrap();
                assert_eq!(reply.to_json::<u64>().unwrap(), n * n);
                let text = n.to_string();
                let reply = responder.request(requester.id(), "echo", text.clone()).await.unwrap();
                assert_eq!(reply.as_text(), Some(&*text));
            }
        }));
    }
    for task in tasks {
        within("a worker", task).await.unwrap();
    }
    shutdown([&requester, &responder]).await;
}

/// Starts a node that does not listen, so that no node can dial it.
async fn without_listener(name: &str) -> Node {
    Node::builder().name(name).spawn().await.unwrap()
}

/// Starts a node and links both nodes to it. Returns the new node.
async fn line(requester: &Node, responder: &Node) -> Node {
    let between = node("between").await;
    link(requester, &between).await;
    link(responder, &between).await;
    between
}

#[tokio::test]
async fn a_request_to_a_node_without_a_link_dials_it() {
    let (requester, responder) = (node("requester").await, node("responder").await);
    let between = line(&requester, &responder).await;
    responder.serve("whoami", |peer, _| async move {
        Ok::<_, Infallible>(Message::text(format!("{} {}", peer.name(), peer.is_linked())))
    });
    let reply = within("a reply", requester.request(responder.id(), "whoami", "")).await.unwrap();
    assert_eq!(reply.as_text(), Some("requester true"));
    assert!(requester.peer(responder.id()).is_some(), "a link was made on demand");
    let refused = requester.request(responder.id(), "unknown", "").await;
    assert!(matches!(refused, Err(Error::Request(Refusal::NoHandler))), "{refused:?}");
    shutdown([&requester, &responder, &between]).await;
}

#[tokio::test]
async fn requests_to_nodes_that_cannot_be_dialled_are_relayed() {
    let (requester, responder) =
        (without_listener("requester").await, without_listener("responder").await);
    let between = line(&requester, &responder).await;
    let to = responder.id();
    echo(&responder);
    responder.serve("whoami", |peer, _| async move {
        Ok::<_, Infallible>(Message::text(format!("{} {}", peer.name(), peer.is_linked())))
    });
    responder.serve("large", |_, _| async { Ok::<_, Infallible>(vec![0; 70_000].into()) });
    let ask = async |name: &str, body: Message| {
        within("a reply", requester.request_within(to, name, body, WAIT_TIMEOUT)).await
    };
    assert_eq!(ask("whoami", "".into()).await.unwrap().as_text(), Some("requester false"));
    for content in [Message::text(""), Message::bytes(vec![4, 0xff]), Message::text("{}")] {
        assert_eq!(ask("echo", content.clone()).await.unwrap(), content);
    }
    let refused = ask("unknown", "".into()).await;
    assert!(matches!(refused, Err(Error::Request(Refusal::NoHandler))), "{refused:?}");
    let refused = ask("large", "".into()).await;
    let Err(Error::Request(Refusal::Failed(why))) = refused else { panic!("{refused:?}") };
    assert!(why.contains("70000 bytes"), "{why}");
    let refused = ask("echo", vec![0; 70_000].into()).await;
    assert!(matches!(refused, Err(Error::TooLargeToPass { .. })), "{refused:?}");
    assert!(requester.peer(to).is_none() && responder.peer(requester.id()).is_none());
    shutdown([&requester, &responder, &between]).await;
}

#[tokio::test]
async fn a_relayed_request_times_out() {
    let (requester, responder) =
        (without_listener("requester").await, without_listener("responder").await);
    let between = line(&requester, &responder).await;
    let (mut starts, _) = serve_never(&responder);
    let to = responder.id();
    // On a busy machine finding a route takes longer, so the time-out is increased until the request has
    // arrived.
    for seconds in (4..).step_by(4) {
        let timeout = Duration::from_secs(seconds);
        let late = requester.request_within(to, "never", "", timeout).await;
        assert!(matches!(late, Err(Error::Timeout(waited)) if waited == timeout), "{late:?}");
        if starts.try_recv().is_ok() {
            break;
        }
    }
    shutdown([&requester, &responder, &between]).await;
}
