//! A download on one line: name, progress, speed and time left.

use std::time::Duration;

use peerkit::{DownloadState, DownloadStatus};

use crate::text::{self, Paint, count, plain};

/// Returns the name of a download and the start of its hash.
pub(crate) fn named(paint: Paint, download: &DownloadStatus) -> String {
    let hash = &super::digits(download.hash);
    match &download.name {
        Some(name) => format!("{} {}", paint.strong(&plain(name.as_str())), paint.faint(hash)),
        None => paint.strong(hash),
    }
}

/// Returns a download and its progress, on one line.
pub(crate) fn line(paint: Paint, download: &DownloadStatus) -> String {
    let figures = TransferFigures {
        done: download.done,
        total: download.total,
        rate: download.rate,
        sources: download.sources,
    };
    let state = figures.describe(paint, download.state, download.error.as_deref());
    let left_out = match download.left_out {
        0 => String::new(),
        files => format!(", {} not written", count(files, "file")),
    };
    format!("{}  {state}{left_out}", named(paint, download))
}

/// Text for a download without a source.
const NO_SOURCE: &str = "waits for a source";

/// The figures that describe the progress of a download.
#[derive(Clone, Copy)]
struct TransferFigures {
    done: u64,
    total: Option<u64>,
    rate: u64,
    sources: usize,
}

impl TransferFigures {
    /// Returns the state and the progress, in words.
    fn describe(self, paint: Paint, state: DownloadState, error: Option<&str>) -> String {
        match state {
            DownloadState::Queued => "waits for its turn".to_owned(),
            DownloadState::Finding => "looking for sources".to_owned(),
            DownloadState::Checking => format!("checking the kept part: {}", self.amount()),
            DownloadState::Waiting if self.total.is_none() => NO_SOURCE.to_owned(),
            DownloadState::Waiting => format!("{}  {NO_SOURCE}", self.amount()),
            DownloadState::Paused => format!("paused at {}", self.amount()),
            DownloadState::Done => format!("done, {}", text::size(self.done)),
            DownloadState::Failed => {
                let why = plain(error.unwrap_or("no reason is known"));
                paint.bad(&format!("failed at {}: {why}", self.amount()))
            }
            _ => self.progress(),
        }
    }

    /// Returns the amount, the speed, the time left and the number of sources.
    fn progress(self) -> String {
        let mut text = self.amount();
        if self.sources == 0 {
            return format!("{text}  {NO_SOURCE}");
        }
        if self.rate > 0 {
            text.push_str(&format!("  {}/s", text::size(self.rate)));
            if let Some(total) = self.total {
                let left = total.saturating_sub(self.done) / self.rate;
                text.push_str(&format!("  {} left", whole_seconds(Duration::from_secs(left))));
            }
        }
        format!("{text}  {}", count(self.sources, "source"))
    }

    /// Returns the fetched part: percent of the total, or bytes if the total is unknown.
    fn amount(self) -> String {
        match self.total {
            Some(total) => {
                let percent = (u128::from(self.done) * 100).checked_div(u128::from(total));
                format!("{} % of {}", percent.unwrap_or(100), text::size(total))
            }
            None => text::size(self.done),
        }
    }
}

/// Returns a time without fractions of a second.
fn whole_seconds(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_described_on_a_line() {
        let described = |figures: TransferFigures, state| {
            figures.describe(Paint::none(), state, Some("full\u{1b}"))
        };
        let figures =
            TransferFigures { done: 512 << 20, total: Some(2 << 30), rate: 4 << 20, sources: 3 };
        let fetching = "25 % of 2.0 GiB  4.0 MiB/s  6 min 24 s left  3 sources";
        assert_eq!(described(figures, DownloadState::Fetching), fetching);
        let alone = TransferFigures { sources: 0, ..figures };
        let waiting = "25 % of 2.0 GiB  waits for a source";
        assert_eq!(described(alone, DownloadState::Fetching), waiting);
        assert_eq!(described(alone, DownloadState::Waiting), waiting);
        let new = TransferFigures { done: 0, total: None, rate: 0, sources: 0 };
        assert_eq!(described(new, DownloadState::Waiting), "waits for a source");
        let checking = "checking the kept part: 25 % of 2.0 GiB";
        assert_eq!(described(figures, DownloadState::Checking), checking);
        assert_eq!(described(figures, DownloadState::Paused), "paused at 25 % of 2.0 GiB");
        assert_eq!(described(figures, DownloadState::Done), "done, 512.0 MiB");
        let unknown = TransferFigures { total: None, ..figures };
        assert_eq!(described(unknown, DownloadState::Failed), "failed at 512.0 MiB: full\\u{1b}");
        let empty = TransferFigures { done: 0, total: Some(0), rate: 0, sources: 1 };
        assert_eq!(described(empty, DownloadState::Fetching), "100 % of 0 B  1 source");
    }

    #[test]
    fn a_time_is_printed_to_the_second() {
        assert_eq!(whole_seconds(Duration::from_secs(7)), "7 s");
        assert_eq!(whole_seconds(Duration::from_secs(7325)), "2 h 02 min");
    }
}
