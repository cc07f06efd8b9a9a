//! The dials of a node's addresses, with the checks of port, encryption and identity.

use std::io;

use peerkit::{Address, DEFAULT_PORT, Error, NodeId, TlsFailure};

use super::super::visitor::PATIENCE;
use super::super::{Check, CheckName};

/// Advice for the address of a server that is not a node.
const USE_ITS_PORT: &str =
    "use the address and port that the node on the other machine prints when it starts";

/// The dial of one address.
pub(super) struct DialAttempt {
    /// The address, with the identity that is expected there.
    pub(super) address: Address,
    /// The identity of the node that has answered.
    pub(super) outcome: Result<NodeId, Error>,
}

impl DialAttempt {
    /// Returns the address and the identity of the node there, if there is a node.
    pub(super) fn identified(&self) -> Option<(&Address, NodeId)> {
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
pub(super) fn best(dials: &[DialAttempt]) -> Option<&DialAttempt> {
    dials.iter().rev().max_by_key(|dial| dial.rank())
}

/// Returns the checks of port, encryption and identity. `own` is the identity of the running node.
pub(super) fn identity_checks(dials: &[DialAttempt], own: Option<NodeId>) -> Vec<Check> {
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
}
