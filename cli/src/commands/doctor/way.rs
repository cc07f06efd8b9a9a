//! The checks of the way to another node.
//!
//! 1. The text is looked up: it becomes the addresses of the node, and host names become IP addresses.
//! 2. A temporary node dials all of them at once, as far as the proof of the identity of the node there.
//! 3. It links to the node at the best of them: the Hellos show the network, secret, version, limits and
//!    clock.

use std::collections::BTreeSet;
use std::io;

use futures_util::future::join_all;
use peerkit::{Address, Error, Reason};

use super::visitor::{PATIENCE, Visitor};
use super::{Check, CheckName, Diagnosis, own};
use crate::address::parse_address;
use crate::progress::ProgressSink;
use crate::session::NodeSession;
use crate::text::label;
use crate::usage;
use dials::{DialAttempt, best, identity_checks};
use hello::{OwnSide, findings_checks, is_open};

mod dials;
mod hello;

/// Maximum number of IP addresses that are dialled. 8: as many as for any node with several addresses.
const MAX_DIALS: usize = 8;

/// Checks the way from this machine to the node that a text names. `session` is the running node, if there
/// is one.
pub(super) async fn examine(
    session: Option<&NodeSession>,
    text: &str,
    progress: &ProgressSink,
) -> anyhow::Result<Diagnosis> {
    let mut step = progress.steps(3);
    let mut checks = Vec::new();
    step("looking up the name");
    let addresses = match look_up(session, text).await? {
        Ok(addresses) => addresses,
        Err(check) => return Ok(Diagnosis::new(vec![check], "")),
    };
    let (targets, check) = resolve(&addresses).await;
    checks.extend(check);
    if targets.is_empty() {
        return Ok(Diagnosis::new(checks, ""));
    }

    step("dialling");
    let own_side = OwnSide::of(session)?;
    let visitor = Visitor::start(&own_side.network, own_side.secret.as_deref()).await?;
    let dials = targets.into_iter().map(|address| {
        let visitor = &visitor;
        async move { DialAttempt { outcome: visitor.identify(&address).await, address } }
    });
    let dials = join_all(dials).await;
    checks.extend(identity_checks(&dials, session.map(|session| session.node.id())));
    let Some((address, id)) = best(&dials).and_then(DialAttempt::identified) else {
        visitor.stop().await;
        return Ok(Diagnosis::new(checks, ""));
    };
    let mut all_well = String::new();
    if checks.iter().all(|check| check.ok) {
        step("saying Hello");
        let address = address.clone().with_id(id);
        let linked = visitor.link(&address).await;
        let is_linked = session.is_some_and(|session| session.node.peer(id).is_some());
        let without_secret = match &linked {
            Err(Error::Refused { reason: Reason::WrongSecret, .. })
                if own_side.secret.is_some() =>
            {
                is_open(&own_side.network, &address).await
            }
            _ => false,
        };
        let shown = address.clone().without_id();
        checks.extend(match &linked {
            Ok(findings) => findings_checks(&own_side, session, findings).await,
            Err(error) => vec![own_side.refusal(&shown, error, without_secret, is_linked)],
        });
        let name = linked.map(|findings| findings.name).unwrap_or_default();
        let link = if is_linked { ", and this node is linked to it" } else { "" };
        all_well =
            format!("nothing is wrong: {} can be reached at {shown}{link}", label(&id, &name));
    }
    visitor.stop().await;
    if let Some(session) = session {
        checks.extend(own::last_failures(session, &addresses));
    }
    Ok(Diagnosis::new(checks, all_well))
}

/// Returns the addresses that a text stands for, or the check that has failed.
///
/// # Errors
/// If the node can't look them up at all.
async fn look_up(
    session: Option<&NodeSession>,
    text: &str,
) -> anyhow::Result<Result<Vec<Address>, Check>> {
    let Some(session) = session else {
        return Ok(Ok(vec![parse_address(text).map_err(usage)?]));
    };
    let found = tokio::time::timeout(PATIENCE, session.node.network().find_addresses(text)).await;
    let error = match found {
        Ok(Ok(addresses)) => return Ok(Ok(addresses)),
        Ok(Err(Error::ThisNode)) => {
            let check = Check::failed(
                CheckName::OwnAddress,
                format!("`{text}` is this node itself"),
                "name the node on the other machine",
            );
            return Ok(Err(check));
        }
        Ok(Err(
            error @ (Error::NotFound(_)
            | Error::NoAddress
            | Error::UnknownNode(_)
            | Error::AmbiguousPeer(_)),
        )) => error.to_string(),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => format!("no node of the network has named an address of `{text}` in time"),
    };
    let remedy = "use the address that the node on the other machine prints when it starts";
    Ok(Err(Check::failed(CheckName::Name, error, remedy)))
}

/// Returns the IP addresses that the addresses lead to, and the check of the host names, if there are some.
async fn resolve(addresses: &[Address]) -> (Vec<Address>, Option<Check>) {
    let lookups = addresses.iter().take(MAX_DIALS).map(|address| async move {
        let lookup = tokio::net::lookup_host((address.host.as_str(), address.port));
        let found = tokio::time::timeout(PATIENCE, lookup).await;
        let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        (address, found.map(|sockets| sockets.collect::<BTreeSet<_>>()))
    });
    let (mut targets, mut found_hosts, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for (address, found) in join_all(lookups).await {
        let is_name = address.socket().is_none();
        match found {
            Ok(sockets) if sockets.is_empty() => failures.push(format!("`{}`", address.host)),
            Ok(sockets) => {
                let ips: Vec<_> = sockets.iter().map(|socket| socket.ip().to_string()).collect();
                if is_name {
                    found_hosts.push(format!("{} is {}", address.host, ips.join(" and ")));
                }
                match sockets.len() {
                    // The text of the host may name an interface, as in `fe80::1%eth0`. The socket address has
                    // only its number.
                    1 => targets.push(address.clone()),
                    _ => {
                        let at =
                            |socket| Address { id: address.id, ..Address::from_socket(socket) };
                        targets.extend(sockets.into_iter().map(at));
                    }
                }
            }
            Err(error) => failures.push(format!("`{}` ({error})", address.host)),
        }
    }
    targets.truncate(MAX_DIALS);
    let check = if targets.is_empty() {
        Some(Check::failed(
            CheckName::Name,
            format!("this machine can't find the host {}", failures.join(", ")),
            "on this machine, check the spelling and the name server, or use the IP address of the other \
             machine",
        ))
    } else {
        let hosts = found_hosts.join(", ");
        (!hosts.is_empty()).then(|| Check::passed(CheckName::Name, hosts))
    };
    (targets, check)
}
