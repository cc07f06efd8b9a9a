//! The settings of a share, and the builder behind [`Node::share`](crate::Node::share).

use std::path::PathBuf;
use std::pin::Pin;

use peerkit_proto::files::access::SECRET_LEN;
use peerkit_proto::files::{Access, Secret};
use peerkit_proto::id::NodeId;

use super::{Added, HashProgress, ShareError, Shares};
use crate::error::Error;

/// A file or folder to share, with its settings: see [`Node::share`](crate::Node::share). Await it to share.
///
/// By default every node may have it, and it is shared again after a restart if the node has a state
/// folder. Sharing a path again with other settings replaces the earlier ones.
///
/// Dropping the future before it is done shares nothing.
#[must_use = "nothing is shared until this is awaited"]
pub struct Sharing {
    shares: Shares,
    path: PathBuf,
    options: ShareOptions,
    progress: Box<dyn FnMut(HashProgress) + Send>,
}

impl Sharing {
    pub(crate) fn new(shares: Shares, path: PathBuf) -> Self {
        Self { shares, path, options: ShareOptions::default(), progress: Box::new(|_| {}) }
    }

    /// Shares with these nodes only. Others can neither find nor fetch it.
    pub fn to_nodes(mut self, nodes: impl Into<Vec<NodeId>>) -> Self {
        self.options.audience = Audience::Nodes(nodes.into());
        self
    }

    /// Shares with every node that has a [ticket](crate::FilesHandle::ticket). The secret in the ticket stays
    /// the same as long as this path is shared with tickets, even after a restart. Sharing it openly in
    /// between makes earlier tickets void. A share that is not [remembered](Self::remember) has the same
    /// secret whenever a node with the same key shares the same content.
    pub fn with_ticket(mut self) -> Self {
        self.options.audience = Audience::TicketHolders;
        self
    }

    /// Sets whether it is shared again after a restart, if the node has a state folder; on by default.
    pub fn remember(mut self, remember: bool) -> Self {
        self.options.is_temporary = !remember;
        self
    }

    /// Keeps the settings of an earlier share of the same path, if there is one. The other settings then have
    /// no effect, and [`Added`] has the earlier ones.
    pub fn keep_earlier(mut self) -> Self {
        self.options.keeps_earlier = true;
        self
    }

    /// Calls `progress` on another thread while files are hashed.
    pub fn on_progress(mut self, progress: impl FnMut(HashProgress) + Send + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }
}

impl IntoFuture for Sharing {
    type Output = Result<Added, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            if let Audience::Nodes(nodes) = &self.options.audience {
                // No node can prove such an identity, so a share for it can only be a mistake of the caller.
                nodes.iter().try_for_each(|id| id.checked().map(drop))?;
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

/// The settings of a share. By default it is for every node, and shared again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ShareOptions {
    pub(crate) audience: Audience,
    /// If true, it is not shared again after a restart.
    pub(crate) is_temporary: bool,
    /// If true, an earlier share of the same path keeps its settings.
    pub(crate) keeps_earlier: bool,
}

/// The nodes that a share is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Audience {
    #[default]
    Everyone,
    Nodes(Vec<NodeId>),
    TicketHolders,
}

/// The settings of a share, with the secret of its tickets if it has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) access: Access,
    pub(super) remember: bool,
}

impl ShareOptions {
    /// Returns the terms of a share. `before` has its earlier terms, if the path is shared already. `derived`
    /// is the secret that a temporary share gets each time.
    ///
    /// # Errors
    /// If a secret has to be drawn and the system has no random numbers.
    pub(super) fn terms(
        self,
        before: Option<Terms>,
        derived: Option<Secret>,
    ) -> Result<Terms, ShareError> {
        let before = match before {
            Some(terms) if self.keeps_earlier => return Ok(terms),
            before => before.map(|terms| terms.access),
        };
        let access = match (self.audience, before) {
            (Audience::Everyone, _) => Access::Open,
            (Audience::Nodes(nodes), _) => Access::Nodes(nodes),
            // Tickets that were given out before stay valid.
            (Audience::TicketHolders, Some(Access::Ticket(secret))) => Access::Ticket(secret),
            // A remembered share has its secret in the store. Only a temporary share needs the derived one.
            (Audience::TicketHolders, _) => match derived.filter(|_| self.is_temporary) {
                Some(secret) => Access::Ticket(secret),
                None => {
                    let mut bytes = [0; SECRET_LEN];
                    getrandom::fill(&mut bytes).map_err(ShareError::NoRandomNumbers)?;
                    Access::Ticket(Secret::from_bytes(bytes))
                }
            },
        };
        Ok(Terms { access, remember: !self.is_temporary })
    }
}
