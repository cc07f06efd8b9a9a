//! Versions of the wire: the choice of a version for a link, and the parts of the protocol that an
//! older version lacks.
//!
//! A node speaks the newest version that it knows and the version before. Each Hello has the range
//! of versions that its sender speaks. Both ends choose the highest version that is in both ranges.
//! If there is none, the link is refused, and the reason has both ranges.

use std::fmt;
use std::str::FromStr;

/// The highest version of the wire that this crate speaks.
pub const VERSION: u16 = 2;

/// A range of versions of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Versions {
    /// The lowest version in the range.
    pub min: u16,
    /// The highest version in the range. If it is below `min`, the range is empty.
    pub max: u16,
}

impl Versions {
    /// The versions that this crate speaks: [`VERSION`] and the version before.
    pub const OURS: Self = Self { min: VERSION - 1, max: VERSION };

    /// Returns the highest version that is in both ranges, or `None` if there is none.
    #[must_use]
    pub fn highest_common(self, other: Self) -> Option<u16> {
        let min = self.min.max(other.min);
        let max = self.max.min(other.max);
        // If one of the ranges is empty, this condition is false, whatever the other range is.
        (min <= max).then_some(max)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

impl FromStr for Versions {
    type Err = std::num::ParseIntError;

    /// Reads a range as [`Versions`] prints it: `1-2`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        Ok(Self { min: min.parse()?, max: max.parse()? })
    }
}

/// The version ranges of two nodes that have no version in common. The node that refused the link
/// sends both ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node that refused the link speaks versions {refusing}, the other node {refused}")]
pub struct VersionGap {
    /// The versions of the node that refused the link.
    pub refusing: Versions,
    /// The versions of the other node.
    pub refused: Versions,
}

impl VersionGap {
    /// Returns the ranges as the text of a Goodbye.
    pub(crate) fn to_wire(self) -> String {
        format!("{} {}", self.refusing, self.refused)
    }

    /// Reads the ranges from the text of a Goodbye. Returns `None` if it does not contain them, as
    /// from nodes of version 1.
    pub(crate) fn from_wire(text: &str) -> Option<Self> {
        let (refusing, refused) = text.split_once(' ')?;
        Some(Self { refusing: refusing.parse().ok()?, refused: refused.parse().ok()? })
    }
}

/// The wire version and the features that a link uses. Both ends compute them from the two Hellos,
/// with the same result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The version of the wire that the link speaks.
    pub version: u16,
    /// The optional features that both nodes have, one bit each. No feature is defined yet.
    pub features: u64,
}

/// A part of the protocol that two linked nodes can't use, because the link speaks an older
/// version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{part}: off, as the link speaks version {version}, and this part needs version {since}")]
pub struct UnavailablePart {
    /// The name of the part, for users.
    pub part: &'static str,
    /// The version that the link speaks.
    pub version: u16,
    /// The version that introduced the part.
    pub since: u16,
}

/// Parts of the protocol that version 1 does not have, each with the version that introduced it.
const LATER_PARTS: [(&str, u16); 6] = [
    ("comparing clocks", 2),
    ("reports of completed uploads", 2),
    ("pings through other nodes", 2),
    ("requests through other nodes", 2),
    ("call-backs through other nodes", 2),
    // Version 1 has beacons without a signature, which any node can forge.
    ("beacons, by which separated parts of the network find each other", 2),
];

impl Agreement {
    /// Returns whether a frame may have bytes after the last field that this node knows.
    pub(crate) fn has_added_fields(self) -> bool {
        self.version >= 2
    }

    /// Returns the parts of the protocol that the two nodes can't use on this link.
    pub fn unavailable_parts(self) -> impl Iterator<Item = UnavailablePart> {
        let version = self.version;
        let newer = LATER_PARTS.into_iter().filter(move |(_, since)| *since > version);
        newer.map(move |(part, since)| UnavailablePart { part, version, since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Versions {
        text.parse().unwrap()
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        for (ours, theirs, common) in [
            ("1-1", "1-1", Some(1)),
            ("1-2", "1-1", Some(1)),
            ("1-2", "1-2", Some(2)),
            ("1-2", "2-3", Some(2)),
            ("2-3", "1-9", Some(3)),
            ("1-1", "2-3", None),
            ("0-0", "65535-65535", None),
            ("0-65535", "65535-65535", Some(65535)),
            // Empty ranges.
            ("2-1", "1-2", None),
            ("2-1", "2-1", None),
        ] {
            assert_eq!(range(ours).highest_common(range(theirs)), common, "{ours} {theirs}");
        }
        assert_eq!(Versions::OURS.to_string(), "1-2");
    }

    #[test]
    fn a_part_that_is_newer_than_the_version_of_the_link_is_unavailable() {
        let agreed = |version| Agreement { version, features: 0 };
        assert_eq!(agreed(VERSION).unavailable_parts().count(), 0);
        let texts: Vec<_> = agreed(1).unavailable_parts().map(|part| part.to_string()).collect();
        assert_eq!(texts.len(), LATER_PARTS.len());
        let first =
            "comparing clocks: off, as the link speaks version 1, and this part needs version 2";
        assert_eq!(texts[0], first);
    }

    proptest! {
        #[test]
        fn both_ends_choose_the_same_version(a: (u16, u16), b: (u16, u16)) {
            let [a, b] = [a, b].map(|(min, max)| Versions { min, max });
            let common = a.highest_common(b);
            prop_assert_eq!(common, b.highest_common(a));
            let holds = |version: u16, of: Versions| of.min <= version && version <= of.max;
            match common {
                Some(version) => {
                    prop_assert!(holds(version, a) && holds(version, b));
                    let higher = version.checked_add(1);
                    prop_assert!(!higher.is_some_and(|next| holds(next, a) && holds(next, b)));
                }
                None => prop_assert!((a.min..=a.max).all(|version| !holds(version, b))),
            }
        }

        #[test]
        fn any_text_of_a_goodbye_is_read_and_a_written_one_is_read_back(text in ".{0,40}", a: (u16, u16)) {
            let _ = VersionGap::from_wire(&text);
            let versions = Versions { min: a.0, max: a.1 };
            let gap = VersionGap { refusing: versions, refused: Versions::OURS };
            prop_assert_eq!(VersionGap::from_wire(&gap.to_wire()), Some(gap));
        }
    }
}
