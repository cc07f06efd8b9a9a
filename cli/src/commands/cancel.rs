//! `cancel`: cancels a fetch.

use clap::Args;
use peerkit::DownloadStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human::downloads;
use crate::text::Paint;

/// Cancel a fetch, and remove the part that was fetched
///
/// HASH may also be the first digits of the hash, or the name of the file.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct CancelArgs {
    /// The hash of the fetch, its first digits, or the name of the file
    #[arg(value_name = "HASH")]
    #[schema(min_length = 1)]
    download: String,
}

/// A cancelled fetch.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cancelled {
    download: DownloadStatus,
}

impl NodeCommand for CancelArgs {
    const NAME: &'static str = "cancel";
    const LINE: LineForm = LineForm::Name(0);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::delete("/downloads/{download}"));
    type Outcome = Cancelled;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Cancelled> {
        let download = context.session.find_download(&self.download)?.cancel().await?;
        Ok(Cancelled { download })
    }
}

impl Outcome for Cancelled {
    fn text(&self, paint: Paint) -> String {
        format!("cancelled {}", downloads::named(paint, &self.download))
    }
}
