//! A chat. The application is a `Handler`, which is a trait with a method for every event.
//!
//! Without arguments, three nodes on this machine talk to each other. To chat with other people:
//!
//! ```text
//! cargo run --example chat -- ann 0.0.0.0:7117
//! cargo run --example chat -- bob 0.0.0.0:0 192.0.2.7:7117
//! ```

use std::error::Error;

use peerkit::{Context, Handler, LinkEnd, Message, Node, Peer};

/// The application of one node, which prints events after the node's name.
struct Chat(String);

impl Handler for Chat {
    fn inbound_node_connected(&mut self, cx: &mut Context<'_>, peer: &Peer) {
        println!("{}: {} has joined", self.0, peer.name());
        cx.send(peer, format!("welcome, {}", peer.name()));
    }

    fn outbound_node_connected(&mut self, _: &mut Context<'_>, peer: &Peer) {
        println!("{}: connected to {}", self.0, peer.name());
    }

    fn node_message(&mut self, _: &mut Context<'_>, peer: &Peer, message: Message) {
        println!("{}: <{}> {}", self.0, peer.name(), message.as_text().unwrap_or("(not text)"));
    }

    fn inbound_node_disconnected(&mut self, _: &mut Context<'_>, peer: &Peer, why: &LinkEnd) {
        println!("{}: {} has left: {why}", self.0, peer.name());
    }

    fn outbound_node_disconnected(&mut self, _: &mut Context<'_>, peer: &Peer, why: &LinkEnd) {
        println!("{}: {} has left: {why}", self.0, peer.name());
    }
}

async fn start(name: &str, listen: &str) -> Result<Node, peerkit::Error> {
    Node::builder().name(name).listen(listen).handler(Chat(name.to_owned())).spawn().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, listen, others @ ..] = &arguments[..] else { return run_demo().await };
    let node = start(name, listen).await?;
    println!("{} listens on {:?}: write something", node.name(), node.listening());
    for other in others {
        node.connect(other).await?;
    }
    for line in std::io::stdin().lines() {
        node.send_to_nodes(line?, &[])?;
    }
    node.shutdown().await;
    Ok(())
}

/// Runs three nodes, each connected to the two others.
async fn run_demo() -> Result<(), Box<dyn Error>> {
    let ann = start("ann", "127.0.0.1:0").await?;
    let bob = start("bob", "127.0.0.1:0").await?;
    let cid = start("cid", "127.0.0.1:0").await?;
    bob.connect(ann.listening()[0]).await?;
    cid.connect(ann.listening()[0]).await?;
    cid.connect(bob.listening()[0]).await?;
    cid.send_to_nodes("hello, both of you", &[])?;
    bob.send_to_nodes("a secret for cid", &[ann.id()])?;
    // A node that stops first sends the queued messages, and then says goodbye.
    for node in [cid, bob, ann] {
        node.shutdown().await;
    }
    Ok(())
}
