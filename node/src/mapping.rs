//! Port mapping: the router forwards ports to this node, so that nodes on the internet can dial it.
//!
//! One task does it, in the background. It asks the router of the default route for each port of a listener, over TCP
//! and over UDP, by PCP or NAT-PMP ([`pcp`]) or by UPnP ([`upnp`]). It asks again at half the lifetime that the router
//! has granted, and at least every 30 s: a router that has restarted has forgotten its mappings. When the node stops,
//! it has the router remove them.
//!
//! What a mapping is worth is decided in [`reach`](peerkit_proto::overlay::reach). Only [`Config::map_ports`] starts
//! the task, and nothing else sends such packets.
//!
//! [`Config::map_ports`]: peerkit_proto::config::Config::map_ports

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address_group::PrivateNetwork;
use peerkit_proto::id::Key;
use peerkit_proto::overlay::reach::{MappingFailure, MappingProtocol, MappingState, PortMapping};
use peerkit_proto::peer::Input;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::blocking;
use crate::clock::NodeClock;
use crate::inner::Inner;
use crate::own_addresses::accepts;

mod pcp;
mod route;
#[cfg(test)]
mod tests;
mod upnp;

use pcp::ControlClient;
use route::Route;
use upnp::UpnpClient;

/// Lifetime that the router is asked for. 1 h: a node that is killed can't remove its mappings.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Maximum time until the router is asked again. 30 s: half of the time in which a mapping has to be back after the
/// router has restarted.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// Minimum time until a short mapping is renewed. 1 s: a router may grant a lifetime of 0.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Time after which the router is searched again that has stopped to map ports. 20 s: a search may take 4 s.
const LOST_RETRY: Duration = Duration::from_secs(20);

/// Times after which a router that has never mapped a port is asked again: the first time, then twice as much each
/// time, up to the last.
const FIRST_RETRY: Duration = Duration::from_secs(30);
const LAST_RETRY: Duration = Duration::from_secs(600);

/// Head start of PCP and NAT-PMP before a search for UPnP. 500 ms: a router in the same network answers in a few
/// milliseconds.
const UPNP_AFTER: Duration = Duration::from_millis(500);

/// Maximum time to remove the mappings when the node stops. 2 s: as for each other step of a stop.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of listeners whose ports are mapped. 4: few nodes have more than one.
const MAX_LISTENERS: usize = 4;

/// A port of this node that the router is to forward to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WantedPort {
    transport: Transport,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

/// What a router has granted.
#[derive(Debug)]
struct Lease {
    protocol: MappingProtocol,
    external_ip: IpAddr,
    /// The mapped ports, each with the port of the router.
    ports: Vec<(WantedPort, u16)>,
    /// The time for which all of them hold.
    lifetime: Duration,
}

/// The reason why a router grants nothing in one of the protocols.
#[derive(Debug)]
enum NotGranted {
    /// Nothing answers.
    NoAnswer,
    /// The answer.
    Refused(String),
}

/// A client of a router, by one of the protocols.
enum Client {
    Control(ControlClient),
    Upnp(UpnpClient),
}

impl Client {
    /// Has the router make the mappings, or renew them. Returns what it has granted; at least one port.
    async fn map(
        &mut self,
        wanted: &[WantedPort],
        lifetime: Duration,
    ) -> Result<Lease, NotGranted> {
        match self {
            Self::Control(client) => client.map(wanted, lifetime).await,
            Self::Upnp(client) => client.map(wanted, lifetime).await,
        }
    }

    /// Has the router remove the mappings.
    async fn remove(&self, wanted: &[WantedPort]) {
        match self {
            Self::Control(client) => client.remove(wanted).await,
            Self::Upnp(client) => client.remove(wanted).await,
        }
    }

    fn protocol(&self) -> MappingProtocol {
        match self {
            Self::Control(client) => client.protocol(),
            Self::Upnp(_) => MappingProtocol::Upnp,
        }
    }
}

/// The network in which routers are looked for, and the times for that. Tests have others.
struct Surroundings {
    /// Returns the way to the router.
    route: Arc<dyn Fn() -> Option<Route> + Send + Sync>,
    /// The address to which searches for UPnP are sent.
    ssdp: SocketAddr,
    check_every: Duration,
    lost_retry: Duration,
    first_retry: Duration,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            route: Arc::new(route::of_this_machine),
            ssdp: SocketAddr::from((Ipv4Addr::new(239, 255, 255, 250), 1900)),
            check_every: CHECK_EVERY,
            lost_retry: LOST_RETRY,
            first_retry: FIRST_RETRY,
        }
    }
}

/// Keeps the ports of one node mapped.
struct Mapper {
    surroundings: Surroundings,
    clock: NodeClock,
    /// The nonce of PCP. A machine that knows it can change the mappings. It is the same after a restart, so that the node can
    /// take over the mappings that it had before.
    nonce: [u32; 3],
    listening: Vec<SocketAddr>,
    uses_udp: bool,
    route: Option<Route>,
    /// The client that has made mappings, or may have.
    client: Option<Client>,
    is_mapped: bool,
    /// Whether the router has mapped ports since this machine is in its network.
    was_mapped: bool,
    /// The time before which no router is searched, unless the route changes, and the pause after that search.
    search_at: Instant,
    retry: Duration,
    /// The reason why no port is mapped.
    failure: MappingFailure,
}

impl Inner {
    /// Keeps the ports of this node mapped until it stops.
    pub(crate) async fn keep_mapped(self: Arc<Self>, nonce: [u32; 3]) {
        // The node that stops waits for this task, as for its links.
        let _running = self.tasks.links.token();
        let mut mapper = Mapper::new(
            Surroundings::default(),
            self.clock,
            self.addresses.listening.clone(),
            self.quic.is_listening(),
            nonce,
        );
        let report = |state| {
            let inner = self.clone();
            async move { inner.actor.input(Input::Mapping(state)).await }
        };
        mapper.run(&self.tasks.stop, report).await;
    }
}

/// Returns the nonce of PCP of the node with this key.
pub(crate) fn nonce(key: &Key) -> [u32; 3] {
    let bytes = blake3::derive_key("peerkit 2026-11 nonce of port mappings", key.secret());
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|index| words.get(index).map_or(0, |word| u32::from_le_bytes(*word)))
}

impl Mapper {
    fn new(
        surroundings: Surroundings,
        clock: NodeClock,
        listening: Vec<SocketAddr>,
        uses_udp: bool,
        nonce: [u32; 3],
    ) -> Self {
        Self {
            retry: surroundings.first_retry,
            surroundings,
            clock,
            nonce,
            listening,
            uses_udp,
            route: None,
            client: None,
            is_mapped: false,
            was_mapped: false,
            search_at: Instant::now(),
            failure: MappingFailure::NotOffered,
        }
    }

    /// Keeps the ports mapped until `stop` is cancelled, then has the router remove the mappings. Reports what is
    /// known, at first and after each change or renewal.
    async fn run<F: Future<Output = ()>>(
        &mut self,
        stop: &CancellationToken,
        report: impl Fn(MappingState) -> F,
    ) {
        report(MappingState::Searching).await;
        let keeping = async {
            let mut last = MappingState::Searching;
            loop {
                let (state, pause) = self.refresh().await;
                if state != last {
                    tracing::debug!(target: "peerkit::link", ?state, "port mapping");
                    last = state.clone();
                    report(state).await;
                }
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = keeping => {}
            () = stop.cancelled() => {}
        }
        if let (Some(client), Some(route)) = (&self.client, self.route) {
            let wanted = self.wanted(route);
            let removing = client.remove(&wanted);
            if tokio::time::timeout(REMOVE_TIMEOUT, removing).await.is_err() {
                tracing::debug!(target: "peerkit::link", "the router did not remove the port mapping in time");
            }
        }
    }

    /// Renews the mappings, or looks for a router that makes them. Returns what is known, and the time after which
    /// this is due again.
    async fn refresh(&mut self) -> (MappingState, Duration) {
        let find = self.surroundings.route.clone();
        // Reading the routes may block.
        let route = blocking::run(move || find()).await.flatten();
        if route != self.route {
            // The router of another network can't be reached any more.
            (self.client, self.is_mapped, self.was_mapped) = (None, false, false);
            (self.search_at, self.retry) = (Instant::now(), self.surroundings.first_retry);
            self.route = route;
        }
        match self.ask(route).await {
            Ok(lease) => {
                (self.is_mapped, self.was_mapped) = (true, true);
                let half = (lease.lifetime / 2).max(SHORTEST_PAUSE);
                let pause = half.min(self.surroundings.check_every);
                (MappingState::Mapped(lease.into_mapping(&self.clock)), pause)
            }
            Err(failure) => {
                self.is_mapped = false;
                self.failure = failure.clone();
                let until_search = self.search_at.saturating_duration_since(Instant::now());
                // Where there is nothing to ask, no search is due. Only the route is looked at from time to time.
                let check_every = self.surroundings.check_every;
                let pause = if until_search.is_zero() {
                    check_every
                } else {
                    until_search.min(check_every)
                };
                (MappingState::Failed(failure), pause)
            }
        }
    }

    /// Asks the client that has made the mappings, or else looks for another.
    async fn ask(&mut self, route: Option<Route>) -> Result<Lease, MappingFailure> {
        let route = route.ok_or(MappingFailure::NoRouter)?;
        if PrivateNetwork::of(route.local.into()).is_none() {
            return Err(MappingFailure::NotNeeded);
        }
        let wanted = self.wanted(route);
        if wanted.is_empty() {
            return Err(MappingFailure::NotListening);
        }
        if let Some(client) = self.client.as_mut().filter(|_| self.is_mapped) {
            match client.map(&wanted, LIFETIME).await {
                Ok(lease) => return Ok(lease),
                Err(why) => {
                    tracing::debug!(target: "peerkit::link", ?why, "the router does not renew the port mapping");
                    self.search_at = Instant::now();
                }
            }
        }
        if Instant::now() < self.search_at {
            return Err(self.failure.clone());
        }
        let found = self.search(route, &wanted).await;
        if self.was_mapped {
            self.retry = self.surroundings.lost_retry;
        }
        self.search_at = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(LAST_RETRY);
        found
    }

    /// Tries PCP, NAT-PMP and UPnP in this order.
    async fn search(
        &mut self,
        route: Route,
        wanted: &[WantedPort],
    ) -> Result<Lease, MappingFailure> {
        let ssdp = self.surroundings.ssdp;
        let finding = AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(UPNP_AFTER).await;
            UpnpClient::find(route, ssdp).await
        }));
        let mut refused = None;
        let pcp = ControlClient::pcp(route, self.nonce);
        for client in [pcp, ControlClient::nat_pmp(route)] {
            match self.try_client(Client::Control(client), wanted).await {
                Ok(lease) => return Ok(lease),
                Err(failure) => refused = refused.or(failure),
            }
        }
        match finding.await.unwrap_or(Err(NotGranted::NoAnswer)) {
            Ok(client) => match self.try_client(Client::Upnp(client), wanted).await {
                Ok(lease) => return Ok(lease),
                Err(failure) => refused = failure.or(refused),
            },
            Err(NotGranted::Refused(why)) => {
                let protocol = MappingProtocol::Upnp;
                refused = refused.or(Some(MappingFailure::Refused { protocol, why }));
            }
            Err(NotGranted::NoAnswer) => {}
        }
        Err(refused.unwrap_or(MappingFailure::NotOffered))
    }

    /// Asks a client for mappings. Keeps the client if it may have made one. Returns the refusal, if there was an
    /// answer.
    async fn try_client(
        &mut self,
        client: Client,
        wanted: &[WantedPort],
    ) -> Result<Lease, Option<MappingFailure>> {
        // Kept before it is asked, because the node may stop meanwhile.
        let earlier = self.client.replace(client);
        let Some(client) = &mut self.client else { return Err(None) };
        match client.map(wanted, LIFETIME).await {
            Ok(lease) => Ok(lease),
            Err(why) => {
                let protocol = client.protocol();
                self.client = earlier;
                match why {
                    NotGranted::NoAnswer => Err(None),
                    NotGranted::Refused(why) => {
                        Err(Some(MappingFailure::Refused { protocol, why }))
                    }
                }
            }
        }
    }

    /// Returns the ports of the listeners that get what the router forwards to this machine.
    fn wanted(&self, route: Route) -> Vec<WantedPort> {
        let mut ports: Vec<u16> = Vec::new();
        for socket in &self.listening {
            let is_new = !ports.contains(&socket.port()) && ports.len() < MAX_LISTENERS;
            if is_new && accepts(socket.ip(), route.local.into()) {
                ports.push(socket.port());
            }
        }
        let transports: &[Transport] =
            if self.uses_udp { &[Transport::Tcp, Transport::Udp] } else { &[Transport::Tcp] };
        let of_port = |port| transports.iter().map(move |transport| (*transport, port));
        let wanted = ports.into_iter().flat_map(of_port);
        wanted.map(|(transport, port)| WantedPort { transport, port }).collect()
    }
}

impl Lease {
    fn into_mapping(self, clock: &NodeClock) -> PortMapping {
        let of = |transport: Transport| {
            let ports = self.ports.iter().filter(move |(wanted, _)| wanted.transport == transport);
            ports.map(|(_, external)| *external).collect()
        };
        PortMapping {
            protocol: self.protocol,
            external_ip: self.external_ip,
            tcp: of(Transport::Tcp),
            udp: of(Transport::Udp),
            until: clock.now() + self.lifetime,
        }
    }
}
