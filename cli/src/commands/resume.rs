//! `resume`: continues a fetch.

use clap::Args;
use peerkit::DownloadStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human::downloads;
use crate::text::Paint;

/// Continue a fetch that was paused or has failed
///
/// HASH may also be the first digits of the hash, or the name of the file.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct ResumeArgs {
    /// The hash of the fetch, its first digits, or the name of the file
    #[arg(value_name = "HASH")]
    #[schema(min_length = 1)]
    download: String,
}

/// A fetch that continues.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Resumed {
    download: DownloadStatus,
}

impl NodeCommand for ResumeArgs {
    const NAME: &'static str = "resume";
    const LINE: LineForm = LineForm::Name(0);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/downloads/{download}/resume"));
    type Outcome = Resumed;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Resumed> {
        let download = context.session.find_download(&self.download)?.resume().await?;
        Ok(Resumed { download })
    }
}

impl Outcome for Resumed {
    fn text(&self, paint: Paint) -> String {
        downloads::line(paint, &self.download)
    }
}
