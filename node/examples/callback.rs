//! An application that is one callback, which receives every event. This is the shortest form of an
//! application.

use peerkit::{Context, Event, Node};

#[tokio::main]
async fn main() -> Result<(), peerkit::Error> {
    // The node calls this for each event in turn. The callback acts through the context.
    let echo = |cx: &mut Context<'_>, event: Event| match event {
        Event::NodeMessage { peer, message } => {
            println!("echo: {} says {:?}", peer.name(), message.as_text());
            cx.send(&peer, message);
        }
        other => println!("echo: {}", other.name()),
    };
    let echo = Node::builder().name("echo").listen("127.0.0.1:0").callback(echo).spawn().await?;

    // A callback may own data. This one owns the sending half of a channel.
    let (sender, mut echoes) = tokio::sync::mpsc::unbounded_channel();
    let caller = Node::builder().name("caller").callback(move |_, event| {
        if let Event::NodeMessage { message, .. } = event {
            let _ = sender.send(message);
        }
    });
    let caller = caller.spawn().await?;

    let peer = caller.connect(echo.listening()[0]).await?;
    for word in ["one", "two", "three"] {
        caller.send(peer.id(), word).await?;
        if let Some(message) = echoes.recv().await {
            println!("caller: the echo is {:?}", message.as_text());
        }
    }
    caller.disconnect(peer.id()).await?;
    caller.shutdown().await;
    echo.shutdown().await;
    Ok(())
}
