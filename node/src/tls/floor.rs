//! Being woken less often: where it is sure that much more comes, nobody has to look at the first of
//! it.
//!
//! Without that, whoever waits for events is woken for every few packets while another thread is at
//! work on those before: on two processors a fetch took a fifth longer, and a fifth more of them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes that are waited for at the most: a piece.
const MOST: u64 = 1 << 20;

/// It is not worth the call for less.
const LEAST: u64 = 64 << 10;

/// How long so much may take. Who is slower is read as it comes.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long it is then read as it comes.
const REST: Duration = Duration::from_secs(1);

/// Bytes that the other side is sure to send without being asked for more: set by who reads, from
/// what it has asked for. Where less comes, [`PATIENCE`] is lost and nothing else.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected(Arc<AtomicU64>);

impl Expected {
    pub(crate) fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// So many have come: only who sets it counts as well.
    pub(super) fn came(&self, bytes: usize) {
        let left = self.0.load(Ordering::Relaxed).saturating_sub(bytes as u64);
        self.0.store(left, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How much has to have come before whoever waits is woken.
pub(super) struct Floor {
    pub(super) expected: Expected,
    /// What the system was told.
    told: u64,
    /// Runs out when [`PATIENCE`] does, where it is awaited.
    patience: Pin<Box<Sleep>>,
    waiting: bool,
    resting_until: Option<Instant>,
}

impl Floor {
    pub(super) fn new() -> Self {
        Self {
            expected: Expected::default(),
            told: 1,
            patience: Box::pin(sleep(PATIENCE)),
            waiting: false,
            resting_until: None,
        }
    }

    /// There is nothing to be read from `tcp`; `begun` bytes of what is expected are here already.
    pub(super) fn wait(&mut self, tcp: &TcpStream, begun: usize, cx: &mut Context<'_>) {
        if self.waiting && self.patience.as_mut().poll(cx).is_ready() {
            self.waiting = false;
            self.resting_until = Some(Instant::now() + REST);
        }
        let floor = match self.expected.get().saturating_sub(begun as u64) {
            ..LEAST => 1,
            _ if self.is_resting() => 1,
            sure => sure.min(MOST),
        };
        if floor != self.told {
            self.told = if tell(tcp, floor) { floor } else { 1 };
        }
        if self.told == 1 {
            self.waiting = false;
        } else if !self.waiting {
            self.waiting = true;
            self.patience.as_mut().reset(Instant::now() + PATIENCE);
            // It is not over yet: this has us woken when it is.
            let _ = self.patience.as_mut().poll(cx);
        }
    }

    /// Something has come.
    pub(super) fn heard(&mut self) {
        self.waiting = false;
    }

    fn is_resting(&mut self) -> bool {
        self.resting_until = self.resting_until.filter(|until| Instant::now() < *until);
        self.resting_until.is_some()
    }
}

/// Tells the system how many bytes make `tcp` readable (`SO_RCVLOWAT`, socket(7)); it says so at once
/// where there are as many. False where it does not know of that.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[expect(unsafe_code, reason = "no library has this option; what it brings is at the top")]
fn tell(tcp: &TcpStream, bytes: u64) -> bool {
    use std::os::fd::AsRawFd;
    let Ok(bytes) = libc::c_int::try_from(bytes) else { return false };
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `tcp` is borrowed, and the option's value is read
    // from a `c_int` that lives until the call is over, with its length.
    let done = unsafe {
        libc::setsockopt(
            tcp.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            len,
        )
    };
    done == 0
}

/// Other systems are not told: everything is read as it comes.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn tell(_: &TcpStream, _: u64) -> bool {
    false
}
