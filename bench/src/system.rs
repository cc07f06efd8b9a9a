//! Names and capabilities of the systems that are measured.

use anyhow::{Context, Result};

/// A system that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// TCP connections, with a length before each message and batches of 64 KiB.
    RawTcp,
    /// The same over TLS, with tokio-rustls. Its rate is about the upper bound for this machine.
    RawTls,
    /// Streams of a QUIC connection of quinn, with messages as in `RawTls`.
    RawQuinn,
    /// A peerkit node with a handler.
    Peerkit,
    /// The same, with a link over QUIC.
    PeerkitQuic,
    /// zenoh publisher and subscriber on a TCP link. Not encrypted.
    #[cfg(feature = "systems")]
    ZenohTcp,
    /// zenoh publisher and subscriber on a TLS link.
    #[cfg(feature = "systems")]
    ZenohTls,
    /// A yamux stream of libp2p over noise, with messages as in `RawTls`.
    #[cfg(feature = "systems")]
    Libp2pNoise,
    /// A yamux stream of libp2p over TLS, with messages as in `RawTls`.
    #[cfg(feature = "systems")]
    Libp2pTls,
    /// A QUIC stream of iroh, with messages as in `RawTls`.
    #[cfg(feature = "systems")]
    Iroh,
    /// A network of libp2p swarms that broadcast by gossipsub.
    #[cfg(feature = "systems")]
    Gossipsub,
    /// A network of iroh endpoints that broadcast by iroh-gossip. Broadcasts are not signed.
    #[cfg(feature = "systems")]
    IrohGossip,
    /// The Python package p2pnetwork. Not encrypted.
    #[cfg(feature = "systems")]
    P2pnetwork,
    /// iroh endpoints with a blob store on disk.
    #[cfg(feature = "systems")]
    IrohBlobs,
    /// The program curl and the HTTP server of this bench. Neither encrypted nor verified.
    Curl,
    /// The program aria2 over BitTorrent. Not encrypted.
    Aria2,
    /// The program rsync and its daemon. Not encrypted.
    Rsync,
    /// The program b3sum, which prints the BLAKE3 hash of files.
    B3sum,
}

impl System {
    /// All systems that this program was built with.
    pub(crate) const ALL: &[Self] = &[
        Self::RawTcp,
        Self::RawTls,
        Self::RawQuinn,
        Self::Peerkit,
        Self::PeerkitQuic,
        #[cfg(feature = "systems")]
        Self::ZenohTcp,
        #[cfg(feature = "systems")]
        Self::ZenohTls,
        #[cfg(feature = "systems")]
        Self::Libp2pNoise,
        #[cfg(feature = "systems")]
        Self::Libp2pTls,
        #[cfg(feature = "systems")]
        Self::Iroh,
        #[cfg(feature = "systems")]
        Self::Gossipsub,
        #[cfg(feature = "systems")]
        Self::IrohGossip,
        #[cfg(feature = "systems")]
        Self::P2pnetwork,
        #[cfg(feature = "systems")]
        Self::IrohBlobs,
        Self::Curl,
        Self::Aria2,
        Self::Rsync,
        Self::B3sum,
    ];

    /// Returns the name used in reports and on command lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RawTcp => "raw-tcp",
            Self::RawTls => "raw-tls",
            Self::RawQuinn => "raw-quinn",
            Self::Peerkit => "peerkit",
            Self::PeerkitQuic => "peerkit-quic",
            #[cfg(feature = "systems")]
            Self::ZenohTcp => "zenoh-tcp",
            #[cfg(feature = "systems")]
            Self::ZenohTls => "zenoh-tls",
            #[cfg(feature = "systems")]
            Self::Libp2pNoise => "libp2p-noise",
            #[cfg(feature = "systems")]
            Self::Libp2pTls => "libp2p-tls",
            #[cfg(feature = "systems")]
            Self::Iroh => "iroh",
            #[cfg(feature = "systems")]
            Self::Gossipsub => "gossipsub",
            #[cfg(feature = "systems")]
            Self::IrohGossip => "iroh-gossip",
            #[cfg(feature = "systems")]
            Self::P2pnetwork => "p2pnetwork",
            #[cfg(feature = "systems")]
            Self::IrohBlobs => "iroh-blobs",
            Self::Curl => "curl",
            Self::Aria2 => "aria2",
            Self::Rsync => "rsync",
            Self::B3sum => "b3sum",
        }
    }

    /// Returns the system with this name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().copied().find(|known| known.name() == name);
        let names = Self::ALL.iter().map(|system| system.name()).collect::<Vec<_>>().join(", ");
        found.with_context(|| format!("unknown system `{name}`; known are {names}"))
    }

    /// Returns whether only broadcasts of this system are measured. Such a system is implemented only as a
    /// [`Network`](crate::network::Network).
    pub(crate) fn is_only_for_broadcasts(self) -> bool {
        match self {
            #[cfg(feature = "systems")]
            Self::Gossipsub | Self::IrohGossip => true,
            _ => false,
        }
    }

    /// Returns whether only files are measured with this system.
    pub(crate) fn is_only_for_files(self) -> bool {
        match self {
            Self::Curl | Self::Aria2 | Self::Rsync | Self::B3sum => true,
            #[cfg(feature = "systems")]
            Self::IrohBlobs => true,
            _ => false,
        }
    }

    /// Returns whether this system can fetch a file from a known source.
    pub(crate) fn has_files(self) -> bool {
        match self {
            Self::RawTls | Self::Peerkit | Self::Curl | Self::Aria2 => true,
            #[cfg(feature = "systems")]
            Self::IrohBlobs => true,
            _ => false,
        }
    }

    /// Returns whether this system is implemented as a [`Link`](crate::link::Link).
    pub(crate) fn has_links(self) -> bool {
        match self {
            #[cfg(feature = "systems")]
            Self::P2pnetwork => false,
            _ => !self.is_only_for_broadcasts() && !self.is_only_for_files(),
        }
    }

    /// Returns whether one link of this system can carry bulk data both ways at the same time.
    pub(crate) fn supports_both_ways(self) -> bool {
        match self {
            // Over TLS, zenoh 1.10.2 deadlocks within a second: both ends wait for ever although no data is
            // in flight.
            #[cfg(feature = "systems")]
            Self::ZenohTls => false,
            _ => self.has_links(),
        }
    }

    /// Returns whether this system has byte streams: see [`streams`](crate::streams).
    pub(crate) fn has_streams(self) -> bool {
        match self {
            #[cfg(feature = "systems")]
            Self::ZenohTcp | Self::ZenohTls | Self::P2pnetwork => false,
            _ => !self.is_only_for_broadcasts() && !self.is_only_for_files(),
        }
    }
}
