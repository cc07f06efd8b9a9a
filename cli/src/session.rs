//! A running node, with everything that commands need.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{anyhow, bail};
use peerkit::{Address, Download, FileName, Hash, Node, NodeId, Peer, SharedFile};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::event_log::EventLog;
use crate::fetches::Fetches;
use crate::held_shares::HeldShares;
use crate::join::ExpectedDialFailures;
use crate::log::LogSwitch;
use crate::output::Printer;
use crate::settings::SettingOrigins;
use crate::views::{KnownView, PeerView};
use crate::{address, fetch_arguments, folders};

/// Maximum time that a command waits until the shares of earlier runs are restored. 5 s: checking
/// 100,000 unchanged files takes 1 s.
const RESTORE_WAIT: Duration = Duration::from_secs(5);

/// A running node, with everything that commands need.
pub(crate) struct NodeSession {
    pub(crate) node: Node,
    /// The state folder.
    pub(crate) state: PathBuf,
    /// The results of the last successful search, which completion and `get` use.
    pub(crate) found: SearchResults,
    pub(crate) log: LogSwitch,
    /// The origins of the settings.
    pub(crate) origins: SettingOrigins,
    pub(crate) output: Printer,
    /// Dials whose failures are reported by results and not by events.
    pub(crate) expected: ExpectedDialFailures,
    /// The fetches that `get` has begun.
    pub(crate) fetches: Fetches,
    /// The shares that last as long as a request.
    pub(crate) held: HeldShares,
    /// The attempt to join that `run` began, which continues in the background.
    pub(crate) joining: Mutex<Option<AbortHandle>>,
    /// Cancelled once the first attempt to join through the given addresses has ended, or at once if none
    /// were given.
    pub(crate) first_join: CancellationToken,
    pub(crate) event_log: EventLog,
    /// Cancelled when the node is to stop.
    pub(crate) stop: CancellationToken,
}

/// The results of the last successful search, shared with the prompt.
pub(crate) type SearchResults = Arc<Mutex<Vec<SharedFile>>>;

impl NodeSession {
    pub(crate) async fn known(&self) -> anyhow::Result<Vec<KnownView>> {
        let known = self.node.network().known_peers().await?;
        Ok(known.into_iter().map(KnownView::from).collect())
    }

    /// Returns the addresses that texts stand for. A text is an address, or the name or identity of a
    /// known node.
    pub(crate) async fn addresses(&self, texts: &[String]) -> anyhow::Result<Vec<Address>> {
        let mut addresses = Vec::new();
        for text in texts {
            addresses.extend(self.node.network().find_addresses(text).await?);
        }
        Ok(addresses)
    }

    /// Returns the path of the file that `save` writes and `load` reads.
    pub(crate) fn peers_file(&self, given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
        let Some(given) = given else { return folders::absolute(&self.state.join("peers.json")) };
        folders::must_be_absolute(&given)?;
        Ok(given)
    }

    /// Returns the view of a peer as it was when `peer` was made.
    pub(crate) fn view(&self, peer: &Peer) -> PeerView {
        PeerView::new(&self.node, peer)
    }

    /// Returns the view of a peer as it is now, since the command may have made a link to it.
    pub(crate) fn view_now(&self, peer: Peer) -> PeerView {
        self.view(&self.node.peer(peer.id()).unwrap_or(peer))
    }

    pub(crate) fn views(&self, peers: &[Peer]) -> Vec<PeerView> {
        peers.iter().map(|peer| self.view(peer)).collect()
    }

    /// Returns the identity of a node, given as its whole identity, or as the name or first digits of a
    /// known node.
    pub(crate) async fn resolve_node(&self, text: &str) -> anyhow::Result<NodeId> {
        match text.parse::<NodeId>() {
            Ok(_) => address::parse_identity(text).map_err(|error| anyhow!(error)),
            Err(_) => Ok(self.node.network().find_node(text).await?.id()),
        }
    }

    /// Waits until the shares of earlier runs are restored. Returns false if this takes longer than
    /// [`RESTORE_WAIT`].
    pub(crate) async fn wait_for_shares(&self) -> bool {
        tokio::time::timeout(RESTORE_WAIT, self.node.files().restored()).await.is_ok()
    }

    /// Finds the share with this path or name, or all shares of the only content whose hash begins with `text`.
    /// The path in a request of another process has to be absolute.
    pub(crate) async fn find_shares(
        &self,
        text: &str,
        is_request: bool,
    ) -> anyhow::Result<Vec<(PathBuf, SharedFile)>> {
        self.wait_for_shares().await;
        let mut shares = self.node.files().shared_paths();
        let path = if is_request {
            // A name has no separator, so this is a path.
            if text.contains(std::path::is_separator) {
                folders::must_be_absolute(text.as_ref())?;
            }
            PathBuf::from(text)
        } else {
            std::path::absolute(folders::expand_home(text)).unwrap_or_default()
        };
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
    pub(crate) fn find_download(&self, text: &str) -> anyhow::Result<Download> {
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
