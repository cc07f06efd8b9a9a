//! The `map` command. The ending of the file selects the format of the map.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use peerkit::NetworkGraph;

use super::NodeSession;
use crate::output::Reply;
use crate::text::path as shown;

impl NodeSession {
    pub(super) async fn map(&self, file: Option<PathBuf>) -> anyhow::Result<Reply> {
        // A wrong ending fails here, before the network is discovered.
        let write = file.as_deref().map(format_of).transpose()?;
        let map = self.node.network().graph().await?;
        let (Some(path), Some(write)) = (file, write) else {
            return Ok(Reply::new(map.to_text()).with("map", &map));
        };
        write_map(map, &path, write).await?;
        let path = std::path::absolute(path)?;
        Ok(Reply::new(format!("wrote {}", shown(&path))).with("path", path.to_string_lossy()))
    }
}

/// A function that returns a map in one format.
pub(crate) type MapFormat = fn(&NetworkGraph) -> String;

/// Writes a map in a thread of its own, since drawing a large network takes long.
pub(crate) async fn write_map(
    map: NetworkGraph,
    path: &Path,
    write: MapFormat,
) -> anyhow::Result<()> {
    let at = path.to_owned();
    let writing =
        tokio::task::spawn_blocking(move || write_atomically(&at, write(&map).as_bytes()));
    writing.await?.with_context(|| format!("could not write {}", path.display()))
}

/// Writes a temporary file and renames it, so that a full disk leaves the old file. If `path` is
/// not a regular file but a pipe or a link, it is written to and not replaced.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
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

/// Returns the format that the ending of a file selects.
pub(crate) fn format_of(path: &Path) -> anyhow::Result<MapFormat> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    match ending.map(str::to_ascii_lowercase).as_deref() {
        Some("svg") => Ok(NetworkGraph::to_svg),
        Some("dot" | "gv") => Ok(NetworkGraph::to_dot),
        Some("graphml") => Ok(NetworkGraph::to_graphml),
        Some("json") => Ok(crate::json::line),
        _ => {
            bail!(
                "the ending of the file selects the format of the map: use .svg, .dot, .graphml or .json"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_of_a_file_selects_the_format_of_a_map() {
        for path in ["a.svg", "a.DOT", "a.gv", "a.graphml", "a.b.json"] {
            assert!(format_of(Path::new(path)).is_ok(), "{path}");
        }
        for path in ["a", "a.png", ".svg"] {
            let error = format_of(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(".svg") && error.contains(".dot"), "{error}");
        }
    }
}
