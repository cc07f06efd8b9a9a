//! The fetches of commands: their results, progress and errors. A fetch in the background prints its result when
//! it is done.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::anyhow;
use peerkit::{
    Changes, Download, DownloadState, DownloadStatus, Error, Event, FetchError, Fetched, Hash, Node,
};
use tokio::sync::Notify;

use crate::commands::CommandOutput;
use crate::lock::lock;
use crate::output::Printer;
use crate::progress::{Bars, transfers};
use crate::text::{self, Paint, count};
use crate::views::FetchedView;
use crate::{human, terminal};

/// Interval between updates of the progress. 500 ms: slow enough to read.
const SHOW_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum number of progress lines above the prompt.
const MAX_LINES: usize = 8;

/// The fetches that commands have begun. Cloning is cheap.
#[derive(Clone, Default)]
pub(crate) struct Fetches {
    inner: Arc<FetchList>,
}

#[derive(Default)]
struct FetchList {
    /// Fetches whose result has not been printed.
    under_way: Mutex<Vec<Download>>,
    /// Fetches whose end is reported by the result of `get`. The event about their end is not printed.
    reported: Mutex<BTreeSet<Hash>>,
    ended: Notify,
    failed: AtomicBool,
}

impl Fetches {
    /// Prints the result of a fetch when it has ended. If `quiet`, nothing is printed for a fetch
    /// that was stopped or cancelled, because the user at the prompt did that.
    pub(crate) fn report_when_done(&self, download: Download, output: Printer, quiet: bool) {
        let hash = download.hash();
        lock(&self.inner.under_way).push(download.clone());
        // Inserted before the task runs, so that the event of a very short fetch is not printed.
        lock(&self.inner.reported).insert(hash);
        let inner = self.inner.clone();
        tokio::spawn(async move {
            let result = download.clone().await;
            let stopped = matches!(result, Err(Error::Stopped));
            let cancelled = matches!(result, Err(Error::Fetch(FetchError::Cancelled)));
            // A node that stops pauses its fetches. That is no failure: they continue at the next
            // start.
            if !stopped {
                let is_whole = result.as_ref().is_ok_and(|fetched| fetched.left_out.is_empty());
                inner.failed.fetch_or(!is_whole, Ordering::Relaxed);
            }
            if !(quiet && (stopped || cancelled)) {
                let result = match result {
                    Ok(fetched) => self::output(output.paint(), fetched),
                    Err(error) => Err(failure(&download, error)),
                };
                output.result("get", result).await;
            }
            // Removed last: once the list is empty, the program may end, and only queued results are
            // printed.
            let mut under_way = lock(&inner.under_way);
            // Only one entry: the same hash may be fetched a second time, to another path.
            if let Some(at) = under_way.iter().position(|other| other.hash() == hash) {
                under_way.swap_remove(at);
            }
            drop(under_way);
            inner.ended.notify_waiters();
        });
    }

    /// Returns whether this event is about a fetch whose end a result reports.
    pub(crate) fn reports(&self, event: &Event) -> bool {
        match event {
            Event::NodeDownloadFinished { hash, .. } | Event::NodeDownloadFailed { hash, .. } => {
                lock(&self.inner.reported).remove(hash)
            }
            _ => false,
        }
    }

    /// Returns whether a fetch has failed.
    pub(crate) fn any_failed(&self) -> bool {
        self.inner.failed.load(Ordering::Relaxed)
    }

    /// Waits until every fetch has ended or is paused.
    pub(crate) async fn wait_until_idle(&self) {
        loop {
            let ended = self.inner.ended.notified();
            // `ended` exists before the list is read, so a fetch that ends in between is not
            // missed.
            let active = lock(&self.inner.under_way).iter().find(|one| !is_paused(one)).cloned();
            let Some(active) = active else { return };
            tokio::select! {
                () = ended => {}
                () = wait_until_paused(&active) => {}
            }
        }
    }

    /// Waits until the results of all fetches are printed.
    pub(crate) async fn wait_until_reported(&self) {
        loop {
            let ended = self.inner.ended.notified();
            if lock(&self.inner.under_way).is_empty() {
                return;
            }
            ended.await;
        }
    }
}

fn is_paused(download: &Download) -> bool {
    download.status().state == DownloadState::Paused
}

/// Waits until a download is paused. If the download ends, waits for ever.
async fn wait_until_paused(download: &Download) {
    let mut progress = download.progress();
    while let Some(status) = progress.next().await {
        if status.state == DownloadState::Paused {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Shows the progress of downloads and uploads, above the prompt or as bars on standard error, until
/// the future is dropped.
pub(crate) async fn show(node: Node, output: Printer, bars: Bars, at_prompt: bool) {
    let mut transfer_bars = bars.transfers();
    let mut interval = tokio::time::interval(SHOW_INTERVAL);
    loop {
        interval.tick().await;
        if !at_prompt {
            transfer_bars.show_all(&node);
            continue;
        }
        let columns = terminal::columns();
        // A line that wraps would take two rows, of which only one would be erased.
        let lines = transfers(&node, Paint::none()).into_iter().take(MAX_LINES);
        let lines =
            lines.map(|transfer| format!("{}\n", text::cut_to_width(&transfer.line, columns)));
        output.above_prompt(lines.collect()).await;
    }
}

/// Returns advice about a failed fetch whose fetched part is kept.
fn advice(hash: Hash, is_changed: bool) -> String {
    let digits = human::digits(hash);
    // A changed file has another hash, so this download can never continue.
    if is_changed {
        return format!("the fetched part is kept until `cancel {digits}` removes it");
    }
    format!("the fetched part is kept, and `resume {digits}` continues the fetch")
}

/// Returns a line for the fetches that continue at the next start, and a line for the failed fetches
/// that are tried again then. A failed fetch is tried again if a part of it is kept.
pub(crate) fn at_next_start(downloads: &[DownloadStatus]) -> String {
    let is_failed =
        |download: &&DownloadStatus| download.state == DownloadState::Failed && download.done > 0;
    let unfinished = downloads.iter().filter(|download| download.state.is_under_way()).count();
    let failed = downloads.iter().filter(is_failed).count();
    next_start(unfinished, failed)
}

fn next_start(unfinished: usize, failed: usize) -> String {
    let mut text = String::new();
    if unfinished > 0 {
        let _ = writeln!(text, "{} will continue at the next start", count(unfinished, "fetch"));
    }
    if failed > 0 {
        let failed = count(failed, "fetch");
        let _ = writeln!(text, "{failed} that failed will be tried again at the next start");
    }
    text
}

/// Returns the result of a successful fetch.
pub(crate) fn output(paint: Paint, mut fetched: Fetched) -> anyhow::Result<CommandOutput> {
    let changes = take_changes(&mut fetched);
    let text = human::files::fetched(paint, &fetched, &changes);
    CommandOutput::new(text, &FetchedView::new(&fetched, &changes))
}

/// Takes the lists of renamed and of missing entries out of a fetch.
pub(crate) fn take_changes(fetched: &mut Fetched) -> Changes {
    let mut changes = Changes::default();
    changes.renamed = std::mem::take(&mut fetched.renamed);
    changes.left_out = std::mem::take(&mut fetched.left_out);
    changes
}

/// Returns the error of a fetch that a command began, with what can be done about it.
pub(crate) fn failure(download: &Download, error: Error) -> anyhow::Error {
    let is_kept = !matches!(error, Error::Stopped | Error::Fetch(FetchError::Cancelled))
        && download.status().kept;
    let is_changed = matches!(&error, Error::Fetch(error) if error.is_changed());
    let error = match error {
        Error::Stopped => anyhow!(
            "the node stopped before the fetch was done: the fetch continues at the next start"
        ),
        Error::Fetch(error @ FetchError::NotAFile { kind, .. }) if kind.takes_bytes() => {
            anyhow!("{error}: `peerkit get TICKET - > PATH` writes it there")
        }
        error @ Error::Unreachable { .. } => anyhow!(
            "{}; check that it still runs and shares it, and that this machine can reach its port",
            advised(error)
        ),
        error => advised(error),
    };
    if !is_kept {
        return error;
    }
    anyhow!("{}; {}", text::error(&error), advice(download.hash(), is_changed))
}

/// Returns the error of a fetch with advice that holds for a running node and for `peerkit get`.
pub(crate) fn advised(error: Error) -> anyhow::Error {
    match &error {
        Error::Fetch(fetch) if fetch.is_changed() => {
            anyhow!("{error}: ask the person who shares it to share it again")
        }
        Error::NoneAnswered(errors) => {
            anyhow!("none of the {} nodes answered: {error}", errors.len())
        }
        Error::Unreachable { peer, why } => {
            anyhow!("the node {} that shares it can't be reached: {why}", peer.short())
        }
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_fetch_is_counted_apart_from_unfinished_ones() {
        assert_eq!(next_start(0, 0), "");
        assert_eq!(next_start(1, 0), "1 fetch will continue at the next start\n");
        assert_eq!(next_start(0, 1), "1 fetch that failed will be tried again at the next start\n");
        assert_eq!(next_start(2, 1).lines().count(), 2);
    }
}
