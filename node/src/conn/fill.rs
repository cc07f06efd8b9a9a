//! One call that reads all bytes that have arrived.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Size of the first read into a buffer without memory. The bytes are read to the stack first, so that an
/// idle link needs no buffer while it waits.
const FIRST_READ: usize = 512;

/// Reads all TLS records that have arrived, and appends their bytes to `buffer` until its capacity is used.
/// Waits only if no bytes have arrived. Returns the number of bytes; zero is the end of the stream.
///
/// An error that follows bytes is kept in `broken`, and the next call returns it.
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
            let mut space = [0; FIRST_READ];
            let mut first = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut first))?;
            buffer.extend_from_slice(first.filled());
            if first.filled().is_empty() {
                return Poll::Ready(Ok(0));
            }
        }
        loop {
            let polled = pin!(from.read_buf(buffer)).poll(cx);
            let read = buffer.len() - before;
            match polled {
                // One read returns the bytes of at most one TLS record. The next record may be there too.
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

    /// A reader with these results, one for each read, then the end of the stream.
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
    async fn bytes_are_returned_before_the_error_that_follows_them() {
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
    async fn a_full_buffer_ends_the_read() {
        let mut from = Script([Ok(&b"abcd"[..]), Ok(b"efgh"), Ok(b"i")].into());
        let (mut buffer, mut broken) = (BytesMut::with_capacity(8), None);
        assert_eq!(fill(&mut from, &mut buffer, &mut broken).await.unwrap(), 8);
        assert_eq!(&buffer[..], b"abcdefgh");
    }
}
