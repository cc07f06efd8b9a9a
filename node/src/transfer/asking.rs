//! The asking end of a stream: one question, its answer, with a limit to every wait.

use std::io;

use bytes::Bytes;
use peerkit_proto::files::wire::{MAX_ANSWER, MAX_PART, PREFIX, body_len};
use peerkit_proto::files::{Answer, Description, IncomingList, PIECE, PieceList, Request};
use peerkit_proto::id::Hash;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{FetchError, PIECE_TIME, STALL};

/// A stream to a source.
pub(super) struct Asking<S> {
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Asking<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream }
    }

    /// Sends a question. Several may be sent before the first answer is read.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<(), FetchError> {
        let message = request.encode();
        within(STALL, async {
            self.stream.write_all(&message).await?;
            self.stream.flush().await
        })
        .await
    }

    pub(super) async fn describe(&mut self, hash: Hash) -> Result<Description, FetchError> {
        self.ask(&Request::Describe { hash }).await?;
        match self.answer().await? {
            Answer::Description(description) => Ok(description),
            _ => Err(FetchError::Unexpected("a description was asked for")),
        }
    }

    /// The piece list of `hash`, said to have `size` bytes, checked against the hash.
    ///
    /// Memory grows as values come in.
    pub(super) async fn list(&mut self, hash: Hash, size: u64) -> Result<PieceList, FetchError> {
        if let Some(list) = PieceList::single(&hash, size) {
            return Ok(list);
        }
        let mut incoming = IncomingList::new(size)?;
        while let Some((first, count)) = incoming.wanted(MAX_PART) {
            self.ask(&Request::Pieces { hash, first, count }).await?;
            match self.answer().await? {
                Answer::Pieces { first: at, values }
                    if at == first && values.len() == usize::from(count) =>
                {
                    incoming.push(&values)?;
                }
                _ => return Err(FetchError::Unexpected("values of the list were asked for")),
            }
        }
        let checked = tokio::task::spawn_blocking(move || incoming.finish(&hash)).await;
        Ok(checked.map_err(|_| FetchError::Stopped)??)
    }

    /// Reads piece `index`, which was asked for and has `len` bytes, into `buffer`, replacing what
    /// that held. It is not verified yet.
    pub(super) async fn piece(
        &mut self,
        index: u64,
        len: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<(), FetchError> {
        match self.answer().await? {
            Answer::Piece { index: at, len: n } if at == index && u64::from(n) == len => {}
            _ => return Err(FetchError::Unexpected("another piece was asked for")),
        }
        let len = usize::try_from(len.min(PIECE)).unwrap_or_default();
        buffer.resize(len, 0);
        let read = async {
            let mut filled = 0;
            while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match within(STALL, self.stream.read(rest)).await? {
                    0 => return Err(ended()),
                    n => filled += n,
                }
            }
            Ok(())
        };
        let limited = timeout(PIECE_TIME, read).await;
        limited.unwrap_or(Err(FetchError::Stalled))
    }

    /// Reads the next answer's head; a refusal is an error.
    async fn answer(&mut self) -> Result<Answer, FetchError> {
        let mut prefix = [0; PREFIX];
        within(STALL, self.stream.read_exact(&mut prefix)).await?;
        let len = body_len(prefix, MAX_ANSWER)?;
        let mut body = vec![0; len];
        within(STALL, self.stream.read_exact(&mut body)).await?;
        match Answer::decode(Bytes::from(body))? {
            Answer::Refused(refusal) => Err(FetchError::Refused(refusal)),
            answer => Ok(answer),
        }
    }
}

async fn within<T>(
    limit: std::time::Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, FetchError> {
    match timeout(limit, work).await {
        Err(_) => Err(FetchError::Stalled),
        Ok(result) => result.map_err(FetchError::Stream),
    }
}

fn ended() -> FetchError {
    FetchError::Stream(io::ErrorKind::UnexpectedEof.into())
}
