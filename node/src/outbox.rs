//! What waits to be written to one link: two lanes, each with its bound.
//!
//! Control frames (the overlay's and the link's own) go first and never wait for room: when their
//! lane is full the peer is too slow and is hung up on. Application frames wait for room in theirs.
//! Frames lie encoded one behind the other, so that many go out with one record and one call.

use std::sync::{Mutex, MutexGuard, PoisonError};

use peerkit_proto::config::Config;
use peerkit_proto::event::Reason;
use peerkit_proto::frame::{Frame, HEADER, header};
use tokio::sync::Notify;

/// How much of the application's lane is taken for one write, at the most, beyond one frame: so
/// long a control frame may have to wait.
const WRITE: usize = 256 << 10;

/// The lanes of one link.
#[derive(Debug)]
pub(crate) struct Outbox {
    lanes: Mutex<Lanes>,
    /// Wakes the writer.
    filled: Notify,
    /// Wakes those who wait for room.
    room: Notify,
    max_control: usize,
    max_application: usize,
}

#[derive(Debug, Default)]
struct Lanes {
    control: Vec<u8>,
    application: Vec<u8>,
    /// Application bytes that the writer has taken and not written yet.
    writing: usize,
    /// Application messages accepted in all.
    accepted: u64,
    /// Application messages that the link has received, as the goodbye is to say.
    received: u64,
    /// Some are being received just now: the goodbye waits until they are counted.
    receiving: bool,
    /// Set once no more is accepted; the goodbye goes out last.
    closing: Option<Closing>,
}

#[derive(Debug)]
struct Closing {
    reason: Reason,
    /// The goodbye is still to be said.
    goodbye: bool,
}

/// Why a frame was not accepted. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotAccepted {
    /// No room now.
    Full,
    /// The link is closing, for this reason.
    Closed(Reason),
}

/// What the writer is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Write the buffer; so many application messages are in it.
    Write(u64),
    /// Nothing to write now.
    Empty,
    /// Nothing but the goodbye, which waits for [`Outbox::received`].
    Held,
    /// Nothing more will come: close the connection.
    Finished,
}

impl Lanes {
    fn close(&mut self, reason: Reason, goodbye: bool) {
        self.closing.get_or_insert(Closing { reason, goodbye });
    }
}

impl Outbox {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            lanes: Mutex::default(),
            filled: Notify::new(),
            room: Notify::new(),
            max_control: config.control_queue,
            max_application: config.peer_queue,
        }
    }

    /// Puts a frame into the first lane.
    pub(crate) fn control(&self, frame: &Frame) -> Result<(), NotAccepted> {
        let mut lanes = self.lock();
        if let Some(closing) = &lanes.closing {
            return Err(NotAccepted::Closed(closing.reason.clone()));
        }
        if lanes.control.len() >= self.max_control {
            return Err(NotAccepted::Full);
        }
        frame.encode(&mut lanes.control);
        drop(lanes);
        self.filled.notify_one();
        Ok(())
    }

    /// Puts a frame into the application's lane if there is room: an empty lane takes any one.
    pub(crate) fn try_application(&self, frame: &Frame, size: usize) -> Result<(), NotAccepted> {
        let mut lanes = self.lock();
        if let Some(closing) = &lanes.closing {
            return Err(NotAccepted::Closed(closing.reason.clone()));
        }
        let queued = lanes.application.len() + lanes.writing;
        if queued != 0 && queued.saturating_add(size) > self.max_application {
            return Err(NotAccepted::Full);
        }
        frame.encode(&mut lanes.application);
        lanes.accepted += 1;
        drop(lanes);
        self.filled.notify_one();
        Ok(())
    }

    /// Puts a frame into the application's lane, once there is room.
    pub(crate) async fn application(&self, frame: &Frame, size: usize) -> Result<(), Reason> {
        loop {
            // Armed before the look, so that room made in between is not missed.
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            match self.try_application(frame, size) {
                Ok(()) => return Ok(()),
                Err(NotAccepted::Closed(reason)) => return Err(reason),
                Err(NotAccepted::Full) => room.await,
            }
        }
    }

    /// Accepts nothing more; what is queued still goes out, then the goodbye, if there is to be one.
    ///
    /// The first call decides; later ones change nothing.
    pub(crate) fn close(&self, reason: Reason, goodbye: bool) {
        let mut lanes = self.lock();
        lanes.close(reason, goodbye);
        self.wake(lanes);
    }

    /// Accepts nothing more and drops the application's lane: only the goodbye still goes out.
    pub(crate) fn break_off(&self, reason: Reason, goodbye: bool) {
        let mut lanes = self.lock();
        lanes.close(reason, goodbye);
        lanes.application = Vec::new();
        self.wake(lanes);
    }

    fn wake(&self, lanes: MutexGuard<'_, Lanes>) {
        drop(lanes);
        self.filled.notify_one();
        self.room.notify_waiters();
    }

    /// Why nothing more is accepted, once that is so.
    pub(crate) fn closed(&self) -> Option<Reason> {
        self.lock().closing.as_ref().map(|closing| closing.reason.clone())
    }

    /// Application messages accepted in all.
    pub(crate) fn accepted(&self) -> u64 {
        self.lock().accepted
    }

    /// Bytes of application frames that are not written yet.
    pub(crate) fn queued(&self) -> usize {
        let lanes = self.lock();
        lanes.application.len() + lanes.writing
    }

    /// Fills `buffer` (empty) with what is to be written next: all control frames, then whole
    /// application frames.
    pub(crate) fn take(&self, buffer: &mut Vec<u8>) -> Taken {
        let mut lanes = self.lock();
        std::mem::swap(buffer, &mut lanes.control);
        let (bytes, frames) = whole_frames(&lanes.application);
        if bytes == lanes.application.len() && buffer.is_empty() {
            std::mem::swap(buffer, &mut lanes.application);
        } else {
            buffer.extend(lanes.application.drain(..bytes));
        }
        lanes.writing = bytes;
        if !buffer.is_empty() {
            return Taken::Write(frames);
        }
        let (received, receiving) = (lanes.received, lanes.receiving);
        match &mut lanes.closing {
            None => Taken::Empty,
            Some(Closing { goodbye: false, .. }) => Taken::Finished,
            Some(_) if receiving => Taken::Held,
            Some(closing) => {
                closing.goodbye = false;
                let reason = closing.reason.clone();
                Frame::Goodbye { reason, received }.encode(buffer);
                Taken::Write(0)
            }
        }
    }

    /// Messages are about to be received: a goodbye waits for them, so that it counts them.
    pub(crate) fn receiving(&self) {
        self.lock().receiving = true;
    }

    /// So many messages were received on the link by now.
    pub(crate) fn received(&self, received: u64) {
        let mut lanes = self.lock();
        (lanes.received, lanes.receiving) = (received, false);
        if lanes.closing.is_some() {
            drop(lanes);
            self.filled.notify_one();
        }
    }

    /// What was taken is written: its room is free.
    pub(crate) fn written(&self) {
        let freed = std::mem::take(&mut self.lock().writing);
        if freed != 0 {
            self.room.notify_waiters();
        }
    }

    /// Waits until [`Outbox::take`] may have something.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        // Nothing that holds the lock can panic halfway through a change.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes and number of the frames at the start of `lane` to write at once.
fn whole_frames(lane: &[u8]) -> (usize, u64) {
    let (mut end, mut frames) = (0, 0);
    while end < WRITE {
        let Ok(Some((_, len))) = header(&lane[end..]) else { break };
        end += HEADER + len;
        frames += 1;
    }
    (end.min(lane.len()), frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerkit_proto::message::{Message, Packed};

    fn message(len: usize) -> (Frame, usize) {
        (Frame::Message(Packed::plain(Message::bytes(vec![7; len]))), len)
    }

    fn outbox(peer_queue: usize, control_queue: usize) -> Outbox {
        let mut config = Config::default();
        (config.peer_queue, config.control_queue) = (peer_queue, control_queue);
        Outbox::new(&config)
    }

    fn put(outbox: &Outbox, len: usize) -> Result<(), NotAccepted> {
        let (frame, size) = message(len);
        outbox.try_application(&frame, size)
    }

    fn kinds(buffer: &[u8]) -> Vec<u8> {
        let (mut at, mut kinds) = (0, Vec::new());
        while let Some((kind, len)) = header(&buffer[at..]).unwrap() {
            kinds.push(kind);
            at += HEADER + len;
        }
        kinds
    }

    #[test]
    fn control_goes_first_and_goodbye_last() {
        let outbox = outbox(1000, 1000);
        put(&outbox, 10).unwrap();
        outbox.control(&Frame::Ping(1)).unwrap();
        outbox.receiving();
        outbox.close(Reason::Requested, true);
        assert_eq!(put(&outbox, 1), Err(NotAccepted::Closed(Reason::Requested)));
        let mut buffer = Vec::new();
        assert_eq!(outbox.take(&mut buffer), Taken::Write(1));
        assert_eq!(kinds(&buffer), [0x03, 0x10]);
        outbox.written();
        buffer.clear();
        assert_eq!(outbox.take(&mut buffer), Taken::Held);
        outbox.received(7);
        assert_eq!(outbox.take(&mut buffer), Taken::Write(0));
        let mut goodbye = Vec::new();
        Frame::Goodbye { reason: Reason::Requested, received: 7 }.encode(&mut goodbye);
        assert_eq!(buffer, goodbye);
        buffer.clear();
        assert_eq!(outbox.take(&mut buffer), Taken::Finished);
    }

    #[test]
    fn an_empty_lane_takes_one_larger_and_what_is_being_written_still_counts() {
        let outbox = outbox(100, 1000);
        put(&outbox, 5000).unwrap();
        assert_eq!(put(&outbox, 1), Err(NotAccepted::Full));
        let mut buffer = Vec::new();
        assert_eq!(outbox.take(&mut buffer), Taken::Write(1));
        assert_eq!(put(&outbox, 1), Err(NotAccepted::Full));
        outbox.written();
        put(&outbox, 1).unwrap();
        assert_eq!(outbox.accepted(), 2);
    }

    #[test]
    fn a_full_control_lane_says_so() {
        let outbox = outbox(100, 20);
        outbox.control(&Frame::Ping(1)).unwrap();
        outbox.control(&Frame::Ping(2)).unwrap();
        assert_eq!(outbox.control(&Frame::Ping(3)), Err(NotAccepted::Full));
    }

    #[test]
    fn a_long_lane_is_taken_in_parts_of_whole_frames_in_order() {
        let outbox = outbox(1 << 30, 1000);
        for _ in 0..100 {
            put(&outbox, 10_000).unwrap();
        }
        let (mut buffer, mut frames, mut takes) = (Vec::new(), 0, 0);
        while let Taken::Write(taken) = outbox.take(&mut buffer) {
            assert!(buffer.len() < WRITE + 10_100);
            assert_eq!(kinds(&buffer).len() as u64, taken);
            (frames, takes) = (frames + taken, takes + 1);
            outbox.written();
            buffer.clear();
        }
        assert_eq!((frames, takes), (100, 4));
    }

    #[tokio::test]
    async fn a_waiting_sender_gets_the_room_or_the_reason() {
        let outbox = std::sync::Arc::new(outbox(100, 1000));
        put(&outbox, 100).unwrap();
        let waiting = |outbox: std::sync::Arc<Outbox>| {
            tokio::spawn(async move {
                let (frame, size) = message(50);
                outbox.application(&frame, size).await
            })
        };
        let first = waiting(outbox.clone());
        tokio::task::yield_now().await;
        assert!(!first.is_finished());
        let mut buffer = Vec::new();
        outbox.take(&mut buffer);
        outbox.written();
        assert_eq!(first.await.unwrap(), Ok(()));
        let second = waiting(outbox.clone());
        put(&outbox, 100).unwrap_err();
        outbox.close(Reason::Slow, false);
        assert!(matches!(second.await.unwrap(), Ok(()) | Err(Reason::Slow)));
    }
}
