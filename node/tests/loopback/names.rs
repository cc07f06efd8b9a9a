//! Imports every type that appears in a public signature. If `peerkit` does not export one of them, this does
//! not compile.
//!
//! The lint `unnameable_types` finds types that no other crate can import at all. It does not notice that
//! `peerkit` does not export a type of `peerkit-proto`, so these types are listed here.

#[allow(unused_imports)]
use peerkit::sim::{
    Count, Joining, Latency, Lies, Network as SimNetwork, NodeOptions, OperationId, Overlay, Sim,
    SimConfig, Stats,
};
#[allow(unused_imports)]
use peerkit::{
    Access, AccessKind, Action, ActionId, Address, Asker, BootstrapError, Broadcast,
    BroadcastCounters, BroadcastError, BroadcastReceipt, Builder, Callback, Changes, Compression,
    Config, ConnectOptions, Context, Counters, DecodeError, Degrees, Direction, Discovery,
    Download, DownloadProgress, DownloadState, DownloadStatus, Dropped, Error, Event, Events,
    FetchError, FetchRequest, Fetched, Figures, FileCounters, FileKind, FileName, FileRefusal,
    FileSource, FilesHandle, FolderFile, FolderPart, FoundFile, Handler, HandlerHost, Hash,
    HashProgress, InTheWay, Instant, IntoAddress, IntoPlaces, Key, KeyError, KnownPeer, LeftOut,
    LinkEnd, ManifestError, Message, MessageFailure, MessageKind, NameError, NameFault, NameKind,
    Neighbour, NetworkGraph, NetworkHandle, NetworkNode, NetworkSize, Node, NodeId, NodeInfo,
    NotAKey, OutgoingMessage, ParseAddressError, ParseIdError, Peer, PeerStatus, PieceError, Place,
    Proof, PublicKey, QueryId, RateLimits, Reason, Refreshed, Refusal, RelPath, RelayError,
    RelaySendError, Renamed, Scheme, SealError, Secret, SendReport, Sender, ShareError, SharedFile,
    Sharing, SkipReason, Skipped, Status, StoreError, Stream, Ticket, TicketError, Upload,
    UploadStatus, UploadTotals, VersionGap, Versions, WireError,
};
