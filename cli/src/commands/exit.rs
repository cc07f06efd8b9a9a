//! `exit`: stops the node.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::text::Paint;

/// Say goodbye to all peers, and stop this node
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct ExitArgs {}

/// The result of an order to stop the node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeStopping {}

impl NodeCommand for ExitArgs {
    const NAME: &'static str = "exit";
    const ALIASES: &'static [&'static str] = &["stop", "quit"];
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::delete("/node"));
    const STOPS: bool = true;
    type Outcome = NodeStopping;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<NodeStopping> {
        context.wait_for_fetches().await;
        Ok(NodeStopping {})
    }
}

impl Outcome for NodeStopping {
    fn text(&self, _paint: Paint) -> String {
        "stopping".to_owned()
    }
}
