//! The links that `peerkit run` begins with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peerkit::{Address, Error, Event, Node, NodeId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::output::Output;
use crate::text::count;

/// How long a dead node may keep the report of all of them waiting. 12 s: by then a dial has failed.
const DIALS_END: Duration = Duration::from_secs(12);

/// Dials at the start whose failures are reported together, or by the command line's own words: not
/// each by its event. Clones are one.
#[derive(Clone, Default)]
pub(crate) struct Expected(Arc<State>);

#[derive(Default)]
struct State {
    dials: Mutex<Dials>,
    failed: Notify,
}

#[derive(Default)]
struct Dials {
    /// Peers of earlier runs, by the addresses that they are dialled at.
    known: BTreeMap<Address, NodeId>,
    /// Those of them that did not answer.
    dead: BTreeSet<NodeId>,
    /// Addresses whose failures are reported by what `join` says.
    named: BTreeSet<Address>,
}

impl Expected {
    /// Takes an event that something else reports. Returns whether it is one.
    pub(crate) fn takes(&self, event: &Event) -> bool {
        let Event::OutboundNodeConnectionError { address, .. } = event else { return false };
        let mut dials = self.lock();
        if let Some(id) = dials.known.get(address).copied() {
            dials.dead.insert(id);
            self.0.failed.notify_waiters();
            return true;
        }
        dials.named.contains(address)
    }

    fn lock(&self) -> MutexGuard<'_, Dials> {
        self.0.dials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expects the dials of peers of earlier runs, and of bootstrap nodes.
    async fn expect(&self, node: &Node) {
        let known = node.known_peers().await.unwrap_or_default();
        let mut dials = self.lock();
        for (id, peer) in known {
            let addresses = peer.addresses.into_iter();
            dials.known.extend(addresses.map(|address| (address.with_id(id), id)));
        }
        dials.named.extend(node.bootstrap_nodes());
    }

    /// Says on one line how many peers of earlier runs did not answer, once that is known. From then
    /// on failures are reported as any others.
    async fn report(&self, node: &Node, output: &Output) {
        let until = Instant::now() + DIALS_END;
        loop {
            let failed = self.0.failed.notified();
            let pending = {
                let dials = self.lock();
                let mut ids = dials.known.values();
                ids.any(|id| !dials.dead.contains(id) && node.peer(*id).is_none())
            };
            if !pending || tokio::time::timeout_at(until, failed).await.is_err() {
                break;
            }
        }
        let dead = {
            let mut dials = self.lock();
            dials.known.clear();
            std::mem::take(&mut dials.dead)
        };
        let dead = dead.into_iter().filter(|id| node.peer(*id).is_none()).count();
        if dead > 0 {
            output
                .warning(format!("{} known from before did not answer", count(dead, "node")))
                .await;
        }
    }
}

/// Makes the links that the node begins with, and returns once that has gone well or failed. The
/// attempt that goes on in the background is given back.
pub(crate) async fn begin(
    node: &Node,
    addresses: &[Address],
    expected: &Expected,
    output: &Output,
) -> Option<AbortHandle> {
    if node.is_manual() {
        connect(node, addresses).await;
        return None;
    }
    let (node, addresses) = (node.clone(), addresses.to_vec());
    let (expected, output) = (expected.clone(), output.clone());
    if addresses.is_empty() {
        let rejoining = async move { rejoin(&node, &expected, &output).await };
        return Some(tokio::spawn(rejoining).abort_handle());
    }
    if let [address] = &addresses[..] {
        // What is said about the join says it all.
        expected.lock().named.insert(address.clone());
    }
    let (tried, first) = oneshot::channel();
    let joining = async move { join(&node, &addresses, &expected, &output, tried).await };
    let joining = tokio::spawn(joining);
    let _ = first.await;
    Some(joining.abort_handle())
}

/// Connects to every address, all at once. Events report those that can't be reached.
async fn connect(node: &Node, addresses: &[Address]) {
    let mut dials = JoinSet::new();
    for address in addresses.iter().cloned() {
        let node = node.clone();
        dials.spawn(async move { drop(node.connect(address).await) });
    }
    while dials.join_next().await.is_some() {}
}

/// Joins through the addresses of the command line, which may not be up yet: tries until one of
/// them is. After the first try `tried` is dropped, and bootstrap nodes and known peers are tried as
/// well.
async fn join(
    node: &Node,
    addresses: &[Address],
    expected: &Expected,
    output: &Output,
    tried: oneshot::Sender<()>,
) {
    let (failures, mut failed) = mpsc::unbounded_channel();
    let told = move |error: &Error, wait| drop(failures.send((error.to_string(), wait)));
    let telling = async {
        let mut tried = Some(tried);
        while let Some((error, wait)) = failed.recv().await {
            output.not_joined(&error, Some(wait)).await;
            if tried.take().is_some() {
                expected.expect(node).await;
                let _ = node.join(&[]).await;
                expected.report(node, output).await;
            }
        }
    };
    let (joined, ()) = tokio::join!(node.join_patiently(addresses, told), telling);
    match joined {
        Ok(_) | Err(Error::Stopped) => {}
        Err(error) => output.not_joined(&error.to_string(), None).await,
    }
}

/// Joins through bootstrap nodes and the peers of earlier runs. With bootstrap nodes it tries until
/// one of them is there.
async fn rejoin(node: &Node, expected: &Expected, output: &Output) {
    expected.expect(node).await;
    if node.bootstrap_nodes().is_empty() {
        match node.join(&[]).await {
            Ok(_) | Err(Error::NoBootstrap | Error::NoneReached { .. } | Error::Stopped) => {}
            Err(error) => tracing::warn!(%error, "could not rejoin"),
        }
        expected.report(node, output).await;
        return;
    }
    let (failures, mut failed) = mpsc::unbounded_channel();
    let told = move |error: &Error, wait| drop(failures.send((error.to_string(), wait)));
    let telling = async {
        // Once: it may go on for days.
        if let Some((error, wait)) = failed.recv().await {
            output.not_joined(&error, Some(wait)).await;
        }
        expected.report(node, output).await;
        while failed.recv().await.is_some() {}
    };
    let (joined, ()) = tokio::join!(node.join_patiently(&[], told), telling);
    if let Err(error) = joined
        && !matches!(error, Error::Stopped)
    {
        output.not_joined(&error.to_string(), None).await;
    }
}
