//! `ping`: measures round trips.

use std::time::Duration;

use clap::Args;
use peerkit::{Error, Peer};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human::network;
use crate::session::NodeSession;
use crate::text::{Paint, millis};
use crate::views::PingView;

/// Measure the round trip to a peer, or to all peers
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct PingArgs {
    /// The name of the node, its identity, or the first digits of its identity
    #[schema(min_length = 1)]
    peer: Option<String>,
}

/// Round trips.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pings {
    pings: Vec<PingView>,
}

impl NodeCommand for PingArgs {
    const NAME: &'static str = "ping";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/pings"));
    type Outcome = Pings;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Pings> {
        let session = context.session;
        Ok(Pings {
            pings: match self.peer {
                Some(peer) => vec![ping(session, &peer).await?],
                None => ping_all(session).await,
            },
        })
    }
}

impl Outcome for Pings {
    fn text(&self, paint: Paint) -> String {
        network::pings(paint, &self.pings)
    }
}

async fn ping(session: &NodeSession, peer: &str) -> anyhow::Result<PingView> {
    let peer = session.node.network().find_node(peer).await?;
    let rtt = session.node.ping(peer.id()).await?;
    // The ping may have made a link to the peer, whose figures the view then has.
    Ok(PingView { peer: session.view_now(peer), rtt_ms: Some(millis(rtt)), error: None })
}

async fn ping_all(session: &NodeSession) -> Vec<PingView> {
    let mut pings = JoinSet::new();
    for (index, peer) in session.node.peers().into_iter().enumerate() {
        let node = session.node.clone();
        pings.spawn(async move {
            let rtt = node.ping(peer.id()).await;
            (index, peer, rtt)
        });
    }
    let mut answers = pings.join_all().await;
    // Replies come in any order. The output has the order of `peers`.
    answers.sort_by_key(|(index, ..)| *index);
    let ping = |(_, peer, rtt): (usize, Peer, Result<Duration, Error>)| PingView {
        peer: session.view(&peer),
        rtt_ms: rtt.as_ref().ok().copied().map(millis),
        error: rtt.err().map(|error| error.to_string()),
    };
    answers.into_iter().map(ping).collect()
}
