//! Tests of one link with its exact outputs, and of two connected links in virtual time.

use bytes::BytesMut;

use super::*;
use crate::message::{Message, PackedMessage};
use crate::versions::{VersionGap, Versions};

fn hello(name: &str) -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        network: "net".into(),
        name: name.into(),
        incarnation: 1,
        features: 0,
        addresses: vec![],
        proof: None,
        owner: None,
        time: None,
        membership: None,
    }
}

fn greeting(name: &str) -> Greeting {
    Greeting { hello: hello(name), expected_proof: None }
}

fn at(seconds: f64) -> Instant {
    Instant::from_origin(Duration::from_secs_f64(seconds))
}

fn outputs(link: &mut Link) -> Vec<Output> {
    std::iter::from_fn(|| link.poll()).collect()
}

fn feed(link: &mut Link, now: Instant, frames: &[Frame]) {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(&mut bytes);
    }
    link.receive(now, &mut BytesMut::from(&bytes[..]));
}

fn message(text: &str) -> Frame {
    Frame::Message(PackedMessage::uncompressed(Message::text(text)))
}

fn messages(texts: &[&str]) -> Output {
    let mut block = BytesMut::new();
    for text in texts {
        let mut bytes = Vec::new();
        message(text).encode(&mut bytes);
        block.extend_from_slice(&bytes);
    }
    Output::Messages(Frames::split(&mut block, &Config::default()).unwrap().take_messages())
}

fn open(side: Side) -> Link {
    let mut link = Link::new(at(0.0), side, greeting("me"), &Arc::default());
    outputs(&mut link);
    feed(&mut link, at(0.0), &[Frame::Hello(hello("you"))]);
    outputs(&mut link);
    link.admit(at(0.0));
    outputs(&mut link);
    link
}

#[test]
fn the_dialler_sends_its_hello_first_and_the_acceptor_when_it_admits() {
    let config = Arc::default();
    let mut dialler = Link::new(at(0.0), Side::Dialler, greeting("d"), &config);
    assert_eq!(outputs(&mut dialler), [Output::Send(Frame::Hello(hello("d")))]);

    let mut acceptor = Link::new(at(0.0), Side::Acceptor, greeting("a"), &config);
    assert_eq!(outputs(&mut acceptor), []);
    feed(&mut acceptor, at(0.1), &[Frame::Hello(hello("d"))]);
    assert_eq!(outputs(&mut acceptor), [Output::Greeted(hello("d"))]);
    acceptor.admit(at(0.1));
    let ping = Output::Send(Frame::Ping(0));
    assert_eq!(outputs(&mut acceptor), [Output::Send(Frame::Hello(hello("a"))), ping]);

    feed(&mut dialler, at(0.2), &[Frame::Hello(hello("a")), message("hi")]);
    assert_eq!(outputs(&mut dialler), [Output::Greeted(hello("a")), messages(&["hi"])]);
}

#[test]
fn a_hello_of_another_network_closes_the_link() {
    let mut link = Link::new(at(0.0), Side::Acceptor, greeting("a"), &Arc::default());
    let other = Hello { network: "other".into(), ..hello("d") };
    feed(&mut link, at(0.0), &[Frame::Hello(other), message("x")]);
    let reason = Reason::OtherNetwork;
    assert_eq!(
        outputs(&mut link),
        [
            Output::Send(Frame::Goodbye { reason: reason.clone(), received: 0 }),
            Output::Closed(reason)
        ]
    );
}

fn speaks(name: &str, (min, max): (u16, u16)) -> Hello {
    Hello { version_min: min, version_max: max, ..hello(name) }
}

/// Lets two ends with these version ranges exchange Hellos. Returns the agreement of each end, or
/// the reason why it ended the link.
fn exchange_hellos(dialler: (u16, u16), acceptor: (u16, u16)) -> [Result<Agreement, Reason>; 2] {
    let config = Arc::default();
    let sides = [(Side::Dialler, "d", dialler), (Side::Acceptor, "a", acceptor)];
    let mut links = sides.map(|(side, name, versions)| {
        let greeting = Greeting { hello: speaks(name, versions), expected_proof: None };
        Link::new(at(0.0), side, greeting, &config)
    });
    let mut ends = [None, None];
    for n in [0, 1, 0] {
        for output in outputs(&mut links[n]) {
            match output {
                Output::Send(frame) => feed(&mut links[1 - n], at(0.1), &[frame]),
                Output::Greeted(_) => links[n].admit(at(0.1)),
                Output::Closed(reason) | Output::GoodbyeReceived(reason) => ends[n] = Some(reason),
                other => panic!("{other:?}"),
            }
        }
        for output in outputs(&mut links[n]) {
            if let Output::Send(frame) = output {
                feed(&mut links[1 - n], at(0.1), &[frame]);
            }
        }
    }
    [0, 1].map(|n| ends[n].take().map_or_else(|| Ok(links[n].agreed().unwrap()), Err))
}

#[test]
fn both_ends_use_the_highest_common_version() {
    for (dialler, acceptor, version) in [
        ((1, 2), (1, 2), 2),
        // A newer node and an older node, in both directions.
        ((1, 2), (1, 1), 1),
        ((1, 1), (1, 2), 1),
        // A node that also speaks a later version than this crate.
        ((1, 2), (2, 3), 2),
        ((2, 3), (1, 2), 2),
    ] {
        let agreed = Ok(Agreement { version, features: 0 });
        assert_eq!(
            exchange_hellos(dialler, acceptor),
            [agreed.clone(), agreed],
            "{dialler:?} {acceptor:?}"
        );
    }
}

#[test]
fn without_a_common_version_the_reason_has_both_ranges() {
    let range = |(min, max)| Versions { min, max };
    for (dialler, acceptor) in
        [((3, 4), (1, 2)), ((1, 2), (3, 4)), ((2, 1), (1, 2)), ((0, 0), (1, 2))]
    {
        let gap = VersionGap { refusing: range(acceptor), refused: range(dialler) };
        let reason = Reason::Version(Some(gap));
        assert_eq!(exchange_hellos(dialler, acceptor), [Err(reason.clone()), Err(reason)]);
    }
}

#[test]
fn added_fields_are_skipped_from_version_2_on() {
    for (version, ended) in [(1, true), (2, false)] {
        let greeting = Greeting { hello: speaks("a", (1, 2)), expected_proof: None };
        let mut link = Link::new(at(0.0), Side::Acceptor, greeting, &Arc::default());
        feed(&mut link, at(0.0), &[Frame::Hello(speaks("d", (1, version)))]);
        link.admit(at(0.0));
        outputs(&mut link);
        let clock = [12, 0, 0, 0, 0x61, 7, 0, 0, 0, 0, 0, 0, 0, b'n', b'e', b'w'];
        link.receive(at(0.0), &mut BytesMut::from(&clock[..]));
        match &outputs(&mut link)[..] {
            [Output::Frame(Frame::Clock(7))] => assert!(!ended),
            [Output::Send(_), Output::Closed(Reason::Fault(_))] => assert!(ended),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_goodbye_because_of_the_version_may_lack_the_ranges() {
    let mut link = Link::new(at(0.0), Side::Dialler, greeting("d"), &Arc::default());
    outputs(&mut link);
    // This is the Goodbye of a node of version 1.
    let goodbye = [13, 0, 0, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    link.receive(at(0.0), &mut BytesMut::from(&goodbye[..]));
    assert_eq!(outputs(&mut link), [Output::GoodbyeReceived(Reason::Version(None))]);
    assert_eq!(Reason::Version(None).to_string(), "no common protocol version");
}

#[test]
fn a_large_frame_before_hello_closes_the_link() {
    let mut link = Link::new(at(0.0), Side::Acceptor, greeting("a"), &Arc::default());
    // The header of a message of 16 MiB. It is allowed only after Hello.
    link.receive(at(0.0), &mut BytesMut::from(&[2, 0, 0, 1, 0x10][..]));
    let Some(Output::Closed(Reason::Fault(_))) = outputs(&mut link).pop() else {
        panic!("the link waits for more bytes")
    };
}

#[test]
fn an_incomplete_frame_after_the_hello_stays_in_the_buffer() {
    let mut link = Link::new(at(0.0), Side::Dialler, greeting("d"), &Arc::default());
    outputs(&mut link);
    let mut bytes = Vec::new();
    Frame::Hello(hello("a")).encode(&mut bytes);
    bytes.extend([2, 0, 0, 1, 0x10]);
    let mut buffer = BytesMut::from(&bytes[..]);
    link.receive(at(0.0), &mut buffer);
    assert_eq!(outputs(&mut link), [Output::Greeted(hello("a"))]);
    assert_eq!(buffer.len(), 5);
}

#[test]
fn a_refused_dialler_reports_the_reason() {
    let mut link = Link::new(at(0.0), Side::Dialler, greeting("d"), &Arc::default());
    outputs(&mut link);
    feed(&mut link, at(0.0), &[Frame::Goodbye { reason: Reason::Full, received: 0 }]);
    assert_eq!(outputs(&mut link), [Output::GoodbyeReceived(Reason::Full)]);
}

#[test]
fn a_hello_sent_byte_by_byte_does_not_extend_the_handshake_timeout() {
    let mut link = Link::new(at(0.0), Side::Acceptor, greeting("a"), &Arc::default());
    let mut bytes = Vec::new();
    Frame::Hello(hello("d")).encode(&mut bytes);
    let mut buffer = BytesMut::new();
    for second in 0..9 {
        buffer.extend_from_slice(&bytes[second..=second]);
        link.receive(at(f64::from(u8::try_from(second).unwrap())), &mut buffer);
    }
    assert_eq!(link.poll_timeout(), Some(at(10.0)));
    link.handle_timeout(at(10.0));
    assert!(outputs(&mut link).contains(&Output::Closed(Reason::HandshakeTimeout)));
    assert_eq!(link.poll_timeout(), None);
}

#[test]
fn a_fault_closes_the_link_and_no_later_frame_is_read() {
    let faults: [(&[Frame], &str); 2] = [
        (&[Frame::Hello(hello("again")), Frame::Ping(1)], "a second Hello"),
        (&[Frame::Ping(1), Frame::Hello(hello("again")), Frame::Ping(2)], "a second Hello"),
    ];
    for (frames, text) in faults {
        let mut link = open(Side::Acceptor);
        feed(&mut link, at(1.0), frames);
        let out = outputs(&mut link);
        assert_eq!(out.last(), Some(&Output::Closed(Reason::Fault(text.into()))));
        assert!(!out.contains(&Output::Send(Frame::Pong(2))));
    }
    let mut link = Link::new(at(0.0), Side::Acceptor, greeting("a"), &Arc::default());
    feed(&mut link, at(0.0), &[Frame::Ping(1)]);
    let early = Reason::Fault("a frame before Hello".into());
    assert_eq!(outputs(&mut link).last(), Some(&Output::Closed(early)));
}

#[test]
fn an_idle_link_sends_pings_and_closes_if_the_peer_is_silent() {
    let mut link = open(Side::Dialler);
    assert_eq!(link.poll_timeout(), Some(at(15.0)));
    link.handle_timeout(at(15.0));
    assert_eq!(outputs(&mut link), [Output::Send(Frame::Ping(1))]);
    feed(&mut link, at(15.25), &[Frame::Pong(1)]);
    assert_eq!(link.rtt(), Some(Duration::from_millis(250)));
    // From here on nothing is received.
    let mut now = at(15.25);
    while let Some(next) = link.poll_timeout() {
        now = next;
        link.handle_timeout(now);
        if let Some(Output::Closed(reason)) = outputs(&mut link).pop() {
            assert_eq!(reason, Reason::Silent(Duration::from_secs(45)));
        }
    }
    assert_eq!(now, at(60.25));
}

#[test]
fn a_link_that_has_sent_bytes_pings_later() {
    let mut link = open(Side::Dialler);
    link.sent(at(14.0));
    assert_eq!(link.poll_timeout(), Some(at(29.0)));
}

#[test]
fn silence_does_not_end_a_paused_link() {
    let mut link = open(Side::Dialler);
    link.pause();
    link.handle_timeout(at(100.0));
    assert_eq!(outputs(&mut link), [Output::Send(Frame::Ping(1))]);
    link.resume(at(100.0));
    link.handle_timeout(at(144.0));
    assert!(!outputs(&mut link).iter().any(|out| matches!(out, Output::Closed(_))));
    link.handle_timeout(at(145.0));
    assert!(outputs(&mut link).iter().any(|out| matches!(out, Output::Closed(_))));
}

#[test]
fn messages_are_acknowledged_after_a_delay_or_a_number_of_messages_or_bytes() {
    let mut link = open(Side::Acceptor);
    link.delivered(at(1.0), 3, 100);
    assert_eq!(link.poll_timeout(), Some(at(1.2)));
    link.delivered(at(1.1), 1, 100);
    link.handle_timeout(at(1.2));
    assert_eq!(outputs(&mut link), [Output::Send(Frame::Received(4))]);
    link.delivered(at(2.0), ACK_MESSAGES, 0);
    assert_eq!(outputs(&mut link), [Output::Send(Frame::Received(4 + ACK_MESSAGES))]);
    link.delivered(at(2.0), 1, ACK_BYTES);
    assert_eq!(outputs(&mut link), [Output::Send(Frame::Received(5 + ACK_MESSAGES))]);
    // The count never decreases, whatever the peer sends.
    feed(&mut link, at(3.0), &[Frame::Received(7), Frame::Received(2)]);
    assert_eq!(link.confirmed(), 7);
}

#[test]
fn each_end_sends_one_goodbye_with_its_last_acknowledgement() {
    let (mut a, mut b) = (open(Side::Dialler), open(Side::Acceptor));
    b.delivered(at(1.0), 2, 10);
    let goodbye = a.begin_close(Reason::Requested);
    feed(&mut b, at(1.0), &[message("last"), goodbye]);
    let farewell = Output::GoodbyeReceived(Reason::Requested);
    assert_eq!(outputs(&mut b), [messages(&["last"]), farewell]);
    b.delivered(at(1.0), 1, 4);
    let answer = b.begin_close(Reason::Requested);
    feed(&mut a, at(1.1), &[message("also"), answer]);
    assert_eq!(outputs(&mut a), [messages(&["also"])]);
    assert_eq!(a.confirmed(), 3);
}

/// The two ends of a link in virtual time. `lines` delivers bytes with a latency.
struct Pair {
    now: Instant,
    ends: [Link; 2],
    lines: [VecDeque<(Instant, Vec<u8>)>; 2],
    latency: Duration,
    messages: [Vec<Message>; 2],
    closed: [Option<Reason>; 2],
}

impl Pair {
    fn new(latency: Duration) -> Self {
        let config = Arc::default();
        let end = |side, name| Link::new(at(0.0), side, greeting(name), &config);
        Self {
            now: at(0.0),
            ends: [end(Side::Dialler, "d"), end(Side::Acceptor, "a")],
            lines: Default::default(),
            latency,
            messages: Default::default(),
            closed: Default::default(),
        }
    }

    fn send(&mut self, from: usize, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.ends[from].sent(self.now);
        self.lines[1 - from].push_back((self.now + self.latency, bytes));
    }

    fn drain(&mut self, end: usize) {
        while let Some(output) = self.ends[end].poll() {
            match output {
                Output::Send(frame) => self.send(end, &frame),
                Output::Greeted(_) => self.ends[end].admit(self.now),
                Output::Messages(messages) => {
                    self.ends[end].delivered(self.now, messages.len() as u64, 0);
                    self.messages[end].extend(messages);
                }
                Output::Frame(frame) => panic!("{frame:?}"),
                Output::GoodbyeReceived(reason) => {
                    let goodbye = self.ends[end].begin_close(reason.clone());
                    self.send(end, &goodbye);
                    self.closed[end] = Some(reason);
                }
                Output::Closed(reason) => self.closed[end] = Some(reason),
            }
        }
    }

    /// Runs until the time `until`.
    fn run(&mut self, until: Instant) {
        loop {
            (0..2).for_each(|end| self.drain(end));
            let line = |end: usize| self.lines[end].front().map(|(at, _)| *at);
            let due = [line(0), line(1), self.ends[0].poll_timeout(), self.ends[1].poll_timeout()];
            let Some(next) = due.into_iter().flatten().min().filter(|next| *next <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            for end in 0..2 {
                while self.lines[end].front().is_some_and(|(at, _)| *at <= self.now) {
                    let (_, bytes) = self.lines[end].pop_front().unwrap();
                    self.ends[end].receive(self.now, &mut BytesMut::from(&bytes[..]));
                }
                self.ends[end].handle_timeout(self.now);
            }
        }
    }
}

#[test]
fn an_idle_link_stays_up_for_an_hour() {
    let mut pair = Pair::new(Duration::from_millis(100));
    pair.run(at(3600.0));
    assert_eq!(pair.closed, [None, None]);
    assert_eq!(pair.ends[0].rtt(), Some(Duration::from_millis(200)));
}

#[test]
fn messages_arrive_in_order_and_are_acknowledged() {
    let mut pair = Pair::new(Duration::from_millis(10));
    pair.run(at(1.0));
    for n in 0..100 {
        pair.send(0, &message(&n.to_string()));
    }
    pair.run(at(2.0));
    let expected: Vec<_> = (0..100).map(|n| Message::text(n.to_string())).collect();
    assert_eq!(pair.messages[1], expected);
    assert_eq!(pair.ends[0].confirmed(), 100);
    let goodbye = pair.ends[0].begin_close(Reason::Requested);
    pair.send(0, &goodbye);
    pair.run(at(3.0));
    assert_eq!(pair.closed, [None, Some(Reason::Requested)]);
}

#[test]
fn both_ends_close_the_link_after_silence() {
    let mut pair = Pair::new(Duration::from_millis(10));
    pair.run(at(1.0));
    pair.latency = Duration::from_secs(100_000);
    pair.run(at(100.0));
    let silent = Some(Reason::Silent(Duration::from_secs(45)));
    assert_eq!(pair.closed, [silent.clone(), silent]);
}

#[test]
fn a_goodbye_in_place_of_hello_is_the_end_of_the_link() {
    let mut link = Link::new(at(0.0), Side::Dialler, greeting("ann"), &Arc::default());
    assert!(matches!(outputs(&mut link)[..], [Output::Send(Frame::Hello(_))]));
    let goodbye = Frame::Goodbye { reason: Reason::Full, received: 0 };
    feed(&mut link, at(1.0), &[goodbye, Frame::Ping(1)]);
    assert_eq!(outputs(&mut link), [Output::GoodbyeReceived(Reason::Full)]);
    assert_eq!(link.poll_timeout(), None);
    feed(&mut link, at(2.0), &[Frame::Ping(2)]);
    link.handle_timeout(at(100.0));
    assert!(outputs(&mut link).is_empty());
}
