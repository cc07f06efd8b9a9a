//! The progress of commands: bars on standard error if it is a terminal, or reports to another process.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use peerkit::{DownloadStatus, Hash, HashProgress, Node, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;

use crate::human;
use crate::text::{self, Paint};

/// Minimum size of a file, in bytes, for which hashing shows a bar. A smaller file is hashed so
/// fast that the bar would only flash.
const MIN_SIZE_FOR_BAR: u64 = 4 << 20;

/// Template of the text after the bar of a file that is being hashed.
const HASHING_TEMPLATE: &str = "{percent:>3}%  {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";

/// The place where a command shows its progress. Cloning is cheap.
#[derive(Clone)]
pub(crate) enum ProgressSink {
    /// Bars on the screen of this process.
    Bars(Bars),
    /// Reports to another process. A report is left out if that process reads too slowly.
    Reports(mpsc::Sender<CommandEvent>),
    /// Nowhere.
    Hidden,
}

/// Maximum size of a line that waits behind other reports, in bytes. 64 KiB: as much as a batch of events.
const MAX_QUEUED_LINE: usize = 64 << 10;

/// An event of a command that is under way.
#[derive(Debug)]
pub(crate) struct CommandEvent {
    pub(crate) name: &'static str,
    /// A JSON value, on one line.
    pub(crate) data: String,
}

impl CommandEvent {
    pub(crate) fn new(name: &'static str, data: &impl Serialize) -> Self {
        Self { name, data: serde_json::to_string(data).unwrap_or_default() }
    }
}

/// A report of progress to another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProgressReport {
    pub(crate) done: u64,
    pub(crate) total: u64,
    /// The text of the bar; `None` while files are being hashed, when the bar has a text of its own.
    pub(crate) line: Option<String>,
}

/// A line that another process prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PrintedLine {
    /// `None` if it is the same as the JSON: an event may have 100 MB, and is not sent twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    pub(crate) json: String,
}

impl ProgressSink {
    /// Returns a function that shows the progress of hashing.
    pub(crate) fn hashing(&self) -> Box<dyn FnMut(HashProgress) + Send> {
        match self.clone() {
            Self::Bars(bars) => Box::new(bars.bar("hashing")),
            Self::Reports(reports) => {
                let mut last = 0;
                Box::new(move |HashProgress { done, total, .. }| {
                    // A hundred reports show every percent.
                    // The next share of a command begins at 0 again.
                    if done < total && done >= last && done - last < total / 100 {
                        return;
                    }
                    last = done;
                    let report = ProgressReport { done, total, line: None };
                    let _ = reports.try_send(CommandEvent::new("progress", &report));
                })
            }
            Self::Hidden => Box::new(|_| {}),
        }
    }

    /// Returns a function that shows each of `total` steps of a command, with a text.
    pub(crate) fn steps(&self, total: u64) -> Box<dyn FnMut(&str) + Send> {
        let mut done = 0;
        let mut show: Box<dyn FnMut(u64, String) + Send> = match self.clone() {
            Self::Bars(bars) => {
                let mut shown = bars.transfers();
                Box::new(move |done, line| shown.show_line(done, total, line))
            }
            Self::Reports(reports) => Box::new(move |done, line| {
                let report = ProgressReport { done, total, line: Some(line) };
                let _ = reports.try_send(CommandEvent::new("progress", &report));
            }),
            Self::Hidden => Box::new(|_, _| {}),
        };
        Box::new(move |line| {
            show(done, line.to_owned());
            done += 1;
        })
    }

    /// Makes the other process print a line: `text`, or `json` if it runs with --json. Waits if that process
    /// reads slowly.
    ///
    /// # Errors
    /// If that process is gone.
    pub(crate) async fn line(
        &self,
        text: Option<String>,
        json: String,
    ) -> Result<(), SendError<CommandEvent>> {
        let Self::Reports(reports) = self else { return Ok(()) };
        // The line is dropped before the wait: the report has a copy.
        let report = CommandEvent::new("line", &PrintedLine { text, json });
        if report.data.len() <= MAX_QUEUED_LINE {
            return reports.send(report).await;
        }
        // A large line waits until all reports before it are taken, so that only one of them is in memory.
        match reports.reserve_many(reports.max_capacity()).await {
            Ok(mut permits) => {
                if let Some(permit) = permits.next() {
                    permit.send(report);
                }
                Ok(())
            }
            Err(_) => Err(SendError(report)),
        }
    }

    /// Shows the progress of a download. In this process the bars of all transfers show it.
    pub(crate) fn download(&self, status: &DownloadStatus) {
        let Self::Reports(reports) = self else { return };
        let Some(transfer) = Transfer::of(status, Paint::none()) else { return };
        let Transfer { done, total, line, .. } = transfer;
        let report = ProgressReport { done, total, line: Some(line) };
        let _ = reports.try_send(CommandEvent::new("progress", &report));
    }
}

/// The bars on the screen. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Bars {
    bars: MultiProgress,
    paint: Paint,
}

impl Bars {
    /// Creates bars on standard error. They are shown only if it is a terminal.
    pub(crate) fn new() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(10);
        Self { bars: MultiProgress::with_draw_target(target), paint: Paint::on(&std::io::stderr()) }
    }

    /// Returns a function that shows progress on a bar. The bar appears once the total is at least
    /// [`MIN_SIZE_FOR_BAR`], and disappears when the function is dropped.
    pub(crate) fn bar(&self, what: &'static str) -> impl FnMut(HashProgress) + Send + 'static {
        let bars = self.clone();
        let mut shown: Option<VisibleBar> = None;
        move |progress| {
            if shown.is_none() && progress.total >= MIN_SIZE_FOR_BAR {
                let new = bars.add(progress.total, "{msg:8} ", HASHING_TEMPLATE);
                new.bar.set_message(what);
                new.bar.enable_steady_tick(Duration::from_millis(200));
                shown = Some(new);
            }
            if let Some(VisibleBar { bar, .. }) = &shown {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
            }
        }
    }

    /// Runs `print` while the bars are hidden, so that the printed text does not mix with them.
    pub(crate) fn while_hidden<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bars.suspend(print)
    }

    /// Returns bars for transfers. They disappear when they are dropped.
    pub(crate) fn transfers(&self) -> TransferBars {
        TransferBars { bars: self.clone(), shown: BTreeMap::new() }
    }

    fn add(&self, total: u64, before: &str, after: &str) -> VisibleBar {
        let colour = if self.paint.is_on() { ".cyan" } else { "" };
        let style = ProgressStyle::with_template(&format!("{before}{{bar:20{colour}}} {after}"));
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.bars.add(ProgressBar::new(total).with_style(style));
        VisibleBar { bars: self.bars.clone(), bar }
    }
}

/// A bar for each transfer under way.
pub(crate) struct TransferBars {
    bars: Bars,
    shown: BTreeMap<(Option<NodeId>, Hash), VisibleBar>,
}

impl TransferBars {
    /// Shows the current progress of `transfers`, and removes the bars of all others.
    pub(crate) fn show(&mut self, transfers: impl IntoIterator<Item = Transfer>) {
        // Bars that are left in `previous` at the end belong to transfers that have ended. Dropping
        // them removes them from the screen.
        let mut previous = std::mem::take(&mut self.shown);
        for Transfer { key, done, total, line } in transfers {
            let shown = previous.remove(&key).unwrap_or_else(|| self.bars.add(1, "", "{wide_msg}"));
            shown.bar.set_length(total.max(1));
            shown.bar.set_position(done);
            shown.bar.set_message(line);
            self.shown.insert(key, shown);
        }
    }

    /// Shows the current progress of all downloads and uploads of a node.
    pub(crate) fn show_all(&mut self, node: &Node) {
        self.show(transfers(node, self.bars.paint));
    }

    /// Shows the current progress of a download.
    pub(crate) fn show_one(&mut self, download: &DownloadStatus) {
        self.show(Transfer::of(download, self.bars.paint));
    }

    /// Shows the progress of a command that is no transfer, or that another process has reported.
    pub(crate) fn show_line(&mut self, done: u64, total: u64, line: String) {
        let key = (None, Hash::from_bytes([0; 32]));
        self.show([Transfer { key, done, total, line }]);
    }
}

/// A download or upload under way.
pub(crate) struct Transfer {
    /// The peer that an upload goes to, or `None` for a download, and the hash of the content.
    key: (Option<NodeId>, Hash),
    done: u64,
    total: u64,
    /// The text of the bar.
    pub(crate) line: String,
}

impl Transfer {
    /// Returns the transfer of `download`, or `None` if the download is not under way.
    fn of(download: &DownloadStatus, paint: Paint) -> Option<Self> {
        download.state.is_under_way().then(|| Self {
            key: (None, download.hash),
            done: download.done,
            total: download.total.unwrap_or(1),
            line: human::downloads::line(paint, download),
        })
    }
}

/// Returns the downloads and uploads of a node that are under way.
pub(crate) fn transfers(node: &Node, paint: Paint) -> Vec<Transfer> {
    let downloads = node.files().downloads();
    let downloads = downloads.iter().filter_map(|download| Transfer::of(download, paint));
    let uploads = node.files().uploads().into_iter().map(|upload| {
        let peer = node.peer(upload.peer);
        let peer = text::label(&upload.peer, peer.as_ref().map_or("", |peer| peer.name()));
        Transfer {
            key: (Some(upload.peer), upload.file.hash),
            done: upload.sent,
            total: upload.file.size,
            line: human::uploads::line(paint, &peer, &upload),
        }
    });
    downloads.chain(uploads).collect()
}

/// A bar on the screen, which is removed when it is dropped.
struct VisibleBar {
    bars: MultiProgress,
    bar: ProgressBar,
}

impl Drop for VisibleBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.bars.remove(&self.bar);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_bar_is_removed_when_it_is_dropped() {
        let bars = Bars {
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            paint: Paint::on(&tempfile::tempfile().unwrap()),
        };
        let mut bar = bars.bar("hashing");
        bar(HashProgress { done: 0, total: 1 });
        bar(HashProgress { done: 1 << 20, total: 8 << 20 });
        drop(bar);
        assert_eq!(bars.while_hidden(|| 7), 7);
    }

    #[tokio::test]
    async fn a_line_is_sent_once_and_a_large_one_waits_for_those_before() {
        let (sender, mut received) = mpsc::channel(4);
        let sink = ProgressSink::Reports(sender);
        sink.line(None, "{}".to_owned()).await.unwrap();
        assert_eq!(received.recv().await.unwrap().data, r#"{"json":"{}"}"#);
        let large = "x".repeat(MAX_QUEUED_LINE);
        sink.line(Some("text".to_owned()), large.clone()).await.unwrap();
        let mut second = Box::pin(sink.line(None, large));
        assert!((&mut second).now_or_never().is_none());
        let first: PrintedLine =
            serde_json::from_str(&received.recv().await.unwrap().data).unwrap();
        assert_eq!(first.text.as_deref(), Some("text"));
        second.await.unwrap();
        assert!(received.recv().await.is_some());
        drop(received);
        assert!(sink.line(None, "x".repeat(MAX_QUEUED_LINE)).await.is_err());
    }
}
