//! UPnP's Internet Gateway Device protocol: a search by multicast (SSDP), then requests over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{
    AddAnyPortError, AddPortError, GatewayIpVersion, PortMappingProtocol, SearchOptions,
};
use peerkit_proto::overlay::reach::MappingProtocol;

use super::route::Route;
use super::{Lease, NotGranted, Transport, WantedPort};

/// Maximum time of a search. 3 s: the time in which devices have to answer it.
const SEARCH_TIME: Duration = Duration::from_secs(3);

/// The name of a mapping in the router's list.
const DESCRIPTION: &str = "peerkit";

/// A client of a router that speaks UPnP.
pub(super) struct UpnpClient {
    route: Route,
    gateway: Gateway<Tokio>,
    /// The ports of the router that it has mapped.
    mapped: Vec<(WantedPort, u16)>,
}

impl UpnpClient {
    /// Looks for a router that speaks UPnP. It has to be the one of the default route: what another device of the
    /// network forwards would be answered through the router.
    pub(super) async fn find(route: Route, ssdp: SocketAddr) -> Result<Self, NotGranted> {
        let mut options = SearchOptions::default();
        options.bind_addr = (route.local, 0).into();
        options.broadcast_address = ssdp;
        options.timeout = Some(SEARCH_TIME);
        options.single_search_timeout = Some(SEARCH_TIME);
        options.gateway_ip_version = GatewayIpVersion::V4;
        if route.gateway.is_loopback() {
            // Tests have their routers there.
            options.allowed_gateway_ips = vec![route.gateway.into()];
        }
        let gateway = search_gateway(options).await.map_err(|_| NotGranted::NoAnswer)?;
        if gateway.addr.ip() != route.gateway {
            let why = format!("{} is not the router of this machine", gateway.addr.ip());
            return Err(NotGranted::Refused(why));
        }
        Ok(Self { route, gateway, mapped: Vec::new() })
    }

    /// Has the router map the ports. Asks for the router's ports that it has granted before, at first for those with
    /// the same numbers.
    pub(super) async fn map(
        &mut self,
        wanted: &[WantedPort],
        lifetime: Duration,
    ) -> Result<Lease, NotGranted> {
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        let external_ip = self.gateway.get_external_ip().await.map_err(refused)?;
        let mut ports = Vec::new();
        let mut refusal = None;
        for port in wanted {
            match self.map_one(*port, seconds).await {
                Ok(external) => ports.push((*port, external)),
                Err(why) => refusal = Some(why),
            }
        }
        self.mapped.clone_from(&ports);
        match refusal {
            Some(why) if ports.is_empty() => Err(why),
            _ => Ok(Lease { protocol: MappingProtocol::Upnp, external_ip, ports, lifetime }),
        }
    }

    /// Maps a port, and returns that of the router.
    async fn map_one(&self, wanted: WantedPort, seconds: u32) -> Result<u16, NotGranted> {
        let (gateway, transport) = (&self.gateway, wanted.transport.into());
        let earlier = self.mapped.iter().find(|(mapped, _)| *mapped == wanted);
        let external = earlier.map_or(wanted.port, |(_, external)| *external);
        let local = SocketAddr::from((self.route.local, wanted.port));
        let add = |seconds| gateway.add_port(transport, external, local, seconds, DESCRIPTION);
        let added = match add(seconds).await {
            // Some routers know no lifetimes. The mapping is removed when the node stops.
            Err(AddPortError::OnlyPermanentLeasesSupported) => add(0).await,
            other => other,
        };
        match added {
            Ok(()) => return Ok(external),
            Err(AddPortError::PortInUse) => {}
            Err(error) => return Err(refused(error)),
        }
        let add_any = |seconds| gateway.add_any_port(transport, local, seconds, DESCRIPTION);
        let added = match add_any(seconds).await {
            Err(AddAnyPortError::OnlyPermanentLeasesSupported) => add_any(0).await,
            other => other,
        };
        added.map_err(refused)
    }

    /// Has the router remove the mappings.
    pub(super) async fn remove(&self, wanted: &[WantedPort]) {
        for port in wanted {
            let mapped = self.mapped.iter().find(|(mapped, _)| mapped == port);
            // A first request may have succeeded just before the node has stopped.
            let external = mapped.map_or(port.port, |(_, external)| *external);
            if let Err(why) = self.gateway.remove_port(port.transport.into(), external).await {
                tracing::debug!(target: "peerkit::link", external, %why, "a port mapping was not removed");
            }
        }
    }
}

fn refused(error: impl std::fmt::Display) -> NotGranted {
    NotGranted::Refused(error.to_string())
}

impl From<Transport> for PortMappingProtocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::TCP,
            Transport::Udp => Self::UDP,
        }
    }
}
