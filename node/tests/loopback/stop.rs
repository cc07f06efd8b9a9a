//! Stopping a node. Its peers get a goodbye, no message is lost, and no task, file or memory is left.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::common::*;
use peerkit::{Config, Error, Event, Events, LinkEnd, Message, Node, Reason};

/// Checks that a link has ended because the peer stops.
fn check_peer_stopped(event: Event) {
    let (Event::InboundNodeDisconnected { link_end, .. }
    | Event::OutboundNodeDisconnected { link_end, .. }) = event
    else {
        panic!("{event:?}")
    };
    assert_eq!(link_end, LinkEnd { reason: Reason::Stopping, by_peer: true });
}

/// Reads all events until the node has stopped. Returns their names.
async fn remaining_names(events: &mut Events) -> Vec<&'static str> {
    let mut names = Vec::new();
    while let Some(event) = within("the end of the events", events.next()).await {
        names.push(event.name());
    }
    names
}

#[tokio::test]
async fn peers_get_a_goodbye_and_a_stopped_node_refuses_all_calls() {
    let a = builder("a").config(without_deadlines()).spawn().await.unwrap();
    let (b, c) = (node("b").await, node("c").await);
    link(&a, &b).await;
    link(&c, &a).await;
    let (mut events_of_a, mut events_of_b, mut events_of_c) = (a.events(), b.events(), c.events());
    let address = address_of(&a);
    within("a shutdown that needs no deadline", a.shutdown()).await;
    check_peer_stopped(expect_event(&mut events_of_b, "inbound_node_disconnected").await);
    check_peer_stopped(expect_event(&mut events_of_c, "outbound_node_disconnected").await);
    let names = remaining_names(&mut events_of_a).await;
    let count = |name: &str| names.iter().filter(|found| **found == name).count();
    assert_eq!(count("node_request_to_stop"), 1);
    assert_eq!(count("node_disconnect_with_inbound_node"), 1);
    assert_eq!(count("node_disconnect_with_outbound_node"), 1);
    assert_eq!(count("inbound_node_disconnected"), 1);
    assert_eq!(count("outbound_node_disconnected"), 1);

    // The port is free when `shutdown` returns.
    drop(std::net::TcpListener::bind(address).unwrap());
    let again = Node::builder().listen(address).spawn().await.unwrap();
    link(&b, &again).await;

    // Every call on a stopped node fails immediately.
    a.stopped().await;
    assert!(a.peers().is_empty());
    assert!(matches!(a.connect(address_of(&b)).await, Err(Error::Stopped)));
    assert!(matches!(a.send(b.id(), "x").await, Err(Error::Stopped)));
    assert!(matches!(a.discover(1).await, Err(Error::Stopped)));
    assert!(matches!(a.search("x").await, Err(Error::Stopped)));
    assert!(matches!(a.broadcast("x", "y").await, Err(Error::Stopped)));
    assert!(a.events().try_next().is_none());
    shutdown([&b, &c, &again]).await;
}

#[tokio::test]
async fn queued_messages_still_arrive() {
    for stop in 0..3 {
        let (a, b) = (node("a").await, node("b").await);
        link(&a, &b).await;
        let mut events = b.events();
        for n in 0..1000 {
            a.send(b.id(), n.to_string()).await.unwrap();
        }
        match stop {
            0 => a.shutdown().await,
            1 => drop(a),
            _ => drop(a.disconnect(b.id()).await.unwrap()),
        }
        for n in 0..1000 {
            assert_eq!(next_text(&mut events).await, n.to_string());
        }
        expect_event(&mut events, "inbound_node_disconnected").await;
        shutdown([&b]).await;
    }
}

#[tokio::test]
async fn shutdown_may_be_called_repeatedly_and_concurrently() {
    let (a, b) = (node("a").await, node("b").await);
    link(&a, &b).await;
    let calls = (0..10).map(|_| {
        let a = a.clone();
        tokio::spawn(async move { a.shutdown().await })
    });
    for call in calls.collect::<Vec<_>>() {
        within("shutdown", call).await.unwrap();
    }
    shutdown([&a, &a, &b]).await;
}

#[tokio::test]
async fn a_node_stops_when_its_last_handle_is_dropped() {
    let (a, b) = (node("a").await, node("b").await);
    link(&a, &b).await;
    let (mut events_of_a, mut events_of_b) = (a.events(), b.events());
    let address = address_of(&a);
    let clone = a.clone();
    drop(a);
    assert!(clone.ping(b.id()).await.is_ok(), "a clone must keep the node running");
    drop(clone);
    check_peer_stopped(expect_event(&mut events_of_b, "inbound_node_disconnected").await);
    assert!(remaining_names(&mut events_of_a).await.contains(&"node_request_to_stop"));
    drop(std::net::TcpListener::bind(address).unwrap());
    shutdown([&b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_can_stop_their_own_node() {
    // A function that answers a request stops its node.
    let (a, b) = (node("a").await, node("b").await);
    link(&a, &b).await;
    let stopping = b.clone();
    b.serve("stop", move |_, message| {
        let node = stopping.clone();
        async move {
            node.shutdown().await;
            Ok::<_, Infallible>(message)
        }
    });
    let asked = within("the request", a.request(b.id(), "stop", "now")).await;
    assert!(matches!(asked, Err(Error::LinkLost { .. } | Error::Request(_))), "{asked:?}");
    within("the stop", b.stopped()).await;

    // A handler stops its node from a new task, because a handler can't await.
    let cell = Arc::new(OnceLock::<Node>::new());
    let own = cell.clone();
    let b = builder("b").callback(move |_, event| {
        if let (Event::NodeMessage { .. }, Some(node)) = (&event, own.get()) {
            let node = node.clone();
            tokio::spawn(async move { node.shutdown().await });
        }
    });
    let b = b.spawn().await.unwrap();
    cell.set(b.clone()).unwrap();
    link(&a, &b).await;
    a.send(b.id(), "stop").await.unwrap();
    within("the stop", b.stopped()).await;
    shutdown([&a]).await;
}

#[tokio::test]
async fn messages_that_a_handler_sends_on_a_stop_arrive() {
    let a = builder("a").callback(|cx, event| {
        if matches!(event, Event::NodeRequestToStop) {
            cx.send_to_nodes("farewell", &[]);
        }
    });
    let a = a.spawn().await.unwrap();
    let (b, c) = (node("b").await, node("c").await);
    link(&b, &a).await;
    link(&a, &c).await;
    let (mut events_of_b, mut events_of_c) = (b.events(), c.events());
    a.shutdown().await;
    for events in [&mut events_of_b, &mut events_of_c] {
        assert_eq!(next_text(events).await, "farewell");
    }
    check_peer_stopped(expect_event(&mut events_of_b, "outbound_node_disconnected").await);
    check_peer_stopped(expect_event(&mut events_of_c, "inbound_node_disconnected").await);
    shutdown([&b, &c]).await;
}

/// Returns the titles of the next `count` broadcasts. Skips other events: the link may end before the last
/// broadcast is delivered.
async fn next_titles(events: &mut Events, count: usize) -> Vec<String> {
    let mut titles = Vec::new();
    while titles.len() < count {
        if let Event::NodeBroadcast { broadcast } = expect_event(events, "node_broadcast").await {
            titles.push(broadcast.title);
        }
    }
    titles
}

/// One call of a handler starts more actions than the mailbox of the actor holds, and then stops the node.
// With one thread, the actor takes no action before the handler has stopped the node.
#[tokio::test]
async fn actions_of_a_handler_before_a_stop_are_carried_out() {
    // 1,024 orders fit into the actor's mailbox. The other actions wait for room in it.
    const COUNT: usize = 1_200;
    let a = builder("a").callback(|cx, event| {
        if let Event::NodeMessage { .. } = event {
            (0..COUNT).for_each(|number| cx.broadcast(number.to_string(), ""));
            cx.stop();
        }
    });
    let (a, b) = (a.spawn().await.unwrap(), node("b").await);
    link(&b, &a).await;
    let mut events = b.events();
    b.send(a.id(), "go").await.unwrap();
    let titles = next_titles(&mut events, COUNT).await;
    assert!(titles.iter().enumerate().all(|(number, title)| *title == number.to_string()));
    shutdown([&b]).await;
    a.stopped().await;
}

/// At one byte a second, all broadcasts except the first would take a day.
#[tokio::test]
async fn broadcasts_delayed_by_the_rate_limit_are_sent_before_a_stop() {
    let mut config = Config::default();
    config.broadcast_rate = 1;
    let a = builder("a").config(config).callback(|cx, event| {
        if let Event::NodeMessage { .. } = event {
            cx.broadcast("0", "");
            (1..100).for_each(|number| cx.broadcast(number.to_string(), vec![0; 1000]));
        }
    });
    let (a, b) = (a.spawn().await.unwrap(), node("b").await);
    link(&b, &a).await;
    let mut events = b.events();
    b.send(a.id(), "go").await.unwrap();
    let first = expect_event(&mut events, "node_broadcast").await;
    assert!(matches!(first, Event::NodeBroadcast { broadcast } if broadcast.title == "0"));
    a.shutdown().await;
    let titles = next_titles(&mut events, 99).await;
    assert!(titles.iter().enumerate().all(|(number, title)| *title == (number + 1).to_string()));
    shutdown([&b]).await;
}

#[tokio::test]
async fn a_peer_that_does_not_answer_does_not_block_a_stop() {
    let other_runtime = OtherRuntime::new();
    let (block, blocked) = std::sync::mpsc::channel::<()>();
    let blocking = builder("blocking").callback(move |_, event| {
        if let Event::NodeMessage { .. } = event {
            let _ = blocked.recv();
        }
    });
    let blocking = other_runtime.run(blocking.spawn()).await.unwrap();
    let mut config = Config::default();
    config.flush_timeout = Duration::from_millis(200);
    let a = builder("a").config(config).spawn().await.unwrap();
    link(&a, &blocking).await;
    let mut events = a.events();
    while a.try_send(blocking.id(), vec![0; 100_000]).is_ok() {}
    within("shutdown", a.shutdown()).await;
    // Messages that were not delivered are reported even while the node stops.
    let names = remaining_names(&mut events).await;
    assert!(names.contains(&"node_message_failed"), "{names:?}");
    drop(block);
}

/// When a stopped node is dropped, its handlers are dropped too, although they hold handles of the node.
#[tokio::test]
async fn a_stopped_node_is_freed_with_its_handlers() {
    let (a, b) = (node("a").await, node("b").await);
    let held = Arc::new(AtomicU64::new(0));
    let (node, counting) = (a.clone(), held.clone());
    a.serve("count", move |_, message| {
        let (_node, counting) = (node.clone(), counting.clone());
        async move {
            counting.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(message)
        }
    });
    let (node, counting) = (a.clone(), held.clone());
    a.serve_stream("count/1", move |_| {
        let (_node, counting) = (node.clone(), counting.clone());
        async move { drop(counting) }
    });
    link(&b, &a).await;
    b.request(a.id(), "count", "").await.unwrap();
    assert_eq!(held.load(Ordering::SeqCst), 1);
    shutdown([&a, &b]).await;
    drop(a);
    wait_until("the handlers to be dropped", || Arc::strong_count(&held) == 1).await;
}

#[cfg(target_os = "linux")]
fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Returns the resident memory of this process in bytes.
#[cfg(target_os = "linux")]
fn resident_memory() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Runs in its own process, so that other tests do not affect the numbers: see the next test.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "run by a_thousand_starts_and_stops_leave_no_memory_or_descriptors"]
fn a_thousand_rounds() {
    const ROUNDS: usize = 1000;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(2).enable_all().build().unwrap();
    let alive = || runtime.metrics().num_alive_tasks();
    let round = || async {
        let (a, b) = (node("a").await, node("b").await);
        let mut events = b.events();
        a.connect(address_of(&b)).await.unwrap();
        a.send(b.id(), Message::text("hello")).await.unwrap();
        assert_eq!(next_text(&mut events).await, "hello");
        tokio::join!(a.shutdown(), b.shutdown());
    };
    let rounds = |count| {
        for _ in 0..count {
            runtime.block_on(round());
        }
        runtime.block_on(wait_until("all tasks to end", || alive() == 0));
    };
    rounds(ROUNDS / 10);
    let (open, memory) = (open_descriptors(), resident_memory());
    rounds(ROUNDS);
    assert_eq!(open_descriptors(), open);
    let growth = resident_memory().saturating_sub(memory);
    // Without a leak, the memory hardly grows. If each round leaked one node, it would grow by a GiB.
    assert!(growth < ROUNDS * (4 << 10), "{growth} bytes more after {ROUNDS} rounds");
}

#[cfg(target_os = "linux")]
#[test]
fn a_thousand_starts_and_stops_leave_no_memory_or_descriptors() {
    let own_program = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(own_program);
    // The C library gives each thread an arena of its own, and the number of threads that wait for the disk
    // grows with the load. With one arena for all threads, the memory shows what the node itself needs.
    command.env("MALLOC_ARENA_MAX", "1");
    let run =
        command.args(["--exact", "stop::a_thousand_rounds", "--ignored", "--nocapture"]).output();
    let run = run.unwrap();
    let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && text.contains("1 passed"), "{text}");
}
