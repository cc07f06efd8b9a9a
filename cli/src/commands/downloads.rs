//! `downloads`: lists the fetches.

use clap::Args;
use peerkit::DownloadStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::page::Page;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human::downloads;
use crate::text::Paint;

/// List the fetches, with their progress and speed
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct DownloadsArgs {
    /// Maximum number of fetches [default: all]
    #[arg(skip)]
    #[schema(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Number of fetches to leave out before the first
    #[arg(skip)]
    offset: Option<usize>,
}

/// The fetches of this node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DownloadList {
    downloads: Vec<DownloadStatus>,
}

impl NodeCommand for DownloadsArgs {
    const NAME: &'static str = "downloads";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/downloads"));
    type Outcome = DownloadList;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<DownloadList> {
        let downloads = context.session.node.files().downloads();
        Ok(match Page::read(self.limit, self.offset)? {
            None => DownloadList { downloads },
            Some(page) => {
                DownloadList { downloads: page.of_sorted(downloads, |download| download.hash) }
            }
        })
    }
}

impl Outcome for DownloadList {
    fn text(&self, paint: Paint) -> String {
        if self.downloads.is_empty() {
            return "nothing is being fetched: `get HASH` fetches a file or folder".to_owned();
        }
        let lines = self.downloads.iter().map(|download| downloads::line(paint, download));
        lines.collect::<Vec<_>>().join("\n")
    }
}
