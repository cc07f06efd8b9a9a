//! Nodes that surround honest nodes, so that these have no honest neighbours any more.

use std::borrow::Cow;
use std::sync::Arc;

use super::network::address;
use super::{Lies, NETWORK, NodeOptions, Sim};
use crate::config::Config;
use crate::handler::Handler;
use crate::node_record::NodeRecord;

/// Number of neighbours that a node that surrounds others may have.
const PLACES: usize = 64;

impl<H: Handler> Sim<H> {
    /// Makes nodes collude to surround others: they name only each other to other nodes. Each of them has to be
    /// one that [eclipses](Lies::Eclipses).
    pub fn eclipse(&mut self, nodes: &[usize]) {
        let unix = self.unix();
        let record = |node: &usize| {
            let at = address(self.nodes[*node].announced_ip(*node));
            NodeRecord::sign(&self.nodes[*node].key, NETWORK, unix, &[at])
        };
        let records: Arc<[NodeRecord]> = nodes.iter().map(record).collect();
        for node in nodes {
            if let Some(liar) = &mut self.nodes[*node].liar {
                liar.collude(records.clone());
            }
        }
    }
}

/// Returns the configuration of a node.
pub(super) fn config_of<'c>(options: &NodeOptions, config: &'c Config) -> Cow<'c, Config> {
    if options.lies == Some(Lies::Eclipses) {
        Cow::Owned(Config { active_view: PLACES, ..config.clone() })
    } else {
        Cow::Borrowed(config)
    }
}
