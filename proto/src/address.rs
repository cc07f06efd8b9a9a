//! Addresses to dial, as users write them: `host:port`, `ID@host:port`, `scheme://...`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::id::{ID_LEN, NodeId, ParseIdError};
use crate::text::serde_as_text;

/// The port that a node listens on by default.
pub const DEFAULT_PORT: u16 = 7117;

/// The word that users write in place of an address for the local network.
const LAN: &str = "lan";

/// Maximum length of a host name in bytes, as in DNS (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 253;

/// Maximum length in bytes of the interface's name after a link-local IPv6 address (Linux:
/// IFNAMSIZ).
const MAX_ZONE: usize = 15;

/// Maximum length of a printed address in bytes: scheme, identity, host and port.
pub const MAX_ADDRESS: usize = 400;

/// An address to dial: the transport, a host, a port, and optionally the node that has to answer.
///
/// An IPv6 address is written in brackets: `[::1]:7117`, `[fe80::1%eth0]:7117`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The transport.
    pub scheme: Scheme,
    /// The node that has to answer; `None` accepts any node.
    pub id: Option<NodeId>,
    /// A host name or an IP address, without brackets.
    pub host: String,
    /// The TCP port, or the UDP port if the transport is QUIC.
    pub port: u16,
}

/// The transport for dialling an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Scheme {
    /// TLS 1.3 over TCP, both sides authenticated: the default.
    #[default]
    Tcp,
    /// QUIC over UDP, both sides authenticated.
    Quic,
    /// TLS 1.3 through a third node, which listens at the address over TCP and copies the bytes. The identity is that
    /// of the node at the other end.
    Relay,
}

impl Scheme {
    const ALL: [Self; 3] = [Self::Tcp, Self::Quic, Self::Relay];

    /// Returns the text before `://`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Relay => "relay",
        }
    }
}

impl Address {
    /// Creates the address of a socket, with the default transport. Any node may answer.
    #[must_use]
    pub fn from_socket(socket: SocketAddr) -> Self {
        Self { scheme: Scheme::Tcp, id: None, host: socket.ip().to_string(), port: socket.port() }
    }

    /// Sets the transport.
    #[must_use]
    pub fn with_scheme(self, scheme: Scheme) -> Self {
        Self { scheme, ..self }
    }

    /// Sets the node that has to answer.
    #[must_use]
    pub fn with_id(self, id: NodeId) -> Self {
        Self { id: Some(id), ..self }
    }

    /// Lets any node answer.
    #[must_use]
    pub fn without_id(self) -> Self {
        Self { id: None, ..self }
    }

    /// Returns the socket address, or `None` if the host is a name.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }

    /// Returns `host:port` for a resolver, without the transport. An IPv6 address is in brackets.
    #[must_use]
    pub fn host_port(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The reason why a text is not a valid address, with advice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseAddressError {
    /// The text is empty.
    #[error("an address is missing: write host:port, for example 192.0.2.7:7117")]
    Empty,
    /// The text is longer than any address.
    #[error("an address has at most {MAX_ADDRESS} characters")]
    TooLong,
    /// The scheme is unknown to this build.
    #[error(
        "`{0}://` is not a transport that peerkit knows: leave it out, or write tcp://, quic:// or relay://"
    )]
    Scheme(String),
    /// The text before the `@` is not an identity.
    #[error("the text before the @ has to be a node's identity: {0}")]
    Id(ParseIdError),
    /// There is no host before the port.
    #[error("`{0}` has no host: write host:port, for example 127.0.0.1{0}")]
    NoHost(String),
    /// There is no port after the host, in an address on the wire.
    #[error("`{0}` has no port: write {0}:{DEFAULT_PORT}, or the port that the node listens on")]
    NoPort(String),
    /// The text is an identity without a host, where the network can't be searched for the node.
    #[error("an identity alone does not say where the node is: write ID@host:port")]
    NoPlace,
    /// The text is the reserved word `lan`.
    #[error("`lan` stands for the local network: for a host of that name write lan:{DEFAULT_PORT}")]
    Lan,
    /// The port is not a number from 1 to 65535.
    #[error("`{0}` is not a port: it has to be a number from 1 to 65535")]
    Port(String),
    /// The text looks like an IPv6 address without brackets.
    #[error("`{0}` looks like IPv6: put the address in brackets, [::1]:{DEFAULT_PORT}")]
    Brackets(String),
    /// The host is neither a name nor an IP address.
    #[error("`{0}` is neither a host name nor an IP address")]
    Host(String),
}

impl FromStr for Address {
    type Err = ParseAddressError;

    /// Reads an address as a user writes it. Without a port it gets [`DEFAULT_PORT`].
    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        if text.trim() == LAN {
            return Err(ParseAddressError::Lan);
        }
        // This can't be a host name: an identity has 64 characters, a label of a name at most 63
        // (RFC 1035).
        if !text.contains([':', '@']) && text.parse::<NodeId>().is_ok() {
            return Err(ParseAddressError::NoPlace);
        }
        Self::read(text, Some(DEFAULT_PORT))
    }
}

impl Address {
    /// Reads an address from the wire, where the port is required.
    ///
    /// # Errors
    /// If it is not an address.
    pub fn from_wire(text: &str) -> Result<Self, ParseAddressError> {
        Self::read(text, None)
    }

    fn read(text: &str, default_port: Option<u16>) -> Result<Self, ParseAddressError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ParseAddressError::Empty);
        }
        if text.len() > MAX_ADDRESS {
            return Err(ParseAddressError::TooLong);
        }
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Tcp, text),
            Some((name, rest)) => {
                let known = Scheme::ALL.into_iter().find(|scheme| scheme.name() == name);
                let unknown = || ParseAddressError::Scheme(name.to_owned());
                (known.ok_or_else(unknown)?, rest)
            }
        };
        let (id, rest) = match rest.split_once('@') {
            None => (None, rest),
            // An identity that a user pasted may have quotes around it. On the wire it is exactly
            // 64 digits.
            Some((id, _)) if default_port.is_none() && id.len() != 2 * ID_LEN => {
                return Err(ParseAddressError::Id(ParseIdError::Length(id.len())));
            }
            Some((id, rest)) => (Some(id.parse().map_err(ParseAddressError::Id)?), rest),
        };
        let (host, port) = split_port(rest, default_port)?;
        // This is not checked on the wire: one odd address must not end the link.
        if default_port.is_some() && is_broken_ipv4(&host) {
            return Err(ParseAddressError::Host(host));
        }
        Ok(Self { scheme, id, host, port })
    }
}

fn split_port(text: &str, default_port: Option<u16>) -> Result<(String, u16), ParseAddressError> {
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (host, after) =
            bracketed.split_once(']').ok_or_else(|| ParseAddressError::Host(text.to_owned()))?;
        // Only link-local addresses have a zone. Without a zone, "0" passes the check below.
        let (ip, zone) = host.split_once('%').unwrap_or((host, "0"));
        // A zone may come from the network and is printed, so control characters are not allowed in
        // it.
        let is_zone = (1..=MAX_ZONE).contains(&zone.len()) && zone.bytes().all(is_host_byte);
        if ip.parse::<Ipv6Addr>().is_err() || !is_zone {
            return Err(ParseAddressError::Host(host.to_owned()));
        }
        match after.strip_prefix(':') {
            None if !after.is_empty() => return Err(ParseAddressError::Host(text.to_owned())),
            port => (host, port),
        }
    } else {
        // Without brackets the port can't be distinguished from the last part of an IPv6 address.
        if text.matches(':').count() > 1 {
            return Err(ParseAddressError::Brackets(text.to_owned()));
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if host.is_empty() {
            let port = read_port(port.unwrap_or_default())?;
            return Err(ParseAddressError::NoHost(format!(":{port}")));
        }
        if host.len() > MAX_HOST || !host.bytes().all(is_host_byte) {
            return Err(ParseAddressError::Host(host.to_owned()));
        }
        // A host name is never a number, so this is a port.
        if port.is_none() && host.bytes().all(|byte| byte.is_ascii_digit()) {
            let port = read_port(host)?;
            return Err(ParseAddressError::NoHost(format!(":{port}")));
        }
        (host, port)
    };
    let port = match port {
        None => default_port.ok_or_else(|| ParseAddressError::NoPort(text.to_owned()))?,
        Some(port) => read_port(port)?,
    };
    Ok((host.to_owned(), port))
}

fn read_port(text: &str) -> Result<u16, ParseAddressError> {
    // `parse` would also accept a sign before the number.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| is_number && *port != 0);
    port.ok_or_else(|| ParseAddressError::Port(text.to_owned()))
}

/// Returns whether a host looks like an IPv4 address but is not a valid one: its last part is a
/// number, as in no host name. Resolvers read `192.168.1` as 192.168.0.1, which is a different
/// computer.
fn is_broken_ipv4(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    is_number && !host.contains(':') && host.parse::<Ipv4Addr>().is_err()
}

/// Returns whether a host name may contain this byte: letters, digits, `-` and `.` (RFC 1123), and
/// `_`, which occurs in private networks.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The default scheme is left out.
        if self.scheme != Scheme::default() {
            write!(f, "{}://", self.scheme.name())?;
        }
        match self.id {
            Some(id) => write!(f, "{id}@{}", self.host_port()),
            None => f.write_str(&self.host_port()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl From<SocketAddr> for Address {
    fn from(socket: SocketAddr) -> Self {
        Self::from_socket(socket)
    }
}

serde_as_text!(Address);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Address, ParseAddressError> {
        text.parse()
    }

    #[test]
    fn every_form_of_an_address_is_read_and_printed() {
        let id = crate::id::Key::from_secret(&[1; 32]).id();
        for text in ["127.0.0.1:7117", "node.example.org:1", "[::1]:7117", "a_b:65535"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
            assert_eq!(parse(&format!("tcp://{text}")).unwrap().to_string(), text);
            let with_id = format!("{id}@{text}");
            assert_eq!(parse(&with_id).unwrap().to_string(), with_id);
            for quic in [format!("quic://{text}"), format!("quic://{with_id}")] {
                let address = parse(&quic).unwrap();
                assert_eq!(address.scheme, Scheme::Quic);
                assert_eq!(address.to_string(), quic);
                assert_eq!(Address::from_wire(&quic).unwrap(), address);
            }
        }
        assert_eq!(parse("[::1]:7117").unwrap().socket().unwrap().port(), 7117);
        assert_eq!(parse("localhost:7117").unwrap().socket(), None);
    }

    #[test]
    fn an_address_without_a_port_gets_the_default_port() {
        let id = crate::id::Key::from_secret(&[1; 32]).id();
        for host in ["127.0.0.1", "node.example.org", "localhost", "[::1]", "a", "lan.example"] {
            let expected = format!("{host}:7117");
            for text in [host.to_owned(), format!("tcp://{host}"), format!(" {host} ")] {
                assert_eq!(parse(&text).unwrap().to_string(), expected, "{text}");
            }
            let with_id = format!("{id}@{host}");
            assert_eq!(parse(&with_id).unwrap().to_string(), format!("{id}@{expected}"));
        }
        assert_eq!(parse("lan:7117").unwrap().host, "lan");
    }

    #[test]
    fn an_error_says_what_is_wrong_with_an_address() {
        use ParseAddressError as E;
        assert_eq!(parse("  "), Err(E::Empty));
        assert_eq!(Address::from_wire("127.0.0.1"), Err(E::NoPort("127.0.0.1".into())));
        assert_eq!(Address::from_wire("[::1]"), Err(E::NoPort("[::1]".into())));
        let pasted = format!("<{}>@host:1", "0a".repeat(32));
        assert!(parse(&pasted).is_ok());
        assert_eq!(Address::from_wire(&pasted), Err(E::Id(ParseIdError::Length(66))));
        assert_eq!(parse("lan"), Err(E::Lan));
        assert_eq!(parse(&"0a".repeat(32)), Err(E::NoPlace));
        assert_eq!(parse("7117"), Err(E::NoHost(":7117".into())));
        assert_eq!(parse("host:"), Err(E::Port(String::new())));
        assert_eq!(parse("[::1]7117"), Err(E::Host("[::1]7117".into())));
        assert_eq!(parse(":7117"), Err(E::NoHost(":7117".into())));
        assert_eq!(parse("host:0"), Err(E::Port("0".into())));
        assert_eq!(parse("host:70000"), Err(E::Port("70000".into())));
        assert_eq!(parse("host:+7"), Err(E::Port("+7".into())));
        for port in ["99999", "0"] {
            assert_eq!(parse(port), Err(E::Port(port.into())));
            assert_eq!(parse(&format!(":{port}")), Err(E::Port(port.into())));
        }
        assert_eq!(parse(":"), Err(E::Port(String::new())));
        for host in ["192.168.1", "999.1.1.1", "1.2.3.4.", "1.2.3.4.5", "127.1", "a.7"] {
            assert_eq!(parse(host), Err(E::Host(host.into())));
            assert_eq!(parse(&format!("{host}:7")), Err(E::Host(host.into())));
            assert!(Address::from_wire(&format!("{host}:7")).is_ok());
        }
        assert!(parse("4.example").is_ok() && parse("[::ffff:1.2.3.4]").is_ok());
        assert_eq!(parse("::1:7117"), Err(E::Brackets("::1:7117".into())));
        assert_eq!(parse("udp://host:1"), Err(E::Scheme("udp".into())));
        assert_eq!(parse("bob@host:1"), Err(E::Id(ParseIdError::Digit('o'))));
        assert_eq!(parse("ho st:1"), Err(E::Host("ho st".into())));
        assert_eq!(parse("[nonsense]:1"), Err(E::Host("nonsense".into())));
        let colour = "fe80::1%\u{1b}[31m";
        assert_eq!(parse(&format!("[{colour}]:1")), Err(E::Host(colour.into())));
        assert_eq!(parse("[fe80::1%a\n]:1"), Err(E::Host("fe80::1%a\n".into())));
        assert_eq!(parse("[fe80::1%eth0]:1").unwrap().to_string(), "[fe80::1%eth0]:1");
    }

    proptest! {
        #[test]
        fn a_parsed_address_prints_a_text_that_parses_to_the_same_address(text in ".{0,80}") {
            if let Ok(address) = parse(&text) {
                prop_assert_eq!(parse(&address.to_string()).unwrap(), address);
            }
        }
    }
}
