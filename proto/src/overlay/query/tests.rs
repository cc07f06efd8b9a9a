//! The queries part alone, compared by its exact effects.

use super::*;
use crate::event::Neighbour;
use crate::files::{FileKind, FileName, SharedFile};
use crate::id::{Hash, Key};
use crate::node_record::NodeRecord;
use crate::overlay::budgets::Standing;

mod strangers;

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn at(seconds: u64) -> Instant {
    Instant::from_origin(Duration::from_secs(seconds))
}

const ID: QueryId = QueryId([7; 16]);
const TTL: Duration = Duration::from_secs(10);

fn query(depth: u8) -> Query {
    Query { id: ID, depth, own: false, ttl: TTL, what: QueryKind::Discover }
}

fn sent(to: u8, depth: u8) -> Effect {
    Effect::Send(node(to), Frame::Query(query(depth)))
}

fn done(to: u8, depth: u8, complete: bool) -> Effect {
    Effect::Send(node(to), Frame::QueryDone(QueryDone { id: ID, depth, complete }))
}

fn query_done(depth: u8, complete: bool) -> QueryDone {
    QueryDone { id: ID, depth, complete }
}

fn answer(from: u8) -> QueryAnswer {
    QueryAnswer {
        id: ID,
        node: node(from),
        name: "x".into(),
        addresses: vec![],
        body: AnswerBody::Neighbours(vec![], vec![]),
    }
}

fn lookup() -> Effect {
    Effect::Out(Output::LookUpAnswer { query: ID, what: QueryKind::Discover, asker: None })
}

fn ended(complete: bool) -> Effect {
    Effect::QueryEnded { query: ID, complete }
}

/// Returns the effects of `act` as debug text, as frames can't be compared.
fn outputs(queries: &mut Queries, act: impl FnOnce(&mut Queries, &mut Effects)) -> Vec<String> {
    let mut out = Effects::new();
    act(queries, &mut out);
    out.iter().map(|output| format!("{output:?}")).collect()
}

fn same(outputs: &[String], expected: &[Effect]) {
    let expected: Vec<_> = expected.iter().map(|output| format!("{output:?}")).collect();
    assert_eq!(outputs, expected);
}

fn ask(queries: &mut Queries, depth: u8, neighbours: &[u8]) -> Vec<String> {
    let neighbours = neighbours.iter().map(|n| peer(*n));
    outputs(queries, |q, out| {
        let question = Question { what: QueryKind::Discover, depth, own: false };
        q.ask(at(0), ID, question, TTL, neighbours, out);
    })
}

fn receive(queries: &mut Queries, from: u8, depth: u8, neighbours: &[u8]) -> Vec<String> {
    let neighbours = neighbours.iter().map(|n| peer(*n));
    outputs(queries, |q, out| {
        q.receive(at(0), link(from, &mut budgets()), query(depth), neighbours, |_| None, out);
    })
}

/// Returns a peer to ask, which is a neighbour if its number is below ten.
fn peer(n: u8) -> AskedPeer {
    AskedPeer { id: node(n), is_stranger: n >= 10 }
}

/// Returns the link with a node, which is a neighbour if its number is below ten.
fn link(from: u8, budgets: &mut Budgets) -> AskingLink<'_> {
    AskingLink { peer: node(from), is_of_stranger: from >= 10, budgets }
}

/// Returns budgets that nothing was taken from. The nodes 1 to 9 are relays.
fn budgets() -> Budgets {
    let mut budgets = Budgets::new(&Config::default());
    for n in 1..10 {
        budgets.set_standing(node(n), Standing::Relay);
    }
    budgets
}

fn new() -> Queries {
    Queries::new(&Config::default())
}

#[test]
fn a_query_without_depth_or_neighbours_ends_at_once() {
    same(&ask(&mut new(), 0, &[1, 2]), &[ended(true)]);
    same(&ask(&mut new(), 3, &[]), &[ended(true)]);
}

#[test]
fn a_query_of_this_node_ends_when_all_peers_are_done() {
    let mut q = new();
    same(&ask(&mut q, 1, &[1, 2]), &[sent(1, 0), sent(2, 0)]);
    let out =
        outputs(&mut q, |q, out| q.receive_answer(at(0), node(1), answer(1), &mut budgets(), out));
    same(&out, &[Effect::Answered(answer(1))]);
    same(&outputs(&mut q, |q, out| q.receive_done(at(0), node(1), query_done(0, true), out)), &[]);
    // A second "done" of the same peer does not count for the other peer.
    same(&outputs(&mut q, |q, out| q.receive_done(at(0), node(1), query_done(0, true), out)), &[]);
    same(
        &outputs(&mut q, |q, out| q.receive_done(at(0), node(2), query_done(0, true), out)),
        &[ended(true)],
    );
    assert_eq!(q.deadlines.len(), 0);
}

#[test]
fn a_query_is_done_after_its_answer_and_its_branch() {
    let mut q = new();
    same(&receive(&mut q, 1, UNLIMITED, &[1, 2]), &[lookup(), sent(2, UNLIMITED)]);
    let out =
        outputs(&mut q, |q, out| q.receive_answer(at(0), node(2), answer(2), &mut budgets(), out));
    same(&out, &[Effect::Send(node(1), Frame::Answer(answer(2)))]);
    let out =
        outputs(&mut q, |q, out| q.receive_done(at(0), node(2), query_done(UNLIMITED, true), out));
    same(&out, &[]);
    let out = outputs(&mut q, |q, out| q.answer(at(0), ID, vec![answer(9)], &mut budgets(), out));
    same(&out, &[Effect::Send(node(1), Frame::Answer(answer(9))), done(1, UNLIMITED, true)]);
    // A second result of the look-up is not sent.
    same(&outputs(&mut q, |q, out| q.answer(at(0), ID, vec![answer(9)], &mut budgets(), out)), &[]);
}

#[test]
fn a_query_seen_before_is_done_at_once() {
    let mut q = new();
    receive(&mut q, 1, 3, &[1, 2]);
    same(&receive(&mut q, 2, 3, &[1, 2]), &[done(2, 3, true)]);
    same(&receive(&mut q, 2, 2, &[1, 2]), &[done(2, 2, true)]);
}

#[test]
fn a_query_that_comes_again_with_more_depth_is_passed_on_again() {
    let mut q = new();
    same(&receive(&mut q, 1, 0, &[1, 2, 3]), &[lookup()]);
    same(
        &outputs(&mut q, |q, out| q.answer(at(0), ID, vec![], &mut budgets(), out)),
        &[done(1, 0, true)],
    );
    same(&receive(&mut q, 2, 2, &[1, 2, 3]), &[sent(1, 1), sent(3, 1)]);
    same(&outputs(&mut q, |q, out| q.receive_done(at(0), node(1), query_done(1, true), out)), &[]);
    let out = outputs(&mut q, |q, out| q.receive_done(at(0), node(3), query_done(1, true), out));
    same(&out, &[done(2, 2, true)]);
}

#[test]
fn answers_of_peers_that_were_not_asked_or_are_done_are_dropped() {
    let mut q = new();
    ask(&mut q, 1, &[1]);
    same(
        &outputs(&mut q, |q, out| q.receive_answer(at(0), node(5), answer(5), &mut budgets(), out)),
        &[],
    );
    outputs(&mut q, |q, out| q.receive_done(at(0), node(1), query_done(0, true), out));
    same(
        &outputs(&mut q, |q, out| q.receive_answer(at(0), node(1), answer(1), &mut budgets(), out)),
        &[],
    );
}

#[test]
fn the_size_of_all_answers_to_a_query_is_limited() {
    let mut q = new();
    ask(&mut q, 1, &[1]);
    let address: crate::address::Address = "127.0.0.1:1".parse().unwrap();
    let neighbour = Neighbour { id: node(4), address };
    let body = AnswerBody::Neighbours(vec![neighbour.clone(); 90], vec![neighbour; 90]);
    let long = QueryAnswer { body, ..answer(1) };
    let mut passed = 0;
    for _ in 0..2 * MAX_ANSWERED / 181 {
        let mut out = Effects::new();
        q.receive_answer(at(0), node(1), long.clone(), &mut budgets(), &mut out);
        passed += out.len();
    }
    assert_eq!(passed, MAX_ANSWERED / 181);
    assert_eq!(q.drops().answers, (2 * MAX_ANSWERED / 181 - passed) as u64);
    let out = outputs(&mut q, |q, out| q.receive_done(at(0), node(1), query_done(0, true), out));
    same(&out, &[ended(false)]);
}

#[test]
fn the_deadline_ends_open_branches_as_incomplete() {
    let mut q = new();
    ask(&mut q, 1, &[1]);
    assert_eq!(q.poll_timeout(), Some(at(10)));
    same(&outputs(&mut q, |q, out| q.handle_timeout(at(9), &mut budgets(), out)), &[]);
    same(&outputs(&mut q, |q, out| q.handle_timeout(at(10), &mut budgets(), out)), &[ended(false)]);

    let mut q = new();
    receive(&mut q, 1, 5, &[1, 2]);
    same(
        &outputs(&mut q, |q, out| q.handle_timeout(at(10), &mut budgets(), out)),
        &[done(1, 5, false)],
    );
    // The query is still remembered, and later forgotten.
    same(&receive(&mut q, 2, 9, &[1, 2]), &[sent(1, 8)]);
    outputs(&mut q, |q, out| q.handle_timeout(at(60), &mut budgets(), out));
    assert_eq!((q.table.len(), q.by_link.len(), q.poll_timeout()), (0, 0, None));
}

#[test]
fn a_query_neither_waits_for_a_lost_link_nor_answers_over_it() {
    let mut q = new();
    ask(&mut q, 1, &[1, 2]);
    same(&outputs(&mut q, |q, out| q.link_down(node(1), out)), &[]);
    let out = outputs(&mut q, |q, out| q.receive_done(at(0), node(2), query_done(0, true), out));
    same(&out, &[ended(false)]);

    let mut q = new();
    receive(&mut q, 1, 5, &[1, 2]);
    same(&outputs(&mut q, |q, out| q.link_down(node(1), out)), &[]);
    same(&outputs(&mut q, |q, out| q.answer(at(0), ID, vec![], &mut budgets(), out)), &[]);
}

#[test]
fn the_table_is_bounded_in_total_and_for_each_link() {
    let mut q = Queries::new(&Config { query_table: 16, ..Config::default() });
    let receive = |q: &mut Queries, from: u8, n: u8| {
        let query = Query { id: QueryId([n; 16]), ..query(0) };
        let mut out = Effects::new();
        q.receive(at(0), link(from, &mut budgets()), query, std::iter::empty(), |_| None, &mut out);
        matches!(out[0], Effect::Out(Output::LookUpAnswer { .. }))
    };
    // One link can fill an eighth of the table.
    assert_eq!((0..16).filter(|n| receive(&mut q, 1, *n)).count(), 2);
    let others = (2..32).filter(|n| receive(&mut q, *n, 100 + *n)).count();
    assert_eq!((others, q.table.len()), (14, 16));
    assert_eq!(q.drops().queries, 14 + 16);
    let mut out = Effects::new();
    q.handle_timeout(at(60), &mut budgets(), &mut out);
    assert!(receive(&mut q, 1, 200));
}

pub(crate) fn samples() -> Vec<Frame> {
    let address: crate::address::Address = "127.0.0.1:7117".parse().unwrap();
    let whats = [
        QueryKind::Discover,
        QueryKind::Search("über".into()),
        QueryKind::HasFile(Hash::of(b"x")),
        QueryKind::FindNode(node(3)),
        QueryKind::CallBack { target: node(3), token: [1; 16], addresses: vec![address.clone()] },
        QueryKind::Sample { salt: [2; 8], bits: 8 },
        QueryKind::SignedCallBack {
            target: node(3),
            token: [1; 16],
            record: Box::new(NodeRecord::sign(
                &Key::from_secret(&[3; 32]),
                "net",
                8,
                std::slice::from_ref(&address),
            )),
        },
    ];
    let mut frames: Vec<_> =
        whats.into_iter().map(|what| Frame::Query(Query { what, ..query(3) })).collect();
    let neighbour = Neighbour { id: node(4), address: address.clone() };
    let file = SharedFile {
        hash: Hash::of(b"y"),
        name: FileName::new("a.txt").unwrap(),
        size: 5,
        kind: FileKind::File,
    };
    let bodies = [
        AnswerBody::Neighbours(vec![neighbour.clone()], vec![neighbour]),
        AnswerBody::Files(vec![file]),
        AnswerBody::Here,
    ];
    frames.extend(bodies.map(|body| {
        Frame::Answer(QueryAnswer { body, addresses: vec![address.clone()], ..answer(2) })
    }));
    frames.push(Frame::QueryDone(query_done(UNLIMITED, false)));
    frames
}

#[test]
fn a_query_that_a_node_asks_for_itself_reaches_only_its_neighbours() {
    let own = |depth| Query { own: true, ..query(depth) };
    let mut q = new();
    let out = outputs(&mut q, |q, out| {
        let question = Question { what: QueryKind::Discover, depth: UNLIMITED, own: true };
        q.ask(at(0), ID, question, TTL, [1, 2].map(peer).into_iter(), out);
    });
    let asked = |to| Effect::Send(node(to), Frame::Query(own(0)));
    same(&out, &[asked(1), asked(2)]);
    same(&outputs(&mut q, |q, out| q.receive_done(at(0), node(1), query_done(0, true), out)), &[]);
    same(
        &outputs(&mut q, |q, out| q.receive_done(at(0), node(2), query_done(0, true), out)),
        &[ended(true)],
    );

    // A query that a peer asks for itself is not passed on, whatever its depth, and whether its id is known or
    // not.
    let mut q = new();
    let receive = |q: &mut Queries, from, query| {
        outputs(q, |q, out| {
            q.receive(
                at(0),
                link(from, &mut budgets()),
                query,
                [1, 2].map(peer).into_iter(),
                |_| None,
                out,
            );
        })
    };
    let lookup = Effect::Out(Output::LookUpAnswer {
        query: ID,
        what: QueryKind::Discover,
        asker: Some(node(1)),
    });
    same(&receive(&mut q, 1, own(UNLIMITED)), &[lookup]);
    same(&receive(&mut q, 2, query(UNLIMITED)), &[done(2, UNLIMITED, true)]);
    let out = outputs(&mut q, |q, out| q.answer(at(0), ID, vec![answer(9)], &mut budgets(), out));
    same(&out, &[Effect::Send(node(1), Frame::Answer(answer(9))), done(1, UNLIMITED, true)]);

    let mut q = new();
    same(&receive(&mut q, 1, query(0))[..1], &[self::lookup()]);
    same(&receive(&mut q, 2, own(UNLIMITED)), &[done(2, UNLIMITED, true)]);
}

#[test]
fn look_ups_are_limited_for_each_link_and_for_all_together() {
    let mut q = Queries::new(&Config { lookup_rate: 2, ..Config::default() });
    let mut asked = 0u8;
    let mut receive = |q: &mut Queries, at: Instant, from: u8, what: QueryKind| {
        asked += 1;
        let query = Query { id: QueryId([asked; 16]), what, ..query(1) };
        outputs(q, |q, out| {
            q.receive(
                at,
                link(from, &mut budgets()),
                query,
                [1, 9].map(peer).into_iter(),
                |_| None,
                out,
            );
        })
    };
    let search = || QueryKind::Search("x".into());
    let is_looked_up = |out: &[String]| out[0].contains("LookUpAnswer");
    for n in 0..30 {
        let what = if n % 2 == 0 { search() } else { QueryKind::HasFile(Hash::of(b"x")) };
        let out = receive(&mut q, at(1), 1, what);
        assert_eq!(is_looked_up(&out), n < 20, "{n}");
        assert_eq!(q.drops().lookups, if n < 20 { 0 } else { n - 19 });
        // The query is passed on in any case. It ends as incomplete once the other peer is done.
        assert!(out.iter().any(|line| line.starts_with("Send") && line.contains("Query(")));
    }
    let id = QueryId([30; 16]);
    let query_done = QueryDone { id, depth: 0, complete: true };
    let out = outputs(&mut q, |q, out| q.receive_done(at(0), node(9), query_done, out));
    let done = QueryDone { id, depth: 1, complete: false };
    same(&out, &[Effect::Send(node(1), Frame::QueryDone(done))]);
    // Other links have budgets of their own, until the budget of all links is spent.
    for n in 0..30 {
        assert_eq!(is_looked_up(&receive(&mut q, at(1), 2, search())), n < 20, "{n}");
    }
    assert!(!is_looked_up(&receive(&mut q, at(1), 3, search())));
    assert!(
        is_looked_up(&receive(&mut q, at(1), 3, QueryKind::Discover)),
        "a discovery needs no look-up"
    );
    let later = at(1) + Duration::from_millis(500);
    assert!(is_looked_up(&receive(&mut q, later, 1, search())));
    assert!(!is_looked_up(&receive(&mut q, later, 1, search())));
    assert!(is_looked_up(&receive(&mut q, later, 3, search())));
    assert!(!is_looked_up(&receive(&mut q, later, 3, search())), "two look-ups for all links");
    outputs(&mut q, |q, out| q.link_down(node(1), out));
    assert!(!format!("{:?}", q.lookups).contains(&format!("{:?}", node(1))));
}

fn answered_at(q: &mut Queries, seconds: u64, from: u8) -> Vec<String> {
    outputs(q, |q, out| {
        q.receive_answer(at(seconds), node(from), answer(from), &mut budgets(), out);
    })
}

#[test]
fn stray_answers_are_counted_and_too_many_end_the_link() {
    let mut q = new();
    for n in 1..=100 {
        same(&answered_at(&mut q, 0, 1), &[]);
        assert_eq!(q.strays(), n);
    }
    // Each link has a count of its own, which decreases with time.
    same(&answered_at(&mut q, 0, 2), &[]);
    same(&answered_at(&mut q, 1, 1), &[]);
    let out = answered_at(&mut q, 1, 1);
    assert!(out.len() == 1 && out[0].starts_with("CloseLink"), "{out:?}");
    assert!(out[0].contains("did not send"), "{out:?}");
    let mut out = Effects::new();
    q.link_down(node(1), &mut out);
    same(&answered_at(&mut q, 1, 1), &[]);
    assert_eq!(q.strays(), 104);
}

#[test]
fn an_answer_over_another_link_is_ignored() {
    let mut q = new();
    ask(&mut q, 1, &[1]);
    same(&answered_at(&mut q, 1, 2), &[]);
    assert_eq!(q.strays(), 1);
    // After "done", no answer is expected.
    same(
        &outputs(&mut q, |q, out| q.receive_done(at(1), node(1), query_done(0, true), out)),
        &[ended(true)],
    );
    same(&answered_at(&mut q, 1, 1), &[]);
    assert_eq!(q.strays(), 2);
    // The peer that a query came from was not asked, so it may not answer.
    let mut q = new();
    receive(&mut q, 1, UNLIMITED, &[2]);
    same(&answered_at(&mut q, 1, 1), &[]);
    assert_eq!(q.strays(), 1);
}

#[test]
fn a_late_answer_is_no_fault() {
    let mut q = new();
    ask(&mut q, 1, &[1, 2]);
    outputs(&mut q, |q, out| q.handle_timeout(at(10), &mut budgets(), out));
    for seconds in [10, 59] {
        for _ in 0..200 {
            same(&answered_at(&mut q, seconds, 1), &[]);
        }
    }
    // The query is removed from the table. Its id is remembered for as long again.
    outputs(&mut q, |q, out| q.handle_timeout(at(60), &mut budgets(), out));
    assert_eq!(q.len(), 0);
    same(&answered_at(&mut q, 100, 2), &[]);
    same(
        &outputs(&mut q, |q, out| q.receive_done(at(100), node(1), query_done(0, true), out)),
        &[],
    );
    assert_eq!(q.strays(), 0);
    outputs(&mut q, |q, out| q.handle_timeout(at(120), &mut budgets(), out));
    same(&answered_at(&mut q, 120, 2), &[]);
    assert_eq!(q.strays(), 1);
}

#[test]
fn answers_to_a_query_whose_asker_has_gone_are_no_fault() {
    let mut q = new();
    receive(&mut q, 1, UNLIMITED, &[1, 2]);
    outputs(&mut q, |q, out| q.link_down(node(1), out));
    for _ in 0..200 {
        same(&answered_at(&mut q, 1, 2), &[]);
    }
    assert_eq!(q.strays(), 0);
    // This peer was not asked.
    same(&answered_at(&mut q, 1, 3), &[]);
    assert_eq!(q.strays(), 1);
}

/// Receives one new query for each of `ids`, from a node with a neighbour 9. Returns how many were passed on.
fn flood(q: &mut Queries, budgets: &mut Budgets, from: u8, ids: std::ops::Range<u32>) -> usize {
    let mut passed_on = 0;
    for n in ids {
        let mut id = [from; 16];
        id[..4].copy_from_slice(&n.to_le_bytes());
        let what = QueryKind::FindNode(node(77));
        let query = Query { id: QueryId(id), what, ..query(UNLIMITED) };
        let out = outputs(q, |q, out| {
            let neighbours = [peer(from), peer(9)].into_iter();
            q.receive(at(0), link(from, budgets), query, neighbours, |_| Some(vec![]), out);
        });
        passed_on += out.iter().filter(|line| line.contains("Query(Query")).count();
    }
    passed_on
}

#[test]
fn a_query_over_the_budget_is_answered_but_not_passed_on() {
    let (mut q, mut budgets) = (new(), budgets());
    assert_eq!(flood(&mut q, &mut budgets, 50, 0..1000), 8 + 32);
    // The node's own answer, and then the end, which says that other nodes may have more answers.
    let query = Query { id: QueryId([3; 16]), ..query(UNLIMITED) };
    let out = outputs(&mut q, |q, out| {
        let known = |_: &Query| Some(vec![answer(7)]);
        q.receive(at(0), link(50, &mut budgets), query, [peer(9)].into_iter(), known, out);
    });
    let id = QueryId([3; 16]);
    let done = QueryDone { id, depth: UNLIMITED, complete: false };
    let expected = [
        Effect::Send(node(50), Frame::Answer(answer(7))),
        Effect::Send(node(50), Frame::QueryDone(done)),
    ];
    same(&out, &expected);
    // Other strangers and relays are not affected.
    assert_eq!(flood(&mut q, &mut budgets, 51, 0..100), 8);
    assert_eq!(flood(&mut q, &mut budgets, 1, 0..1000), 1000);
}

/// A node with many links has long answers. They are charged, so a stranger that floods it soon gets none.
#[test]
fn a_query_over_the_budget_for_answers_is_dropped() {
    let (mut q, mut budgets) = (new(), budgets());
    budgets.set_member(true);
    let address: crate::address::Address = "127.0.0.1:1".parse().unwrap();
    let peers = vec![Neighbour { id: node(4), address }; 90];
    let own_answer =
        QueryAnswer { body: AnswerBody::Neighbours(peers.clone(), peers), ..answer(7) };
    let (mut answered, mut ended) = (0, 0);
    for n in 0..10_000_u32 {
        let mut id = [50; 16];
        id[..4].copy_from_slice(&n.to_le_bytes());
        let mut out = Effects::new();
        let known = |_: &Query| Some(vec![own_answer.clone(); 12]);
        let query = Query { id: QueryId(id), ..query(UNLIMITED) };
        q.receive(at(0), link(50, &mut budgets), query, [peer(9)].into_iter(), known, &mut out);
        let to_stranger =
            out.iter().filter(|effect| matches!(effect, Effect::Send(to, _) if *to == node(50)));
        answered += usize::from(out.iter().any(|e| matches!(e, Effect::Send(_, Frame::Answer(_)))));
        ended += usize::from(
            to_stranger.clone().any(|e| matches!(e, Effect::Send(_, Frame::QueryDone(_)))),
        );
    }
    // 17 MiB of 140 KiB each.
    assert!((100..140).contains(&answered), "{answered} answered");
    assert!(ended <= answered && q.len() == answered, "{ended} ended");
    assert_eq!(budgets.drops().queries, 10_000 - 40);
}

/// A stranger whose budget is spent may be the fastest with a query of another node. That does not stop the query.
#[test]
fn a_query_that_a_stranger_brings_first_is_passed_on_for_the_next_link() {
    let (mut q, mut budgets) = (new(), budgets());
    flood(&mut q, &mut budgets, 50, 0..1000);
    let mut receive = |from: u8, depth: u8| {
        outputs(&mut q, |q, out| {
            let neighbours = [1, 2, 9, 50].map(peer).into_iter();
            let query = query(depth);
            q.receive(at(0), link(from, &mut budgets), query, neighbours, |_| Some(vec![]), out);
        })
    };
    same(&receive(50, UNLIMITED), &[done(50, UNLIMITED, false)]);
    same(&receive(1, 0), &[done(1, 0, true)]);
    let (one, two) = (sent(2, UNLIMITED), sent(9, UNLIMITED));
    same(&receive(1, UNLIMITED), &[one, two, sent(50, UNLIMITED)]);
    same(&receive(2, UNLIMITED), &[done(2, UNLIMITED, true)]);
    // The answers go to the link that asked, and not to the stranger.
    let out = outputs(&mut q, |q, out| {
        q.receive_answer(at(0), node(9), answer(9), &mut budgets, out);
    });
    same(&out, &[Effect::Send(node(1), Frame::Answer(answer(9)))]);
}

/// A stranger that knows the id of a query brings it to a node before the neighbours do. It has a budget, so its
/// copy is passed on. It may lie about the depth, the time and the question.
#[test]
fn a_copy_of_a_neighbour_takes_the_place_of_one_that_a_stranger_brought_first() {
    let forged = QueryKind::FindNode(node(77));
    for (depth, ttl, what) in [
        (UNLIMITED, TTL, QueryKind::Discover),
        (UNLIMITED_FOR_STRANGER, TTL, QueryKind::Discover),
        (UNLIMITED - 2, Duration::from_millis(1), QueryKind::Discover),
        (3, TTL, forged),
    ] {
        let (mut q, mut budgets) = (new(), budgets());
        let mut receive = |q: &mut Queries, at: Instant, from: u8, query: Query| {
            outputs(q, |q, out| {
                let neighbours = [1, 2, 50].map(peer).into_iter();
                let known = |_: &Query| Some(vec![answer(7)]);
                q.receive(at, link(from, &mut budgets), query, neighbours, known, out);
            })
        };
        receive(&mut q, at(0), 50, Query { ttl, what, ..query(depth) });
        // The node answers again, and asks again. The stranger is done with, and not complete.
        let out = receive(&mut q, at(1), 1, query(UNLIMITED));
        let own_answer = Effect::Send(node(1), Frame::Answer(answer(7)));
        let expected =
            [done(50, depth, false), own_answer, sent(2, UNLIMITED), sent(50, UNLIMITED)];
        same(&out, &expected);
        let answered = outputs(&mut q, |q, out| {
            q.receive_answer(at(1), node(2), answer(2), &mut self::budgets(), out);
        });
        same(&answered, &[Effect::Send(node(1), Frame::Answer(answer(2)))]);
        let mut end = |from: u8| {
            let done = query_done(UNLIMITED, true);
            outputs(&mut q, |q, out| q.receive_done(at(1), node(from), done, out))
        };
        same(&end(2), &[]);
        same(&end(50), &[done(1, UNLIMITED, true)]);
        // Further copies change nothing, so the two floods end.
        let stranger = receive(&mut q, at(1), 50, query(UNLIMITED));
        same(&stranger, &[done(50, UNLIMITED, true)]);
        same(&receive(&mut q, at(1), 2, query(UNLIMITED)), &[done(2, UNLIMITED, true)]);
        assert_eq!((q.len(), q.strays()), (1, 0));
    }
}

/// The copy that replaces a query is remembered for its own time, not for what is left of the first one's.
#[test]
fn a_copy_that_replaces_a_query_is_not_forgotten_before_it_ends() {
    let mut q = new();
    let receive = |q: &mut Queries, seconds: u64, from: u8| {
        outputs(q, |q, out| {
            let query = Query { ttl: Duration::from_secs(60), ..query(UNLIMITED) };
            let neighbours = [1, 2].map(peer).into_iter();
            let known = |_: &Query| Some(vec![]);
            q.receive(at(seconds), link(from, &mut budgets()), query, neighbours, known, out);
        })
    };
    receive(&mut q, 0, 50);
    receive(&mut q, 5, 1);
    assert_eq!((q.len(), q.poll_timeout()), (1, Some(at(65))));
    same(&outputs(&mut q, |q, out| q.handle_timeout(at(60), &mut budgets(), out)), &[]);
    let out = outputs(&mut q, |q, out| q.handle_timeout(at(65), &mut budgets(), out));
    same(&out, &[done(1, UNLIMITED, false)]);
    assert_eq!((q.len(), q.by_link.len(), q.order.len()), (0, 0, 0));
}

/// An honest node may be a stranger to the node that it asks. Its query comes back in a circle, over the links of
/// neighbours. That does not turn the answers away from it.
#[test]
fn the_echo_of_a_strangers_query_does_not_replace_it() {
    let mut q = new();
    let marked = sent(2, UNLIMITED_FOR_STRANGER);
    same(&receive(&mut q, 50, UNLIMITED, &[2, 50]), &[lookup(), marked]);
    let depth = UNLIMITED_FOR_STRANGER;
    same(&receive(&mut q, 2, depth, &[2, 50]), &[done(2, depth, true)]);
    outputs(&mut q, |q, out| q.answer(at(0), ID, vec![], &mut budgets(), out));
    let out =
        outputs(&mut q, |q, out| q.receive_done(at(0), node(2), query_done(depth, true), out));
    same(&out, &[done(50, UNLIMITED, true)]);
}

#[test]
fn answers_are_charged_to_the_link_that_asked() {
    let (mut q, mut budgets) = (new(), budgets());
    assert_eq!(flood(&mut q, &mut budgets, 50, 0..1), 1);
    let mut id = [50; 16];
    id[..4].copy_from_slice(&[0; 4]);
    let address: crate::address::Address = "127.0.0.1:1".parse().unwrap();
    let neighbour = Neighbour { id: node(4), address };
    let body = AnswerBody::Neighbours(vec![neighbour.clone(); 90], vec![neighbour; 90]);
    let long = QueryAnswer { id: QueryId(id), body, ..answer(9) };
    let mut out = Effects::new();
    for _ in 0..1448 {
        q.receive_answer(at(0), node(9), long.clone(), &mut budgets, &mut out);
    }
    assert_eq!(flood(&mut q, &mut budgets, 50, 1..2), 1, "about 16 MiB do not exceed the budgets");
    id[..4].copy_from_slice(&1u32.to_le_bytes());
    for _ in 0..200 {
        let long = QueryAnswer { id: QueryId(id), ..long.clone() };
        q.receive_answer(at(0), node(9), long, &mut budgets, &mut out);
    }
    assert_eq!(flood(&mut q, &mut budgets, 50, 2..3), 0, "answers of 18 MiB");
    assert_eq!(flood(&mut q, &mut budgets, 51, 0..1), 1, "another stranger");
}

#[test]
fn the_link_that_fills_a_full_table_makes_room_for_others() {
    let mut q = Queries::new(&Config { query_table: 64, ..Config::default() });
    let mut budgets = budgets();
    // Each of eight links fills its eighth of the table.
    for from in 100..108 {
        flood(&mut q, &mut budgets, from, 0..20);
    }
    assert_eq!((q.len(), q.drops().queries), (64, 8 * 12));
    // Each further link gets its share: about half of what the links have that hold most.
    for from in 120..124 {
        flood(&mut q, &mut budgets, from, 0..8);
    }
    let shares: Vec<_> = q.by_link.values().map(VecDeque::len).collect();
    assert_eq!((q.len(), shares.len(), shares.iter().sum::<usize>()), (64, 12, 64));
    assert!(shares.iter().all(|share| (3..=8).contains(share)), "{shares:?}");
    assert_eq!(q.drops().evicted, 64 - shares[..8].iter().sum::<usize>() as u64);
    // An evicted query that comes back is not accepted again.
    let before = (q.len(), q.drops().evicted);
    flood(&mut q, &mut budgets, 100, 0..1);
    assert_eq!((q.len(), q.drops().evicted), before);
    let mut out = Effects::new();
    q.handle_timeout(at(60), &mut budgets, &mut out);
    assert_eq!((q.len(), q.by_link.len(), q.order.len()), (0, 0, 0));
}

#[test]
fn the_lists_of_forgotten_queries_are_bounded() {
    let mut q = Queries::new(&Config { query_table: 64, ..Config::default() });
    let mut budgets = budgets();
    for from in 20..=255 {
        flood(&mut q, &mut budgets, from, 0..50);
    }
    assert!(q.drops().evicted > 30);
    assert!(q.order.len() == q.len() && q.len() <= 64, "{} {}", q.order.len(), q.len());
    assert!(q.deadlines.len() <= 64);
}

/// A question may be 8 KiB long. The table does not hold it.
#[test]
fn a_remembered_query_takes_little_memory() {
    assert!(size_of::<KnownQuery>() <= 256, "{} bytes", size_of::<KnownQuery>());
    let mut q = new();
    let address: crate::address::Address = format!("{}:1", "a".repeat(250)).parse().unwrap();
    let what =
        QueryKind::CallBack { target: node(3), token: [1; 16], addresses: vec![address; 32] };
    let mut out = Effects::new();
    let query = Query { what: what.clone(), ..query(UNLIMITED) };
    let known = |_: &Query| Some(vec![]);
    let mut receive = |query| {
        q.receive(at(0), link(1, &mut budgets()), query, std::iter::empty(), known, &mut out);
    };
    receive(query.clone());
    // Debug output shows all that the entry holds.
    let entry = format!("{:?}", q.table[&ID]);
    assert!(entry.len() < 600, "{entry}");
    assert_eq!(q.table[&ID].branches.capacity(), 0);
}

#[test]
fn an_answer_that_a_crowded_link_does_not_take_makes_the_query_incomplete() {
    let mut q = new();
    receive(&mut q, 1, UNLIMITED, &[1, 2]);
    outputs(&mut q, |q, out| q.answer(at(0), ID, vec![], &mut budgets(), out));
    q.answer_skipped(node(5), ID);
    q.answer_skipped(node(1), ID);
    let out =
        outputs(&mut q, |q, out| q.receive_done(at(0), node(2), query_done(UNLIMITED, true), out));
    same(&out, &[done(1, UNLIMITED, false)]);
}
