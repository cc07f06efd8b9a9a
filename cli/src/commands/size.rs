//! `size`: counts the nodes of the network.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human;
use crate::text::Paint;

/// Count the nodes of the network
///
/// Up to about 10,000 nodes are counted; larger networks are estimated from a sample.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct SizeArgs {}

/// The number of nodes in the network.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SizeOutcome {
    /// Number of nodes, counted or estimated.
    size: u64,
    /// True if every node was counted.
    exact: bool,
    /// The relative error of an estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<f64>,
    #[serde(skip)]
    counted: peerkit::NetworkSize,
}

impl NodeCommand for SizeArgs {
    const NAME: &'static str = "size";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/network/size"));
    type Outcome = SizeOutcome;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<SizeOutcome> {
        let counted = context.session.node.network().size().await?;
        Ok(SizeOutcome { size: counted.nodes, exact: counted.exact, error: counted.error, counted })
    }
}

impl Outcome for SizeOutcome {
    fn text(&self, _paint: Paint) -> String {
        human::size(self.counted)
    }
}
