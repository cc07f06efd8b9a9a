//! Probes. A probe is a message to a node without a link. The probe and its answer use a stream of their own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use peerkit_proto::address::Address;
use peerkit_proto::codec::{Reader, Writer};
use peerkit_proto::frame::membership::Probe;
use peerkit_proto::hello::MAX_ADDRESSES;
use peerkit_proto::id::NodeId;
use peerkit_proto::peer::Input;
use tokio::io::AsyncWriteExt;

use crate::actor::mailbox::{Mailbox, Operation};
use crate::inner::Inner;
use crate::served::StreamHandler;
use crate::stream::{Stream, read_block};

/// Maximum number of probes under way. Each has a connection of its own. 16 are enough: a member has at most
/// eight feelers under way, and starts one other probe every few seconds.
pub(crate) const MAX_PROBES: usize = 16;

/// The protocol of these streams. One probe is sent in each direction, preceded by its length in four bytes.
pub(crate) const PROBE_PROTOCOL: &str = "peerkit-probe/1";

impl Inner {
    /// Sends a probe to a node in the background, over a stream. The outcome is handed to the actor as
    /// [`Input::Probed`].
    ///
    /// Returns false if [`MAX_PROBES`] are under way. Then the probe is not sent, and the actor gets no
    /// input.
    #[must_use]
    pub(crate) fn probe(
        self: &Arc<Self>,
        id: NodeId,
        addresses: Vec<Address>,
        probe: Probe,
    ) -> bool {
        let Ok(permit) = self.probes.clone().try_acquire_owned() else { return false };
        let inner = self.clone();
        self.tasks.spawn(async move {
            let timeout = inner.config.handshake_timeout;
            let exchange = exchange(&inner, id, &addresses, &probe);
            let answer = match tokio::time::timeout(timeout, exchange).await {
                Ok(Ok(answered)) => Some(answered),
                Ok(Err(why)) => {
                    tracing::debug!(peer = %id.short(), %why, "a probe failed");
                    None
                }
                Err(_) => None,
            };
            drop(permit);
            if let Some((remote, answer)) = &answer {
                // The address at which the node was reached comes first: by that one the node counts.
                let mut addresses = vec![Address::from_socket(*remote)];
                let announced = answer.record.addresses.iter().map(|at| at.clone().without_id());
                addresses.extend(announced.filter(|at| *at != Address::from_socket(*remote)));
                addresses.truncate(MAX_ADDRESSES);
                inner.peers.remember_tested(&inner.tasks.tracker, id, &addresses);
            }
            let answer = answer.map(|(remote, answer)| (remote.ip(), answer));
            inner.actor.input(Input::Probed { id, answer }).await;
        });
        true
    }
}

/// Returns the handler of incoming probes. The actor answers each probe. A probe that takes longer than
/// `timeout` gets no answer.
pub(crate) fn serve(actor: Mailbox, timeout: Duration) -> StreamHandler {
    StreamHandler::new(move |stream| {
        let actor = actor.clone();
        async move {
            let answered = tokio::time::timeout(timeout, answer(&actor, stream)).await;
            if let Ok(Err(why)) = answered {
                tracing::debug!(%why, "a probe was not answered");
            }
        }
    })
}

/// Opens a stream to a node, sends the probe, and returns the address at which the node was reached and its
/// answer.
async fn exchange(
    inner: &Arc<Inner>,
    id: NodeId,
    addresses: &[Address],
    probe: &Probe,
) -> Result<(SocketAddr, Probe), String> {
    let opened = inner.open_stream_without_call_back(id, addresses, PROBE_PROTOCOL).await;
    let (remote, mut stream) = opened.map_err(|error| error.to_string())?;
    write(&mut stream, probe).await.map_err(|error| error.to_string())?;
    Ok((remote, read(&mut stream).await?))
}

/// Answers the probe that arrives on a stream.
async fn answer(actor: &Mailbox, mut stream: Stream) -> Result<(), String> {
    let probe = read(&mut stream).await?;
    let from = stream.peer();
    let received = move |operation| Input::ProbeReceived { operation, from, probe };
    let answer = actor.outcome(Operation::Probe, received).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let writing = async {
        write(&mut stream, &answer).await?;
        stream.shutdown().await
    };
    writing.await.map_err(|error| error.to_string())
}

async fn write(stream: &mut Stream, probe: &Probe) -> io::Result<()> {
    let mut body = Vec::new();
    probe.encode(&mut body);
    let mut out = Vec::with_capacity(body.len() + 4);
    out.put_bytes(&body);
    stream.write_all(&out).await?;
    stream.flush().await
}

async fn read(stream: &mut Stream) -> Result<Probe, String> {
    let body = read_block(&mut stream.channel, Probe::MAX_LEN, "a probe").await?;
    Probe::decode(Reader::new(body)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use peerkit_proto::frame::membership::Beacon;
    use peerkit_proto::id::Key;
    use peerkit_proto::node_record::NodeRecord;

    use super::*;
    use crate::node::Node;

    #[tokio::test]
    async fn a_probe_beyond_the_maximum_starts_no_task() {
        let node = Node::builder().listen("127.0.0.1:0").spawn().await.unwrap();
        let inner = node.inner.clone();
        // Never accepts: connections stay in the system's queue and get no answer.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::from(silent.local_addr().unwrap());
        let key = Key::from_secret(&[1; 32]);
        let beacon = Beacon { least: key.id(), count: 0 };
        let record = NodeRecord::sign(&key, "peerkit", 0, std::slice::from_ref(&address));
        let probe = Probe { neighbour: false, record, beacon, records: Vec::new() };
        // The runtime has one thread and nothing here awaits, so no other task begins or ends meanwhile.
        let before = inner.tasks.tracker.len();
        let send = || inner.probe(key.id(), vec![address.clone()], probe.clone());
        let sent = (0..3 * MAX_PROBES).filter(|_| send()).count();
        assert_eq!((sent, inner.tasks.tracker.len() - before), (MAX_PROBES, MAX_PROBES));
        node.shutdown().await;
    }
}
