//! Requests: each ends with a reply, or with an error that names the reason.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::common::*;
use peerkit::{Compression, Config, Error, Message, Node, Reason, Refusal};
use tokio::sync::{Semaphore, mpsc};

/// Starts two linked nodes: a requester, and one with the settings `config` that answers.
async fn pair(config: Config) -> (Node, Node) {
    let asking = node("asking").await;
    let answering = builder("answering").config(config).spawn().await.unwrap();
    link(&asking, &answering).await;
    (asking, answering)
}

fn echo(node: &Node) {
    node.serve("echo", |_, message| async move { Ok::<_, Infallible>(message) });
}

#[tokio::test]
async fn a_request_is_answered_in_both_directions() {
    let (asking, answering) = pair(Config::default()).await;
    answering.serve("whoami", |peer, message| async move {
        let text = format!("{}, {}", peer.name(), message.as_text().unwrap());
        Ok::<_, Infallible>(Message::text(text))
    });
    echo(&asking);
    let reply = asking.request(answering.id(), "whoami", "please").await.unwrap();
    assert_eq!(reply, Message::text("asking, please"));
    for content in [Message::text(""), Message::bytes(vec![4, 0xff]), Message::text("{}")] {
        let reply = answering.request(asking.id(), "echo", content.clone()).await.unwrap();
        assert_eq!(reply, content);
    }
    // Serving a name again replaces its handler.
    answering.serve("whoami", |_, _| async { Ok::<_, Infallible>(Message::text("changed")) });
    let reply = asking.request(answering.id(), "whoami", "").await.unwrap();
    assert_eq!(reply.as_text(), Some("changed"));
    shutdown([&asking, &answering]).await;
}

#[tokio::test]
async fn a_node_that_does_not_answer_names_the_reason() {
    let mut config = Config::default();
    config.max_message = 1000;
    let (asking, answering) = pair(config).await;
    let to = answering.id();
    answering.serve("fail", |_, _| async { Err::<Message, _>("out of paper") });
    answering.serve("panic", |_, message| async move {
        assert!(message.as_text() == Some("nothing"), "a bad day");
        Ok::<_, Infallible>(message)
    });
    answering.serve("large", |_, _| async { Ok::<_, Infallible>(vec![0; 1001].into()) });
    let refusal = async |name: &str| match asking.request(to, name, "").await {
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
    assert!(matches!(asking.request(to, &long, "").await, Err(Error::NameTooLong { .. })));
    let stranger = node("stranger").await;
    let unlinked = asking.request(stranger.id(), "x", "").await;
    assert!(matches!(unlinked, Err(Error::NotFound(id)) if id == stranger.id()), "{unlinked:?}");
    assert!(matches!(asking.request(asking.id(), "x", "").await, Err(Error::ThisNode)));
    // None of these failures has ended the link.
    assert_eq!(refusal("fail").await, Refusal::Failed("out of paper".into()));
    assert_eq!(answering.peers().len(), 1);
    shutdown([&asking, &answering, &stranger]).await;
}

#[tokio::test]
async fn a_busy_node_refuses_and_answers_later_requests() {
    let mut config = Config::default();
    config.max_requests_per_peer = 2;
    let (asking, answering) = pair(config).await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let go = Arc::new(Semaphore::new(0));
    let going = go.clone();
    answering.serve("slow", move |_, message| {
        let (started, going) = (started.clone(), going.clone());
        async move {
            started.send(()).unwrap();
            going.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(message)
        }
    });
    let ask = |text: &'static str| {
        let (asking, to) = (asking.clone(), answering.id());
        tokio::spawn(async move { asking.request(to, "slow", text).await })
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
    shutdown([&asking, &answering]).await;
}

/// A guard that reports when it is dropped.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// Serves `never`, which reports when it starts and when its future is dropped.
fn never(node: &Node) -> (mpsc::UnboundedReceiver<()>, mpsc::UnboundedReceiver<()>) {
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
async fn a_requester_that_gives_up_ends_the_work_of_the_peer() {
    let (asking, answering) = pair(Config::default()).await;
    let (mut starts, mut drops) = never(&answering);
    let to = answering.id();

    // On a busy machine a request may be given up before the work on it has begun.
    for millis in (50..).step_by(50) {
        let brief = Duration::from_millis(millis);
        let late = asking.request_within(to, "never", "", brief).await;
        assert!(matches!(late, Err(Error::Timeout(waited)) if waited == brief), "{late:?}");
        if starts.try_recv().is_ok() {
            break;
        }
    }
    within("the end after a timeout", drops.recv()).await.unwrap();

    let asker = asking.clone();
    let request = tokio::spawn(async move { asker.request(to, "never", "").await });
    within("the start", starts.recv()).await.unwrap();
    assert!(drops.try_recv().is_err());
    request.abort();
    within("the end after a drop", drops.recv()).await.unwrap();
    shutdown([&asking, &answering]).await;
}

#[tokio::test]
async fn a_request_ends_with_its_link() {
    let (asking, answering) = pair(Config::default()).await;
    let (mut starts, mut drops) = never(&answering);
    let to = answering.id();
    let ask = || {
        let asking = asking.clone();
        tokio::spawn(async move { asking.request(to, "never", "").await })
    };
    let request = ask();
    within("the start", starts.recv()).await.unwrap();
    answering.disconnect(asking.id()).await.unwrap();
    let lost = within("the error", request).await.unwrap();
    let Err(Error::LinkLost { peer, reason: Reason::Requested }) = lost else { panic!("{lost:?}") };
    assert_eq!(peer, to);
    within("the end", drops.recv()).await.unwrap();

    // The requester ends the link.
    until("the link is gone", || asking.peers().is_empty() && answering.peers().is_empty()).await;
    link(&asking, &answering).await;
    let request = ask();
    within("the start", starts.recv()).await.unwrap();
    asking.disconnect(to).await.unwrap();
    let lost = within("the error", request).await.unwrap();
    assert!(matches!(lost, Err(Error::LinkLost { .. })), "{lost:?}");
    within("the end", drops.recv()).await.unwrap();

    // The answering node crashes.
    let elsewhere = Elsewhere::new();
    let crashing = elsewhere.run(builder("crashing").spawn()).await.unwrap();
    let (mut starts, _) = never(&crashing);
    link(&asking, &crashing).await;
    let (asker, to) = (asking.clone(), crashing.id());
    let request = tokio::spawn(async move { asker.request(to, "never", "").await });
    within("the start", starts.recv()).await.unwrap();
    elsewhere.crash();
    let lost = within("the error", request).await.unwrap();
    assert!(matches!(lost, Err(Error::LinkLost { reason: Reason::Lost(_), .. })), "{lost:?}");
    shutdown([&asking, &answering]).await;
}

#[tokio::test]
async fn large_requests_and_replies_go_through() {
    let (asking, answering) = pair(Config::default()).await;
    echo(&answering);
    let body = Chance(4).bytes(16 << 20);
    let reply = asking.request(answering.id(), "echo", body.clone()).await.unwrap();
    assert!(reply.into_body() == body);
    let compressible = Message::bytes(vec![9; 16 << 20]).compressed(Compression::Lz4);
    let reply = asking.request(answering.id(), "echo", compressible.clone()).await.unwrap();
    assert!(reply == compressible);
    assert!(answering.counters().bytes_sent < 20 << 20, "the reply travels compressed as well");
    shutdown([&asking, &answering]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_each_get_their_own_reply() {
    let (asking, answering) = pair(Config::default()).await;
    answering.serve("square", |_, message| async move {
        let n: u64 = message.to_json()?;
        // Some replies take longer, so they come in another order than their requests.
        for _ in 0..n % 7 {
            tokio::task::yield_now().await;
        }
        Message::json(&(n * n))
    });
    echo(&asking);
    let mut tasks = Vec::new();
    for worker in 0..100_u64 {
        let (asking, answering) = (asking.clone(), answering.clone());
        tasks.push(tokio::spawn(async move {
            for n in worker * 20..worker * 20 + 20 {
                let body = Message::json(&n).unwrap();
                let reply = asking.request(answering.id(), "square", body).await.unwrap();
                assert_eq!(reply.to_json::<u64>().unwrap(), n * n);
                let text = n.to_string();
                let reply = answering.request(asking.id(), "echo", text.clone()).await.unwrap();
                assert_eq!(reply.as_text(), Some(&*text));
            }
        }));
    }
    for task in tasks {
        within("a worker", task).await.unwrap();
    }
    shutdown([&asking, &answering]).await;
}

/// Starts a node that does not listen, so that it cannot be dialled.
async fn without_listener(name: &str) -> Node {
    Node::builder().name(name).spawn().await.unwrap()
}

/// Links both nodes to a third one between them, which it returns.
async fn line(asking: &Node, answering: &Node) -> Node {
    let between = node("between").await;
    link(asking, &between).await;
    link(answering, &between).await;
    between
}

#[tokio::test]
async fn a_request_to_a_node_without_a_link_dials_it() {
    let (asking, answering) = (node("asking").await, node("answering").await);
    let between = line(&asking, &answering).await;
    answering.serve("whoami", |peer, _| async move {
        Ok::<_, Infallible>(Message::text(format!("{} {}", peer.name(), peer.is_linked())))
    });
    let reply = within("a reply", asking.request(answering.id(), "whoami", "")).await.unwrap();
    assert_eq!(reply.as_text(), Some("asking true"));
    assert!(asking.peer(answering.id()).is_some(), "a link was made on demand");
    let refused = asking.request(answering.id(), "unknown", "").await;
    assert!(matches!(refused, Err(Error::Request(Refusal::NoHandler))), "{refused:?}");
    shutdown([&asking, &answering, &between]).await;
}

#[tokio::test]
async fn requests_to_nodes_that_cannot_be_dialled_are_relayed() {
    let (asking, answering) =
        (without_listener("asking").await, without_listener("answering").await);
    let between = line(&asking, &answering).await;
    let to = answering.id();
    echo(&answering);
    answering.serve("whoami", |peer, _| async move {
        Ok::<_, Infallible>(Message::text(format!("{} {}", peer.name(), peer.is_linked())))
    });
    answering.serve("large", |_, _| async { Ok::<_, Infallible>(vec![0; 70_000].into()) });
    let ask = async |name: &str, body: Message| {
        within("a reply", asking.request_within(to, name, body, PATIENCE)).await
    };
    assert_eq!(ask("whoami", "".into()).await.unwrap().as_text(), Some("asking false"));
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
    assert!(asking.peer(to).is_none() && answering.peer(asking.id()).is_none());
    shutdown([&asking, &answering, &between]).await;
}

#[tokio::test]
async fn a_relayed_request_times_out() {
    let (asking, answering) =
        (without_listener("asking").await, without_listener("answering").await);
    let between = line(&asking, &answering).await;
    let (mut starts, _) = never(&answering);
    let to = answering.id();
    // Finding a route takes longer on a busy machine.
    for seconds in (4..).step_by(4) {
        let brief = Duration::from_secs(seconds);
        let late = asking.request_within(to, "never", "", brief).await;
        assert!(matches!(late, Err(Error::Timeout(waited)) if waited == brief), "{late:?}");
        if starts.try_recv().is_ok() {
            break;
        }
    }
    shutdown([&asking, &answering, &between]).await;
}
