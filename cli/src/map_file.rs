//! The file that a map of the network is written to, in the format that its ending selects.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::bail;
use peerkit::NetworkGraph;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::json;

/// The format of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MapFormat {
    /// A picture.
    Svg,
    /// The language of Graphviz.
    Dot,
    /// An XML format that many programs for graphs read.
    Graphml,
    /// The node-link format of NetworkX.
    Json,
}

impl MapFormat {
    /// Returns the format that the ending of a file selects.
    ///
    /// # Errors
    /// If no format has this ending.
    pub(crate) fn of(path: &Path) -> anyhow::Result<Self> {
        let ending = path.extension().and_then(|ending| ending.to_str());
        Ok(match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("svg") => Self::Svg,
            Some("dot" | "gv") => Self::Dot,
            Some("graphml") => Self::Graphml,
            Some("json") => Self::Json,
            _ => bail!(
                "the ending of the file selects the format of the map: use .svg, .dot, .graphml or .json"
            ),
        })
    }

    /// Returns a map in this format. Drawing a large network takes long.
    pub(crate) fn document(self, map: &NetworkGraph) -> String {
        match self {
            Self::Svg => map.to_svg(),
            Self::Dot => map.to_dot(),
            Self::Graphml => map.to_graphml(),
            Self::Json => json::line(map),
        }
    }
}

/// Writes a temporary file and renames it, so that a full disk leaves the old file. If `path` is
/// not a regular file but a pipe or a link, it is written to and not replaced.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return fs::write(path, bytes);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    builder.prefix(".peerkit-map-");
    // A temporary file is private by default. Other users may read a map, if the umask allows it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut beside = builder.tempfile_in(folder.unwrap_or(Path::new(".")))?;
    beside.write_all(bytes)?;
    // Atomic: a reader sees the old map or the new one, never a part of it.
    beside.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_of_a_file_selects_the_format_of_a_map() {
        for path in ["a.svg", "a.DOT", "a.gv", "a.graphml", "a.b.json"] {
            assert!(MapFormat::of(Path::new(path)).is_ok(), "{path}");
        }
        for path in ["a", "a.png", ".svg"] {
            let error = MapFormat::of(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(".svg") && error.contains(".dot"), "{error}");
        }
    }
}
