//! The links, streams and files of each system.

use anyhow::Result;

use crate::programs;
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

/// Returns the systems of `wanted`, or all if it is empty, that are `used` and can run here. Prints
/// which can't.
pub(crate) fn available(wanted: &[System], used: impl Fn(System) -> bool) -> Vec<System> {
    let is_wanted =
        |system: &&System| (wanted.is_empty() || wanted.contains(system)) && used(**system);
    let is_there = |system: &System| match prepare(*system) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("bench: goes on without {}: {error:#}", system.name());
            false
        }
    };
    System::ALL.iter().filter(is_wanted).copied().filter(is_there).collect()
}

fn prepare(system: System) -> Result<()> {
    match system {
        #[cfg(feature = "systems")]
        System::P2pnetwork => p2pnetwork::prepare(),
        System::Curl => programs::prepare("curl"),
        System::Aria2 => programs::prepare("aria2c"),
        System::Rsync => programs::prepare("rsync"),
        System::B3sum => programs::prepare("b3sum"),
        _ => Ok(()),
    }
}
