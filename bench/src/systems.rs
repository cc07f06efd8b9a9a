//! The implementations of links, streams, networks and files for each system.

use anyhow::Result;

use crate::external;
use crate::system::System;

pub(crate) mod aria2;
pub(crate) mod b3sum;
pub(crate) mod curl;
#[cfg(feature = "systems")]
pub(crate) mod iroh;
#[cfg(feature = "systems")]
pub(crate) mod libp2p;
#[cfg(feature = "systems")]
pub(crate) mod p2pnetwork;
pub(crate) mod peerkit;
pub(crate) mod raw;
pub(crate) mod rsync;
#[cfg(feature = "systems")]
pub(crate) mod zenoh;

/// Returns the systems that are listed in `wanted` (all systems if `wanted` is empty), that a workload needs,
/// and that are available on this machine. Prints those that are not available.
pub(crate) fn available(wanted: &[System], is_needed: impl Fn(System) -> bool) -> Vec<System> {
    let is_wanted =
        |system: &&System| (wanted.is_empty() || wanted.contains(system)) && is_needed(**system);
    let is_available = |system: &System| match prepare(*system) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("bench: {} is left out: {error:#}", system.name());
            false
        }
    };
    System::ALL.iter().filter(is_wanted).copied().filter(is_available).collect()
}

fn prepare(system: System) -> Result<()> {
    match system {
        #[cfg(feature = "systems")]
        System::P2pnetwork => p2pnetwork::prepare(),
        System::Curl => external::prepare("curl"),
        System::Aria2 => external::prepare("aria2c"),
        System::Rsync => external::prepare("rsync"),
        System::B3sum => external::prepare("b3sum"),
        _ => Ok(()),
    }
}
