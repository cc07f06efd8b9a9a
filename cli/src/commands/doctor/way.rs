//! The checks of the way to another node.
//!
//! 1. The text is looked up: it becomes the addresses of the node, and host names become IP addresses.
//! 2. A temporary node dials all of them at once, as far as the proof of the identity of the node there.
//! 3. It links to the node at the best of them: the Hellos show the network, secret, version, limits and
//!    clock.

use std::collections::BTreeSet;
use std::io;
use std::time::SystemTime;

use futures_util::future::join_all;
use peerkit::{Address, DEFAULT_PORT, Error, NodeId, Reason, TlsFailure, VersionGap, Versions};

use super::visitor::{Findings, PATIENCE, Visitor};
use super::{Check, CheckName, Diagnosis, own};
use crate::address::parse_address;
use crate::human::status::clock_difference;
use crate::progress::ProgressSink;
use crate::session::NodeSession;
use crate::text::label;
use crate::{environment, usage};

/// Maximum number of IP addresses that are dialled. 8: as many as for any node with several addresses.
const MAX_DIALS: usize = 8;

/// The network of the visit if no node runs here: the default of `peerkit run`.
const DEFAULT_NETWORK: &str = "peerkit";

/// Advice for the address of a server that is not a node.
const USE_ITS_PORT: &str =
    "use the address and port that the node on the other machine prints when it starts";

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

/// What this node says of itself to the visited node.
struct OwnSide {
    network: String,
    secret: Option<String>,
    /// True if a node runs on this state folder. The advice depends on it.
    is_running: bool,
}

impl OwnSide {
    fn of(session: Option<&NodeSession>) -> anyhow::Result<Self> {
        let network = session.map_or(DEFAULT_NETWORK, |session| session.node.network().name());
        Ok(Self {
            network: network.to_owned(),
            secret: environment::secret()?,
            is_running: session.is_some(),
        })
    }

    /// Returns the check that describes why the exchange of Hellos was refused or broken off. It is passed if
    /// the node there is only full of links, and this node has one of them. `is_open` is true if the node
    /// there has no secret.
    fn refusal(&self, at: &Address, error: &Error, is_open: bool, is_linked: bool) -> Check {
        let Error::Refused { reason, .. } = error else {
            return Check::failed(
                CheckName::Hello,
                format!("the node at {at} answered once, and then no more: {error}"),
                "try again; if this stays so, the node on the other machine has too many connections, or \
                 has stopped",
            );
        };
        match reason {
            Reason::OtherNetwork => self.other_network(at),
            Reason::WrongSecret => self.wrong_secret(at, is_open),
            Reason::Version(gap) => version_gap(at, *gap),
            Reason::Full | Reason::FullForAddress if is_linked => Check::passed(
                CheckName::Limits,
                format!("the node at {at} is full, but this node is linked to it already"),
            ),
            Reason::Full => Check::failed(
                CheckName::Limits,
                format!("the node at {at} has as many inbound links as it accepts"),
                "on the other machine, raise the limit with `set max-inbound N`, or join through another \
                 node of the network",
            ),
            Reason::FullForAddress => Check::failed(
                CheckName::Limits,
                format!("the node at {at} has as many links from this IP address as it accepts"),
                "on this machine or behind its router, stop other nodes, or join through another node \
                 of the network",
            ),
            Reason::HandshakeTimeout | Reason::Silent(_) => Check::failed(
                CheckName::Hello,
                format!("the node at {at} does not answer the Hello"),
                "on the other machine, check whether the node or the machine is overloaded, or restart \
                 the node",
            ),
            reason => Check::failed(
                CheckName::Hello,
                format!("the node at {at} has ended the link: {reason}"),
                "try again; if this stays so, look at the events of the node on the other machine",
            ),
        }
    }

    fn other_network(&self, at: &Address) -> Check {
        let network = &self.network;
        let detail = format!("the node at {at} is not in the network `{network}`");
        let remedy = if self.is_running {
            "start the nodes on both machines with the same --network"
        } else {
            "on this machine, start the node with the --network of the other one; if one runs here, \
             select it with --state DIR"
        };
        Check::failed(CheckName::Network, detail, remedy)
    }

    fn wrong_secret(&self, at: &Address, is_open: bool) -> Check {
        let (detail, remedy) = match (&self.secret, is_open) {
            (None, _) => (
                format!("the network of the node at {at} has a secret, and this machine gave none"),
                "on this machine, start the node with the PEERKIT_SECRET of the other machine",
            ),
            (Some(_), true) => (
                format!("this machine has a secret, and the network of the node at {at} has none"),
                "on the other machine, start the node with the PEERKIT_SECRET of this one, or on this \
                 machine without it",
            ),
            (Some(_), false) => (
                format!("the node at {at} has another secret than this machine"),
                "start the nodes on both machines with the same PEERKIT_SECRET",
            ),
        };
        Check::failed(CheckName::Secret, detail, remedy)
    }
}

/// Returns whether the node at an address accepts a link without a secret.
async fn is_open(network: &str, address: &Address) -> bool {
    let Ok(visitor) = Visitor::start(network, None).await else { return false };
    let linked = visitor.link(address).await;
    visitor.stop().await;
    // Room is looked at after the secret.
    matches!(
        linked,
        Ok(_) | Err(Error::Refused { reason: Reason::Full | Reason::FullForAddress, .. })
    )
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

/// The dial of one address.
struct DialAttempt {
    /// The address, with the identity that is expected there.
    address: Address,
    /// The identity of the node that has answered.
    outcome: Result<NodeId, Error>,
}

impl DialAttempt {
    /// Returns the address and the identity of the node there, if there is a node.
    fn identified(&self) -> Option<(&Address, NodeId)> {
        self.outcome.as_ref().ok().map(|id| (&self.address, *id))
    }

    fn is_connected(&self) -> bool {
        matches!(self.outcome, Ok(_) | Err(Error::Handshake { .. }))
    }

    /// Returns how far the dial came, so that the highest rank is the best.
    fn rank(&self) -> u8 {
        match &self.outcome {
            Ok(id) if self.address.id.is_none_or(|expected| expected == *id) => 3,
            Ok(_) => 2,
            Err(_) => u8::from(self.is_connected()),
        }
    }
}

/// Returns the first of the dials that came farthest.
fn best(dials: &[DialAttempt]) -> Option<&DialAttempt> {
    dials.iter().rev().max_by_key(|dial| dial.rank())
}

/// Returns the checks of port, encryption and identity. `own` is the identity of the running node.
fn identity_checks(dials: &[DialAttempt], own: Option<NodeId>) -> Vec<Check> {
    let Some(dial) = best(dials) else { return Vec::new() };
    let at = dial.address.clone().without_id();
    let mut checks = vec![port_check(dials)];
    match &dial.outcome {
        Err(error) => checks.extend(tls_check(&at, error)),
        Ok(found) => {
            checks.push(Check::passed(CheckName::Tls, "TLS 1.3 with the key of a node"));
            let expected = dial.address.id.filter(|expected| expected != found);
            checks.push(match expected {
                _ if own == Some(*found) => Check::failed(
                    CheckName::OwnAddress,
                    format!("{at} leads to this node itself"),
                    "use the address that the node on the other machine prints; if it was started with a \
                     copy of this state folder, give it a folder of its own with --state DIR",
                ),
                Some(expected) => Check::failed(
                    CheckName::Identity,
                    format!("the node at {at} is {found}, and not {expected}"),
                    "on the other machine, compare the identity with that of `peerkit id`, and use the \
                     address that the node there prints",
                ),
                None => Check::passed(CheckName::Identity, format!("the node is {found}")),
            });
        }
    }
    checks
}

/// Returns the check whether a program accepts connections at one of the addresses.
fn port_check(dials: &[DialAttempt]) -> Check {
    let kind = |dial: &DialAttempt| match &dial.outcome {
        Err(Error::Connect { error, .. }) => Some(error.kind()),
        _ => None,
    };
    let describe = |dial: &DialAttempt| {
        let at = dial.address.clone().without_id();
        match (&dial.outcome, kind(dial)) {
            _ if dial.is_connected() => format!("{at} accepts connections"),
            (_, Some(io::ErrorKind::ConnectionRefused)) => {
                format!("{at} refuses connections, so no program listens on that port")
            }
            (_, Some(io::ErrorKind::TimedOut)) => {
                format!("{at} is silent: no answer within {} s", PATIENCE.as_secs())
            }
            (_, Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)) => {
                format!("{at} is unreachable: this machine has no way to it")
            }
            (Err(Error::Connect { error, .. }), _) => format!("{at} can't be dialled: {error}"),
            (Err(error), _) => error.to_string(),
            (Ok(_), _) => String::new(),
        }
    };
    let detail = dials.iter().map(describe).collect::<Vec<_>>().join("; ");
    let has = |wanted| dials.iter().any(|dial| kind(dial) == Some(wanted));
    let remedy = if dials.iter().any(DialAttempt::is_connected) {
        return Check::passed(CheckName::Port, detail);
    } else if has(io::ErrorKind::ConnectionRefused) {
        "on the other machine, start the node with `peerkit run`, and use the address that it prints"
            .to_owned()
    } else if has(io::ErrorKind::TimedOut) {
        let port = dials.first().map_or(DEFAULT_PORT, |dial| dial.address.port);
        format!(
            "on the other machine, check that it is on, and let TCP port {port} through its firewall and \
             router"
        )
    } else {
        "on this machine, check the network and the address, or use another address of the node"
            .to_owned()
    };
    Check::failed(CheckName::Port, detail, remedy)
}

/// Returns the check of a failed handshake of TLS; `None` for other errors.
fn tls_check(at: &Address, error: &Error) -> Option<Check> {
    let (detail, remedy) = match error.tls_failure()? {
        TlsFailure::Silent => (
            format!("the program at {at} accepts connections and then says nothing"),
            "on the other machine, check which program listens on that port, and restart it if it is \
             the node",
        ),
        TlsFailure::NotTls => (
            format!("the program at {at} does not speak TLS, so it is not a peerkit node"),
            USE_ITS_PORT,
        ),
        TlsFailure::NotANode => {
            (format!("the server at {at} speaks TLS, but is not a peerkit node"), USE_ITS_PORT)
        }
        _ => (
            format!("the program at {at} closes connections during the handshake"),
            "on the other machine, check that this program is the node; it may have too many handshakes \
             under way, so try again",
        ),
    };
    Some(Check::failed(CheckName::Tls, detail, remedy))
}

/// Returns the checks that a link has passed, and the check of the clocks.
async fn findings_checks(
    own_side: &OwnSide,
    session: Option<&NodeSession>,
    findings: &Findings,
) -> Vec<Check> {
    let version = findings.version.map_or_else(
        || "a common version".to_owned(),
        |version| format!("the link speaks version {version}"),
    );
    let secret = if own_side.secret.is_some() { "both have the same" } else { "neither has one" };
    let own_is_right = match session {
        // The clock of this machine agrees with those of its peers, except perhaps one: the visited node may be
        // that peer. So the visited node's clock is the wrong one.
        Some(session) => {
            let status = session.node.status().await;
            // `clocks_apart` is a number of peers.
            status.peers.len() > 1 && status.clocks_apart <= 1
        }
        None => false,
    };
    vec![
        Check::passed(CheckName::Version, version),
        Check::passed(CheckName::Network, format!("both are in `{}`", own_side.network)),
        Check::passed(CheckName::Secret, secret),
        Check::passed(CheckName::Limits, "it has accepted a link"),
        clock_check(findings.clock_skew, own_is_right),
    ]
}

/// Returns the check of the clock of a node that is `skew` seconds ahead. `own_is_right` is true if the
/// clock of this machine agrees with those of other nodes.
fn clock_check(skew: i64, own_is_right: bool) -> Check {
    if skew == 0 {
        return Check::passed(CheckName::Clock, "the clocks of the two machines agree");
    }
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let detail = format!("the clock of the other machine is {}", clock_difference(skew));
    let remedy = if own_is_right {
        "set the clock of the other machine, as the clock of this one agrees with those of other nodes"
            .to_owned()
    } else {
        format!("set the clock of the machine where it is wrong; on this one it is {now}")
    };
    Check::failed(CheckName::Clock, format!("{detail}, so broadcasts are lost"), remedy)
}

/// Returns the check of two nodes that have no version in common.
fn version_gap(at: &Address, gap: Option<VersionGap>) -> Check {
    let ours = Versions::OURS;
    // Nodes of version 1 do not name their versions.
    let theirs = gap.map(|gap| if gap.refusing == ours { gap.refused } else { gap.refusing });
    let is_newer = theirs.is_some_and(|theirs| theirs.min > ours.max);
    let speaks = theirs.map_or_else(
        || "speaks no version of the protocol that this peerkit knows".to_owned(),
        |theirs| format!("speaks versions {theirs} of the protocol, and this peerkit {ours}"),
    );
    let machine = if is_newer { "this" } else { "the other" };
    let remedy = format!("on {machine} machine, install a newer peerkit");
    Check::failed(CheckName::Version, format!("the node at {at} {speaks}"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Address {
        "192.0.2.1:7".parse().unwrap()
    }

    fn dial(kind: io::ErrorKind) -> DialAttempt {
        let outcome = Err(Error::Connect { address: at(), error: kind.into() });
        DialAttempt { address: at(), outcome }
    }

    #[test]
    fn refusal_silence_and_no_way_are_told_apart() {
        for (kind, detail, remedy) in [
            (io::ErrorKind::ConnectionRefused, "refuses connections", "peerkit run"),
            (io::ErrorKind::TimedOut, "is silent", "firewall"),
            (io::ErrorKind::NetworkUnreachable, "is unreachable", "on this machine"),
            (io::ErrorKind::InvalidInput, "can't be dialled", "another address"),
        ] {
            let check = port_check(&[dial(kind)]);
            assert!(!check.ok && check.detail.contains(detail), "{check:?}");
            assert!(check.remedy.unwrap().contains(remedy));
        }
        // A machine that refuses is there, which says more than the silence of another address.
        let both = [dial(io::ErrorKind::TimedOut), dial(io::ErrorKind::ConnectionRefused)];
        assert!(port_check(&both).remedy.unwrap().contains("peerkit run"));
    }

    #[test]
    fn one_address_that_answers_is_enough() {
        let id = NodeId::from_bytes([3; 32]);
        let address = at().with_id(id);
        let found = |id| DialAttempt { address: address.clone(), outcome: Ok(id) };
        let other = NodeId::from_bytes([4; 32]);
        let dials = [dial(io::ErrorKind::TimedOut), found(other), found(id)];
        let checks = identity_checks(&dials, None);
        assert!(checks.iter().all(|check| check.ok), "{checks:?}");
        assert!(checks[0].detail.contains("is silent") && checks[0].detail.contains("accepts"));
        let failed = identity_checks(&dials[..2], None).pop().unwrap();
        assert_eq!((failed.name, failed.ok), (CheckName::Identity, false));
        let own = identity_checks(&dials, Some(id)).pop().unwrap();
        assert_eq!((own.name, own.ok), (CheckName::OwnAddress, false));
    }

    #[test]
    fn the_older_peerkit_is_to_be_replaced() {
        let range = |text: &str| text.parse::<Versions>().unwrap();
        let ours = Versions::OURS;
        for (gap, machine) in [
            (Some(VersionGap { refusing: range("8-9"), refused: ours }), "on this machine"),
            (Some(VersionGap { refusing: ours, refused: range("8-9") }), "on this machine"),
            (Some(VersionGap { refusing: range("0-0"), refused: ours }), "on the other machine"),
            (None, "on the other machine"),
        ] {
            let error = Error::Refused { address: at(), reason: Reason::Version(gap) };
            let own_side = OwnSide { network: "net".into(), secret: None, is_running: true };
            let check = own_side.refusal(&at(), &error, false, false);
            assert_eq!((check.name, check.ok), (CheckName::Version, false));
            assert!(check.remedy.as_ref().unwrap().contains(machine), "{check:?}");
        }
    }

    #[test]
    fn a_clock_that_is_far_off_is_named_with_its_machine() {
        assert!(clock_check(0, false).ok);
        let unknown = clock_check(7200, false);
        assert_eq!((unknown.name, unknown.ok), (CheckName::Clock, false));
        assert!(unknown.detail.contains("2 h 0 min ahead of"), "{unknown:?}");
        let theirs = clock_check(-7200, true);
        assert!(theirs.detail.contains("behind") && theirs.remedy.unwrap().contains("the other"));
    }

    #[test]
    fn a_full_node_is_no_fault_if_there_is_a_link() {
        let own_side = OwnSide { network: "net".into(), secret: None, is_running: true };
        let full = Error::Refused { address: at(), reason: Reason::Full };
        assert!(own_side.refusal(&at(), &full, false, true).ok);
        let check = own_side.refusal(&at(), &full, false, false);
        assert_eq!((check.name, check.ok), (CheckName::Limits, false));
    }
}
