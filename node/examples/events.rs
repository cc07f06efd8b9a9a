//! Events as an async stream, which any task can read in a loop.

use std::error::Error;

use peerkit::{Compression, Event, Message, Node};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Measurement {
    sensor: String,
    celsius: f64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let station = Node::builder().name("station").listen("127.0.0.1:0").spawn().await?;
    let mut events = station.events();
    let sensor = tokio::spawn(sensor(station.listening()[0]));

    while let Some(event) = events.next().await {
        match event {
            Event::InboundNodeConnected { peer } => println!("{peer} is here"),
            Event::NodeMessage { peer, message } => {
                let measured: Measurement = message.to_json()?;
                println!("{} measures {} degrees", measured.sensor, measured.celsius);
                station.send(peer.id(), "thank you").await?;
            }
            Event::InboundNodeDisconnected { peer, link_end } => {
                println!("{peer} has left: {link_end}");
                // The station stops when its only peer has left. Then the event stream ends.
                let station = station.clone();
                tokio::spawn(async move { station.shutdown().await });
            }
            other => println!("({})", other.name()),
        }
    }
    sensor.await??;
    Ok(())
}

/// Runs another node. It could also be on another machine.
async fn sensor(station: std::net::SocketAddr) -> Result<(), peerkit::Error> {
    let node = Node::builder().name("sensor").spawn().await?;
    let mut events = node.events();
    let peer = node.connect(station).await?;
    for celsius in [20.5, 21.0, 21.5] {
        let measured = Measurement { sensor: "kitchen".into(), celsius };
        // Any serde type can be a message, and each message has its own compression.
        let message = Message::json(&measured).expect("a plain structure has a JSON form");
        node.send(peer.id(), message.compressed(Compression::Zstd)).await?;
        while let Some(event) = events.next().await {
            if let Event::NodeMessage { message, .. } = event {
                println!("    the station says {}", message.as_text().unwrap_or_default());
                break;
            }
        }
    }
    node.shutdown().await;
    Ok(())
}
