//! What runs between the two ends: numbered messages one way, or one message to and fro.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// In place of a number: no message comes after this one, and how many came before it follows.
const END: u64 = u64::MAX;

/// Rounds of ping-pong before those that count.
const WARM_UP: usize = 2_000;

/// Message `number` of `size` bytes. Of fresh memory, as an application's messages are.
pub(crate) fn message(number: u64, size: usize) -> Vec<u8> {
    let mut message = vec![0; size];
    message[..8].copy_from_slice(&number.to_le_bytes());
    message
}

/// The last message, after `count` others.
pub(crate) fn end(count: u64, size: usize) -> Vec<u8> {
    let mut message = message(END, size);
    message[8..16].copy_from_slice(&count.to_le_bytes());
    message
}

/// Checks and counts what arrives.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    next: u64,
    disordered: u64,
    first: Option<Instant>,
}

/// What has arrived in all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Arrived {
    /// Messages.
    pub messages: u64,
    /// Messages that were not the one after the one before.
    pub disordered: u64,
    /// From the first to the last.
    pub elapsed: Duration,
}

impl Arrivals {
    /// Takes one message; returns the account once it is the last.
    pub(crate) fn take(&mut self, message: &[u8]) -> Option<Arrived> {
        let first = *self.first.get_or_insert_with(Instant::now);
        let number = |at: usize| {
            let bytes = message.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_le_bytes)
        };
        if number(0) == END {
            // A count that differs from the sender's is found there.
            let (messages, disordered) = (self.next, self.disordered);
            return Some(Arrived { messages, disordered, elapsed: first.elapsed() });
        }
        if number(0) != self.next {
            self.disordered += 1;
        }
        self.next += 1;
        None
    }
}

/// Sends rounds of ping-pong for as long as they are to run, and keeps their times.
#[derive(Debug)]
pub(crate) struct Rounds {
    message: Bytes,
    length: Duration,
    sent: Instant,
    /// When the rounds that count began.
    began: Option<Instant>,
    warm_up: usize,
    times: Vec<Duration>,
}

impl Rounds {
    /// Rounds of a message of `size` bytes, for `length` after the warm-up.
    pub(crate) fn new(size: usize, length: Duration) -> Self {
        Self {
            message: message(0, size).into(),
            length,
            sent: Instant::now(),
            began: None,
            warm_up: WARM_UP,
            times: Vec::with_capacity(1 << 20),
        }
    }

    /// The message of a round that begins now.
    pub(crate) fn start(&mut self) -> Bytes {
        self.sent = Instant::now();
        self.message.clone()
    }

    /// The message is back; true once these were rounds enough.
    pub(crate) fn back(&mut self) -> bool {
        let now = Instant::now();
        if self.warm_up > 0 {
            self.warm_up -= 1;
            return false;
        }
        let began = *self.began.get_or_insert(now);
        self.times.push(now - self.sent);
        now - began >= self.length
    }

    /// The times, shortest first.
    pub(crate) fn into_times(mut self) -> Vec<Duration> {
        self.times.sort_unstable();
        self.times
    }
}
