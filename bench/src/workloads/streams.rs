//! 1 GiB over byte streams between two ends: over one stream, and over four streams that share it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::bulk::Stream;
use crate::concurrent::join_all;
use crate::process::{Child, Parent, cpu_seconds};
use crate::report::{Figure, Measurement};
use crate::streams::{BULK, Dialler, Listener};
use crate::workload::{Case, Job};

const GIB: u64 = 1 << 30;

/// Number of bytes of all streams together.
const TOTAL: u64 = GIB;

/// Number of bytes of each write and read.
const CHUNK: usize = 256 << 10;

/// Distance between two marks, in bytes. A mark is a byte that identifies its position in the stream.
const MARK_DISTANCE: usize = 4 << 10;

/// The report of the listening process.
#[derive(Debug, Serialize, Deserialize)]
struct ListenerReport {
    bytes: u64,
    /// Number of marks that differ from the expected mark.
    misplaced: u64,
    /// Time from the first byte to the last.
    elapsed: Duration,
}

/// Returns two cases: one stream, and four streams.
pub(crate) fn cases() -> Vec<Case> {
    let case = |(name, amount): (&str, usize)| Case { name: name.into(), amount };
    [("1 stream", 1), ("4 streams", 4)].map(case).to_vec()
}

/// Measures the sending to a process that listens.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let mut child = Child::start(job.to_args())?;
    let address: String = child.receive().await?;
    let mut dialler = Dialler::connect(job.system, &address).await?;
    let mut streams = Vec::new();
    for _ in 0..job.case.amount {
        streams.push(dialler.open(BULK).await?);
    }
    let own = std::process::id();
    let before = cpu_seconds(own) + child.cpu_seconds();
    let mut sending = JoinSet::new();
    for stream in streams {
        sending.spawn(send(stream, TOTAL / job.case.amount as u64));
    }
    // Data may still be in flight, so the streams are kept until the report has arrived.
    let sent = join_all(sending).await?;
    let report: ListenerReport = child.receive().await?;
    let cpu_s = cpu_seconds(own) + child.cpu_seconds() - before;
    drop((sent, dialler));
    child.end().await?;
    ensure!(
        report.bytes == TOTAL && report.misplaced == 0,
        "{TOTAL} bytes were sent, {} arrived, {} marks out of place",
        report.bytes,
        report.misplaced
    );
    let figures = vec![
        Figure::higher("mb_per_s", TOTAL as f64 / 1e6 / report.elapsed.as_secs_f64()),
        Figure::lower("cpu_s_per_gib", cpu_s * GIB as f64 / TOTAL as f64),
    ];
    Ok(vec![Measurement::new(job, figures)])
}

/// Runs the listening process.
pub(crate) async fn run_child(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let mut listener = Listener::bind(job.system).await?;
    parent.send(&listener.address())?;
    let mut receiving = JoinSet::new();
    for _ in 0..job.case.amount {
        let (_, stream) = listener.accept().await?;
        receiving.spawn(receive(stream));
    }
    let received = join_all(receiving).await?;
    let first = received.iter().map(|part| part.first).min().context("no streams")?;
    let last = received.iter().map(|part| part.last).max().context("no streams")?;
    parent.send(&ListenerReport {
        bytes: received.iter().map(|part| part.bytes).sum(),
        misplaced: received.iter().map(|part| part.misplaced).sum(),
        elapsed: last - first,
    })?;
    parent.wait_for_end().await
}

async fn send(mut stream: Stream, bytes: u64) -> Result<Stream> {
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < bytes {
        for (index, mark) in chunk.chunks_mut(MARK_DISTANCE).enumerate() {
            mark[0] = mark_at(at + (index * MARK_DISTANCE) as u64);
        }
        let len = (bytes - at).min(CHUNK as u64);
        stream.write_all(&chunk[..len as usize]).await?;
        at += len;
    }
    stream.shutdown().await?;
    Ok(stream)
}

/// The counts and times of one received stream.
struct ReceivedStream {
    /// The stream is kept because the other end may still wait for the acknowledgement of its end of stream.
    _stream: Stream,
    bytes: u64,
    misplaced: u64,
    first: Instant,
    last: Instant,
}

async fn receive(mut stream: Stream) -> Result<ReceivedStream> {
    let mut buffer = vec![0; CHUNK];
    let (mut bytes, mut misplaced) = (0, 0);
    let mut times = None;
    loop {
        let read = stream.read(&mut buffer).await?;
        let now = Instant::now();
        if read == 0 {
            let (first, last) = times.context("the stream ended before its first byte")?;
            return Ok(ReceivedStream { _stream: stream, bytes, misplaced, first, last });
        }
        times = Some((times.map_or(now, |(first, _)| first), now));
        // A read can end anywhere, so the next mark may be at any position in the buffer.
        let to_next = (MARK_DISTANCE - bytes as usize % MARK_DISTANCE) % MARK_DISTANCE;
        for at in (to_next..read).step_by(MARK_DISTANCE) {
            misplaced += u64::from(buffer[at] != mark_at(bytes + at as u64));
        }
        bytes += read as u64;
    }
}

/// Returns the mark at a position, which is a multiple of [`MARK_DISTANCE`].
fn mark_at(position: u64) -> u8 {
    // The period is a prime number, so that a lost chunk of any size changes the marks.
    (position / MARK_DISTANCE as u64 % 251) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn misplaced_bytes_are_found() {
        let bytes = 3 * CHUNK + 17;
        let (here, mut there) = tokio::io::duplex(10_007);
        let sending = tokio::spawn(send(Box::new(here), bytes as u64));
        let mut sent = Vec::new();
        there.read_to_end(&mut sent).await.unwrap();
        sending.await.unwrap().unwrap();

        for (cut, misplaced) in [(0, false), (MARK_DISTANCE, true), (1, true)] {
            let (mut here, there) = tokio::io::duplex(10_007);
            let receiving = tokio::spawn(receive(Box::new(there)));
            here.write_all(&sent[cut..]).await.unwrap();
            drop(here);
            let received = receiving.await.unwrap().unwrap();
            assert_eq!(received.bytes, (bytes - cut) as u64);
            assert_eq!(received.misplaced > 0, misplaced, "{cut}");
        }
    }
}
