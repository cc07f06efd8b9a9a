//! Joining a network, and leaving it.

use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::{Peer, Reason};
use peerkit_proto::frame::membership::NeighbourOutcome;
use peerkit_proto::id::NodeId;
use peerkit_proto::peer::{Input, JoinError, Purpose};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::actor::Actor;
use crate::actor::mailbox::Operation;
use crate::error::Error;
use crate::inner::Inner;
use crate::own_addresses::distinct;
use crate::store::KnownPeer;

/// Maximum time between the link to a node and the network's acceptance of this node as a member. 10 s, as
/// for a handshake.
const ACCEPTANCE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for which a join still waits for reports about other nodes, once this node is a member.
const OTHER_NODES_TIMEOUT: Duration = Duration::from_millis(500);

/// Maximum number of known peers that a rejoin dials in one round. Some of them may be gone.
const MAX_DIALS: usize = 8;

/// A report about the attempt to join through one node.
enum JoinReport {
    /// There is a link to the node.
    Reached(Peer),
    /// This node is a member.
    Joined,
    /// The node was not reached, or it did not accept this node.
    Failed(Error),
}

/// The outcome of one join.
struct JoinOutcome {
    /// The nodes that were reached.
    peers: Result<Vec<Peer>, Error>,
    /// Number of attempts that reached this node itself.
    own: usize,
}

impl Inner {
    /// See [`crate::Node::join`].
    pub(crate) async fn join(
        self: &Arc<Self>,
        addresses: Vec<Address>,
    ) -> Result<Vec<Peer>, Error> {
        let nodes = distinct(addresses).into_iter().map(|address| vec![address]).collect();
        self.join_through_any(nodes, Purpose::Join).await.peers
    }

    /// Joins through several nodes at the same time. Each node is given by its addresses.
    async fn join_through_any(
        self: &Arc<Self>,
        nodes: Vec<Vec<Address>>,
        purpose: Purpose,
    ) -> JoinOutcome {
        // There are at most two reports about each node. The channel has room for all of them, so no task
        // waits for room after this join has ended.
        let (sender, reports) = mpsc::channel(2 * nodes.len().max(1));
        // If the caller drops this future, the attempts are aborted. If the join succeeds, the remaining
        // attempts go on.
        let mut attempts = JoinSet::new();
        for addresses in nodes {
            let attempt = Box::pin(self.clone().join_through(addresses, purpose, sender.clone()));
            let attempt = self.tasks.halt.clone().run_until_halted(attempt);
            attempts.spawn(self.tasks.tracker.track_future(attempt));
        }
        drop(sender);
        let joined = gather(reports).await;
        attempts.detach_all();
        joined
    }

    /// Joins through bootstrap nodes and known peers, until `enough` of them are connected.
    ///
    /// The first round begins with the anchors: neighbours of the last run that no other node has chosen for this
    /// one. Each round tries several nodes at the same time: one bootstrap node, and known peers, the most recently
    /// seen first. Known peers are preferred because all nodes share the same few bootstrap nodes.
    /// When the known peers are used up, rounds consist of bootstrap nodes. Nodes that are kept away are left
    /// out.
    ///
    /// # Errors
    /// Fails if there is no node to try, if all addresses lead to this node itself, or if no node was
    /// reached.
    pub(crate) async fn rejoin(self: &Arc<Self>, enough: usize) -> Result<Vec<Peer>, Error> {
        let away = self.kept_away().await?;
        let (anchors, known) = self.peers.anchors_and_others().await?;
        let is_away = |address: &Address| address.id.is_some_and(|id| away.contains(&id));
        let left_out = anchors.iter().chain(&known).any(|(id, _)| away.contains(id))
            || self.peers.bootstrap.iter().any(is_away);
        let to_dial = |(id, known): (NodeId, KnownPeer)| -> Option<Vec<Address>> {
            let addresses = known.addresses.into_iter().map(|address| address.with_id(id));
            let addresses: Vec<_> = addresses.collect();
            (!addresses.is_empty() && !away.contains(&id)).then_some(addresses)
        };
        let mut anchors = anchors.into_iter().filter_map(to_dial);
        let mut known = known.into_iter().filter_map(to_dial);
        let bootstrap = self.peers.bootstrap.iter().filter(|address| !is_away(address));
        let mut bootstrap = bootstrap.map(|address| vec![address.clone()]);
        let mut peers: Vec<Peer> = Vec::new();
        let (mut tried, mut failure, mut is_itself) = (0, None, false);
        while peers.len() < enough {
            let max = (enough - peers.len()).min(MAX_DIALS);
            let mut some: Vec<Vec<Address>> = anchors.by_ref().collect();
            some.extend(bootstrap.by_ref().take(1));
            some.extend(known.by_ref().take(max.saturating_sub(some.len())));
            some.extend(bootstrap.by_ref().take(max.saturating_sub(some.len())));
            if some.is_empty() {
                break;
            }
            let count = some.len();
            let joined = self.join_through_any(some, Purpose::Rejoin).await;
            // If all nodes share a list of bootstrap nodes, this node is on the list too. Attempts that reach
            // this node itself do not count.
            tried += count - joined.own.min(count);
            match joined.peers {
                Ok(reached) => {
                    let known = |peer: &Peer| peers.iter().any(|other| other.id() == peer.id());
                    let new: Vec<_> = reached.into_iter().filter(|peer| !known(peer)).collect();
                    peers.extend(new);
                }
                Err(Error::Stopped) => return Err(Error::Stopped),
                Err(error) if is_this_node(&error) => is_itself = true,
                // Only the first failure is kept. The final error has this failure and the number of
                // attempts.
                Err(Error::NoneAnswered(mut errors)) if !errors.is_empty() => {
                    let _ = failure.get_or_insert(errors.swap_remove(0));
                }
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        match failure {
            Some(first) if peers.is_empty() => {
                Err(Error::NoneReached { tried, first: first.into() })
            }
            None if peers.is_empty() && enough > 0 && left_out => Err(Error::AllDisconnected),
            None if peers.is_empty() && is_itself => Err(Error::OnlyThisNode),
            None if peers.is_empty() && enough > 0 => Err(Error::NoBootstrap),
            _ => Ok(peers),
        }
    }

    /// Joins through a node at the first of its addresses that answers.
    async fn join_through(
        self: Arc<Self>,
        addresses: Vec<Address>,
        purpose: Purpose,
        reports: mpsc::Sender<JoinReport>,
    ) {
        let (purpose, (joined, outcome)) = if self.profile.manual {
            // If links are made by hand, a node does not become a member, so only the link is made.
            (Purpose::Application, (None, None))
        } else {
            let (joined, outcome) = oneshot::channel();
            (purpose, (Some(joined), Some(outcome)))
        };
        let peer = match self.dial(addresses, purpose, joined).await {
            Ok(peer) => peer,
            Err(error) => return drop(reports.send(JoinReport::Failed(error)).await),
        };
        let _ = reports.send(JoinReport::Reached(peer.clone())).await;
        let report = match outcome {
            None => JoinReport::Joined,
            Some(outcome) => match wait_for_acceptance(&peer, outcome).await {
                Ok(()) => JoinReport::Joined,
                Err(error) => JoinReport::Failed(error),
            },
        };
        let _ = reports.send(report).await;
    }

    /// Returns the nodes that are kept away for now, because the application has disconnected them.
    async fn kept_away(&self) -> Result<Vec<NodeId>, Error> {
        let now = self.clock.now();
        self.actor
            .call(move |actor| actor.overlay().kept_away(now).map(|(id, _)| id).collect())
            .await
    }

    /// Connects to a node at the first of its addresses that answers. If `joined` is given, the outcome of
    /// joining through that node is sent there.
    async fn dial(
        &self,
        addresses: Vec<Address>,
        purpose: Purpose,
        joined: Option<oneshot::Sender<Result<(), JoinError>>>,
    ) -> Result<Peer, Error> {
        let dial = move |operation| Input::Dial { operation, addresses, keep: false, purpose };
        self.actor.outcome(|reply| Operation::Dial { reply, joined }, dial).await?
    }

    /// See [`crate::Node::leave`].
    pub(crate) async fn leave(&self) -> Result<Vec<Peer>, Error> {
        let peers = self.actor.call(Actor::leave).await?;
        // Links that are made from now on are not waited for.
        let last = self.links.next_connection();
        let closing =
            self.links.wait_until(|links| links.iter().all(|conn| conn.connection > last));
        let _ = tokio::time::timeout(self.config.flush_timeout, closing).await;
        Ok(peers)
    }
}

/// Waits until the network of a linked node accepts this node as a member.
async fn wait_for_acceptance(
    peer: &Peer,
    outcome: oneshot::Receiver<Result<(), JoinError>>,
) -> Result<(), Error> {
    match tokio::time::timeout(ACCEPTANCE_TIMEOUT, outcome).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(JoinError::Refused { outcome: NeighbourOutcome::Manual, .. }))) => {
            Err(Error::LinksByHand(peer.clone()))
        }
        Ok(Ok(Err(_)) | Err(_)) => Err(Error::NoPlace(peer.clone())),
        Err(_) => Err(Error::Timeout(ACCEPTANCE_TIMEOUT)),
    }
}

/// Collects the reports of a join. Once this node is a member, waits for other reports at most
/// [`OTHER_NODES_TIMEOUT`], and returns the nodes that were reached. If no attempt makes this node a member,
/// returns the error of a node that was reached, or the failures of all dials.
async fn gather(mut reports: mpsc::Receiver<JoinReport>) -> JoinOutcome {
    let mut own = 0;
    let mut peers: Vec<Peer> = Vec::new();
    let mut joined: Option<Instant> = None;
    let (mut refusal, mut own_error) = (None, None);
    let mut failures: Vec<Error> = Vec::new();
    loop {
        let report = match joined {
            None => reports.recv().await,
            Some(at) => tokio::time::timeout_at(at + OTHER_NODES_TIMEOUT, reports.recv())
                .await
                .unwrap_or(None),
        };
        match report {
            Some(JoinReport::Reached(peer)) => {
                if !peers.iter().any(|known| known.id() == peer.id()) {
                    peers.push(peer);
                }
            }
            Some(JoinReport::Joined) => drop(joined.get_or_insert_with(Instant::now)),
            Some(JoinReport::Failed(error)) if is_from_reached_node(&error) => {
                refusal = Some(error);
            }
            Some(JoinReport::Failed(error)) if is_this_node(&error) => {
                own += 1;
                own_error = Some(error);
            }
            Some(JoinReport::Failed(error)) => {
                // An address may be listed twice. Its error is kept once.
                let is_new = failures.iter().all(|known| known.to_string() != error.to_string());
                failures.extend(is_new.then_some(error));
            }
            None => break,
        }
    }
    // The error of a node that was reached says more than failed dials to other nodes.
    let failure = match (refusal, failures.len()) {
        (Some(error), _) => Some(error),
        (None, 0) => own_error,
        (None, 1) => failures.pop(),
        (None, _) => Some(Error::NoneAnswered(failures)),
    };
    let peers = match (joined, failure) {
        (None, Some(error)) => Err(error),
        (None, None) => Err(Error::Stopped),
        (Some(_), _) => Ok(peers),
    };
    JoinOutcome { peers, own }
}

/// Returns whether the dial failed because the address leads to this node itself.
fn is_this_node(error: &Error) -> bool {
    matches!(error, Error::Refused { reason: Reason::SelfConnection, .. } | Error::ThisNode)
}

/// Returns whether the node was reached, and then did not accept this node.
fn is_from_reached_node(error: &Error) -> bool {
    matches!(error, Error::LinksByHand(_) | Error::NoPlace(_) | Error::Timeout(_))
}
