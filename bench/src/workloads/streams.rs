//! A GiB over byte streams between two ends: over one stream, and shared by four.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::bulk::Stream;
use crate::job::{Case, Job};
use crate::process::{Child, Parent, cpu_seconds};
use crate::report::{Figure, Measurement};
use crate::side_by_side::all;
use crate::streams::{BULK, Dialler, Listener};

const GIB: u64 = 1 << 30;

/// Bytes of all streams together.
const TOTAL: u64 = GIB;

/// Bytes of one write and of one read.
const CHUNK: usize = 256 << 10;

/// Distance of the marks in a stream, which name their place.
const MARK: usize = 4 << 10;

/// The report of the listening process at its end.
#[derive(Debug, Serialize, Deserialize)]
struct Account {
    bytes: u64,
    /// Marks that did not belong to their place.
    misplaced: u64,
    /// Time from the first byte to the last.
    elapsed: Duration,
}

/// Returns the cases: one stream, and four.
pub(crate) fn cases() -> Vec<Case> {
    let case = |(name, amount): (&str, usize)| Case { name: name.into(), amount };
    [("1 stream", 1), ("4 streams", 4)].map(case).to_vec()
}

/// Sends to a process that listens.
pub(crate) async fn measure(job: &Job) -> Result<Vec<Measurement>> {
    let mut child = Child::start(job.words())?;
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
    // The data may still be on their way, so the streams stay until the report has come.
    let sent = all(sending).await?;
    let there: Account = child.receive().await?;
    let cpu_s = cpu_seconds(own) + child.cpu_seconds() - before;
    drop((sent, dialler));
    child.end().await?;
    ensure!(
        there.bytes == TOTAL && there.misplaced == 0,
        "{TOTAL} bytes were sent, {} arrived, {} marks out of place",
        there.bytes,
        there.misplaced
    );
    let figures = vec![
        Figure::higher("mb_per_s", TOTAL as f64 / 1e6 / there.elapsed.as_secs_f64()),
        Figure::lower("cpu_s_per_gib", cpu_s * GIB as f64 / TOTAL as f64),
    ];
    Ok(vec![Measurement::of(job, figures)])
}

/// Plays the listening process.
pub(crate) async fn play(job: &Job) -> Result<()> {
    let mut parent = Parent::new();
    let mut listener = Listener::bind(job.system).await?;
    parent.say(&listener.address())?;
    let mut receiving = JoinSet::new();
    for _ in 0..job.case.amount {
        let (_, stream) = listener.accept().await?;
        receiving.spawn(receive(stream));
    }
    let received = all(receiving).await?;
    let first = received.iter().map(|part| part.first).min().context("no streams")?;
    let last = received.iter().map(|part| part.last).max().context("no streams")?;
    parent.say(&Account {
        bytes: received.iter().map(|part| part.bytes).sum(),
        misplaced: received.iter().map(|part| part.misplaced).sum(),
        elapsed: last - first,
    })?;
    parent.gone().await
}

async fn send(mut stream: Stream, bytes: u64) -> Result<Stream> {
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < bytes {
        for (index, mark) in chunk.chunks_mut(MARK).enumerate() {
            mark[0] = mark_at(at + (index * MARK) as u64);
        }
        let some = (bytes - at).min(CHUNK as u64);
        stream.write_all(&chunk[..some as usize]).await?;
        at += some;
    }
    stream.shutdown().await?;
    Ok(stream)
}

/// The data received on a stream.
struct Received {
    /// Kept, as the other end may still wait for an acknowledgement of the end.
    _stream: Stream,
    bytes: u64,
    misplaced: u64,
    first: Instant,
    last: Instant,
}

async fn receive(mut stream: Stream) -> Result<Received> {
    let mut buffer = vec![0; CHUNK];
    let (mut bytes, mut misplaced) = (0, 0);
    let mut times = None;
    loop {
        let read = stream.read(&mut buffer).await?;
        let now = Instant::now();
        if read == 0 {
            let (first, last) = times.context("the stream ended before its first byte")?;
            return Ok(Received { _stream: stream, bytes, misplaced, first, last });
        }
        times = Some((times.map_or(now, |(first, _)| first), now));
        let to_next = (MARK - bytes as usize % MARK) % MARK;
        for at in (to_next..read).step_by(MARK) {
            misplaced += u64::from(buffer[at] != mark_at(bytes + at as u64));
        }
        bytes += read as u64;
    }
}

/// Returns the mark at a place that is a multiple of [`MARK`].
fn mark_at(place: u64) -> u8 {
    // Modulo a prime, so that it does not repeat at the start of chunks of any size.
    (place / MARK as u64 % 251) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_arrives_elsewhere_is_found() {
        let bytes = 3 * CHUNK + 17;
        let (here, mut there) = tokio::io::duplex(10_007);
        let sending = tokio::spawn(send(Box::new(here), bytes as u64));
        let mut sent = Vec::new();
        there.read_to_end(&mut sent).await.unwrap();
        sending.await.unwrap().unwrap();

        for (cut, misplaced) in [(0, false), (MARK, true), (1, true)] {
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
