//! Transfers of files and folders: [`fetch`] gets content from other nodes, [`serve`] sends this node's
//! shares, and the pieces that its downloads have so far ([`partial`]). Both speak the protocol of
//! [`peerkit_proto::files::wire`].

mod fetch;
mod folder_plan;
mod meter;
mod partial;
mod serve;

use std::time::Duration;

pub use fetch::{
    Download, DownloadProgress, DownloadState, DownloadStatus, Dropped, FetchError, FetchRequest,
    Fetched, InTheWay,
};
pub(crate) use fetch::{Downloads, is_part_name};
pub(crate) use partial::Partials;
pub(crate) use peerkit_proto::files::fetch::STALL;
pub(crate) use serve::{FileServer, UploadNews, Uploads};
pub use serve::{UploadStatus, UploadTotals};

/// Maximum time for receiving one piece. 300 s: a source that needs longer sends less than 3.5 kB/s.
pub(crate) const PIECE_TIME: Duration = Duration::from_secs(300);

/// Maximum time for which a stream stays open without a request. 120 s: four times [`STALL`].
pub(crate) const IDLE: Duration = Duration::from_secs(120);
