//! Circuits: the connections that a node relays between two others.

use crate::address::Scheme;

/// Maximum number of connections that a node relays. 16: as in libp2p.
pub const MAX_CIRCUITS: usize = 16;

/// The reason why a node does not relay a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CircuitRefusal {
    /// It relays as many connections as it may.
    #[error("the relay has no room")]
    Busy,
    /// It has no link with the node that is asked for, or only a relayed one.
    #[error("the relay has no link with the node")]
    NoLink,
    /// The node that is asked for does not answer.
    #[error("the relay does not reach the node")]
    NotReached,
}

/// Decides whether a node that relays `open` connections relays one more, to a node with which it has a link over
/// `link`.
///
/// # Errors
/// The reason for the refusal.
pub fn check(open: usize, link: Option<Scheme>) -> Result<(), CircuitRefusal> {
    if open >= MAX_CIRCUITS {
        return Err(CircuitRefusal::Busy);
    }
    // A relay of a relay would double the way, and hide its beginning from the first.
    match link {
        Some(Scheme::Tcp | Scheme::Quic) => Ok(()),
        Some(Scheme::Relay) | None => Err(CircuitRefusal::NoLink),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_relays_a_limited_number_of_connections_to_its_peers() {
        assert_eq!(check(MAX_CIRCUITS - 1, Some(Scheme::Tcp)), Ok(()));
        assert_eq!(check(0, Some(Scheme::Quic)), Ok(()));
        assert_eq!(check(MAX_CIRCUITS, Some(Scheme::Tcp)), Err(CircuitRefusal::Busy));
        assert_eq!(check(0, None), Err(CircuitRefusal::NoLink));
        assert_eq!(check(0, Some(Scheme::Relay)), Err(CircuitRefusal::NoLink));
    }
}
