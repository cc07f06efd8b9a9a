//! Events as text for people.

use std::fmt::Write as _;

use peerkit::{Address, Event, LinkEnd, Message, Node, Peer, Reason};

use super::files::changes;
use super::{digits, status, uploads};
use crate::text::{self, Paint, count, label, path as shown, plain};

/// Returns the text of an event. Returns `None` for failures, and for events that are not printed.
pub(crate) fn event(paint: Paint, node: &Node, event: &Event) -> Option<String> {
    let name = |peer: &Peer| named(paint, peer);
    let up = paint.good("+");
    let down = paint.faint("-");
    Some(match event {
        Event::OutboundNodeConnected { peer } => {
            format!("{up} connected to {} at {}", name(peer), address(peer))
        }
        Event::InboundNodeConnected { peer } => {
            format!("{up} {} at {} connected to this node", name(peer), address(peer))
        }
        // Not printed: the user knows that this node stops or leaves.
        Event::OutboundNodeDisconnected { link_end, .. }
        | Event::InboundNodeDisconnected { link_end, .. }
            if is_ended_by_this_node(link_end) =>
        {
            return None;
        }
        Event::OutboundNodeDisconnected { peer, link_end }
        | Event::InboundNodeDisconnected { peer, link_end } => {
            format!("{down} link to {} closed: {}", name(peer), plain(&link_end.to_string()))
        }
        Event::NodeMessage { peer, message } => {
            format!("{}: {}", name(peer), content(message))
        }
        Event::NodeBroadcast { broadcast } => {
            let author = node.peer(broadcast.author);
            let author =
                author.as_ref().map_or_else(|| paint.name(&broadcast.author.short()), name);
            let title = match broadcast.title.as_str() {
                "" => String::new(),
                title => format!("{}: ", paint.strong(&plain(title))),
            };
            let content = content(&broadcast.message);
            let named = format!("{}  {}", digits(broadcast.id), text::moment(broadcast.time));
            format!("{author} to all: {title}{content}  {}", paint.faint(&named))
        }
        Event::NodeReachabilityChanged { reachability, why } => {
            format!("{up} {}: {}", status::way(*reachability), plain(why))
        }
        Event::NodeShutdownOrdered { owner } => {
            format!("{down} the owner ({}) has stopped the network", owner.short())
        }
        Event::NodeDownloadFinished { path, bytes, changes: all, .. } => {
            let size = paint.faint(&text::size(*bytes));
            let mut text = format!("{up} fetched {} {size}", shown(path));
            // Entries that have another name here, or could not be written.
            for line in changes(all) {
                let _ = write!(text, "\n{line}");
            }
            text
        }
        Event::NodeUploadCompleted { peer, upload } => {
            format!("{up} {} has fetched {}", name(peer), uploads::completed(paint, upload))
        }
        _ => return None,
    })
}

/// Returns the text of an event that reports a failure, on one line. Returns `None` for all others.
pub(crate) fn failure(paint: Paint, event: &Event) -> Option<String> {
    let name = |peer: &Peer| named(paint, peer);
    let text = match event {
        Event::NodeMessageFailed { peer, failure } => format!(
            "messages to {}: {} not sent, {} perhaps not received: {}",
            name(peer),
            failure.unsent,
            failure.unconfirmed,
            plain(&failure.reason.to_string()),
        ),
        Event::NodeBroadcastsMissed { author, count: missed } => {
            format!("{} of {} are lost", count(missed, "broadcast"), author.short())
        }
        Event::NodeShutdownRefused { peer, why } => {
            format!("ignored an order to stop that {} passed on: {}", name(peer), plain(why))
        }
        Event::NodeDownloadFailed { hash, error } => {
            format!("{} was not fetched: {}", digits(*hash), plain(error))
        }
        Event::NodeSourceDropped { hash, source, why } => {
            let name = paint.name(&source.short());
            format!("{} is not fetched from {name} any more: {}", digits(*hash), plain(why))
        }
        Event::NodeShareChanged { name, .. } => format!(
            "{} was changed or removed after it was shared, and can't be fetched as it was: share \
             it again, and pass on its new hash or ticket",
            plain(name)
        ),
        Event::NodeReconnectionError { address, tries, error } => format!(
            "could not connect to {} again, after {}: {}",
            dialled(address),
            count(tries, "try").replace("trys", "tries"),
            plain(error)
        ),
        Event::OutboundNodeConnectionError { address, error } => {
            format!("could not connect to {}: {}", dialled(address), plain(error))
        }
        Event::InboundNodeConnectionError { address, error, others } => {
            let others = match others {
                0 => String::new(),
                others => format!(" (and {} more)", count(*others, "connection")),
            };
            format!("the connection from {address} failed: {}{others}", plain(error))
        }
        Event::NodeLagged { missed } => {
            format!("{} not shown: this output is read too slowly", count(missed, "event"))
        }
        Event::NodeHandlerPanicked { event, panic } => {
            format!("a handler panicked at {event}: {}", plain(panic))
        }
        Event::NodeClockSkew { peer, seconds } => format!(
            "the clock of {} is {}: one of the two clocks is wrong. Correct it, or broadcasts get lost",
            name(peer),
            status::clock_difference(*seconds)
        ),
        _ => return None,
    };
    Some(format!("{} {text}", paint.bad("!")))
}

fn named(paint: Paint, peer: &Peer) -> String {
    paint.name(&label(&peer.id(), peer.name()))
}

/// Returns whether a link ended because this node stops, or leaves its network.
fn is_ended_by_this_node(link_end: &LinkEnd) -> bool {
    !link_end.by_peer && matches!(link_end.reason, Reason::Stopping | Reason::Left)
}

/// Returns an address that was dialled, after the first digits of the expected identity if there is
/// one.
fn dialled(address: &Address) -> String {
    let at = address.clone().without_id();
    address.id.map_or_else(|| at.to_string(), |id| format!("{} at {at}", id.short()))
}

fn address(peer: &Peer) -> String {
    peer.address().clone().without_id().to_string()
}

/// Returns the text of a message, or the size of a message that is not text.
fn content(message: &Message) -> String {
    match message.as_text() {
        Some(text) => plain(text),
        None => format!("<{}>", text::size(message.body().len() as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::human::files::MAX_NAMED;
    use peerkit::{Changes, Hash, LeftOut, NameFault, NodeId};

    #[tokio::test]
    async fn an_incomplete_download_names_the_missing_files() {
        let node = Node::builder().spawn().await.unwrap();
        let left = LeftOut { path: "in/song".parse().unwrap(), why: NameFault::TooLongForDisk };
        let text = |left_out: &[LeftOut]| {
            let (hash, changes) = (Hash::of(b"content"), Changes::new(&[], left_out));
            let path = "/d/album".into();
            let event = Event::NodeDownloadFinished { hash, path, bytes: 7, changes };
            super::event(Paint::none(), &node, &event).unwrap()
        };
        assert_eq!(text(&[]).lines().count(), 1);
        let described = text(std::slice::from_ref(&left));
        assert_eq!(
            described.lines().nth(1),
            Some("not written: in/song: it is too long for this disk")
        );
        let described = text(&vec![left; Changes::MAX + 5]);
        let others = format!("and {} more were not written", Changes::MAX + 5 - MAX_NAMED);
        assert_eq!(described.lines().last(), Some(&*others));
    }

    #[test]
    fn a_failed_dial_names_its_address_once() {
        let id = NodeId::from_bytes([7; 32]);
        let address: Address = "192.0.2.7:7117".parse().unwrap();
        assert_eq!(dialled(&address), "192.0.2.7:7117");
        assert_eq!(dialled(&address.with_id(id)), "07070707 at 192.0.2.7:7117");
    }

    #[tokio::test]
    async fn a_wrong_clock_is_reported_with_advice() {
        let node = Node::builder().spawn().await.unwrap();
        let peer = Peer::without_link(NodeId::from_bytes([7; 32]), "bob\u{202e}".into());
        let described =
            |seconds| failure(Paint::none(), &Event::NodeClockSkew { peer: peer.clone(), seconds });
        let (ahead, behind) = (described(300).unwrap(), described(-900).unwrap());
        assert!(ahead.starts_with("! the clock of bob\\u{202e}"), "{ahead}");
        assert!(ahead.contains("is 5 min 0 s ahead of this node's"), "{ahead}");
        assert!(behind.contains("is 15 min 0 s behind this node's"), "{behind}");
        assert!(behind.ends_with("Correct it, or broadcasts get lost"), "{behind}");
        node.shutdown().await;
    }

    #[test]
    fn closed_links_of_a_stopping_node_are_not_reported() {
        let link_end = |reason, by_peer| LinkEnd { reason, by_peer };
        assert!(is_ended_by_this_node(&link_end(Reason::Stopping, false)));
        assert!(is_ended_by_this_node(&link_end(Reason::Left, false)));
        assert!(!is_ended_by_this_node(&link_end(Reason::Stopping, true)), "the peer stops");
        assert!(!is_ended_by_this_node(&link_end(Reason::Requested, false)));
    }
}
