//! Fetches that go on beside other commands: each tells its result when it is done.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::anyhow;
use peerkit::{
    Download, DownloadState, DownloadStatus, Error, Event, FetchError, Fetched, Hash, Node,
};
use tokio::sync::Notify;

use crate::lock::lock;
use crate::outcome::{ChangesView, Outcome};
use crate::output::Output;
use crate::progress::{Bars, peer_of};
use crate::text::{self, Paint};
use crate::{human, terminal};

/// How often it is shown how far they are: slow enough to be read.
const SHOW: Duration = Duration::from_millis(500);

/// Lines above the prompt at most.
const LINES: usize = 8;

/// The fetches that commands have begun. Cloning is cheap.
#[derive(Clone, Default)]
pub(crate) struct Fetches {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Those whose result has not been printed.
    under_way: Mutex<Vec<Download>>,
    /// Those whose end a result tells, so that the event would tell it twice.
    told: Mutex<BTreeSet<Hash>>,
    ended: Notify,
    failed: AtomicBool,
}

impl Fetches {
    /// Prints the result of a fetch once there is one. That it was stopped or cancelled is not told
    /// where `quiet`: whoever did that knows.
    pub(crate) fn follow(&self, download: Download, output: Output, quiet: bool) {
        let hash = download.hash();
        lock(&self.inner.under_way).push(download.clone());
        lock(&self.inner.told).insert(hash);
        let inner = self.inner.clone();
        tokio::spawn(async move {
            let result = download.clone().await;
            let stopped = matches!(result, Err(Error::Stopped));
            let cancelled = matches!(result, Err(Error::Fetch(FetchError::Cancelled)));
            if !stopped {
                let is_whole = result.as_ref().is_ok_and(|fetched| fetched.left_out.is_empty());
                inner.failed.fetch_or(!is_whole, Ordering::Relaxed);
            }
            if !(quiet && (stopped || cancelled)) {
                let is_kept = !stopped && !cancelled && download.status().kept;
                let is_changed = matches!(&result, Err(Error::Fetch(error)) if error.is_changed());
                let result = outcome(result).map_err(|error| match is_kept {
                    true => anyhow!("{}; {}", text::error(&error), goes_on(hash, is_changed)),
                    false => error,
                });
                output.result("get", &result).await;
            }
            let mut under_way = lock(&inner.under_way);
            if let Some(at) = under_way.iter().position(|other| other.hash() == hash) {
                under_way.swap_remove(at);
            }
            drop(under_way);
            inner.ended.notify_waiters();
        });
    }

    /// Whether a result tells what this event does.
    pub(crate) fn tells(&self, event: &Event) -> bool {
        match event {
            Event::NodeDownloadFinished { hash, .. } | Event::NodeDownloadFailed { hash, .. } => {
                lock(&self.inner.told).remove(hash)
            }
            _ => false,
        }
    }

    /// How many have not ended.
    pub(crate) fn under_way(&self) -> usize {
        lock(&self.inner.under_way).len()
    }

    /// Whether one has failed.
    pub(crate) fn failed(&self) -> bool {
        self.inner.failed.load(Ordering::Relaxed)
    }

    /// Waits until all have ended but those that are paused, which may take for ever.
    pub(crate) async fn settled(&self) {
        loop {
            let ended = self.inner.ended.notified();
            let active = lock(&self.inner.under_way).iter().find(|one| !is_paused(one)).cloned();
            let Some(active) = active else { return };
            tokio::select! {
                () = ended => {}
                () = paused(&active) => {}
            }
        }
    }

    /// Waits until the results of all are told: the node has stopped.
    pub(crate) async fn ended(&self) {
        loop {
            let ended = self.inner.ended.notified();
            if self.under_way() == 0 {
                return;
            }
            ended.await;
        }
    }
}

fn is_paused(download: &Download) -> bool {
    download.status().state == DownloadState::Paused
}

/// Waits until a download is paused; for ever if it is over.
async fn paused(download: &Download) {
    let mut progress = download.progress();
    while let Some(status) = progress.next().await {
        if status.state == DownloadState::Paused {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Shows how far downloads and uploads are, for ever: above the prompt, or as bars where a terminal shows
/// standard error and nobody types.
pub(crate) async fn show(node: Node, output: Output, bars: Bars, at_prompt: bool) {
    let (mut shown, mut shown_uploads) = (bars.downloads(), bars.uploads());
    let mut look = tokio::time::interval(SHOW);
    loop {
        look.tick().await;
        let downloads = node.files().downloads();
        if !at_prompt {
            shown.show(&downloads);
            shown_uploads.show(&node, &node.files().uploads());
            continue;
        }
        let running = downloads.iter().filter(|download| download.state.is_under_way());
        let columns = terminal::columns();
        let lines = running.map(|download| human::downloads::line(Paint::none(), download));
        let uploads = node.files().uploads();
        let sent = uploads
            .iter()
            .map(|upload| human::uploads::line(Paint::none(), &peer_of(&node, upload), upload));
        let lines = lines.chain(sent).take(LINES);
        let lines = lines.map(|line| format!("{}\n", text::cut(&line, columns)));
        output.above_prompt(lines.collect()).await;
    }
}

/// Advises on a fetch that was given up. If its source has changed the file, what is shared
/// anew is another file.
fn goes_on(hash: Hash, is_changed: bool) -> String {
    let digits = human::digits(hash);
    match is_changed {
        true => format!("what has come is kept until `cancel {digits}` removes it"),
        false => format!("what has come is kept, and `resume {digits}` goes on from it"),
    }
}

/// Says what becomes of unfinished fetches, a line for each kind. One that failed is begun again if
/// something of it is kept; whether it gets further then depends on its sources.
pub(crate) fn at_next_start(downloads: &[DownloadStatus]) -> String {
    let is_failed =
        |download: &&DownloadStatus| download.state == DownloadState::Failed && download.done > 0;
    let going_on = downloads.iter().filter(|download| download.state.is_under_way()).count();
    let failed = downloads.iter().filter(is_failed).count();
    next_start(going_on, failed)
}

fn next_start(going_on: usize, failed: usize) -> String {
    let mut text = String::new();
    if going_on > 0 {
        text.push_str(&format!("{} will go on at the next start\n", number(going_on)));
    }
    if failed > 0 {
        let failed = number(failed);
        text.push_str(&format!("{failed} that failed will be tried again at the next start\n"));
    }
    text
}

/// `1 fetch`, `2 fetches`.
pub(crate) fn number(fetches: usize) -> String {
    if fetches == 1 { "1 fetch".to_owned() } else { format!("{fetches} fetches") }
}

/// The result of a fetch, as it is told.
pub(crate) fn outcome(result: Result<Fetched, Error>) -> anyhow::Result<Outcome> {
    match result {
        Ok(fetched) => Ok(Outcome::Fetched {
            path: fetched.path,
            bytes: fetched.bytes,
            seconds: fetched.seconds,
            sources: fetched.sources,
            dropped: fetched.dropped,
            changes: ChangesView::all(fetched.renamed, fetched.left_out),
        }),
        Err(Error::Stopped) => {
            Err(anyhow!("stopped before it was done: it goes on at the next start"))
        }
        Err(Error::Fetch(error @ FetchError::NotAFile { kind, .. })) if kind.takes_bytes() => {
            Err(anyhow!("{error}: `peerkit get TICKET - > PATH` writes it there"))
        }
        Err(error) => Err(advised(error)),
    }
}

/// The error of a fetch with what can be done about it, as far as that is the same everywhere.
pub(crate) fn advised(error: Error) -> anyhow::Error {
    match &error {
        Error::Fetch(fetch) if fetch.is_changed() => {
            anyhow!("{error}: ask the one who shares it to share it again")
        }
        Error::NoneAnswers(errors) => {
            anyhow!("none of the {} nodes answered: {error}", errors.len())
        }
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_that_failed_is_not_said_to_go_on() {
        assert_eq!(next_start(0, 0), "");
        assert_eq!(next_start(1, 0), "1 fetch will go on at the next start\n");
        assert_eq!(next_start(0, 1), "1 fetch that failed will be tried again at the next start\n");
        assert_eq!(next_start(2, 1).lines().count(), 2);
    }
}
