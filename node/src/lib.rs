//! peerkit: peer-to-peer nodes for applications.
//!
//! A [`Node`] connects to another node at `host:port`. Once connected, both nodes can do the same: send
//! messages, make requests, open streams and share files. Links are encrypted, and each node proves its
//! identity, an Ed25519 key.
//!
//! ```
//! use peerkit::{Event, Node};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), peerkit::Error> {
//! let ann = Node::builder().name("ann").listen("127.0.0.1:0").spawn().await?;
//! let bob = Node::builder().name("bob").spawn().await?;
//! let mut events = ann.events();
//!
//! let peer = bob.connect(ann.listening()[0]).await?;
//! bob.send(&peer, "hello").await?;
//!
//! while let Some(event) = events.next().await {
//!     if let Event::NodeMessage { peer, message } = event {
//!         println!("{} says {}", peer.name(), message.as_text().unwrap_or("..."));
//!         break;
//!     }
//! }
//! # ann.shutdown().await; bob.shutdown().await; Ok(()) }
//! ```
//!
//! # Where to start
//! | to | use |
//! |---|---|
//! | start a node | [`Node::builder`], which returns a [`Builder`] |
//! | connect to one node, or join a network | [`Node::connect`], [`Node::join`] |
//! | send to one node, or to all | [`Node::send`], [`Node::broadcast`] |
//! | send a request and wait for the reply | [`Node::request`], and [`Node::serve`] on the other node |
//! | move bulk data | [`Node::open_stream`], and [`Node::serve_stream`] on the other node |
//! | share, find and fetch files | [`Node::share`], [`Node::search`], [`Node::fetch`] |
//! | see the network | [`Node::discover`], [`Node::network`] |
//! | receive events | [`Handler`], [`Builder::callback`], or [`Node::events`] |
//! | test an application on thousands of nodes | [`sim`] |
//!
//! # Features
//! No feature is on by default.
//!
//! - `reference-tls`: tokio-rustls protects links and streams, in place of this library's own record
//!   layer. The throughput is lower; the protocol on the wire stays the same. The record layer is tested
//!   against tokio-rustls, which can replace it if a fault is found in it.

mod actions;
mod actor;
mod address_book;
mod bans;
mod blocking;
mod bootstrap;
mod builder;
mod channel;
mod clock;
mod compress;
mod conn;
mod counters;
mod dial;
mod disk;
mod dispatch;
mod error;
mod events;
mod files;
mod handler;
mod inner;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod join;
mod key;
mod links;
mod listen;
mod lock;
mod mapping;
mod membership;
mod network;
mod node;
mod observe;
mod outbox;
mod outgoing_message;
mod own_addresses;
mod probe;
mod profile;
mod quic;
mod rate;
mod relay;
mod request;
mod served;
mod shares;
pub mod sim;
mod status;
mod store;
mod stream;
mod tasks;
mod timers;
mod tls;
mod trace;
mod transfer;
mod unlinked;

pub use bans::Ban;
pub use bootstrap::BootstrapError;
pub use builder::Builder;
pub use counters::{Counters, DropCounters, FileCounters, HandshakeFailures, LinkCounters};
pub use error::{Error, NameKind, TlsFailure};
pub use events::Events;
pub use key::{
    KeyError, create as create_key, load as load_key, load_or_create as load_or_create_key,
};
pub use membership::{InvitationError, InvitedNetworksError};
pub use network::{Degrees, Figures, NetworkGraph, NetworkNode};
pub use node::{
    ConnectOptions, Discovery, FilesHandle, IntoAddress, IntoPlaces, Member, NetworkHandle,
    NetworkSize, Node, Place, SendReport, Sender,
};
pub use outgoing_message::OutgoingMessage;
pub use rate::RateLimits;
pub use shares::{
    Added, FolderFile, FolderPart, HashProgress, Refreshed, ShareError, Sharing, SkipReason,
    Skipped,
};
pub use status::{MappingStatus, PeerStatus, Status};
pub use store::{KnownPeer, StoreError};
pub use stream::Stream;
pub use transfer::{
    Download, DownloadProgress, DownloadState, DownloadStatus, Dropped, FetchError, FetchRequest,
    Fetched, InTheWay, UploadStatus, UploadTotals,
};

pub use peerkit_proto::address::{Address, DEFAULT_PORT, ParseAddressError, Scheme};
pub use peerkit_proto::codec::DecodeError;
pub use peerkit_proto::config::Config;
pub use peerkit_proto::event::{
    ActionId, Broadcast, Direction, Event, LinkEnd, MessageFailure, Neighbour, NodeInfo, Peer,
    Reachability, Reason, TimerId, Upload,
};
pub use peerkit_proto::files::disk::{is_misleading, plain};
pub use peerkit_proto::files::{
    Access, AccessKind, Asker, Changes, FileKind, FileName, FileRefusal, FileSource, FoundFile,
    LeftOut, ManifestError, NameError, NameFault, PieceError, RelPath, Renamed, Secret, SharedFile,
    Ticket, TicketError, WireError,
};
pub use peerkit_proto::frame::Refusal;
pub use peerkit_proto::frame::query::QueryId;
pub use peerkit_proto::handler::{
    Action, Callback, Context, Handler, HandlerHost, MAX_FILE_IN_MEMORY, MAX_TIMERS,
};
pub use peerkit_proto::hello::Proof;
pub use peerkit_proto::id::{Hash, Key, NodeId, NotAKey, ParseIdError, PublicKey};
pub use peerkit_proto::invitation::roster::TooManyRevocations;
pub use peerkit_proto::invitation::{
    Acceptance, Certificate, Invitation, Invite, InviteError, MembershipError, MembershipProof,
};
pub use peerkit_proto::message::{Compression, Compressions, Message, MessageKind};
pub use peerkit_proto::overlay::broadcast::{BroadcastCounters, BroadcastError};
pub use peerkit_proto::overlay::reach::{MappingProtocol, Nat};
pub use peerkit_proto::overlay::relay::{RelayError, RelaySendError};
pub use peerkit_proto::peer::BroadcastReceipt;
pub use peerkit_proto::seal::SealError;
pub use peerkit_proto::time::Instant;
pub use peerkit_proto::versions::{VersionGap, Versions};

/// The examples in the documents, compiled and run with the documentation tests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../README.md")]
    mod readme {}
    #[doc = include_str!("../../docs/library.md")]
    mod library {}
}
