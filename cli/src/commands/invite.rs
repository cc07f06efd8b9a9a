//! `invite`: makes an invite to the network.

use std::time::Duration;

use clap::Args;
use peerkit::NodeId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::text::Paint;
use crate::usage;

/// Time for which an invite is valid by default. A week.
const VALID: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Make an invite to the network, as its owner
///
/// Pass the link on like a password: whoever has it can become a member. The other user starts a node with
/// `peerkit run --invite` and pastes the link there. The network has to be one for invited nodes only: its
/// first node is started with --owner KEYFILE --invite-only.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct InviteArgs {
    /// The time for which the invite can be used, for example 12h or 30days; at most 90 days [default: 7days]
    #[arg(long = "for", value_name = "TIME")]
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    valid: Option<String>,
    /// The number of nodes that may use it, from 1 to 1000 [default: 1]
    #[arg(long, value_name = "N")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    uses: Option<u32>,
}

/// A new invite.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewInvite {
    /// The link to pass on.
    link: String,
    /// The name of the invitation, with which it can be revoked.
    #[schema(value_type = String)]
    invitation: NodeId,
}

impl NodeCommand for InviteArgs {
    const NAME: &'static str = "invite";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/invitations"));
    type Outcome = NewInvite;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<NewInvite> {
        let valid = match &self.valid {
            Some(text) => humantime::parse_duration(text)
                .map_err(|_| usage(format!("`{text}` is no time: write it as 12h or 30days")))?,
            None => VALID,
        };
        let network = context.session.node.network();
        let invite = network.invite(valid, self.uses.unwrap_or(1))?;
        Ok(NewInvite { link: invite.to_string(), invitation: invite.invitation.id })
    }
}

impl Outcome for NewInvite {
    fn text(&self, paint: Paint) -> String {
        let hint = format!(
            "`peerkit run --invite` asks for this link. `revoke {}` withdraws it and all who used it.",
            self.invitation
        );
        format!("{}\n{}", self.link, paint.faint(&hint))
    }
}
