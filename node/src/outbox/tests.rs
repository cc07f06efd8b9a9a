//! Tests of the outbox without a link.

use bytes::Buf;
use peerkit_proto::frame::membership::{Beacon, SignedBeacon};
use peerkit_proto::frame::{HEADER_LEN, read_header};
use peerkit_proto::id::NodeId;

use super::*;

fn outbox(peer_queue: usize, control_queue: usize) -> Outbox {
    let mut config = Config::default();
    (config.peer_queue, config.control_queue) = (peer_queue, control_queue);
    Outbox::new(&config, NodeClock::start())
}

/// Returns a message frame with `len` bytes of content.
fn frame(len: usize) -> (Vec<u8>, Bytes) {
    let mut head = Vec::from(u32::try_from(len + 2).unwrap().to_le_bytes());
    head.extend([0x10, 0x02]);
    (head, Bytes::from(vec![7; len]))
}

fn put(outbox: &Outbox, len: usize) -> Result<(), NotAccepted> {
    let (head, body) = frame(len);
    outbox.try_push(&EncodedFrame { head: &head, body: &body, shared: Some(&body) })
}

/// Returns the bytes of the next batch, and its number of messages. The previous batch counts as written.
fn take(outbox: &Outbox, batch: &mut WriteBatch) -> Option<(Vec<u8>, u64)> {
    match outbox.take(batch, (false, true), Waker::noop()) {
        WriterStep::Write => {
            let messages = batch.messages();
            Some((batch.copy_to_bytes(batch.remaining()).into(), messages))
        }
        _ => None,
    }
}

fn kinds(buffer: &[u8]) -> Vec<u8> {
    let (mut at, mut kinds) = (0, Vec::new());
    while let Some((kind, len)) = read_header(&buffer[at..]).unwrap() {
        kinds.push(kind);
        at += HEADER_LEN + len;
    }
    assert_eq!(at, buffer.len(), "whole frames");
    kinds
}

#[test]
fn control_goes_first_and_goodbye_last() {
    let outbox = outbox(1000, 1000);
    let mut batch = WriteBatch::default();
    put(&outbox, 10).unwrap();
    outbox.push_control(&Frame::Ping(1)).unwrap();
    outbox.begin_receiving();
    outbox.close(Reason::Requested, true);
    assert_eq!(put(&outbox, 1), Err(NotAccepted::Closed(Reason::Requested)));
    let (bytes, messages) = take(&outbox, &mut batch).unwrap();
    assert_eq!((kinds(&bytes), messages), (vec![0x03, 0x10], 1));
    assert_eq!(outbox.take(&mut batch, (false, true), Waker::noop()), WriterStep::AwaitCount);
    outbox.end_receiving(7);
    let mut goodbye = Vec::new();
    Frame::Goodbye { reason: Reason::Requested, received: 7 }.encode(&mut goodbye);
    assert_eq!(take(&outbox, &mut batch).unwrap(), (goodbye, 0));
    assert_eq!(outbox.take(&mut batch, (false, true), Waker::noop()), WriterStep::Close);
}

#[test]
fn an_empty_queue_takes_one_larger_frame_and_frames_being_written_still_count() {
    let outbox = outbox(100, 1000);
    let mut batch = WriteBatch::default();
    put(&outbox, 5000).unwrap();
    assert_eq!(put(&outbox, 1), Err(NotAccepted::Full));
    take(&outbox, &mut batch).unwrap();
    assert_eq!(outbox.queued(), 5006);
    assert_eq!(put(&outbox, 1), Err(NotAccepted::Full));
    assert_eq!(outbox.take(&mut batch, (false, true), Waker::noop()), WriterStep::Sleep);
    put(&outbox, 1).unwrap();
    assert_eq!(outbox.counts(), (2, 1));
}

#[test]
fn a_full_control_queue_refuses_a_frame() {
    let outbox = outbox(100, 20);
    outbox.push_control(&Frame::Ping(1)).unwrap();
    outbox.push_control(&Frame::Ping(2)).unwrap();
    assert_eq!(outbox.push_control(&Frame::Ping(3)), Err(NotAccepted::Full));
}

#[test]
fn a_peer_that_takes_nothing_out_of_a_crowded_queue_is_too_slow() {
    let mut config = Config::default();
    (config.control_queue, config.slow_after) = (1000, Duration::ZERO);
    let outbox = Outbox::new(&config, NodeClock::start());
    let fill = || {
        while outbox.queued_control() <= 500 {
            outbox.push_control(&Frame::Ping(1)).unwrap();
        }
    };
    fill();
    assert!(outbox.is_too_slow());
    assert_eq!(outbox.push_control(&Frame::Ping(2)), Err(NotAccepted::Full));
    let mut batch = WriteBatch::default();
    take(&outbox, &mut batch).unwrap();
    assert!(!outbox.is_too_slow(), "the peer has read");
    outbox.push_control(&Frame::Ping(3)).unwrap();
    config.slow_after = Duration::from_secs(3600);
    let outbox = Outbox::new(&config, NodeClock::start());
    while outbox.push_control(&Frame::Ping(1)).is_ok() {}
    assert!(outbox.queued_control() >= 1000 && !outbox.is_too_slow(), "only full");
}

/// The queue is crowded again and again. The time counts anew whenever the peer has taken the frames.
#[test]
fn a_peer_that_takes_the_frames_of_a_crowded_queue_is_not_too_slow() {
    let mut config = Config::default();
    (config.control_queue, config.slow_after) = (1000, Duration::from_millis(500));
    let outbox = Outbox::new(&config, NodeClock::start());
    let mut batch = WriteBatch::default();
    for _ in 0..2 {
        while outbox.queued_control() <= 500 {
            outbox.push_control(&Frame::Ping(1)).unwrap();
        }
        assert!(!outbox.is_too_slow(), "the queue has been crowded for a moment");
        std::thread::sleep(config.slow_after);
        assert!(outbox.is_too_slow());
        take(&outbox, &mut batch).unwrap();
    }
}

#[test]
fn only_the_newest_beacon_waits() {
    let outbox = outbox(1000, 1000);
    let beacon = |count| {
        let beacon = Beacon { least: NodeId::from_bytes([7; 32]), count };
        Frame::SignedBeacon(SignedBeacon { beacon, signature: [0; 64] })
    };
    for count in 1..1000 {
        outbox.push_control(&beacon(count)).unwrap();
    }
    outbox.push_control(&Frame::Ping(1)).unwrap();
    let (bytes, _) = take(&outbox, &mut WriteBatch::default()).unwrap();
    assert_eq!(kinds(&bytes), [0x03, 0x57]);
    let mut newest = Vec::new();
    beacon(999).encode(&mut newest);
    assert!(bytes.ends_with(&newest));
}

#[test]
fn a_long_queue_is_taken_in_blocks_of_whole_frames_in_order() {
    for size in [10, 10_000, 100_000] {
        let outbox = outbox(1 << 30, 1000);
        for _ in 0..100 {
            put(&outbox, size).unwrap();
        }
        let (mut taken, mut batch) = (0, WriteBatch::default());
        while let Some((bytes, messages)) = take(&outbox, &mut batch) {
            assert!(bytes.len() < WRITE_SIZE + BLOCK_SIZE.max(size + 10));
            assert_eq!(kinds(&bytes).len() as u64, messages);
            taken += messages;
        }
        assert_eq!((taken, outbox.queued()), (100, 0));
    }
}

#[test]
fn a_control_frame_goes_before_the_blocks_that_still_wait() {
    let outbox = outbox(1 << 30, 1000);
    for _ in 0..20 {
        put(&outbox, 10_000).unwrap();
    }
    let mut batch = WriteBatch::default();
    take(&outbox, &mut batch).unwrap();
    outbox.push_control(&Frame::Ping(1)).unwrap();
    let (bytes, _) = take(&outbox, &mut batch).unwrap();
    assert_eq!(kinds(&bytes)[..2], [0x03, 0x10]);
}

#[test]
fn after_an_abort_only_the_goodbye_is_left() {
    let outbox = outbox(1 << 30, 1000);
    put(&outbox, 100_000).unwrap();
    put(&outbox, 10).unwrap();
    let mut batch = WriteBatch::default();
    take(&outbox, &mut batch).unwrap();
    outbox.abort(Reason::Slow, true);
    assert_eq!(kinds(&take(&outbox, &mut batch).unwrap().0), [0x02]);
    assert_eq!((outbox.queued(), outbox.counts()), (0, (2, 1)));
}

#[tokio::test]
async fn a_waiting_sender_gets_room_or_the_reason_why_the_link_closes() {
    let outbox = std::sync::Arc::new(outbox(100, 1000));
    put(&outbox, 90).unwrap();
    let waiting = |outbox: std::sync::Arc<Outbox>| {
        tokio::spawn(async move {
            let (head, body) = frame(50);
            outbox.push(&EncodedFrame { head: &head, body: &body, shared: None }).await
        })
    };
    let first = waiting(outbox.clone());
    tokio::task::yield_now().await;
    assert!(!first.is_finished());
    let mut batch = WriteBatch::default();
    take(&outbox, &mut batch).unwrap();
    assert_eq!(outbox.take(&mut batch, (false, true), Waker::noop()), WriterStep::Sleep);
    assert_eq!(first.await.unwrap(), Ok(()));
    let second = waiting(outbox.clone());
    tokio::task::yield_now().await;
    outbox.close(Reason::Slow, false);
    assert_eq!(second.await.unwrap(), Err(Reason::Slow));
}

#[tokio::test]
async fn a_wait_while_crowded_ends_once_the_control_frames_are_taken_or_the_link_closes() {
    let outbox = outbox(1000, 1000);
    let mut batch = WriteBatch::default();
    outbox.wait_while_crowded().await;
    while outbox.queued_control() <= 500 {
        outbox.push_control(&Frame::Ping(1)).unwrap();
    }
    assert!(outbox.queued_control() > 500);
    let mut calm = std::pin::pin!(outbox.wait_while_crowded());
    assert!(poll_once(calm.as_mut()).is_pending());
    take(&outbox, &mut batch).unwrap();
    assert!(poll_once(calm.as_mut()).is_ready());
    // A link that ends keeps no task waiting.
    while outbox.queued_control() <= 500 {
        outbox.push_control(&Frame::Ping(1)).unwrap();
    }
    let mut calm = std::pin::pin!(outbox.wait_while_crowded());
    assert!(poll_once(calm.as_mut()).is_pending());
    outbox.close(Reason::Requested, true);
    assert!(poll_once(calm.as_mut()).is_ready());
}

fn poll_once(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> std::task::Poll<()> {
    future.poll(&mut std::task::Context::from_waker(Waker::noop()))
}

/// A large frame takes longer than `slow_after`, because the peer reads slowly. Control frames wait behind it.
#[test]
fn a_peer_that_takes_parts_of_a_large_frame_is_not_too_slow() {
    let mut config = Config::default();
    (config.control_queue, config.slow_after) = (1000, Duration::from_millis(200));
    for reads in [true, false] {
        let outbox = Outbox::new(&config, NodeClock::start());
        let mut batch = WriteBatch::default();
        put(&outbox, 16 << 20).unwrap();
        take(&outbox, &mut batch).unwrap();
        // The queue is crowded: more than half full.
        (0..40).for_each(|nonce| outbox.push_control(&Frame::Ping(nonce)).unwrap());
        let mut results = Vec::new();
        for nonce in 0..6 {
            results.push(outbox.push_control(&Frame::Ping(nonce)));
            std::thread::sleep(config.slow_after / 2);
            if reads {
                outbox.note_progress();
            }
        }
        let is_refused = results.contains(&Err(NotAccepted::Full));
        assert_eq!((outbox.is_too_slow(), is_refused), (!reads, !reads), "reads: {reads}");
    }
}
