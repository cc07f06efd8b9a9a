//! `members`: lists the members of a network whose owner invites.

use clap::Args;
use peerkit::{Member, NodeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::text::{Paint, count, label};

/// List the members of a network that takes invited nodes only
///
/// Every member knows all others, also those that do not run. The invitation by which a member came can be
/// revoked, and so can the member.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct MembersArgs {}

/// A member of the network.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemberView {
    /// The identity of the node.
    #[schema(value_type = String)]
    id: NodeId,
    /// The name that the node gives itself; null if this node does not know it.
    name: Option<String>,
    /// The node at which it was invited.
    #[schema(value_type = String)]
    invited_by: NodeId,
    /// The invitation by which it came; null for the owner's own nodes.
    #[schema(value_type = Option<String>)]
    invitation: Option<NodeId>,
    /// The owner's node has confirmed the membership.
    certified: bool,
}

/// The members of the network.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemberList {
    members: Vec<MemberView>,
}

impl From<Member> for MemberView {
    fn from(member: Member) -> Self {
        let Member { id, name, invited_by, invitation, certified, .. } = member;
        Self { id, name, invited_by, invitation, certified }
    }
}

impl NodeCommand for MembersArgs {
    const NAME: &'static str = "members";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/members"));
    type Outcome = MemberList;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<MemberList> {
        let members = context.session.node.network().members().await?;
        Ok(MemberList { members: members.into_iter().map(MemberView::from).collect() })
    }
}

impl Outcome for MemberList {
    fn text(&self, paint: Paint) -> String {
        let mut lines = vec![count(self.members.len(), "member")];
        for member in &self.members {
            let name = label(&member.id, member.name.as_deref().unwrap_or_default());
            let origin = match member.invitation {
                Some(invitation) => {
                    let by = self.members.iter().find(|other| other.id == member.invited_by);
                    let by = by.and_then(|by| by.name.clone());
                    let by = label(&member.invited_by, &by.unwrap_or_default());
                    format!("invited by {by} with invitation {}", invitation.short())
                }
                None => "holds the owner's key".to_owned(),
            };
            let note = if member.certified { "" } else { ", not confirmed yet" };
            lines.push(format!("  {}  {}{note}", paint.name(&name), paint.faint(&origin)));
        }
        lines.join("\n")
    }
}
