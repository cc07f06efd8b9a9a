//! The systems that are measured.

use anyhow::{Context, Result};

pub(crate) mod peerkit;
pub(crate) mod raw;

/// A system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// TCP with a length before each message, in batches of 64 KiB.
    RawTcp,
    /// The same within TLS, by tokio-rustls: what the machine can do at the most.
    RawTls,
    /// A node, with a handler.
    Peerkit,
}

impl System {
    /// What the others are compared with.
    pub(crate) const REFERENCE: Self = Self::RawTls;

    const ALL: &[Self] = &[Self::RawTcp, Self::RawTls, Self::Peerkit];

    /// The name, in reports and on command lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RawTcp => "raw-tcp",
            Self::RawTls => "raw-tls",
            Self::Peerkit => "peerkit",
        }
    }

    /// The one of that name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().copied().find(|known| known.name() == name);
        let names = Self::ALL.iter().map(|system| system.name()).collect::<Vec<_>>().join(", ");
        found.with_context(|| format!("no system `{name}`; there are {names}"))
    }

    /// Those that can be had here.
    pub(crate) fn available() -> Result<Vec<Self>> {
        Ok(Self::ALL.to_vec())
    }
}
