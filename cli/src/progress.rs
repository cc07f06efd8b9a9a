//! Progress bars on standard error, where that is a terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use peerkit::{DownloadStatus, Hash, Node, NodeId, Progress, UploadStatus};

use crate::human;
use crate::text::{self, Paint};

/// Bytes below which a bar would only flash.
const WORTH_A_BAR: u64 = 4 << 20;

/// The bars on the screen. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Bars {
    bars: MultiProgress,
    paint: Paint,
}

impl Bars {
    /// No bars unless standard error is a terminal.
    pub(crate) fn new() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(10);
        Self { bars: MultiProgress::with_draw_target(target), paint: Paint::on(&std::io::stderr()) }
    }

    /// A bar that shows what it is given, from the first report on until it is dropped.
    pub(crate) fn bar(&self, what: &'static str) -> impl FnMut(Progress) + Send + 'static {
        let bars = self.clone();
        let mut shown: Option<Shown> = None;
        move |progress| {
            if shown.is_none() && progress.total >= WORTH_A_BAR {
                shown = Some(bars.show(what, progress));
            }
            if let Some(Shown { bar, .. }) = &shown {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
            }
        }
    }

    /// Runs `print` with the bars out of the way.
    pub(crate) fn step_aside<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bars.suspend(print)
    }

    /// Shows downloads, each on a bar of its own, until it is dropped.
    pub(crate) fn downloads(&self) -> DownloadBars {
        DownloadBars { bars: self.clone(), shown: BTreeMap::new() }
    }

    /// Shows uploads, each on a bar of its own, until it is dropped.
    pub(crate) fn uploads(&self) -> UploadBars {
        UploadBars { bars: self.clone(), shown: BTreeMap::new() }
    }

    fn show(&self, what: &'static str, progress: Progress) -> Shown {
        let bar = ProgressBar::new(progress.total).with_position(progress.done);
        let bar = self.bars.add(bar.with_style(style(self.paint.is_on())));
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Shown { bars: self.bars.clone(), bar }
    }

    fn add_transfer(&self) -> Shown {
        let template =
            if self.paint.is_on() { "{bar:20.cyan} {wide_msg}" } else { "{bar:20} {wide_msg}" };
        let style = ProgressStyle::with_template(template);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.bars.add(ProgressBar::new(1).with_style(style));
        Shown { bars: self.bars.clone(), bar }
    }
}

/// A bar for each download that is not over.
pub(crate) struct DownloadBars {
    bars: Bars,
    shown: BTreeMap<Hash, Shown>,
}

impl DownloadBars {
    /// Shows how far they are now.
    pub(crate) fn show(&mut self, downloads: &[DownloadStatus]) {
        let running = downloads.iter().filter(|download| download.state.is_under_way());
        let running: BTreeMap<Hash, &DownloadStatus> =
            running.map(|download| (download.hash, download)).collect();
        self.shown.retain(|hash, _| running.contains_key(hash));
        for (hash, download) in running {
            let bars = &self.bars;
            let shown = self.shown.entry(hash).or_insert_with(|| bars.add_transfer());
            shown.bar.set_length(download.total.unwrap_or(1).max(1));
            shown.bar.set_position(download.done);
            shown.bar.set_message(human::downloads::line(bars.paint, download));
        }
    }
}

/// A bar for each upload under way.
pub(crate) struct UploadBars {
    bars: Bars,
    shown: BTreeMap<(NodeId, Hash), Shown>,
}

impl UploadBars {
    /// Shows how much of each was sent by now.
    pub(crate) fn show(&mut self, node: &Node, uploads: &[UploadStatus]) {
        let keys: BTreeSet<_> = uploads.iter().map(key).collect();
        self.shown.retain(|key, _| keys.contains(key));
        for upload in uploads {
            let bars = &self.bars;
            let shown = self.shown.entry(key(upload)).or_insert_with(|| bars.add_transfer());
            shown.bar.set_length(upload.file.size.max(1));
            shown.bar.set_position(upload.sent);
            let line = human::uploads::line(bars.paint, &peer_of(node, upload), upload);
            shown.bar.set_message(line);
        }
    }
}

fn key(upload: &UploadStatus) -> (NodeId, Hash) {
    (upload.peer, upload.file.hash)
}

/// The peer that fetches, by its name if there is a link.
pub(crate) fn peer_of(node: &Node, upload: &UploadStatus) -> String {
    let peer = node.peer(upload.peer);
    text::label(&upload.peer, peer.as_ref().map_or("", |peer| peer.name()))
}

/// A bar on the screen: gone once dropped, whether the work ended or was given up.
struct Shown {
    bars: MultiProgress,
    bar: ProgressBar,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.bars.remove(&self.bar);
    }
}

fn style(coloured: bool) -> ProgressStyle {
    let template = if coloured {
        "{msg:8} {bar:20.cyan} {percent:>3}%  {bytes}/{total_bytes}  {bytes_per_sec}  {eta}"
    } else {
        "{msg:8} {bar:20} {percent:>3}%  {bytes}/{total_bytes}  {bytes_per_sec}  {eta}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_come_and_go() {
        let bars = Bars {
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            paint: Paint::on(&tempfile::tempfile().unwrap()),
        };
        let mut bar = bars.bar("hashing");
        bar(Progress { done: 0, total: 1 });
        bar(Progress { done: 1 << 20, total: 8 << 20 });
        drop(bar);
        assert_eq!(bars.step_aside(|| 7), 7);
    }
}
