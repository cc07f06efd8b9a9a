//! libp2p over TCP, with noise or TLS, and yamux. The only behaviour of a swarm is streams or gossipsub.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, tls, yamux};
use libp2p_stream::{Behaviour, Control, IncomingStreams};
use tokio::task::JoinSet;
use tokio_util::compat::FuturesAsyncReadCompatExt;

use crate::bulk::Stream;
use crate::system::System;

pub(crate) mod attackers;
pub(crate) mod network;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/bench");

/// The type in which the swarm builder expects a behaviour.
type BehaviourResult<B> = Result<B, Box<dyn std::error::Error + Send + Sync>>;

/// A swarm that accepts streams.
pub(crate) struct Listener {
    address: String,
    streams: IncomingStreams,
    _driving: JoinSet<()>,
}

impl Listener {
    pub(crate) async fn bind(system: System) -> Result<Self> {
        let mut swarm = swarm(system, Keypair::generate_ed25519(), |_| Ok(Behaviour::new()))?;
        let address = listen(&mut swarm).await?.to_string();
        let streams = swarm.behaviour().new_control().accept(PROTOCOL)?;
        Ok(Self { address, streams, _driving: drive(swarm) })
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    pub(crate) async fn accept(&mut self) -> Result<Stream> {
        let (_, stream) = self.streams.next().await.context("the swarm has ended")?;
        Ok(Box::new(stream.compat()))
    }
}

/// A swarm that has a connection to another swarm, and opens streams on it.
pub(crate) struct Dialler {
    control: Control,
    peer: PeerId,
    _driving: JoinSet<()>,
}

impl Dialler {
    pub(crate) async fn connect(system: System, address: &str) -> Result<Self> {
        let mut swarm = swarm(system, Keypair::generate_ed25519(), |_| Ok(Behaviour::new()))?;
        let peer = dial(&mut swarm, address).await?;
        let control = swarm.behaviour().new_control();
        Ok(Self { control, peer, _driving: drive(swarm) })
    }

    pub(crate) async fn open(&mut self) -> Result<Stream> {
        let opened = self.control.open_stream(self.peer, PROTOCOL).await;
        let stream = opened.map_err(|error| anyhow::anyhow!("no stream: {error}"))?;
        Ok(Box::new(stream.compat()))
    }
}

/// Listens on a free port of 127.0.0.1. Returns the address at which the swarm can be dialled.
async fn listen<B: NetworkBehaviour>(swarm: &mut Swarm<B>) -> Result<Multiaddr> {
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return Ok(address.with(Protocol::P2p(*swarm.local_peer_id())));
        }
    }
}

/// Connects to the swarm at `address`. Returns its identity.
async fn dial<B: NetworkBehaviour>(swarm: &mut Swarm<B>, address: &str) -> Result<PeerId> {
    let address: Multiaddr = address.parse()?;
    let Some(Protocol::P2p(peer)) = address.iter().last() else { bail!("no peer in {address}") };
    swarm.dial(address)?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { .. } => return Ok(peer),
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
}

fn swarm<B: NetworkBehaviour>(
    system: System,
    key: Keypair,
    behaviour: impl FnOnce(&Keypair) -> BehaviourResult<B>,
) -> Result<Swarm<B>> {
    let builder = SwarmBuilder::with_existing_identity(key).with_tokio();
    // Without this, Nagle's algorithm could delay small messages. Nodes of peerkit do the same.
    let tcp = tcp::Config::default().nodelay(true);
    let yamux = yamux::Config::default;
    // Keeps idle connections open.
    let with_long_timeout = |config: libp2p::swarm::Config| {
        config.with_idle_connection_timeout(Duration::from_secs(3_600))
    };
    ensure!(
        matches!(system, System::Libp2pNoise | System::Libp2pTls | System::Gossipsub),
        "{} is not a system of libp2p",
        system.name()
    );
    // Each step of the builder has another type, so the two branches can't share steps.
    Ok(match system {
        System::Libp2pTls => builder
            .with_tcp(tcp, tls::Config::new, yamux)?
            .with_behaviour(behaviour)?
            .with_swarm_config(with_long_timeout)
            .build(),
        _ => builder
            .with_tcp(tcp, noise::Config::new, yamux)?
            .with_behaviour(behaviour)?
            .with_swarm_config(with_long_timeout)
            .build(),
    })
}

/// Polls the swarm for ever, because a swarm makes progress only while its events are awaited.
fn drive(mut swarm: Swarm<Behaviour>) -> JoinSet<()> {
    let mut driving = JoinSet::new();
    driving.spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    driving
}
