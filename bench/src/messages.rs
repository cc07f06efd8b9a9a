//! The messages between two ends: numbered ones one way, or one message back and forth.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The number that marks the last message.
const LAST: u64 = u64::MAX;

/// Rounds back and forth before those that count.
const WARM_UP: usize = 2_000;

/// Bytes of the smallest message: its number.
pub(crate) const LEAST: usize = 8;

/// Messages between two looks at the clock.
const CLOCK: u64 = 64;

/// The part of an end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// Counts messages until the last.
    Count,
    /// Sends each message back.
    Echo,
    /// Sends the next message, until there are enough rounds.
    Ping {
        /// Bytes of the message.
        size: usize,
        /// Duration of the rounds, after the warm-up.
        length: Duration,
    },
}

/// Numbers outgoing messages for a while.
#[derive(Debug)]
pub(crate) struct Numbers {
    next: u64,
    started: Instant,
    length: Duration,
}

impl Numbers {
    /// Creates it, for `length` from now on.
    pub(crate) fn new(length: Duration) -> Self {
        Self { next: 0, started: Instant::now(), length }
    }

    /// Puts the number of the next message into `message`, while there is to be one.
    pub(crate) fn number(&mut self, message: &mut [u8]) -> bool {
        if self.next.is_multiple_of(CLOCK) && self.started.elapsed() >= self.length {
            return false;
        }
        put(message, self.next);
        self.next += 1;
        true
    }

    /// Makes `message` the last one. Returns how many were numbered.
    pub(crate) fn last(&self, message: &mut [u8]) -> u64 {
        put(message, LAST);
        self.next
    }
}

/// Puts `number` into `message`.
pub(crate) fn put(message: &mut [u8], number: u64) {
    message[..LEAST].copy_from_slice(&number.to_le_bytes());
}

/// Returns the number in `message`, unless the message is too short.
pub(crate) fn number(message: &[u8]) -> Option<u64> {
    message.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Checks and counts received messages.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    next: u64,
    disordered: u64,
    first: Option<Instant>,
}

/// The totals of the received messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Arrived {
    /// Messages.
    pub messages: u64,
    /// Messages that did not follow the one before them.
    pub disordered: u64,
    /// Time from the first to the last.
    pub elapsed: Duration,
}

impl Arrived {
    /// Checks that these are the `sent` messages.
    ///
    /// # Errors
    /// If messages are missing, or out of order.
    pub(crate) fn check(&self, sent: u64) -> Result<()> {
        ensure!(
            self.messages == sent && self.disordered == 0,
            "{sent} messages were sent, {} arrived, {} out of order",
            self.messages,
            self.disordered
        );
        Ok(())
    }
}

impl Arrivals {
    /// Counts one message. Returns the totals once it is the last.
    pub(crate) fn take(&mut self, message: &[u8]) -> Option<Arrived> {
        let first = *self.first.get_or_insert_with(Instant::now);
        let number = number(message).unwrap_or_default();
        if number == LAST {
            let (messages, disordered) = (self.next, self.disordered);
            return Some(Arrived { messages, disordered, elapsed: first.elapsed() });
        }
        if number != self.next {
            self.disordered += 1;
        }
        self.next += 1;
        None
    }
}

/// Sends rounds back and forth for a time, and records their times.
#[derive(Debug)]
pub(crate) struct Rounds {
    message: Vec<u8>,
    length: Duration,
    sent: Instant,
    /// The start of the rounds that count.
    began: Option<Instant>,
    warm_up: usize,
    times: Vec<Duration>,
}

impl Rounds {
    /// Creates rounds of a message of `size` bytes, for `length` after the warm-up.
    pub(crate) fn new(size: usize, length: Duration) -> Self {
        Self {
            message: vec![0; size],
            length,
            sent: Instant::now(),
            began: None,
            warm_up: WARM_UP,
            times: Vec::with_capacity(1 << 20),
        }
    }

    /// Returns the message of a round that begins now.
    pub(crate) fn start(&mut self) -> &[u8] {
        self.sent = Instant::now();
        &self.message
    }

    /// Ends a round. Returns true once there were enough rounds.
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

    /// Returns the times, shortest first.
    pub(crate) fn into_times(mut self) -> Vec<Duration> {
        self.times.sort_unstable();
        self.times
    }
}

/// The result of an end that the system calls for each message.
#[derive(Debug)]
pub(crate) enum Account {
    Arrived(Arrived),
    Rounds(Rounds),
}

impl Account {
    /// Returns the totals.
    ///
    /// # Errors
    /// If this end did not count.
    pub(crate) fn arrived(self) -> Result<Arrived> {
        match self {
            Self::Arrived(arrived) => Ok(arrived),
            Self::Rounds(_) => bail!("this end does not count"),
        }
    }

    /// Returns the rounds.
    ///
    /// # Errors
    /// If this end has sent none.
    pub(crate) fn rounds(self) -> Result<Rounds> {
        match self {
            Self::Rounds(rounds) => Ok(rounds),
            Self::Arrived(_) => bail!("this end does not ping"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_or_out_of_order_is_found() {
        let mut message = [0; LEAST];
        let mut arrivals = Arrivals::default();
        for number in [0, 2, 1] {
            put(&mut message, number);
            assert!(arrivals.take(&message).is_none());
        }
        Numbers::new(Duration::ZERO).last(&mut message);
        let arrived = arrivals.take(&message).unwrap();
        assert_eq!((arrived.messages, arrived.disordered), (3, 2));
    }

    #[test]
    fn numbers_end_with_their_time() {
        let mut message = [0; 16];
        let mut numbers = Numbers::new(Duration::from_millis(5));
        let mut count = 0;
        while numbers.number(&mut message) {
            count += 1;
        }
        assert!(count > 0);
        assert_eq!(numbers.last(&mut message), count);
    }
}
