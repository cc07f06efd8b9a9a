//! What this machine is called, and where others find it.

use std::env;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use anyhow::bail;

use crate::args::MAX_NAME;

/// The host's name without its domain; `peerkit` where it has none.
pub(crate) fn name() -> String {
    let name = host_name().unwrap_or_default();
    let mut name = name.split('.').next().unwrap_or_default().trim().to_owned();
    while name.len() > MAX_NAME {
        name.pop();
    }
    if name.is_empty() { "peerkit".to_owned() } else { name }
}

#[cfg(unix)]
fn host_name() -> Option<String> {
    let names = rustix::system::uname();
    Some(names.nodename().to_string_lossy().into_owned())
}

#[cfg(not(unix))]
fn host_name() -> Option<String> {
    env::var("COMPUTERNAME").ok()
}

/// The network's secret, from the environment: on a command line others could read it.
pub(crate) fn secret() -> anyhow::Result<Option<String>> {
    match env::var_os("PEERKIT_SECRET").filter(|secret| !secret.is_empty()) {
        None => Ok(None),
        Some(secret) => match secret.into_string() {
            Ok(secret) => Ok(Some(secret)),
            Err(_) => bail!("PEERKIT_SECRET is not UTF-8: choose a secret that is"),
        },
    }
}

/// The address by which others on the local network reach this machine, as far as can be told
/// without sending anything: connecting a UDP socket only looks up the route. 192.0.2.1 is an
/// address for documentation (RFC 5737); nothing is sent there.
pub(crate) fn address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_name_without_dots() {
        assert!(!name().is_empty() && !name().contains('.'));
    }
}
