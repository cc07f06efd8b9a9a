//! The messages between two ends: numbered messages one way, or one message back and forth.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The number that marks the last message.
const LAST: u64 = u64::MAX;

/// Number of rounds before those that count.
const WARM_UP_ROUNDS: usize = 2_000;

/// Minimum size of a message, in bytes. Such a message contains only its number.
pub(crate) const MIN_SIZE: usize = 8;

/// Number of messages between two reads of the clock. Reading the clock for each message would add much to
/// the cost of sending it.
const MESSAGES_PER_CLOCK_READ: u64 = 64;

/// The reaction of an end to each received message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OnMessage {
    /// Counts messages until the last one.
    Count,
    /// Sends the message back.
    Echo,
    /// Starts the next round, until the rounds have lasted long enough.
    Ping {
        /// Size of the message, in bytes.
        size: usize,
        /// Duration of the rounds after the warm-up.
        duration: Duration,
    },
}

/// Numbers outgoing messages for a given time.
#[derive(Debug)]
pub(crate) struct Numbering {
    next: u64,
    started: Instant,
    duration: Duration,
}

impl Numbering {
    /// Starts numbering. It ends after `duration`.
    pub(crate) fn new(duration: Duration) -> Self {
        Self { next: 0, started: Instant::now(), duration }
    }

    /// Writes the next number into `message`. Returns false when the time is over.
    pub(crate) fn number(&mut self, message: &mut [u8]) -> bool {
        if self.next.is_multiple_of(MESSAGES_PER_CLOCK_READ)
            && self.started.elapsed() >= self.duration
        {
            return false;
        }
        put(message, self.next);
        self.next += 1;
        true
    }

    /// Marks `message` as the last one. Returns the number of messages before it.
    pub(crate) fn last(&self, message: &mut [u8]) -> u64 {
        put(message, LAST);
        self.next
    }
}

/// Writes `number` to the start of `message`.
pub(crate) fn put(message: &mut [u8], number: u64) {
    message[..MIN_SIZE].copy_from_slice(&number.to_le_bytes());
}

/// Returns the number at the start of `message`, or `None` if it is too short.
pub(crate) fn number(message: &[u8]) -> Option<u64> {
    message.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Checks and counts received messages.
#[derive(Debug, Default)]
pub(crate) struct ReceiveCounter {
    next: u64,
    disordered: u64,
    first: Option<Instant>,
}

/// Totals of the received messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReceiveTotals {
    /// Number of messages.
    pub messages: u64,
    /// Number of messages that did not follow their predecessor.
    pub disordered: u64,
    /// Time from the first message to the last.
    pub elapsed: Duration,
}

impl ReceiveTotals {
    /// Checks that exactly the `sent` messages were received.
    ///
    /// # Errors
    /// Fails if some are missing or out of order.
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

impl ReceiveCounter {
    /// Counts one message. After the last message, returns the totals.
    pub(crate) fn take(&mut self, message: &[u8]) -> Option<ReceiveTotals> {
        let first = *self.first.get_or_insert_with(Instant::now);
        let number = number(message).unwrap_or_default();
        if number == LAST {
            let (messages, disordered) = (self.next, self.disordered);
            return Some(ReceiveTotals { messages, disordered, elapsed: first.elapsed() });
        }
        if number != self.next {
            self.disordered += 1;
        }
        self.next += 1;
        None
    }
}

/// Measures the times of rounds, in which a message is sent back and forth, for a given duration.
#[derive(Debug)]
pub(crate) struct Rounds {
    message: Vec<u8>,
    duration: Duration,
    sent: Instant,
    /// Start of the rounds that count, after the warm-up.
    start: Option<Instant>,
    warm_up: usize,
    times: Vec<Duration>,
}

impl Rounds {
    /// Prepares rounds of a message of `size` bytes, for `duration` after the warm-up.
    pub(crate) fn new(size: usize, duration: Duration) -> Self {
        Self {
            message: vec![0; size],
            duration,
            sent: Instant::now(),
            start: None,
            warm_up: WARM_UP_ROUNDS,
            // A vector that grows would copy megabytes in the middle of a round.
            times: Vec::with_capacity(1 << 20),
        }
    }

    /// Starts a round, and returns its message.
    pub(crate) fn start(&mut self) -> &[u8] {
        self.sent = Instant::now();
        &self.message
    }

    /// Ends the round. Returns true if the rounds have lasted long enough.
    pub(crate) fn finish(&mut self) -> bool {
        // Reads the clock first, so that the steps below do not count.
        let now = Instant::now();
        if self.warm_up > 0 {
            self.warm_up -= 1;
            return false;
        }
        let start = *self.start.get_or_insert(now);
        self.times.push(now - self.sent);
        now - start >= self.duration
    }

    /// Returns the round-trip times, shortest first.
    pub(crate) fn into_times(mut self) -> Vec<Duration> {
        self.times.sort_unstable();
        self.times
    }
}

/// The result of an end whose system calls a handler for each message.
#[derive(Debug)]
pub(crate) enum EndResult {
    Received(ReceiveTotals),
    Rounds(Rounds),
}

impl EndResult {
    /// Returns the totals of the received messages.
    ///
    /// # Errors
    /// Fails if this end did not count messages.
    pub(crate) fn receive_totals(self) -> Result<ReceiveTotals> {
        match self {
            Self::Received(totals) => Ok(totals),
            Self::Rounds(_) => bail!("this end does not count messages"),
        }
    }

    /// Returns the rounds of this end.
    ///
    /// # Errors
    /// Fails if this end did not measure rounds.
    pub(crate) fn rounds(self) -> Result<Rounds> {
        match self {
            Self::Rounds(rounds) => Ok(rounds),
            Self::Received(_) => bail!("this end does not measure rounds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_reordered_messages_are_counted() {
        let mut message = [0; MIN_SIZE];
        let mut arrivals = ReceiveCounter::default();
        for number in [0, 2, 1] {
            put(&mut message, number);
            assert!(arrivals.take(&message).is_none());
        }
        Numbering::new(Duration::ZERO).last(&mut message);
        let arrived = arrivals.take(&message).unwrap();
        assert_eq!((arrived.messages, arrived.disordered), (3, 2));
    }

    #[test]
    fn numbering_ends_with_its_time() {
        let mut message = [0; 16];
        let mut numbers = Numbering::new(Duration::from_millis(5));
        let mut count = 0;
        while numbers.number(&mut message) {
            count += 1;
        }
        assert!(count > 0);
        assert_eq!(numbers.last(&mut message), count);
    }
}
