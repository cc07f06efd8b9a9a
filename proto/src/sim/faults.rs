//! Stops and faults: of nodes, their hosts, the network and single links.

use super::node::Joining;
use super::{Sim, link};
use crate::event::Reason;
use crate::handler::Handler;

impl<H: Handler> Sim<H> {
    /// Stops a node, as if its user had asked for that. Its application gets the event, the node closes its
    /// links with goodbyes, and stops running once they have ended.
    pub fn stop(&mut self, node: usize) {
        self.stop_gracefully(node);
        self.settle();
    }

    /// Kills a node's process. The node sends no goodbye, but its host closes its connections.
    pub fn crash(&mut self, node: usize) {
        self.end_run(node, true);
        self.settle();
    }

    /// Takes a node's host off the network. From then on the host neither sends nor answers anything.
    pub fn vanish(&mut self, node: usize) {
        self.nodes[node].vanished = true;
        self.cut_links();
        self.end_run(node, false);
        self.settle();
    }

    /// Starts a node again, with its old identity and address. Does nothing if the node is running.
    pub fn restart(&mut self, node: usize, app: H) {
        if self.is_running(node) {
            return;
        }
        self.nodes[node].app = app;
        // Set before the start, because a node that has vanished reaches no other node.
        self.nodes[node].vanished = false;
        self.nodes[node].joining = Joining::No;
        self.start(node);
        self.schedule_link_losses(node);
        self.settle();
    }

    /// Splits the network: from now on nothing gets from one group to another. The nodes that are in none of
    /// `groups` form another group. Nodes that are added later belong to the first group.
    pub fn partition(&mut self, groups: &[&[usize]]) {
        for node in &mut self.nodes {
            node.partition_group = groups.len();
        }
        for (number, group) in groups.iter().enumerate() {
            for node in *group {
                self.nodes[*node].partition_group = number;
            }
        }
        // Nodes that an earlier partition has separated may be in one group now.
        self.cut_links();
        self.resume_links();
        self.settle();
    }

    /// Ends a partition.
    pub fn heal(&mut self) {
        for node in &mut self.nodes {
            node.partition_group = 0;
        }
        self.resume_links();
        self.settle();
    }

    /// Breaks the link between two nodes, at both endpoints at the same time and without a goodbye.
    pub fn break_link(&mut self, a: usize, b: usize) {
        let id = self.id(b);
        let running = self.nodes[a].running.as_ref();
        if let Some(connection) =
            running.and_then(|running| Some(running.handles.get(&id)?.connection))
        {
            for side in [link::DIALLER, link::ACCEPTOR] {
                self.end_abruptly(
                    connection,
                    side,
                    Reason::Lost("the connection was reset".into()),
                );
            }
            self.settle();
        }
    }
}
