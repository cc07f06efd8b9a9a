//! A temporary node that visits another one, so that the links of the running node stay as they are.

use std::time::Duration;

use peerkit::{Address, Config, Error, Key, Node, NodeId};

/// Maximum time to connect, and then to complete each of the two handshakes. 5 s: a round trip around the
/// world takes 0.3 s, and the user waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The name of the temporary node, which the user of the visited node sees.
const NAME: &str = "peerkit-doctor";

/// A temporary node. It has an identity of its own, listens on no port, and has no state folder.
pub(super) struct Visitor(Node);

/// What a link has shown of the node at its other end.
pub(super) struct Findings {
    pub(super) name: String,
    /// The version of the protocol that the link speaks, if it was still there to be looked at.
    pub(super) version: Option<u16>,
    /// Seconds by which the clock of the node is ahead of this machine's; 0 if it is close enough.
    pub(super) clock_skew: i64,
}

impl Visitor {
    /// Starts a node of this network.
    pub(super) async fn start(network: &str, secret: Option<&str>) -> anyhow::Result<Self> {
        let mut config = Config::default();
        config.connect_timeout = PATIENCE;
        config.handshake_timeout = PATIENCE;
        let builder = Node::builder().name(NAME).config(config).network(network).manual(true);
        let builder = match secret {
            Some(secret) => builder.secret(secret),
            None => builder,
        };
        Ok(Self(builder.spawn().await?))
    }

    /// Returns the identity of the node at an address. The node there gets neither a key nor a Hello, and
    /// reports nothing.
    ///
    /// # Errors
    /// Those of a dial that does not complete the handshake of TLS.
    pub(super) async fn identify(&self, address: &Address) -> Result<NodeId, Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        // No node has this identity, so the dial ends when the node there has proved its own.
        let address = address.clone().with_id(Key::from_secret(&secret).id());
        match self.0.connect(&address).await {
            Err(Error::WrongNode { found, .. }) => Ok(found),
            Err(error) => Err(error),
            Ok(peer) => Ok(peer.id()),
        }
    }

    /// Links to a node for a moment.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason of either node, and those of a dial.
    pub(super) async fn link(&self, address: &Address) -> Result<Findings, Error> {
        let peer = self.0.connect(address).await?;
        let status = self.0.status().await;
        let _ = self.0.disconnect(peer.id()).await;
        Ok(Findings {
            name: peer.name().to_owned(),
            version: status.peers.iter().find_map(|link| link.version),
            clock_skew: status.clock_skew_seconds,
        })
    }

    /// Stops the node.
    pub(super) async fn stop(self) {
        self.0.shutdown().await;
    }
}
