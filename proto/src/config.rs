//! All limits and intervals, each with its default and the source of that.

use std::time::Duration;

use crate::address::Address;
use crate::frame::direct::RelayLabel;
use crate::seal;

/// The limits and intervals of a node. The defaults suit most nodes: change what you have measured.
///
/// "Survey" in the docs below means the defaults of Bitcoin Core, libp2p, iroh, Syncthing and zenoh,
/// read side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Largest content of a message, in bytes, before and after decompression. 16 MiB: above the 10 MiB
    /// responses of libp2p's request-response, far below Syncthing's 500 MB.
    pub max_message: usize,
    /// Largest frame that is not an application's message, in bytes. 64 KiB: libp2p's gossip limit.
    pub max_control: usize,
    /// Largest content of a broadcast, in bytes. 64 KiB: libp2p's gossip limit.
    pub max_broadcast: usize,
    /// Longest time from TCP's accept or connect to the end of Hello. 10 s: libp2p and zenoh.
    pub handshake_timeout: Duration,
    /// Longest time to resolve a name and connect to one of its addresses. 10 s: libp2p.
    pub connect_timeout: Duration,
    /// Most inbound handshakes under way at once. If there are more, the oldest is dropped. 64: croc's
    /// relay.
    pub max_pending: usize,
    /// Most inbound handshakes under way from one IP address, except loopback. 4: survey.
    pub max_pending_per_ip: usize,
    /// Most inbound links at once. 128: Bitcoin Core has 125 peers, Syncthing and libp2p's relay 128.
    pub max_inbound: usize,
    /// Most inbound links from one IP address, except loopback. 8: survey.
    pub max_inbound_per_ip: usize,
    /// Most application messages queued for one peer, in bytes. An empty queue takes one larger
    /// message. 4 MiB: Bitcoin Core buffers 1 to 5 MB for each peer.
    pub peer_queue: usize,
    /// Most control frames queued for one peer, in bytes. The link of a peer that lets more pile up is
    /// closed. 1 MiB: the answers of about 5,000 nodes to one discovery.
    pub control_queue: usize,
    /// Time without a sent byte after which a link sends a ping. 15 s: survey, below NAT time-outs.
    pub ping_after: Duration,
    /// Time without a received byte after which a link is dead. 45 s: three pings.
    pub dead_after: Duration,
    /// Longest time before the sender of a message learns that it was received. 200 ms: TCP's delayed
    /// acknowledgement (RFC 1122 allows 500 ms).
    pub ack_delay: Duration,
    /// Longest time to send queued frames when a link or the node is closed. 5 s: zenoh's and iroh's
    /// close.
    pub flush_timeout: Duration,
    /// First delay before a lost link is dialled again. It doubles up to `reconnect_max`. 1 s:
    /// hyperswarm.
    pub reconnect_min: Duration,
    /// Longest delay before a lost link is dialled again. 60 s: hyperswarm's 600 s are too long for a
    /// user who watches.
    pub reconnect_max: Duration,
    /// Most queries that are remembered, so that none is handled twice. 65,536: 64 bytes each, so about
    /// 4 MiB.
    pub query_table: usize,
    /// Time for which a query is remembered, and the longest that one may take. 60 s: libp2p gossip's
    /// duplicate cache.
    pub query_ttl: Duration,
    /// Time for which a query waits for answers by default. 10 s: libp2p's request.
    pub query_timeout: Duration,
    /// Searches by name and by hash that a node looks up for each link, a second. Twice as many over
    /// all links, and ten seconds' worth at once. To more it answers that its answer is not complete.
    /// 100: a search among 100,000 names mostly takes 1 to 3 ms, so other nodes can use half a core.
    pub lookup_rate: usize,
    /// Bytes of other nodes' messages that a node relays for each link, a second. 128 KiB: what
    /// libp2p's relays pass on for one connection in all.
    pub forward_rate: usize,
    /// Time without messages after which a link that was made only to send a message is closed. 60 s:
    /// as long as a route through the network is remembered.
    pub on_demand_idle: Duration,
    /// Links to neighbours that a member finds and keeps by itself. 5: HyParView's (Leitão et al. 2007,
    /// section 5.1), for 10,000 nodes.
    pub active_view: usize,
    /// Nodes that a member knows beside its neighbours. 30: HyParView's.
    pub passive_view: usize,
    /// Interval at which a member exchanges known nodes with others. 30 s: between iroh's 60 s and the
    /// paper's cycles.
    pub shuffle_every: Duration,
    /// Interval at which a member probes whether a node that it knows answers, and belongs to the same
    /// part of the network. 15 s: two probes within the 30 s that a network takes to heal.
    pub probe_every: Duration,
    /// Interval between the beacons of the node with the least identity. Without one for three
    /// intervals it counts as gone. 10 s: below a probe's.
    pub beacon_every: Duration,
    /// Time for which a neighbour that has announced a broadcast may take to send it, before it is
    /// asked to. 400 ms: more than the difference between two paths through a network across the
    /// internet.
    pub graft_after: Duration,
    /// Longest time before a broadcast that is not sent to a neighbour is announced to it, together
    /// with others. 100 ms: a quarter of `graft_after`.
    pub have_delay: Duration,
    /// Time for which broadcasts of this node gather under one signature. 5 ms: mostly less than the
    /// way to the next node.
    pub batch_delay: Duration,
    /// Age up to which broadcasts are kept for nodes that missed them, by the author's clock. 10 min:
    /// mostly longer than a restart or the loss of a network.
    pub log_age: Duration,
    /// Largest difference between a node's clock and this node's, either way. 5 min: Kerberos' (RFC
    /// 4120).
    pub clock_skew: Duration,
    /// Most broadcasts that are kept for nodes that missed them. 16,384: 25 a second for `log_age`.
    pub log_count: usize,
    /// Most bytes of broadcasts that are kept for nodes that missed them. 16 MiB: the size of one
    /// message.
    pub log_bytes: usize,
    /// Most runs of authors whose broadcasts a node keeps track of. 16,384: as many as the log may
    /// hold.
    pub broadcast_runs: usize,
    /// Bytes of files that this node sends, a second; 0 for no limit. No limit: a program that shares a
    /// line with others sets it, as in aria2 and Transmission.
    pub upload_rate: u64,
    /// Bytes of files that this node fetches, a second; 0 for no limit.
    pub download_rate: u64,
    /// Bytes of files that this node sends to one node, a second; 0 for no limit.
    pub peer_upload_rate: u64,
    /// Bytes of files that this node fetches from one node, a second; 0 for no limit.
    pub peer_download_rate: u64,
    /// Bytes of messages, requests and replies that this node sends over all links, a second; 0 for no
    /// limit. More wait in the links' queues, and `send` waits for room there.
    pub message_rate: u64,
    /// As `message_rate`, for each link; 0 for no limit.
    pub peer_message_rate: u64,
    /// Bytes of its own broadcasts that this node sends, a second; 0 for no limit. `broadcast` waits.
    pub broadcast_rate: u64,
    /// Bytes that this node reads from each link, a second; 0 for no limit. More wait on the peer's
    /// side. At least some 50 bytes a second are read, so that the link stays alive.
    pub peer_receive_rate: u64,
    /// Most downloads at once; more wait for their turn. 5: aria2's and Transmission's.
    pub max_downloads: usize,
    /// Time for which a download goes on without a source that has more of it. 60 s: most machines
    /// restart within that.
    pub download_patience: Duration,
    /// Most files in one node's answer to a search. 100: a screen or two.
    pub max_search_results: usize,
    /// Most addresses that this node announces. 32: Bitcoin Core sends 1,000, of a far larger network.
    pub max_addresses: usize,
    /// Addresses that the node announces before those that it finds by itself, best first: a router
    /// that forwards a port to it, or a name that resolves to it. None by default.
    pub announce: Vec<Address>,
    /// Announces the addresses of `announce` and no others. Ignored while `announce` is empty. Off by
    /// default.
    pub announce_only: bool,
    /// Time for which a request waits for its reply by default. 10 s: libp2p.
    pub request_timeout: Duration,
    /// Most requests of one peer that are handled at once; more are refused as busy. 100: libp2p.
    pub max_requests_per_peer: usize,
    /// Most streams that one peer has open at once. 100: libp2p's and quinn's concurrent streams.
    pub max_streams_per_peer: usize,
    /// Most streams that all peers together have open. 512: four for each inbound link.
    pub max_streams: usize,
    /// Most unread events of one subscriber. It gets the number of those that it missed. 4,096:
    /// libp2p's gossip queue holds 5,000.
    pub event_queue: usize,
    /// Most bytes of unread messages of one subscriber. 16 MiB: one of the largest messages.
    pub event_queue_bytes: usize,
    /// Longest time for which a link waits for a subscriber without room, before the subscriber misses
    /// the messages. 5 s: `flush_timeout`, the longest that anything here waits for the application.
    pub event_patience: Duration,
}

impl Config {
    /// Returns the largest content of a relayed message, in bytes. Sealed it fits a control frame.
    #[must_use]
    pub fn max_direct(&self) -> usize {
        self.max_control.saturating_sub(RelayLabel::LEN + seal::OVERHEAD)
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
            on_demand_idle: Duration::from_secs(60),
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
