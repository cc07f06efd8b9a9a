//! `disconnect`: closes the link to a peer.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::text::Paint;
use crate::views::PeerView;

/// Close the link to a peer, inbound or outbound
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct DisconnectArgs {
    /// The name of the peer, its identity, or the first digits of its identity
    #[schema(min_length = 1)]
    peer: String,
}

/// The peer whose link was closed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Disconnected {
    peer: PeerView,
}

impl NodeCommand for DisconnectArgs {
    const NAME: &'static str = "disconnect";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::delete("/peers/{peer}"));
    type Outcome = Disconnected;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Disconnected> {
        let session = context.session;
        // Made before the link ends, since the view has figures of the link.
        let peer = session.view(&session.node.network().find_peer(&self.peer)?);
        session.node.disconnect(peer.id).await?;
        Ok(Disconnected { peer })
    }
}

impl Outcome for Disconnected {
    fn text(&self, _paint: Paint) -> String {
        format!("disconnected from {}", self.peer.label())
    }
}
