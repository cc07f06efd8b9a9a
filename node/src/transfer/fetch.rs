//! Fetching content from other nodes.
//!
//! [`downloads`] keeps the list of downloads, and [`resume`] continues them after a restart. Each download
//! has a task. The [`driver`] in it carries out the decisions of the state machine
//! [`peerkit_proto::files::fetch`], and starts one more task for each source ([`source`]), which speaks to
//! the source as a [`client`]. The first source has to prove that its description is right ([`prove`]).
//! Pieces are verified and written ([`writer`]) to a part beside the target ([`target`]). The part is an
//! unfinished file or folder with a name of its own ([`part`]). Pieces that an earlier download has left in
//! it are checked first ([`disk_check`]). Once every piece is written, the part gets its final name
//! ([`place`]).

mod client;
mod disk_check;
mod download;
mod downloads;
mod driver;
mod error;
mod fetch_request;
mod part;
mod place;
mod prove;
mod resume;
mod source;
mod status;
mod target;
mod writer;

pub use download::{Download, DownloadProgress, Dropped, Fetched};
pub(crate) use downloads::Downloads;
pub use error::{FetchError, InTheWay};
pub use fetch_request::FetchRequest;
pub(crate) use part::is_part_name;
pub use status::{DownloadState, DownloadStatus};
