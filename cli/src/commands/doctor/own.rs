//! The checks of this node: does it run as it has to, so that others can reach it?

use std::net::SocketAddr;

use peerkit::{Address, Event, Status};

use super::visitor::Visitor;
use super::{Check, CheckName, Diagnosis, reach};
use crate::address::seen_from_here;
use crate::human::status::clock_difference;
use crate::progress::ProgressSink;
use crate::session::NodeSession;
use crate::start::DialableFrom;
use crate::text::count;
use crate::views::without_ids;

/// Maximum number of failures that are listed.
const MAX_FAILURES: usize = 3;

/// Checks the running node.
pub(super) async fn examine(
    session: &NodeSession,
    progress: &ProgressSink,
) -> anyhow::Result<Diagnosis> {
    let mut step = progress.steps(2);
    step("dialling this node");
    let listening = listening(session).await?;
    step("looking at this node");
    let status = session.node.status().await;
    let max_inbound = session.node.max_inbound().await?;
    let port = session.node.listening().first().map(SocketAddr::port);
    let mut checks = vec![listening, limits(&status, max_inbound), addresses(&status.addresses)];
    checks.extend(reach::checks(&status, port));
    checks.extend([clock(&status), membership(&status), failures(&status, failed_links(session))]);
    let all_well = format!(
        "nothing is wrong with this node, as far as it can see: on the other machine, `peerkit doctor {}` \
         checks the way to it",
        without_ids(status.addresses).into_iter().next().unwrap_or_default()
    );
    Ok(Diagnosis::new(checks, all_well))
}

/// Returns the last failures to link to one of these addresses, if this node is not linked to any node there.
pub(super) fn last_failures(session: &NodeSession, addresses: &[Address]) -> Option<Check> {
    let is_same = |failure: &FailedLink| {
        let dialled = failure.address.parse::<Address>().ok();
        let is_there = |known: &Address| {
            dialled.as_ref().is_some_and(|at| (&at.host, at.port) == (&known.host, known.port))
        };
        addresses.iter().any(is_there)
    };
    let last = failed_links(session).into_iter().rfind(is_same)?;
    Some(Check::passed(CheckName::Failures, format!("the last failure there: {}", last.error)))
}

/// Checks that this node answers at the port on which it listens.
async fn listening(session: &NodeSession) -> anyhow::Result<Check> {
    let Some(socket) = session.node.listening().first().copied() else {
        return Ok(Check::failed(
            CheckName::Listening,
            "this node listens on no port",
            "on this machine, start it without options that keep it from listening",
        ));
    };
    let at = Address::from_socket(seen_from_here(socket));
    let visitor = Visitor::start(session.node.network().name(), None).await?;
    let found = visitor.identify(&at).await;
    visitor.stop().await;
    Ok(match found {
        Ok(id) if id == session.node.id() => {
            Check::passed(CheckName::Listening, format!("it listens on {socket}, and answers"))
        }
        Ok(id) => Check::failed(
            CheckName::Listening,
            format!("another node answers at the port of this one, {socket}: {id}"),
            "on this machine, start this node with another --listen PORT",
        ),
        Err(error) => Check::failed(
            CheckName::Listening,
            format!("this node does not answer at its own port: {error}"),
            "on this machine, check whether the node is overloaded or out of file descriptors, or restart \
             it",
        ),
    })
}

fn addresses(addresses: &[Address]) -> Check {
    if addresses.is_empty() {
        return Check::failed(
            CheckName::Addresses,
            "this node has no address at which other nodes could dial it",
            "connect this machine to a network, or add an address with --announce ADDR",
        );
    }
    let listed = without_ids(addresses.iter().cloned()).join(", ");
    match DialableFrom::of(addresses) {
        DialableFrom::AnyMachine => {
            Check::passed(CheckName::Addresses, format!("it announces {listed}"))
        }
        DialableFrom::ThisMachineOnly => Check::failed(
            CheckName::Addresses,
            format!("only this machine can dial this node, at {listed}"),
            "on this machine, start it without --listen, or add an address with --announce ADDR",
        ),
    }
}

fn limits(status: &Status, max: usize) -> Check {
    let inbound = status.inbound;
    if max == 0 {
        return Check::failed(
            CheckName::Limits,
            "this node accepts no inbound links",
            "on this machine, raise the limit: `set max-inbound N`",
        );
    }
    if inbound >= max {
        return Check::failed(
            CheckName::Limits,
            format!("this node has {inbound} of at most {max} inbound links, so it refuses others"),
            "on this machine, raise the limit with `set max-inbound N`, or disconnect a peer",
        );
    }
    let (handshakes, max_handshakes) = (status.handshakes, status.max_handshakes);
    if handshakes >= max_handshakes {
        return Check::failed(
            CheckName::Limits,
            format!(
                "this node has {handshakes} handshakes under way, which is the maximum, so each new one \
                 ends another"
            ),
            "on this machine, find out which machines connect to its port, and keep them out with the \
             firewall",
        );
    }
    Check::passed(
        CheckName::Limits,
        format!(
            "{inbound} of at most {max} inbound links, {handshakes} of at most {max_handshakes} handshakes"
        ),
    )
}

fn clock(status: &Status) -> Check {
    let peers = status.peers.len();
    if status.clocks_apart == 0 {
        let detail = if peers == 0 {
            "no peer has a clock to compare with".to_owned()
        } else {
            format!("it agrees with {}", count(peers, "peer"))
        };
        return Check::passed(CheckName::Clock, detail);
    }
    let difference = clock_difference(status.clock_skew_seconds);
    let detail = format!(
        "{} of {} have another clock: one is {difference}, so broadcasts are lost",
        status.clocks_apart,
        count(peers, "peer"),
    );
    let remedy = if status.clocks_apart > peers / 2 && peers > 1 {
        "set the clock of this machine"
    } else {
        "set the clock of the machine where it is wrong: `status` and `events` name the peers"
    };
    Check::failed(CheckName::Clock, detail, remedy)
}

fn membership(status: &Status) -> Check {
    let name = CheckName::Membership;
    if status.manual {
        return Check::passed(name, "links are made by hand (--manual), so it joins no network");
    }
    if !status.member {
        return Check::passed(name, "it is in no network yet")
            .with_advice("`join ADDR` joins the network of another node");
    }
    match status.neighbours.len() {
        0 if status.passive > 0 => Check::failed(
            name,
            format!(
                "this node has lost all neighbours, and none of the {} that it knows answers",
                count(status.passive, "node")
            ),
            "on this machine, check the network, then `join ADDR`",
        ),
        0 => Check::passed(name, "it is alone in its network"),
        neighbours => Check::passed(name, format!("it has {}", count(neighbours, "neighbour"))),
    }
}

/// A link that could not be made.
#[derive(Debug)]
struct FailedLink {
    address: String,
    error: String,
    /// True if this node has dialled.
    is_outbound: bool,
}

/// Returns the links of the last events that could not be made, the oldest first.
fn failed_links(session: &NodeSession) -> Vec<FailedLink> {
    session.event_log.recent().iter().filter_map(|logged| failed_link(&logged.event)).collect()
}

fn failed_link(event: &Event) -> Option<FailedLink> {
    let (address, error, is_outbound) = match event {
        Event::OutboundNodeConnectionError { address, error } => (address, error, true),
        Event::InboundNodeConnectionError { address, error, .. } => (address, error, false),
        _ => return None,
    };
    Some(FailedLink { address: address.to_string(), error: error.clone(), is_outbound })
}

/// Returns the check of the last failures. They matter only if this node has no link at all.
fn failures(status: &Status, failed: Vec<FailedLink>) -> Check {
    let name = CheckName::Failures;
    let describe = |failure: &FailedLink| {
        let way = if failure.is_outbound { "to" } else { "from" };
        format!("{way} {}: {}", failure.address, failure.error)
    };
    let Some(last) = failed.last() else { return Check::passed(name, "no link has failed") };
    if status.peers.is_empty() {
        let remedy = if last.is_outbound {
            format!("on this machine, `doctor {}` checks the way to that node", last.address)
        } else {
            "on the other machine, `peerkit doctor ADDR` checks the way to this node".to_owned()
        };
        let detail = format!("this node has no link, and the last one failed {}", describe(last));
        return Check::failed(name, detail, remedy);
    }
    let listed: Vec<String> = failed.iter().rev().take(MAX_FAILURES).map(describe).collect();
    Check::passed(name, format!("the last links that failed: {}", listed.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the status of a new node that is changed by `change`.
    async fn status(change: impl FnOnce(&mut Status)) -> Status {
        let node = peerkit::Node::builder().listen("127.0.0.1:0").spawn().await.unwrap();
        let mut status = node.status().await;
        node.shutdown().await;
        change(&mut status);
        status
    }

    #[tokio::test]
    async fn reached_limits_are_named() {
        assert!(limits(&status(|_| {}).await, 1).ok);
        let none = limits(&status(|_| {}).await, 0);
        assert!(!none.ok && none.detail.contains("accepts no inbound links"), "{none:?}");
        let full = limits(&status(|status| status.inbound = 20).await, 20);
        assert!(!full.ok && full.detail.contains("20 of at most 20"), "{full:?}");
        let busy = limits(&status(|status| status.handshakes = status.max_handshakes).await, 1);
        assert!(!busy.ok && busy.detail.contains("64 handshakes"), "{busy:?}");
    }

    #[tokio::test]
    async fn a_clock_apart_and_lost_neighbours_are_faults() {
        let apart = clock(
            &status(|status| (status.clocks_apart, status.clock_skew_seconds) = (1, 7200)).await,
        );
        assert!(!apart.ok && apart.detail.contains("2 h 0 min ahead"), "{apart:?}");
        let lost = membership(&status(|status| (status.member, status.passive) = (true, 3)).await);
        assert!(!lost.ok && lost.detail.contains("3 nodes"), "{lost:?}");
        let first = membership(&status(|_| {}).await);
        assert!(first.ok && first.remedy.is_some(), "the first node of a network: {first:?}");
    }

    #[tokio::test]
    async fn failures_matter_to_a_node_without_links() {
        let (address, error) = ("a:1".parse().unwrap(), "refused".into());
        let failed = failed_link(&Event::OutboundNodeConnectionError { address, error }).unwrap();
        assert!(failed.is_outbound);
        assert!(failed_link(&Event::NodeLagged { missed: 1 }).is_none());
        let check = failures(&status(|_| {}).await, vec![failed]);
        assert!(!check.ok && check.detail.ends_with("to a:1: refused"), "{check:?}");
    }

    #[test]
    fn only_this_machine_dials_loopback() {
        let check = addresses(&["127.0.0.1:7".parse().unwrap()]);
        assert!(!check.ok && check.detail.contains("only this machine"), "{check:?}");
        assert!(addresses(&["192.0.2.1:7".parse().unwrap()]).ok);
        assert!(!addresses(&[]).ok);
    }
}
