//! What waits to be written to one link: two lanes, each with its bound.
//!
//! Control frames (the overlay's and the link's own) go first and never wait for room: when their
//! lane is full the peer is too slow and is hung up on. Application frames wait for room in theirs.
//! Frames lie encoded one behind the other in blocks, so that many go out with one record and one
//! call; the content of a large one is shared and not copied.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::task::Waker;

use bytes::Bytes;
use peerkit_proto::config::Config;
use peerkit_proto::event::Reason;
use peerkit_proto::frame::Frame;
use tokio::sync::Notify;

use crate::lock::lock;

mod parcel;
mod taken;

pub(crate) use parcel::Parcel;
pub(crate) use taken::{Taken, Takings};

/// A block grows no further, but for one larger frame: four full TLS records (RFC 8446, 5.1).
const BLOCK: usize = 64 << 10;

/// Room for a block, or for one frame whose content is as long.
const ROOM: usize = BLOCK + 64;

/// Blocks are written together until they have so much: what a control frame may have to wait for.
const WRITE: usize = 64 << 10;

/// Contents from this size on are shared with the sender in place of being copied.
const SHARE: usize = 16 << 10;

/// Senders that wait do so from here on, though the lane has room for those who don't: what is
/// written soon stays in the processor's cache until then.
const AHEAD: usize = 512 << 10;

/// Blocks' memory that is kept for the next ones while the link is busy.
const SPARE: usize = AHEAD / BLOCK;

/// The lanes of one link.
#[derive(Debug)]
pub(crate) struct Outbox {
    lanes: Mutex<Lanes>,
    /// Wakes those who wait for room.
    room: Notify,
    max_control: usize,
    max_application: usize,
}

#[derive(Debug, Default)]
struct Lanes {
    control: Vec<u8>,
    /// Blocks that are done, then the one that frames are added to.
    done: VecDeque<Block>,
    open: Block,
    /// Memory of blocks that were written.
    spare: Vec<Vec<u8>>,
    /// Bytes in `done` and `open`.
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
    /// Wakes the writer, where it sleeps.
    writer: Option<Waker>,
    /// Somebody waits for room.
    waiting: bool,
    /// Somebody waits for room among the control frames.
    crowded: bool,
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

impl Block {
    fn len(&self) -> usize {
        self.bytes.len() + self.tail.as_ref().map_or(0, Bytes::len)
    }
}

impl Lanes {
    /// Whether there is nothing to write but a block that is not full, whose frames' senders may
    /// add to it.
    fn is_growing(&self) -> bool {
        let open = self.open.bytes.len();
        open != 0
            && open < BLOCK
            && self.done.is_empty()
            && self.control.is_empty()
            && self.closing.is_none()
            && !self.waiting
    }

    fn close(&mut self, reason: Reason, goodbye: bool) {
        self.closing.get_or_insert(Closing { reason, goodbye });
    }

    #[inline(always)]
    fn append(&mut self, parcel: &Parcel<'_>) {
        let len = parcel.len();
        if self.open.bytes.len() + len > BLOCK && !self.open.bytes.is_empty() {
            // The one that follows a full block fills too.
            self.turn(ROOM);
        }
        self.open.messages += 1;
        self.queued += len;
        self.accepted += 1;
        match parcel.shared {
            Some(shared) if parcel.body.len() >= SHARE => {
                self.open.bytes.extend_from_slice(parcel.head);
                self.open.tail = Some(shared.clone());
                self.turn(0);
            }
            _ => {
                self.open.bytes.reserve(len);
                self.open.bytes.extend_from_slice(parcel.head);
                self.open.bytes.extend_from_slice(parcel.body);
            }
        }
    }

    /// The open block is done: the next frames go into another, with this much room.
    #[cold]
    fn turn(&mut self, room: usize) {
        let bytes = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(room));
        let done = std::mem::replace(&mut self.open, Block { bytes, ..Block::default() });
        self.done.push_back(done);
    }
}

impl Lanes {
    /// What there is to do where nothing is queued. The goodbye is put into `out`.
    fn nothing(&mut self, out: &mut Vec<u8>) -> Taken {
        let (received, receiving) = (self.received, self.receiving);
        match &mut self.closing {
            None => Taken::Empty,
            Some(Closing { goodbye: false, .. }) => Taken::Finished,
            Some(_) if receiving => Taken::Held,
            Some(closing) => {
                closing.goodbye = false;
                let reason = closing.reason.clone();
                Frame::Goodbye { reason, received }.encode(out);
                Taken::Write
            }
        }
    }
}

impl Outbox {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            lanes: Mutex::default(),
            room: Notify::new(),
            max_control: config.control_queue,
            max_application: config.peer_queue,
        }
    }

    /// Puts a frame into the first lane.
    pub(crate) fn control(&self, frame: &Frame) -> Result<(), NotAccepted> {
        let mut lanes = lock(&self.lanes);
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
        loop {
            // Armed before the look, so that room made in between is not missed.
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            match self.put(parcel, self.ahead(), true) {
                Ok(()) => return Ok(()),
                Err(NotAccepted::Closed(reason)) => return Err(reason),
                Err(NotAccepted::Full) => {
                    room.await;
                    // The writer has woken us, and we are about to wake it: in a row tokio would
                    // soon have another thread run one of us, and both wait for each other there.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Puts a frame into the application's lane, where that needs no waiting; false where it does,
    /// or the link is closing.
    #[inline]
    pub(crate) fn put_ahead(&self, parcel: &Parcel<'_>) -> bool {
        self.put(parcel, self.ahead(), false).is_ok()
    }

    #[inline]
    fn ahead(&self) -> usize {
        self.max_application.min(AHEAD)
    }

    // Inlined, so that the length of a message's head is known.
    #[inline(always)]
    fn put(&self, parcel: &Parcel<'_>, limit: usize, wait: bool) -> Result<(), NotAccepted> {
        let mut lanes = lock(&self.lanes);
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
        let mut lanes = lock(&self.lanes);
        lanes.close(reason, goodbye);
        self.wake_all(lanes);
    }

    /// Accepts nothing more and drops the application's lane: only the goodbye still goes out.
    pub(crate) fn break_off(&self, reason: Reason, goodbye: bool) {
        let mut lanes = lock(&self.lanes);
        lanes.close(reason, goodbye);
        (lanes.done, lanes.open) = Default::default();
        lanes.queued = 0;
        self.wake_all(lanes);
    }

    /// Whether the first lane is more than half full: what need not go out should not.
    pub(crate) fn is_crowded(&self) -> bool {
        lock(&self.lanes).control.len() > self.max_control / 2
    }

    /// Waits until the first lane is not crowded, or the link is closing.
    pub(crate) async fn calm(&self) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            {
                let mut lanes = lock(&self.lanes);
                if lanes.closing.is_some() || lanes.control.len() <= self.max_control / 2 {
                    return;
                }
                lanes.crowded = true;
            }
            room.await;
        }
    }

    /// Why nothing more is accepted, once that is so.
    pub(crate) fn closed(&self) -> Option<Reason> {
        lock(&self.lanes).closing.as_ref().map(|closing| closing.reason.clone())
    }

    /// Application messages accepted in all, and those of them that the writer has taken.
    pub(crate) fn account(&self) -> (u64, u64) {
        let lanes = lock(&self.lanes);
        (lanes.accepted, lanes.taken)
    }

    /// Bytes of application frames that are not written yet.
    pub(crate) fn queued(&self) -> usize {
        let lanes = lock(&self.lanes);
        lanes.queued + lanes.writing
    }

    /// Bytes of control frames that the writer has not taken yet.
    pub(crate) fn queued_control(&self) -> usize {
        lock(&self.lanes).control.len()
    }

    /// Moves what is to be written next into `takings`: all control frames, then blocks of
    /// application frames. What `takings` held before is written: its room is free.
    ///
    /// With `patience` a block that is not full is left to grow. Where there is nothing to write
    /// `writer` is woken once there may be, by whoever puts something in.
    ///
    /// Without `application` only control frames are taken, unless the link is closing: then what is
    /// queued still goes out.
    pub(crate) fn take(
        &self,
        takings: &mut Takings,
        (patience, application): (bool, bool),
        writer: &Waker,
    ) -> Taken {
        let mut lanes = lock(&self.lanes);
        let application = application || lanes.closing.is_some();
        lanes.writing = 0;
        takings.clear(&mut lanes.spare);
        if patience && application && lanes.is_growing() {
            lanes.writer = Some(writer.clone());
            return Taken::Little;
        }
        std::mem::swap(&mut takings.control, &mut lanes.control);
        while application && lanes.writing < WRITE {
            let block = match lanes.done.pop_front() {
                Some(block) => block,
                None if lanes.open.bytes.is_empty() => break,
                None => {
                    let bytes = lanes.spare.pop().unwrap_or_default();
                    std::mem::replace(&mut lanes.open, Block { bytes, ..Block::default() })
                }
            };
            lanes.writing += block.len();
            lanes.taken += block.messages;
            takings.push(block);
        }
        lanes.queued -= lanes.writing;
        let waiting = self.has_room(&mut lanes) | std::mem::take(&mut lanes.crowded);
        let taken = match takings.len() == 0 {
            false => Taken::Write,
            true => lanes.nothing(&mut takings.control),
        };
        lanes.writer = (taken == Taken::Empty).then(|| writer.clone());
        drop(lanes);
        if waiting {
            self.room.notify_waiters();
        }
        taken
    }

    /// The link's task is about to receive messages: a goodbye waits for them, so that it counts
    /// them. The writer need not be woken for what they are answered with: it comes next in that
    /// task.
    pub(crate) fn receiving(&self) {
        let mut lanes = lock(&self.lanes);
        lanes.receiving = true;
        lanes.writer = None;
    }

    /// Whether messages are being received. If so `writer` is woken once they are counted.
    pub(crate) fn is_receiving(&self, writer: &Waker) -> bool {
        let mut lanes = lock(&self.lanes);
        lanes.writer = lanes.receiving.then(|| writer.clone());
        lanes.receiving
    }

    /// So many messages were received on the link by now.
    pub(crate) fn received(&self, received: u64) {
        let mut lanes = lock(&self.lanes);
        (lanes.received, lanes.receiving) = (received, false);
        if lanes.closing.is_some() {
            self.wake_writer(lanes);
        }
    }

    /// Whether those who wait for room are to be woken: when half is free and not for every block,
    /// so that they fill many at once.
    fn has_room(&self, lanes: &mut Lanes) -> bool {
        lanes.queued <= self.ahead() / 2 && std::mem::take(&mut lanes.waiting)
    }

    /// Gives back the memory of an idle link.
    pub(crate) fn shrink(&self) {
        let mut lanes = lock(&self.lanes);
        if lanes.queued == 0 {
            (lanes.done, lanes.open) = Default::default();
            lanes.spare = Vec::new();
            lanes.control.shrink_to_fit();
        }
    }

    #[inline]
    fn wake_writer(&self, mut lanes: MutexGuard<'_, Lanes>) {
        if let Some(writer) = lanes.writer.take() {
            drop(lanes);
            writer.wake();
        }
    }

    fn wake_all(&self, lanes: MutexGuard<'_, Lanes>) {
        self.wake_writer(lanes);
        self.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
