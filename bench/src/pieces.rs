//! The hot steps on the path of a message. Each runs alone, on one thread and without a socket. The bench
//! `hot` measures their time, and `bench/instructions` counts their instructions.

use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use peerkit::internals::{DispatchBench, OutboxBench};
use peerkit::{Config, Event, Handler, Message, Peer};
use peerkit_proto::frame::{Frame, Frames, MESSAGE_HEADER_LEN, Messages};
use peerkit_proto::hello::Hello;
use peerkit_proto::link::{Greeting, Link, Output, Side};
use peerkit_proto::message::PackedMessage;
use peerkit_proto::time::Instant;
use peerkit_proto::versions::Versions;

/// Number of bytes of the frames of one run. A busy link reads at most this number at a time.
const RUN_BYTES: usize = 256 << 10;

/// One hot step, with messages of one size.
#[derive(Debug, Clone, Copy)]
pub struct HotStep {
    /// Name of the step.
    pub name: &'static str,
    /// Size of a message, in bytes.
    size: usize,
    start: fn(&MessageBlock) -> StepFn,
}

/// Handles an input, and returns the number of messages that it has handled.
type StepFn = Box<dyn FnMut(&mut Input) -> u64>;

impl HotStep {
    /// All steps, in the order in which a message passes through them.
    pub const ALL: [Self; 9] = [
        Self { name: "encode-64", size: 64, start: encode },
        Self { name: "encode-1k", size: 1024, start: encode },
        Self { name: "queue-64", size: 64, start: queue },
        Self { name: "split-64", size: 64, start: split },
        Self { name: "split-1k", size: 1024, start: split },
        Self { name: "link-64", size: 64, start: link },
        Self { name: "link-1k", size: 1024, start: link },
        Self { name: "handler-64", size: 64, start: handler },
        Self { name: "subscriber-64", size: 64, start: subscriber },
    ];

    /// Returns the step with this name.
    ///
    /// # Errors
    /// Fails if there is no such step.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|step| step.name == name);
        found.with_context(|| format!("unknown step {name:?}"))
    }

    /// Prepares the step so that it can run repeatedly.
    #[must_use]
    pub fn start(&self) -> HotRun {
        let block = MessageBlock::new(self.size);
        HotRun { run: (self.start)(&block), block }
    }
}

/// A step that is ready to run.
pub struct HotRun {
    block: MessageBlock,
    run: StepFn,
}

impl HotRun {
    /// Returns the number of messages of one run.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.block.0.len() as u64
    }

    /// Fills the input that one run consumes. This is not measured.
    pub fn fill(&self, input: &mut Input) {
        input.bytes.clear();
        input.bytes.extend_from_slice(&self.block.encoded());
        input.messages = self.block.received();
    }

    /// Runs the step once.
    ///
    /// # Errors
    /// Fails if the step did not handle all messages.
    pub fn run(&mut self, input: &mut Input) -> Result<()> {
        let handled = (self.run)(input);
        let expected = self.messages();
        ensure!(handled == expected, "{handled} of {expected} messages were handled");
        Ok(())
    }
}

/// The input that one run consumes, both as bytes and as messages. It can be filled again.
#[derive(Debug, Default)]
pub struct Input {
    bytes: BytesMut,
    messages: Messages,
}

/// The messages of one run.
struct MessageBlock(Vec<Message>);

impl MessageBlock {
    fn new(size: usize) -> Self {
        // The bodies share one allocation, as those of messages from one read do.
        let body = Bytes::from(vec![7; size]);
        Self(vec![Message::bytes(body); RUN_BYTES / (MESSAGE_HEADER_LEN + size)])
    }

    fn frames(&self) -> Vec<Frame> {
        self.0
            .iter()
            .cloned()
            .map(|message| Frame::Message(PackedMessage::uncompressed(message)))
            .collect()
    }

    /// Returns the messages in the form in which a link receives them.
    fn received(&self) -> Messages {
        let mut bytes = BytesMut::from(&self.encoded()[..]);
        let frames = Frames::split(&mut bytes, &Config::default());
        frames.map(|mut frames| frames.take_messages()).unwrap_or_default()
    }

    fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.frames().iter().for_each(|frame| frame.encode(&mut out));
        out
    }
}

/// Encodes frames.
fn encode(block: &MessageBlock) -> StepFn {
    let (frames, mut out) = (block.frames(), Vec::new());
    Box::new(move |_| {
        out.clear();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        // Keeps the compiler from leaving out the encoding, as its result is not used otherwise.
        black_box(&out);
        frames.len() as u64
    })
}

/// Puts messages into a link's outbox one by one, and takes them out in blocks.
fn queue(block: &MessageBlock) -> StepFn {
    let (messages, mut outbox) = (block.0.clone(), OutboxBench::new(&Config::default()));
    Box::new(move |_| {
        for message in &messages {
            if !outbox.put(message.body()) {
                break;
            }
        }
        outbox.take()
    })
}

/// Splits received bytes into messages.
fn split(_: &MessageBlock) -> StepFn {
    let config = Config::default();
    Box::new(move |input| {
        let Ok(mut frames) = Frames::split(&mut input.bytes, &config) else { return 0 };
        count(frames.take_messages())
    })
}

fn count(messages: impl Iterator<Item = Message>) -> u64 {
    messages.map(black_box).count() as u64
}

/// Feeds received bytes to a link, and takes the messages out of it.
fn link(_: &MessageBlock) -> StepFn {
    let mut link = open_link();
    Box::new(move |input| {
        link.receive(Instant::ZERO, &mut input.bytes);
        let mut counted = 0;
        while let Some(output) = link.poll() {
            if let Output::Messages(messages) = output {
                counted += count(messages);
            }
        }
        counted
    })
}

fn open_link() -> Link {
    let hello = Hello {
        version_min: Versions::OURS.min,
        version_max: Versions::OURS.max,
        network: "bench".into(),
        name: "bench".into(),
        incarnation: 1,
        features: 0,
        addresses: vec![],
        proof: None,
        owner: None,
        time: None,
        membership: None,
    };
    let mut theirs = Vec::new();
    Frame::Hello(hello.clone()).encode(&mut theirs);
    let greeting = Greeting { hello, expected_proof: None };
    let mut link = Link::new(Instant::ZERO, Side::Acceptor, greeting, &Arc::default());
    link.receive(Instant::ZERO, &mut BytesMut::from(&theirs[..]));
    link.admit(Instant::ZERO);
    // Takes the outputs of the handshake, which are not measured.
    while link.poll().is_some() {}
    link
}

/// Delivers messages to the application's handler.
fn handler(_: &MessageBlock) -> StepFn {
    let counted = Arc::new(AtomicU64::new(0));
    let delivery = DispatchBench::new(Some(CountingHandler(counted.clone())), &Config::default());
    Box::new(move |input| {
        poll_once(delivery.messages(std::mem::take(&mut input.messages)));
        counted.swap(0, Ordering::Relaxed)
    })
}

struct CountingHandler(Arc<AtomicU64>);

impl Handler for CountingHandler {
    fn node_message(&mut self, _: &mut peerkit::Context<'_>, _: &Peer, message: Message) {
        black_box(message);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Delivers messages to a stream of events and reads them from it.
fn subscriber(_: &MessageBlock) -> StepFn {
    let delivery = DispatchBench::new(None::<CountingHandler>, &Config::default());
    let mut events = delivery.subscribe();
    Box::new(move |input| {
        poll_once(delivery.messages(std::mem::take(&mut input.messages)));
        let mut count = 0;
        while let Some(Some(event)) = poll_once(events.next()) {
            count += u64::from(matches!(black_box(event), Event::NodeMessage { .. }));
        }
        count
    })
}

/// Polls `future` once and returns its output if it is ready.
fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ready) => Some(ready),
        // In this case messages are missing, which `HotRun::run` reports.
        Poll::Pending => None,
    }
}
