//! The frames that wait to be written to one link: two queues, each with its bound.
//!
//! Control frames (those of the overlay and of the link itself) go first. They never wait for room: while
//! their queue is crowded, the state machine leaves out those that can be requested again. If the queue is full
//! nevertheless, or the peer takes no byte for seconds, it is too slow and the link is closed. Application frames
//! wait for room in their own queue. That queue holds encoded frames in blocks, so that many frames go out with one
//! TLS record and one system call. The content of a large frame is shared with its sender, not copied.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use peerkit_proto::config::Config;
use peerkit_proto::event::Reason;
use peerkit_proto::frame::Frame;
use peerkit_proto::peer::congestion::{self, Congestion};
use tokio::sync::Notify;

use crate::clock::NodeClock;
use crate::lock::lock;

mod encoded_frame;
mod write_batch;

pub(crate) use encoded_frame::{EncodedFrame, OwnedFrame};
pub(crate) use write_batch::{WriteBatch, WriterStep};

/// Size at which a block is full, in bytes. A larger frame has a block of its own. 64 KiB: four full TLS
/// records (RFC 8446, section 5.1).
const BLOCK_SIZE: usize = 64 << 10;

/// Capacity of a new block: enough for one frame with a content of [`BLOCK_SIZE`] bytes.
const BLOCK_CAPACITY: usize = BLOCK_SIZE + 64;

/// Number of application bytes in a write at which no further block is added. A control frame waits for at
/// most one write.
const WRITE_SIZE: usize = 64 << 10;

/// Minimum size of a content that is shared with the sender instead of copied, in bytes.
const MIN_SHARED: usize = 16 << 10;

/// Maximum number of bytes that senders queue ahead of the writer if they can wait for room, even if the
/// queue's bound is larger. If bytes are written soon after they were queued, they are still in the processor's
/// cache.
const MAX_AHEAD: usize = 512 << 10;

/// Maximum number of written blocks whose memory is kept for new blocks.
const MAX_SPARE: usize = MAX_AHEAD / BLOCK_SIZE;

/// The outgoing queues of one link.
#[derive(Debug)]
pub(crate) struct Outbox {
    queues: Mutex<Queues>,
    /// Wakes the tasks that wait for room.
    room: Notify,
    clock: NodeClock,
    max_control: usize,
    /// Time after which a peer is too slow if the control queue is crowded and the peer takes no byte.
    slow_after: Duration,
    max_application: usize,
}

#[derive(Debug, Default)]
struct Queues {
    control: Vec<u8>,
    /// A control frame of which only the newest is sent. It is sent after `control`.
    newest: Vec<u8>,
    congestion: Congestion,
    /// Full blocks, oldest first. `open`, to which frames are added, comes behind them.
    full: VecDeque<Block>,
    open: Block,
    /// Memory of written blocks.
    spare: Vec<Vec<u8>>,
    /// Bytes in `full` and `open`.
    queued: usize,
    /// Application bytes that the writer has taken and not yet written.
    writing: usize,
    /// Number of application messages accepted since the link's start.
    accepted: u64,
    /// Number of these messages that the writer has taken. They may have arrived even if a write failed.
    taken: u64,
    /// Number of application messages that the link has received. The goodbye has this number.
    received: u64,
    /// Messages are being received, so `received` is about to change. The goodbye waits until then.
    receiving: bool,
    /// Wakes the writer while it sleeps.
    writer: Option<Waker>,
    /// A sender waits for room for an application frame.
    sender_waits: bool,
    /// A task waits for the control queue to shrink.
    control_waits: bool,
    /// Set once no more frames are accepted.
    closing: Option<Closing>,
}

/// Application frames that are written together.
#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    /// The content of the last frame, if it is shared with the sender.
    tail: Option<Bytes>,
    messages: u64,
}

#[derive(Debug)]
struct Closing {
    reason: Reason,
    /// A goodbye is still to be sent, after all queued frames.
    goodbye: bool,
}

/// The reason why a frame was not accepted. The queues are unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotAccepted {
    /// The queue is full.
    Full,
    /// The link is closing, for this reason.
    Closed(Reason),
}

impl Block {
    fn len(&self) -> usize {
        self.bytes.len() + self.tail.as_ref().map_or(0, Bytes::len)
    }
}

impl Queues {
    /// Returns whether there is nothing to write except one block that is not full, and senders may still add
    /// frames to that block.
    fn is_growing(&self) -> bool {
        let open = self.open.bytes.len();
        open != 0
            && open < BLOCK_SIZE
            && self.full.is_empty()
            && self.control.is_empty()
            && self.newest.is_empty()
            && self.closing.is_none()
            && !self.sender_waits
    }

    fn close(&mut self, reason: Reason, goodbye: bool) {
        self.closing.get_or_insert(Closing { reason, goodbye });
    }

    fn drop_blocks(&mut self) {
        (self.full, self.open) = Default::default();
    }

    #[inline(always)]
    fn append(&mut self, frame: &EncodedFrame<'_>) {
        let len = frame.len();
        if self.open.bytes.len() + len > BLOCK_SIZE && !self.open.bytes.is_empty() {
            // A block that follows a full one is likely to become full too, so all its memory is allocated at
            // once.
            self.begin_block(BLOCK_CAPACITY);
        }
        self.open.messages += 1;
        self.queued += len;
        self.accepted += 1;
        match frame.shared {
            Some(shared) if frame.body.len() >= MIN_SHARED => {
                self.open.bytes.extend_from_slice(frame.head);
                self.open.tail = Some(shared.clone());
                // Nothing can follow a shared content in the same block.
                self.begin_block(0);
            }
            _ => {
                self.open.bytes.reserve(len);
                self.open.bytes.extend_from_slice(frame.head);
                self.open.bytes.extend_from_slice(frame.body);
            }
        }
    }

    /// Ends the open block and begins a new one, in the memory of a written block or else with this capacity.
    #[cold]
    fn begin_block(&mut self, capacity: usize) {
        let bytes = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(capacity));
        let full = std::mem::replace(&mut self.open, Block { bytes, ..Block::default() });
        self.full.push_back(full);
    }

    /// Returns the writer's next step if nothing is queued. If that is the goodbye, encodes it into `out`.
    fn when_empty(&mut self, out: &mut Vec<u8>) -> WriterStep {
        let (received, receiving) = (self.received, self.receiving);
        match &mut self.closing {
            None => WriterStep::Sleep,
            Some(Closing { goodbye: false, .. }) => WriterStep::Close,
            Some(_) if receiving => WriterStep::AwaitCount,
            Some(closing) => {
                closing.goodbye = false;
                let reason = closing.reason.clone();
                Frame::Goodbye { reason, received }.encode(out);
                WriterStep::Write
            }
        }
    }
}

impl Outbox {
    pub(crate) fn new(config: &Config, clock: NodeClock) -> Self {
        Self {
            queues: Mutex::default(),
            room: Notify::new(),
            clock,
            max_control: config.control_queue,
            slow_after: config.slow_after,
            max_application: config.peer_queue,
        }
    }

    /// Queues a control frame.
    pub(crate) fn push_control(&self, frame: &Frame) -> Result<(), NotAccepted> {
        let mut queues = lock(&self.queues);
        if let Some(closing) = &queues.closing {
            return Err(NotAccepted::Closed(closing.reason.clone()));
        }
        if queues.control.len() >= self.max_control || self.is_slow(&queues) {
            return Err(NotAccepted::Full);
        }
        if congestion::replaces_queued(frame) {
            queues.newest.clear();
            frame.encode(&mut queues.newest);
        } else {
            frame.encode(&mut queues.control);
        }
        if queues.control.len() > self.max_control / 2 {
            queues.congestion.add(self.clock.now());
        }
        self.wake_writer(queues);
        Ok(())
    }

    /// Notes that the peer reads, although the writer has not taken the next frames yet: it is writing a large one.
    pub(crate) fn note_progress(&self) {
        lock(&self.queues).congestion.progress();
    }

    /// Returns whether the peer reads too slowly to keep the link.
    pub(crate) fn is_too_slow(&self) -> bool {
        self.is_slow(&lock(&self.queues))
    }

    fn is_slow(&self, queues: &Queues) -> bool {
        // The clock is read only if the queue is crowded, as this runs for each frame.
        queues.control.len() > self.max_control / 2
            && queues.congestion.is_slow(self.clock.now(), self.slow_after)
    }

    /// Queues an application frame if there is room. An empty queue takes a frame of any size.
    pub(crate) fn try_push(&self, frame: &EncodedFrame<'_>) -> Result<(), NotAccepted> {
        self.put(frame, self.max_application, false)
    }

    /// Queues an application frame once there is room.
    pub(crate) async fn push(&self, frame: &EncodedFrame<'_>) -> Result<(), Reason> {
        loop {
            // This task registers before it checks the queue, so that it does not miss room that is made in
            // between.
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            match self.put(frame, self.ahead_limit(), true) {
                Ok(()) => return Ok(()),
                Err(NotAccepted::Closed(reason)) => return Err(reason),
                Err(NotAccepted::Full) => {
                    room.await;
                    // The writer has woken this task, which is about to wake the writer. If the two tasks
                    // wake each other many times in a row, tokio moves one of them to another thread, and
                    // each then waits for the other's thread. Yielding interrupts that.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Queues an application frame if [`push`](Self::push) would not have to wait. Returns false if it
    /// would, or if the link is closing.
    #[inline]
    pub(crate) fn try_push_ahead(&self, frame: &EncodedFrame<'_>) -> bool {
        self.put(frame, self.ahead_limit(), false).is_ok()
    }

    #[inline]
    fn ahead_limit(&self) -> usize {
        self.max_application.min(MAX_AHEAD)
    }

    // Inlined, so that the compiler knows the length of a message's head.
    #[inline(always)]
    fn put(&self, frame: &EncodedFrame<'_>, limit: usize, wait: bool) -> Result<(), NotAccepted> {
        let mut queues = lock(&self.queues);
        if let Some(closing) = &queues.closing {
            return Err(NotAccepted::Closed(closing.reason.clone()));
        }
        // Bytes that the writer has taken still count. Otherwise twice the limit could wait for a slow peer.
        let queued = queues.queued + queues.writing;
        if queued != 0 && queued.saturating_add(frame.len()) > limit {
            queues.sender_waits |= wait;
            return Err(NotAccepted::Full);
        }
        queues.append(frame);
        self.wake_writer(queues);
        Ok(())
    }

    /// Accepts no more frames. Queued frames still go out, then the goodbye if `goodbye` is set.
    ///
    /// The first call decides; later ones change nothing.
    pub(crate) fn close(&self, reason: Reason, goodbye: bool) {
        let mut queues = lock(&self.queues);
        queues.close(reason, goodbye);
        self.wake_all(queues);
    }

    /// Does the same as [`close`](Self::close), and drops the queued application frames.
    pub(crate) fn abort(&self, reason: Reason, goodbye: bool) {
        let mut queues = lock(&self.queues);
        queues.close(reason, goodbye);
        queues.drop_blocks();
        queues.queued = 0;
        self.wake_all(queues);
    }

    /// Waits until the control queue is at most half full, or the link is closing.
    pub(crate) async fn wait_while_crowded(&self) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            {
                let mut queues = lock(&self.queues);
                if queues.closing.is_some() || queues.control.len() <= self.max_control / 2 {
                    return;
                }
                queues.control_waits = true;
            }
            room.await;
        }
    }

    /// Returns the reason why no more frames are accepted, once the link is closing.
    pub(crate) fn closed(&self) -> Option<Reason> {
        lock(&self.queues).closing.as_ref().map(|closing| closing.reason.clone())
    }

    /// Returns the number of application messages accepted since the link's start, and the number of those
    /// that the writer has taken.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let queues = lock(&self.queues);
        (queues.accepted, queues.taken)
    }

    /// Returns the bytes of application frames that are not written yet.
    pub(crate) fn queued(&self) -> usize {
        let queues = lock(&self.queues);
        queues.queued + queues.writing
    }

    /// Returns the bytes of control frames that the writer has not taken yet.
    pub(crate) fn queued_control(&self) -> usize {
        lock(&self.queues).control.len()
    }

    /// Moves the next frames to write into `batch`: all control frames, then blocks of application frames.
    /// The frames that were in `batch` before count as written.
    ///
    /// With `let_grow` a block that is not full is left to grow. If there is nothing to write, `writer` is
    /// woken as soon as a frame is queued or the link is closing.
    ///
    /// Without `application` only control frames are taken, except if the link is closing: all queued frames
    /// are sent then.
    pub(crate) fn take(
        &self,
        batch: &mut WriteBatch,
        (let_grow, application): (bool, bool),
        writer: &Waker,
    ) -> WriterStep {
        let mut queues = lock(&self.queues);
        let application = application || queues.closing.is_some();
        // The previous batch is written.
        queues.writing = 0;
        batch.recycle(&mut queues.spare);
        if let_grow && application && queues.is_growing() {
            queues.writer = Some(writer.clone());
            return WriterStep::LetGrow;
        }
        // Swapped, so that both buffers keep their memory.
        std::mem::swap(&mut batch.control, &mut queues.control);
        queues.congestion.progress();
        if !queues.newest.is_empty() {
            batch.control.append(&mut queues.newest);
        }
        while application && queues.writing < WRITE_SIZE {
            let block = match queues.full.pop_front() {
                Some(block) => block,
                None if queues.open.bytes.is_empty() => break,
                None => {
                    let bytes = queues.spare.pop().unwrap_or_default();
                    std::mem::replace(&mut queues.open, Block { bytes, ..Block::default() })
                }
            };
            queues.writing += block.len();
            queues.taken += block.messages;
            batch.push(block);
        }
        queues.queued -= queues.writing;
        // Senders are woken when half of the queue is free, and not after every block, so that each of them
        // can fill many blocks.
        let has_room =
            queues.queued <= self.ahead_limit() / 2 && std::mem::take(&mut queues.sender_waits);
        let wake = has_room | std::mem::take(&mut queues.control_waits);
        let step = if batch.len() == 0 {
            queues.when_empty(&mut batch.control)
        } else {
            WriterStep::Write
        };
        queues.writer = (step == WriterStep::Sleep).then(|| writer.clone());
        drop(queues);
        if wake {
            self.room.notify_waiters();
        }
        step
    }

    /// Marks that the link's task is about to receive messages. A goodbye is held back until
    /// [`end_receiving`](Self::end_receiving), so that it counts these messages.
    pub(crate) fn begin_receiving(&self) {
        let mut queues = lock(&self.queues);
        queues.receiving = true;
        // Answers to these messages need not wake the writer, which runs next, in the same task.
        queues.writer = None;
    }

    /// Returns whether messages are being received. If so, `writer` is woken once these messages are counted.
    pub(crate) fn is_receiving(&self, writer: &Waker) -> bool {
        let mut queues = lock(&self.queues);
        queues.writer = queues.receiving.then(|| writer.clone());
        queues.receiving
    }

    /// Sets the number of messages that the link has received since its start.
    pub(crate) fn end_receiving(&self, received: u64) {
        let mut queues = lock(&self.queues);
        (queues.received, queues.receiving) = (received, false);
        // Only a writer that holds back the goodbye waits for this.
        if queues.closing.is_some() {
            self.wake_writer(queues);
        }
    }

    /// Frees the memory of an idle link's queues.
    pub(crate) fn shrink(&self) {
        let mut queues = lock(&self.queues);
        // The open block has memory even if it is empty. Dropping the blocks frees that memory.
        if queues.queued == 0 {
            queues.drop_blocks();
            queues.spare = Vec::new();
            queues.control.shrink_to_fit();
            queues.newest.shrink_to_fit();
        }
    }

    #[inline]
    fn wake_writer(&self, mut queues: MutexGuard<'_, Queues>) {
        if let Some(writer) = queues.writer.take() {
            // The lock is released first, because the woken writer needs it.
            drop(queues);
            writer.wake();
        }
    }

    fn wake_all(&self, queues: MutexGuard<'_, Queues>) {
        self.wake_writer(queues);
        self.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
