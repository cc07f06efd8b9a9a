//! A fetch on one line: what, how far, how fast, how long still.

use std::time::Duration;

use crate::pending::{DownloadState, DownloadStatus};
use crate::text::{self, Paint, count, plain};

/// What is fetched: its name and the start of its hash.
pub(crate) fn named(paint: Paint, download: &DownloadStatus) -> String {
    let hash = &download.hash.to_string()[..8];
    match &download.name {
        Some(name) => format!("{} {}", paint.strong(&plain(name.as_str())), paint.faint(hash)),
        None => paint.strong(hash),
    }
}

/// What is fetched and how far it is.
pub(crate) fn line(paint: Paint, download: &DownloadStatus) -> String {
    let state = match download.state {
        DownloadState::Queued => "waits for its turn".to_owned(),
        DownloadState::Finding => "looking for who has it".to_owned(),
        DownloadState::Fetching => progress(download),
        DownloadState::Paused => format!("paused at {}", amount(download)),
        DownloadState::Done => format!("done, {}", text::size(download.done)),
        DownloadState::Failed => {
            let why = download.error.as_deref().unwrap_or("no reason is known");
            paint.bad(&format!("failed at {}: {}", amount(download), plain(why)))
        }
        #[allow(unreachable_patterns, reason = "states may be added")]
        _ => amount(download),
    };
    format!("{}  {state}", named(paint, download))
}

/// How far it is, how fast it goes, how long that takes still, and from how many.
pub(crate) fn progress(download: &DownloadStatus) -> String {
    let mut text = amount(download);
    if download.rate > 0 {
        text.push_str(&format!("  {}/s", text::size(download.rate)));
        if let Some(total) = download.total {
            let left = total.saturating_sub(download.done) / download.rate;
            text.push_str(&format!("  {} left", whole(Duration::from_secs(left))));
        }
    }
    format!("{text}  {}", count(download.sources, "source"))
}

fn amount(download: &DownloadStatus) -> String {
    let done = text::size(download.done);
    match download.total {
        Some(total) => {
            let percent =
                if total == 0 { 100 } else { u128::from(download.done) * 100 / u128::from(total) };
            format!("{percent} % of {}", text::size(total))
        }
        None => done,
    }
}

/// A time to the second.
fn whole(time: Duration) -> String {
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
    use peerkit::{FileKind, Hash};

    fn download(state: DownloadState) -> DownloadStatus {
        DownloadStatus {
            hash: Hash::of(b"content"),
            name: "film.mkv".parse().ok(),
            kind: Some(FileKind::File),
            state,
            done: 512 << 20,
            total: Some(2 << 30),
            rate: 4 << 20,
            sources: 3,
            path: None,
            error: None,
        }
    }

    #[test]
    fn a_fetch_is_told_on_a_line() {
        let paint = Paint::on(&tempfile::tempfile().unwrap());
        let name = format!("film.mkv {}", &Hash::of(b"content").to_string()[..8]);
        let told = |download: &DownloadStatus| {
            line(paint, download).strip_prefix(&format!("{name}  ")).unwrap().to_owned()
        };
        let fetching = download(DownloadState::Fetching);
        assert_eq!(told(&fetching), "25 % of 2.0 GiB  4.0 MiB/s  6 min 24 s left  3 sources");
        assert_eq!(told(&download(DownloadState::Paused)), "paused at 25 % of 2.0 GiB");
        let failed = DownloadStatus {
            error: Some("no room\u{1b}".into()),
            total: None,
            ..download(DownloadState::Failed)
        };
        assert_eq!(told(&failed), "failed at 512.0 MiB: no room\\u{1b}");
        let unknown = DownloadStatus { name: None, ..download(DownloadState::Finding) };
        assert!(line(paint, &unknown).ends_with("looking for who has it"));
        let empty = DownloadStatus { done: 0, total: Some(0), rate: 0, ..fetching };
        assert_eq!(told(&empty), "100 % of 0 B  3 sources");
    }

    #[test]
    fn times_are_whole() {
        assert_eq!(whole(Duration::from_secs(7)), "7 s");
        assert_eq!(whole(Duration::from_secs(7325)), "2 h 02 min");
    }
}
