//! Becoming a member of a network, and leaving it.

use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::event::Peer;
use peerkit_proto::frame::membership::Outcome;
use peerkit_proto::id::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::error::Error;
use crate::inner::Inner;
use crate::order::{Order, Wanted};
use crate::store::KnownPeer;

/// How long a node that was reached may take to find a place for this one. 10 s: as a handshake.
const PLACE: Duration = Duration::from_secs(10);

/// How long a member still waits for the other nodes that it was to join through.
const OTHERS: Duration = Duration::from_millis(500);

/// Known peers that are dialled at once: some of them may be gone.
const DIALS: usize = 8;

/// What became of one of the addresses to join through.
enum Tried {
    /// There is a link.
    Reached(Peer),
    /// This node is a member.
    Joined,
    /// There is no link, or it is good for nothing.
    Failed(Error),
}

impl Inner {
    /// See [`crate::Node::join`].
    pub(crate) async fn join(
        self: &Arc<Self>,
        addresses: Vec<Address>,
    ) -> Result<Vec<Peer>, Error> {
        let (told, tried) = mpsc::channel(2 * addresses.len().max(1));
        for address in addresses {
            let (inner, told) = (self.clone(), told.clone());
            self.spawn(async move { inner.join_through(address, told).await });
        }
        drop(told);
        gather(tried).await
    }

    /// See [`crate::Node::rejoin`].
    pub(crate) async fn rejoin(self: &Arc<Self>, enough: usize) -> Result<Vec<Peer>, Error> {
        let mut known = self.known_peers().await?.into_iter();
        let mut peers: Vec<Peer> = Vec::new();
        while peers.len() < enough {
            let some: Vec<_> = known.by_ref().take((enough - peers.len()).min(DIALS)).collect();
            if some.is_empty() {
                break;
            }
            let (told, tried) = mpsc::channel(2 * some.len());
            for (id, known) in some {
                let (inner, told) = (self.clone(), told.clone());
                self.spawn(async move { inner.join_known(id, known, told).await });
            }
            drop(told);
            peers.extend(gather(tried).await.unwrap_or_default());
        }
        Ok(peers)
    }

    /// Joins through the first address of a known peer that it answers at.
    async fn join_known(self: Arc<Self>, id: NodeId, known: KnownPeer, told: mpsc::Sender<Tried>) {
        for address in known.addresses {
            if let Ok(peer) = self.dial(address.with_id(id), self.to_join()).await {
                return self.join_linked(peer, told).await;
            }
        }
    }

    async fn join_through(self: Arc<Self>, address: Address, told: mpsc::Sender<Tried>) {
        match self.dial(address, self.to_join()).await {
            Ok(peer) => self.join_linked(peer, told).await,
            Err(error) => drop(told.send(Tried::Failed(error)).await),
        }
    }

    fn to_join(&self) -> Wanted {
        if self.manual { Wanted::ByHand } else { Wanted::ToJoin }
    }

    async fn join_linked(self: Arc<Self>, peer: Peer, told: mpsc::Sender<Tried>) {
        let _ = told.send(Tried::Reached(peer.clone())).await;
        let joined = match self.manual {
            // The link is all that there is to be.
            true => Tried::Joined,
            false => match self.ask_for_place(&peer).await {
                Ok(()) => Tried::Joined,
                Err(error) => Tried::Failed(error),
            },
        };
        let _ = told.send(joined).await;
    }

    /// Waits for a place in the network of a node that there is a link with.
    async fn ask_for_place(&self, peer: &Peer) -> Result<(), Error> {
        let (reply, outcome) = oneshot::channel();
        let order = Order::Join { id: peer.id(), reply };
        self.orders.send(order).await.map_err(|_| Error::Stopped)?;
        match tokio::time::timeout(PLACE, outcome).await {
            Ok(Ok(Outcome::Accepted)) => Ok(()),
            Ok(Ok(Outcome::Manual)) => Err(Error::LinksByHand(peer.clone())),
            Ok(Ok(Outcome::Full) | Err(_)) => Err(Error::NoPlace(peer.clone())),
            Err(_) => Err(Error::Timeout(PLACE)),
        }
    }

    /// Links to `address`.
    pub(crate) async fn dial(&self, address: Address, wanted: Wanted) -> Result<Peer, Error> {
        let (reply, peer) = oneshot::channel();
        let order = Order::Connect { address, reconnect: false, wanted, reply: Some(reply) };
        self.orders.send(order).await.map_err(|_| Error::Stopped)?;
        peer.await.map_err(|_| Error::Stopped)?
    }

    /// See [`crate::Node::leave`].
    pub(crate) async fn leave(&self) -> Result<Vec<Peer>, Error> {
        let (reply, peers) = oneshot::channel();
        self.orders.send(Order::Leave(reply)).await.map_err(|_| Error::Stopped)?;
        let peers: Vec<Peer> = peers.await.map_err(|_| Error::Stopped)?;
        // A link that somebody makes meanwhile is another one.
        let last = self.next_serial();
        let closing = async {
            loop {
                let mut changed = std::pin::pin!(self.conns_changed.notified());
                changed.as_mut().enable();
                if self.all_conns().iter().all(|conn| conn.serial > last) {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(self.config.flush_timeout, closing).await;
        Ok(peers)
    }
}

/// The nodes that were reached, once this node is a member and the others had a moment; else the
/// reason why it is none, rather one that a node gave than that nobody was there.
async fn gather(mut tried: mpsc::Receiver<Tried>) -> Result<Vec<Peer>, Error> {
    let mut peers: Vec<Peer> = Vec::new();
    let mut joined: Option<Instant> = None;
    let mut failure: Option<Error> = None;
    loop {
        let told = match joined {
            None => tried.recv().await,
            Some(at) => tokio::time::timeout_at(at + OTHERS, tried.recv()).await.unwrap_or(None),
        };
        match told {
            Some(Tried::Reached(peer)) => {
                if !peers.iter().any(|known| known.id() == peer.id()) {
                    peers.push(peer);
                }
            }
            Some(Tried::Joined) => drop(joined.get_or_insert_with(Instant::now)),
            Some(Tried::Failed(error)) => {
                if failure.is_none() || is_answer(&error) {
                    failure = Some(error);
                }
            }
            None => break,
        }
    }
    match (joined, failure) {
        (None, Some(error)) => Err(error),
        (None, None) if peers.is_empty() => Ok(peers),
        (None, None) => Err(Error::Stopped),
        (Some(_), _) => Ok(peers),
    }
}

/// Whether it comes from a node that was reached.
fn is_answer(error: &Error) -> bool {
    matches!(error, Error::LinksByHand(_) | Error::NoPlace(_) | Error::Timeout(_))
}
