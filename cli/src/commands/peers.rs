//! `peers`: lists the connected nodes, and the other known nodes.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::Endpoint;
use super::{Command, CommandContext, Outcome};
use crate::human::network;
use crate::text::Paint;
use crate::views::{KnownView, PeerView};

/// List the connected nodes, and the other known nodes
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct Peers {}

/// The connected nodes, and all known nodes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PeerList {
    peers: Vec<PeerView>,
    known: Vec<KnownView>,
}

impl Command for Peers {
    const NAME: &'static str = "peers";
    const ENDPOINT: Option<Endpoint> = Some(Endpoint::get("/peers"));
    type Outcome = PeerList;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<PeerList> {
        let session = context.session;
        let node = &session.node;
        let peers = session.views(&node.peers()).into_iter();
        let peers = peers.map(|peer| peer.with_last_seen(node)).collect();
        Ok(PeerList { peers, known: session.known().await? })
    }
}

impl Outcome for PeerList {
    fn text(&self, paint: Paint) -> String {
        network::peers_and_known(paint, &self.peers, &self.known)
    }
}
