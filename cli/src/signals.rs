//! SIGINT and SIGTERM: the first stops cleanly, a second SIGINT at once.

use std::io;
use std::process;

use tokio_util::sync::CancellationToken;

use crate::terminal;

/// What a shell reports for a program that SIGINT ended: 128 + 2.
const INTERRUPTED: i32 = 130;

/// Cancels `stop` when the process is told to stop.
#[cfg(unix)]
pub(crate) fn watch(stop: &CancellationToken) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut interrupted = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {
                    if std::mem::replace(&mut interrupted, true) {
                        leave_at_once();
                    }
                }
                _ = terminate.recv() => {}
            }
            stop.cancel();
        }
    });
    Ok(())
}

/// Cancels `stop` when the process is told to stop.
#[cfg(not(unix))]
pub(crate) fn watch(stop: &CancellationToken) -> io::Result<()> {
    let stop = stop.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if stop.is_cancelled() {
                leave_at_once();
            }
            stop.cancel();
        }
    });
    Ok(())
}

fn leave_at_once() -> ! {
    terminal::restore();
    process::exit(INTERRUPTED)
}
