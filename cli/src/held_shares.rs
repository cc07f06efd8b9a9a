//! Shares that last as long as a request, such as those of `peerkit share`.
//!
//! Several requests may hold the share of one path at the same time. It ends with the last of them. If the
//! user shares the path too, before or meanwhile, the user's share stays, with the access that the user gave it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use peerkit::{Access, Added, Node, NodeId};
use tokio::sync::{Mutex, oneshot};

use crate::{shell_words, text};

/// The shares of a node that requests hold. Clones share them. The limits of the API bound their number.
#[derive(Clone, Default)]
pub(crate) struct HeldShares(Arc<Mutex<HeldPaths>>);

#[derive(Default)]
struct HeldPaths {
    requests: BTreeMap<PathBuf, Vec<HeldRequest>>,
    /// The number of the next request.
    next: u64,
}

/// A request that holds a share.
struct HeldRequest {
    number: u64,
    /// The nodes that can fetch with the ticket of this request; `None` until the path is shared.
    audience: Option<Audience>,
    /// Ends the request early.
    end: Option<oneshot::Sender<ShareEnding>>,
}

/// The reason why a share ends before the request that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShareEnding {
    #[error("it is no longer shared, because `remove` was typed")]
    Removed,
    #[error("`add` has shared it again, for other nodes, so this ticket no longer works")]
    Replaced,
}

/// The nodes that a share is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Audience {
    Everyone,
    TicketHolders,
    Nodes(Vec<NodeId>),
}

impl Audience {
    /// Returns whether every node that can fetch a share for `other` can also fetch one for `self`. A share
    /// that stays one for holders of tickets keeps its secret.
    fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Everyone, _) | (Self::TicketHolders, Self::TicketHolders) => true,
            (Self::Nodes(all), Self::Nodes(some)) => some.iter().all(|node| all.contains(node)),
            _ => false,
        }
    }

    fn words(&self) -> &'static str {
        match self {
            Self::Everyone => "with every node of the network",
            Self::TicketHolders => "with the nodes that have its ticket",
            Self::Nodes(_) => "with the nodes that were named for it",
        }
    }
}

impl From<&Access> for Audience {
    fn from(access: &Access) -> Self {
        match access {
            Access::Open => Self::Everyone,
            Access::Nodes(nodes) => Self::Nodes(nodes.clone()),
            // Later versions of the library may add kinds of access.
            _ => Self::TicketHolders,
        }
    }
}

impl HeldShares {
    /// Begins to hold the share of `path`, which is without symbolic links. The path may be shared afterwards.
    pub(crate) async fn hold(&self, node: &Node, path: &Path) -> HoldGuard {
        let mut held = self.0.lock().await;
        let number = held.next;
        held.next = held.next.wrapping_add(1);
        let (end, ending) = oneshot::channel();
        let request = HeldRequest { number, audience: None, end: Some(end) };
        held.requests.entry(path.to_owned()).or_default().push(request);
        let (held, node, path) = (self.clone(), node.clone(), path.to_owned());
        HoldGuard { held, node, path, number, ending }
    }

    /// Checks that a new share of `path` for `audience` leaves the tickets of the requests valid.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) async fn allow(&self, path: &Path, audience: &Audience) -> anyhow::Result<()> {
        let held = self.0.lock().await;
        let mut requests = held.requests.get(path).into_iter().flatten();
        let broken = requests.find_map(|request| {
            request.audience.as_ref().filter(|promised| !audience.includes(promised))
        });
        if let Some(promised) = broken {
            bail!(
                "`peerkit share` shares {} {}, and its ticket would stop working: stop that command first",
                name(path),
                promised.words()
            );
        }
        Ok(())
    }

    /// Ends the requests whose tickets are no longer valid because the path is now shared for `audience`.
    pub(crate) async fn replaced(&self, path: &Path, audience: &Audience) {
        self.end(path, ShareEnding::Replaced, |promised| !audience.includes(promised)).await;
    }

    /// Ends the requests that hold the share of `path`, which was removed.
    pub(crate) async fn removed(&self, path: &Path) {
        self.end(path, ShareEnding::Removed, |_| true).await;
    }

    async fn end(&self, path: &Path, ending: ShareEnding, ends: impl Fn(&Audience) -> bool) {
        let mut held = self.0.lock().await;
        let requests = held.requests.get_mut(path).into_iter().flatten();
        for request in requests.filter(|request| request.audience.as_ref().is_some_and(&ends)) {
            if let Some(end) = request.end.take() {
                // The request may have ended already.
                let _ = end.send(ending);
            }
        }
    }
}

/// A request's hold on a share. When it is dropped, the share ends, unless another request holds it or the
/// user shares the path too.
pub(crate) struct HoldGuard {
    held: HeldShares,
    node: Node,
    path: PathBuf,
    number: u64,
    ending: oneshot::Receiver<ShareEnding>,
}

impl HoldGuard {
    /// Accepts the share of the path: from now on no `add` may make its ticket invalid. If the path was shared
    /// already, returns a note about this for the user.
    ///
    /// # Errors
    /// If the path was shared already and the earlier share is not for the nodes that were `wanted`.
    pub(crate) async fn accept(
        &self,
        added: &Added,
        wanted: &Audience,
    ) -> anyhow::Result<Option<String>> {
        let audience = Audience::from(&added.access);
        let is_suitable = match (&audience, wanted) {
            // Every node has access already, and so the ticket works. A share for named nodes promises that
            // no other node has access.
            (Audience::Everyone, Audience::TicketHolders) => true,
            _ => audience.includes(wanted) && wanted.includes(&audience),
        };
        let (name, words) = (name(&self.path), audience.words());
        if !is_suitable {
            let by = if added.is_remembered { "" } else { ", by another `peerkit share`" };
            bail!(
                "{name} is already shared {words}{by}, and that share stays as it is: add `--listen 0` to share \
                 it with a node of its own, or end the other share first with `peerkit remove {}`",
                shell_words::path(&self.path.to_string_lossy())
            );
        }
        let mut held = self.held.0.lock().await;
        let mut requests = held.requests.get_mut(&self.path).into_iter().flatten();
        if let Some(request) = requests.find(|request| request.number == self.number) {
            request.audience = Some(audience);
        }
        Ok(added.is_remembered.then(|| {
            format!("{name} is already shared {words}, and stays so when this command ends")
        }))
    }

    /// Waits until the share ends although its request goes on.
    pub(crate) async fn ended_early(&mut self) -> ShareEnding {
        (&mut self.ending).await.unwrap_or(ShareEnding::Removed)
    }
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        let (held, node, number) = (self.held.clone(), self.node.clone(), self.number);
        let path = std::mem::take(&mut self.path);
        tokio::spawn(async move {
            // Locked until the share has ended: a new request for the path waits, and then shares it again.
            let mut held = held.0.lock().await;
            let Some(requests) = held.requests.get_mut(&path) else { return };
            requests.retain(|request| request.number != number);
            if requests.is_empty() {
                held.requests.remove(&path);
                if let Err(error) = node.files().unshare_temporary(&path).await {
                    tracing::warn!(%error, "a share that a request held may stay");
                }
            }
        });
    }
}

/// Returns the name of a path for a text.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    text::plain(&name.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn an_audience_includes_those_whose_nodes_have_access_too() {
        let [a, b] = [[1; 32], [2; 32]].map(NodeId::from_bytes);
        let [everyone, holders] = [Audience::Everyone, Audience::TicketHolders];
        let [one, both] = [vec![a], vec![b, a]].map(Audience::Nodes);
        assert!(everyone.includes(&holders) && everyone.includes(&one));
        assert!(holders.includes(&holders) && both.includes(&one));
        for (audience, other) in
            [(&holders, &everyone), (&holders, &one), (&one, &holders), (&one, &both)]
        {
            assert!(!audience.includes(other), "{audience:?}, {other:?}");
        }
    }

    /// Returns a folder with one file, the path of the file, and a node with its held shares.
    async fn film() -> (TempDir, PathBuf, Node, HeldShares) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("film");
        fs::write(&path, "film").unwrap();
        let path = dunce::canonicalize(path).unwrap();
        (folder, path, Node::builder().spawn().await.unwrap(), HeldShares::default())
    }

    /// Waits until the node shares as many paths.
    async fn wait_for_shares(node: &Node, count: usize) {
        while node.files().shares().len() != count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_share_ends_with_the_last_request_that_holds_it() {
        let (_folder, path, node, held) = film().await;
        let share = || node.share(&path).remember(false).with_ticket().keep_earlier();
        let wanted = Audience::TicketHolders;

        let first = held.hold(&node, &path).await;
        assert_eq!(first.accept(&share().await.unwrap(), &wanted).await.unwrap(), None);
        let second = held.hold(&node, &path).await;
        assert_eq!(second.accept(&share().await.unwrap(), &wanted).await.unwrap(), None);
        drop(first);
        while held.0.lock().await.requests[&path].len() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(node.files().shares().len(), 1);
        // The next request begins while the share of the last one ends.
        drop(second);
        let third = held.hold(&node, &path).await;
        third.accept(&share().await.unwrap(), &wanted).await.unwrap();
        while held.0.lock().await.requests[&path].len() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(node.files().shares().len(), 1);
        drop(third);
        wait_for_shares(&node, 0).await;
        node.shutdown().await;
    }

    #[tokio::test]
    async fn a_request_gets_no_share_for_other_nodes_and_keeps_its_own() {
        let (_folder, path, node, held) = film().await;
        let for_one = Audience::Nodes(vec![node.id()]);
        let share = || node.share(&path).remember(false).with_ticket().keep_earlier();

        node.share(&path).await.unwrap();
        let mut guard = held.hold(&node, &path).await;
        let added = share().await.unwrap();
        assert_eq!(added.access, Access::Open);
        let error = guard.accept(&added, &for_one).await.unwrap_err().to_string();
        assert!(error.contains("with every node") && error.contains("--listen 0"), "{error}");
        let note = guard.accept(&added, &Audience::TicketHolders).await.unwrap().unwrap();
        assert!(note.contains("with every node"), "{note}");

        // The ticket works without a secret, and so only as long as every node has access.
        assert!(held.allow(&path, &Audience::TicketHolders).await.is_err());
        assert!(held.allow(&path, &Audience::Everyone).await.is_ok());
        held.replaced(&path, &Audience::Everyone).await;
        assert!(guard.ending.try_recv().is_err());
        held.replaced(&path, &for_one).await;
        assert_eq!(guard.ended_early().await, ShareEnding::Replaced);
        drop(guard);
        while !held.0.lock().await.requests.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(node.files().shares().len(), 1, "the user's share stays");
        node.shutdown().await;
    }
}
