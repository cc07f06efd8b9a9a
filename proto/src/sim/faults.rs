//! Ends and faults of nodes, machines and lines.

use super::node::Joining;
use super::{Sim, link};
use crate::event::Reason;
use crate::handler::Handler;

impl<H: Handler> Sim<H> {
    /// Stops a node as its user would. Its application gets the event, the node says goodbye, and it is
    /// gone once its links have ended.
    pub fn stop(&mut self, node: usize) {
        self.stop_gracefully(node);
        self.settle();
    }

    /// Kills a node's process. The node says no goodbye, but its machine closes its connections.
    pub fn crash(&mut self, node: usize) {
        self.end_run(node, true);
        self.settle();
    }

    /// Takes a node's machine off the network. It sends nothing any more, and answers nothing.
    pub fn vanish(&mut self, node: usize) {
        self.nodes[node].vanished = true;
        self.cut_links();
        self.end_run(node, false);
        self.settle();
    }

    /// Starts a node that is not running, under its old identity and address.
    pub fn restart(&mut self, node: usize, app: H) {
        if self.is_running(node) {
            return;
        }
        self.nodes[node].app = app;
        // Before the start, as a node that has vanished reaches no other node.
        self.nodes[node].vanished = false;
        self.nodes[node].joining = Joining::No;
        self.start(node);
        self.schedule_link_losses(node);
        self.settle();
    }

    /// Splits the network: from now on nothing gets from one group to another. The nodes that are in
    /// no group form one more. A node that is added later comes to the first group.
    pub fn partition(&mut self, groups: &[&[usize]]) {
        for node in &mut self.nodes {
            node.partition_group = groups.len();
        }
        for (number, group) in groups.iter().enumerate() {
            for node in *group {
                self.nodes[*node].partition_group = number;
            }
        }
        // A new partition may put nodes into one group that an earlier one had separated.
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

    /// Breaks the link between two nodes, at both ends at once and without a goodbye.
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
