//! The client of the files protocol: sends requests and reads answers, with a time limit for every wait.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use peerkit_proto::files::wire::{MAX_ANSWER, MAX_PER_REQUEST, PREFIX, body_len};
use peerkit_proto::files::{Answer, Description, PieceValue, Request};
use peerkit_proto::id::Hash;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout};

use super::error::FetchError;
use crate::rate::PeerRates;
use crate::stream::Stream;
use crate::transfer::{PIECE_TIME, STALL};

/// Interval at which the client checks whether a silent source owes an answer. 3 s: a silent source is
/// dropped at most 3 s after [`STALL`] is over.
const CHECK_EVERY: Duration = Duration::from_secs(3);

/// Size of the buffer for the rest of a stream that is read and dropped.
const DRAIN_BUFFER: usize = 64 << 10;

/// A stream to a source.
pub(super) struct Client {
    pub(super) requests: RequestWriter,
    pub(super) answers: AnswerReader,
}

/// The half of a stream that requests are sent on.
pub(super) struct RequestWriter {
    stream: WriteHalf<Stream>,
}

/// The half of a stream that answers come in on.
pub(super) struct AnswerReader {
    stream: ReadHalf<Stream>,
    rates: Arc<PeerRates>,
    /// Set while the source owes an answer. Silence is a fault only then.
    is_owed: Arc<AtomicBool>,
}

impl Client {
    pub(super) fn new(stream: Stream, rates: Arc<PeerRates>) -> Self {
        let (read, write) = tokio::io::split(stream);
        // A description is requested first. Until it arrives, silence is a fault.
        let is_owed = Arc::new(AtomicBool::new(true));
        let answers = AnswerReader { stream: read, rates, is_owed };
        Self { requests: RequestWriter { stream: write }, answers }
    }

    /// Asks the source to describe `hash`. If `also_values` is true, asks for the first values of the piece
    /// list in the same round trip. Returns as many values as one answer has, or none if the source refuses
    /// them.
    pub(super) async fn describe(
        &mut self,
        hash: Hash,
        also_values: bool,
    ) -> Result<(Description, Vec<PieceValue>), FetchError> {
        let mut requests = Request::Describe { hash }.encode();
        if also_values {
            requests.extend(Request::Pieces { hash, first: 0, count: MAX_PER_REQUEST }.encode());
        }
        self.requests.send_bytes(&requests).await?;
        let description = match self.answers.next().await? {
            Answer::Description(description) => description,
            Answer::Refused(refusal) => return Err(FetchError::Refused(refusal)),
            _ => return Err(FetchError::Unexpected("a description was requested")),
        };
        if !also_values {
            return Ok((description, Vec::new()));
        }
        match self.answers.next().await? {
            Answer::Pieces { first: 0, values } => Ok((description, values)),
            Answer::Refused(_) => Ok((description, Vec::new())),
            _ => Err(FetchError::Unexpected("values of the list were requested")),
        }
    }
}

impl RequestWriter {
    /// Sends a request. Several may be sent before the first answer is read.
    pub(super) async fn send(&mut self, request: &Request) -> Result<(), FetchError> {
        self.send_bytes(&request.encode()).await
    }

    /// Sends the last request, if there is one, and ends this half of the stream.
    pub(super) async fn finish(&mut self, last: Option<&Request>) -> Result<(), FetchError> {
        if let Some(last) = last {
            self.send(last).await?;
        }
        let ending = timeout(STALL, self.stream.shutdown()).await;
        ending.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(FetchError::Stream)
    }

    async fn send_bytes(&mut self, requests: &[u8]) -> Result<(), FetchError> {
        let sending = async {
            self.stream.write_all(requests).await?;
            self.stream.flush().await
        };
        match timeout(STALL, sending).await {
            Err(_) => Err(FetchError::Stalled),
            Ok(result) => result.map_err(FetchError::Stream),
        }
    }
}

impl AnswerReader {
    /// Returns the flag that says whether the source owes an answer. It is set at first.
    pub(super) fn is_owed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_owed)
    }

    /// Reads and drops the rest of the answers, until the source ends the stream. A socket that is closed
    /// with unread bytes resets the connection, and the source may then miss the last request.
    pub(super) async fn drain(&mut self) {
        let mut buffer = vec![0; DRAIN_BUFFER];
        while self.stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    }

    /// Reads the next answer, or the head of a piece.
    pub(super) async fn next(&mut self) -> Result<Answer, FetchError> {
        let mut prefix = [0; PREFIX];
        self.fill(&mut prefix).await?;
        let len = body_len(prefix, MAX_ANSWER)?;
        let mut body = vec![0; len];
        self.fill(&mut body).await?;
        Ok(Answer::decode(Bytes::from(body))?)
    }

    /// Reads the bytes of a piece, as many as `bytes` has.
    pub(super) async fn content(&mut self, bytes: &mut [u8]) -> Result<(), FetchError> {
        let len = bytes.len();
        // If pieces are small, most of them have arrived already, and a timer for each would cost too much.
        let read = self.read_arrived(bytes).await?;
        let rest = bytes.get_mut(read..).unwrap_or_default();
        if !rest.is_empty() {
            // A source that sends a byte now and then never counts as silent, so a piece has a limit as well.
            timeout(PIECE_TIME, self.fill(rest)).await.unwrap_or(Err(FetchError::Stalled))?;
        }
        self.rates.received(len);
        Ok(())
    }

    async fn fill(&mut self, mut bytes: &mut [u8]) -> Result<(), FetchError> {
        while !bytes.is_empty() {
            let mut read = self.read_arrived(bytes).await?;
            if read == 0 {
                read = self.wait_and_read(bytes).await?;
            }
            bytes = bytes.get_mut(read..).unwrap_or_default();
        }
        Ok(())
    }

    /// Reads the bytes that have arrived already, without waiting. Returns the number of bytes, which is 0 if
    /// the download rate is limited.
    async fn read_arrived(&mut self, bytes: &mut [u8]) -> Result<usize, FetchError> {
        if self.rates.download_part().is_some() {
            return Ok(0);
        }
        let mut buffer = ReadBuf::new(bytes);
        poll_fn(|cx| {
            while buffer.remaining() > 0 {
                let before = buffer.remaining();
                match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) if buffer.remaining() == before => {
                        return Poll::Ready(Err(ended()));
                    }
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(FetchError::Stream(error))),
                    // The waker is not needed: `wait_and_read` polls again.
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        Ok(buffer.filled().len())
    }

    /// Waits for bytes, no longer than the source may be silent, and reads them no faster than the download
    /// rate allows.
    async fn wait_and_read(&mut self, bytes: &mut [u8]) -> Result<usize, FetchError> {
        let most = self.rates.download_part().unwrap_or(usize::MAX).min(bytes.len());
        let part = bytes.get_mut(..most).unwrap_or_default();
        let mut since = Instant::now();
        loop {
            match timeout(CHECK_EVERY, self.stream.read(part)).await {
                Err(_) if !self.is_owed.load(Ordering::Relaxed) => since = Instant::now(),
                // The source may have owed nothing until just after the last check.
                Err(_) if since.elapsed() < STALL + CHECK_EVERY => {}
                Err(_) => return Err(FetchError::Stalled),
                Ok(Err(error)) => return Err(FetchError::Stream(error)),
                Ok(Ok(0)) => return Err(ended()),
                Ok(Ok(n)) => {
                    if self.rates.download_part().is_some() {
                        self.rates.download(n).await;
                    }
                    return Ok(n);
                }
            }
        }
    }
}

fn ended() -> FetchError {
    FetchError::Stream(io::ErrorKind::UnexpectedEof.into())
}
