//! Every limit and interval, with its default and where that came from.

use std::time::Duration;

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
    /// Broadcasts remembered so that none is delivered twice. 65,536: as for queries.
    pub broadcast_table: usize,
    /// Files told in one node's answer to a search. 100: a screen or two.
    pub max_search_results: usize,
    /// Addresses told at once. 32: Bitcoin Core tells 1,000, of a far larger network.
    pub max_addresses: usize,
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
            broadcast_table: 65_536,
            max_search_results: 100,
            max_addresses: 32,
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
