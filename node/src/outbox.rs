//! What waits to be written to one link: two lanes, each with its bound.
//!
//! Control frames (the overlay's and the link's own) go first and never wait for room: when their
//! lane is full the peer is too slow and is hung up on. Application frames wait for room in theirs.
//! Frames lie encoded one behind the other in blocks, so that many go out with one record and one
//! call; the content of a large one is shared and not copied.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use peerkit_proto::config::Config;
use peerkit_proto::event::Reason;
use peerkit_proto::frame::Frame;
use tokio::sync::Notify;

/// A block is written at once, and grows no further: so much, and one frame, a control frame may
/// have to wait for. Four TLS records.
const BLOCK: usize = 64 << 10;

/// Contents from this size on are shared with the sender in place of being copied.
const SHARE: usize = 16 << 10;

/// Senders that wait do so from here on, though the lane has room for those who don't: what is
/// written soon stays in the processor's cache until then.
const AHEAD: usize = 512 << 10;

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
    application: VecDeque<Block>,
    /// Bytes in `application`.
    queued: usize,
    /// Application bytes that the writer has taken and not written yet.
    writing: usize,
    /// Application messages accepted in all, and those of them that the writer has taken: what it
    /// could not write to the end may have arrived all the same.
    accepted: u64,
    taken: u64,
    /// Application messages that the link has received, as the goodbye is to say.
    received: u64,
    /// Some are being received just now: the goodbye waits until they are counted.
    receiving: bool,
    /// Whether the writer sleeps, and whether anybody waits for room: else nobody is woken.
    idle: bool,
    waiting: bool,
    /// Set once no more is accepted; the goodbye goes out last.
    closing: Option<Closing>,
}

/// Application frames that are written at once.
#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    /// The rest of the last frame.
    tail: Option<Bytes>,
    messages: u64,
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
    /// Write the buffer, then the rest of its last frame if there is one.
    Write {
        /// Application messages in it.
        messages: u64,
        /// What comes behind the buffer.
        tail: Option<Bytes>,
    },
    /// Nothing to write now.
    Empty,
    /// Nothing but the goodbye, which waits for [`Outbox::received`].
    Held,
    /// Nothing more will come: close the connection.
    Finished,
}

/// An application frame: what stands before its content, and the content.
pub(crate) struct Parcel<'a> {
    /// The header and the fields before the content.
    pub(crate) head: &'a [u8],
    /// The content.
    pub(crate) body: &'a [u8],
    /// The same content, where it can be shared.
    pub(crate) shared: Option<&'a Bytes>,
}

impl Parcel<'_> {
    fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

impl Lanes {
    fn close(&mut self, reason: Reason, goodbye: bool) {
        self.closing.get_or_insert(Closing { reason, goodbye });
    }

    fn append(&mut self, parcel: &Parcel<'_>) {
        let open = |block: &mut Block| block.tail.is_none() && block.bytes.len() < BLOCK;
        if !self.application.back_mut().is_some_and(open) {
            self.application.push_back(Block::default());
        }
        let Some(block) = self.application.back_mut() else { return };
        block.bytes.extend_from_slice(parcel.head);
        match parcel.shared {
            Some(shared) if parcel.body.len() >= SHARE => block.tail = Some(shared.clone()),
            _ => block.bytes.extend_from_slice(parcel.body),
        }
        block.messages += 1;
        self.queued += parcel.len();
        self.accepted += 1;
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
        self.wake_writer(lanes);
        Ok(())
    }

    /// Puts a frame into the application's lane if there is room: an empty lane takes any one.
    pub(crate) fn try_application(&self, parcel: &Parcel<'_>) -> Result<(), NotAccepted> {
        self.put(parcel, self.max_application, false)
    }

    /// Puts a frame into the application's lane, once there is room.
    pub(crate) async fn application(&self, parcel: &Parcel<'_>) -> Result<(), Reason> {
        let limit = self.max_application.min(AHEAD);
        match self.put(parcel, limit, false) {
            Ok(()) => return Ok(()),
            Err(NotAccepted::Closed(reason)) => return Err(reason),
            Err(NotAccepted::Full) => {}
        }
        loop {
            // Armed before the look, so that room made in between is not missed.
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            match self.put(parcel, limit, true) {
                Ok(()) => return Ok(()),
                Err(NotAccepted::Closed(reason)) => return Err(reason),
                Err(NotAccepted::Full) => room.await,
            }
        }
    }

    fn put(&self, parcel: &Parcel<'_>, limit: usize, wait: bool) -> Result<(), NotAccepted> {
        let mut lanes = self.lock();
        if let Some(closing) = &lanes.closing {
            return Err(NotAccepted::Closed(closing.reason.clone()));
        }
        let queued = lanes.queued + lanes.writing;
        if queued != 0 && queued.saturating_add(parcel.len()) > limit {
            lanes.waiting |= wait;
            return Err(NotAccepted::Full);
        }
        lanes.append(parcel);
        self.wake_writer(lanes);
        Ok(())
    }

    /// Accepts nothing more; what is queued still goes out, then the goodbye, if there is to be one.
    ///
    /// The first call decides; later ones change nothing.
    pub(crate) fn close(&self, reason: Reason, goodbye: bool) {
        let mut lanes = self.lock();
        lanes.close(reason, goodbye);
        self.wake_all(lanes);
    }

    /// Accepts nothing more and drops the application's lane: only the goodbye still goes out.
    pub(crate) fn break_off(&self, reason: Reason, goodbye: bool) {
        let mut lanes = self.lock();
        lanes.close(reason, goodbye);
        lanes.application = VecDeque::new();
        lanes.queued = 0;
        self.wake_all(lanes);
    }

    /// Whether the first lane is more than half full: what need not go out should not.
    pub(crate) fn is_crowded(&self) -> bool {
        self.lock().control.len() > self.max_control / 2
    }

    /// Why nothing more is accepted, once that is so.
    pub(crate) fn closed(&self) -> Option<Reason> {
        self.lock().closing.as_ref().map(|closing| closing.reason.clone())
    }

    /// Application messages accepted in all, and those of them that the writer has taken.
    pub(crate) fn account(&self) -> (u64, u64) {
        let lanes = self.lock();
        (lanes.accepted, lanes.taken)
    }

    /// Bytes of application frames that are not written yet.
    pub(crate) fn queued(&self) -> usize {
        let lanes = self.lock();
        lanes.queued + lanes.writing
    }

    /// Fills `buffer` (empty) with what is to be written next: all control frames, then a block of
    /// application frames. The buffer's memory is used again.
    pub(crate) fn take(&self, buffer: &mut Vec<u8>) -> Taken {
        let mut lanes = self.lock();
        let block = lanes.application.pop_front().unwrap_or_default();
        let Block { mut bytes, tail, messages } = block;
        lanes.writing = bytes.len() + tail.as_ref().map_or(0, Bytes::len);
        lanes.queued -= lanes.writing;
        lanes.taken += messages;
        if lanes.control.is_empty() {
            std::mem::swap(buffer, &mut bytes);
        } else {
            std::mem::swap(buffer, &mut lanes.control);
            buffer.append(&mut bytes);
        }
        if lanes.application.is_empty() && bytes.capacity() >= BLOCK {
            // What the writer had before is where the next frames gather.
            lanes.application.push_back(Block { bytes, ..Block::default() });
        }
        if !buffer.is_empty() {
            return Taken::Write { messages, tail };
        }
        let (received, receiving) = (lanes.received, lanes.receiving);
        match &mut lanes.closing {
            None => {
                lanes.idle = true;
                Taken::Empty
            }
            Some(Closing { goodbye: false, .. }) => Taken::Finished,
            Some(_) if receiving => Taken::Held,
            Some(closing) => {
                closing.goodbye = false;
                let reason = closing.reason.clone();
                Frame::Goodbye { reason, received }.encode(buffer);
                Taken::Write { messages: 0, tail: None }
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
        let mut lanes = self.lock();
        lanes.writing = 0;
        // Woken when half is free and not for every block, so that they fill many at once.
        let half = self.max_application.min(AHEAD) / 2;
        if lanes.waiting && lanes.queued <= half {
            lanes.waiting = false;
            drop(lanes);
            self.room.notify_waiters();
        }
    }

    /// Gives back the memory of an idle lane.
    pub(crate) fn shrink(&self) {
        let mut lanes = self.lock();
        if lanes.queued == 0 {
            lanes.application = VecDeque::new();
            lanes.control.shrink_to_fit();
        }
    }

    /// Waits until [`Outbox::take`] may have something.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    fn wake_writer(&self, mut lanes: MutexGuard<'_, Lanes>) {
        if std::mem::take(&mut lanes.idle) {
            drop(lanes);
            self.filled.notify_one();
        }
    }

    fn wake_all(&self, lanes: MutexGuard<'_, Lanes>) {
        drop(lanes);
        self.filled.notify_one();
        self.room.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        // Nothing that holds the lock can panic halfway through a change.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
