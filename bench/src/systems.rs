//! What is made of each system: its links and its streams.

use anyhow::Result;

use crate::system::System;

#[cfg(feature = "systems")]
pub(crate) mod iroh;
#[cfg(feature = "systems")]
pub(crate) mod libp2p;
#[cfg(feature = "systems")]
pub(crate) mod p2pnetwork;
pub(crate) mod peerkit;
pub(crate) mod raw;
#[cfg(feature = "systems")]
pub(crate) mod zenoh;

/// Those of `wanted` that can be had here, or of all if none is named. Says which can't.
pub(crate) fn available(wanted: &[System]) -> Vec<System> {
    let is_wanted = |system: &&System| wanted.is_empty() || wanted.contains(system);
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
        _ => Ok(()),
    }
}
