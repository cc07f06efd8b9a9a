//! SIGINT, SIGTERM and SIGHUP: the first stops cleanly, a second SIGINT at once. While a command runs
//! at a prompt, SIGINT ends that and no more.

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

/// SIGINT has come.
static INTERRUPT: AtomicBool = AtomicBool::new(false);

/// SIGINT has ended a command or a fetch.
static CUT_SHORT: AtomicBool = AtomicBool::new(false);

/// Cancelled by SIGINT in place of the program's end: the command that runs at a prompt.
static COMMAND: Mutex<Option<CancellationToken>> = Mutex::new(None);

/// The node has started: from now on a signal stops it cleanly.
static STARTED: AtomicBool = AtomicBool::new(false);

/// How long a start may go on after a signal. It takes milliseconds, unless it waits for a disk or a
/// pipe that does not answer, which nothing can end but the end of the program.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// Notes that the node has started, or that the program stops by itself however long it takes to start.
pub(crate) fn started() {
    STARTED.store(true, Ordering::Release);
}

/// Ends the program if the node has not started a while after a signal.
fn end_a_start() {
    if STARTED.load(Ordering::Acquire) {
        return;
    }
    tokio::spawn(async {
        tokio::time::sleep(START_PATIENCE).await;
        if !STARTED.load(Ordering::Acquire) {
            let _ = writeln!(io::stderr(), "stopped before the node had started");
            leave()
        }
    });
}

/// A command that SIGINT ends, and nothing else; while it is there.
pub(crate) struct Interruptible(CancellationToken);

impl Interruptible {
    /// From now on SIGINT ends this command.
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

/// Notes that a command or a fetch was given up because the program is to stop. If it was SIGINT that
/// stops it, the exit status will be [`INTERRUPTED`].
pub(crate) fn cut_short() {
    CUT_SHORT.fetch_or(INTERRUPT.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Notes that Ctrl-C was typed where the terminal does not make a signal of it, and has ended a
/// command or a fetch.
pub(crate) fn interrupt() {
    INTERRUPT.store(true, Ordering::Relaxed);
    cut_short();
}

/// Returns whether SIGINT has ended a command or a fetch.
pub(crate) fn was_cut_short() -> bool {
    CUT_SHORT.load(Ordering::Relaxed)
}

/// Watches for signals from now on. Returns a token that is cancelled when one asks the process to stop.
#[cfg(unix)]
pub(crate) fn watch() -> io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = match is_hangup_ignored() {
        true => None,
        false => Some(signal(SignalKind::hangup())?),
    };
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        loop {
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = interrupt.recv() => {
                    if !interrupted() {
                        continue;
                    }
                }
                _ = terminate.recv() => {}
                _ = hung_up => {}
            }
            stop.cancel();
            end_a_start();
        }
    });
    Ok(token)
}

/// Returns whether the process was started with SIGHUP ignored, as `nohup` does: then it stays so.
/// Only Linux says.
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

/// Watches for Ctrl-C from now on. Returns a token that is cancelled when it asks the process to stop.
#[cfg(not(unix))]
pub(crate) fn watch() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if interrupted() {
                stop.cancel();
                end_a_start();
            }
        }
    });
    Ok(token)
}

/// Ends the command that runs at a prompt. Without one the program is to stop: returns true then, or
/// ends it at once, if it is the second time.
fn interrupted() -> bool {
    if let Some(command) = lock(&COMMAND).take() {
        command.cancel();
        return false;
    }
    if INTERRUPT.swap(true, Ordering::Relaxed) {
        leave()
    }
    true
}

/// A temporary folder that is to be removed also if the program is left at once.
static TEMPORARY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Has a temporary folder removed also if the program is left at once.
pub(crate) fn remove_at_once(folder: &Path) {
    *lock(&TEMPORARY) = Some(folder.to_owned());
}

/// Leaves the program at once, with the status of one that SIGINT ended, or of one that failed.
pub(crate) fn leave() -> ! {
    terminal::restore();
    log::finish();
    if let Some(folder) = lock(&TEMPORARY).take() {
        // If it can't be removed there is nobody left to say so to.
        let _ = std::fs::remove_dir_all(folder);
    }
    process::exit(if INTERRUPT.load(Ordering::Relaxed) { INTERRUPTED } else { crate::FAILED })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_is_seen() {
        let status = |mask: &str| format!("Name:\tx\nSigBlk:\t0001\nSigIgn:\t{mask}\n");
        assert!(ignores_hangup(&status("0000000000001001")));
        assert!(!ignores_hangup(&status("0000000000001000")));
        assert!(!ignores_hangup("") && !ignores_hangup(&status("x")));
    }
}
