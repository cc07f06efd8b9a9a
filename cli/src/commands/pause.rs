//! `pause`: pauses a fetch.

use clap::Args;
use peerkit::DownloadStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human::downloads;
use crate::text::Paint;

/// Pause a fetch, and keep the part that was fetched
///
/// HASH may also be the first digits of the hash, or the name of the file.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct PauseArgs {
    /// The hash of the fetch, its first digits, or the name of the file
    #[arg(value_name = "HASH")]
    #[schema(min_length = 1)]
    download: String,
}

/// A paused fetch.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Paused {
    download: DownloadStatus,
}

impl NodeCommand for PauseArgs {
    const NAME: &'static str = "pause";
    const LINE: LineForm = LineForm::Name(0);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/downloads/{download}/pause"));
    type Outcome = Paused;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Paused> {
        let download = context.session.find_download(&self.download)?.pause().await?;
        Ok(Paused { download })
    }
}

impl Outcome for Paused {
    fn text(&self, paint: Paint) -> String {
        downloads::line(paint, &self.download)
    }
}
