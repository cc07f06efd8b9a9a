//! The answering end of a stream.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peerkit_proto::files::wire::{MAX_REQUEST, PREFIX, body_len};
use peerkit_proto::files::{Answer, Asker, Refusal, Request};
use peerkit_proto::id::{Hash, NodeId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{IDLE, STALL};
use crate::shares::{OpenShare, Shares};

/// Answers the requests on `stream` out of `shares`, until the other side ends it.
///
/// Two pieces are in memory at once: one on its way, the next being read from disk.
///
/// # Errors
/// Where the stream breaks, nothing is asked for [`IDLE`], the other side takes nothing for
/// [`STALL`], or sends a length over the limit.
pub(crate) async fn serve<S>(shares: Shares, asker: (NodeId, [u8; 32]), stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut answering = Answering { shares, asker, stream, open: None, spare: Vec::new() };
    while let Some(body) = answering.request().await? {
        let request = Request::decode(body);
        let refused = match request {
            Ok(Request::Describe { hash }) => answering.describe(&hash).await?,
            Ok(Request::Pieces { hash, first, count }) => {
                answering.values(hash, first, count).await?
            }
            Ok(Request::Data { hash, first, count }) => answering.data(hash, first, count).await?,
            Ok(_) | Err(_) => Err(Refusal::BadRequest),
        };
        if let Err(refusal) = refused {
            answering.answer(&Answer::Refused(refusal)).await?;
        }
        answering.flush().await?;
    }
    Ok(())
}

struct Answering<S> {
    shares: Shares,
    /// Who asks, and the binding of its session.
    asker: (NodeId, [u8; 32]),
    stream: S,
    /// What was asked for last stays open: the next request is most often for the same.
    open: Option<(Hash, Arc<OpenShare>)>,
    /// Buffers for pieces, used again.
    spare: Vec<Vec<u8>>,
}

/// A buffer, and whether the piece is in it.
type Reading = JoinHandle<(Vec<u8>, Result<(), Refusal>)>;

/// The stream's errors outside; inside whether the request is refused.
type Outcome = io::Result<Result<(), Refusal>>;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Answering<S> {
    /// The body of the next request; `None` where the other side has ended the stream.
    async fn request(&mut self) -> io::Result<Option<Bytes>> {
        let mut prefix = [0; PREFIX];
        let mut filled = 0;
        while let Some(rest) = prefix.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match within(IDLE, self.stream.read(rest)).await? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => filled += n,
            }
        }
        let len = body_len(prefix, MAX_REQUEST).map_err(io::Error::other)?;
        let mut body = vec![0; len];
        within(STALL, self.stream.read_exact(&mut body)).await?;
        Ok(Some(body.into()))
    }

    async fn describe(&mut self, hash: &Hash) -> Outcome {
        match self.shares.describe(hash, &asker(&self.asker)) {
            None => Ok(Err(Refusal::NotFound)),
            Some(description) => self.answer(&Answer::Description(description)).await.map(Ok),
        }
    }

    async fn values(&mut self, hash: Hash, first: u64, count: u16) -> Outcome {
        let opened = self.opened(hash).await?;
        let values = match &opened {
            Ok(share) => share.values(first, count),
            Err(refusal) => Err(*refusal),
        };
        let values = match values {
            Ok(values) => values.to_vec(),
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.answer(&Answer::Pieces { first, values }).await.map(Ok)
    }

    async fn data(&mut self, hash: Hash, first: u64, count: u16) -> Outcome {
        let share = match self.opened(hash).await? {
            Ok(share) => share,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let end = match first.checked_add(u64::from(count)) {
            Some(end) if end <= share.list().count() => end,
            _ => return Ok(Err(Refusal::BadRequest)),
        };
        let mut reading = Some(self.read_ahead(&share, first));
        for index in first..end {
            let Some(current) = reading.take() else { break };
            let (bytes, read) = current.await.map_err(io::Error::other)?;
            if let Err(refusal) = read {
                self.open = None;
                return Ok(Err(refusal));
            }
            if index + 1 < end {
                reading = Some(self.read_ahead(&share, index + 1));
            }
            let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            self.answer(&Answer::Piece { index, len }).await?;
            self.write(&bytes).await?;
            self.spare.push(bytes);
        }
        Ok(Ok(()))
    }

    fn read_ahead(&mut self, share: &Arc<OpenShare>, index: u64) -> Reading {
        let mut buffer = self.spare.pop().unwrap_or_default();
        let share = Arc::clone(share);
        tokio::task::spawn_blocking(move || {
            let read = share.read_piece(index, &mut buffer);
            (buffer, read)
        })
    }

    /// What has this hash, opened, as long as it is shared.
    async fn opened(&mut self, hash: Hash) -> io::Result<Result<Arc<OpenShare>, Refusal>> {
        match &self.open {
            Some((open, share))
                if *open == hash && self.shares.contains(&hash, &asker(&self.asker)) =>
            {
                return Ok(Ok(Arc::clone(share)));
            }
            _ => self.open = None,
        }
        let (shares, from) = (self.shares.clone(), self.asker);
        let opened = tokio::task::spawn_blocking(move || shares.open(&hash, &asker(&from))).await;
        Ok(opened.map_err(io::Error::other)?.map(|share| {
            let share = Arc::new(share);
            self.open = Some((hash, Arc::clone(&share)));
            share
        }))
    }

    async fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        let message = answer.encode();
        self.write(&message).await
    }

    /// Not one deadline for the whole: a slow reader is served as long as it reads.
    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = within(STALL, self.stream.write(bytes)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        within(STALL, self.stream.flush()).await
    }
}

fn asker((id, binding): &(NodeId, [u8; 32])) -> Asker<'_> {
    Asker { id: *id, binding, proof: None }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(limit, work).await {
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
        Ok(result) => result,
    }
}
