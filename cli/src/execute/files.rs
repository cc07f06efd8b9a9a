//! The commands that share, find and fetch files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use peerkit::{Access, Download, FetchRequest, FileName, FoundFile, Hash, NodeId, SharedFile};

use super::NodeSession;
use crate::fetch_arguments::{self, FetchKey, SaveLocation};
use crate::human::files;
use crate::json::Fields;
use crate::lock::lock;
use crate::output::Reply;
use crate::views::ShareView;
use crate::{command, folders};

/// Maximum time that a command waits until the shares of earlier runs are restored. 5 s: checking
/// 100,000 unchanged files takes 1 s.
const RESTORE_WAIT: Duration = Duration::from_secs(5);

impl NodeSession {
    pub(super) async fn add(
        &self,
        path: PathBuf,
        to: &[String],
        ticket: bool,
    ) -> anyhow::Result<Reply> {
        let mut sharing = self.node.share(path).on_progress(self.bars.bar("hashing"));
        if ticket {
            sharing = sharing.with_ticket();
        }
        if !to.is_empty() {
            let mut nodes = Vec::new();
            for node in to {
                nodes.push(self.resolve_node(node).await?);
            }
            sharing = sharing.to_nodes(nodes);
        }
        let added = sharing.await?;
        let is_open = matches!(added.access, Access::Open);
        // An open share needs no ticket: the network finds it by its hash.
        let ticket = self.node.files().ticket_for(&added.shared).filter(|_| !is_open);
        let paint = self.output.paint();
        let text = files::added(paint, &added.shared, ticket.as_ref(), &added.skipped);
        let fields = Fields::default()
            .with("files", [&added.shared])
            .with_some("ticket", ticket.map(|ticket| ticket.to_string()))
            .with_skipped(&added.skipped);
        Ok(Reply { text, fields })
    }

    pub(super) async fn remove(&self, hash: &str) -> anyhow::Result<Reply> {
        let mut removed = Vec::new();
        // Copies of a file have the same hash, but each copy is a share of its own.
        for (path, _) in self.find_shares(hash).await? {
            removed.extend(self.node.files().unshare_path(&path).await?);
        }
        let paint = self.output.paint();
        let line = |file| format!("stopped sharing {}", files::file_line(paint, file));
        let text = removed.iter().map(line).collect::<Vec<_>>().join("\n");
        Ok(Reply::new(text).with("files", &removed))
    }

    pub(super) async fn refresh(&self) -> anyhow::Result<Reply> {
        self.wait_for_shares().await;
        let refreshed = self.node.files().refresh(self.bars.bar("hashing")).await?;
        let shares = ShareView::all(&self.node);
        let changed: Vec<&SharedFile> = refreshed.changed.iter().map(|(_, now)| now).collect();
        let removed = refreshed.removed.iter().map(|(path, file)| {
            let fields = Fields::default().with_path(path);
            file.iter().fold(fields, Fields::with_file)
        });
        let text = files::refreshed(self.output.paint(), &refreshed, &shares);
        let files: Vec<Fields> = shares.iter().map(ShareView::file_fields).collect();
        let fields = Fields::default()
            .with("files", files)
            .with("changed", changed)
            .with("removed", removed.collect::<Vec<_>>())
            .with_skipped(&refreshed.skipped);
        Ok(Reply { text, fields })
    }

    pub(super) async fn files(&self, share: Option<String>, skip: usize) -> anyhow::Result<Reply> {
        let (shares, restoring) = match share {
            None => {
                let restoring = !self.wait_for_shares().await;
                (ShareView::all(&self.node), restoring)
            }
            Some(share) => {
                let shares = self.find_shares(&share).await?.into_iter();
                let view = |(path, file)| ShareView::one(&self.node, path, file, skip);
                (shares.map(view).collect(), false)
            }
        };
        let reply = Reply::new(files::shared(self.output.paint(), &shares, restoring));
        let fields: Vec<Fields> = shares.iter().map(ShareView::fields).collect();
        Ok(reply.with("files", fields).with_some("restoring", restoring))
    }

    pub(super) async fn search(&self, text: &str) -> anyhow::Result<Reply> {
        let found = self.node.search(text).await?;
        // If nothing was found, the results of the last successful search are kept.
        if !found.is_empty() {
            *lock(&self.found) = found.iter().map(|found| found.file.clone()).collect();
        }
        let here = self.node.id();
        let fields = found.iter().map(|FoundFile { file, sources }| {
            let sources: Vec<NodeId> = sources.iter().map(|source| source.id).collect();
            let is_here = sources.contains(&here);
            let fields = Fields::default().with_file(file).with("sources", sources);
            fields.with_some("here", is_here)
        });
        let text = files::found(self.output.paint(), &found, here);
        Ok(Reply::new(text).with("files", fields.collect::<Vec<_>>()))
    }

    /// Returns the identity of a node, given as its whole identity, or as the name or first digits of a
    /// known node.
    async fn resolve_node(&self, text: &str) -> anyhow::Result<NodeId> {
        match text.parse::<NodeId>() {
            Ok(_) => command::parse_identity(text).map_err(|error| anyhow!(error)),
            Err(_) => Ok(self.node.network().find_node(text).await?.id()),
        }
    }

    /// Returns the fetch that a `get` command asks for.
    pub(super) async fn fetch_request(
        &self,
        line: &str,
        from: &[String],
        force: bool,
    ) -> anyhow::Result<FetchRequest> {
        let (wanted, name, path) = {
            // The block ends the lock before the task waits for the network.
            let found = lock(&self.found);
            fetch_arguments::read(line, &found).map_err(|error| anyhow!(error))?
        };
        // At the prompt `-` would mix the file with the output of the node.
        if path.as_deref() == Some(Path::new("-")) {
            bail!(
                "a file can't go to standard output here, where the node prints its own: use `peerkit get \
                 TICKET -` in a shell"
            );
        }
        let request = match wanted {
            FetchKey::Ticket(ticket) if ticket.network != self.node.network().name() => bail!(
                "this ticket is for the network `{}`, and this node is in another one: \
                 `peerkit get TICKET` in a shell fetches from there",
                ticket.network
            ),
            FetchKey::Ticket(ticket) => FetchRequest::ticket(&ticket),
            FetchKey::Hash(hash) => FetchRequest::new(hash),
        };
        let request = match name {
            Some(name) => request.named(name),
            None => request,
        };
        let from = self.addresses(from).await?;
        let request = from.into_iter().fold(request.overwrite(force), FetchRequest::from);
        let destination = SaveLocation::new(path.as_deref(), &self.node.files().download_folder());
        Ok(destination.context("there is no current folder")?.apply_to(request))
    }

    /// Waits until the shares of earlier runs are restored. Returns false if this takes longer than
    /// [`RESTORE_WAIT`].
    async fn wait_for_shares(&self) -> bool {
        tokio::time::timeout(RESTORE_WAIT, self.node.files().restored()).await.is_ok()
    }

    /// Finds the share with this path or name, or all shares whose hash begins with `text`.
    async fn find_shares(&self, text: &str) -> anyhow::Result<Vec<(PathBuf, SharedFile)>> {
        self.wait_for_shares().await;
        let mut shares = self.node.files().shared_paths();
        let path = std::path::absolute(folders::expand_home(text)).unwrap_or_default();
        if let Some(at) = shares.iter().position(|(shared, _)| *shared == path) {
            return Ok(vec![shares.swap_remove(at)]);
        }
        let called = shares.iter().filter(|(_, file)| file.name.matches_name(text));
        match called.collect::<Vec<_>>()[..] {
            [] => {}
            [one] => return Ok(vec![one.clone()]),
            ref several => bail!(
                "{} shares have the name `{text}`: give the path of one, or the hash",
                several.len()
            ),
        }
        let hash = find_by_digits(text, shares.iter().map(|(_, file)| file.hash).collect())?;
        shares.retain(|(_, file)| Some(file.hash) == hash);
        if shares.is_empty() {
            bail!("`{text}` is not shared: `files` lists the shares");
        }
        Ok(shares)
    }

    /// Finds the download with this name, or the one whose hash begins with `text`.
    pub(super) fn find_download(&self, text: &str) -> anyhow::Result<Download> {
        let downloads = self.node.files().downloads();
        let named = downloads.iter().map(|download| (download.hash, download.name.as_ref()));
        match find_by_name_or_digits(text, named)? {
            Some(hash) => Ok(self.node.files().download(hash)?),
            None => bail!("`{text}` is not being fetched: `downloads` lists the fetches"),
        }
    }
}

/// Returns the hash of the only file with this name, else the hash that `text` is or begins.
fn find_by_name_or_digits<'a>(
    text: &str,
    named: impl Iterator<Item = (Hash, Option<&'a FileName>)> + Clone,
) -> anyhow::Result<Option<Hash>> {
    let is_called = |name: Option<&FileName>| name.is_some_and(|name| name.matches_name(text));
    let called = named.clone().filter(|(_, name)| is_called(*name)).map(|(hash, _)| hash);
    if let [hash] = called.collect::<Vec<_>>()[..] {
        return Ok(Some(hash));
    }
    find_by_digits(text, named.map(|(hash, _)| hash).collect())
}

/// Returns the hash that `text` is, or the one of `candidates` that begins with it.
fn find_by_digits(text: &str, candidates: Vec<Hash>) -> anyhow::Result<Option<Hash>> {
    if let Ok(hash) = text.parse() {
        return Ok(Some(hash));
    }
    fetch_arguments::find_by_digits(text, candidates.into_iter()).map_err(|error| anyhow!(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_digits_of_a_hash_select_it_if_they_are_unique() {
        let hashes = vec![Hash::of(b"a"), Hash::of(b"b"), Hash::of(b"a")];
        let text = hashes[0].to_string();
        let find = |text: &str| find_by_digits(text, hashes.clone());
        assert_eq!(find(&text[..6]).unwrap(), Some(hashes[0]));
        assert_eq!(find(&text[..6].to_uppercase()).unwrap(), Some(hashes[0]));
        assert_eq!(find(&format!("({}).", &text[..8])).unwrap(), Some(hashes[0]));
        assert_eq!(find("xyz").unwrap(), None);
        assert!(find("").unwrap_err().to_string().contains("2 hashes"));
        let (ab, c) = (FileName::new("a b").unwrap(), FileName::new("c").unwrap());
        let c = Some(&c);
        let named = [(hashes[0], Some(&ab)), (hashes[1], c), (Hash::of(b"c"), c)];
        let find_named = |text: &str| find_by_name_or_digits(text, named.into_iter());
        assert_eq!(find_named("a b").unwrap(), Some(hashes[0]));
        assert_eq!(find_named(&text[..6]).unwrap(), Some(hashes[0]));
        assert_eq!(find_named("c").unwrap(), None, "two downloads have this name");
        let other = Hash::of(b"other");
        assert_eq!(find(&other.to_string()).unwrap(), Some(other));
    }
}
