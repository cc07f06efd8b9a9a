//! Results and events as a person reads them.

use std::fmt::Write as _;
use std::time::Duration;

use peerkit::Hash;

use crate::outcome::{Outcome, PeerView, Stops};
use crate::settings::SettingView;
use crate::text::{self, Paint, count, path as shown, plain};

pub(crate) mod downloads;
mod events;
mod files;
mod network;
mod status;
pub(crate) mod uploads;

pub(crate) use events::event;
pub(crate) use files::{changes, file_line, skipped_lines};

/// A result, on one line or several; no line end at the end.
pub(crate) fn outcome(paint: Paint, command: &str, outcome: &Outcome) -> String {
    let text = match outcome {
        Outcome::Peer { peer } => match command {
            "send" => format!("sent to {}", peer.label()),
            _ => format!("disconnected from {}", peer.label()),
        },
        Outcome::Connected { peer, may_join } => {
            let mut text = format!("connected to {} at {}", peer.label(), at(peer));
            if *may_join {
                let hint = "this is a link and no more: `join ADDR` makes this node a member of the \
                            network of the node at ADDR";
                let _ = write!(text, "\n{}", paint.faint(hint));
            }
            text
        }
        Outcome::Linked { peers, .. } if command == "leave" => {
            format!("left: {} closed", count(peers.len(), "link"))
        }
        Outcome::Linked { peers, by_hand: true } => {
            format!("linked to {}; with --manual this node joins no network", labels(peers))
        }
        Outcome::Linked { peers, by_hand: false } => format!("joined through {}", labels(peers)),
        Outcome::Peers { peers, known } => network::peers_and_known(paint, peers, known),
        Outcome::Sent { sent_to, failed } => {
            let mut text = format!("sent to {}", count(*sent_to, "node"));
            for failed in failed {
                let _ = write!(text, "\nnot to {}: {}", failed.id.short(), plain(&failed.error));
            }
            text
        }
        Outcome::Broadcast { id, time, links } => {
            let (links, time) = (count(*links, "link"), text::moment(*time));
            format!("broadcast {} over {links} at {time}", &id[..8])
        }
        Outcome::Pings { pings } => network::pings_text(paint, pings),
        Outcome::Discovered { nodes, links, complete, elapsed_ms, .. } => {
            let time = Duration::from_secs_f64(elapsed_ms / 1e3);
            network::discovered(paint, nodes, *links, *complete, time)
        }
        Outcome::Files { files } => {
            let line = |file| format!("no longer shared: {}", file_line(paint, file));
            files.iter().map(line).collect::<Vec<_>>().join("\n")
        }
        Outcome::Shared { files, restoring: false } if files.is_empty() => {
            "nothing is shared: add PATH shares a file or folder".to_owned()
        }
        Outcome::Shared { files, restoring } => files::shared(paint, files, *restoring),
        Outcome::Added { files, ticket, skipped } => {
            files::added(paint, files, ticket.as_deref(), skipped)
        }
        Outcome::Refreshed { files, changed, removed, skipped } => {
            let gone = removed.iter().map(|gone| shown(&gone.path));
            files::refreshed(paint, files, changed, gone, skipped)
        }
        Outcome::Found { files } => files::found(paint, files),
        Outcome::Begun { download } => format!(
            "fetching {}: `downloads` tells how far it is",
            downloads::named(paint, download)
        ),
        Outcome::Fetched { path, bytes, seconds, sources, dropped, changes } => {
            let how = match sources.len() {
                0 if *bytes > 0 => "was here already".to_owned(),
                nodes => format!(
                    "in {}{} from {}",
                    text::time(Duration::from_secs_f64(*seconds)),
                    speed(*bytes, *seconds),
                    count(nodes, "node"),
                ),
            };
            files::fetched(paint, path, *bytes, &how, dropped, changes)
        }
        Outcome::Download { download } => match command {
            "cancel" => format!("given up: {}", downloads::named(paint, download)),
            _ => downloads::line(paint, download),
        },
        Outcome::Downloads { downloads } if downloads.is_empty() => {
            "nothing is being fetched: get HASH fetches a file or folder".to_owned()
        }
        Outcome::Downloads { downloads } => {
            let lines = downloads.iter().map(|download| downloads::line(paint, download));
            lines.collect::<Vec<_>>().join("\n")
        }
        Outcome::Status { status } => status::text(paint, status),
        Outcome::Network { network } => network::network_text(paint, network),
        Outcome::Size { size, exact, error } => {
            let nodes = count(count_of(*size), "node");
            match error {
                Some(error) => format!("about {nodes}, give or take {:.0} %", error * 100.0),
                None if *exact => nodes,
                None => format!("{nodes} or more: some did not answer in time"),
            }
        }
        Outcome::Map { map } => map.to_text(),
        Outcome::Drawn { path } => format!("wrote {}", shown(path)),
        Outcome::Saved { path, peers } => {
            format!("wrote {} to {}", count(peers.len(), "peer"), shown(path))
        }
        Outcome::Loaded { path, peers, connected } => format!(
            "read {} from {}: {}",
            count(peers.len(), "peer"),
            shown(path),
            count(connected.len(), "new link"),
        ),
        Outcome::Settings { config } => settings(paint, config),
        Outcome::Debug { debug: true } => "logging what the node does".to_owned(),
        Outcome::Debug { debug: false } => "logging warnings only".to_owned(),
        Outcome::Help { help } => help.clone(),
        Outcome::Stopping { what: Stops::Node } => "stopping".to_owned(),
        Outcome::Stopping { what: Stops::Network } => "stopping the network".to_owned(),
    };
    text.trim_end().to_owned()
}

/// A warning, on one line.
pub(crate) fn warning(paint: Paint, text: &str) -> String {
    format!("{} {}", paint.bad("!"), plain(text))
}

/// That the node has not joined its network, and when it tries again.
pub(crate) fn not_joined(paint: Paint, error: &str, again: Option<Duration>) -> String {
    let again = again.map_or_else(String::new, |wait| {
        format!("; trying again in {}, until it is there", text::time(wait))
    });
    format!("{} not joined: {}{again}", paint.bad("!"), plain(error))
}

/// An error, with its causes.
pub(crate) fn error(paint: Paint, error: &anyhow::Error) -> String {
    format!("{} {}", paint.bad("error:"), plain(&text::error(error)))
}

fn at(peer: &PeerView) -> &str {
    peer.address.as_deref().unwrap_or("no address")
}

/// The start of a hash, which is enough to name it.
pub(crate) fn digits(hash: Hash) -> String {
    hash.to_string()[..8].to_owned()
}

fn labels(peers: &[PeerView]) -> String {
    peers.iter().map(PeerView::label).collect::<Vec<_>>().join(", ")
}

fn count_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Returns the settings that can change while the node runs.
fn settings(paint: Paint, config: &[SettingView]) -> String {
    let lines = config.iter().map(|setting| {
        let value = match (&setting.value, setting.value.as_u64()) {
            (_, Some(0)) => "no limit".to_owned(),
            (_, Some(rate)) => format!("{}/s", text::size(rate)),
            (value, None) => plain(value.as_str().unwrap_or_default()),
        };
        format!("{}  {value}", paint.faint(&format!("{:13}", setting.name)))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// `, 310.0 MiB/s`, where it took long enough to tell.
fn speed(bytes: u64, seconds: f64) -> String {
    if seconds <= 0.0 {
        return String::new();
    }
    format!(" ({}/s)", text::size((bytes as f64 / seconds) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_of_no_node_is_said_in_words() {
        let pinged = outcome(Paint::none(), "ping", &Outcome::Pings { pings: Vec::new() });
        assert!(pinged.contains("no node is connected"), "{pinged:?}");
    }

    #[test]
    fn a_slow_fetch_has_a_speed() {
        assert_eq!(speed(3 << 20, 2.0), " (1.5 MiB/s)");
        assert_eq!(speed(1, 0.0), "");
    }
}
