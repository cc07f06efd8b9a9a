//! Fetching content from other nodes.
//!
//! [`downloads`] keeps the list of fetches. A fetch is one task ([`fetching`]), which carries out what the
//! state machine [`peerkit_proto::files::fetch`] decides, and one task for each source ([`source`]). Pieces
//! are written beside the target ([`target`], [`part`]), and renamed once everything is there ([`place`]).

mod asking;
mod checking;
mod download;
mod downloads;
mod entry;
mod error;
mod fetch_request;
mod fetched;
mod fetching;
mod job;
mod keeping;
mod listed;
mod news;
mod part;
mod place;
mod prove;
mod source;
mod status;
mod target;

pub use download::{Download, DownloadProgress};
pub(crate) use downloads::Downloads;
pub use error::{FetchError, InTheWay};
pub use fetch_request::FetchRequest;
pub use fetched::{Dropped, Fetched};
pub(crate) use part::is_part_name;
pub use status::{DownloadState, DownloadStatus};
