//! Every limit and interval, with its default and where that came from.

use std::time::Duration;

use crate::address::Address;
use crate::frame::direct::Label;
use crate::seal;

/// The limits and intervals of a node. All have defaults that suit most: change what you measured.
///
/// "Survey" in the docs below means the defaults of Bitcoin Core, libp2p, iroh, Syncthing and
/// zenoh, read side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Largest content of a message, in bytes, before and after decompression. 16 MiB: above the
    /// 10 MiB responses of libp2p's request-response, far below Syncthing's 500 MB.
    pub max_message: usize,
    /// Largest frame that is not an application's message, in bytes. 64 KiB: libp2p's gossip limit.
    pub max_control: usize,
    /// Largest content of a broadcast, in bytes. 64 KiB: libp2p's gossip limit.
    pub max_broadcast: usize,
    /// From TCP's accept, or its connect, to the end of Hello. 10 s: libp2p and zenoh.
    pub handshake_timeout: Duration,
    /// To resolve a name and connect to any of its addresses. 10 s: libp2p.
    pub connect_timeout: Duration,
    /// Inbound handshakes under way at once; when full the oldest gives way. 64: croc's relay.
    pub max_pending: usize,
    /// Inbound handshakes under way from one IP address, loopback exempt. 4: survey.
    pub max_pending_per_ip: usize,
    /// Inbound links at once. 128: Bitcoin Core has 125 peers, Syncthing and libp2p's relay 128.
    pub max_inbound: usize,
    /// Inbound links from one IP address, loopback exempt. 8: survey.
    pub max_inbound_per_ip: usize,
    /// Application messages queued for one peer, in bytes; an empty queue takes one larger message.
    /// 4 MiB: Bitcoin Core buffers 1 to 5 MB a peer.
    pub peer_queue: usize,
    /// Control frames queued for one peer, in bytes; a peer that lets them pile up is hung up on.
    /// 1 MiB: the answers of about 5,000 nodes to one discovery.
    pub control_queue: usize,
    /// A link that sent nothing for this long sends a ping. 15 s: survey, below NAT time-outs.
    pub ping_after: Duration,
    /// A link from which no byte came for this long is dead. 45 s: three pings.
    pub dead_after: Duration,
    /// At the latest this long after a message came in its sender is told so. 200 ms: TCP's delayed
    /// acknowledgement (RFC 1122 allows 500 ms).
    pub ack_delay: Duration,
    /// To flush what is queued when a link or the node is closed. 5 s: zenoh's and iroh's close.
    pub flush_timeout: Duration,
    /// First wait before a lost link is dialled again; doubles up to `reconnect_max`. 1 s:
    /// hyperswarm.
    pub reconnect_min: Duration,
    /// Longest wait before a lost link is dialled again. 60 s: hyperswarm's 600 s is long to look at.
    pub reconnect_max: Duration,
    /// Queries remembered so that none is handled twice. 65,536: 64 bytes each, so about 4 MiB.
    pub query_table: usize,
    /// How long a query is remembered, and the longest that one may take. 60 s: libp2p gossip's
    /// duplicate cache.
    pub query_ttl: Duration,
    /// How long a query waits for answers unless its caller says otherwise. 10 s: libp2p's request.
    pub query_timeout: Duration,
    /// Searches, and questions who has a file, that a node looks up for each link, a second; twice as
    /// many over all, and ten seconds' worth at once. Beyond that it answers that it is not complete.
    /// 100: a search among 100,000 names takes 1 to 3 ms mostly, so that others can have half a core.
    pub lookup_rate: usize,
    /// Bytes of messages between others that a node passes on for each link, a second. 128 KiB: what
    /// libp2p's relays pass on for one connection in all.
    pub forward_rate: usize,
    /// How long a link that was made only to send a message stays once neither side sends over it.
    /// 60 s: as long as a way through the network is remembered.
    pub errand_idle: Duration,
    /// Links to neighbours that a member finds and keeps by itself. 5: HyParView's (Leitão et al.
    /// 2007, section 5.1), for 10,000 nodes.
    pub active_view: usize,
    /// Nodes that a member knows beside its neighbours. 30: HyParView's.
    pub passive_view: usize,
    /// How often a member tells others whom it knows. 30 s: between iroh's 60 s and the paper's
    /// cycles.
    pub shuffle_every: Duration,
    /// How often a member tries whether somebody that it knows is there, and hangs together with it.
    /// 15 s: two tries within the 30 s that a network takes to heal.
    pub probe_every: Duration,
    /// How often the least node gives a sign of life; without one for three times as long it is
    /// taken to be gone. 10 s: below a probe's.
    pub beacon_every: Duration,
    /// How long a neighbour that has said that it has a broadcast may be waited for to send it
    /// before it is asked to. 400 ms: above what a path through a network across the internet takes
    /// longer than another.
    pub graft_after: Duration,
    /// How long a broadcast that was announced and not sent waits to be told of with others.
    /// 100 ms: a quarter of `graft_after`.
    pub have_delay: Duration,
    /// How long broadcasts of this node that come one soon after the other gather under one
    /// signature. 5 ms: less than the way to the next node, mostly.
    pub batch_delay: Duration,
    /// How long a broadcast can be had of those who got it, by its author's clock. 10 min: longer
    /// than a restart or a lost network takes mostly.
    pub log_age: Duration,
    /// How far a clock may be off, either way. 5 min: Kerberos' (RFC 4120).
    pub clock_skew: Duration,
    /// Broadcasts that are kept for those who missed them. 16,384: 25 a second for `log_age`.
    pub log_count: usize,
    /// Bytes of broadcasts that are kept for those who missed them. 16 MiB: as one message may be.
    pub log_bytes: usize,
    /// Runs of authors of whose broadcasts a node keeps track. 16,384: as many as the log may hold.
    pub broadcast_runs: usize,
    /// Bytes a second that this node sends of files, over all; 0 for no limit. No limit: a program
    /// that shares a line with others sets it, as in aria2 and Transmission.
    pub upload_rate: u64,
    /// Bytes a second that this node fetches of files, over all; 0 for no limit.
    pub download_rate: u64,
    /// Bytes a second that this node sends of files to one node; 0 for no limit.
    pub peer_upload_rate: u64,
    /// Bytes a second that this node fetches of files from one node; 0 for no limit.
    pub peer_download_rate: u64,
    /// Bytes a second of messages, requests and replies that this node sends, over all links; 0 for no
    /// limit. What is over the limit waits in the links' queues, and `send` waits for room there.
    pub message_rate: u64,
    /// As `message_rate`, for each link; 0 for no limit.
    pub peer_message_rate: u64,
    /// Bytes a second of its own broadcasts that this node sends; 0 for no limit. `broadcast` waits.
    pub broadcast_rate: u64,
    /// Bytes a second that this node reads from each link; 0 for no limit. What a peer sends beyond it
    /// waits on the peer's side. At the least some 50 bytes a second are read, so that the link lives.
    pub peer_receive_rate: u64,
    /// Fetches under way at once; more wait for their turn. 5: aria2's and Transmission's.
    pub max_downloads: usize,
    /// How long a fetch that was begun goes on without anybody who has more of it. 60 s: a machine
    /// has restarted by then, mostly.
    pub download_patience: Duration,
    /// Files told in one node's answer to a search. 100: a screen or two.
    pub max_search_results: usize,
    /// Addresses told at once. 32: Bitcoin Core tells 1,000, of a far larger network.
    pub max_addresses: usize,
    /// Addresses that the node announces before those that it finds by itself, best first: where a
    /// router forwards a port to it, or a name that resolves to it. None by default.
    pub announce: Vec<Address>,
    /// Whether the node announces the addresses of `announce` and no others. Ignored while
    /// `announce` is empty. Off by default.
    pub announce_only: bool,
    /// How long a request waits for its reply unless its caller says otherwise. 10 s: libp2p.
    pub request_timeout: Duration,
    /// Requests of one peer handled at once; more are answered with "busy". 100: libp2p.
    pub max_requests_per_peer: usize,
    /// Streams of one peer open at once. 100: libp2p's and quinn's concurrent streams.
    pub max_streams_per_peer: usize,
    /// Streams that others have open, over all. 512: four for each inbound link.
    pub max_streams: usize,
    /// Events that one subscriber may leave unread; then it is told how many it missed. 4,096:
    /// libp2p's gossip queue holds 5,000.
    pub event_queue: usize,
    /// Bytes of messages that one subscriber may leave unread. 16 MiB: one of the largest.
    pub event_queue_bytes: usize,
    /// How long a link waits for a subscriber that has no room before the messages count as missed.
    /// 5 s: `flush_timeout`, the longest that anything here waits for the application.
    pub event_patience: Duration,
}

impl Config {
    /// Largest content of a message that others pass on, in bytes: sealed it fits a control frame.
    #[must_use]
    pub fn max_direct(&self) -> usize {
        self.max_control.saturating_sub(Label::LEN + seal::OVERHEAD)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_message: 16 << 20,
            max_control: 64 << 10,
            max_broadcast: 64 << 10,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            max_pending: 64,
            max_pending_per_ip: 4,
            max_inbound: 128,
            max_inbound_per_ip: 8,
            peer_queue: 4 << 20,
            control_queue: 1 << 20,
            ping_after: Duration::from_secs(15),
            dead_after: Duration::from_secs(45),
            ack_delay: Duration::from_millis(200),
            flush_timeout: Duration::from_secs(5),
            reconnect_min: Duration::from_secs(1),
            reconnect_max: Duration::from_secs(60),
            query_table: 65_536,
            query_ttl: Duration::from_secs(60),
            query_timeout: Duration::from_secs(10),
            lookup_rate: 100,
            forward_rate: 128 << 10,
            errand_idle: Duration::from_secs(60),
            active_view: 5,
            passive_view: 30,
            shuffle_every: Duration::from_secs(30),
            probe_every: Duration::from_secs(15),
            beacon_every: Duration::from_secs(10),
            graft_after: Duration::from_millis(400),
            have_delay: Duration::from_millis(100),
            batch_delay: Duration::from_millis(5),
            log_age: Duration::from_secs(600),
            clock_skew: Duration::from_secs(300),
            log_count: 16_384,
            log_bytes: 16 << 20,
            broadcast_runs: 16_384,
            upload_rate: 0,
            download_rate: 0,
            peer_upload_rate: 0,
            peer_download_rate: 0,
            message_rate: 0,
            peer_message_rate: 0,
            broadcast_rate: 0,
            peer_receive_rate: 0,
            max_downloads: 5,
            download_patience: Duration::from_secs(60),
            max_search_results: 100,
            max_addresses: 32,
            announce: Vec::new(),
            announce_only: false,
            request_timeout: Duration::from_secs(10),
            max_requests_per_peer: 100,
            max_streams_per_peer: 100,
            max_streams: 512,
            event_queue: 4096,
            event_queue_bytes: 16 << 20,
            event_patience: Duration::from_secs(5),
        }
    }
}
