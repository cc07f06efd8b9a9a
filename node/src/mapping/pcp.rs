//! PCP (RFC 6887) and NAT-PMP (RFC 6886), its predecessor: a request and an answer over UDP for each port.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, TimeoutConfig, natpmp, pcp,
};
use peerkit_proto::overlay::reach::MappingProtocol;

use super::route::Route;
use super::{Lease, NotGranted, Transport, WantedPort};

/// Time until a request is repeated, which doubles each time, and the number of repetitions. The router is in the same
/// network, so 1.75 s in all are enough, where RFC 6887 allows minutes.
const TIMEOUTS: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: None,
};

/// A client of a router that speaks PCP or NAT-PMP.
pub(super) struct ControlClient {
    route: Route,
    /// The nonce of PCP; `None` for NAT-PMP.
    nonce: Option<pcp::Nonce>,
    /// The router's address on the internet, as it has told last.
    external_ip: Option<IpAddr>,
    /// The ports of the router that it has mapped.
    mapped: Vec<(WantedPort, NonZeroU16)>,
}

impl ControlClient {
    pub(super) fn pcp(route: Route, nonce: pcp::Nonce) -> Self {
        Self { route, nonce: Some(nonce), external_ip: None, mapped: Vec::new() }
    }

    pub(super) fn nat_pmp(route: Route) -> Self {
        Self { route, nonce: None, external_ip: None, mapped: Vec::new() }
    }

    pub(super) fn protocol(&self) -> MappingProtocol {
        if self.nonce.is_some() { MappingProtocol::Pcp } else { MappingProtocol::NatPmp }
    }

    /// Has the router map the ports. Asks for the router's ports that it has granted before, at first for those with
    /// the same numbers.
    pub(super) async fn map(
        &mut self,
        wanted: &[WantedPort],
        lifetime: Duration,
    ) -> Result<Lease, NotGranted> {
        let mut ports = Vec::new();
        let mut granted = lifetime;
        let mut refusal = None;
        for port in wanted {
            match self.map_one(*port, lifetime).await {
                Ok(mapping) => {
                    let external = mapping.external_port();
                    self.mapped.retain(|(mapped, _)| mapped != port);
                    self.mapped.push((*port, external));
                    ports.push((*port, external.get()));
                    granted = granted.min(Duration::from_secs(mapping.lifetime().into()));
                }
                // A router that does not answer would not answer the further requests either.
                Err(NotGranted::NoAnswer) => return Err(NotGranted::NoAnswer),
                Err(refused) => refusal = Some(refused),
            }
        }
        if ports.is_empty() {
            return Err(refusal.unwrap_or(NotGranted::NoAnswer));
        }
        if self.nonce.is_none() {
            let told = natpmp::external_address(self.gateway(), Some(TIMEOUTS)).await;
            self.external_ip = Some(told.map_err(NotGranted::from)?.into());
        }
        let external_ip = self.external_ip.ok_or(NotGranted::NoAnswer)?;
        Ok(Lease { protocol: self.protocol(), external_ip, ports, lifetime: granted })
    }

    async fn map_one(
        &mut self,
        wanted: WantedPort,
        lifetime: Duration,
    ) -> Result<PortMapping, NotGranted> {
        let WantedPort { transport, port } = wanted;
        let unusable = || NotGranted::Refused("port 0 can't be mapped".to_owned());
        let port = NonZeroU16::new(port).ok_or_else(unusable)?;
        let earlier = self.mapped.iter().find(|(mapped, _)| *mapped == wanted);
        let options = PortMappingOptions {
            external_port: Some(earlier.map_or(port, |(_, external)| *external)),
            lifetime_seconds: Some(u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX)),
            timeout_config: Some(TIMEOUTS),
        };
        let Some(nonce) = self.nonce else {
            return Ok(natpmp::port_mapping(self.gateway(), transport.into(), port, options).await?);
        };
        let local = self.route.local.into();
        let base = pcp::BaseMapRequest::new(self.gateway(), local, transport.into(), port);
        let mapping = pcp::port_mapping(base, Some(nonce), self.external_ip, options).await?;
        if let crab_nat::PortMappingType::Pcp { external_ip, .. } = mapping.mapping_type() {
            self.external_ip = Some(external_ip);
        }
        Ok(mapping)
    }

    /// Has the router remove the mappings. Requests that are not answered are repeated, then given up.
    pub(super) async fn remove(&self, wanted: &[WantedPort]) {
        for WantedPort { transport, port } in wanted {
            let Some(port) = NonZeroU16::new(*port) else { continue };
            let (gateway, protocol) = (self.gateway(), (*transport).into());
            let removed = match self.nonce {
                Some(nonce) => {
                    let range = pcp::DropMappingRange::Single { internal_port: port, protocol };
                    let local = self.route.local.into();
                    pcp::try_drop_mapping(gateway, local, nonce, range, Some(TIMEOUTS))
                        .await
                        .map_err(|error| error.to_string())
                }
                None => natpmp::try_drop_mapping(gateway, protocol, Some(port), Some(TIMEOUTS))
                    .await
                    .map_err(|error| error.to_string()),
            };
            if let Err(why) = removed {
                tracing::debug!(target: "peerkit::link", port, %why, "a port mapping was not removed");
            }
        }
    }

    fn gateway(&self) -> GatewayAddress {
        self.route.gateway.into()
    }
}

impl From<Transport> for InternetProtocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::Udp => Self::Udp,
        }
    }
}

impl From<pcp::Failure> for NotGranted {
    fn from(failure: pcp::Failure) -> Self {
        use pcp::Failure;
        match failure {
            // ICMP's "port unreachable" is an error of the socket.
            Failure::Socket(_) | Failure::Timeout | Failure::UnsupportedVersion(_) => {
                Self::NoAnswer
            }
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<natpmp::Failure> for NotGranted {
    fn from(failure: natpmp::Failure) -> Self {
        use natpmp::Failure;
        match failure {
            Failure::Socket(_) | Failure::Timeout | Failure::UnsupportedVersion(_) => {
                Self::NoAnswer
            }
            other => Self::Refused(other.to_string()),
        }
    }
}
