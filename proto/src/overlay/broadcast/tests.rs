use super::*;
use crate::event::{Direction, Peer};
use crate::frame::Frame;
use crate::frame::broadcast::{Have, Want};
pub(crate) use crate::overlay::tests::bench::UNIX;

pub(crate) fn author() -> Key {
    Key::from_secret(&[1; 32])
}

pub(crate) fn item(text: &str) -> Item {
    Item { time: UNIX, title: String::new(), content: PackedMessage::uncompressed(text.into()) }
}

pub(crate) fn batch(first: u64, texts: &[&str]) -> Batch {
    Batch::sign(&author(), "net", 5, (first, 1), texts.iter().map(|text| item(text)).collect())
}

mod strangers;

type TestBench = crate::overlay::tests::bench::TestBench<Broadcasts>;

impl TestBench {
    fn new(links: u8) -> Self {
        Self::with(Key::from_secret(&[100; 32]), links, &Config::default())
    }

    fn with(key: Key, links: u8, config: &Config) -> Self {
        let setup =
            NodeSetup { key, name: "n".into(), network: "net".into(), epoch: 9, manual: false };
        let mut bench = Self::of(Broadcasts::new(&setup, config));
        for n in 1..=links {
            bench.link(n);
        }
        // The links are no longer new.
        bench.now = bench.now + NEW_LINK_TIME;
        bench
    }

    fn link(&mut self, n: u8) {
        let address = "127.0.0.1:1".parse().unwrap();
        let peer = Peer::new(link(n), String::new(), address, Direction::Outbound);
        self.links.insert(link(n), peer);
        self.act(|broadcasts, cx| broadcasts.link_up(cx, link(n)));
    }

    fn unlink(&mut self, n: u8) {
        self.links.remove(&link(n));
        self.act(|broadcasts, cx| broadcasts.link_down(cx, link(n)));
    }

    fn receive(&mut self, from: u8, batch: Batch) {
        self.act(|broadcasts, cx| broadcasts.receive(cx, link(from), batch));
    }

    fn prune_from(&mut self, from: u8) {
        self.act(|broadcasts, cx| broadcasts.receive_prune(cx, link(from), run()));
    }

    fn announce(&mut self, from: u8, upto: u64) {
        let have = Have { run: run(), upto };
        self.act(|broadcasts, cx| broadcasts.receive_haves(cx, link(from), &[have]));
    }

    fn say(&mut self, text: &str) {
        self.act(|broadcasts, cx| broadcasts.publish(cx, String::new(), text.into()).unwrap());
    }

    /// Lets time pass until the next deadline, and handles it. The deadline may have passed.
    fn wait(&mut self) {
        self.now = self.now.max(self.part.poll_timeout().expect("there is a deadline"));
        self.act(Broadcasts::handle_timeout);
    }

    /// Returns the effects in words: `push 2 a b` sends the texts a and b to link 2.
    fn out(&mut self) -> Vec<String> {
        let words = |effect: Effect| match effect {
            Effect::Send(to, frame) => {
                let to = to.as_bytes()[0];
                Some(match frame {
                    Frame::Broadcast(batch) => format!("push {to} {}", texts(&batch)),
                    Frame::Have(haves) => {
                        format!("have {to} {:?}", haves.iter().map(|h| h.upto).collect::<Vec<_>>())
                    }
                    Frame::Want(want) => format!("want {to} {}", want.after),
                    Frame::Given(have) => format!("given {to} {}", have.upto),
                    Frame::Prune(_) => format!("prune {to}"),
                    other => panic!("{other:?}"),
                })
            }
            Effect::Out(Output::Event(Event::NodeBroadcast { broadcast })) => {
                Some(format!("delivered {}", broadcast.message.as_text().unwrap()))
            }
            Effect::Out(Output::Event(Event::NodeBroadcastsMissed { count, .. })) => {
                Some(format!("missed {count}"))
            }
            Effect::CloseLink(id, Reason::Fault(_)) => Some(format!("fault {}", id.as_bytes()[0])),
            Effect::Out(Output::Keep(_)) => None,
            other => panic!("{other:?}"),
        };
        self.out.drain(..).filter_map(words).collect()
    }
}

fn link(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn run() -> RunId {
    RunId { author: author().id(), epoch: 5 }
}

fn texts(batch: &Batch) -> String {
    let text = |item: &Item| String::from_utf8(item.content.payload.to_vec()).unwrap();
    batch.items.iter().map(text).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_new_broadcast_is_delivered_and_passed_on_and_a_copy_prunes_its_link() {
    let mut node = TestBench::new(3);
    node.receive(1, batch(1, &["a"]));
    assert_eq!(node.out(), ["push 2 a", "push 3 a", "delivered a"]);
    node.receive(2, batch(1, &["a"]));
    assert_eq!(node.out(), ["prune 2"]);
    // From now on, only summaries are sent to node 2.
    node.receive(1, batch(2, &["b"]));
    assert_eq!(node.out(), ["push 3 b", "delivered b"]);
    node.wait();
    assert_eq!(node.out(), ["have 2 [2]"]);
    assert_eq!(node.part.counters().duplicates, 1);
    assert_eq!(node.part.counters().received, 2);
}

#[test]
fn a_pruned_link_gets_announcements_until_it_grafts() {
    let mut node = TestBench::new(2);
    node.prune_from(2);
    node.receive(1, batch(1, &["a"]));
    node.prune_from(2);
    node.receive(1, batch(2, &["b"]));
    assert_eq!(node.out(), ["push 2 a", "delivered a", "delivered b"]);
    node.wait();
    assert_eq!(node.out(), ["have 2 [2]"]);
    let want = Want { run: run(), after: 1 };
    node.act(|broadcasts, cx| broadcasts.receive_want(cx, link(2), want));
    assert_eq!(node.out(), ["push 2 b", "given 2 2"]);
    node.receive(1, batch(3, &["c"]));
    assert_eq!(node.out(), ["push 2 c", "delivered c"]);
}

#[test]
fn an_announced_broadcast_that_does_not_come_is_requested_from_one_peer_after_another() {
    let mut node = TestBench::new(3);
    let begun = node.now;
    node.announce(2, 1);
    node.announce(3, 1);
    assert_eq!(node.out(), [""; 0]);
    node.wait();
    assert_eq!(node.now.since(begun), Config::default().graft_after);
    assert_eq!(node.out(), ["want 2 0"]);
    // Node 2 does not answer, so node 3 is asked.
    node.wait();
    assert_eq!(node.out(), ["want 3 0"]);
    node.receive(3, batch(1, &["a"]));
    assert_eq!(node.out(), ["push 1 a", "delivered a"], "2 has announced it");
    assert!(node.part.requests_due.first().is_none());
}

#[test]
fn a_new_link_that_has_more_is_asked_at_once() {
    let mut node = TestBench::new(0);
    node.link(7);
    node.announce(7, 4);
    let now = node.now;
    node.wait();
    assert_eq!((node.now, node.out()), (now, vec!["want 7 0".to_owned()]));
}

#[test]
fn a_broadcast_after_a_gap_waits_for_the_missing_one() {
    let mut node = TestBench::new(2);
    node.receive(1, batch(1, &["a"]));
    node.out();
    node.receive(2, batch(3, &["c"]));
    assert_eq!(node.out(), ["want 2 1"]);
    node.receive(2, batch(2, &["b"]));
    assert_eq!(node.out(), ["push 1 b", "delivered b", "push 1 c", "delivered c"]);
}

#[test]
fn a_gap_that_no_peer_can_fill_is_reported() {
    let mut node = TestBench::new(1);
    node.receive(1, batch(1, &["a"]));
    node.receive(1, batch(4, &["d"]));
    assert_eq!(node.out(), ["delivered a", "want 1 1"]);
    let given = Have { run: run(), upto: 4 };
    node.act(|broadcasts, cx| broadcasts.receive_given(cx, link(1), given));
    // A node that has the missing broadcasts may still link to this one.
    assert_eq!(node.out(), [""; 0]);
    let begun = node.now;
    while node.out.is_empty() {
        node.wait();
    }
    assert_eq!(node.now.since(begun), GAP_PATIENCE);
    assert_eq!(node.out(), ["missed 2", "push 1 d", "delivered d"]);
    assert_eq!(node.part.counters().missed, 2);
}

#[test]
fn a_gap_can_be_filled_by_a_node_that_links_later() {
    let mut node = TestBench::new(2);
    node.receive(1, batch(1, &["a"]));
    node.receive(1, batch(3, &["c"]));
    node.links.remove(&link(1));
    node.act(|broadcasts, cx| broadcasts.link_down(cx, link(1)));
    node.wait();
    node.out();
    node.link(3);
    node.out();
    node.announce(3, 3);
    node.wait();
    assert_eq!(node.out(), ["want 3 1"]);
    node.receive(3, batch(2, &["b"]));
    assert_eq!(node.out(), ["push 2 b", "delivered b", "push 2 c", "delivered c"]);
}

#[test]
fn broadcasts_before_the_floor_are_not_awaited() {
    let mut node = TestBench::new(1);
    let late = Batch::sign(&author(), "net", 5, (40, 40), vec![item("x")]);
    node.receive(1, late);
    assert_eq!(node.out(), ["delivered x"]);
}

#[test]
fn broadcasts_that_a_peer_announces_but_never_sends_are_given_up() {
    let mut node = TestBench::new(1);
    node.announce(1, u64::MAX);
    for _ in 0..MAX_TRIES {
        node.wait();
        assert_eq!(node.out(), ["want 1 0"]);
    }
    node.wait();
    assert_eq!(node.out(), [""; 0]);
    assert!(node.part.runs.is_empty() && node.part.requests_due.first().is_none());
    assert_eq!(node.part.unverified, 0);
}

#[test]
fn broadcasts_in_quick_succession_are_sent_under_one_signature() {
    let mut node = TestBench::with(author(), 1, &Config::default());
    node.say("a");
    assert_eq!(node.out(), ["push 1 a"]);
    for text in ["b", "c", "d"] {
        node.say(text);
    }
    assert_eq!(node.out(), [""; 0]);
    let begun = node.now;
    node.wait();
    assert_eq!(node.now.since(begun), Config::default().batch_delay);
    assert_eq!(node.out(), ["push 1 b c d"]);
    node.now = node.now + Duration::from_secs(1);
    node.say("e");
    assert_eq!(node.out(), ["push 1 e"]);
}

#[test]
fn broadcasts_that_exceed_one_batch_are_sent_in_several() {
    let mut node = TestBench::with(author(), 1, &Config::default());
    let large = "x".repeat(40 << 10);
    for _ in 0..3 {
        node.say(&large);
    }
    let pushed = node.out.iter().filter(|out| matches!(out, Effect::Send(..))).count();
    assert_eq!(pushed, 2);
}

#[test]
fn the_same_text_twice_is_two_broadcasts() {
    let mut node = TestBench::with(author(), 0, &Config::default());
    let mut say =
        || node.act(|broadcasts, cx| broadcasts.publish(cx, String::new(), "same".into()).unwrap());
    assert_ne!(say(), say());
}

#[test]
fn the_author_and_the_receivers_get_the_same_id() {
    let mut node = TestBench::with(author(), 1, &Config::default());
    let id = node.act(|b, cx| b.publish(cx, "t".into(), "x".into()).unwrap());
    let Some(Effect::Send(_, Frame::Broadcast(batch))) = node.out.pop_front() else { panic!() };
    assert_eq!(batch.ids("net"), [id]);
}

#[test]
fn a_batch_that_a_crowded_link_skips_is_announced_later() {
    let mut node = TestBench::new(2);
    let pushed = batch(1, &["a"]);
    node.receive(1, pushed.clone());
    node.out();
    node.act(|broadcasts, cx| broadcasts.batch_skipped(cx, link(2), &pushed));
    node.receive(1, batch(2, &["b"]));
    assert_eq!(node.out(), ["delivered b"]);
    node.wait();
    assert_eq!(node.out(), ["have 2 [2]"]);
}

#[test]
fn a_broadcast_that_the_application_has_no_room_for_is_requested_again() {
    let mut node = TestBench::new(2);
    node.receive(1, batch(1, &["a"]));
    node.out();
    for _ in 0..20 {
        let late = batch(2, &["b"]);
        node.act(|broadcasts, cx| broadcasts.postpone(cx, link(1), &late));
        assert_eq!(node.out(), [""; 0]);
        node.wait();
        while node.out.is_empty() {
            node.wait();
        }
        assert!(node.out().contains(&"want 1 1".to_owned()));
    }
    node.receive(1, batch(2, &["b"]));
    assert_eq!(node.out(), ["push 2 b", "delivered b"]);
}

#[test]
fn the_number_of_waiting_broadcasts_is_bounded() {
    let mut node = TestBench::new(1);
    node.receive(1, batch(1, &["a"]));
    for first in 3..4000 {
        node.receive(1, batch(first, &["x"]));
    }
    assert_eq!(node.part.pending.count, MAX_PENDING_COUNT);
    node.out();
    node.receive(1, batch(2, &["b"]));
    assert_eq!(node.out.len(), 2 * (MAX_PENDING_COUNT + 1), "delivered and kept");
    assert_eq!((node.part.pending.count, node.part.pending.bytes), (0, 0));
}

#[test]
fn the_bytes_of_waiting_broadcasts_are_bounded() {
    let mut node = TestBench::new(1);
    let large = "x".repeat(60 << 10);
    for first in 2..200 {
        node.receive(1, batch(first, &[&large]));
    }
    let bytes = node.part.pending.bytes;
    assert!((MAX_PENDING - (64 << 10)..=MAX_PENDING).contains(&bytes), "{bytes}");
    assert!(node.part.counters().early > 0);
}

#[test]
fn a_large_request_is_answered_in_parts() {
    let mut node = TestBench::new(2);
    let large = "x".repeat(60 << 10);
    for first in 1..=6 {
        node.receive(1, batch(first, &[&large]));
    }
    node.out.clear();
    let mut rounds = 0;
    let mut after = 0;
    while after < 6 {
        let want = Want { run: run(), after };
        node.act(|broadcasts, cx| broadcasts.receive_want(cx, link(2), want));
        let mut bytes = 0;
        for output in node.out.drain(..) {
            match output {
                Effect::Send(_, Frame::Broadcast(batch)) => {
                    bytes += batch.body().len();
                    after = batch.last();
                }
                Effect::Send(_, Frame::Given(have)) => assert_eq!(have.upto, 6),
                other => panic!("{other:?}"),
            }
        }
        assert!(bytes > 0 && bytes <= MAX_GIVEN);
        rounds += 1;
    }
    assert_eq!(rounds, 2);
}

#[test]
fn the_signature_covers_every_field_and_the_network() {
    let good = || (5, (2, 1), vec![item("a"), item("b")]);
    type Parts = (u64, (u64, u64), Vec<Item>);
    let forged = |change: fn(&mut Parts)| {
        let (epoch, places, items) = good();
        let signature = Batch::sign(&author(), "net", epoch, places, items).signature;
        let mut altered = good();
        change(&mut altered);
        let (epoch, places, items) = altered;
        let mut batch = Batch::sign(&author(), "net", epoch, places, items);
        batch.signature = signature;
        let mut node = TestBench::new(1);
        node.receive(1, batch);
        node.out() == ["fault 1"]
    };
    assert!(!forged(|_| {}));
    assert!(forged(|(epoch, ..)| *epoch += 1));
    assert!(forged(|(_, (first, _), _)| *first += 1));
    assert!(forged(|(_, (_, floor), _)| *floor += 1));
    assert!(forged(|(.., items)| items[1].time += 1));
    assert!(forged(|(.., items)| items[1].title.push('!')));
    assert!(forged(|(.., items)| items[0].content = PackedMessage::uncompressed("other".into())));
    assert!(forged(|(.., items)| items.swap(0, 1)));
    assert!(forged(|(.., items)| drop(items.pop())));
    let mut node = TestBench::new(1);
    node.receive(1, Batch::sign(&author(), "other", 5, (1, 1), vec![item("a")]));
    assert_eq!(node.out(), ["fault 1"]);
}

#[test]
fn limits_are_checked_when_a_broadcast_is_sent_and_when_it_arrives() {
    let config = Config::default();
    let mut node = TestBench::with(author(), 1, &config);
    let limit = config.max_broadcast;
    let mut say = |title: usize, len: usize| {
        node.act(|broadcasts, cx| {
            broadcasts.publish(cx, "t".repeat(title), vec![0; len].into()).map(drop)
        })
    };
    let len = limit + 1;
    assert_eq!(say(0, len), Err(BroadcastError::TooLarge { len, limit }));
    assert_eq!(say(257, 0), Err(BroadcastError::LongTitle(257)));
    assert_eq!(say(256, limit), Ok(()));
    let mut node = TestBench::new(1);
    let half = "x".repeat(limit / 2 + 1);
    node.receive(1, batch(1, &[&half, &half]));
    assert_eq!(node.out(), ["fault 1"]);
}

#[test]
fn broadcasts_too_old_or_from_the_future_are_dropped() {
    let config = Config::default();
    let mut node = TestBench::new(1);
    let at = |offset: i64| {
        let item = Item { time: UNIX.checked_add_signed(offset).unwrap(), ..item("x") };
        Batch::sign(&author(), "net", 5, (1, 1), vec![item])
    };
    let age = i64::try_from((config.log_age + config.clock_skew).as_millis()).unwrap();
    let skew = i64::try_from(config.clock_skew.as_millis()).unwrap();
    node.receive(1, at(-age - 1000));
    node.receive(1, at(skew + 60_000));
    assert_eq!(node.out(), [""; 0]);
    assert_eq!(node.part.counters().untimely, 2);
    node.receive(1, at(skew));
    assert_eq!(node.out(), ["delivered x"]);
}

#[test]
fn a_replayed_broadcast_is_not_delivered_again_while_its_time_is_valid() {
    let config = Config::default();
    let mut node = TestBench::new(1);
    node.receive(1, batch(1, &["a"]));
    node.out();
    let end = node.now + config.log_age + 2 * config.clock_skew;
    while node.now < end {
        node.receive(1, batch(1, &["a"]));
        assert!(!node.out().contains(&"delivered a".to_owned()), "at {:?}", node.now);
        node.now = node.now + Duration::from_secs(20);
        node.act(Broadcasts::handle_timeout);
    }
    // By then the broadcast is no longer kept, and in the end the run is forgotten too.
    while node.part.poll_timeout().is_some() {
        node.wait();
    }
    assert!(node.part.runs.is_empty() && node.part.log.is_empty());
    node.receive(1, batch(1, &["a"]));
    assert_eq!(node.out(), [""; 0]);
}

#[test]
fn the_log_is_bounded_in_number_and_bytes() {
    let few = Config { log_count: 3, ..Config::default() };
    let small = Config { log_bytes: 450, ..Config::default() };
    for config in [few, small] {
        let mut node = TestBench::with(Key::from_secret(&[100; 32]), 1, &config);
        for first in 1..=10 {
            node.receive(1, batch(first, &["x"]));
        }
        let kept = node.part.log.after(run(), 0).count();
        assert_eq!(kept, 3, "{config:?}");
    }
}

#[test]
fn a_longer_batch_replaces_the_one_with_the_same_first_number() {
    let config = Config { log_count: 4, ..Config::default() };
    let mut node = TestBench::with(Key::from_secret(&[100; 32]), 1, &config);
    node.receive(1, batch(1, &["a"]));
    // The author has signed both batches, so passing on the second is no fault.
    node.receive(1, batch(1, &["a", "b", "c"]));
    assert_eq!(node.out(), ["delivered a", "delivered b", "delivered c"]);
    for first in 4..=20 {
        node.receive(1, batch(first, &["x"]));
    }
    let kept: usize = node.part.log.after(run(), 0).map(|batch| batch.items.len()).sum();
    assert_eq!(kept, 4);
}

#[test]
fn broadcasts_of_an_earlier_run_are_served_and_not_delivered_again() {
    let mut node = TestBench::new(1);
    node.act(|broadcasts, cx| broadcasts.restore(cx, vec![batch(1, &["a", "b"])]));
    node.receive(1, batch(1, &["a", "b"]));
    assert_eq!(node.out(), ["prune 1"]);
    node.receive(1, batch(3, &["c"]));
    assert_eq!(node.out(), ["delivered c"]);
    assert_eq!(node.part.summary(), [Have { run: run(), upto: 3 }]);
}

#[test]
fn a_link_that_ends_is_forgotten_and_another_peer_is_asked() {
    let mut node = TestBench::new(2);
    node.announce(1, 5);
    node.announce(2, 5);
    node.wait();
    assert_eq!(node.out(), ["want 1 0"]);
    node.links.remove(&link(1));
    node.act(|broadcasts, cx| broadcasts.link_down(cx, link(1)));
    node.wait();
    assert_eq!(node.out(), ["want 2 0"]);
    assert_eq!(node.part.runs[&run()].progress(link(1)), None);
}

#[test]
fn a_kept_broadcast_does_not_keep_the_frames_that_were_read_with_it() {
    let mut node = TestBench::new(1);
    // The second batch waits for the first, and both are kept at the end.
    for (first, text) in [(1, "a"), (3, "c"), (2, "b")] {
        let block = bytes::Bytes::from([batch(first, &[text]).body(), &[0; 4096][..]].concat());
        let body = block.slice(..block.len() - 4096);
        node.receive(1, Batch::decode(body).unwrap());
        node.out();
        assert!(block.is_unique(), "{text}");
    }
    assert_eq!(node.part.log.after(run(), 0).count(), 3);
}

/// Maximum memory of a run without what its broadcasts and its peers need. 300 bytes: a stranger can make 16,384
/// runs.
#[test]
fn a_run_of_a_stranger_takes_little_memory() {
    assert!(size_of::<RunState>() <= 300, "{}", size_of::<RunState>());
}

#[test]
fn an_idle_run_forgets_its_peers_if_there_are_many_or_if_it_has_one_batch() {
    for (links, batches, is_known) in [(20, 2, true), (21, 2, false), (2, 1, false)] {
        let mut node = TestBench::new(links);
        for number in 1..=batches {
            node.receive(1, batch(number, &["a"]));
        }
        assert_eq!(node.part.runs[&run()].progress(link(2)), Some(batches));
        for _ in 0..3 {
            node.wait();
        }
        assert_eq!(node.part.runs[&run()].progress(link(2)).is_some(), is_known, "{links}");
        // The next broadcast reaches all of them.
        node.out();
        node.receive(1, batch(batches + 1, &["b"]));
        assert_eq!(node.out().len(), usize::from(links));
    }
}

#[test]
fn if_the_link_of_a_source_ends_two_pruned_links_take_its_place() {
    let mut node = TestBench::new(5);
    node.receive(1, batch(1, &["a"]));
    for pruned in 2..=4 {
        node.receive(pruned, batch(1, &["a"]));
    }
    node.out();
    node.unlink(1);
    let wants = node.out();
    assert_eq!(wants.len(), 2, "{wants:?}");
    assert!(wants.iter().all(|want| ["want 2 1", "want 3 1", "want 4 1"].contains(&want.as_str())));
    // The second of them to send the next broadcast is pruned again.
    let asked = wants.iter().map(|want| want[5..6].parse::<u8>().unwrap());
    let [first, second] = asked.collect::<Vec<_>>()[..] else { panic!() };
    node.receive(first, batch(2, &["b"]));
    node.out();
    node.receive(second, batch(2, &["b"]));
    assert_eq!(node.out(), [format!("prune {second}")]);
    // The link of a peer that is no source changes nothing, and neither does a run without new broadcasts.
    node.unlink(second);
    assert_eq!(node.out(), [""; 0]);
    node.now = node.now + Duration::from_secs(60);
    node.unlink(first);
    assert_eq!(node.out(), [""; 0]);
}
