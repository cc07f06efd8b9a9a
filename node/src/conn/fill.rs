//! Reading all that is there at once.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Bytes that are read where `buffer` has no memory yet: an idle link's needs none.
const LITTLE: usize = 512;

/// Reads what has arrived into the free room of `buffer`, over as many TLS records as it takes, and
/// waits only where there is nothing at all. Zero is the end.
///
/// An error behind bytes is kept in `broken` for the next call.
pub(super) async fn fill(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    broken: &mut Option<io::Error>,
) -> io::Result<usize> {
    if let Some(error) = broken.take() {
        return Err(error);
    }
    let before = buffer.len();
    std::future::poll_fn(|cx| {
        if buffer.capacity() == 0 {
            let mut little = [0; LITTLE];
            let mut little = ReadBuf::new(&mut little);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut little))?;
            buffer.extend_from_slice(little.filled());
            if little.filled().is_empty() {
                return Poll::Ready(Ok(0));
            }
        }
        loop {
            let polled = pin!(from.read_buf(buffer)).poll(cx);
            let read = buffer.len() - before;
            match polled {
                Poll::Ready(Ok(1..)) if buffer.len() < buffer.capacity() => {}
                Poll::Ready(Ok(_)) => return Poll::Ready(Ok(read)),
                Poll::Ready(Err(error)) if read > 0 => {
                    *broken = Some(error);
                    return Poll::Ready(Ok(read));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if read > 0 => return Poll::Ready(Ok(read)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::Context;

    use tokio::io::ReadBuf;

    use super::*;

    /// Reads that come one after the other, then the end.
    struct Script(VecDeque<io::Result<&'static [u8]>>);

    impl AsyncRead for Script {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            out.put_slice(self.0.pop_front().unwrap_or(Ok(b""))?);
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn takes_what_there_is_then_the_error_then_the_end() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let mut from = Script([Ok(&b"ab"[..]), Ok(b"c"), Err(reset)].into());
        let (mut buffer, mut broken) = (BytesMut::with_capacity(64), None);
        assert_eq!(fill(&mut from, &mut buffer, &mut broken).await.unwrap(), 3);
        assert_eq!(&buffer[..], b"abc");
        let error = fill(&mut from, &mut buffer, &mut broken).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(fill(&mut from, &mut buffer, &mut broken).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn stops_where_the_room_ends() {
        let mut from = Script([Ok(&b"abcd"[..]), Ok(b"efgh"), Ok(b"i")].into());
        let (mut buffer, mut broken) = (BytesMut::with_capacity(8), None);
        assert_eq!(fill(&mut from, &mut buffer, &mut broken).await.unwrap(), 8);
        assert_eq!(&buffer[..], b"abcdefgh");
    }
}
