//! `bans`: lists the banned nodes.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ban::BanList;
use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand};

/// List the banned nodes
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct BansArgs {}

impl NodeCommand for BansArgs {
    const NAME: &'static str = "bans";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/bans"));
    type Outcome = BanList;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<BanList> {
        Ok(BanList { bans: context.session.node.bans() })
    }
}
