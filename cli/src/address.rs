//! Addresses and identities that users type, which are checked before a node uses them, and addresses of this
//! machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use peerkit::{Address, NodeId, NotAKey, ParseAddressError};

/// Reads the identity of a node, 64 hex digits. An identity that is not a valid key is refused,
/// since no node can have it.
pub(crate) fn parse_identity(text: &str) -> Result<NodeId, String> {
    let id: NodeId = text.parse().map_err(|error| format!("{error}"))?;
    id.checked().map_err(with_advice)
}

fn with_advice(error: NotAKey) -> String {
    format!("{error}; `peerkit id` prints a node's own")
}

/// Reads the address of a node. The name of a node is an error here: only a running node knows names.
pub(crate) fn parse_address(text: &str) -> Result<Address, String> {
    let address: Address = text.parse().map_err(|error| format!("{error}"))?;
    address.id.map(NodeId::checked).transpose().map_err(with_advice)?;
    Ok(address)
}

/// Checks a word that stands for a node. A word that can only be an address or an identity has to be
/// valid. Any other word is accepted, since it may be a name, which only the node can look up.
pub(crate) fn check_address(text: &str) -> Result<(), String> {
    if text.parse::<u16>().is_ok() {
        return Err(format!("`{text}` is a port without a host: an address is host:port"));
    }
    let may_be_name = !text.trim().is_empty() && !text.contains([':', '@', '/', '[']);
    match text.parse::<Address>() {
        Err(ParseAddressError::NoPlace) => parse_identity(text).map(drop),
        // A name may have spaces, which a host can't have.
        Err(ParseAddressError::Host(_)) if may_be_name => Ok(()),
        Err(ParseAddressError::NoHost(_)) if may_be_name && !looks_like_port(text) => Ok(()),
        // More digits than a port has may be the start of an identity.
        Err(ParseAddressError::Port(port)) if port == text && !looks_like_port(text) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(address) => address.id.map_or(Ok(()), |id| id.checked().map(drop).map_err(with_advice)),
    }
}

/// Returns whether a word has one to five digits and nothing else, so that it can only be a port. A
/// longer number may be the start of an identity.
pub(crate) fn looks_like_port(word: &str) -> bool {
    (1..=5).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit())
}

/// Splits the host of a URL or of a `Host` header: returns the name or IP address, without the brackets of an IPv6
/// address, and the port if there is one.
pub(crate) fn split_host(host: &str) -> Option<(&str, Option<u16>)> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (ip, after) = rest.split_once(']')?;
            (ip, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    match port {
        Some(port) => Some((name, Some(port.parse().ok()?))),
        None => Some((name, None)),
    }
}

/// Returns the address at which programs on this machine reach a socket that listens here.
pub(crate) fn seen_from_here(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// Joins each host with the port that follows it as a separate word: `HOST PORT`.
pub(crate) fn join_ports(words: Vec<String>) -> Vec<String> {
    let mut addresses: Vec<String> = Vec::new();
    let mut takes_port = false;
    for word in words {
        // A number out of range also counts: it is reported later as a wrong port.
        let is_port = looks_like_port(&word);
        match addresses.last_mut() {
            Some(host) if takes_port && is_port => {
                *host = match host.parse::<Ipv6Addr>() {
                    Ok(ip) => format!("[{ip}]:{word}"),
                    Err(_) => format!("{host}:{word}"),
                };
                takes_port = false;
            }
            _ => {
                let bare = word.rsplit_once('@').map_or(word.as_str(), |(_, host)| host);
                let bare = bare.split_once("://").map_or(bare, |(_, rest)| rest);
                let is_bracketed = bare.starts_with('[') && bare.ends_with(']');
                takes_port =
                    is_bracketed || !bare.contains(':') || bare.parse::<Ipv6Addr>().is_ok();
                addresses.push(word);
            }
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_all_addresses_is_reached_over_loopback() {
        for (listening, seen) in
            [("0.0.0.0:7", "127.0.0.1:7"), ("[::]:7", "[::1]:7"), ("192.0.2.1:7", "192.0.2.1:7")]
        {
            assert_eq!(seen_from_here(listening.parse().unwrap()).to_string(), seen);
        }
    }
}
