//! `connect`: links to one node.

use clap::Args;
use peerkit::ConnectOptions;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome, joined};
use crate::address::{check_address, join_ports};
use crate::text::Paint;
use crate::usage;
use crate::views::PeerView;

/// Link to a node, without joining its network
///
/// ADDR is host:port or host port, or ID@host:port to check the identity of the node there. The default
/// port is 7117. For a known node, ADDR can also be its name, its identity, or the first digits of its
/// identity. `join` makes this node a member of the network.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct ConnectArgs {
    /// The address of the node, or the name of a known node
    #[arg(value_name = "ADDR", required = true, num_args = 1..=2)]
    #[serde(with = "joined")]
    #[schema(value_type = String, min_length = 1)]
    address: Vec<String>,
    /// Connect again whenever the link is lost
    #[arg(long)]
    #[serde(default)]
    reconnect: bool,
}

/// A new link.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Connected {
    peer: PeerView,
    /// True if this node is not a member of a network, and could join that of the peer.
    #[serde(skip)]
    is_link_only: bool,
}

impl NodeCommand for ConnectArgs {
    const NAME: &'static str = "connect";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/peers"));
    type Outcome = Connected;

    fn prepare(&mut self) -> anyhow::Result<()> {
        self.address = join_ports(std::mem::take(&mut self.address));
        Ok(())
    }

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Connected> {
        let [address] = &self.address[..] else { return Err(usage("connect takes one address")) };
        check_address(address).map_err(usage)?;
        let session = context.session;
        let mut options = ConnectOptions::default();
        options.reconnect = self.reconnect;
        // The result reports a failure of this dial, so its event is not printed as well.
        session.expected.begin_command(&session.node, &self.address).await;
        let linked = session.node.connect_with(address.clone(), options).await;
        session.expected.end_command(&linked);
        let peer = session.view(&linked?);
        let status = session.node.status().await;
        Ok(Connected { peer, is_link_only: !status.manual && !status.member })
    }
}

impl Outcome for Connected {
    fn text(&self, paint: Paint) -> String {
        let text = format!("connected to {} at {}", self.peer.label(), self.peer.address_or_none());
        if self.is_link_only { format!("{text}\n{}", paint.faint(LINK_ONLY)) } else { text }
    }
}

/// Advice after the command, on a node that could join a network.
const LINK_ONLY: &str = "this is only a link: `join ADDR` makes this node a member of the network of the \
                         node at ADDR";
