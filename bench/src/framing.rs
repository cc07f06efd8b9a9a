//! Messages with a length prefix on a byte stream, written in batches of 64 KiB. This is the fastest way to
//! send messages on a byte stream: neither end allocates memory for each message.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::messages::{Numbering, ReceiveCounter, ReceiveTotals, Rounds};

/// Number of bytes that are gathered for one write.
pub(crate) const BATCH: usize = 64 << 10;

/// Minimum size of frames that are written directly, in bytes. Gathering such frames would only cost copies.
const MIN_DIRECT: usize = 16 << 10;

/// Initial size of the read buffer, in bytes.
const READ_BUFFER: usize = 256 << 10;

/// Number of bytes of the length prefix.
const PREFIX: usize = 4;

/// Sends numbered messages of `size` bytes for `duration`, and then the last one. Returns the number of
/// messages before the last one.
pub(crate) async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    size: usize,
    duration: Duration,
) -> Result<u64> {
    let mut frame = Vec::new();
    append(&mut frame, &vec![0; size])?;
    let mut batch = Vec::with_capacity(BATCH + frame.len());
    let mut numbers = Numbering::new(duration);
    while numbers.number(&mut frame[PREFIX..]) {
        if frame.len() >= MIN_DIRECT {
            stream.write_all(&frame).await?;
            continue;
        }
        batch.extend_from_slice(&frame);
        if batch.len() + frame.len() > BATCH {
            stream.write_all(&batch).await?;
            batch.clear();
        }
    }
    let count = numbers.last(&mut frame[PREFIX..]);
    batch.extend_from_slice(&frame);
    stream.write_all(&batch).await?;
    stream.flush().await?;
    Ok(count)
}

/// Receives messages of `size` bytes until the last one.
pub(crate) async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    size: usize,
) -> Result<ReceiveTotals> {
    let mut frames = FrameReader::new(size);
    let mut arrivals = ReceiveCounter::default();
    loop {
        while let Some(message) = frames.next() {
            if let Some(arrived) = arrivals.take(message) {
                return Ok(arrived);
            }
        }
        if !frames.read(stream).await? {
            bail!("the stream ended before the last message");
        }
    }
}

/// Sends a message and waits for it to come back, until the rounds have lasted long enough.
pub(crate) async fn ping(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut rounds: Rounds,
) -> Result<Rounds> {
    let mut out = Vec::new();
    append(&mut out, rounds.start())?;
    let mut frames = FrameReader::new(out.len());
    loop {
        rounds.start();
        stream.write_all(&out).await?;
        stream.flush().await?;
        while frames.next().is_none() {
            if !frames.read(stream).await? {
                bail!("the stream ended before the last round");
            }
        }
        if rounds.finish() {
            return Ok(rounds);
        }
    }
}

/// Sends every message back, until the other end closes the stream.
pub(crate) async fn echo(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
    let mut frames = FrameReader::new(0);
    let mut out = Vec::new();
    while frames.read(stream).await? {
        out.clear();
        while let Some(message) = frames.next() {
            append(&mut out, message)?;
        }
        if !out.is_empty() {
            stream.write_all(&out).await?;
            stream.flush().await?;
        }
    }
    Ok(())
}

/// Reads frames, and splits them in the read buffer without copying.
pub(crate) struct FrameReader {
    buffer: Vec<u8>,
    /// The bytes from `begin` to `end` have been read, but not returned.
    begin: usize,
    end: usize,
}

impl FrameReader {
    /// Creates a reader for messages of `size` bytes. `size` is 0 if the size is not known.
    pub(crate) fn new(size: usize) -> Self {
        // The buffer has room for two messages, so that it does not grow during the measurement.
        Self { buffer: vec![0; READ_BUFFER.max(2 * size)], begin: 0, end: 0 }
    }

    /// Returns the next complete message in the buffer.
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        let rest = &self.buffer[self.begin..self.end];
        let size = u32::from_le_bytes(*rest.first_chunk()?) as usize;
        let begin = self.begin + PREFIX;
        if rest.len() < PREFIX + size {
            return None;
        }
        self.begin = begin + size;
        Some(&self.buffer[begin..self.begin])
    }

    /// Reads more bytes. Has to be called when the buffer has no complete message. Returns false at the end
    /// of the stream.
    pub(crate) async fn read(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<bool> {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        // The bytes are moved only when half of the buffer is used up. Otherwise each read would move them.
        } else if self.buffer.len() - self.end < self.buffer.len() / 2 {
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        // The buffer is full, so the message does not fit into it.
        if self.end == self.buffer.len() {
            self.buffer.resize(2 * self.end, 0);
        }
        let read = stream.read(&mut self.buffer[self.end..]).await?;
        self.end += read;
        Ok(read != 0)
    }
}

/// Appends the length prefix and the message to `out`.
pub(crate) fn append(out: &mut Vec<u8>, message: &[u8]) -> Result<()> {
    let size = u32::try_from(message.len()).context("the message is too long")?;
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(message);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_arrive_complete_and_in_order() {
        for size in [8, 64, 5_000, 70_000, 2_000_000] {
            // With an odd buffer size, frames are cut at arbitrary positions.
            let (mut here, mut there) = tokio::io::duplex(10_007);
            let duration = Duration::from_millis(20);
            let sending =
                tokio::spawn(async move { send(&mut here, size, duration).await.unwrap() });
            let arrived = receive(&mut there, size).await.unwrap();
            assert_eq!(arrived.messages, sending.await.unwrap(), "{size}");
            assert!(arrived.messages > 0 && arrived.disordered == 0, "{size}");
        }
    }

    #[tokio::test]
    async fn a_message_is_echoed() {
        let (mut here, mut there) = tokio::io::duplex(1_000);
        let echoing = tokio::spawn(async move { echo(&mut there).await });
        let rounds = ping(&mut here, Rounds::new(64, Duration::from_millis(5))).await.unwrap();
        assert!(!rounds.into_times().is_empty());
        drop(here);
        echoing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_early_end_is_an_error() {
        let (here, mut there) = tokio::io::duplex(1_000);
        drop(here);
        assert!(receive(&mut there, 64).await.is_err());
    }
}
