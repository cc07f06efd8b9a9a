//! Events as an async stream: read in a loop, in any task, beside whatever else the task does.

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
                // With its last peer gone the station closes; the stream then ends.
                let station = station.clone();
                tokio::spawn(async move { station.shutdown().await });
            }
            other => println!("({})", other.name()),
        }
    }
    sensor.await??;
    Ok(())
}

/// Another node, in a task of its own: it could as well be on another machine.
async fn sensor(station: std::net::SocketAddr) -> Result<(), peerkit::Error> {
    let node = Node::builder().name("sensor").spawn().await?;
    let mut events = node.events();
    let peer = node.connect(station).await?;
    for celsius in [20.5, 21.0, 21.5] {
        let measured = Measurement { sensor: "kitchen".into(), celsius };
        // Any serde type is a message; compression is chosen for each.
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
