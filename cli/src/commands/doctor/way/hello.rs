//! The exchange of Hellos with a node, with the checks of network, secret, version, limits and clock.

use std::time::SystemTime;

use peerkit::{Address, Error, Reason, VersionGap, Versions};

use super::super::visitor::{Findings, Visitor};
use super::super::{Check, CheckName};
use crate::environment;
use crate::human::status::clock_difference;
use crate::session::NodeSession;
use crate::start::DEFAULT_NETWORK;

/// What this node says of itself to the visited node.
pub(super) struct OwnSide {
    pub(super) network: String,
    pub(super) secret: Option<String>,
    /// True if a node runs on this state folder. The advice depends on it.
    is_running: bool,
}

impl OwnSide {
    pub(super) fn of(session: Option<&NodeSession>) -> anyhow::Result<Self> {
        // If no node runs here, the visitor is like one of `peerkit run`.
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
    pub(super) fn refusal(
        &self,
        at: &Address,
        error: &Error,
        is_open: bool,
        is_linked: bool,
    ) -> Check {
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

/// Returns the checks that a link has passed, and the check of the clocks.
pub(super) async fn findings_checks(
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

/// Returns whether the node at an address accepts a link without a secret.
pub(super) async fn is_open(network: &str, address: &Address) -> bool {
    let Ok(visitor) = Visitor::start(network, None).await else { return false };
    let linked = visitor.link(address).await;
    visitor.stop().await;
    // Room is looked at after the secret.
    matches!(
        linked,
        Ok(_) | Err(Error::Refused { reason: Reason::Full | Reason::FullForAddress, .. })
    )
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
