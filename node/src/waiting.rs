//! The messages that wait for nodes without a link, and the ways to such nodes that are known.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use peerkit_proto::event::Peer;
use peerkit_proto::frame::query::QueryId;
use peerkit_proto::id::NodeId;
use peerkit_proto::message::Message;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::Error;
use crate::lock::lock;

/// Ways that are remembered. 256: five new recipients a second, for as long as a way is good.
const MAX_WAYS: usize = 256;

/// The messages that wait for nodes without a link.
#[derive(Debug, Default)]
pub(crate) struct Directs {
    recipients: Mutex<HashMap<NodeId, Waiting>>,
    /// How many recipients there are: mostly none, which is seen without the lock.
    busy: AtomicUsize,
    /// Ways that queries have found, and until when all on them remember it.
    ways: Mutex<HashMap<NodeId, (QueryId, Instant)>>,
}

/// What waits for one recipient.
#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Direct>,
    bytes: usize,
}

/// A message, and who is told how it went.
#[derive(Debug)]
pub(crate) struct Direct {
    pub(crate) message: Message,
    pub(crate) told: Told,
}

/// Who is told how it went with a message.
#[derive(Debug)]
pub(crate) enum Told {
    /// Whoever waits for it.
    Caller(oneshot::Sender<Result<(), Error>>),
    /// The application's handler, where it failed.
    Handler(Peer),
}

impl Directs {
    /// Whether messages wait for this recipient: what is sent later waits behind them.
    #[inline]
    pub(crate) fn wait_for(&self, id: NodeId) -> bool {
        self.busy.load(Ordering::Relaxed) != 0 && self.recipients().contains_key(&id)
    }

    /// Nobody is told any more.
    pub(crate) fn clear(&self) {
        self.recipients().clear();
    }

    /// Adds a message: true where it is the first, whose task is to be started. An empty queue takes
    /// one of any size.
    pub(crate) fn add(&self, id: NodeId, direct: Direct, limit: usize) -> Result<bool, Direct> {
        let mut recipients = self.recipients();
        let new = !recipients.contains_key(&id);
        let waiting = recipients.entry(id).or_default();
        let bytes = waiting.bytes.saturating_add(direct.message.body().len());
        if !waiting.queue.is_empty() && bytes > limit {
            return Err(direct);
        }
        waiting.bytes = bytes;
        waiting.queue.push_back(direct);
        self.busy.store(recipients.len(), Ordering::Relaxed);
        Ok(new)
    }

    /// The next message for a recipient; where there is none its task is done.
    pub(crate) fn next(&self, id: NodeId) -> Option<Direct> {
        let mut recipients = self.recipients();
        let waiting = recipients.get_mut(&id)?;
        let next = waiting.queue.pop_front();
        match &next {
            Some(direct) => waiting.bytes -= direct.message.body().len(),
            None => drop(recipients.remove(&id)),
        }
        self.busy.store(recipients.len(), Ordering::Relaxed);
        next
    }

    pub(crate) fn way(&self, id: NodeId) -> Option<QueryId> {
        let ways = self.ways();
        ways.get(&id).filter(|(_, until)| *until > Instant::now()).map(|(query, _)| *query)
    }

    pub(crate) fn remember(&self, id: NodeId, query: QueryId, until: Instant) {
        let mut ways = self.ways();
        if ways.len() >= MAX_WAYS {
            let now = Instant::now();
            ways.retain(|_, (_, until)| *until > now);
        }
        if ways.len() < MAX_WAYS {
            ways.insert(id, (query, until));
        }
    }

    fn recipients(&self) -> MutexGuard<'_, HashMap<NodeId, Waiting>> {
        lock(&self.recipients)
    }

    fn ways(&self) -> MutexGuard<'_, HashMap<NodeId, (QueryId, Instant)>> {
        lock(&self.ways)
    }
}
