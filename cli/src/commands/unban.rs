//! `unban`: ends a ban.

use clap::Args;
use peerkit::Ban;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::text::Paint;

/// End the ban of a node
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct UnbanArgs {
    /// The name of the node, its identity, or the first digits of its identity
    #[schema(min_length = 1)]
    peer: String,
}

/// The ban that was ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Unbanned {
    bans: Vec<Ban>,
}

impl NodeCommand for UnbanArgs {
    const NAME: &'static str = "unban";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::delete("/bans/{peer}"));
    type Outcome = Unbanned;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Unbanned> {
        let node = &context.session.node;
        // A banned node may be unknown by now, so its identity is looked for among the bans first.
        let bans = node.bans();
        let digits = self.peer.to_ascii_lowercase();
        let mut fitting = bans.iter().filter(|ban| ban.id.to_string().starts_with(&digits));
        let id = match (fitting.next(), fitting.next()) {
            (Some(ban), None) => ban.id,
            _ => node.network().find_node(&self.peer).await?.id(),
        };
        Ok(Unbanned { bans: vec![node.unban(id).await?] })
    }
}

impl Outcome for Unbanned {
    fn text(&self, _paint: Paint) -> String {
        let ids = self.bans.iter().map(|ban| ban.id.short());
        format!("no longer banned: {}", ids.collect::<Vec<_>>().join(", "))
    }
}
