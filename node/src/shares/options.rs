//! How something is to be shared.

use peerkit_proto::files::access::SECRET_LEN;
use peerkit_proto::files::{Access, Secret};
use peerkit_proto::id::NodeId;

use super::ShareError;

/// How something is to be shared: with whom, and whether a restart changes that.
///
/// By default with everyone, and again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ShareOptions {
    wish: Wish,
    forget: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Wish {
    #[default]
    Open,
    Nodes(Vec<NodeId>),
    Ticket,
}

/// What has been agreed on for a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) access: Access,
    pub(super) remember: bool,
}

impl ShareOptions {
    /// With these nodes only.
    pub(crate) fn for_nodes(mut self, nodes: Vec<NodeId>) -> Self {
        self.wish = Wish::Nodes(nodes);
        self
    }

    /// With every node that has a ticket.
    pub(crate) fn with_ticket(mut self) -> Self {
        self.wish = Wish::Ticket;
        self
    }

    /// Returns the nodes that it is for, if it is for named ones.
    pub(crate) fn nodes(&self) -> &[NodeId] {
        match &self.wish {
            Wish::Nodes(nodes) => nodes,
            Wish::Open | Wish::Ticket => &[],
        }
    }

    /// Sets whether it is shared again after a restart.
    pub(crate) fn remember(mut self, remember: bool) -> Self {
        self.forget = !remember;
        self
    }

    /// What they come to for what was shared with `before`, if it was. `again` is the secret that
    /// what is not remembered gets each time.
    ///
    /// # Errors
    /// Where a secret is to be drawn and the system has no random numbers.
    pub(super) fn terms(
        &self,
        before: Option<&Access>,
        again: Option<Secret>,
    ) -> Result<Terms, ShareError> {
        let access = match (&self.wish, before) {
            (Wish::Open, _) => Access::Open,
            (Wish::Nodes(nodes), _) => Access::Nodes(nodes.clone()),
            (Wish::Ticket, Some(Access::Ticket(secret))) => Access::Ticket(*secret),
            (Wish::Ticket, _) => Access::Ticket(match again.filter(|_| self.forget) {
                Some(secret) => secret,
                None => draw_secret()?,
            }),
        };
        Ok(Terms { access, remember: !self.forget })
    }
}

fn draw_secret() -> Result<Secret, ShareError> {
    let mut bytes = [0; SECRET_LEN];
    getrandom::fill(&mut bytes).map_err(|error| ShareError::NoChance(error.to_string()))?;
    Ok(Secret::from_bytes(bytes))
}
