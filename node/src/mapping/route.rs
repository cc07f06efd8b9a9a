//! The default route of this machine.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The way from this machine to the router of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    /// The address of the router.
    pub(super) gateway: Ipv4Addr,
    /// The address of this machine at which the router reaches it.
    pub(super) local: Ipv4Addr,
}

/// Returns the route of this machine; `None` if it has no default route. Blocks for some milliseconds.
pub(super) fn of_this_machine() -> Option<Route> {
    towards(gateway()?)
}

/// Returns the route to a router. Connecting a UDP socket only looks up the route; nothing is sent.
pub(super) fn towards(gateway: Ipv4Addr) -> Option<Route> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((gateway, 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(local) => Some(Route { gateway, local }),
        IpAddr::V6(_) => None,
    }
}

/// Returns the router of the default route.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn gateway() -> Option<Ipv4Addr> {
    gateway_in(&std::fs::read_to_string("/proc/net/route").ok()?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn gateway() -> Option<Ipv4Addr> {
    netdev::get_default_gateway().ok()?.ipv4.first().copied()
}

/// Returns the router of the default route with the least metric, from the kernel's table of IPv4 routes. A line has
/// the interface, destination, gateway, flags, two counters, metric and mask (proc_pid_net(5)).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn gateway_in(table: &str) -> Option<Ipv4Addr> {
    /// The route is up, and leads through a gateway.
    const UP: u32 = 1;
    const GATEWAY: u32 = 2;
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hex = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
        let is_default = hex(1)? == 0 && hex(7)? == 0;
        let is_usable = hex(3)? & (UP | GATEWAY) == UP | GATEWAY;
        let metric: u32 = fields.get(6)?.parse().ok()?;
        // The digits are those of a number in the byte order of the machine.
        let gateway = Ipv4Addr::from(hex(2)?.to_ne_bytes());
        (is_default && is_usable).then_some((metric, gateway))
    };
    table.lines().skip(1).filter_map(of_line).min_by_key(|(metric, _)| *metric).map(|(_, at)| at)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_default_route_with_the_least_metric_leads_to_the_router() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                     eth0\t00000000\t010AA8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                     tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0\n\
                     eth0\t000AA8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n\
                     tun1\t00000000\t0100080A\t0003\t0\t0\t1\t00000080\t0\t0\t0\n";
        assert_eq!(gateway_in(table), Some(Ipv4Addr::new(192, 168, 10, 1)));
        assert_eq!(gateway_in("Iface\nbroken line\neth0\t0\n"), None);
    }
}
