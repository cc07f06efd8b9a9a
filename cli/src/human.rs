//! Results and events as text for people.

use peerkit::{Hash, NetworkSize};

use crate::settings::{Origin, SettingView};
use crate::text::{self, Paint, count, plain};
use crate::views::PeerView;

pub(crate) mod downloads;
mod events;
pub(crate) mod files;
pub(crate) mod network;
pub(crate) mod status;
pub(crate) mod uploads;

pub(crate) use events::{event, failure};

/// Returns an error with its causes, on one line.
pub(crate) fn error(paint: Paint, error: &anyhow::Error) -> String {
    format!("{} {}", paint.bad("error:"), plain(&text::error(error)))
}

/// Returns the first eight digits of a hash, which are enough to name it.
pub(crate) fn digits(hash: Hash) -> String {
    hash.to_string()[..8].to_owned()
}

/// Returns the labels of peers, on one line.
pub(crate) fn labels(peers: &[PeerView]) -> String {
    peers.iter().map(PeerView::label).collect::<Vec<_>>().join(", ")
}

/// Returns the number of nodes, counted or estimated.
pub(crate) fn size(size: NetworkSize) -> String {
    let nodes = count(size.nodes, "node");
    match size.error {
        Some(error) => format!("about {nodes}, give or take {:.0} %", error * 100.0),
        None if size.exact => nodes,
        None => format!("{nodes} or more: some nodes did not answer in time"),
    }
}

/// Returns the settings, one on each line.
pub(crate) fn settings(paint: Paint, config: &[SettingView]) -> String {
    let lines = config.iter().map(|setting| {
        let value = match (&setting.value, setting.value.as_u64()) {
            (_, Some(0)) if setting.is_rate => "no limit".to_owned(),
            (_, Some(rate)) if setting.is_rate => format!("{}/s", text::size(rate)),
            (_, Some(number)) => number.to_string(),
            (value, None) => plain(value.as_str().unwrap_or_default()),
        };
        let origin = match setting.origin {
            Origin::Default => String::new(),
            other => paint.faint(&format!(" ({})", other.name())),
        };
        format!("{}  {value}{origin}", paint.faint(&format!("{:13}", setting.name)))
    });
    lines.collect::<Vec<_>>().join("\n")
}
