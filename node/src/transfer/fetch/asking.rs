//! The asking end of a stream: questions out, answers in, with a limit to every wait.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use peerkit_proto::files::wire::{MAX_ANSWER, MAX_PART, PREFIX, body_len};
use peerkit_proto::files::{Answer, Description, PieceValue, Request};
use peerkit_proto::id::Hash;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout};

use super::error::FetchError;
use crate::rate::PeerRates;
use crate::stream::Stream;
use crate::transfer::{PIECE_TIME, STALL};

/// How often it is looked whether a silent source owes something. 3 s: so much later than after
/// [`STALL`] at the most it is given up.
const LOOK: Duration = Duration::from_secs(3);

/// Bytes that are read at once from a stream whose content nobody wants any more.
const DRAIN: usize = 64 << 10;

/// A stream to a source, one question at a time.
pub(super) struct Asking {
    pub(super) questions: Questions,
    pub(super) answers: Answers,
}

/// The half that asks.
pub(super) struct Questions {
    stream: WriteHalf<Stream>,
}

/// The half that is answered.
pub(super) struct Answers {
    stream: ReadHalf<Stream>,
    rates: Arc<PeerRates>,
    /// Whether the source owes something: only then its silence is a fault.
    owed: Arc<AtomicBool>,
}

impl Asking {
    pub(super) fn new(stream: Stream, rates: Arc<PeerRates>) -> Self {
        let (read, write) = tokio::io::split(stream);
        let owed = Arc::new(AtomicBool::new(true));
        let answers = Answers { stream: read, rates, owed };
        Self { questions: Questions { stream: write }, answers }
    }

    pub(super) async fn ask(&mut self, request: &Request) -> Result<(), FetchError> {
        self.questions.ask(request).await
    }

    pub(super) async fn answer(&mut self) -> Result<Answer, FetchError> {
        self.answers.next().await
    }

    pub(super) async fn content(&mut self, bytes: &mut [u8]) -> Result<(), FetchError> {
        self.answers.content(bytes).await
    }

    /// What the source says that `hash` is, and, where `also_values`, what it says of the list: as
    /// many values as one answer has, none where it does not say. One round trip brings both.
    pub(super) async fn describe(
        &mut self,
        hash: Hash,
        also_values: bool,
    ) -> Result<(Description, Vec<PieceValue>), FetchError> {
        let mut questions = Request::Describe { hash }.encode();
        if also_values {
            questions.extend(Request::Pieces { hash, first: 0, count: MAX_PART }.encode());
        }
        self.questions.send(&questions).await?;
        let description = match self.answer().await? {
            Answer::Description(description) => description,
            Answer::Refused(refusal) => return Err(FetchError::Refused(refusal)),
            _ => return Err(FetchError::Unexpected("a description was asked for")),
        };
        if !also_values {
            return Ok((description, Vec::new()));
        }
        match self.answer().await? {
            Answer::Pieces { first: 0, values } => Ok((description, values)),
            Answer::Refused(_) => Ok((description, Vec::new())),
            _ => Err(FetchError::Unexpected("values of the list were asked for")),
        }
    }
}

impl Questions {
    /// Sends a question. Several may be sent before the first answer is read.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<(), FetchError> {
        self.send(&request.encode()).await
    }

    /// Sends the last question, if there is one, and ends the asking half of the stream.
    pub(super) async fn finish(&mut self, last: Option<&Request>) -> Result<(), FetchError> {
        if let Some(last) = last {
            self.ask(last).await?;
        }
        let ending = timeout(STALL, self.stream.shutdown()).await;
        ending.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(FetchError::Stream)
    }

    async fn send(&mut self, questions: &[u8]) -> Result<(), FetchError> {
        let asking = async {
            self.stream.write_all(questions).await?;
            self.stream.flush().await
        };
        match timeout(STALL, asking).await {
            Err(_) => Err(FetchError::Stalled),
            Ok(result) => result.map_err(FetchError::Stream),
        }
    }
}

impl Answers {
    /// What says whether the source owes something: it does until that is set otherwise.
    pub(super) fn owed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.owed)
    }

    /// Reads what still comes, and forgets it, until the source ends the stream. A socket that is
    /// closed with unread bytes resets the connection, and the source may then miss our last word.
    pub(super) async fn drain(&mut self) {
        let mut buffer = vec![0; DRAIN];
        while self.stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    }

    /// Reads the next answer, or the head of one.
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
        // Of many small pieces most are here already, and each clock would be felt.
        let here = self.at_once(bytes).await?;
        let rest = bytes.get_mut(here..).unwrap_or_default();
        if !rest.is_empty() {
            timeout(PIECE_TIME, self.fill(rest)).await.unwrap_or(Err(FetchError::Stalled))?;
        }
        self.rates.received(len);
        Ok(())
    }

    async fn fill(&mut self, mut bytes: &mut [u8]) -> Result<(), FetchError> {
        while !bytes.is_empty() {
            let mut here = self.at_once(bytes).await?;
            if here == 0 {
                here = self.wait(bytes).await?;
            }
            bytes = bytes.get_mut(here..).unwrap_or_default();
        }
        Ok(())
    }

    /// Reads what is here already, without waiting, and tells how many bytes that was; none where
    /// there is a limit to how fast they may be taken.
    async fn at_once(&mut self, bytes: &mut [u8]) -> Result<usize, FetchError> {
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
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        Ok(buffer.filled().len())
    }

    /// Waits for something, no longer than the source may be silent, and reads it, no faster than
    /// is allowed.
    async fn wait(&mut self, bytes: &mut [u8]) -> Result<usize, FetchError> {
        let most = self.rates.download_part().unwrap_or(usize::MAX).min(bytes.len());
        let part = bytes.get_mut(..most).unwrap_or_default();
        let mut heard = Instant::now();
        loop {
            match timeout(LOOK, self.stream.read(part)).await {
                Err(_) if !self.owed.load(Ordering::Relaxed) => heard = Instant::now(),
                // It may owe something only since the last look.
                Err(_) if heard.elapsed() < STALL + LOOK => {}
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
