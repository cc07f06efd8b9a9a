//! `peers`: lists the connected nodes, and the other known nodes.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::page::Page;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human::network;
use crate::text::Paint;
use crate::views::{KnownView, PeerView};

/// List the connected nodes, and the other known nodes
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct PeersArgs {
    /// Maximum number of entries of each list [default: all]
    #[arg(skip)]
    #[schema(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Number of entries of each list to leave out before the first
    #[arg(skip)]
    offset: Option<usize>,
}

/// The connected nodes, and all known nodes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PeerList {
    peers: Vec<PeerView>,
    known: Vec<KnownView>,
}

impl NodeCommand for PeersArgs {
    const NAME: &'static str = "peers";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/peers"));
    type Outcome = PeerList;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<PeerList> {
        let session = context.session;
        let node = &session.node;
        let peers = session.views(&node.peers()).into_iter();
        let peers: Vec<_> = peers.map(|peer| peer.with_last_seen(node)).collect();
        let known = session.known().await?;
        Ok(match Page::read(self.limit, self.offset)? {
            None => PeerList { peers, known },
            Some(page) => PeerList {
                peers: page.of_sorted(peers, |peer| peer.id),
                known: page.of_sorted(known, |known| known.id),
            },
        })
    }
}

impl Outcome for PeerList {
    fn text(&self, paint: Paint) -> String {
        network::peers_and_known(paint, &self.peers, &self.known)
    }
}
