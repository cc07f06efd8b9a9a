//! The first links of `peerkit run`, and the reports about dials that fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerkit::{Address, Error, Event, Node, NodeId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use crate::lock::lock;
use crate::output::Printer;
use crate::text::count;

/// Maximum time until the number of peers that did not answer is printed. 12 s: by then a dial has
/// failed.
const REPORT_WAIT: Duration = Duration::from_secs(12);

/// Time after a failed command in which events of its dials are still expected. 10 s: they come at
/// once unless this machine is overloaded.
const LATE_EVENTS: Duration = Duration::from_secs(10);

/// Wait before the second search for the address of a node. The wait doubles after each search, up to
/// [`MAX_LOOKUP_WAIT`], as the wait between dials does.
const FIRST_LOOKUP_WAIT: Duration = Duration::from_secs(1);
/// Maximum wait between two searches for the address of a node.
const MAX_LOOKUP_WAIT: Duration = Duration::from_secs(60);

/// Dials whose failures are not printed as events: the result of a command, or one line for all of
/// them, reports them. Clones share their state.
#[derive(Clone, Default)]
pub(crate) struct ExpectedDialFailures(Arc<DialTracker>);

#[derive(Default)]
struct DialTracker {
    dials: Mutex<ExpectedDials>,
    failed: Notify,
}

#[derive(Default)]
struct ExpectedDials {
    /// Peers of earlier runs, by their addresses.
    known: BTreeMap<Address, NodeId>,
    /// The peers of earlier runs that did not answer.
    unanswered: BTreeSet<NodeId>,
    /// Addresses whose failures are reported by the messages `not joined`.
    join_dials: BTreeSet<Address>,
    /// Addresses that a command dials, with the time at which the command failed. The result of the
    /// command reports the failure. The events of the dials may come after the result.
    commanded: BTreeMap<Address, Option<Instant>>,
}

impl ExpectedDialFailures {
    /// Returns whether this event is a failed dial that is reported in another way.
    pub(crate) fn reports(&self, event: &Event) -> bool {
        let Event::OutboundNodeConnectionError { address, .. } = event else { return false };
        let mut dials = lock(&self.0.dials);
        if let Some(id) = dials.known.get(address).copied() {
            // A peer may have several addresses, and fails once for each of them.
            dials.unanswered.insert(id);
            self.0.failed.notify_waiters();
            return true;
        }
        dials.commanded.remove(address).is_some() || dials.join_dials.contains(address)
    }

    /// Notes the dials of a command to one node: the result of the command reports their failure. If
    /// the command names several nodes, its result gives only one failure, so events report them all.
    pub(crate) async fn begin_command(&self, node: &Node, targets: &[String]) {
        let distinct: Vec<&String> = BTreeSet::from_iter(targets).into_iter().collect();
        let addresses = match distinct[..] {
            [] => node.network().bootstrap_nodes().to_vec(),
            [target] => node.network().known_addresses(target).await.unwrap_or_default(),
            _ => Vec::new(),
        };
        let mut dials = lock(&self.0.dials);
        // Events that have not come by now will not come any more.
        dials
            .commanded
            .retain(|_, failed| failed.is_some_and(|failed| failed.elapsed() < LATE_EVENTS));
        // With several bootstrap nodes the result can't name each failure, so events do.
        if !targets.is_empty() || addresses.len() == 1 {
            dials.commanded.extend(addresses.into_iter().map(|address| (address, None)));
        }
    }

    /// Notes that a command has ended. If its dials have failed, their events may still come.
    pub(crate) fn end_command<T>(&self, result: &Result<T, Error>) {
        let is_dial = matches!(
            result,
            Err(Error::Resolve { .. }
                | Error::Connect { .. }
                | Error::NoneAnswered(_)
                | Error::Handshake { .. }
                | Error::WrongNode { .. }
                | Error::Refused { .. }
                | Error::Unreachable { .. }
                | Error::NoneReached { .. })
        );
        let now = Instant::now();
        lock(&self.0.dials).commanded.retain(|_, failed| {
            if is_dial {
                failed.get_or_insert(now);
            }
            failed.is_some()
        });
    }

    /// Notes that peers of earlier runs and bootstrap nodes will be dialled.
    async fn expect_dials(&self, node: &Node) {
        let known = node.network().known_peers().await.unwrap_or_default();
        let mut dials = lock(&self.0.dials);
        for (id, peer) in known {
            let addresses = peer.addresses.into_iter();
            // Events have the dialled address with the identity of the peer, so the keys have it too.
            dials.known.extend(addresses.map(|address| (address.with_id(id), id)));
        }
        dials.join_dials.extend(node.network().bootstrap_nodes());
    }

    /// Waits until each peer of earlier runs has a link or has failed, and prints how many did not
    /// answer. From then on events report their failures.
    async fn report_unanswered(&self, node: &Node, output: &Printer) {
        let until = Instant::now() + REPORT_WAIT;
        loop {
            // Created before the check, so that a failure in between is not missed.
            let failed = self.0.failed.notified();
            let pending = {
                let dials = lock(&self.0.dials);
                let mut ids = dials.known.values();
                ids.any(|id| !dials.unanswered.contains(id) && node.peer(*id).is_none())
            };
            if !pending || tokio::time::timeout_at(until, failed).await.is_err() {
                break;
            }
        }
        let unanswered = {
            let mut dials = lock(&self.0.dials);
            // From now on failed dials of these peers are reported by events, like all others.
            dials.known.clear();
            std::mem::take(&mut dials.unanswered)
        };
        let unanswered = unanswered.into_iter().filter(|id| node.peer(*id).is_none()).count();
        if unanswered > 0 {
            let unanswered = count(unanswered, "known node");
            output.warning(&format!("{unanswered} did not answer")).await;
        }
    }
}

/// Returns the error of a join. If several nodes did not answer, the error gives only their number,
/// since events have reported each of them.
pub(crate) fn advised(error: Error) -> anyhow::Error {
    match &error {
        Error::NoneAnswered(errors) => {
            anyhow::anyhow!("none of the {} nodes answered", errors.len())
        }
        _ => error.into(),
    }
}

/// Makes the first links of the node. If there are targets, waits until the first attempt has ended.
/// Returns a handle of the task that continues to join in the background, if there is one. Drops
/// `first_join` once the first attempt through targets or bootstrap nodes has ended.
pub(crate) async fn begin(
    node: &Node,
    targets: &[String],
    expected: &ExpectedDialFailures,
    output: &Printer,
    first_join: DropGuard,
) -> Option<AbortHandle> {
    if node.network().is_manual() {
        connect(node, targets).await;
        drop(first_join);
        return None;
    }
    let (node, targets) = (node.clone(), targets.to_vec());
    let (expected, output) = (expected.clone(), output.clone());
    if targets.is_empty() {
        let rejoining = async move { rejoin(&node, &expected, &output, first_join).await };
        return Some(tokio::spawn(rejoining).abort_handle());
    }
    let (tried, first) = oneshot::channel();
    let joining = async move { join(&node, &targets, &expected, &output, tried).await };
    let joining = tokio::spawn(joining);
    let _ = first.await;
    drop(first_join);
    Some(joining.abort_handle())
}

/// Connects to all targets at the same time. Events report failed dials.
async fn connect(node: &Node, targets: &[String]) {
    let mut dials = JoinSet::new();
    for target in targets {
        let (node, target) = (node.clone(), target.clone());
        dials.spawn(async move {
            let dialled = node.connect(target.as_str()).await;
            if let Err(error) = dialled
                && is_unknown_node(&error)
            {
                tracing::warn!(%error, "could not connect to {target}");
            }
        });
    }
    while dials.join_next().await.is_some() {}
}

/// Returns whether the node was not dialled because its address is not known.
fn is_unknown_node(error: &Error) -> bool {
    matches!(error, Error::NotFound(_) | Error::NoAddress | Error::AmbiguousPeer(_))
}

/// Joins through the targets of the command line, which may not be up yet: retries until one of them
/// answers. Drops `tried` after the first attempt. If that has failed, also tries bootstrap nodes and
/// known peers.
async fn join(
    node: &Node,
    targets: &[String],
    expected: &ExpectedDialFailures,
    output: &Printer,
    tried: oneshot::Sender<()>,
) {
    let (failures, mut failed) = mpsc::unbounded_channel();
    let report_failure = move |error: &Error, wait| {
        let text = match error {
            Error::NoneAnswered(errors) => format!("none of the {} nodes answered", errors.len()),
            error => error.to_string(),
        };
        drop(failures.send((text, wait)));
    };
    let reporting = async {
        let mut tried = Some(tried);
        while let Some((error, wait)) = failed.recv().await {
            output.not_joined(&error, Some(wait)).await;
            if tried.take().is_some() {
                expected.expect_dials(node).await;
                // The error is ignored: `report_unanswered` prints how many peers did not answer.
                let _ = node.join(&[]).await;
                expected.report_unanswered(node, output).await;
            }
        }
    };
    let joining = async {
        let addresses = resolve(node, targets, &report_failure).await?;
        // With several targets a message gives only their number, and events name each of them.
        if let [_] = targets {
            // The messages about the join report these failures.
            lock(&expected.0.dials).join_dials.extend(addresses.iter().cloned());
        }
        node.network().join_with_retries(&addresses, report_failure).await
    };
    let (joined, ()) = tokio::join!(joining, reporting);
    match joined {
        Ok(_) | Err(Error::Stopped) => {}
        Err(error) => output.not_joined(&error.to_string(), None).await,
    }
}

/// Returns the addresses of targets. If none of them is known, asks again until one is: nodes that
/// this node does not know are looked up in the network, which it may not have joined yet. Calls
/// `report_failure` after each failed attempt.
async fn resolve(
    node: &Node,
    targets: &[String],
    report_failure: &impl Fn(&Error, Duration),
) -> Result<Vec<Address>, Error> {
    let mut wait = FIRST_LOOKUP_WAIT;
    loop {
        let (mut addresses, mut failure) = (Vec::new(), None);
        for target in targets {
            match node.network().find_addresses(target).await {
                Ok(found) => addresses.extend(found),
                Err(error) if is_unknown_node(&error) => failure = Some((target, error)),
                Err(error) => return Err(error),
            }
        }
        match failure {
            Some((_, error)) if addresses.is_empty() => report_failure(&error, wait),
            Some((target, error)) => {
                tracing::warn!(%error, "could not find {target}");
                return Ok(addresses);
            }
            None => return Ok(addresses),
        }
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(MAX_LOOKUP_WAIT);
    }
}

/// Joins through bootstrap nodes and the peers of earlier runs. If there are bootstrap nodes, it
/// retries until one of them answers. Drops `first_join` after the first attempt, or at once if there
/// are none.
async fn rejoin(
    node: &Node,
    expected: &ExpectedDialFailures,
    output: &Printer,
    first_join: DropGuard,
) {
    expected.expect_dials(node).await;
    if node.network().bootstrap_nodes().is_empty() {
        drop(first_join);
        match node.join(&[]).await {
            // A new node has no peers to join through. `report_unanswered` prints the number of peers
            // that do not answer.
            Ok(_) | Err(Error::NoBootstrap | Error::NoneReached { .. } | Error::Stopped) => {}
            // The user has disconnected all of them by hand.
            Err(Error::AllDisconnected) => {}
            Err(error) => tracing::warn!(%error, "could not rejoin"),
        }
        expected.report_unanswered(node, output).await;
        return;
    }
    let (failures, mut failed) = mpsc::unbounded_channel();
    let report_failure = move |error: &Error, wait| drop(failures.send((error.to_string(), wait)));
    let reporting = async {
        let first_failure = failed.recv().await;
        drop(first_join);
        // Printed only once, since the attempts may continue for days.
        if let Some((error, wait)) = first_failure {
            output.not_joined(&error, Some(wait)).await;
        }
        expected.report_unanswered(node, output).await;
        // The channel is unbounded, so later failures are taken out of it and dropped.
        while failed.recv().await.is_some() {}
    };
    let (joined, ()) =
        tokio::join!(node.network().join_with_retries(&[], report_failure), reporting);
    // Not a failure: the first node of a network waits until others join it.
    if let Err(error) = joined
        && !matches!(error, Error::Stopped | Error::OnlyThisNode)
    {
        output.not_joined(&error.to_string(), None).await;
    }
}
