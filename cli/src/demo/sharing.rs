//! The steps with files: sharing, searching and fetching.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use peerkit::{FetchRequest, Hash, Node, SharedFile};
use serde_json::json;

use super::files::{self, FileTree};
use super::network::DemoNetwork;
use super::report::StepResult;
use crate::text::{count, millis, size, time};

/// Maximum number of fetched files that are listed with their hashes.
const MAX_LINES: usize = 12;

/// A shared folder, with the files that it contains.
pub(super) struct SharedFolder {
    shared: SharedFile,
    tree: FileTree,
}

/// Makes a folder in `parent` and shares it, and also shares the user's own folder.
pub(super) async fn share(
    network: &DemoNetwork,
    parent: &Path,
    own: Option<&PathBuf>,
) -> anyhow::Result<(StepResult, Vec<SharedFolder>)> {
    let sharer = network.last();
    let made = parent.join(files::FOLDER);
    files::make(&made)?;
    let mut folders = vec![made.clone()];
    // The canonical path, which the paths of skipped files also begin with. If it can't be found,
    // sharing the folder reports the error.
    folders.extend(own.map(|own| own.canonicalize().unwrap_or_else(|_| own.clone())));
    let begun = Instant::now();
    let mut shared_folders = Vec::new();
    for folder in folders {
        let added = sharer.share(&folder).await?;
        let tree = FileTree::read(&folder, &added.skipped)?;
        ensure!(
            (added.files, added.shared.size) == (tree.len(), tree.bytes()),
            "{} files, {} bytes of {} are shared, which has {} and {}",
            added.files,
            added.shared.size,
            folder.display(),
            tree.len(),
            tree.bytes()
        );
        shared_folders.push(SharedFolder { shared: added.shared, tree });
    }
    let elapsed = begun.elapsed();
    let single = sharer.share(made.join(files::LARGEST)).await?;
    let expected = files::hash(&made.join(files::LARGEST))?;
    ensure!(single.shared.hash == expected, "a shared file's hash is not BLAKE3's");
    let shares = network.nodes.iter().map(|node| node.files().shares().len());
    ensure!(shares.sum::<usize>() == shared_folders.len() + 1, "the list of shares is wrong");
    let number: usize = shared_folders.iter().map(|folder| folder.tree.len()).sum();
    let bytes: u64 = shared_folders.iter().map(|folder| folder.tree.bytes()).sum();
    let text = format!(
        "{} shares {} in {}, {}",
        sharer.name(),
        count(number, "file"),
        count(shared_folders.len(), "folder"),
        size(bytes),
    );
    let fields = json!({ "files": number, "bytes": bytes, "sharing_ms": millis(elapsed) });
    Ok((StepResult::new(text, fields), shared_folders))
}

/// Finds the folders by their names, from a node without a link to their sharer if there is one.
/// Returns that node.
pub(super) async fn search<'a>(
    network: &'a DemoNetwork,
    shared_folders: &[SharedFolder],
) -> anyhow::Result<(StepResult, &'a Node)> {
    let sharer = network.last();
    let (seeker, how) = network.far_from(sharer);
    let begun = Instant::now();
    for SharedFolder { shared, .. } in shared_folders {
        let found = seeker.search(shared.name.as_str()).await?;
        let hit = found.iter().find(|found| found.file.hash == shared.hash);
        let hit = hit.with_context(|| format!("`{}` was not found", shared.name))?;
        let sources: Vec<_> = hit.sources.iter().map(|source| source.id).collect();
        ensure!(sources == [sharer.id()], "wrong sources of `{}`: {sources:?}", shared.name);
    }
    let elapsed = begun.elapsed();
    // A search that finds everything would pass the checks above.
    let nothing = seeker.search("there is no file of this name").await?;
    ensure!(nothing.is_empty(), "a search found a file that no node shares");
    let text = format!(
        "{} finds what {} shares, {how}, in {}",
        seeker.name(),
        sharer.name(),
        time(elapsed)
    );
    let fields = json!({
        "from": seeker.name(), "sharer": sharer.name(), "search_ms": millis(elapsed),
    });
    Ok((StepResult::new(text, fields), seeker))
}

/// Fetches the folders into `target` and compares every byte. If the files are kept, prints their
/// absolute paths, so that b3sum finds them.
pub(super) async fn fetch(
    seeker: &Node,
    shared_folders: &[SharedFolder],
    target: &Path,
    kept: bool,
) -> anyhow::Result<StepResult> {
    let mut bytes = 0;
    let mut elapsed = Duration::ZERO;
    let mut lines = Vec::new();
    for SharedFolder { shared, tree } in shared_folders {
        let begun = Instant::now();
        let fetched = seeker.fetch(FetchRequest::new(shared.hash).into_folder(target)).await?;
        elapsed += begun.elapsed();
        bytes += fetched.bytes;
        let copy = FileTree::read(&fetched.path, &[])?;
        tree.compare(&copy)?;
        let above = if kept { Path::new("") } else { target };
        lines.extend(copy.hash_lines(above));
    }
    let number = lines.len();
    let hashes: Vec<_> = lines.iter().map(|(hash, path)| hash_field(*hash, path)).collect();
    let shown = lines.iter().take(MAX_LINES);
    let mut shown: Vec<String> = shown.map(|(hash, path)| format!("{hash}  {path}")).collect();
    if number > MAX_LINES {
        shown.push(format!("and {} more", number - MAX_LINES));
    }
    let rate = bytes as f64 / elapsed.as_secs_f64().max(1e-9);
    let text = format!(
        "{} fetches {}, {}, in {} ({}/s): every byte equal, hashes as b3sum prints them",
        seeker.name(),
        count(number, "file"),
        size(bytes),
        time(elapsed),
        size(rate as u64),
    );
    let fields = json!({
        "files": number, "bytes": bytes, "bytes_per_second": rate.round(),
        "fetch_ms": millis(elapsed), "hashes": hashes,
    });
    Ok(StepResult::new(text, fields).details(shown))
}

fn hash_field(hash: Hash, path: &str) -> serde_json::Value {
    json!({"hash": hash, "path": path})
}
