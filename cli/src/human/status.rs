//! The status of a node as text for people.

use std::fmt::Write as _;
use std::time::Duration;

use peerkit::{Address, MappingStatus, PeerStatus, Reachability, Status};

use crate::text::{self, Paint, count, label, plain, size};
use crate::views::without_ids;

/// Returns the status, on several lines.
pub(crate) fn text(paint: Paint, status: &Status) -> String {
    let mut text = format!("{} in network {}", name(paint, status), plain(&status.network));
    let mut line = |key: &str, value: String| {
        let _ = write!(text, "\n  {} {value}", paint.faint(&format!("{key:10}")));
    };
    line("id", status.id.to_string());
    line("addresses", addresses(&status.addresses));
    line("reach", reach(status));
    if let Some(mapping) = &status.mapping {
        line("mapping", mapping_words(mapping));
    }
    line("up for", long(Duration::from_millis(status.uptime_ms)));
    line("member", membership(status));
    line("shares", count(status.shares, "share"));
    let sent = &status.counters;
    line(
        "messages",
        format!(
            "{} sent, {} received, {} failed; {} out, {} in",
            sent.messages_sent,
            sent.messages_received,
            sent.messages_failed,
            size(sent.bytes_sent),
            size(sent.bytes_received)
        ),
    );
    let all = &status.broadcasts;
    line(
        "broadcasts",
        format!(
            "{} sent, {} received, {} came twice, {} missed, {} too old or from the future",
            all.sent, all.received, all.duplicates, all.missed, all.untimely
        ),
    );
    let strays = match status.stray_answers {
        0 => String::new(),
        strays => format!("; {} to queries that were not sent", count(strays, "answer")),
    };
    line("queries", format!("{} in the last minute{strays}", status.queries));
    if status.clocks_apart > 0 {
        let (links, seconds) = (count(status.clocks_apart, "peer"), status.clock_skew_seconds);
        line(
            "clock",
            format!("differs from that of {links}: one is {}", clock_difference(seconds)),
        );
    }
    line("links", format!("{} in, {} out", status.inbound, status.outbound));
    for peer in &status.peers {
        let _ = write!(text, "\n    {}", link(paint, status, peer));
    }
    text
}

fn name(paint: Paint, status: &Status) -> String {
    paint.name(&label(&status.id, &status.name))
}

fn addresses(addresses: &[Address]) -> String {
    match addresses {
        [] => "none: no other node can dial this one".to_owned(),
        some => without_ids(some.iter().cloned()).join(", "),
    }
}

fn reach(status: &Status) -> String {
    format!("{}: {}", way(status.reachability), plain(&status.why))
}

/// Returns what is known about the mapping of this node's ports.
fn mapping_words(mapping: &MappingStatus) -> String {
    let why = plain(&mapping.why);
    match mapping.seconds_left {
        Some(seconds) => format!("{why}, for {}", long(Duration::from_secs(seconds))),
        None => why,
    }
}

/// Returns how others reach this node, in words.
pub(super) fn way(reachability: Reachability) -> &'static str {
    match reachability {
        Reachability::Direct => "others can dial this node",
        Reachability::Mapped => "others can dial this node through its router",
        Reachability::Punched => "others reach this node if both dial at the same time",
        Reachability::Relayed => "others reach this node through a third one",
        _ => "it is not known how others reach this node",
    }
}

fn membership(status: &Status) -> String {
    match (status.member, status.manual) {
        (true, _) if status.neighbours.is_empty() => {
            format!("alone, looking for neighbours: {} known", count(status.passive, "node"))
        }
        (true, _) => format!(
            "yes: {}, {} more known",
            count(status.neighbours.len(), "neighbour"),
            count(status.passive, "node")
        ),
        (false, true) => "no: links are made by hand (--manual)".to_owned(),
        (false, false) => {
            "not yet: `join ADDR`, or wait until another node joins this one".to_owned()
        }
    }
}

fn link(paint: Paint, status: &Status, peer: &PeerStatus) -> String {
    let mut text = format!(
        "{}  {}  {}",
        paint.name(&label(&peer.id, &peer.name)),
        peer.address.clone().without_id(),
        peer.direction
    );
    if status.neighbours.contains(&peer.id) {
        text.push_str(", neighbour");
    }
    if status.pinned.contains(&peer.id) {
        text.push_str(", by hand");
    }
    if let Some(rtt) = peer.rtt_ms {
        let _ = write!(text, "  {}", text::time_ms(rtt));
    }
    let queued = peer.queued_bytes.saturating_add(peer.queued_control_bytes);
    if queued > 0 {
        let _ = write!(text, "  {} queued", size(queued as u64));
    }
    for off in &peer.off {
        let _ = write!(text, "\n    {}", paint.faint(off));
    }
    text
}

/// Returns how far a clock is ahead of this node's, in words. If `seconds` is negative, it is behind.
pub(crate) fn clock_difference(seconds: i64) -> String {
    let by = long(Duration::from_secs(seconds.unsigned_abs()));
    let way = if seconds < 0 { "behind" } else { "ahead of" };
    format!("{by} {way} this node's")
}

/// Returns a time in its two largest units.
fn long(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => text::time(time),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} {} h", count(seconds / 86_400, "day"), seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_two_units() {
        let described = |seconds| long(Duration::from_secs(seconds));
        assert_eq!(described(61), "1 min 1 s");
        assert_eq!(described(7260), "2 h 1 min");
        assert_eq!(described(90_000), "1 day 1 h");
        assert!(described(5).contains('5'));
    }

    #[tokio::test]
    async fn the_status_has_a_line_about_clocks_that_differ() {
        let node = peerkit::Node::builder().spawn().await.unwrap();
        let mut status = node.status().await;
        assert!(!text(Paint::none(), &status).contains("clock"));
        (status.clocks_apart, status.clock_skew_seconds) = (2, -900);
        let text = text(Paint::none(), &status);
        let line = text.lines().find(|line| line.contains("clock")).unwrap();
        assert!(
            line.ends_with("differs from that of 2 peers: one is 15 min 0 s behind this node's")
        );
        node.shutdown().await;
    }

    #[tokio::test]
    async fn the_status_of_a_node_without_links_says_so() {
        let node = peerkit::Node::builder().name("ann\u{1b}").spawn().await.unwrap();
        let paint = Paint::on(&tempfile::tempfile().unwrap());
        let text = text(paint, &node.status().await);
        assert!(text.contains("ann\\u{1b}") && text.contains(&node.id().to_string()), "{text}");
        assert!(text.contains("no other node can dial") && text.contains("not yet"), "{text}");
        node.shutdown().await;
    }
}
