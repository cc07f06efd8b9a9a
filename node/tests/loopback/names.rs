//! Types that appear in public signatures and can be named from `peerkit` alone.
//!
//! The lint `unnameable_types` finds those of one crate that can't be named at all. It does not see
//! that a type of `peerkit-proto` is missing here, so they are listed.

#[allow(unused_imports)]
use peerkit::sim::{
    Count, Joining, Latency, Lies, Network as SimNetwork, NodeOptions, OperationId, Overlay, Sim,
    SimConfig, Stats,
};
#[allow(unused_imports)]
use peerkit::{
    Access, AccessKind, Action, ActionId, Address, Asker, BootstrapError, Broadcast,
    BroadcastCounters, BroadcastError, BroadcastReceipt, Builder, Callback, Changes, Compression,
    Config, ConnectOptions, Context, Counters, DecodeError, Degrees, DirectError, Direction,
    Discovery, Download, DownloadProgress, DownloadState, DownloadStatus, Dropped, Error, Event,
    Events, FetchError, FetchRequest, Fetched, Figures, FileCounters, FileKind, FileName,
    FileRefusal, FileSource, FilesHandle, FolderFile, FolderPart, FoundFile, Handler, HandlerHost,
    Hash, HashProgress, InTheWay, Instant, IntoAddress, IntoPlaces, Key, KeyError, KnownPeer,
    LeftOut, LinkEnd, ManifestError, Message, MessageFailure, MessageKind, NameError, NameFault,
    NameKind, Neighbour, NetworkGraph, NetworkHandle, NetworkNode, NetworkSize, Node, NodeId,
    NodeInfo, NotAKey, OutgoingMessage, ParseAddressError, ParseIdError, Peer, PeerStatus,
    PieceError, Place, Proof, PublicKey, QueryId, RateLimits, Reason, Refreshed, Refusal, RelPath,
    RelayError, Renamed, Scheme, SealError, Secret, SendReport, Sender, ShareError, SharedFile,
    Sharing, SkipReason, Skipped, Status, StoreError, Stream, Ticket, TicketError, Upload,
    UploadStatus, UploadTotals, VersionGap, Versions, WireError,
};
