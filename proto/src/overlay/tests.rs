//! Networks of overlays whose links lose no frame.

use std::collections::BTreeSet;

use super::admission::Admission;
use super::answers::neighbour_parts;
use super::*;
use crate::event::{Event, Neighbour};
use crate::files::{FileKind, FileName, SharedFile};
use crate::frame::query::{AnswerBody, QueryAnswer, QueryKind, UNLIMITED};
use crate::overlay::relay::RelayError;
use crate::peer::Output;

pub(super) mod bench;
mod budgets;
mod call_back;
mod faults;
mod relay;

/// A network of overlays. A seed decides which link delivers its next frame. The frames of one link stay in
/// order.
struct Net {
    now: Instant,
    nodes: Vec<Overlay>,
    ids: Vec<NodeId>,
    links: BTreeMap<(usize, usize), VecDeque<Frame>>,
    answers: Vec<QueryAnswer>,
    ended: Option<bool>,
    broadcasts: Vec<Vec<String>>,
    messages: Vec<(usize, Peer, Message)>,
    relayed: Vec<(u64, Result<(), RelayError>)>,
    frames: usize,
    rng: ChaCha8Rng,
}

impl Net {
    fn new(len: usize, links: &[(usize, usize)], seed: u64) -> Self {
        let config = Config::default();
        let keys: Vec<_> =
            (0..len).map(|n| Key::from_secret(&[u8::try_from(n + 1).unwrap(); 32])).collect();
        let ids: Vec<_> = keys.iter().map(Key::id).collect();
        let setup = |(n, key)| {
            let (name, network) = (format!("n{n}"), "net".into());
            NodeSetup { key, name, network, epoch: 1, manual: true }
        };
        let nodes = keys.into_iter().enumerate().map(setup);
        let nodes = nodes
            .map(|setup| {
                // With the same seed, two nodes would draw the same query ids.
                let seed = *setup.key.id().as_bytes();
                Overlay::new(setup, &config, seed)
            })
            .collect();
        let mut net = Self {
            now: Instant::ZERO,
            nodes,
            ids,
            links: BTreeMap::new(),
            answers: Vec::new(),
            ended: None,
            broadcasts: vec![Vec::new(); len],
            messages: Vec::new(),
            relayed: Vec::new(),
            frames: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
        };
        for (from, to) in links {
            net.link(*from, *to);
        }
        net
    }

    fn link(&mut self, from: usize, to: usize) {
        for (me, other, direction) in
            [(from, to, Direction::Outbound), (to, from, Direction::Inbound)]
        {
            let id = self.ids[other];
            let address: Address = format!("127.0.0.1:{}", 7000 + other).parse().unwrap();
            let ip = address.socket().unwrap().ip();
            let candidate = Candidate { id, direction, incarnation: 1, ip, is_relayed: false };
            assert_eq!(self.nodes[me].admit(&candidate, &[]), Admission::Accept);
            let peer = Peer::new(id, format!("n{other}"), address, direction);
            self.act(me, |node| node.link_up(peer, candidate, None, LinkTransport::default()));
        }
    }

    fn unlink(&mut self, a: usize, b: usize) {
        for (me, other) in [(a, b), (b, a)] {
            self.links.remove(&(me, other));
            let link_end = LinkEnd { reason: Reason::Requested, by_peer: false };
            let id = self.ids[other];
            self.act(me, |node| node.link_down(id, &link_end));
        }
    }

    /// Calls `act` with a node, at the present time of the network.
    fn act<T>(&mut self, node: usize, act: impl FnOnce(&mut Overlay) -> T) -> T {
        let passed = self.now.since(self.nodes[node].now.monotonic);
        let unix = self.nodes[node].now.unix + u64::try_from(passed.as_millis()).unwrap();
        self.nodes[node].set_clocks(Now { monotonic: self.now, unix });
        let done = act(&mut self.nodes[node]);
        self.drain(node);
        done
    }

    fn receive(&mut self, node: usize, from: NodeId, frame: Frame) {
        self.act(node, |node| node.receive(from, frame));
    }

    fn drain(&mut self, node: usize) {
        let mut lookups = Vec::new();
        while let Some(effect) = self.nodes[node].poll() {
            match effect {
                Effect::Send(to, frame) => {
                    let to = self.ids.iter().position(|id| *id == to).unwrap();
                    self.frames += 1;
                    self.links.entry((node, to)).or_default().push_back(frame);
                }
                Effect::Answered(answer) => self.answers.push(answer),
                Effect::QueryEnded { complete, .. } => {
                    assert_eq!(self.ended.replace(complete), None, "a query ends once");
                }
                Effect::Out(Output::LookUpAnswer { query, what, .. }) => {
                    let files = match &what {
                        QueryKind::Search(text) => vec![file(&format!("{text}-{node}"))],
                        _ => Vec::new(),
                    };
                    let here = matches!(what, QueryKind::SignedCallBack { .. });
                    lookups.push(Command::Answer { query, files, here });
                }
                Effect::Out(Output::Event(Event::NodeBroadcast { broadcast })) => {
                    let text = broadcast.message.as_text().unwrap().to_owned();
                    self.broadcasts[node].push(text);
                }
                Effect::Out(Output::Event(Event::NodeMessage { peer, message })) => {
                    self.messages.push((node, peer, message));
                }
                Effect::Relayed { number, sent } => self.relayed.push((number, sent)),
                Effect::Out(Output::Keep(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        for command in lookups {
            self.act(node, |node| node.command(command));
        }
    }

    /// Delivers frames until none is under way.
    fn deliver_all(&mut self) {
        loop {
            let busy: Vec<_> = self
                .links
                .iter()
                .filter(|(_, frames)| !frames.is_empty())
                .map(|(at, _)| *at)
                .collect();
            let Some(pick) = (!busy.is_empty()).then(|| self.rng.next_u32() as usize) else {
                return;
            };
            let (from, to) = busy[pick % busy.len()];
            let frame = self.links.get_mut(&(from, to)).unwrap().pop_front().unwrap();
            let from = self.ids[from];
            self.receive(to, from, frame);
        }
    }

    fn ask(&mut self, node: usize, what: QueryKind, depth: i32) {
        (self.answers, self.ended) = (Vec::new(), None);
        self.act(node, |node| node.ask(what, depth, false, None));
    }

    fn discover(&mut self, node: usize, depth: i32) -> BTreeSet<NodeId> {
        self.ask(node, QueryKind::Discover, depth);
        self.deliver_all();
        assert_eq!(self.ended, Some(true), "the query ends before any deadline, and is complete");
        let found: Vec<_> = self.answers.iter().map(|answer| answer.node).collect();
        let set: BTreeSet<_> = found.iter().copied().collect();
        assert_eq!(found.len(), set.len(), "each node answers once");
        set
    }
}

fn file(name: &str) -> SharedFile {
    SharedFile {
        hash: Hash::of(name.as_bytes()),
        name: FileName::new(name).unwrap(),
        size: 1,
        kind: FileKind::File,
    }
}

fn ring(len: usize) -> Vec<(usize, usize)> {
    (0..len).map(|n| (n, (n + 1) % len)).collect()
}

fn mesh(len: usize) -> Vec<(usize, usize)> {
    (0..len).flat_map(|a| (0..a).map(move |b| (a, b))).collect()
}

#[test]
fn discoveries_in_a_ring_and_in_a_mesh_find_the_same_nodes() {
    for seed in 0..20 {
        let mut in_ring = Net::new(10, &ring(10), seed);
        let mut in_mesh = Net::new(10, &mesh(10), seed);
        for asking in 0..10 {
            let found = in_ring.discover(asking, -1);
            assert_eq!(found.len(), 9, "seed {seed}");
            assert_eq!(found, in_mesh.discover(asking, -1), "seed {seed}");
        }
    }
}

#[test]
fn depth_counts_the_shortest_path_whatever_arrives_first() {
    // A ring of 10 nodes with a chord. `hops` has the distance of each node from node 0.
    let mut links = ring(10);
    links.push((0, 5));
    let hops = [0, 1, 2, 3, 2, 1, 2, 3, 2, 1];
    for seed in 0..100 {
        let mut net = Net::new(10, &links, seed);
        for depth in 0..5 {
            let expected: BTreeSet<_> =
                (1..10).filter(|n| hops[*n] <= depth).map(|n| net.ids[n]).collect();
            assert_eq!(net.discover(0, depth), expected, "seed {seed}, depth {depth}");
        }
    }
}

#[test]
fn answers_show_the_links_and_their_directions() {
    let mut net = Net::new(3, &[(0, 1), (1, 2)], 1);
    net.discover(0, -1);
    let answer = net.answers.iter().find(|answer| answer.node == net.ids[1]).unwrap();
    let AnswerBody::Neighbours(outbound, inbound) = &answer.body else { panic!("{answer:?}") };
    assert_eq!((outbound.len(), inbound.len()), (1, 1));
    assert_eq!((outbound[0].id, inbound[0].id), (net.ids[2], net.ids[0]));
    assert_eq!(outbound[0].address.to_string(), "127.0.0.1:7002");
}

#[test]
fn the_number_of_frames_of_a_query_is_bounded_by_the_links() {
    let mut net = Net::new(10, &mesh(10), 1);
    net.frames = 0;
    net.discover(0, -1);
    // On each of the 45 links, a query and a "done" in each direction, and 9 answers over at most a few hops.
    assert!(net.frames <= 4 * 45 + 9 * 9, "{} frames", net.frames);
}

#[test]
fn a_search_finds_the_files_of_all_other_nodes() {
    let mut net = Net::new(5, &ring(5), 3);
    net.ask(2, QueryKind::Search("song".into()), -1);
    net.deliver_all();
    assert_eq!(net.ended, Some(true));
    let mut names: Vec<_> = net
        .answers
        .iter()
        .filter_map(|answer| match &answer.body {
            AnswerBody::Files(files) => Some(files[0].name.as_str().to_owned()),
            _ => None,
        })
        .collect();
    names.sort();
    assert_eq!(names, ["song-0", "song-1", "song-3", "song-4"]);
}

#[test]
fn the_wanted_node_and_its_neighbours_answer_a_query_for_it() {
    let mut net = Net::new(4, &[(0, 1), (1, 2), (2, 3)], 1);
    let wanted = net.ids[3];
    net.ask(0, QueryKind::FindNode(wanted), -1);
    net.deliver_all();
    assert!(net.answers.iter().all(|answer| answer.node == wanted));
    assert_eq!(net.answers.len(), 2);
}

#[test]
fn a_query_ends_as_incomplete_if_a_link_ends() {
    let mut net = Net::new(4, &[(0, 1), (1, 2), (2, 3)], 1);
    net.ask(0, QueryKind::Discover, -1);
    let frame = net.links.get_mut(&(0, 1)).unwrap().pop_front().unwrap();
    net.receive(1, net.ids[0], frame);
    net.unlink(2, 1);
    net.deliver_all();
    assert_eq!(net.ended, Some(false));
}

#[test]
fn a_query_ends_at_its_deadline_if_a_node_does_not_answer() {
    let mut net = Net::new(3, &[(0, 1), (1, 2)], 1);
    net.ask(0, QueryKind::Discover, -1);
    net.links.clear();
    net.now = net.nodes[0].poll_timeout().unwrap();
    net.act(0, Overlay::handle_timeout);
    assert_eq!(net.ended, Some(false));
}

#[test]
fn broadcasts_reach_all_once_and_in_each_authors_order() {
    for seed in 0..20 {
        let mut net = Net::new(10, &mesh(10), seed);
        for n in 0..20 {
            // The broadcasts are a second apart, so that each is sent in a batch of its own.
            net.now = net.now + Duration::from_secs(1);
            let text = n.to_string();
            let sent = net.act(n % 2, |node| node.broadcast(String::new(), text.into()));
            assert_eq!(sent.unwrap().1, 9);
        }
        net.deliver_all();
        for (node, got) in net.broadcasts.iter().enumerate() {
            for author in (0..2).filter(|author| *author != node) {
                let of_author =
                    got.iter().filter(|text| text.parse::<usize>().unwrap() % 2 == author);
                let expected: Vec<_> =
                    (0..20).filter(|n| n % 2 == author).map(|n| n.to_string()).collect();
                assert!(of_author.eq(expected.iter()), "seed {seed}, node {node}");
            }
        }
    }
}

#[test]
fn a_forged_broadcast_ends_the_link_and_is_not_passed_on() {
    let mut net = Net::new(2, &[(0, 1)], 1);
    let mut forged = broadcast::tests::batch(1, &["x"]);
    forged.signature[0] ^= 1;
    // The first node is the author of the batch.
    let from = net.ids[0];
    net.nodes[1].set_clocks(Now { monotonic: net.now, unix: broadcast::tests::UNIX });
    net.nodes[1].receive(from, Frame::Broadcast(forged));
    let Some(Effect::CloseLink(id, Reason::Fault(_))) = net.nodes[1].poll() else {
        panic!("the link was kept")
    };
    assert_eq!(id, from);
    assert!(net.nodes[1].poll().is_none());
}

#[test]
fn a_node_with_many_links_splits_its_answer() {
    let neighbour = |n: usize| Neighbour {
        id: NodeId::from_bytes([u8::try_from(n).unwrap(); 32]),
        address: "127.0.0.1:1".parse().unwrap(),
    };
    let many: Vec<_> = (0..250).map(neighbour).collect();
    let parts = neighbour_parts(many.clone(), many[..1].to_vec());
    assert_eq!(parts.len(), 3);
    assert_eq!(neighbour_parts(vec![], vec![]).len(), 1);
}

#[test]
fn a_clock_that_was_set_is_compared_with_those_of_all_peers_again() {
    let setup = NodeSetup {
        key: Key::from_secret(&[1; 32]),
        name: "n".into(),
        network: "net".into(),
        epoch: 1_700_000_000_000,
        manual: true,
    };
    let mut node = Overlay::new(setup, &Config::default(), [1; 32]);
    let at = |seconds| Instant::from_origin(Duration::from_secs(seconds));
    let unix = |seconds: u64| 1_700_000_000_000 + seconds * 1000;
    node.set_clocks(Now { monotonic: at(0), unix: unix(0) });
    let id = Key::from_secret(&[2; 32]).id();
    let address: Address = "127.0.0.1:7117".parse().unwrap();
    let ip = address.socket().unwrap().ip();
    let direction = Direction::Inbound;
    let candidate = Candidate { id, direction, incarnation: 1, ip, is_relayed: false };
    let peer = Peer::new(id, "p".into(), address, direction);
    let skews = |node: &mut Overlay| {
        let mut skews = Vec::new();
        while let Some(effect) = node.poll() {
            if let Effect::Out(Output::Event(Event::NodeClockSkew { seconds, .. })) = effect {
                skews.push(seconds);
            }
        }
        skews
    };
    node.link_up(peer, candidate, Some(unix(1)), LinkTransport::default());
    assert!(skews(&mut node).is_empty());
    // An hour later, both clocks have advanced by an hour, so nothing is reported.
    node.set_clocks(Now { monotonic: at(3600), unix: unix(3600) });
    assert!(skews(&mut node).is_empty());
    // This node's clock is set back by an hour, and later set right again.
    node.set_clocks(Now { monotonic: at(3700), unix: unix(100) });
    assert_eq!(skews(&mut node), [3601]);
    assert_eq!(node.clock_status().apart, 1);
    node.set_clocks(Now { monotonic: at(3800), unix: unix(3800) });
    assert!(skews(&mut node).is_empty());
    assert_eq!(node.clock_status(), ClockStatus::default());
}
