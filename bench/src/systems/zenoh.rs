//! zenoh: peers that publish and subscribe, over TCP or TLS. Publishers block under congestion, so that no
//! message is dropped. Multicast scouting is off.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::sync::oneshot;
use zenoh::bytes::ZBytes;
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::qos::{CongestionControl, Priority};
use zenoh::sample::Sample;
use zenoh::{Config, Session, Wait};

use crate::bulk::BulkTransfer;
use crate::messages::{EndResult, Numbering, OnMessage, ReceiveCounter, ReceiveTotals, Rounds};
use crate::system::System;

/// The key of the messages from the connecting end to the listening end.
const TO_LISTENER: &str = "bench/there";

/// The key of the messages from the listening end to the connecting end.
const TO_DIALLER: &str = "bench/back";

/// The key of bulk data, which the connecting end sends.
const BULK: &str = "bench/bulk";

/// Size of each message of bulk data, in bytes.
const CHUNK: usize = 64 << 10;

/// A session that listens.
pub(crate) struct Listener {
    link: Link,
    /// The endpoint and, after a space, the certificate authority that the connecting end has to trust.
    /// Without TLS the authority is empty.
    address: String,
}

impl Listener {
    pub(crate) async fn bind(system: System, on_message: OnMessage) -> Result<Self> {
        // zenoh does not report the port that the system picks, so this chooses a port that was free a moment
        // ago.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut config = config()?;
        let address = if system == System::ZenohTls {
            let tls = Certificates::new()?;
            set(&mut config, "transport/link/tls/root_ca_certificate_base64", &tls.authority)?;
            set(&mut config, "transport/link/tls/listen_certificate_base64", &tls.certificate)?;
            set(&mut config, "transport/link/tls/listen_private_key_base64", &tls.key)?;
            // The other process needs the authority's certificate to connect.
            format!("tls/127.0.0.1:{port} {}", tls.authority)
        } else {
            format!("tcp/127.0.0.1:{port} ")
        };
        let endpoint = address.split(' ').next().context("the address has no endpoint")?;
        set(&mut config, "listen/endpoints", &[endpoint])?;
        let session = zenoh::open(config).await.map_err(Error::from_boxed)?;
        let mut link = Link::new(session, on_message, TO_DIALLER, TO_LISTENER).await?;
        let bulk = link.session.declare_subscriber(BULK).callback(|_| {});
        link.subscribers.push(bulk.await.map_err(Error::from_boxed)?);
        Ok(Self { link, address })
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    pub(crate) fn accept(self) -> Link {
        self.link
    }
}

/// A session. It has a publisher for messages to the other end, and a subscriber to messages from the other
/// end.
pub(crate) struct Link {
    session: Session,
    out: Arc<Publisher<'static>>,
    subscribers: Vec<Subscriber<()>>,
    result: oneshot::Receiver<EndResult>,
    /// Size of the first ping, in bytes. The callback sends all later pings.
    first_ping: Option<usize>,
}

impl Link {
    pub(crate) async fn connect(address: &str, on_message: OnMessage) -> Result<Self> {
        let (endpoint, authority) =
            address.split_once(' ').context("the address has no endpoint")?;
        let mut config = config()?;
        if !authority.is_empty() {
            set(&mut config, "transport/link/tls/root_ca_certificate_base64", &authority)?;
        }
        // By default every peer listens, but this end only dials.
        set(&mut config, "listen/endpoints", &[""; 0])?;
        set(&mut config, "connect/endpoints", &[endpoint])?;
        let session = zenoh::open(config).await.map_err(Error::from_boxed)?;
        Self::new(session, on_message, TO_LISTENER, TO_DIALLER).await
    }

    async fn new(
        session: Session,
        on_message: OnMessage,
        out: &'static str,
        back: &'static str,
    ) -> Result<Self> {
        // Messages that are not "express" wait for more messages to fill a batch. Pings and replies must not
        // wait.
        let express = !matches!(on_message, OnMessage::Count);
        let out = publisher(&session, out, express, Priority::DEFAULT).await?;
        let (done, result) = oneshot::channel();
        let mut handler = SampleHandler::new(on_message, out.clone(), done);
        let subscriber = session.declare_subscriber(back);
        let subscriber = subscriber.callback_mut(move |sample| handler.handle(&sample));
        let subscribers = vec![subscriber.await.map_err(Error::from_boxed)?];
        let first_ping = match on_message {
            OnMessage::Ping { size, .. } => Some(size),
            _ => None,
        };
        Ok(Self { session, out, subscribers, result, first_ping })
    }

    pub(crate) async fn send(&self, size: usize, duration: Duration) -> Result<u64> {
        wait_for_subscriber(&self.out).await?;
        let out = self.out.clone();
        // `wait` blocks its thread while the link is congested, so it must not run in a task.
        let sending = tokio::task::spawn_blocking(move || {
            let mut numbers = Numbering::new(duration);
            loop {
                // zenoh takes ownership of a message, so each message needs new memory.
                let mut message = vec![0; size];
                if !numbers.number(&mut message) {
                    let count = numbers.last(&mut message);
                    out.put(message).wait()?;
                    return Ok(count);
                }
                out.put(message).wait()?;
            }
        });
        sending.await?.map_err(Error::from_boxed)
    }

    pub(crate) async fn receive_all(&mut self) -> Result<ReceiveTotals> {
        (&mut self.result).await.context("the session has ended")?.receive_totals()
    }

    pub(crate) async fn exchange(
        &mut self,
        size: usize,
        duration: Duration,
    ) -> Result<(u64, ReceiveTotals)> {
        // In the meantime, the callback counts received messages on a thread of zenoh.
        let sent = self.send(size, duration).await?;
        Ok((sent, self.receive_all().await?))
    }

    pub(crate) async fn rounds(&mut self) -> Result<Rounds> {
        let Some(size) = self.first_ping else { bail!("this end does not measure rounds") };
        wait_for_subscriber(&self.out).await?;
        self.out.put(vec![0; size]).await.map_err(Error::from_boxed)?;
        (&mut self.result).await.context("the session has ended")?.rounds()
    }

    /// Starts to send bulk data. It has a lower priority than the messages, because zenoh has priorities for
    /// this purpose.
    pub(crate) async fn start_bulk(&self) -> Result<BulkTransfer> {
        let out = publisher(&self.session, BULK, false, Priority::DataLow).await?;
        wait_for_subscriber(&out).await?;
        let bulk = BulkTransfer::new();
        let (sent, is_running) = (bulk.sent.clone(), bulk.is_running.clone());
        tokio::task::spawn_blocking(move || {
            let chunk = ZBytes::from(vec![0x5a; CHUNK]);
            while is_running.load(Ordering::Relaxed) && out.put(chunk.clone()).wait().is_ok() {
                sent.fetch_add(CHUNK as u64, Ordering::Relaxed);
            }
        });
        Ok(bulk)
    }

    pub(crate) async fn close(self) {
        drop(self.subscribers);
        let _ = self.session.close().await;
    }
}

/// The callback for received messages. It counts messages, sends them back, or measures rounds.
struct SampleHandler {
    state: EndState,
    out: Arc<Publisher<'static>>,
    done: Option<oneshot::Sender<EndResult>>,
}

/// An [`OnMessage`] and the state that it needs.
enum EndState {
    Count(ReceiveCounter),
    Echo,
    Ping(Option<Rounds>),
}

impl SampleHandler {
    fn new(
        on_message: OnMessage,
        out: Arc<Publisher<'static>>,
        done: oneshot::Sender<EndResult>,
    ) -> Self {
        let state = match on_message {
            OnMessage::Count => EndState::Count(ReceiveCounter::default()),
            OnMessage::Echo => EndState::Echo,
            OnMessage::Ping { size, duration } => EndState::Ping(Some(Rounds::new(size, duration))),
        };
        Self { state, out, done: Some(done) }
    }

    fn handle(&mut self, sample: &Sample) {
        match &mut self.state {
            EndState::Count(counter) => {
                // A payload may consist of several slices. The first slice has the number of the message.
                let slice = sample.payload().slices().next().unwrap_or_default();
                if let Some(totals) = counter.take(slice) {
                    self.finish(EndResult::Received(totals));
                }
            }
            EndState::Echo => {
                let _ = self.out.put(sample.payload().clone()).wait();
            }
            EndState::Ping(rounds) => {
                // There are no rounds after they have ended. Later messages are ignored.
                let Some(under_way) = rounds else { return };
                if !under_way.finish() {
                    let _ = self.out.put(under_way.start().to_vec()).wait();
                } else if let Some(rounds) = rounds.take() {
                    self.finish(EndResult::Rounds(rounds));
                }
            }
        }
    }

    fn finish(&mut self, result: EndResult) {
        if let Some(done) = self.done.take() {
            let _ = done.send(result);
        }
    }
}

async fn publisher(
    session: &Session,
    key: &'static str,
    express: bool,
    priority: Priority,
) -> Result<Arc<Publisher<'static>>> {
    let publisher = session
        .declare_publisher(key)
        .congestion_control(CongestionControl::Block)
        .express(express)
        .priority(priority);
    Ok(Arc::new(publisher.await.map_err(Error::from_boxed)?))
}

/// Waits for a subscriber, because earlier messages would be lost.
async fn wait_for_subscriber(publisher: &Publisher<'_>) -> Result<()> {
    // The listener is declared before the status is read, so that no change between the two is missed.
    let changes = publisher.matching_listener().await.map_err(Error::from_boxed)?;
    while !publisher.matching_status().await.map_err(Error::from_boxed)?.matching() {
        changes.recv_async().await.map_err(Error::from_boxed)?;
    }
    Ok(())
}

fn config() -> Result<Config> {
    let mut config = Config::default();
    set(&mut config, "mode", &"peer")?;
    set(&mut config, "scouting/multicast/enabled", &false)?;
    Ok(config)
}

fn set(config: &mut Config, key: &str, value: &impl serde::Serialize) -> Result<()> {
    let value = serde_json::to_string(value)?;
    config.insert_json5(key, &value).map_err(|error| anyhow::anyhow!("{key}: {error}"))
}

/// A certificate authority, a certificate that it has issued, and the key of that certificate. Each is PEM
/// text, encoded in base64.
struct Certificates {
    authority: String,
    certificate: String,
    key: String,
}

impl Certificates {
    fn new() -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let signing = KeyPair::generate()?;
        let root = authority.self_signed(&signing)?;
        let key = KeyPair::generate()?;
        let issuer = Issuer::new(authority, signing);
        let leaf =
            CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
        Ok(Self {
            authority: BASE64.encode(root.pem()),
            certificate: BASE64.encode(leaf.pem()),
            key: BASE64.encode(key.serialize_pem()),
        })
    }
}
