//! `status`: shows this node.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::Endpoint;
use super::{Command, CommandContext, Outcome};
use crate::human;
use crate::text::Paint;

/// Show this node: its addresses, links, counters and uptime
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct Status {}

/// The state of this node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatusOutcome {
    status: peerkit::Status,
}

impl Command for Status {
    const NAME: &'static str = "status";
    const ENDPOINT: Option<Endpoint> = Some(Endpoint::get("/status"));
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
