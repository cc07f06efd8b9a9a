//! Limits on the rate of files and messages, both ways: over all, and for each peer.
//!
//! For the serving and the fetching side alike:
//!
//! ```text
//! Rates::new(&Config) -> Rates                      one for a node; clones share it
//! Rates::set(RateLimits), Rates::limits()           while everything runs
//! Rates::of(NodeId) -> Arc<PeerRates>               held for as long as a stream to the peer is open
//! PeerRates::upload_part() -> Option<usize>         `None`: nothing is limited, take nothing
//! PeerRates::upload(bytes).await                    returns when these may be sent
//! PeerRates::download_part(), PeerRates::download(bytes)     the same for what comes in
//! ```
//!
//! Who is limited takes parts of at most `upload_part()` bytes, and sends each once it has it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use peerkit_proto::bucket::{Bucket, earning};
use peerkit_proto::config::Config;
use peerkit_proto::id::NodeId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::counters::FileCounters;
use crate::lock::lock;

/// What an unused limit lets through at once. 50 ms of it: timers are a few of these late, and
/// nobody sees it on a line.
const BURST: Duration = Duration::from_millis(50);

/// Most bytes that are taken at once: four TLS records.
const MAX_PART: u64 = 64 << 10;

/// Fewest bytes that are taken at once, however low the limit: most of a packet.
const MIN_PART: u64 = 1 << 10;

/// How fast files, messages and broadcasts may go out and come in, in bytes a second; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// Sent, over all.
    pub upload: u64,
    /// Fetched, over all.
    pub download: u64,
    /// Sent to one node.
    pub peer_upload: u64,
    /// Fetched from one node.
    pub peer_download: u64,
    /// Messages, requests and replies sent, over all links.
    pub messages: u64,
    /// Messages, requests and replies sent over one link.
    pub peer_messages: u64,
    /// Own broadcasts sent.
    pub broadcasts: u64,
    /// Read from one link.
    pub peer_receive: u64,
}

/// A token bucket and the clock that it goes by. It is empty at first.
#[derive(Debug, Clone, Copy)]
struct Paid {
    begun: Instant,
    bucket: Bucket,
}

impl Paid {
    fn new() -> Self {
        let bucket = Bucket::empty(peerkit_proto::time::Instant::ZERO, BURST);
        Self { begun: Instant::now(), bucket }
    }

    /// Charges `bytes` at `per_second`, which is not 0. Returns when they will have been paid for.
    fn charge(&mut self, bytes: usize, per_second: u64) -> Instant {
        let now = Instant::now();
        let at = peerkit_proto::time::Instant::from_origin(now - self.begun);
        let wait = self.bucket.owe(at, earning(bytes as u64, per_second), BURST);
        now.checked_add(wait).unwrap_or(now)
    }
}

/// A limit for links: it says until when a link has to pause, and never waits itself.
#[derive(Debug)]
pub(crate) struct Throttle(Mutex<Paid>);

impl Default for Throttle {
    fn default() -> Self {
        Self(Mutex::new(Paid::new()))
    }
}

impl Throttle {
    /// Counts `bytes` at a limit of `per_second`. Returns when the next may follow; `None` is at once.
    pub(crate) fn debit(&self, bytes: usize, per_second: u64) -> Option<Instant> {
        if per_second == 0 {
            return None;
        }
        let due = lock(&self.0).charge(bytes, per_second);
        (due > Instant::now()).then_some(due)
    }

    /// Forgets what was counted.
    fn clear(&self) {
        *lock(&self.0) = Paid::new();
    }
}

/// A limit that may change while others wait for it. Whoever comes first is served first, so that
/// those who take equal parts share evenly.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Bytes a second; 0 is no limit.
    per_second: AtomicU64,
    /// The task that holds this lock is the next to go.
    paid: tokio::sync::Mutex<Paid>,
    changed: Notify,
}

impl Rate {
    /// A limit of so many bytes a second; 0 is none.
    pub(crate) fn new(per_second: u64) -> Self {
        Self {
            per_second: AtomicU64::new(per_second),
            paid: tokio::sync::Mutex::new(Paid::new()),
            changed: Notify::new(),
        }
    }

    /// Bytes a second; 0 is no limit.
    pub(crate) fn get(&self) -> u64 {
        self.per_second.load(Ordering::Relaxed)
    }

    /// Another limit from now on, for those who wait as well.
    pub(crate) fn set(&self, per_second: u64) {
        if self.per_second.swap(per_second, Ordering::Relaxed) != per_second {
            self.changed.notify_waiters();
        }
    }

    /// Waits until `bytes` more may pass. Whoever gives up waiting has taken nothing.
    pub(crate) async fn take(&self, bytes: usize) {
        if self.get() == 0 {
            return;
        }
        let mut paid = self.paid.lock().await;
        loop {
            let changed = self.changed.notified();
            let rate = self.get();
            if rate == 0 {
                return;
            }
            let mut charged = *paid;
            let due = charged.charge(bytes, rate);
            let wait = async {
                if due > Instant::now() {
                    sleep_until(due).await;
                }
            };
            tokio::select! {
                biased;
                () = wait => {
                    *paid = charged;
                    return;
                }
                () = changed => {}
            }
        }
    }
}

/// Ends when a link may go on.
pub(crate) type Pause = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// The limits of a node. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Rates(Arc<All>);

#[derive(Debug)]
struct All {
    upload: Rate,
    download: Rate,
    /// Messages, over all links.
    messages: AtomicU64,
    messages_paid: Throttle,
    peer_messages: AtomicU64,
    broadcasts: Rate,
    peer_receive: AtomicU64,
    /// Wakes the links that pause, once the limits have changed.
    links_changed: Notify,
    /// For peers that come.
    peer_upload: AtomicU64,
    peer_download: AtomicU64,
    /// Those that have streams: each takes itself out at the end.
    peers: Mutex<HashMap<NodeId, Weak<PeerRates>>>,
    /// Bytes of pieces that were sent and received.
    sent: AtomicU64,
    received: AtomicU64,
}

/// The limits for one peer, and through them those over all.
#[derive(Debug)]
pub(crate) struct PeerRates {
    peer: NodeId,
    upload: Rate,
    download: Rate,
    all: Arc<All>,
}

impl Rates {
    /// As `config` says.
    pub(crate) fn new(config: &Config) -> Self {
        Self(Arc::new(All {
            upload: Rate::new(config.upload_rate),
            download: Rate::new(config.download_rate),
            messages: AtomicU64::new(config.message_rate),
            messages_paid: Throttle::default(),
            peer_messages: AtomicU64::new(config.peer_message_rate),
            broadcasts: Rate::new(config.broadcast_rate),
            peer_receive: AtomicU64::new(config.peer_receive_rate),
            links_changed: Notify::new(),
            peer_upload: AtomicU64::new(config.peer_upload_rate),
            peer_download: AtomicU64::new(config.peer_download_rate),
            peers: Mutex::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }))
    }

    /// Bytes of pieces that were sent and received, over all.
    pub(crate) fn counters(&self) -> FileCounters {
        FileCounters {
            sent: self.0.sent.load(Ordering::Relaxed),
            received: self.0.received.load(Ordering::Relaxed),
        }
    }

    /// The limits as they are.
    pub(crate) fn limits(&self) -> RateLimits {
        RateLimits {
            upload: self.0.upload.get(),
            download: self.0.download.get(),
            peer_upload: self.0.peer_upload.load(Ordering::Relaxed),
            peer_download: self.0.peer_download.load(Ordering::Relaxed),
            messages: self.0.messages.load(Ordering::Relaxed),
            peer_messages: self.0.peer_messages.load(Ordering::Relaxed),
            broadcasts: self.0.broadcasts.get(),
            peer_receive: self.0.peer_receive.load(Ordering::Relaxed),
        }
    }

    /// Other limits from now on, for what is under way as well.
    pub(crate) fn set(&self, limits: RateLimits) {
        self.0.upload.set(limits.upload);
        self.0.download.set(limits.download);
        self.0.broadcasts.set(limits.broadcasts);
        if self.0.messages.swap(limits.messages, Ordering::Relaxed) != limits.messages {
            self.0.messages_paid.clear();
        }
        self.0.peer_messages.store(limits.peer_messages, Ordering::Relaxed);
        self.0.peer_receive.store(limits.peer_receive, Ordering::Relaxed);
        self.0.links_changed.notify_waiters();
        let peers: Vec<Arc<PeerRates>> = {
            let peers = lock(&self.0.peers);
            // Under the lock: who comes now is either among these or sees the new limits.
            self.0.peer_upload.store(limits.peer_upload, Ordering::Relaxed);
            self.0.peer_download.store(limits.peer_download, Ordering::Relaxed);
            peers.values().filter_map(Weak::upgrade).collect()
        };
        for peer in peers {
            peer.upload.set(limits.peer_upload);
            peer.download.set(limits.peer_download);
        }
    }

    /// Counts `bytes` of messages that a link has sent; `link` counts those of the link. Returns what
    /// to wait for before the link sends more, if there is a limit.
    pub(crate) fn messages_sent(&self, link: &Throttle, bytes: usize) -> Option<Pause> {
        let all = self.0.messages.load(Ordering::Relaxed);
        let one = self.0.peer_messages.load(Ordering::Relaxed);
        if (all, one) == (0, 0) || bytes == 0 {
            return None;
        }
        let due = self.0.messages_paid.debit(bytes, all).max(link.debit(bytes, one))?;
        Some(self.pause(due))
    }

    /// Bytes a second that may be read from one link; 0 is no limit.
    pub(crate) fn peer_receive(&self) -> u64 {
        self.0.peer_receive.load(Ordering::Relaxed)
    }

    /// A pause until `due`, or until the limits change.
    pub(crate) fn pause(&self, due: Instant) -> Pause {
        let all = Arc::clone(&self.0);
        Box::pin(async move {
            tokio::select! {
                () = sleep_until(due) => {}
                () = all.links_changed.notified() => {}
            }
        })
    }

    /// Bytes a second of own broadcasts; 0 is no limit.
    pub(crate) fn broadcast_limit(&self) -> u64 {
        self.0.broadcasts.get()
    }

    /// Waits until a broadcast of so many bytes may be sent.
    pub(crate) async fn broadcast(&self, bytes: usize) {
        self.0.broadcasts.take(bytes).await;
    }

    /// The limits for one peer: the same for all its streams.
    pub(crate) fn of(&self, peer: NodeId) -> Arc<PeerRates> {
        let mut peers = lock(&self.0.peers);
        if let Some(known) = peers.get(&peer).and_then(Weak::upgrade) {
            return known;
        }
        let rates = Arc::new(PeerRates {
            peer,
            upload: Rate::new(self.0.peer_upload.load(Ordering::Relaxed)),
            download: Rate::new(self.0.peer_download.load(Ordering::Relaxed)),
            all: Arc::clone(&self.0),
        });
        peers.insert(peer, Arc::downgrade(&rates));
        rates
    }
}

impl All {}

impl PeerRates {
    /// How many bytes to take at once before they are sent; `None` where nothing is limited, and
    /// nothing need be taken.
    pub(crate) fn upload_part(&self) -> Option<usize> {
        part(self.upload.get(), self.all.upload.get())
    }

    /// As [`upload_part`](Self::upload_part), for what comes in.
    pub(crate) fn download_part(&self) -> Option<usize> {
        part(self.download.get(), self.all.download.get())
    }

    /// Bytes of pieces that go to this peer.
    pub(crate) fn sent(&self, bytes: usize) {
        self.all.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of pieces that came from this peer.
    pub(crate) fn received(&self, bytes: usize) {
        self.all.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Waits until `bytes` more may go to this peer.
    pub(crate) async fn upload(&self, bytes: usize) {
        self.upload.take(bytes).await;
        self.all.upload.take(bytes).await;
    }

    /// Waits until `bytes` more may come from this peer.
    pub(crate) async fn download(&self, bytes: usize) {
        self.download.take(bytes).await;
        self.all.download.take(bytes).await;
    }
}

impl Drop for PeerRates {
    fn drop(&mut self) {
        let mut peers = lock(&self.all.peers);
        // Another may have come for the same peer since.
        if peers.get(&self.peer).is_some_and(|known| known.strong_count() == 0) {
            peers.remove(&self.peer);
        }
    }
}

fn part(peer: u64, all: u64) -> Option<usize> {
    let lowest = [peer, all].into_iter().filter(|rate| *rate > 0).min()?;
    let bytes = (lowest / 20).clamp(MIN_PART, MAX_PART);
    usize::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn rates(limits: RateLimits) -> Rates {
        let mut config = Config::default();
        config.upload_rate = limits.upload;
        config.peer_upload_rate = limits.peer_upload;
        Rates::new(&config)
    }

    /// What `rates` lets go out to `peer` until `end`, in bytes.
    async fn sent(rates: Arc<PeerRates>, end: Instant) -> usize {
        let mut sent = 0;
        while let Some(part) = rates.upload_part() {
            if tokio::time::timeout_at(end, rates.upload(part)).await.is_err() {
                break;
            }
            sent += part;
        }
        sent
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_kept_and_little_passes_at_once() {
        let rate = Rate::new(1_000_000);
        tokio::time::advance(Duration::from_secs(10)).await;
        let begin = Instant::now();
        rate.take(50_000).await;
        assert_eq!(begin.elapsed(), Duration::ZERO, "50 ms of it pass at once");
        rate.take(1).await;
        assert!(begin.elapsed() > Duration::ZERO, "and no more");
        for _ in 0..1000 {
            rate.take(10_000).await;
        }
        let took = begin.elapsed().as_secs_f64();
        assert!((9.9..10.1).contains(&took), "{took} s for 10 MB");
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_costs_no_time_and_a_change_reaches_who_waits() {
        let rate = Arc::new(Rate::new(0));
        let begin = Instant::now();
        for _ in 0..1000 {
            rate.take(1 << 30).await;
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
        rate.set(1);
        let waiting = Arc::clone(&rate);
        let first = tokio::spawn(async move { waiting.take(1 << 20).await });
        let waiting = Arc::clone(&rate);
        let second = tokio::spawn(async move { waiting.take(1 << 20).await });
        tokio::time::sleep(Duration::from_secs(5)).await;
        rate.set(1 << 20);
        first.await.unwrap();
        assert!((5..7).contains(&begin.elapsed().as_secs()));
        rate.set(0);
        second.await.unwrap();
        assert!((5..7).contains(&begin.elapsed().as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_takes_nothing() {
        let rate = Rate::new(1000);
        let begin = Instant::now();
        let given_up = tokio::time::timeout(Duration::from_secs(1), rate.take(1_000_000)).await;
        assert!(given_up.is_err());
        rate.take(1000).await;
        assert!(begin.elapsed() < Duration::from_millis(2100), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn peers_share_evenly_and_each_has_its_own_limit() {
        let limits = RateLimits { upload: 10_000_000, ..RateLimits::default() };
        let rates = rates(limits);
        let end = Instant::now() + Duration::from_secs(10);
        let (a, b) = tokio::join!(sent(rates.of(peer(1)), end), sent(rates.of(peer(2)), end));
        assert!(a.abs_diff(b) <= 200_000, "{a} and {b}");
        assert!((99_000_000..102_000_000).contains(&(a + b)), "{a} and {b}");

        // One of two that is limited to less leaves the rest to the other.
        let rates = self::rates(limits);
        let slow = rates.of(peer(1));
        slow.upload.set(1_000_000);
        let end = Instant::now() + Duration::from_secs(10);
        let (a, b) = tokio::join!(sent(slow, end), sent(rates.of(peer(2)), end));
        assert!((9_900_000..10_500_000).contains(&a), "{a}");
        assert!((89_000_000..92_000_000).contains(&b), "{b}");
    }

    #[tokio::test]
    async fn the_streams_of_a_peer_share_and_leave_nothing() {
        let rates = rates(RateLimits { peer_upload: 5, ..RateLimits::default() });
        let (first, second) = (rates.of(peer(1)), rates.of(peer(1)));
        assert!(Arc::ptr_eq(&first, &second));
        let limits = RateLimits { peer_upload: 7, download: 8, ..RateLimits::default() };
        rates.set(limits);
        assert_eq!(rates.limits(), limits);
        assert_eq!((first.upload.get(), rates.of(peer(2)).upload.get()), (7, 7));
        assert_eq!(first.upload_part(), Some(1024));
        assert_eq!(lock(&rates.0.peers).len(), 1);
        drop(first);
        assert_eq!(lock(&rates.0.peers).len(), 1);
        drop(second);
        assert_eq!(lock(&rates.0.peers).len(), 0);
        rates.set(RateLimits::default());
        assert_eq!(rates.of(peer(1)).upload_part(), None);
    }
}
