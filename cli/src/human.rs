//! Results and events as a person reads them.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use peerkit::{Address, Event, Hash, Message, Node, Parting, Peer, Reason, SharedFile, Ticket};

use crate::outcome::{
    ChangesView, ContentsView, FolderFileView, FoundView, KnownView, ListedView, NetworkView,
    Outcome, PeerView, Ping, SkippedView, Stops,
};
use crate::start::Reach;
use crate::text::{self, Paint, count, label, path as shown, plain};
use crate::words;

pub(crate) mod downloads;
mod status;
pub(crate) mod uploads;

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
        Outcome::Peers { peers, known } => peers_and_known(paint, peers, known),
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
        Outcome::Pings { pings } => pings_text(paint, pings),
        Outcome::Discovered { nodes, links, complete, elapsed_ms, .. } => {
            let mut text = format!(
                "{} and {} in {}{}",
                count(nodes.len(), "node"),
                count(*links, "link"),
                text::time(Duration::from_secs_f64(elapsed_ms / 1e3)),
                if *complete { "" } else { ", some did not answer in time" },
            );
            for node in nodes {
                let _ = write!(
                    text,
                    "\n  {}  {}  {} out, {} in",
                    paint.name(&label(&node.id, &node.name)),
                    node.address.as_deref().unwrap_or("no address"),
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
        Outcome::Files { files } => {
            let line = |file| format!("no longer shared: {}", file_line(paint, file));
            files.iter().map(line).collect::<Vec<_>>().join("\n")
        }
        Outcome::Shared { files, restoring: false } if files.is_empty() => {
            "nothing is shared: add PATH shares a file or folder".to_owned()
        }
        Outcome::Shared { files, restoring } => {
            let lines = files.iter().flat_map(|shared| {
                let with = match shared.access {
                    "nodes" => format!("  with {} only", count(shared.to.len(), "node")),
                    "ticket" => "  with who has the ticket only".to_owned(),
                    _ => String::new(),
                };
                let line = file_line(paint, &shared.file);
                let line = format!("{line}  {}{with}", paint.faint(&shown(&shared.path)));
                std::iter::once(line).chain(contents_lines(paint, &shared.file, &shared.contents))
            });
            let more = "still looking at what was shared before: there may be more";
            let lines = lines.chain(restoring.then(|| more.to_owned()));
            lines.collect::<Vec<_>>().join("\n")
        }
        Outcome::Added { files, ticket, skipped } => {
            let lines = files.iter().map(|file| format!("sharing {}", file_line(paint, file)));
            let ticket = ticket.iter().map(|ticket| {
                let line = words::quote(ticket);
                let reach = ticket.parse().map(|ticket: Ticket| Reach::of(&ticket.addresses));
                let who = match reach {
                    Ok(Reach::ThisMachine) => {
                        "only this machine can reach the address in its ticket"
                    }
                    _ => "the other side fetches it with",
                };
                format!("{}\n  peerkit get {line}", paint.faint(who))
            });
            let lines = lines.chain(ticket).chain(skipped_lines(paint, skipped));
            lines.collect::<Vec<_>>().join("\n")
        }
        Outcome::Refreshed { files, changed, removed, skipped } => {
            let changed = changed.iter().map(|file| format!("changed {}", file_line(paint, file)));
            let gone = removed.iter().map(|gone| format!("gone {}", shown(&gone.path)));
            let lines = changed.chain(gone).chain(skipped_lines(paint, skipped));
            let mut lines: Vec<String> = lines.collect();
            if lines.is_empty() {
                lines.push("nothing has changed".to_owned());
            }
            for ListedView { file, contents } in files {
                lines.push(format!("sharing {}", file_line(paint, file)));
                lines.extend(contents_lines(paint, file, contents));
            }
            lines.join("\n")
        }
        Outcome::Found { files } => found(paint, files),
        Outcome::Begun { download } => format!(
            "fetching {}: `downloads` tells how far it is",
            downloads::named(paint, download)
        ),
        Outcome::Fetched { path, bytes, seconds, sources, dropped, changes: all } => {
            let how = match sources.len() {
                0 if *bytes > 0 => "was here already".to_owned(),
                nodes => format!(
                    "in {}{} from {}",
                    text::time(Duration::from_secs_f64(*seconds)),
                    speed(*bytes, *seconds),
                    count(nodes, "node"),
                ),
            };
            let size = paint.faint(&text::size(*bytes));
            let mut text = format!("{} {size} {how}, every byte verified", shown(path));
            for dropped in dropped {
                let (id, why) = (dropped.id.short(), plain(&dropped.why));
                let _ = write!(text, "\nnot from {id}, which sent something else: {why}");
            }
            for line in changes(all) {
                let _ = write!(text, "\n{line}");
            }
            text
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
        Outcome::Network { network } => network_text(paint, network),
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
        Outcome::Settings { config } => {
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
        Outcome::Debug { debug: true } => "logging what the node does".to_owned(),
        Outcome::Debug { debug: false } => "logging warnings only".to_owned(),
        Outcome::Help { help } => help.clone(),
        Outcome::Stopping { what: Stops::Node } => "stopping".to_owned(),
        Outcome::Stopping { what: Stops::Network } => "stopping the network".to_owned(),
    };
    text.trim_end().to_owned()
}

/// An event, on one line. `None` for those that say nothing new to a person.
pub(crate) fn event(paint: Paint, node: &Node, event: &Event) -> Option<String> {
    let who = |peer: &Peer| paint.name(&label(&peer.id(), peer.name()));
    let up = paint.good("+");
    let down = paint.faint("-");
    let wrong = paint.bad("!");
    Some(match event {
        Event::OutboundNodeConnected { peer } => {
            format!("{up} connected to {} at {}", who(peer), address(peer))
        }
        Event::InboundNodeConnected { peer } => {
            format!("{up} {} at {} connected to us", who(peer), address(peer))
        }
        // This node stops or leaves, which the user knows: it is the peer's link that is gone.
        Event::OutboundNodeDisconnected { parting, .. }
        | Event::InboundNodeDisconnected { parting, .. }
            if is_own_end(parting) =>
        {
            return None;
        }
        Event::OutboundNodeDisconnected { peer, parting }
        | Event::InboundNodeDisconnected { peer, parting } => {
            format!("{down} {} is gone: {}", who(peer), plain(&parting.to_string()))
        }
        Event::NodeMessage { peer, message } => {
            format!("{}: {}", who(peer), content(message))
        }
        Event::NodeMessageFailed { peer, failure } => format!(
            "{wrong} messages to {}: {} not sent, {} perhaps not received: {}",
            who(peer),
            failure.unsent,
            failure.unconfirmed,
            plain(&failure.reason.to_string()),
        ),
        Event::NodeBroadcast { broadcast } => {
            let author = node.peer(broadcast.author);
            let author = author.as_ref().map_or_else(|| paint.name(&broadcast.author.short()), who);
            let title = match broadcast.title.as_str() {
                "" => String::new(),
                title => format!("{}: ", paint.strong(&plain(title))),
            };
            let content = content(&broadcast.message);
            let named = format!("{}  {}", digits(broadcast.id), text::moment(broadcast.time));
            format!("{author} to all: {title}{content}  {}", paint.faint(&named))
        }
        Event::NodeBroadcastsMissed { author, count } => format!(
            "{wrong} {} of {} can't be had any more",
            text::count(count_of(*count), "broadcast"),
            author.short()
        ),
        Event::NodeShutdownOrdered { owner } => {
            format!("{down} the owner ({}) has stopped the network", owner.short())
        }
        Event::NodeShutdownRefused { peer, why } => format!(
            "{wrong} an order to stop was ignored, which {} passed on: {}",
            who(peer),
            plain(why)
        ),
        Event::NodeDownloadFinished { path, bytes, changes: all, .. } => {
            let size = paint.faint(&text::size(*bytes));
            let mut text = format!("{up} fetched {} {size}", shown(path));
            for line in changes(&ChangesView::from(all)) {
                let _ = write!(text, "\n{line}");
            }
            text
        }
        Event::NodeDownloadFailed { hash, error } => {
            format!("{wrong} {} was not fetched: {}", digits(*hash), plain(error))
        }
        Event::NodeSourceDropped { hash, source, why } => {
            let who = paint.name(&source.short());
            format!("{wrong} {} is not fetched from {who} any more: {}", digits(*hash), plain(why))
        }
        Event::NodeUploadCompleted { peer, upload } => {
            format!("{up} {} has fetched {}", who(peer), uploads::completed(paint, upload))
        }
        Event::NodeShareChanged { name, .. } => format!(
            "{wrong} {} was changed or removed after it was shared, and can't be fetched as it was: \
             share it again, and pass on its new hash or ticket",
            plain(name)
        ),
        Event::NodeReconnectionError { address, tries, error } => format!(
            "{wrong} {} to reach {} again: {}",
            count(*tries as usize, "try").replace("trys", "tries"),
            dialled(address),
            plain(error)
        ),
        Event::OutboundNodeConnectionError { address, error } => {
            format!("{wrong} could not connect to {}: {}", dialled(address), plain(error))
        }
        Event::InboundNodeConnectionError { address, error } => {
            format!("{wrong} {address} tried to connect: {}", plain(error))
        }
        Event::NodeLagged { missed } => {
            format!(
                "{wrong} {} left out: this output is too slow",
                count(count_of(*missed), "event")
            )
        }
        Event::NodeHandlerPanicked { event, panic } => {
            format!("{wrong} a handler panicked at {event}: {}", plain(panic))
        }
        Event::NodeClockSkew { peer, seconds } => format!(
            "{wrong} the clock of {} is {}: one of the two is wrong. Set it right, or broadcasts get lost",
            who(peer),
            status::ahead(*seconds)
        ),
        _ => return None,
    })
}

/// Returns whether a link ended because this node stops, or leaves its network.
fn is_own_end(parting: &Parting) -> bool {
    !parting.by_peer && matches!(parting.reason, Reason::Stopping | Reason::Left)
}

/// An address that was dialled, with the start of the identity that was expected there.
fn dialled(address: &Address) -> String {
    let at = address.clone().without_id();
    address.id.map_or_else(|| at.to_string(), |id| format!("{} at {at}", id.short()))
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

fn address(peer: &Peer) -> String {
    peer.address().clone().without_id().to_string()
}

fn content(message: &Message) -> String {
    match message.as_text() {
        Some(text) => plain(text),
        None => format!("<{}>", text::size(message.body().len() as u64)),
    }
}

/// Files that are named in a result for people; the others are counted.
const NAMED: usize = 20;

/// The files that have another name here than at their source, and those that could not be written.
pub(crate) fn changes(changes: &ChangesView) -> Vec<String> {
    let ChangesView { renamed, more_renamed, left_out, more_left_out } = changes;
    let others = |listed: usize, more: usize| listed.saturating_sub(NAMED).saturating_add(more);
    let mut lines = Vec::new();
    let some = renamed.iter().take(NAMED);
    lines.extend(some.map(|renamed| {
        let name = plain(renamed.name.as_str());
        let path = renamed.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} is called {} here: {}", plain(&path), renamed.why)
    }));
    let others_renamed = others(renamed.len(), *more_renamed);
    if others_renamed > 0 {
        lines.push(format!("and {others_renamed} more have other names"));
    }
    let some = left_out.iter().take(NAMED);
    lines.extend(
        some.map(|left| format!("not written: {}: {}", plain(left.path.as_str()), left.why)),
    );
    let others_left_out = others(left_out.len(), *more_left_out);
    if others_left_out > 0 {
        lines.push(format!("and {others_left_out} more were not written"));
    }
    lines
}

/// Returns a line for each entry of a shared folder that is not shared.
pub(crate) fn skipped_lines(paint: Paint, skipped: &[SkippedView]) -> impl Iterator<Item = String> {
    let lines = skipped.iter();
    lines.map(move |skipped| {
        let why = plain(&skipped.why);
        format!("{} {}: {why}", paint.faint("not shared:"), shown(&skipped.path))
    })
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

fn peers_and_known(paint: Paint, peers: &[PeerView], known: &[KnownView]) -> String {
    if peers.is_empty() && known.is_empty() {
        return "no peers: connect ADDR or join ADDR finds some".to_owned();
    }
    let mut text = format!("{} connected", count(peers.len(), "node"));
    for peer in peers {
        let rtt = peer.rtt_ms.map_or_else(String::new, |rtt| {
            format!("  {}", text::time(Duration::from_secs_f64(rtt / 1e3)))
        });
        let heard = peer.last_seen.map_or_else(String::new, |last_seen| {
            format!("  {}", paint.faint(&format!("heard {}", seconds_ago(last_seen))))
        });
        let _ = write!(
            text,
            "\n  {}  {}  {}{rtt}{heard}",
            paint.name(&peer.label()),
            at(peer),
            peer.direction.unwrap_or("no link"),
        );
    }
    let others = known.iter();
    let others: Vec<_> =
        others.filter(|known| peers.iter().all(|peer| peer.id != known.id)).collect();
    if !others.is_empty() {
        let _ = write!(text, "\n{} known from before", count(others.len(), "node"));
    }
    for known in others {
        let _ = write!(
            text,
            "\n  {}  {}  {}",
            paint.name(&label(&known.id, &known.name)),
            known.address.as_deref().unwrap_or("no address"),
            paint.faint(&ago(known.last_seen)),
        );
    }
    text
}

fn seconds_ago(unix_ms: u64) -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    match now.saturating_sub(Duration::from_millis(unix_ms)).as_secs() {
        0 => "just now".to_owned(),
        seconds => format!("{seconds} s ago"),
    }
}

fn ago(unix_ms: u64) -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let past = now.saturating_sub(Duration::from_millis(unix_ms)).as_secs();
    match past {
        0..120 => "just now".to_owned(),
        120..7200 => format!("{} min ago", past / 60),
        7200..172_800 => format!("{} h ago", past / 3600),
        _ => format!("{} days ago", past / 86_400),
    }
}

fn pings_text(paint: Paint, pings: &[Ping]) -> String {
    if pings.is_empty() {
        return "no node is connected: ping PEER reaches any node of the network".to_owned();
    }
    let lines = pings.iter().map(|ping| {
        let answer = match (ping.rtt_ms, &ping.error) {
            (Some(rtt), _) => text::time(Duration::from_secs_f64(rtt / 1e3)),
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

/// What is shared or found: its hash, its name and how large it is.
pub(crate) fn file_line(paint: Paint, file: &SharedFile) -> String {
    format!("{}  {}  {}", file.hash, plain(file.name.as_str()), paint.faint(&text::size(file.size)))
}

/// The files in a shared folder, each with its hash.
fn contents_lines(
    paint: Paint,
    folder: &SharedFile,
    contents: &Option<ContentsView>,
) -> Vec<String> {
    let Some(ContentsView { files, count, skipped }) = contents else { return Vec::new() };
    let line = |file: &FolderFileView| {
        let size = paint.faint(&text::size(file.size));
        format!("  {}  {}  {size}", file.hash, plain(file.path.as_str()))
    };
    let mut lines: Vec<String> = files.iter().map(line).collect();
    let next = skipped.saturating_add(files.len());
    if next < *count {
        let (more, digits) = (count - next, digits(folder.hash));
        lines.push(format!("  and {more} more: `files {digits} --skip {next}` lists them"));
    }
    lines
}

fn found(paint: Paint, files: &[FoundView]) -> String {
    if files.is_empty() {
        return "nothing found".to_owned();
    }
    let lines = files.iter().map(|found| {
        let others = found.sources.len() - usize::from(found.here);
        let sources = match (found.here, others) {
            (true, 0) => "here".to_owned(),
            (true, others) => format!("here, {}", count(others, "other source")),
            (false, others) => count(others, "source"),
        };
        format!("{}  {}", file_line(paint, &found.file), paint.faint(&sources))
    });
    let mut text = lines.collect::<Vec<_>>().join("\n");
    if let Some(first) = files.iter().find(|found| !found.here) {
        let hash = first.file.hash.to_string();
        let _ = write!(text, "\n{}", paint.faint(&format!("fetch one: get {}", &hash[..8])));
    }
    text
}

/// The longest bar of `network`, in characters.
const BAR: usize = 40;

/// Cut nodes that `network` names; it counts the others.
const CUT_NODES: usize = 8;

fn network_text(paint: Paint, network: &NetworkView) -> String {
    let figures = &network.figures;
    let degree = &figures.degree;
    let mut text = format!(
        "{}  {}, {} in {}{}",
        paint.name(&plain(&network.name)),
        count(figures.nodes, "node"),
        count(figures.links, "link"),
        text::time(Duration::from_secs_f64(network.elapsed_ms / 1e3)),
        if network.complete { "" } else { ", some did not answer in time" },
    );
    let mut line = |key: &str, value: String| {
        let _ = write!(text, "\n  {}  {value}", paint.faint(&format!("{key:10}")));
    };
    line("components", figures.components.to_string());
    let bound = if figures.diameter_exact { "" } else { "at least " };
    line("diameter", format!("{bound}{}", count(figures.diameter, "hop")));
    let cut = figures.cut_nodes.iter().take(CUT_NODES).map(|id| id.short());
    let mut cut: Vec<String> = cut.collect();
    match figures.cut_nodes.len() {
        0 => cut.push("none".to_owned()),
        all if all > CUT_NODES => cut.push(format!("and {} more", all - CUT_NODES)),
        _ => {}
    }
    line("cut nodes", cut.join(" "));
    line("degree", format!("{} to {}, {} on average", degree.min, degree.max, degree.avg));
    let most = degree.histogram.values().max().copied().unwrap_or_default();
    for (links, nodes) in &degree.histogram {
        let bar = "▇".repeat((nodes * BAR).div_ceil(most.max(BAR)));
        let links = format!("{links:>6}");
        line(&links, format!("{bar} {}", paint.faint(&count(*nodes, "node"))));
    }
    text
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
    use crate::outcome::{LeftOutView, RenamedView};
    use peerkit::{Changes, Degrees, Figures, LeftOut, NameFault, NodeId};

    #[test]
    fn a_ping_of_no_node_is_said_in_words() {
        let pinged = outcome(Paint::none(), "ping", &Outcome::Pings { pings: Vec::new() });
        assert!(pinged.contains("no node is connected"), "{pinged:?}");
    }

    #[test]
    fn a_networks_figures_are_told_with_bars() {
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
        let network = NetworkView { name: "net".into(), figures, complete: true, elapsed_ms: 2.0 };
        let text = network_text(Paint::on(&tempfile::tempfile().unwrap()), &network);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "net  103 nodes, 53 links in 2.0 ms");
        assert_eq!(lines[2], "  diameter    at least 7 hops");
        assert!(lines[3].ends_with("07070707 and 2 more"), "{text}");
        assert_eq!(lines[5], format!("       1      {} 100 nodes", "▇".repeat(40)));
        assert_eq!(lines[6], "       2      ▇▇ 3 nodes");
    }

    fn file(name: &str) -> SharedFile {
        let (hash, name) = (Hash::of(name.as_bytes()), name.parse().unwrap());
        SharedFile { hash, name, size: 1, kind: peerkit::FileKind::File }
    }

    #[test]
    fn a_large_folder_is_listed_in_parts() {
        let view = |name: &str| {
            let SharedFile { hash, name, size, .. } = file(name);
            FolderFileView { hash, path: name.clone().into(), name, size }
        };
        let folder = file("folder");
        let lines = |count, skipped| {
            let files = vec![view("a\u{202e}"), view("b")];
            contents_lines(Paint::none(), &folder, &Some(ContentsView { files, count, skipped }))
        };
        let all = lines(2, 0);
        assert_eq!(all.len(), 2);
        assert!(all[0].ends_with("  a\\u{202e}  1 B"), "{all:?}");
        let digits = digits(folder.hash);
        let more = format!("  and 5 more: `files {digits} --skip 12` lists them");
        assert_eq!(lines(17, 10).last(), Some(&more));
        assert_eq!(lines(12, 10).len(), 2);
        assert!(contents_lines(Paint::none(), &folder, &None).is_empty());
    }

    #[test]
    fn what_was_found_here_is_not_advised_to_be_fetched() {
        let id = |n| NodeId::from_bytes([n; 32]);
        let view = |name, sources: &[u8], here| FoundView {
            file: file(name),
            sources: sources.iter().map(|n| id(*n)).collect(),
            here,
        };
        let files = [view("own", &[1], true), view("both", &[1, 2], true), view("b", &[2], false)];
        let text = found(Paint::none(), &files);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("own  1 B  here"), "{text}");
        assert!(lines[1].ends_with("both  1 B  here, 1 other source"), "{text}");
        assert!(lines[2].ends_with("b  1 B  1 source"), "{text}");
        assert_eq!(lines[3], format!("fetch one: get {}", digits(file("b").hash)));
        assert_eq!(found(Paint::none(), &files[..2]).lines().count(), 2);
    }

    #[test]
    fn what_was_changed_is_named_up_to_a_number() {
        let renamed = |n: usize| RenamedView {
            name: format!("a{n}\u{202e}").parse().unwrap(),
            path: format!("/d/a{n}_").into(),
            why: "so".into(),
        };
        let left =
            |n: usize| LeftOutView { path: format!("l{n}").parse().unwrap(), why: "long".into() };
        let lines = changes(&ChangesView {
            renamed: (0..NAMED + 2).map(renamed).collect(),
            more_renamed: 0,
            left_out: (0..NAMED + 3).map(left).collect(),
            more_left_out: 40,
        });
        assert_eq!(lines.len(), 2 * (NAMED + 1));
        assert_eq!(lines[0], "a0\\u{202e} is called a0_ here: so");
        assert_eq!(lines[NAMED], "and 2 more have other names");
        assert_eq!(lines[NAMED + 1], "not written: l0: long");
        assert_eq!(lines.last().unwrap(), "and 43 more were not written");
    }

    #[tokio::test]
    async fn a_download_that_is_not_whole_says_so() {
        let node = Node::builder().spawn().await.unwrap();
        let left = LeftOut { path: "in/song".parse().unwrap(), why: NameFault::TooLongHere };
        let text = |left_out: &[LeftOut]| {
            let (hash, changes) = (Hash::of(b"content"), Changes::new(&[], left_out));
            let path = "/d/album".into();
            let event = Event::NodeDownloadFinished { hash, path, bytes: 7, changes };
            super::event(Paint::none(), &node, &event).unwrap()
        };
        assert_eq!(text(&[]).lines().count(), 1);
        let told = text(std::slice::from_ref(&left));
        assert_eq!(told.lines().nth(1), Some("not written: in/song: it is too long for this disk"));
        let told = text(&vec![left; Changes::MAX + 5]);
        let others = format!("and {} more were not written", Changes::MAX + 5 - NAMED);
        assert_eq!(told.lines().last(), Some(&*others));
    }

    #[test]
    fn a_dial_that_failed_names_its_address_once() {
        let id = NodeId::from_bytes([7; 32]);
        let address: Address = "192.0.2.7:7117".parse().unwrap();
        assert_eq!(dialled(&address), "192.0.2.7:7117");
        assert_eq!(dialled(&address.with_id(id)), "07070707 at 192.0.2.7:7117");
    }

    #[tokio::test]
    async fn a_clock_that_is_wrong_is_told_with_what_to_do() {
        let node = Node::builder().spawn().await.unwrap();
        let peer = Peer::without_link(NodeId::from_bytes([7; 32]), "bob\u{202e}".into());
        let told = |seconds| {
            event(Paint::none(), &node, &Event::NodeClockSkew { peer: peer.clone(), seconds })
        };
        let (ahead, behind) = (told(300).unwrap(), told(-900).unwrap());
        assert!(ahead.starts_with("! the clock of bob\\u{202e}"), "{ahead}");
        assert!(ahead.contains("is 5 min 0 s ahead of this node's"), "{ahead}");
        assert!(behind.contains("is 15 min 0 s behind this node's"), "{behind}");
        assert!(behind.ends_with("Set it right, or broadcasts get lost"), "{behind}");
        node.shutdown().await;
    }

    #[test]
    fn the_end_of_this_node_is_no_news_of_its_peers() {
        let parting = |reason, by_peer| Parting { reason, by_peer };
        assert!(is_own_end(&parting(Reason::Stopping, false)));
        assert!(is_own_end(&parting(Reason::Left, false)));
        assert!(!is_own_end(&parting(Reason::Stopping, true)), "the peer stops");
        assert!(!is_own_end(&parting(Reason::Requested, false)));
    }

    #[test]
    fn a_slow_fetch_has_a_speed() {
        assert_eq!(speed(3 << 20, 2.0), " (1.5 MiB/s)");
        assert_eq!(speed(1, 0.0), "");
    }
}
