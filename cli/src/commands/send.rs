//! `send`: sends a text to one node.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, NodeCommand, Outcome, joined};
use crate::text::Paint;
use crate::views::PeerView;

/// Send a text to one node
///
/// Put a name with spaces in quotes: send "bob smith" hello. A node without a link is reached through the
/// network. If this node does not know it, give its whole identity.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct SendArgs {
    /// The name of the node, its identity, or the first digits of its identity
    #[schema(min_length = 1)]
    peer: String,
    /// The text
    #[arg(required = true, num_args = 1..)]
    #[serde(with = "joined")]
    #[schema(value_type = String, min_length = 1)]
    text: Vec<String>,
}

/// The recipient of a text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Sent {
    peer: PeerView,
}

impl NodeCommand for SendArgs {
    const NAME: &'static str = "send";
    const LINE: LineForm = LineForm::Text(1);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/peers/{peer}/messages"));
    type Outcome = Sent;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Sent> {
        let session = context.session;
        let peer = session.node.network().find_node(&self.peer).await?;
        session.node.send(peer.id(), joined::text(&self.text)).await?;
        Ok(Sent { peer: session.view_now(peer) })
    }
}

impl Outcome for Sent {
    fn text(&self, _paint: Paint) -> String {
        format!("sent to {}", self.peer.label())
    }
}
