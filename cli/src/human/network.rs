//! Nodes and the network as text for people.

use std::fmt::Write as _;
use std::time::Duration;

use peerkit::{Ban, Figures, NetworkGraph};

use crate::text::{self, NO_ADDRESS, Paint, count, label, plain, since};
use crate::views::{KnownView, NodeView, PeerView, PingView};

/// Returns the nodes that a discovery found, each with its neighbours.
pub(crate) fn discovered(
    paint: Paint,
    nodes: &[NodeView],
    links: usize,
    complete: bool,
    time: Duration,
) -> String {
    let mut text = format!(
        "{} and {} in {}{}",
        count(nodes.len(), "node"),
        count(links, "link"),
        text::time(time),
        if complete { "" } else { ", some nodes did not answer in time" },
    );
    for node in nodes {
        let _ = write!(
            text,
            "\n  {}  {}  {} out, {} in",
            paint.name(&label(&node.id, &node.name)),
            node.address.as_deref().unwrap_or(NO_ADDRESS),
            node.outbound.len(),
            node.inbound.len(),
        );
        let outbound = node.outbound_nodes.iter().map(|other| ("to", other));
        for (way, other) in outbound.chain(node.inbound_nodes.iter().map(|o| ("from", o))) {
            let _ = write!(
                text,
                "\n      {}  {}  {}",
                paint.faint(&format!("{way:4}")),
                label(&other.id, &other.name),
                paint.faint(&other.address),
            );
        }
    }
    text
}

/// Returns bans, one on each line.
pub(crate) fn bans(paint: Paint, bans: &[Ban]) -> String {
    if bans.is_empty() {
        return "no node is banned".to_owned();
    }
    let lines = bans.iter().map(|ban| {
        let until = match ban.until {
            Some(until) => format!("until {}", text::moment(until)),
            None => "for ever".to_owned(),
        };
        format!("{}  banned {until}: {}", paint.name(&ban.id.to_string()), plain(&ban.why))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the connected nodes, and the other known nodes.
pub(crate) fn peers_and_known(paint: Paint, peers: &[PeerView], known: &[KnownView]) -> String {
    if peers.is_empty() && known.is_empty() {
        return "no peers: `join ADDR` joins a network, `connect ADDR` links to one node"
            .to_owned();
    }
    let mut text = format!("{} connected", count(peers.len(), "node"));
    for peer in peers {
        let rtt = peer.rtt_ms.map(|rtt| format!("  {}", text::time_ms(rtt)));
        let active = peer.last_seen.map(|last_seen| match since(last_seen).as_secs() {
            0 => "active just now".to_owned(),
            seconds => format!("active {seconds} s ago"),
        });
        let active = active.map(|active| format!("  {}", paint.faint(&active)));
        let _ = write!(
            text,
            "\n  {}  {}  {}{}{}",
            paint.name(&peer.label()),
            peer.address_or_none(),
            peer.direction.unwrap_or("no link"),
            rtt.unwrap_or_default(),
            active.unwrap_or_default(),
        );
    }
    let others = known.iter();
    let others: Vec<_> =
        others.filter(|known| peers.iter().all(|peer| peer.id != known.id)).collect();
    if !others.is_empty() {
        let _ = write!(text, "\n{} known from earlier links", count(others.len(), "node"));
    }
    for known in others {
        let _ = write!(
            text,
            "\n  {}  {}  {}",
            paint.name(&label(&known.id, &known.name)),
            known.address.as_deref().unwrap_or(NO_ADDRESS),
            paint.faint(&ago(known.last_seen)),
        );
    }
    text
}

/// Returns how long ago a moment was, in words. The moment is in milliseconds since 1970.
fn ago(unix_ms: u64) -> String {
    let past = since(unix_ms).as_secs();
    match past {
        0..120 => "just now".to_owned(),
        120..7200 => format!("{} min ago", past / 60),
        7200..172_800 => format!("{} h ago", past / 3600),
        _ => format!("{} days ago", past / 86_400),
    }
}

/// Returns a line for each pinged peer, with its round trip or the error.
pub(crate) fn pings(paint: Paint, pings: &[PingView]) -> String {
    if pings.is_empty() {
        return "no node is connected: `ping PEER` reaches any node of the network".to_owned();
    }
    let lines = pings.iter().map(|ping| {
        let answer = match (ping.rtt_ms, &ping.error) {
            (Some(rtt), _) => text::time_ms(rtt),
            (None, error) => paint.bad(&plain(error.as_deref().unwrap_or("no answer"))),
        };
        let through = match (ping.rtt_ms, &ping.peer.address) {
            (Some(_), None) => "  through the network",
            _ => "",
        };
        format!("{}  {answer}{}", paint.name(&ping.peer.label()), paint.faint(through))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Maximum length of a bar, in characters.
const MAX_BAR: usize = 40;

/// Maximum number of cut nodes that are named. Only the number of the others is printed.
const MAX_CUT_NODES: usize = 8;

/// Returns the figures of a network.
pub(crate) fn figures(paint: Paint, network: &NetworkGraph, figures: &Figures) -> String {
    let degree = &figures.degree;
    let mut text = format!(
        "{}  {}, {} in {}{}",
        paint.name(&plain(network.name())),
        count(figures.nodes, "node"),
        count(figures.links, "link"),
        text::time(network.elapsed()),
        if network.is_complete() { "" } else { ", some nodes did not answer in time" },
    );
    let mut line = |key: &str, value: String| {
        let _ = write!(text, "\n  {}  {value}", paint.faint(&format!("{key:10}")));
    };
    line("components", figures.components.to_string());
    let bound = if figures.diameter_exact { "" } else { "at least " };
    line("diameter", format!("{bound}{}", count(figures.diameter, "hop")));
    let cut = figures.cut_nodes.iter().take(MAX_CUT_NODES).map(|id| id.short());
    let mut cut: Vec<String> = cut.collect();
    match figures.cut_nodes.len() {
        0 => cut.push("none".to_owned()),
        all if all > MAX_CUT_NODES => cut.push(format!("and {} more", all - MAX_CUT_NODES)),
        _ => {}
    }
    line("cut nodes", cut.join(" "));
    line("degree", format!("{} to {}, {} on average", degree.min, degree.max, degree.avg));
    let most = degree.histogram.values().max().copied().unwrap_or_default();
    for (links, nodes) in &degree.histogram {
        // If no degree has more than `MAX_BAR` nodes, a character stands for one node. Otherwise bars
        // are scaled down, and rounded up so that each degree has one.
        let bar = "▇".repeat((nodes * MAX_BAR).div_ceil(most.max(MAX_BAR)));
        let links = format!("{links:>6}");
        line(&links, format!("{bar} {}", paint.faint(&count(*nodes, "node"))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerkit::{Degrees, Discovery, NodeId};

    #[test]
    fn ping_without_peers_prints_a_sentence() {
        let pinged = pings(Paint::none(), &[]);
        assert!(pinged.contains("no node is connected"), "{pinged:?}");
    }

    #[test]
    fn figures_of_a_network_have_bars() {
        let degree = Degrees { min: 1, avg: 1.5, max: 2, histogram: [(1, 100), (2, 3)].into() };
        let figures = Figures {
            nodes: 103,
            links: 53,
            components: 2,
            degree,
            diameter: 7,
            diameter_exact: false,
            cut_nodes: (0..10).map(|n| NodeId::from_bytes([n; 32])).collect(),
        };
        let elapsed = Duration::from_millis(2);
        let discovery = Discovery { nodes: Vec::new(), complete: true, elapsed };
        let network = NetworkGraph::new("net", &discovery);
        let text = super::figures(Paint::none(), &network, &figures);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "net  103 nodes, 53 links in 2.0 ms");
        assert_eq!(lines[2], "  diameter    at least 7 hops");
        assert!(lines[3].ends_with("07070707 and 2 more"), "{text}");
        assert_eq!(lines[5], format!("       1      {} 100 nodes", "▇".repeat(40)));
        assert_eq!(lines[6], "       2      ▇▇ 3 nodes");
    }
}
