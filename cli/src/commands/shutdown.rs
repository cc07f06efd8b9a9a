//! `shutdown`: stops the whole network.

use anyhow::{anyhow, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::text::Paint;

/// Stop the whole network, as its owner
///
/// A network has an owner if its first node was started with --owner KEYFILE. A node with this key can
/// stop all nodes. In a network without an owner `shutdown` fails; `exit` stops this node only.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct ShutdownArgs {}

/// The result of an order to stop the network.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NetworkStopping {}

impl NodeCommand for ShutdownArgs {
    const NAME: &'static str = "shutdown";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::delete("/network"));
    const STOPS: bool = true;
    type Outcome = NetworkStopping;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<NetworkStopping> {
        let network = context.session.node.network();
        // Checked before the wait for the fetches, which may take hours.
        if network.owner().is_none() {
            bail!("this network has no owner, so no node can stop it: `exit` stops this node");
        }
        context.wait_for_fetches().await;
        let stopped = network.shutdown().await;
        stopped.map_err(|error| anyhow!("{error}; `exit` stops this node only"))?;
        Ok(NetworkStopping {})
    }
}

impl Outcome for NetworkStopping {
    fn text(&self, _paint: Paint) -> String {
        "stopping the network".to_owned()
    }
}
