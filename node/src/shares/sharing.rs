//! The builder behind [`Node::share`](crate::Node::share).

use std::path::PathBuf;
use std::pin::Pin;

use peerkit_proto::id::NodeId;

use super::{Added, Progress, ShareOptions, Shares};
use crate::error::Error;

/// A file or folder that is about to be shared: see [`Node::share`](crate::Node::share). Await it to
/// share.
///
/// By default everyone may have it, and it is shared again after a restart if the node has a state
/// folder. Sharing a path again with other settings replaces the earlier ones.
///
/// Dropping the future that shares stops it, and nothing has changed then.
#[must_use = "nothing is shared until this is awaited"]
pub struct Sharing {
    shares: Shares,
    path: PathBuf,
    options: ShareOptions,
    progress: Box<dyn FnMut(Progress) + Send>,
}

impl Sharing {
    pub(crate) fn new(shares: Shares, path: PathBuf) -> Self {
        Self { shares, path, options: ShareOptions::default(), progress: Box::new(|_| {}) }
    }

    /// Shares with these nodes only. For all others it is as if it were not there.
    pub fn to_nodes(mut self, nodes: impl Into<Vec<NodeId>>) -> Self {
        self.options = self.options.for_nodes(nodes.into());
        self
    }

    /// Shares with every node that has a [ticket](crate::FilesHandle::ticket). The secret in the ticket
    /// stays the same for as long as this is shared so, also over a restart; sharing it openly in
    /// between makes earlier tickets void. A share that is not [remembered](Self::remember) has the
    /// same secret whenever the same content is shared with the same key.
    pub fn with_ticket(mut self) -> Self {
        self.options = self.options.with_ticket();
        self
    }

    /// Sets whether it is shared again after a restart, if the node has a state folder; it is by
    /// default.
    pub fn remember(mut self, remember: bool) -> Self {
        self.options = self.options.remember(remember);
        self
    }

    /// Calls `progress` while files are hashed, on another thread.
    pub fn on_progress(mut self, progress: impl FnMut(Progress) + Send + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }
}

impl IntoFuture for Sharing {
    type Output = Result<Added, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            for id in self.options.nodes() {
                id.checked()?;
            }
            Ok(self.shares.add_with(self.path, self.options, self.progress).await?)
        })
    }
}

impl std::fmt::Debug for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sharing({:?}, {:?})", self.path, self.options)
    }
}
