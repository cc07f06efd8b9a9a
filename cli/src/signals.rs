//! SIGINT, SIGTERM and SIGHUP. The first signal stops the program cleanly, a second SIGINT stops it
//! at once. While a command runs at a prompt, SIGINT ends only that command.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::lock::lock;
use crate::{log, terminal};

/// The exit status of a program that SIGINT ended, as shells report it: 128 + 2.
pub(crate) const INTERRUPTED: i32 = 130;

/// True after a SIGINT.
static INTERRUPT: AtomicBool = AtomicBool::new(false);

/// True if SIGINT has ended a command or a fetch.
static INTERRUPTED_WORK: AtomicBool = AtomicBool::new(false);

/// Token of the command that runs at a prompt. SIGINT cancels the token and does not stop the program.
static COMMAND: Mutex<Option<CancellationToken>> = Mutex::new(None);

/// True once the node has started, so that a signal stops it cleanly.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Maximum time that a start continues after a signal. 2 s: a start takes milliseconds unless a
/// disk or a pipe does not answer, and only the end of the program ends such a wait.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// Notes that the node has started.
pub(crate) fn note_started() {
    STARTED.store(true, Ordering::Release);
}

/// Ends the program if the node has not started [`START_PATIENCE`] after a signal.
fn end_stuck_start() {
    if STARTED.load(Ordering::Acquire) {
        return;
    }
    tokio::spawn(async {
        tokio::time::sleep(START_PATIENCE).await;
        if !STARTED.load(Ordering::Acquire) {
            let _ = writeln!(io::stderr(), "stopped before the node had started");
            exit_now()
        }
    });
}

/// A guard of the command that runs at a prompt. While it exists, SIGINT ends the command and not the
/// program.
pub(crate) struct Interruptible(CancellationToken);

impl Interruptible {
    /// Makes SIGINT end the command from now on.
    pub(crate) fn start() -> Self {
        let token = CancellationToken::new();
        *lock(&COMMAND) = Some(token.clone());
        Self(token)
    }

    /// Waits until SIGINT comes.
    pub(crate) async fn interrupted(&self) {
        self.0.cancelled().await;
    }
}

impl Drop for Interruptible {
    fn drop(&mut self) {
        *lock(&COMMAND) = None;
    }
}

/// Notes that a command or a fetch was ended because the program stops. If SIGINT stops the program,
/// the exit status will be [`INTERRUPTED`].
pub(crate) fn note_unfinished_work() {
    // SIGTERM and SIGHUP also end a command, but not with the status of an interrupt.
    INTERRUPTED_WORK.fetch_or(INTERRUPT.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Notes that Ctrl-C has ended a command or a fetch, if the terminal passed it on as a character and
/// not as a signal.
pub(crate) fn note_interrupt() {
    INTERRUPT.store(true, Ordering::Relaxed);
    note_unfinished_work();
}

/// Returns whether SIGINT has ended a command or a fetch.
pub(crate) fn was_work_interrupted() -> bool {
    INTERRUPTED_WORK.load(Ordering::Relaxed)
}

/// Watches for signals. Returns a token that is cancelled when a signal asks the program to stop.
#[cfg(unix)]
pub(crate) fn watch() -> io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Not handled if SIGHUP is ignored: `nohup` starts the program so, and a handler would undo that.
    let mut hangup = if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        loop {
            // A select branch needs a future even if SIGHUP is ignored.
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = interrupt.recv() => {
                    if !handle_interrupt() {
                        continue;
                    }
                }
                _ = terminate.recv() => {}
                _ = hung_up => {}
            }
            stop.cancel();
            end_stuck_start();
        }
    });
    Ok(token)
}

/// Returns whether the process was started with SIGHUP ignored, as `nohup` does. Always false except
/// on Linux.
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores_hangup(&status)
}

/// Reads the mask of ignored signals in `/proc/self/status`; SIGHUP, number 1, is its lowest bit.
#[cfg(unix)]
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// Watches for Ctrl-C. Returns a token that is cancelled when it asks the program to stop.
#[cfg(not(unix))]
pub(crate) fn watch() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if handle_interrupt() {
                stop.cancel();
                end_stuck_start();
            }
        }
    });
    Ok(token)
}

/// Handles a SIGINT. If a command runs at a prompt, ends it and returns false. Otherwise returns true,
/// so that the program stops. The second SIGINT without a command ends the program at once.
fn handle_interrupt() -> bool {
    // The command is taken out, so that a second SIGINT during it stops the program.
    if let Some(command) = lock(&COMMAND).take() {
        command.cancel();
        return false;
    }
    // A user who presses Ctrl-C twice does not want to wait for a clean stop.
    if INTERRUPT.swap(true, Ordering::Relaxed) {
        exit_now()
    }
    true
}

/// A temporary folder that [`exit_now`] removes.
static TEMPORARY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Makes [`exit_now`] remove a temporary folder.
pub(crate) fn remove_on_exit(folder: &Path) {
    *lock(&TEMPORARY) = Some(folder.to_owned());
}

/// Ends the program at once, with the exit status of SIGINT or of a failure.
pub(crate) fn exit_now() -> ! {
    // `process::exit` runs no destructors, so everything that must happen is done here.
    terminal::restore();
    log::finish();
    if let Some(folder) = lock(&TEMPORARY).take() {
        // The program ends, so a folder that can't be removed is not reported.
        let _ = std::fs::remove_dir_all(folder);
    }
    process::exit(if INTERRUPT.load(Ordering::Relaxed) { INTERRUPTED } else { crate::FAILED })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_is_detected() {
        let status = |mask: &str| format!("Name:\tx\nSigBlk:\t0001\nSigIgn:\t{mask}\n");
        assert!(ignores_hangup(&status("0000000000001001")));
        assert!(!ignores_hangup(&status("0000000000001000")));
        assert!(!ignores_hangup("") && !ignores_hangup(&status("x")));
    }
}
