//! Starting a node with its state folder and its ports. If another node of this user runs, the new
//! node takes another folder and another port, and notes that.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use peerkit::{Address, Builder, Config, DEFAULT_PORT, Error, Node, StoreError};

use crate::text::{Paint, plain};
use crate::views::without_ids;
use crate::{environment, folders, shell_words, signals};

/// The network of a node for which none is named, as in the library.
pub(crate) const DEFAULT_NETWORK: &str = "peerkit";

/// Maximum number of state folders of one user. 64: more than the nodes that a user starts by hand.
const SIBLINGS: usize = 64;

/// An address that a node listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListenAddress {
    /// On `host:port`.
    HostPort(String),
    /// On this port of every address, IPv4 and IPv6.
    AllAddresses(u16),
}

/// The ports that a node listens on. If the default port is in use, a free port replaces it.
struct Ports<'a> {
    given: &'a [ListenAddress],
    /// True once the default port was found in use, so that the node takes a free one.
    uses_free_port: bool,
}

impl<'a> Ports<'a> {
    fn new(given: &'a [ListenAddress]) -> Self {
        Self { given, uses_free_port: false }
    }

    /// Adds the addresses to a builder: the given ones, else all addresses with the default port or a
    /// free one.
    fn on(&self, builder: Builder) -> Builder {
        match (self.given, self.uses_free_port) {
            ([], false) => builder.listen_everywhere(DEFAULT_PORT),
            ([], true) => builder.listen_everywhere(0),
            (given, _) => given.iter().fold(builder, |builder, place| match place {
                ListenAddress::HostPort(address) => builder.listen(address.as_str()),
                ListenAddress::AllAddresses(port) => builder.listen_everywhere(*port),
            }),
        }
    }

    /// Makes [`Self::on`] take a free port. Returns false if ports were given, or if it already takes a
    /// free one.
    fn use_free_port(&mut self) -> bool {
        let may = self.given.is_empty() && !self.uses_free_port;
        self.uses_free_port |= may;
        may
    }

    /// Returns a note about the port, if it is not the default one.
    fn note(&self, node: &Node) -> Option<String> {
        let port = node.listening().first().map(SocketAddr::port)?;
        self.uses_free_port.then(|| {
            format!(
                "port {DEFAULT_PORT} is in use, so this node listens on port {port} (`--listen PORT` \
                 selects a port)"
            )
        })
    }
}

/// A running node with its state folder.
pub(crate) struct RunningNode {
    pub(crate) node: Node,
    pub(crate) state: PathBuf,
    /// Notes about the choices of the program, such as another port; one sentence each.
    pub(crate) notes: Vec<String>,
}

impl RunningNode {
    /// Returns the number of fetches of earlier runs that continue.
    pub(crate) fn resuming(&self) -> usize {
        let downloads = self.node.files().downloads();
        downloads.iter().filter(|download| download.state.is_under_way()).count()
    }
}

/// Returns a builder with the settings that `run`, `share` and `get` have in common.
///
/// # Errors
/// If the secret in the environment is invalid.
pub(crate) fn builder(name: Option<&str>, config: Config) -> anyhow::Result<Builder> {
    let name = name.map_or_else(environment::name, str::to_owned);
    let builder = Node::builder().name(name).config(config);
    Ok(match environment::secret()? {
        Some(secret) => builder.secret(secret),
        None => builder,
    })
}

/// Starts a node with its state in the folder `given`. Without it the node uses the default folder, or
/// a folder beside it if another node uses the default one.
///
/// # Errors
/// If `build` fails, or the node can't start.
pub(crate) async fn start(
    given: Option<&Path>,
    listen: &[ListenAddress],
    build: impl Fn() -> anyhow::Result<Builder>,
) -> anyhow::Result<RunningNode> {
    let default_folder = folders::state(given)?;
    let folder = |in_use| match in_use {
        0 => default_folder.clone(),
        // The first node has the default folder, so the numbers begin with 2.
        others => folders::sibling(&default_folder, others + 1),
    };
    let others = if given.is_none() { SIBLINGS - 1 } else { 0 };
    let StartedNode { node, in_use, note } =
        spawn(listen, others, |in_use| Ok(build()?.state(folder(in_use)))).await?;
    let state = folder(in_use);
    let moved = (in_use > 0).then(|| {
        format!(
            "another node uses {}, so this one keeps its state in {} and has an identity of its own",
            default_folder.display(),
            state.display()
        )
    });
    Ok(RunningNode { node, state, notes: moved.into_iter().chain(note).collect() })
}

/// A node that has been started.
pub(crate) struct StartedNode {
    pub(crate) node: Node,
    /// Number of state folders that were found in use by other nodes.
    pub(crate) in_use: usize,
    /// A note about the port, if it is not the default one.
    pub(crate) note: Option<String>,
}

/// Starts the node that `build` describes. `build` gets the number of state folders that were found in
/// use, and chooses the next one. At most `others` folders are tried after the first. If the default
/// port is in use, the node takes a free one.
///
/// # Errors
/// If `build` fails, or the node can't start.
pub(crate) async fn spawn(
    listen: &[ListenAddress],
    others: usize,
    build: impl Fn(usize) -> anyhow::Result<Builder>,
) -> anyhow::Result<StartedNode> {
    let mut ports = Ports::new(listen);
    let mut in_use = 0;
    let node = loop {
        match ports.on(build(in_use)?).spawn().await {
            // The state folder is locked as long as a node uses it. A crash also ends the lock.
            Err(Error::Store(StoreError::InUse(_))) if in_use < others => in_use += 1,
            Err(Error::PortInUse(_)) if ports.use_free_port() => {}
            Err(error) => return Err(advised(error)),
            Ok(node) => break node,
        }
    };
    // Until here a signal ends a start that is stuck. From now on it stops the node cleanly.
    signals::note_started();
    let note = ports.note(&node);
    Ok(StartedNode { node, in_use, note })
}

/// Returns the error of a start, with advice.
fn advised(error: Error) -> anyhow::Error {
    match &error {
        Error::PortInUse(at) => {
            let free = if at.ip().is_unspecified() {
                "0".to_owned()
            } else {
                SocketAddr::new(at.ip(), 0).to_string()
            };
            let free = shell_words::option("--listen", &free);
            anyhow::anyhow!(
                "{error}: choose another port with --listen, or any free one with {free}"
            )
        }
        Error::Store(StoreError::InUse(_)) => {
            anyhow::anyhow!("{error}: stop that node, or choose another folder with --state DIR")
        }
        _ => error.into(),
    }
}

/// Returns a line for each note.
pub(crate) fn note_lines(paint: Paint, notes: &[String]) -> String {
    let notes = notes.iter();
    notes.map(|note| format!("{} {}\n", paint.strong("note:"), plain(note))).collect()
}

/// The machines from which a node can be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialableFrom {
    /// Any machine, as far as this one can know.
    AnyMachine,
    /// This machine only: it has no network, or the node listens on loopback.
    ThisMachineOnly,
}

impl DialableFrom {
    pub(crate) fn of(addresses: &[Address]) -> Self {
        if addresses.iter().all(is_local) { Self::ThisMachineOnly } else { Self::AnyMachine }
    }
}

/// Returns whether only this machine can dial an address.
fn is_local(address: &Address) -> bool {
    match address.socket() {
        // IPv4 loopback may be written as IPv6: ::ffff:127.0.0.1.
        Some(socket) => socket.ip().to_canonical().is_loopback(),
        None => address.host == "localhost",
    }
}

/// Returns the address to print for other nodes: the first that other machines can dial, else the
/// first.
pub(crate) fn best_address(addresses: &[Address]) -> Option<&Address> {
    addresses.iter().find(|address| !is_local(address)).or(addresses.first())
}

/// Returns the addresses that a node announces, as text.
pub(crate) fn addresses(node: &Node) -> String {
    let bound = node.listening().into_iter().filter(|socket| !socket.ip().is_unspecified());
    describe_addresses(node.addresses(), bound.collect())
}

/// Lists the announced addresses. If there are none, lists the bound ones, which are link-local then.
fn describe_addresses(addresses: Vec<Address>, bound: Vec<SocketAddr>) -> String {
    if addresses.is_empty() && !bound.is_empty() {
        let all: Vec<_> = bound.iter().map(ToString::to_string).collect();
        return format!("{} (link-local, so it is not announced)", all.join(", "));
    }
    if addresses.is_empty() {
        return "no address: this machine has no network, so no other node can dial this one"
            .to_owned();
    }
    without_ids(addresses).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_an_address_says_so() {
        assert!(describe_addresses(Vec::new(), Vec::new()).starts_with("no address"));
        let bound = "[fe80::1%2]:7".parse().unwrap();
        assert!(
            describe_addresses(Vec::new(), vec![bound]).starts_with("[fe80::1%2]:7 (link-local")
        );
        let two = ["a:1", "[::1]:2"].map(|text| text.parse().unwrap());
        assert_eq!(describe_addresses(two.into(), Vec::new()), "a:1, [::1]:2");
    }

    #[test]
    fn advice_can_be_pasted() {
        let advice = |at: &str| advised(Error::PortInUse(at.parse().unwrap())).to_string();
        for everywhere in ["[::]:7117", "0.0.0.0:7117"] {
            assert!(advice(everywhere).ends_with("any free one with --listen 0"));
        }
        assert!(advice("127.0.0.1:7").ends_with("--listen 127.0.0.1:0"));
        let quoted = shell_words::quote("[::1]:0");
        assert_ne!(quoted, "[::1]:0", "brackets are a pattern in a shell");
        assert!(advice("[::1]:7").ends_with(&quoted));
    }

    #[test]
    fn only_this_machine_can_dial_loopback() {
        let reach = |texts: &[&str]| {
            let addresses: Vec<Address> = texts.iter().map(|text| text.parse().unwrap()).collect();
            DialableFrom::of(&addresses)
        };
        assert_eq!(
            reach(&["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1"]),
            DialableFrom::ThisMachineOnly
        );
        assert_eq!(reach(&["127.0.0.1:1", "192.0.2.7:1"]), DialableFrom::AnyMachine);
        assert_eq!(reach(&["ann.example.org:1"]), DialableFrom::AnyMachine);
        assert_eq!(reach(&["[fd00::1]:1"]), DialableFrom::AnyMachine);
    }

    #[test]
    fn the_printed_address_is_one_that_other_machines_can_dial() {
        let best = |texts: &[&str]| {
            let addresses: Vec<Address> = texts.iter().map(|text| text.parse().unwrap()).collect();
            best_address(&addresses).map(ToString::to_string)
        };
        assert_eq!(best(&["127.0.0.1:1", "192.0.2.7:1", "a:1"]).unwrap(), "192.0.2.7:1");
        assert_eq!(best(&["127.0.0.1:1", "[::1]:1"]).unwrap(), "127.0.0.1:1");
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn only_the_default_port_is_replaced_by_a_free_one() {
        let mut ports = Ports::new(&[]);
        assert!(ports.use_free_port());
        assert!(!ports.use_free_port(), "a free port is in use only by chance");
        assert!(!Ports::new(&[ListenAddress::AllAddresses(1)]).use_free_port());
    }
}
