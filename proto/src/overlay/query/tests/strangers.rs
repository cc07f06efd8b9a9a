//! Strangers among the peers that a query is passed on to. The nodes from ten on are strangers.

use super::*;

fn end(q: &mut Queries, from: u8, complete: bool) -> Vec<String> {
    outputs(q, |q, out| q.receive_done(at(0), node(from), query_done(UNLIMITED, complete), out))
}

/// Anyone can have a link. If what strangers say counted, one of them could make all queries incomplete.
#[test]
fn a_query_is_complete_whatever_a_stranger_says() {
    let mut q = new();
    let expected = [sent(1, UNLIMITED), sent(50, UNLIMITED), sent(51, UNLIMITED)];
    same(&ask(&mut q, UNLIMITED, &[1, 50, 51]), &expected);
    same(&end(&mut q, 50, false), &[]);
    same(&end(&mut q, 1, true), &[]);
    same(&outputs(&mut q, |q, out| q.link_down(node(51), out)), &[ended(true)]);

    // What a neighbour says counts.
    let mut q = new();
    ask(&mut q, UNLIMITED, &[1, 50]);
    end(&mut q, 50, true);
    same(&end(&mut q, 1, false), &[ended(false)]);
}

/// A node that has only strangers to ask, such as the first node of a network, finds them.
#[test]
fn the_answers_of_strangers_count() {
    let mut q = new();
    same(&receive(&mut q, 1, UNLIMITED, &[50]), &[lookup(), sent(50, UNLIMITED)]);
    let out = outputs(&mut q, |q, out| q.answer(at(0), ID, vec![], &mut budgets(), out));
    same(&out, &[]);
    let out = outputs(&mut q, |q, out| {
        q.receive_answer(at(1), node(50), answer(50), &mut budgets(), out);
    });
    same(&out, &[Effect::Send(node(1), Frame::Answer(answer(50)))]);
    same(&end(&mut q, 50, true), &[done(1, UNLIMITED, true)]);
    assert_eq!((q.deadlines.len(), q.strays()), (0, 0));
}

#[test]
fn a_silent_stranger_delays_a_query_by_two_seconds_and_is_not_asked_for_ten() {
    let mut budgets = budgets();
    budgets.set_member(true);
    (50..52).for_each(|n| budgets.link_up(node(n), "127.0.0.1".parse().unwrap()));
    let mut q = new();
    ask(&mut q, UNLIMITED, &[1, 50]);
    same(&end(&mut q, 1, true), &[]);
    assert_eq!(q.poll_timeout(), Some(at(2)));
    assert!(budgets.may_be_asked(at(2), node(50)));
    same(&outputs(&mut q, |q, out| q.handle_timeout(at(2), &mut budgets, out)), &[ended(true)]);
    let may_be_asked = |at: Instant| [1, 50, 51].map(|n| budgets.may_be_asked(at, node(n)));
    assert_eq!(may_be_asked(at(11)), [true, false, true]);
    assert_eq!(may_be_asked(at(12)), [true; 3]);
    // A late answer is no fault.
    let late = |q: &mut Queries, out: &mut Effects| {
        q.receive_answer(at(3), node(50), answer(50), &mut self::budgets(), out);
    };
    same(&outputs(&mut q, late), &[]);
    assert_eq!((q.deadlines.len(), q.strays()), (0, 0));
}

/// The nodes on the way wait less than the asking node, so that their ends come in time.
#[test]
fn a_stranger_has_half_of_the_time_of_a_short_query() {
    let mut q = new();
    let short = Query { ttl: Duration::from_secs(2), ..query(UNLIMITED) };
    outputs(&mut q, |q, out| {
        let neighbours = [1, 2, 50].map(peer).into_iter();
        let known = |_: &Query| Some(vec![]);
        q.receive(at(0), link(1, &mut budgets()), short, neighbours, known, out);
    });
    assert_eq!(q.poll_timeout(), Some(at(1)));
    same(&outputs(&mut q, |q, out| q.handle_timeout(at(1), &mut budgets(), out)), &[]);
    // The neighbour has the whole time.
    assert_eq!(q.poll_timeout(), Some(at(2)));
    let out = outputs(&mut q, |q, out| q.handle_timeout(at(2), &mut budgets(), out));
    same(&out, &[done(1, UNLIMITED, false)]);
    assert_eq!(q.deadlines.len(), 0);
}

/// Each node passes on a few queries of strangers in a second. Those of fifty nodes would use up what a node accepts over
/// a link, and no query of a member would get through.
#[test]
fn queries_of_strangers_leave_half_of_a_link_to_those_of_members() {
    let mut budgets = budgets();
    budgets.set_standing(node(1), Standing::Relay);
    let mut q = new();
    let mut number = 0_u32;
    let mut passed = |q: &mut Queries, now: Instant, depth: u8, count: usize| {
        let mut passes = || {
            number += 1;
            let mut id = [0; 16];
            id[..4].copy_from_slice(&number.to_le_bytes());
            let query = Query { id: QueryId(id), ..query(depth) };
            let link = AskingLink { peer: node(1), is_of_stranger: false, budgets: &mut budgets };
            let neighbours = [2].map(peer).into_iter();
            let mut out = Effects::new();
            q.receive(now, link, query, neighbours, |_| Some(vec![]), &mut out);
            out.iter().any(|effect| matches!(effect, Effect::Send(_, Frame::Query(_))))
        };
        (0..count).filter(|_| passes()).count()
    };
    let of_strangers = passed(&mut q, at(0), UNLIMITED_FOR_STRANGER, 3000);
    assert_eq!(of_strangers, 1025);
    assert_eq!(passed(&mut q, at(0), 200, 100), 0, "a limited depth has no mark");
    assert_eq!(passed(&mut q, at(0), UNLIMITED, 1000), 1000);
    // As long as members ask as fast as the budget grows, strangers get nothing.
    for second in 1..10 {
        assert_eq!(passed(&mut q, at(second), UNLIMITED, 64), 64);
        assert_eq!(passed(&mut q, at(second), UNLIMITED_FOR_STRANGER, 64), 0);
    }
}
