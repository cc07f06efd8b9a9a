//! How other nodes reach a node.

use serde::{Deserialize, Serialize};

/// How other nodes can reach a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reachability {
    /// Other nodes dial it.
    Direct,
    /// A port of its router is mapped to it.
    Mapped,
    /// Other nodes reach it when both dial each other at the same time.
    Punched,
    /// Other nodes reach it through a third one only.
    Relayed,
    /// It is not known yet.
    #[default]
    Unknown,
}

impl Reachability {
    /// Returns the word in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Mapped => "mapped",
            Self::Punched => "punched",
            Self::Relayed => "relayed",
            Self::Unknown => "unknown",
        }
    }
}
