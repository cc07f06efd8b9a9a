//! `status`: shows this node.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human;
use crate::text::Paint;

/// Show this node: its addresses, links, counters and uptime
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct StatusArgs {}

/// The state of this node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatusOutcome {
    status: peerkit::Status,
}

impl NodeCommand for StatusArgs {
    const NAME: &'static str = "status";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/status"));
    type Outcome = StatusOutcome;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<StatusOutcome> {
        Ok(StatusOutcome { status: context.session.node.status().await })
    }
}

impl Outcome for StatusOutcome {
    fn text(&self, paint: Paint) -> String {
        human::status::text(paint, &self.status)
    }
}
