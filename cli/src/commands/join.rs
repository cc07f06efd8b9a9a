//! `join`: makes the node a member of a network.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::address::{check_address, join_ports};
use crate::text::Paint;
use crate::views::PeerView;
use crate::{human, join, usage};

/// Become a member of a node's network
///
/// Without ADDR, the node joins through the bootstrap nodes (--bootstrap, PEERKIT_BOOTSTRAP, the file
/// `bootstrap` in the state folder) and the known peers. One address that answers is enough; give several to
/// be safe. A member finds and keeps neighbours by itself. If the node was started with --manual, it joins no
/// network and only links to each ADDR.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct JoinArgs {
    /// Addresses of nodes, or the names of known nodes
    #[arg(value_name = "ADDR")]
    #[serde(default)]
    addresses: Vec<String>,
}

/// The nodes through which this node has joined.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Joined {
    peers: Vec<PeerView>,
    /// True if links are made by hand only, so that the node is no member.
    #[serde(skip)]
    is_manual: bool,
}

impl NodeCommand for JoinArgs {
    const NAME: &'static str = "join";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/membership"));
    type Outcome = Joined;

    fn prepare(&mut self) -> anyhow::Result<()> {
        self.addresses = join_ports(std::mem::take(&mut self.addresses));
        Ok(())
    }

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Joined> {
        let session = context.session;
        self.addresses.iter().try_for_each(|address| check_address(address)).map_err(usage)?;
        let found = session.addresses(&self.addresses).await?;
        session.expected.begin_command(&session.node, &self.addresses).await;
        let joined = session.node.join(&found).await;
        session.expected.end_command(&joined);
        let peers = session.views(&joined.map_err(join::advised)?);
        Ok(Joined { peers, is_manual: session.node.network().is_manual() })
    }
}

impl Outcome for Joined {
    fn text(&self, _paint: Paint) -> String {
        let labels = human::labels(&self.peers);
        if self.is_manual {
            format!("linked to {labels}; with --manual this node joins no network")
        } else {
            format!("joined through {labels}")
        }
    }
}
