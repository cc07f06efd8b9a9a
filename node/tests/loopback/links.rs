//! The life of one link, from the dial to the disconnect.

use std::time::Duration;

use peerkit::{Error, Event, Message, Node, Reason};

async fn node(name: &str) -> Node {
    Node::builder().name(name).listen("127.0.0.1:0").spawn().await.unwrap()
}

/// Returns the next event with this name. Fails the test if there is none within two minutes.
async fn expect_event(events: &mut peerkit::Events, name: &str) -> Event {
    let waiting = async {
        while let Some(event) = events.next().await {
            if event.name() == name {
                return event;
            }
        }
        panic!("the events ended before {name}");
    };
    tokio::time::timeout(Duration::from_secs(120), waiting).await.expect(name)
}

#[tokio::test]
async fn two_nodes_connect_and_exchange_messages() {
    let (a, b) = (node("a").await, node("b").await);
    let (mut events_of_a, mut events_of_b) = (a.events(), b.events());
    let peer = a.connect(b.listening()[0]).await.unwrap();
    assert_eq!((peer.id(), peer.name()), (b.id(), "b"));
    expect_event(&mut events_of_a, "outbound_node_connected").await;
    let inbound = expect_event(&mut events_of_b, "inbound_node_connected").await;
    assert_eq!(inbound.peer().unwrap().id(), a.id());
    assert_eq!(inbound.peer().unwrap().address(), &a.listening()[0].into());

    a.send(b.id(), "hello").await.unwrap();
    let Event::NodeMessage { message, .. } = expect_event(&mut events_of_b, "node_message").await
    else {
        panic!()
    };
    assert_eq!(message.as_text(), Some("hello"));
    b.try_send(a.id(), Message::json(&[1, 2]).unwrap()).unwrap();
    let Event::NodeMessage { message, .. } = expect_event(&mut events_of_a, "node_message").await
    else {
        panic!()
    };
    assert_eq!(message.to_json::<Vec<u8>>().unwrap(), [1, 2]);

    assert!(a.ping(b.id()).await.unwrap() < Duration::from_secs(120));
    b.disconnect(a.id()).await.unwrap();
    expect_event(&mut events_of_b, "node_disconnect_with_inbound_node").await;
    let Event::OutboundNodeDisconnected { link_end, .. } =
        expect_event(&mut events_of_a, "outbound_node_disconnected").await
    else {
        panic!()
    };
    assert_eq!((link_end.reason, link_end.by_peer), (Reason::Requested, true));
    expect_event(&mut events_of_b, "inbound_node_disconnected").await;
    a.shutdown().await;
    b.shutdown().await;
    assert!(matches!(a.send(b.id(), "x").await, Err(Error::Stopped)));
}
