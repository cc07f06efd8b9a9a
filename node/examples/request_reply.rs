//! Requests to a peer, which replies within a time limit.

use std::error::Error;
use std::time::Duration;

use peerkit::{Message, Node};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Node::builder().name("server").listen("127.0.0.1:0").spawn().await?;
    // These functions are async, and many of them run at the same time. If one returns an error, the requester
    // receives its text.
    server.serve("sum", |_, message| async move {
        let numbers: Vec<i64> = message.to_json()?;
        Message::json(&numbers.iter().sum::<i64>())
    });
    server.serve("greet", |peer, message| async move {
        let name = message.as_text().ok_or("a name has to be text")?;
        Ok::<_, &str>(Message::text(format!("good day, {name} of node {}", peer.name())))
    });
    server.serve("never", |_, _| std::future::pending::<Result<Message, Box<str>>>());

    let client = Node::builder().name("client").spawn().await?;
    let server_id = client.connect(server.listening()[0]).await?.id();

    let sum = client.request(server_id, "sum", Message::json(&[1, 2, 39])?).await?;
    println!("1 + 2 + 39 = {}", sum.to_json::<i64>()?);

    let greeting = client.request(server_id, "greet", "Ann").await?;
    println!("{}", greeting.as_text().unwrap_or_default());

    // Many requests at the same time, over the same link.
    let requests = (1..=5).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.request(server_id, "sum", format!("[{n}, {n}]")).await })
    });
    for request in requests.collect::<Vec<_>>() {
        println!("twice that is {}", request.await??.as_text().unwrap_or_default());
    }

    // A failed request returns an error that says why.
    let failures = [
        client.request(server_id, "sum", "no numbers").await,
        client.request(server_id, "product", "[1, 2]").await,
        client.request_within(server_id, "never", "?", Duration::from_millis(200)).await,
    ];
    for failure in failures {
        println!("failed, as it should: {}", failure.err().ok_or("that should have failed")?);
    }
    client.shutdown().await;
    server.shutdown().await;
    Ok(())
}
