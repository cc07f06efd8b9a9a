//! `discover`: lists the nodes of the network.

use std::time::Duration;

use clap::Args;
use peerkit::{Discovery, NetworkGraph};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::page::Page;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human::network;
use crate::text::{Paint, millis};
use crate::usage;
use crate::views::NodeView;

/// List the nodes of the network and their links
///
/// DEPTH is 1 for neighbours, n for n hops, -1 (the default) for the whole network.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct DiscoverArgs {
    /// 1 for neighbours, n for n hops, -1 for the whole network
    #[arg(default_value = "-1", allow_negative_numbers = true, hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(-1..))]
    #[serde(default = "whole_network")]
    #[schema(minimum = -1)]
    depth: i32,
    /// Maximum number of nodes [default: all]
    #[arg(skip)]
    #[schema(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Number of nodes to leave out before the first
    #[arg(skip)]
    offset: Option<usize>,
}

/// The nodes of the network.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Discovered {
    nodes: Vec<NodeView>,
    /// Number of links between them.
    links: usize,
    /// Number of nodes that were found, even if `nodes` is only a page of them.
    size: usize,
    /// True if all nodes answered in time.
    complete: bool,
    elapsed_ms: f64,
}

impl NodeCommand for DiscoverArgs {
    const NAME: &'static str = "discover";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/network/nodes"));
    type Outcome = Discovered;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Discovered> {
        if self.depth < -1 {
            return Err(usage(
                "a depth is 1 for neighbours, n for n hops, or -1 for the whole network",
            ));
        }
        let page = Page::read(self.limit, self.offset)?;
        let node = &context.session.node;
        let discovery = node.discover(self.depth).await?;
        let links = NetworkGraph::new(node.network().name(), &discovery).links();
        let nodes = NodeView::all(node, &discovery);
        let Discovery { complete, elapsed, .. } = discovery;
        let size = nodes.len();
        let nodes = match page {
            None => nodes,
            Some(page) => page.of_sorted(nodes, |node| node.id),
        };
        Ok(Discovered { nodes, links, size, complete, elapsed_ms: millis(elapsed) })
    }
}

impl Outcome for Discovered {
    fn text(&self, paint: Paint) -> String {
        let elapsed = Duration::from_secs_f64(self.elapsed_ms / 1e3);
        network::discovered(paint, &self.nodes, self.links, self.complete, elapsed)
    }
}

fn whole_network() -> i32 {
    -1
}
