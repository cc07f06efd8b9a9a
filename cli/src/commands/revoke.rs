//! `revoke`: ends the membership of a node, or of all nodes that came by an invitation.

use anyhow::bail;
use clap::Args;
use peerkit::{Member, NodeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::text::Paint;

/// End the membership of a node, or of all who used an invitation
///
/// Every member ends its links with the revoked nodes, and refuses them from then on. That is final: a
/// revoked node needs a new identity and a new invite to come back. If a revoked node's invite has uses left,
/// its holder can come back with a new identity: revoke the invitation instead. A member that is cut off
/// learns of it when it is in touch with the others again.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct RevokeArgs {
    /// The invitation, or the name or identity of the member, or the first digits of either
    #[arg(value_name = "INVITATION|ID")]
    #[schema(min_length = 1)]
    member: String,
}

/// What was revoked.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Revoked {
    /// The identity of the node or of the invitation.
    #[schema(value_type = String)]
    revoked: NodeId,
    #[serde(skip)]
    is_new: bool,
}

impl NodeCommand for RevokeArgs {
    const NAME: &'static str = "revoke";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::delete("/members/{member}"));
    type Outcome = Revoked;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Revoked> {
        let network = context.session.node.network();
        let revoked = find(&self.member, &network.members().await?)?;
        let is_new = network.revoke(revoked).await?;
        Ok(Revoked { revoked, is_new })
    }
}

/// Returns the member or invitation that `text` names.
fn find(text: &str, members: &[Member]) -> anyhow::Result<NodeId> {
    if let Ok(id) = text.parse::<NodeId>() {
        // An invitation that no node has used yet is not in the list.
        return Ok(id);
    }
    let digits = text.to_ascii_lowercase();
    let ids = members.iter().flat_map(|member| [Some(member.id), member.invitation]).flatten();
    let mut found: Vec<_> = ids.filter(|id| id.to_string().starts_with(&digits)).collect();
    let named = members.iter().filter(|member| member.name.as_deref() == Some(text));
    found.extend(named.map(|member| member.id));
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [id] => Ok(id),
        [] => bail!("no member or invitation is called `{text}`: `members` lists them"),
        _ => bail!("`{text}` could be several: write more of the identity"),
    }
}

impl Outcome for Revoked {
    fn text(&self, _paint: Paint) -> String {
        if self.is_new {
            format!("revoked {}", self.revoked)
        } else {
            format!("{} was revoked before", self.revoked)
        }
    }
}
