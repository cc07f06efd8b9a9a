//! `leave`: leaves the network.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::lock::lock;
use crate::text::{Paint, count};
use crate::views::PeerView;

/// Leave the network; the node keeps running
///
/// All links are closed. `join` makes this node a member again.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct LeaveArgs {}

/// The peers whose links were closed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Left {
    peers: Vec<PeerView>,
}

impl NodeCommand for LeaveArgs {
    const NAME: &'static str = "leave";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::delete("/membership"));
    type Outcome = Left;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Left> {
        let session = context.session;
        context.wait_for_fetches().await;
        if let Some(joining) = lock(&session.joining).take() {
            // Otherwise the attempt would continue, and join the network again.
            joining.abort();
        }
        // Made before the links are closed, since closed links have no round-trip times.
        let mut peers = session.views(&session.node.peers());
        let closed = session.node.leave().await?;
        peers.retain(|view| closed.iter().any(|peer| peer.id() == view.id));
        Ok(Left { peers })
    }
}

impl Outcome for Left {
    fn text(&self, _paint: Paint) -> String {
        format!("left the network: {} closed", count(self.peers.len(), "link"))
    }
}
