//! Progress bars on standard error, where that is a terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use peerkit::Progress;

use crate::text::Paint;

/// Bytes below which a bar would only flash.
const WORTH_A_BAR: u64 = 4 << 20;

/// The bars on the screen. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Bars {
    bars: MultiProgress,
    coloured: bool,
}

impl Bars {
    /// No bars unless standard error is a terminal.
    pub(crate) fn new() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(10);
        Self {
            bars: MultiProgress::with_draw_target(target),
            coloured: Paint::on(&std::io::stderr()).is_on(),
        }
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

    fn show(&self, what: &'static str, progress: Progress) -> Shown {
        let bar = ProgressBar::new(progress.total).with_position(progress.done);
        let bar = self.bars.add(bar.with_style(style(self.coloured)));
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Shown { bars: self.bars.clone(), bar }
    }
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
            coloured: true,
        };
        let mut bar = bars.bar("hashing");
        bar(Progress { done: 0, total: 1 });
        bar(Progress { done: 1 << 20, total: 8 << 20 });
        drop(bar);
        assert_eq!(bars.step_aside(|| 7), 7);
    }
}
