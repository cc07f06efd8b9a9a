//! The byte stream below the records.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A byte stream that records are sent over: TCP, or memory in tests.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Writes as many bytes as possible without waiting. No task is woken when more can be written.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Sets the number of bytes that have to arrive before the transport is readable. Returns false if the
    /// transport can't do that.
    fn set_low_watermark(&self, bytes: u64) -> bool;
}

impl Transport for TcpStream {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::try_write(self, bytes)
    }

    /// Sets `SO_RCVLOWAT` (socket(7)). A socket that already has that many bytes is readable at once.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[expect(
        unsafe_code,
        reason = "no library has this option; low_watermark.rs says what it gains"
    )]
    fn set_low_watermark(&self, bytes: u64) -> bool {
        use std::os::fd::AsRawFd;
        let Ok(bytes) = libc::c_int::try_from(bytes) else { return false };
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the descriptor is open as long as `self` is borrowed, and the option's value is read
        // from a `c_int` that lives until the call is over, with its length.
        let done = unsafe {
            libc::setsockopt(
                self.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                (&raw const bytes).cast(),
                len,
            )
        };
        done == 0
    }

    /// Other systems have no such option that is known to work.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn set_low_watermark(&self, _: u64) -> bool {
        false
    }
}
