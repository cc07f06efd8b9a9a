//! Actions that applications begin through their contexts: links, joins, discoveries, searches and pings.
//! Their results are events.

use super::queue::SimEvent;
use super::{Joining, Sim, SimulatedDiscovery};
use crate::address::Address;
use crate::event::{ActionId, Event, NodeInfo};
use crate::files::{FileSource, FoundFiles};
use crate::frame::query::{AnswerBody, MAX_SEARCH, QueryAnswer, QueryKind};
use crate::handler::Handler;
use crate::id::NodeId;
use crate::peer::{ConnectionId, Input, OperationId, Purpose};
use crate::time::Instant;

/// The purpose of a dial that an application or the user of the simulation began. The id is that of the
/// application's action; `None` for the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkPurpose {
    /// Only the link.
    Connect(Option<ActionId>),
    /// Joining the network through the node.
    Join(Option<ActionId>),
}

/// A discovery or search that an application has begun.
#[derive(Debug)]
pub(super) struct AppQuery {
    node: usize,
    run: u32,
    action: ActionId,
    kind: AppQueryKind,
}

#[derive(Debug)]
enum AppQueryKind {
    Discovery,
    /// A search, with the files found so far.
    Search(FoundFiles),
}

/// A ping over a link.
#[derive(Debug)]
pub(super) struct SimulatedPing {
    from: usize,
    run: u32,
    to: NodeId,
    connection: ConnectionId,
    action: ActionId,
    sent: Instant,
}

impl<H: Handler> Sim<H> {
    /// Makes a node dial addresses of one other node, until one answers. If `keep` is set, the first address is
    /// dialled again whenever the link is lost.
    pub(super) fn link_to(
        &mut self,
        node: usize,
        addresses: Vec<Address>,
        keep: bool,
        link_purpose: LinkPurpose,
    ) {
        if self.nodes[node].running.is_none() || addresses.is_empty() {
            return;
        }
        let purpose = match link_purpose {
            LinkPurpose::Connect(_) => Purpose::Application,
            LinkPurpose::Join(_) => Purpose::Join,
        };
        let operation = self.next_operation();
        self.link_purposes.insert(operation, link_purpose);
        self.input(node, Input::Dial { operation, addresses, keep, purpose });
    }

    /// Makes a node dial all addresses, and ask for a place in the network at each node that answers.
    pub(super) fn begin_join(&mut self, node: usize, action: ActionId, addresses: Vec<Address>) {
        let Some(running) = &mut self.nodes[node].running else { return };
        if addresses.is_empty() {
            let error = "there is no node to join through".to_owned();
            return self.event(node, Event::NodeActionFailed { action, error });
        }
        running.joins.insert(action, addresses.len());
        self.nodes[node].joining = Joining::Trying;
        // One dial for each address, because the addresses belong to different nodes.
        for address in addresses {
            self.link_to(node, vec![address], false, LinkPurpose::Join(Some(action)));
        }
    }

    /// Ends a join of the application with success: the node is a member.
    pub(super) fn joined(&mut self, node: usize, action: ActionId) {
        let Some(running) = &mut self.nodes[node].running else { return };
        // Joining may succeed through several addresses. The first success ends the join.
        if running.joins.remove(&action).is_some() {
            self.event(node, Event::NodeJoinCompleted { action });
        }
    }

    /// Notes that joining through one node has failed. A join of the application (`action`) fails only with the
    /// last of its addresses.
    pub(super) fn join_attempt_failed(
        &mut self,
        node: usize,
        action: Option<ActionId>,
        error: &str,
    ) {
        if let Some(action) = action {
            let Some(running) = &mut self.nodes[node].running else { return };
            let Some(attempts) = running.joins.get_mut(&action) else { return };
            *attempts = attempts.saturating_sub(1);
            if *attempts > 0 {
                return;
            }
            running.joins.remove(&action);
            self.event(node, Event::NodeActionFailed { action, error: error.to_owned() });
        }
        let joining = &mut self.nodes[node].joining;
        if *joining == Joining::Trying {
            *joining = Joining::Failed(error.to_owned());
        }
    }

    pub(super) fn begin_discovery(&mut self, node: usize, action: ActionId, depth: i32) {
        if let Some(operation) =
            self.begin_app_query(node, action, AppQueryKind::Discovery, QueryKind::Discover, depth)
        {
            self.discoveries.insert(operation, SimulatedDiscovery::default());
        }
    }

    pub(super) fn begin_search(&mut self, node: usize, action: ActionId, text: String) {
        if text.len() > MAX_SEARCH {
            let error = format!("a search has at most {MAX_SEARCH} bytes");
            return self.event(node, Event::NodeActionFailed { action, error });
        }
        let mut found = FoundFiles::default();
        let Some(running) = &self.nodes[node].running else { return };
        let me = running.machine.overlay().info();
        let source = FileSource { id: me.id, name: me.name, addresses: me.addresses };
        // The overlay asks only other nodes, and the results include the node's own files.
        found.add(self.search_shares(node, &text), &source);
        self.begin_app_query(
            node,
            action,
            AppQueryKind::Search(found),
            QueryKind::Search(text),
            -1,
        );
    }

    /// Takes an answer to an application's search. Returns false if the query is not such a search.
    pub(super) fn take_search_answer(
        &mut self,
        operation: OperationId,
        answer: &QueryAnswer,
    ) -> bool {
        let Some(AppQuery { kind: AppQueryKind::Search(found), .. }) =
            self.app_queries.get_mut(&operation)
        else {
            return false;
        };
        if let AnswerBody::Files(files) = &answer.body {
            let (name, addresses) = (answer.name.clone(), answer.addresses.clone());
            found.add(files.clone(), &FileSource { id: answer.node, name, addresses });
        }
        true
    }

    pub(super) fn begin_ping(&mut self, node: usize, action: ActionId, to: NodeId) {
        let Some(running) = &self.nodes[node].running else { return };
        let connection = running.handles.get(&to).map(|handle| handle.connection);
        if to == self.nodes[node].id {
            let error = "a node does not ping itself".to_owned();
            return self.event(node, Event::NodeActionFailed { action, error });
        }
        let (Some(connection), Some(other)) = (connection, self.node_of(to)) else {
            return self.ping_without_link(node, action, to);
        };
        let (ping, run, sent) = (self.next_id(), self.nodes[node].run, self.now);
        self.pings.insert(ping, SimulatedPing { from: node, run, to, connection, action, sent });
        let direct = self.latency(node, other);
        let latency = self.links.get(&connection).map_or(direct, |link| link.latency);
        let round_trip = latency * 2;
        self.queue.put(sent + round_trip, SimEvent::Pong { ping });
    }

    /// Begins a query for an action of a node's application.
    fn begin_app_query(
        &mut self,
        node: usize,
        action: ActionId,
        kind: AppQueryKind,
        what: QueryKind,
        depth: i32,
    ) -> Option<OperationId> {
        let operation = self.begin_query(node, what, depth)?;
        let run = self.nodes[node].run;
        self.app_queries.insert(operation, AppQuery { node, run, action, kind });
        Some(operation)
    }

    /// Makes a node send a query to the network. Returns `None` if the node is not running.
    pub(super) fn begin_query(
        &mut self,
        node: usize,
        what: QueryKind,
        depth: i32,
    ) -> Option<OperationId> {
        self.nodes[node].running.as_ref()?;
        let operation = self.next_operation();
        self.input(node, Input::Query { operation, what, depth, own: false, timeout: None });
        Some(operation)
    }

    /// Reports the outcome of a ping over a link: a success, or a failure if the link has ended or the nodes
    /// are cut off from each other for too long.
    pub(super) fn pong(&mut self, ping: u64) {
        let Some(SimulatedPing { from, run, to, connection, action, sent }) =
            self.pings.remove(&ping)
        else {
            return;
        };
        let Some(running) = self.nodes[from].in_run(run) else { return };
        let linked = running.handles.get(&to).is_some_and(|handle| handle.connection == connection);
        let cut = self.node_of(to).is_none_or(|other| self.is_cut(from, other));
        let overdue = sent + self.config.request_timeout;
        // While the nodes are cut off from each other, the answer waits until the deadline. If they are
        // connected again by then, the ping succeeds, with a long round trip.
        if linked && cut && self.now < overdue {
            self.pings.insert(ping, SimulatedPing { from, run, to, connection, action, sent });
            return self.queue.put(overdue, SimEvent::Pong { ping });
        }
        let event = match (linked, cut) {
            (true, false) => {
                let rtt = self.now.since(sent);
                Event::NodePingCompleted { action, node: to, rtt }
            }
            (true, true) => {
                let error = "no answer came in time".to_owned();
                Event::NodeActionFailed { action, error }
            }
            (false, _) => {
                let error = format!("the link with {} has ended", to.short());
                Event::NodeActionFailed { action, error }
            }
        };
        self.event(from, event);
    }

    /// Reports that a query of an application has ended.
    pub(super) fn app_query_ended(&mut self, operation: OperationId, complete: bool) {
        let Some(AppQuery { node, run, action, kind }) = self.app_queries.remove(&operation) else {
            return;
        };
        let Some(running) = self.nodes[node].in_run(run) else { return };
        let event = match kind {
            AppQueryKind::Discovery => {
                // A node does not answer its own query, so its own links are added here.
                let me = running.machine.overlay().info();
                let found = self.discoveries.remove(&operation).unwrap_or_default().nodes;
                let others = found.into_values().filter(|info| info.id != me.id);
                let nodes: Vec<NodeInfo> = others.collect();
                let nodes = std::iter::once(me).chain(nodes).collect();
                Event::NodeDiscoveryCompleted { action, nodes, complete }
            }
            AppQueryKind::Search(found) => {
                Event::NodeSearchCompleted { action, files: found.into_files() }
            }
        };
        self.event(node, event);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::super::{Latency, Network, NodeOptions, SimConfig};
    use super::*;
    use crate::handler::{Callback, Context};
    use crate::id::{Hash, Key};

    const LATENCY: Duration = Duration::from_millis(20);

    type Log = Vec<(Duration, Event)>;

    /// Records the results of its actions.
    #[derive(Default)]
    struct Results(Log);

    impl Results {
        fn add(&mut self, cx: &Context<'_>, event: Event) {
            self.0.push((cx.now().since_origin(), event));
        }
    }

    impl Handler for Results {
        fn node_discovery_completed(
            &mut self,
            cx: &mut Context<'_>,
            action: ActionId,
            nodes: &[NodeInfo],
            complete: bool,
        ) {
            let nodes = nodes.to_vec();
            self.add(cx, Event::NodeDiscoveryCompleted { action, nodes, complete });
        }

        fn node_search_completed(
            &mut self,
            cx: &mut Context<'_>,
            action: ActionId,
            files: &[crate::files::FoundFile],
        ) {
            let files = files.to_vec();
            self.add(cx, Event::NodeSearchCompleted { action, files });
        }

        fn node_ping_completed(
            &mut self,
            cx: &mut Context<'_>,
            action: ActionId,
            node: NodeId,
            rtt: Duration,
        ) {
            self.add(cx, Event::NodePingCompleted { action, node, rtt });
        }

        fn node_broadcast_failed(&mut self, cx: &mut Context<'_>, title: &str, error: &str) {
            let (title, error) = (title.to_owned(), error.to_owned());
            self.add(cx, Event::NodeBroadcastFailed { title, error });
        }

        fn node_action_failed(&mut self, cx: &mut Context<'_>, action: ActionId, error: &str) {
            self.add(cx, Event::NodeActionFailed { action, error: error.to_owned() });
        }
    }

    /// Returns a simulation of three nodes in a line, the last of them behind a NAT.
    fn line() -> Sim<Results> {
        let network = Network { latency: Latency::Fixed(LATENCY), ..Network::default() };
        let mut sim = Sim::new(SimConfig { seed: 3, network, ..SimConfig::default() });
        for _ in 0..2 {
            sim.add(Results::default());
        }
        // No dial reaches this node, so messages to it are relayed.
        let hidden = NodeOptions { dialable: false, ..NodeOptions::default() };
        sim.add_with(hidden, Results::default());
        sim.connect(0, 1);
        sim.connect(2, 1);
        assert!(sim.run_until(Duration::from_secs(5), |sim| sim.links().len() == 2));
        sim
    }

    /// Begins an action as node 0, and waits for its result.
    fn result(
        sim: &mut Sim<Results>,
        act: impl FnOnce(&mut Context<'_>) -> ActionId,
    ) -> (ActionId, Event) {
        let before = sim.app(0).0.len();
        let action = sim.with(0, |_, cx| act(cx));
        assert!(sim.run_until(Duration::from_secs(60), |sim| sim.app(0).0.len() > before));
        (action, sim.app(0).0[before].1.clone())
    }

    #[test]
    fn the_results_of_discoveries_searches_and_pings_are_events() {
        let mut sim = line();
        let (near, far) = (sim.id(1), sim.id(2));
        let (begun, event) = result(&mut sim, |cx| cx.discover(-1));
        let Event::NodeDiscoveryCompleted { action, nodes, complete: true } = event else {
            panic!("{event:?}");
        };
        let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
        assert_eq!((action, ids.len(), ids[0]), (begun, 3, sim.id(0)));
        assert!(ids.contains(&near) && ids.contains(&far));

        let (begun, event) = result(&mut sim, |cx| cx.ping(near));
        let Event::NodePingCompleted { action, node, rtt } = event else { panic!("{event:?}") };
        assert_eq!((action, node, rtt), (begun, near, 2 * LATENCY));
        let (_, event) = result(&mut sim, |cx| cx.ping(far));
        let Event::NodePingCompleted { node, rtt, .. } = event else { panic!("{event:?}") };
        assert_eq!((node, rtt), (far, 4 * LATENCY), "relayed by the node between them");

        let (begun, event) = result(&mut sim, |cx| cx.search("song"));
        let Event::NodeSearchCompleted { action, files } = event else { panic!("{event:?}") };
        assert_eq!((action, files.len()), (begun, 0));
    }

    #[test]
    fn the_failure_of_an_action_is_an_event() {
        let mut sim = line();
        let (me, near) = (sim.id(0), sim.id(1));
        let unused = Key::from_secret(&[9; 32]).id();
        let mut error = |act: &dyn Fn(&mut Context<'_>) -> ActionId| {
            let (begun, event) = result(&mut sim, act);
            let Event::NodeActionFailed { action, error } = event else { panic!("{event:?}") };
            assert_eq!(action, begun);
            error
        };
        assert!(error(&|cx| cx.fetch(Hash::of(b"x"), "x")).contains("no node"));
        assert!(error(&|cx| cx.share("x")).contains("no file x"));
        assert!(error(&|cx| cx.search("x".repeat(10_000))).contains("at most"));
        assert!(error(&|cx| cx.ping(unused)).contains("knows where"));
        assert!(error(&|cx| cx.ping(me)).contains("itself"));
        sim.partition(&[&[0]]);
        let mut error = |act: &dyn Fn(&mut Context<'_>) -> ActionId| {
            let (_, event) = result(&mut sim, act);
            let Event::NodeActionFailed { error, .. } = event else { panic!("{event:?}") };
            error
        };
        assert!(error(&|cx| cx.ping(near)).contains("in time"));
    }

    #[test]
    fn the_failure_of_a_broadcast_that_is_too_large_is_an_event() {
        let mut sim = line();
        let limit = sim.config.max_broadcast;
        sim.with(0, |_, cx| cx.broadcast("fits", "x"));
        sim.with(0, |_, cx| cx.broadcast("large", "x".repeat(limit + 1)));
        let failed = |sim: &Sim<Results>| !sim.app(0).0.is_empty();
        assert!(sim.run_until(Duration::from_secs(5), failed));
        let [(_, Event::NodeBroadcastFailed { title, error })] = &sim.app(0).0[..] else {
            panic!("{:?}", sim.app(0).0);
        };
        assert!(title == "large" && error.contains("over the limit"), "{title}: {error}");
    }

    #[test]
    fn notes_about_a_peer_end_with_the_link() {
        let mut sim = line();
        let near = sim.id(1);
        sim.with(0, |_, cx| cx.set_info(near, "score", 7));
        assert_eq!(sim.with(0, |_, cx| cx.info(near, "score")), Some(7.into()));
        assert_eq!(sim.with(0, |_, cx| cx.name().to_owned()), "n0");
        sim.break_link(0, 1);
        assert!(sim.run_until(Duration::from_secs(5), |sim| sim.links().len() == 1));
        assert_eq!(sim.with(0, |_, cx| cx.info(near, "score")), None);
    }

    #[test]
    fn a_handler_can_connect_join_and_stop_its_node() {
        let mut sim = Sim::new(SimConfig { seed: 1, ..SimConfig::default() });
        let got = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..3 {
            let got = got.clone();
            sim.add(Callback(move |_: &mut Context<'_>, event: Event| {
                got.lock().unwrap().push(event);
            }));
        }
        let (there, third) = (sim.address(0), sim.address(2));
        let unused: Address = "198.51.100.1:1".parse().unwrap();
        let mut begun = Vec::new();
        sim.with(1, |_, cx| {
            begun.push(cx.join(&[there.clone(), unused.clone()]));
            begun.push(cx.connect(third.clone(), false));
            begun.push(cx.connect(unused.clone(), false));
            begun.push(cx.join(std::slice::from_ref(&unused)));
            begun.push(cx.join(&[]));
        });
        sim.run_for(Duration::from_secs(60));
        assert_eq!(*sim.joining(1), Joining::Joined);
        let mut outcomes: Vec<_> = got.lock().unwrap().iter().filter_map(outcome).collect();
        outcomes.sort();
        let expected = [true, true, false, false, false];
        assert_eq!(outcomes, begun.into_iter().zip(expected).collect::<Vec<_>>());
        sim.with(1, |_, cx| cx.stop());
        assert!(sim.run_until(Duration::from_secs(20), |sim| !sim.is_running(1)));
    }

    /// Returns the action of a connect or join that has ended, and whether it has succeeded.
    fn outcome(event: &Event) -> Option<(ActionId, bool)> {
        match event {
            Event::NodeConnectCompleted { action, .. } | Event::NodeJoinCompleted { action } => {
                Some((*action, true))
            }
            Event::NodeActionFailed { action, .. } => Some((*action, false)),
            _ => None,
        }
    }
}
