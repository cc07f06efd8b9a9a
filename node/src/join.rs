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

/// Time in which a node that was reached has to find a place for this one. 10 s: as for a handshake.
const PLACE: Duration = Duration::from_secs(10);

/// Time for which a new member waits for the other nodes that it was to join through.
const OTHERS: Duration = Duration::from_millis(500);

/// Maximum number of known peers that are dialled at once. Some of them may be gone.
const DIALS: usize = 8;

/// A report about one of the nodes to join through.
enum JoinReport {
    /// There is a link.
    Reached(Peer),
    /// This node is a member.
    Joined,
    /// There is no link, or no place.
    Failed(Error),
}

/// The outcome of one join.
struct JoinOutcome {
    /// The nodes that were reached.
    peers: Result<Vec<Peer>, Error>,
    /// Number of addresses that lead to this node itself.
    itself: usize,
}

impl Inner {
    /// See [`crate::Node::join`].
    pub(crate) async fn join(
        self: &Arc<Self>,
        addresses: Vec<Address>,
    ) -> Result<Vec<Peer>, Error> {
        let nodes = distinct(addresses).into_iter().map(|address| vec![address]).collect();
        self.join_any(nodes, Purpose::Join).await.peers
    }

    /// Joins through nodes, each with its addresses, all at once.
    async fn join_any(self: &Arc<Self>, nodes: Vec<Vec<Address>>, purpose: Purpose) -> JoinOutcome {
        // Each node makes two reports at most. With room for all of them, no task waits once this join
        // has ended.
        let (reports, tried) = mpsc::channel(2 * nodes.len().max(1));
        // The tasks are aborted if the join is dropped, and go on if it is done.
        let mut tries = JoinSet::new();
        for addresses in nodes {
            let trying = Box::pin(self.clone().join_through(addresses, purpose, reports.clone()));
            let trying = self.tasks.halt.clone().unless(trying);
            tries.spawn(self.tasks.tracker.track_future(trying));
        }
        drop(reports);
        let joined = gather(tried).await;
        tries.detach_all();
        joined
    }

    /// Joins through the bootstrap nodes and the peers that were met before, several at once, until
    /// `enough` are connected. The known peers come first, beginning with those seen last: they are many,
    /// while all nodes ask the same bootstrap nodes. As long as there is one left, each round also tries one
    /// bootstrap node. Nodes that are kept away are not tried.
    ///
    /// # Errors
    /// If there is none, if all are this node itself, or if none was reached.
    pub(crate) async fn rejoin(self: &Arc<Self>, enough: usize) -> Result<Vec<Peer>, Error> {
        let away = self.kept_away().await?;
        let known = self.peers.all().await?;
        let is_away = |address: &Address| address.id.is_some_and(|id| away.contains(&id));
        let left_out = known.iter().any(|(id, _)| away.contains(id))
            || self.peers.bootstrap.iter().any(is_away);
        let known = known.into_iter().filter(|(id, _)| !away.contains(id));
        let known = known.map(|(id, known)| -> Vec<Address> {
            known.addresses.into_iter().map(|address| address.with_id(id)).collect()
        });
        let mut known = known.filter(|addresses| !addresses.is_empty());
        let bootstrap = self.peers.bootstrap.iter().filter(|address| !is_away(address));
        let mut bootstrap = bootstrap.map(|address| vec![address.clone()]);
        let mut peers: Vec<Peer> = Vec::new();
        let (mut tried, mut failure, mut is_itself) = (0, None, false);
        while peers.len() < enough {
            let at_once = (enough - peers.len()).min(DIALS);
            let mut some: Vec<Vec<Address>> = bootstrap.by_ref().take(1).collect();
            some.extend(known.by_ref().take(at_once.saturating_sub(some.len())));
            some.extend(bootstrap.by_ref().take(at_once.saturating_sub(some.len())));
            if some.is_empty() {
                break;
            }
            let count = some.len();
            let joined = self.join_any(some, Purpose::Rejoin).await;
            // A list of bootstrap nodes that all nodes share names this one as well.
            tried += count - joined.itself.min(count);
            match joined.peers {
                Ok(reached) => {
                    let known = |peer: &Peer| peers.iter().any(|other| other.id() == peer.id());
                    let new: Vec<_> = reached.into_iter().filter(|peer| !known(peer)).collect();
                    peers.extend(new);
                }
                Err(Error::Stopped) => return Err(Error::Stopped),
                Err(error) if is_this_node(&error) => is_itself = true,
                // The errors of the others are left out, as their number says enough.
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
            // There is nothing to wait for but the link.
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
        let tried = match outcome {
            None => JoinReport::Joined,
            Some(outcome) => match wait_for_place(&peer, outcome).await {
                Ok(()) => JoinReport::Joined,
                Err(error) => JoinReport::Failed(error),
            },
        };
        let _ = reports.send(tried).await;
    }

    /// Returns the nodes that the application has disconnected and that are to stay away.
    async fn kept_away(&self) -> Result<Vec<NodeId>, Error> {
        let now = self.clock.now();
        self.actor
            .call(move |actor| actor.overlay().kept_away(now).map(|(id, _)| id).collect())
            .await
    }

    /// Links to a node at the first of its addresses that answers. `joined` gets the outcome of joining
    /// through it.
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
        // A link that is made from now on does not count.
        let last = self.links.next_connection();
        let closing =
            self.links.wait_until(|links| links.iter().all(|conn| conn.connection > last));
        let _ = tokio::time::timeout(self.config.flush_timeout, closing).await;
        Ok(peers)
    }
}

/// Waits for a place in the network of a node that there is a link with.
async fn wait_for_place(
    peer: &Peer,
    outcome: oneshot::Receiver<Result<(), JoinError>>,
) -> Result<(), Error> {
    match tokio::time::timeout(PLACE, outcome).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(JoinError::Refused { outcome: NeighbourOutcome::Manual, .. }))) => {
            Err(Error::LinksByHand(peer.clone()))
        }
        Ok(Ok(Err(_)) | Err(_)) => Err(Error::NoPlace(peer.clone())),
        Err(_) => Err(Error::Timeout(PLACE)),
    }
}

/// Returns the nodes that were reached, once this node is a member and the others had a moment more. If
/// it is no member, returns the reason that a node has given, or the failures of all dials.
async fn gather(mut tried: mpsc::Receiver<JoinReport>) -> JoinOutcome {
    let mut itself = 0;
    let mut peers: Vec<Peer> = Vec::new();
    let mut joined: Option<Instant> = None;
    let (mut answer, mut own) = (None, None);
    let mut failures: Vec<Error> = Vec::new();
    loop {
        let report = match joined {
            None => tried.recv().await,
            Some(at) => tokio::time::timeout_at(at + OTHERS, tried.recv()).await.unwrap_or(None),
        };
        match report {
            Some(JoinReport::Reached(peer)) => {
                if !peers.iter().any(|known| known.id() == peer.id()) {
                    peers.push(peer);
                }
            }
            Some(JoinReport::Joined) => drop(joined.get_or_insert_with(Instant::now)),
            Some(JoinReport::Failed(error)) if is_answer(&error) => answer = Some(error),
            Some(JoinReport::Failed(error)) if is_this_node(&error) => {
                itself += 1;
                own = Some(error);
            }
            Some(JoinReport::Failed(error)) => {
                // An address may be listed twice.
                let is_new = failures.iter().all(|known| known.to_string() != error.to_string());
                failures.extend(is_new.then_some(error));
            }
            None => break,
        }
    }
    // The reason that a node has given says more than the failed dials of others.
    let failure = match (answer, failures.len()) {
        (Some(error), _) => Some(error),
        (None, 0) => own,
        (None, 1) => failures.pop(),
        (None, _) => Some(Error::NoneAnswered(failures)),
    };
    let peers = match (joined, failure) {
        (None, Some(error)) => Err(error),
        (None, None) => Err(Error::Stopped),
        (Some(_), _) => Ok(peers),
    };
    JoinOutcome { peers, itself }
}

/// Returns whether the node that was dialled is this one.
fn is_this_node(error: &Error) -> bool {
    matches!(error, Error::Refused { reason: Reason::SelfConnection, .. } | Error::ThisNode)
}

/// Returns whether the error comes from a node that was reached.
fn is_answer(error: &Error) -> bool {
    matches!(error, Error::LinksByHand(_) | Error::NoPlace(_) | Error::Timeout(_))
}
