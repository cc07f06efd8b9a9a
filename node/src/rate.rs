//! Limits on the rates of files and messages, in both directions: for the node, and for each peer.
//!
//! A stream that sends files holds the [`PeerRates`] of its peer for as long as it is open. If
//! [`PeerRates::upload_part`] returns a size, the stream splits its bytes into parts of at most that size,
//! and sends each part once [`PeerRates::upload`] returns. A stream that fetches files does the same with the
//! methods for downloads.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use peerkit_proto::bucket::{Bucket, time_to_earn};
use peerkit_proto::config::Config;
use peerkit_proto::id::NodeId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::counters::FileCounters;
use crate::lock::lock;

/// Maximum burst that an unused limit lets through, as the time in which it is earned. 50 ms: longer than
/// timers are late, and too short to be noticed on a line.
const BURST: Duration = Duration::from_millis(50);

/// Maximum number of bytes of a part. 64 KiB: four TLS records.
const MAX_PART: u64 = 64 << 10;

/// Minimum number of bytes of a part, even if the limit is low. 1 KiB: most of a packet.
const MIN_PART: u64 = 1 << 10;

/// Limits on the rates of files, messages and broadcasts, in bytes a second; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// Files sent, to all nodes.
    pub upload: u64,
    /// Files fetched, from all nodes.
    pub download: u64,
    /// Files sent to one node.
    pub peer_upload: u64,
    /// Files fetched from one node.
    pub peer_download: u64,
    /// Messages, requests and replies sent, over all links.
    pub messages: u64,
    /// Messages, requests and replies sent over one link.
    pub peer_messages: u64,
    /// Broadcasts of this node.
    pub broadcasts: u64,
    /// All bytes read from one link.
    pub peer_receive: u64,
}

/// A token bucket with its clock. It is empty at first.
#[derive(Debug, Clone, Copy)]
struct TimedBucket {
    begun: Instant,
    bucket: Bucket,
}

impl Default for TimedBucket {
    fn default() -> Self {
        let bucket = Bucket::empty(peerkit_proto::time::Instant::ZERO, BURST);
        Self { begun: Instant::now(), bucket }
    }
}

impl TimedBucket {
    /// Charges `bytes` at a rate of `per_second`, which is not 0. Returns the time at which the bucket has
    /// earned them.
    fn charge(&mut self, bytes: usize, per_second: u64, burst: Duration) -> Instant {
        let now = Instant::now();
        let at = peerkit_proto::time::Instant::from_origin(now - self.begun);
        let wait = self.bucket.take_with_debt(at, time_to_earn(bytes as u64, per_second), burst);
        now.checked_add(wait).unwrap_or(now)
    }
}

/// A rate limit for links. It returns the time at which a link may go on, and never waits itself.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<TimedBucket>);

impl Throttle {
    /// Charges `bytes` at a rate of `per_second`. Returns the time from which on more may follow, or `None`
    /// if that is now.
    pub(crate) fn debit(&self, bytes: usize, per_second: u64) -> Option<Instant> {
        if per_second == 0 {
            return None;
        }
        let due = lock(&self.0).charge(bytes, per_second, BURST);
        (due > Instant::now()).then_some(due)
    }

    /// Forgets all charges.
    fn clear(&self) {
        *lock(&self.0) = TimedBucket::default();
    }
}

/// A rate limit that may change while tasks wait for it. Tasks are served in their order, so tasks that
/// take equal parts share evenly.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Bytes a second; 0 is no limit.
    per_second: AtomicU64,
    /// The burst that the unused limit lets through, as the time in which it is earned.
    burst: Duration,
    /// The task that holds this lock is next.
    bucket: tokio::sync::Mutex<TimedBucket>,
    changed: Notify,
}

impl Rate {
    /// Creates a limit of `per_second` bytes a second; 0 is no limit.
    pub(crate) fn new(per_second: u64) -> Self {
        Self::with_burst(per_second, BURST)
    }

    /// Creates a limit that lets a larger burst through when it was unused.
    pub(crate) fn with_burst(per_second: u64, burst: Duration) -> Self {
        Self {
            per_second: AtomicU64::new(per_second),
            burst,
            bucket: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Returns the limit in bytes a second; 0 is no limit.
    pub(crate) fn get(&self) -> u64 {
        self.per_second.load(Ordering::Relaxed)
    }

    /// Changes the limit, also for tasks that wait.
    pub(crate) fn set(&self, per_second: u64) {
        if self.per_second.swap(per_second, Ordering::Relaxed) != per_second {
            self.changed.notify_waiters();
        }
    }

    /// Waits until `bytes` more may pass. A task that gives up waiting has taken nothing.
    pub(crate) async fn take(&self, bytes: usize) {
        // Without a limit no task waits for the lock.
        if self.get() == 0 {
            return;
        }
        let mut bucket = self.bucket.lock().await;
        loop {
            // Registered before the limit is read, so that no change is missed.
            let changed = self.changed.notified();
            let rate = self.get();
            if rate == 0 {
                return;
            }
            // A copy is charged, so that nothing is taken if the limit changes or the task gives up.
            let mut charged = *bucket;
            let due = charged.charge(bytes, rate, self.burst);
            let wait = async {
                if due > Instant::now() {
                    sleep_until(due).await;
                }
            };
            tokio::select! {
                biased;
                () = wait => {
                    *bucket = charged;
                    return;
                }
                () = changed => {}
            }
        }
    }
}

/// A future that is ready when a link may go on.
pub(crate) type Pause = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// The rate limits of a node. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Rates(Arc<NodeRates>);

#[derive(Debug)]
struct NodeRates {
    upload: Rate,
    download: Rate,
    /// The limit on messages over all links, and its bucket.
    messages: AtomicU64,
    messages_throttle: Throttle,
    peer_messages: AtomicU64,
    broadcasts: Rate,
    peer_receive: AtomicU64,
    /// Wakes pausing links when the limits change.
    links_changed: Notify,
    /// The limits of each peer.
    peer_upload: AtomicU64,
    peer_download: AtomicU64,
    /// The limits of peers with open streams. Each removes itself when it is dropped.
    peers: Mutex<HashMap<NodeId, Weak<PeerRates>>>,
    /// Bytes of file pieces sent and received.
    sent: AtomicU64,
    received: AtomicU64,
}

/// The rate limits of one peer. Its methods apply the limits of the node too.
#[derive(Debug)]
pub(crate) struct PeerRates {
    peer: NodeId,
    upload: Rate,
    download: Rate,
    node: Arc<NodeRates>,
}

impl Rates {
    /// Creates the limits that `config` has.
    pub(crate) fn new(config: &Config) -> Self {
        Self(Arc::new(NodeRates {
            upload: Rate::new(config.upload_rate),
            download: Rate::new(config.download_rate),
            messages: AtomicU64::new(config.message_rate),
            messages_throttle: Throttle::default(),
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

    /// Returns the bytes of file pieces sent and received.
    pub(crate) fn counters(&self) -> FileCounters {
        FileCounters {
            sent: self.0.sent.load(Ordering::Relaxed),
            received: self.0.received.load(Ordering::Relaxed),
        }
    }

    /// Returns the present limits.
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

    /// Changes the limits, also for transfers under way.
    pub(crate) fn set(&self, limits: RateLimits) {
        self.0.upload.set(limits.upload);
        self.0.download.set(limits.download);
        self.0.broadcasts.set(limits.broadcasts);
        // Debts at the old limit would make links pause for too long at a higher one.
        if self.0.messages.swap(limits.messages, Ordering::Relaxed) != limits.messages {
            self.0.messages_throttle.clear();
        }
        self.0.peer_messages.store(limits.peer_messages, Ordering::Relaxed);
        self.0.peer_receive.store(limits.peer_receive, Ordering::Relaxed);
        self.0.links_changed.notify_waiters();
        let peers: Vec<Arc<PeerRates>> = {
            let peers = lock(&self.0.peers);
            // Under the lock, so that a peer that is added now is either in `peers` or gets the new
            // limits.
            self.0.peer_upload.store(limits.peer_upload, Ordering::Relaxed);
            self.0.peer_download.store(limits.peer_download, Ordering::Relaxed);
            peers.values().filter_map(Weak::upgrade).collect()
        };
        for peer in peers {
            peer.upload.set(limits.peer_upload);
            peer.download.set(limits.peer_download);
        }
    }

    /// Charges `bytes` of messages that a link has sent; `link` is the throttle of that link. Returns
    /// the pause that the link has to make before it sends more, if any.
    pub(crate) fn messages_sent(&self, link: &Throttle, bytes: usize) -> Option<Pause> {
        let all = self.0.messages.load(Ordering::Relaxed);
        let one = self.0.peer_messages.load(Ordering::Relaxed);
        if (all, one) == (0, 0) || bytes == 0 {
            return None;
        }
        let due = self.0.messages_throttle.debit(bytes, all).max(link.debit(bytes, one))?;
        Some(self.pause(due))
    }

    /// Returns the limit on the bytes that are read from one link in a second; 0 is no limit.
    pub(crate) fn peer_receive(&self) -> u64 {
        self.0.peer_receive.load(Ordering::Relaxed)
    }

    /// Returns a pause until `due`, or until the limits change.
    pub(crate) fn pause(&self, due: Instant) -> Pause {
        let node = Arc::clone(&self.0);
        Box::pin(async move {
            tokio::select! {
                () = sleep_until(due) => {}
                () = node.links_changed.notified() => {}
            }
        })
    }

    /// Returns the limit on broadcasts of this node, in bytes a second; 0 is no limit.
    pub(crate) fn broadcast_limit(&self) -> u64 {
        self.0.broadcasts.get()
    }

    /// Waits until a broadcast of `bytes` bytes may be sent.
    pub(crate) async fn broadcast(&self, bytes: usize) {
        self.0.broadcasts.take(bytes).await;
    }

    /// Returns the limits of one peer, which all its streams share.
    pub(crate) fn of(&self, peer: NodeId) -> Arc<PeerRates> {
        let mut peers = lock(&self.0.peers);
        // Weak, so that the limits of a peer are dropped with its last stream.
        if let Some(known) = peers.get(&peer).and_then(Weak::upgrade) {
            return known;
        }
        let rates = Arc::new(PeerRates {
            peer,
            upload: Rate::new(self.0.peer_upload.load(Ordering::Relaxed)),
            download: Rate::new(self.0.peer_download.load(Ordering::Relaxed)),
            node: Arc::clone(&self.0),
        });
        peers.insert(peer, Arc::downgrade(&rates));
        rates
    }
}

impl PeerRates {
    /// Returns the size of the parts in which files are sent; `None` if there is no limit.
    pub(crate) fn upload_part(&self) -> Option<usize> {
        part_size(self.upload.get(), self.node.upload.get())
    }

    /// Returns the size of the parts in which files are fetched; `None` if there is no limit.
    pub(crate) fn download_part(&self) -> Option<usize> {
        part_size(self.download.get(), self.node.download.get())
    }

    /// Counts bytes of pieces that go to this peer.
    pub(crate) fn sent(&self, bytes: usize) {
        self.node.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes of pieces that came from this peer.
    pub(crate) fn received(&self, bytes: usize) {
        self.node.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Waits until `bytes` more may go to this peer.
    pub(crate) async fn upload(&self, bytes: usize) {
        // The peer's own limit first: a slow peer must not hold up the node's queue of others.
        self.upload.take(bytes).await;
        self.node.upload.take(bytes).await;
    }

    /// Waits until `bytes` more may come from this peer.
    pub(crate) async fn download(&self, bytes: usize) {
        self.download.take(bytes).await;
        self.node.download.take(bytes).await;
    }
}

impl Drop for PeerRates {
    fn drop(&mut self) {
        let mut peers = lock(&self.node.peers);
        // The peer may have got new limits since then, with a new stream.
        if peers.get(&self.peer).is_some_and(|known| known.strong_count() == 0) {
            peers.remove(&self.peer);
        }
    }
}

/// Returns the size of parts that take 50 ms at the lower of two limits. `None` if neither is a limit.
fn part_size(peer: u64, all: u64) -> Option<usize> {
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

    /// Returns the bytes that `rates` lets go out until `end`.
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
    async fn a_limit_is_kept_after_a_small_burst() {
        let rate = Rate::new(1_000_000);
        tokio::time::advance(Duration::from_secs(10)).await;
        let begin = Instant::now();
        rate.take(50_000).await;
        assert_eq!(begin.elapsed(), Duration::ZERO, "a burst of 50 ms passes");
        rate.take(1).await;
        assert!(begin.elapsed() > Duration::ZERO, "and no more");
        for _ in 0..1000 {
            rate.take(10_000).await;
        }
        let took = begin.elapsed().as_secs_f64();
        assert!((9.9..10.1).contains(&took), "{took} s for 10 MB");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_no_task_waits_and_a_new_limit_reaches_waiting_tasks() {
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
    async fn a_task_that_gives_up_is_charged_nothing() {
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

        // If one of two peers has a lower limit of its own, the other gets the rest.
        let rates = self::rates(limits);
        let slow = rates.of(peer(1));
        slow.upload.set(1_000_000);
        let end = Instant::now() + Duration::from_secs(10);
        let (a, b) = tokio::join!(sent(slow, end), sent(rates.of(peer(2)), end));
        assert!((9_900_000..10_500_000).contains(&a), "{a}");
        assert!((89_000_000..92_000_000).contains(&b), "{b}");
    }

    #[tokio::test]
    async fn the_streams_of_a_peer_share_its_limits_and_the_last_one_removes_them() {
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
