//! Listening: connections in, a bounded number of handshakes under way, then a link or a stream.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use peerkit_proto::address::Address;
use peerkit_proto::event::{Direction, Event, Reason};
use peerkit_proto::hello::Hello;
use peerkit_proto::link::{Link, Side};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::conn::{self, Established};
use crate::dial::{self, Entry, Made};
use crate::error::Error;
use crate::inner::Inner;
use crate::tls::{Channel, Purpose};

/// The wait after the system had no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds every one of `addresses` (`host:port`; port 0 picks one).
pub(crate) async fn bind(addresses: &[String]) -> Result<Vec<TcpListener>, Error> {
    let mut listeners = Vec::new();
    for address in addresses {
        let failed = |error: String| Error::Listen { address: address.clone(), error };
        let resolved = tokio::net::lookup_host(address.as_str()).await;
        let sockets: Vec<_> = resolved.map_err(|error| failed(error.to_string()))?.collect();
        let socket = sockets.first().ok_or_else(|| failed("no such address".into()))?;
        let listener = TcpListener::bind(socket).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => Error::PortInUse(*socket),
            _ => failed(error.to_string()),
        })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Accepts connections until the node stops.
pub(crate) async fn accept(inner: Arc<Inner>, listener: TcpListener, pending: Arc<Pending>) {
    loop {
        let accepted = tokio::select! {
            () = inner.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                let place = pending.enter(remote.ip());
                conn::start(&inner, welcome(inner.clone(), stream, remote, place));
            }
            Err(error) => {
                tracing::debug!(%error, "can't accept a connection now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The handshakes under way. When there are too many the oldest gives way to the newcomer: who is
/// honest is done in a moment, and who is not can't keep others out.
#[derive(Debug)]
pub(crate) struct Pending {
    max: usize,
    max_per_ip: usize,
    places: Mutex<VecDeque<Arc<PlaceState>>>,
}

#[derive(Debug)]
struct PlaceState {
    ip: IpAddr,
    /// Cancelled when it has to give way.
    evicted: CancellationToken,
    done: AtomicBool,
}

/// A place among the pending; given back when dropped.
#[derive(Debug)]
struct Place(Arc<PlaceState>);

impl Pending {
    pub(crate) fn new(max: usize, max_per_ip: usize) -> Arc<Self> {
        Arc::new(Self { max, max_per_ip, places: Mutex::default() })
    }

    fn enter(&self, ip: IpAddr) -> Place {
        let ip = ip.to_canonical();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|place| !place.done.load(Ordering::Relaxed));
        if !ip.is_loopback() && places.iter().filter(|p| p.ip == ip).count() >= self.max_per_ip {
            evict_first(&mut places, |place| place.ip == ip);
        }
        if places.len() >= self.max {
            evict_first(&mut places, |_| true);
        }
        let state = Arc::new(PlaceState {
            ip,
            evicted: CancellationToken::new(),
            done: AtomicBool::new(false),
        });
        places.push_back(state.clone());
        Place(state)
    }
}

fn evict_first(places: &mut VecDeque<Arc<PlaceState>>, which: impl Fn(&Arc<PlaceState>) -> bool) {
    if let Some(at) = places.iter().position(which)
        && let Some(place) = places.remove(at)
    {
        place.evicted.cancel();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}

/// One inbound connection, from its first byte to its end, or to where it is a link.
async fn welcome(inner: Arc<Inner>, tcp: TcpStream, remote: SocketAddr, place: Place) -> Made {
    let evicted = place.0.evicted.clone();
    let timeout = inner.config.handshake_timeout;
    let entered = tokio::select! {
        entered = tokio::time::timeout(timeout, enter(&inner, tcp)) => {
            entered.unwrap_or_else(|_| Err("the handshake took too long".into()))
        }
        () = evicted.cancelled() => Err("gave way to a newer connection".into()),
    };
    drop(place);
    let outcome = match entered {
        Ok(Entered::Greeted(greeted)) => settle(&inner, *greeted, remote).await,
        Ok(Entered::Stream(opened)) => {
            opened.await;
            Ok(None)
        }
        Ok(Entered::Nothing) => Ok(None),
        Err(error) => Err(error),
    };
    outcome.unwrap_or_else(|error| {
        let address = Address::from_socket(remote);
        // Not awaited: whoever makes bad connections must not fill the node with waiting tasks.
        inner.dispatch.notice(Event::InboundNodeConnectionError { address, error });
        None
    })
}

/// A connection that has said Hello.
struct Greeted {
    channel: Channel,
    local: SocketAddr,
    link: Link,
    buffer: BytesMut,
    hello: Hello,
}

enum Entered {
    Greeted(Box<Greeted>),
    Stream(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>),
    /// It came to nothing, and nobody needs to be told.
    Nothing,
}

async fn enter(inner: &Arc<Inner>, tcp: TcpStream) -> Result<Entered, String> {
    let local = tcp.local_addr().map_err(|error| error.to_string())?;
    let _ = tcp.set_nodelay(true);
    let mut channel = inner.tls.accept(tcp).await.map_err(|error| error.to_string())?;
    let session = channel.session();
    if session.purpose == Purpose::Stream {
        let opened = inner.accept_stream(channel).await?;
        return Ok(Entered::Stream(opened));
    }
    let mut link = dial::new_link(inner, Side::Acceptor, &session, local);
    let mut buffer = BytesMut::new();
    let hello = match dial::greet(&mut link, &mut channel, &mut buffer, inner).await {
        Ok(hello) => hello,
        // A dialler that finds that it has a link already goes away without a Hello.
        Err(Reason::Lost(_)) => return Ok(Entered::Nothing),
        Err(reason) => {
            let _ = channel.shutdown().await;
            return Err(reason.to_string());
        }
    };
    Ok(Entered::Greeted(Box::new(Greeted { channel, local, link, buffer, hello })))
}

/// Has a connection admitted, or tells it why not. Never cut short once it is admitted.
async fn settle(inner: &Inner, greeted: Greeted, remote: SocketAddr) -> Result<Made, String> {
    let Greeted { mut channel, local, mut link, buffer, hello } = greeted;
    let entry = Entry {
        session: channel.session(),
        address: hello.dialable(remote),
        hello,
        direction: Direction::Inbound,
        remote,
        fallback: Address::from_socket(remote),
    };
    match dial::admit(inner, entry).await {
        Ok(conn) => {
            link.admit(inner.now());
            inner.seen(local).await;
            Ok(Some(Box::new(Established { conn, link, stream: channel, buffer })))
        }
        Err(reason) => {
            link.refuse(reason.clone());
            let telling = dial::say(&mut link, &mut channel);
            let _ = tokio::time::timeout(inner.config.handshake_timeout, telling).await;
            match reason {
                Reason::Duplicate => Ok(None),
                reason => Err(reason.to_string()),
            }
        }
    }
}
