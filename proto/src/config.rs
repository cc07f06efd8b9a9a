//! All limits and intervals, each with its default and the reason for the default.

use std::time::Duration;

use crate::address::Address;
use crate::address_group::AddressGroups;
use crate::frame::relay::RelayLabel;
use crate::message::Compressions;
use crate::seal;

/// The limits and intervals of a node. The defaults suit most nodes. Measure before you change one.
///
/// The number after each description is the default, followed by its reason. "Survey" means that
/// the default was chosen from a comparison of those of Bitcoin Core, libp2p, iroh, Syncthing and
/// zenoh.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Maximum size of a message's content in bytes, both compressed and decompressed. 16 MiB: more
    /// than the 10 MiB of a response in libp2p's request-response protocol, and far less than
    /// Syncthing's 500 MB.
    pub max_message: usize,
    /// The compressions of messages that this node accepts. A peer that sends another one loses its link;
    /// its own node refuses to send it. zlib, Zstandard and LZ4: an application that uses bzip2 or
    /// LZMA adds it.
    pub compressions: Compressions,
    /// Maximum size in bytes of a control frame, which is any frame except messages, requests,
    /// replies and broadcasts. 64 KiB: the limit of libp2p's gossip.
    pub max_control: usize,
    /// Maximum size of a broadcast's content in bytes. 64 KiB: the limit of libp2p's gossip.
    pub max_broadcast: usize,
    /// Maximum time of a handshake: TLS, and then Hello. A node that was dialled allows this time
    /// for both together, a node that dials allows it for each. 10 s: as in libp2p and zenoh.
    pub handshake_timeout: Duration,
    /// Maximum time to resolve a host name and connect to one of its IP addresses. 10 s: as in
    /// libp2p.
    pub connect_timeout: Duration,
    /// Whether the node also uses UDP: QUIC, and hole punching. True: without it, nodes behind NATs reach each other
    /// only through others.
    pub udp: bool,
    /// Whether the node relays connections between other members of its network, and uses such relays itself. True:
    /// between one and three of ten pairs of homes reach each other in no other way.
    pub relay: bool,
    /// Maximum number of bytes a second that the node relays, for all connections together; 0 is no limit. 1 MiB: a
    /// tenth of a common line. One connection gets a quarter of it, after its first mebibyte.
    pub relay_rate: u64,
    /// Whether the node has the router forward its ports to it, by PCP, NAT-PMP or UPnP. False: it opens the node to
    /// the internet, and a network without a secret has no lock.
    pub map_ports: bool,
    /// Maximum number of inbound handshakes on which TLS is not finished. One more drops the oldest
    /// of the address group with most. As many may have finished TLS and wait for the dialler's
    /// Hello. 64: as in croc's relay.
    pub max_pending: usize,
    /// Maximum number of inbound handshakes at the same time from one IP address, except loopback.
    /// 4: survey.
    pub max_pending_per_ip: usize,
    /// Maximum number of inbound links. An eighth more may be links with known nodes: neighbours, nodes
    /// that this node has reached by a dial, and those that the application has connected to. A further
    /// stranger evicts an idle link of an address group with more links, or is refused. 128: Bitcoin
    /// Core has 125 peers, Syncthing and libp2p's relay have 128.
    pub max_inbound: usize,
    /// Maximum number of inbound links from one IP address, except loopback. 8: survey.
    pub max_inbound_per_ip: usize,
    /// Whether loopback addresses count like any others: they have the limits above, and groups
    /// (see [`address_group`](crate::address_group)). False: all nodes of a machine and all clients
    /// of a local proxy share loopback addresses. Tests of attacks set it.
    pub limit_loopback: bool,
    /// Maximum number of bytes of application messages in the queue of one peer. An empty queue
    /// also takes one message that is larger. 4 MiB: Bitcoin Core buffers 1 to 5 MB for each peer.
    pub peer_queue: usize,
    /// Maximum number of bytes of control frames in the queue of one peer. Frames on behalf of other
    /// nodes are left out while it is half full, or three quarters. If the other frames exceed it,
    /// the link is closed. 1 MiB: the answers of about 5,000 nodes to one discovery.
    pub control_queue: usize,
    /// Time after which a peer is too slow if the queue of its control frames is more than half full
    /// and the peer takes no byte. 10 s: as `handshake_timeout`, and far less than `dead_after`,
    /// which a peer that sends but does not read never reaches.
    pub slow_after: Duration,
    /// Time after which a link that has sent nothing sends a ping. 15 s: survey, and shorter than
    /// the time-outs of NATs.
    pub ping_after: Duration,
    /// Time after which a link that has received nothing is closed. 45 s: three intervals of
    /// `ping_after`.
    pub dead_after: Duration,
    /// Maximum delay before a received message is acknowledged. 200 ms: as TCP's delayed
    /// acknowledgement (RFC 1122 allows 500 ms).
    pub ack_delay: Duration,
    /// Maximum time for sending the queued frames when a link or the node is closed. 5 s: as in
    /// zenoh and iroh.
    pub flush_timeout: Duration,
    /// Delay before a lost link is dialled for the first time. It doubles with each dial that
    /// fails, up to `reconnect_max`. 1 s: as in hyperswarm.
    pub reconnect_min: Duration,
    /// Maximum delay before a lost link is dialled again. 60 s: hyperswarm's 600 s are too long for
    /// a user who waits for the link.
    pub reconnect_max: Duration,
    /// Maximum number of queries that a node remembers, so that it handles none twice. 65,536: with
    /// 64 bytes each they need about 4 MiB.
    pub query_table: usize,
    /// Time for which a node remembers a query, and also the maximum duration of a query. 60 s: as
    /// the duplicate cache of libp2p's gossip.
    pub query_ttl: Duration,
    /// Time for which a query waits for answers if the application sets no time. 10 s: as for a
    /// request in libp2p.
    pub query_timeout: Duration,
    /// Maximum number of searches, by name or by hash, that a node looks up in a second for one
    /// link. For all links together it looks up twice as many. A burst may be ten times as large. A
    /// search above these limits is passed on without a look-up, and its result is marked as
    /// incomplete. 100: a search among 100,000 names mostly takes 1 to 3 ms, so other nodes use
    /// about half a processor core.
    pub lookup_rate: usize,
    /// Maximum number of bytes of other nodes' messages that a node relays in a second for the
    /// strangers of one group of addresses. A stranger is a peer that the node has neither dialled nor
    /// as a neighbour. An eighth is the group's own, the rest is shared by all strangers. For a peer
    /// that the node has dialled, or a neighbour, it is seven times as much, as they relay for others.
    /// 128 KiB: the number of bytes that a relay of libp2p passes on for one connection in total.
    pub forward_rate: usize,
    /// Time without messages after which a link that was made only to send a message is closed. 60
    /// s: as long as a node remembers a route through the network.
    pub on_demand_idle: Duration,
    /// Number of neighbours to which a member makes and keeps links by itself. 5: as in HyParView
    /// for 10,000 nodes (Leitão et al. 2007, section 5.1).
    pub active_view: usize,
    /// Keeps two neighbours of different address groups, if the member knows nodes of several groups, and takes
    /// newcomers as guests, up to 16 in addition to the view. So an attacker with addresses in few groups can't
    /// surround the member. In return a member has about twice as many links.
    pub outbound_groups: bool,
    /// Maximum number of nodes that a member remembers beside its neighbours. 30: as in HyParView.
    pub passive_view: usize,
    /// Interval at which a member exchanges records of known nodes with another member. 30 s:
    /// between iroh's 60 s and the shorter cycles in the paper on HyParView.
    pub shuffle_every: Duration,
    /// Interval at which a member probes a known node: whether the node answers, and whether it is
    /// in the same part of the network. 15 s: a network that was split then has two probes in the
    /// 30 s in which it should heal.
    pub probe_every: Duration,
    /// Interval between the beacons of the node with the least identity. Other nodes regard it as
    /// gone if no beacon comes for three intervals. 10 s: shorter than `probe_every`.
    pub beacon_every: Duration,
    /// Time for which a node waits for a broadcast that a neighbour has announced, before it
    /// requests the broadcast from the neighbour. 400 ms: two paths through a network across the
    /// internet mostly differ by less.
    pub graft_after: Duration,
    /// Maximum delay before a broadcast is announced to the neighbours to which it is not sent.
    /// Several broadcasts share an announcement. 100 ms: a quarter of `graft_after`.
    pub have_delay: Duration,
    /// Time for which a node collects its own broadcasts, to sign and send them together. 5 ms:
    /// mostly less than the latency to the next node.
    pub batch_delay: Duration,
    /// Maximum age, by the author's clock, of the broadcasts that a node keeps for nodes that
    /// missed them. 10 min: mostly longer than a restart or an interruption of the network.
    pub log_age: Duration,
    /// Maximum difference between the clocks of two nodes, in either direction. 5 min: as in
    /// Kerberos (RFC 4120).
    pub clock_skew: Duration,
    /// Maximum number of broadcasts that a node keeps for nodes that missed them. 16,384: 25 a
    /// second for the time of `log_age`.
    pub log_count: usize,
    /// Maximum number of bytes of broadcasts that a node keeps for nodes that missed them. 16 MiB:
    /// the same as `max_message`.
    pub log_bytes: usize,
    /// Maximum number of runs for which a node remembers the state of the broadcasts. A run is the
    /// time from an author's start to its stop. One more removes runs that came over the link that
    /// has brought most. 16,384: the same as `log_count`.
    pub broadcast_runs: usize,
    /// Maximum number of bytes of files that this node sends in a second. 0 means no limit, and is
    /// the default, as in aria2 and Transmission: a program that shares an internet connection sets
    /// one.
    pub upload_rate: u64,
    /// Maximum number of bytes of files that this node fetches in a second. 0, the default, means
    /// no limit.
    pub download_rate: u64,
    /// Maximum number of bytes of files that this node sends to one node in a second. 0, the
    /// default, means no limit.
    pub peer_upload_rate: u64,
    /// Maximum number of bytes of files that this node fetches from one node in a second. 0, the
    /// default, means no limit.
    pub peer_download_rate: u64,
    /// Maximum number of bytes of messages, requests and replies that this node sends in a second
    /// over all links. Others wait in the queues of the links, and `send` waits for room there. 0,
    /// the default, means no limit.
    pub message_rate: u64,
    /// The same limit as `message_rate`, but for each link. 0, the default, means no limit.
    pub peer_message_rate: u64,
    /// Maximum number of bytes of its own broadcasts that this node sends in a second. Beyond that
    /// `broadcast` waits. 0, the default, means no limit.
    pub broadcast_rate: u64,
    /// Maximum number of bytes that this node reads in a second from each link. Other bytes wait at
    /// the peer. About 50 bytes a second are read even with a lower limit, so that the link stays
    /// alive. 0, the default, means no limit.
    pub peer_receive_rate: u64,
    /// Maximum number of downloads at the same time. Others wait for their turn. 5: as in aria2 and
    /// Transmission.
    pub max_downloads: usize,
    /// Time after which a download is given up if no source has any of the missing pieces. 60 s:
    /// most computers restart within that.
    pub download_patience: Duration,
    /// Maximum number of files in the answer of one node to a search. 100: they fill a screen or
    /// two.
    pub max_search_results: usize,
    /// Maximum number of addresses that this node announces. 32: Bitcoin Core sends 1,000, but of a
    /// far larger network.
    pub max_addresses: usize,
    /// Addresses that the node announces before those that it finds by itself, best first. Examples
    /// are the address of a router that forwards a port to the node, and a host name of the node.
    /// None by default.
    pub announce: Vec<Address>,
    /// If true, the node announces only the addresses of `announce`. Ignored if `announce` is
    /// empty. False by default.
    pub announce_only: bool,
    /// Time for which a request waits for its reply if the application sets no time. 10 s: as in
    /// libp2p.
    pub request_timeout: Duration,
    /// Maximum number of requests of one peer that are handled at the same time. Others are refused
    /// as busy. 100: as in libp2p.
    pub max_requests_per_peer: usize,
    /// Maximum number of open streams of one peer. 100: as the concurrent streams of libp2p and
    /// quinn.
    pub max_streams_per_peer: usize,
    /// Maximum number of open streams of all peers together. 512: four for each inbound link.
    pub max_streams: usize,
    /// Maximum number of unread events of one subscriber. A subscriber that misses events is
    /// informed of their number. 4,096: the queue of libp2p's gossip holds 5,000.
    pub event_queue: usize,
    /// Maximum number of bytes of unread messages of one subscriber. 16 MiB: one message of the
    /// maximum size.
    pub event_queue_bytes: usize,
    /// Maximum time for which a link waits for room in the queue of a subscriber. After that the
    /// subscriber misses the messages. 5 s: the same as `flush_timeout`.
    pub event_patience: Duration,
}

impl Config {
    /// Returns the maximum size of a relayed message's content in bytes. A sealed message with more
    /// would not fit into a control frame.
    #[must_use]
    pub fn max_relayed(&self) -> usize {
        self.max_control.saturating_sub(RelayLabel::LEN + seal::OVERHEAD)
    }

    /// Returns which addresses have groups and limits.
    #[must_use]
    pub fn address_groups(&self) -> AddressGroups {
        AddressGroups { limit_loopback: self.limit_loopback }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_message: 16 << 20,
            compressions: Compressions::default(),
            max_control: 64 << 10,
            max_broadcast: 64 << 10,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            udp: true,
            relay: true,
            relay_rate: 1 << 20,
            map_ports: false,
            max_pending: 64,
            max_pending_per_ip: 4,
            max_inbound: 128,
            max_inbound_per_ip: 8,
            limit_loopback: false,
            peer_queue: 4 << 20,
            control_queue: 1 << 20,
            slow_after: Duration::from_secs(10),
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
            outbound_groups: true,
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
