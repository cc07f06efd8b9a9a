//! `resume`: continues a fetch.

use clap::Args;
use peerkit::DownloadStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::Endpoint;
use super::line::LineForm;
use super::{Command, CommandContext, Outcome};
use crate::human::downloads;
use crate::text::Paint;

/// Continue a fetch that was paused or has failed
///
/// HASH may also be the first digits of the hash, or the name of the file.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct Resume {
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

impl Command for Resume {
    const NAME: &'static str = "resume";
    const LINE: LineForm = LineForm::Name(0);
    const ENDPOINT: Option<Endpoint> = Some(Endpoint::post("/downloads/{download}/resume"));
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
