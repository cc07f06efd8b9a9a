//! Bans: nodes that this node's user or application keeps out. They are kept over restarts.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use peerkit_proto::id::NodeId;
use peerkit_proto::overlay::away::MAX_BANS;
use peerkit_proto::peer::Command;
use serde::{Deserialize, Serialize};

use crate::blocking;
use crate::clock::unix_millis;
use crate::error::Error;
use crate::lock::lock;
use crate::node::Node;
use crate::store::Store;

/// Maximum length of the reason of a ban, in bytes.
const MAX_WHY: usize = 200;

/// A ban of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct Ban {
    /// The banned node.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub id: NodeId,
    /// The time at which the ban ends, in milliseconds since 1970; `None` if it has no end.
    pub until: Option<u64>,
    /// The reason, for the user of this node.
    pub why: String,
}

/// A ban, as it is stored under the node's identity.
#[derive(Serialize, Deserialize)]
pub(crate) struct BanRow {
    pub(crate) until: Option<u64>,
    pub(crate) why: String,
}

impl Ban {
    /// Returns the time that is left, or `None` if the ban has no end.
    pub(crate) fn left(&self, now: u64) -> Option<Duration> {
        self.until.map(|until| Duration::from_millis(until.saturating_sub(now)))
    }

    fn has_ended(&self, now: u64) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// The bans of a node.
pub(crate) struct Bans {
    store: Store,
    by_node: Mutex<BTreeMap<NodeId, Ban>>,
    /// Held during a change, so that the store and the list have the same order of changes.
    change: tokio::sync::Mutex<()>,
}

impl Bans {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, by_node: Mutex::default(), change: tokio::sync::Mutex::default() }
    }

    /// Sets the bans that an earlier run of the node has stored. Returns those that have not ended.
    pub(crate) fn restore(&self, stored: Vec<Ban>) -> Vec<Ban> {
        let now = unix_millis();
        let bans = stored.into_iter().filter(|ban| !ban.has_ended(now));
        *lock(&self.by_node) = bans.map(|ban| (ban.id, ban)).collect();
        self.list()
    }

    pub(crate) fn contains(&self, id: NodeId) -> bool {
        lock(&self.by_node).get(&id).is_some_and(|ban| !ban.has_ended(unix_millis()))
    }

    fn list(&self) -> Vec<Ban> {
        let now = unix_millis();
        lock(&self.by_node).values().filter(|ban| !ban.has_ended(now)).cloned().collect()
    }

    /// Adds or replaces a ban.
    async fn add(&self, ban: Ban) -> Result<(), Error> {
        let _turn = self.change.lock().await;
        let now = unix_millis();
        let ended: Vec<NodeId> = {
            let mut by_node = lock(&self.by_node);
            let ended = by_node.values().filter(|ban| ban.has_ended(now)).map(|ban| ban.id);
            let ended: Vec<_> = ended.collect();
            by_node.retain(|_, ban| !ban.has_ended(now));
            if by_node.len() >= MAX_BANS && !by_node.contains_key(&ban.id) {
                return Err(Error::TooManyBans(MAX_BANS));
            }
            by_node.insert(ban.id, ban.clone());
            ended
        };
        let store = self.store.clone();
        blocking::try_run(move || store.save_ban(&ban, &ended)).await
    }

    /// Removes a ban, and returns it.
    async fn remove(&self, id: NodeId) -> Result<Ban, Error> {
        let _turn = self.change.lock().await;
        let removed = lock(&self.by_node).remove(&id);
        let store = self.store.clone();
        blocking::try_run(move || store.remove_ban(id)).await?;
        removed.filter(|ban| !ban.has_ended(unix_millis())).ok_or(Error::NotBanned(id))
    }
}

impl Node {
    /// Bans a node, for a time or for ever. Its link and streams end, and both users see that it was banned.
    /// This node neither accepts nor dials it, opens no stream to it and accepts none from it, does not fetch from it,
    /// and drops messages from it that other nodes relay. Its broadcasts are still received and passed on.
    ///
    /// The ban holds for the identity. Other nodes at the same address are not affected. It is kept over
    /// restarts. `why` is shown in [`Node::bans`], in at most 200 bytes.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
    /// # let ann = peerkit::Node::builder().listen("127.0.0.1:0").spawn().await?;
    /// # let bob = peerkit::Node::builder().spawn().await?;
    /// # bob.connect(ann.listening()[0]).await?;
    /// use std::time::Duration;
    ///
    /// ann.ban(bob.id(), Some(Duration::from_secs(3600)), "sends nonsense").await?;
    /// assert_eq!(ann.bans()[0].why, "sends nonsense");
    /// ann.unban(bob.id()).await?;
    /// # ann.shutdown().await; bob.shutdown().await; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ThisNode`], [`Error::NotAKey`] if no node can have this identity, [`Error::TooManyBans`],
    /// [`Error::Stopped`], and a store error. After a store error the ban holds until the node stops.
    pub async fn ban(
        &self,
        node: impl Into<NodeId>,
        time: Option<Duration>,
        why: impl Into<String>,
    ) -> Result<Ban, Error> {
        let id = node.into().checked()?;
        if id == self.id() {
            return Err(Error::ThisNode);
        }
        let mut why = why.into();
        why.truncate(why.floor_char_boundary(MAX_WHY));
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let until = time.map(|time| unix_millis().saturating_add(millis(time)));
        let ban = Ban { id, until, why };
        let stored = self.inner.bans.add(ban.clone()).await;
        if !matches!(stored, Err(Error::TooManyBans(_))) {
            self.inner.streams.open.end(id);
            self.inner.actor.call(move |actor| actor.command(Command::Ban(id, time))).await?;
        }
        stored.map(|()| ban)
    }

    /// Ends the ban of a node, and returns the ban.
    ///
    /// # Errors
    /// [`Error::NotBanned`] if the node is not banned, [`Error::Stopped`], and a store error.
    pub async fn unban(&self, node: impl Into<NodeId>) -> Result<Ban, Error> {
        let id = node.into();
        let ban = self.inner.bans.remove(id).await?;
        self.inner.actor.call(move |actor| actor.command(Command::Unban(id))).await?;
        Ok(ban)
    }

    /// Returns the bans that have not ended, by identity.
    #[must_use]
    pub fn bans(&self) -> Vec<Ban> {
        self.inner.bans.list()
    }

    /// Reports a node that has misbehaved. Its link is closed, and its user sees `why` in at most 200 bytes. Its open
    /// streams end, and transfers with them. For ten minutes this node refuses links with it and does not dial it by
    /// itself, as after a violation of the protocol. A [`connect`](Self::connect) to the node ends that. Only a
    /// [`ban`](Self::ban) also refuses new streams.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn penalize(
        &self,
        node: impl Into<NodeId>,
        why: impl Into<String>,
    ) -> Result<(), Error> {
        let (id, why) = (node.into(), why.into());
        self.inner.actor.call(move |actor| actor.penalize(id, why)).await
    }
}
