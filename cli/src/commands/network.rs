//! `network`: shows the figures of the network.

use clap::Args;
use peerkit::{Figures, NetworkGraph};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human::network;
use crate::text::{Paint, millis};

/// Show figures of the network: nodes, links, degrees, diameter
///
/// The degree of a node is its number of links; the bars show how many nodes have each degree. The diameter is
/// the largest distance between two nodes, in hops. Of more than 10,000 nodes it is a lower bound. A cut node is a
/// node whose loss would split the network.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct NetworkArgs {}

/// The figures of the network.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NetworkOutcome {
    network: NetworkView,
    #[serde(skip)]
    graph: NetworkGraph,
}

impl NodeCommand for NetworkArgs {
    const NAME: &'static str = "network";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/network"));
    type Outcome = NetworkOutcome;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<NetworkOutcome> {
        let graph = context.session.node.network().graph().await?;
        // The time grows with the square of the number of nodes.
        let measuring = tokio::task::spawn_blocking(move || (graph.figures(), graph));
        let (figures, graph) = measuring.await?;
        let network = NetworkView {
            name: graph.name().to_owned(),
            figures,
            complete: graph.is_complete(),
            elapsed_ms: millis(graph.elapsed()),
        };
        Ok(NetworkOutcome { network, graph })
    }
}

impl Outcome for NetworkOutcome {
    fn text(&self, paint: Paint) -> String {
        network::figures(paint, &self.graph, &self.network.figures)
    }
}

/// The figures, with the name of the network and the time of the discovery.
#[derive(Debug, Serialize, ToSchema)]
struct NetworkView {
    name: String,
    #[serde(flatten)]
    figures: Figures,
    complete: bool,
    elapsed_ms: f64,
}
