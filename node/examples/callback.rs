//! One callback for all events: the shortest form of an application.

use peerkit::{Context, Event, Node};

#[tokio::main]
async fn main() -> Result<(), peerkit::Error> {
    // Called for one event after the other. It acts through the context.
    let echo = |cx: &mut Context<'_>, event: Event| match event {
        Event::NodeMessage { peer, message } => {
            println!("echo: {} says {:?}", peer.name(), message.as_text());
            cx.send(&peer, message);
        }
        other => println!("echo: {}", other.name()),
    };
    let echo = Node::builder().name("echo").listen("127.0.0.1:0").callback(echo).spawn().await?;

    // A callback may own what it needs: here the sending end of a channel.
    let (heard, mut echoes) = tokio::sync::mpsc::unbounded_channel();
    let caller = Node::builder().name("caller").callback(move |_, event| {
        if let Event::NodeMessage { message, .. } = event {
            let _ = heard.send(message);
        }
    });
    let caller = caller.spawn().await?;

    let peer = caller.connect(echo.listening()[0]).await?;
    for word in ["one", "two", "three"] {
        caller.send(peer.id(), word).await?;
        if let Some(message) = echoes.recv().await {
            println!("caller: it comes back as {:?}", message.as_text());
        }
    }
    caller.disconnect(peer.id()).await?;
    caller.shutdown().await;
    echo.shutdown().await;
    Ok(())
}
