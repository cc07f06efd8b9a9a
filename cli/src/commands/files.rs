//! `files`: lists the shares of this node.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::page::Page;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human::files;
use crate::text::Paint;
use crate::views::{ShareFileView, ShareView};
use crate::{folders, usage};

/// List the shares of this node, with the files in folders
///
/// Each file in a folder can be fetched alone, by its hash. At most 1,000 files of each folder are listed. With
/// SHARE, the name, path or hash of one share, at most 10,000 files are listed; --skip N leaves out the first N.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct FilesArgs {
    /// The name, path or hash of one share
    #[schema(min_length = 1)]
    share: Option<String>,
    /// Leave out the first files of the share
    #[arg(long, value_name = "N")]
    skip: Option<usize>,
    /// Maximum number of shares [default: all]
    #[arg(skip)]
    #[schema(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Number of shares to leave out before the first
    #[arg(skip)]
    offset: Option<usize>,
}

/// The shares of this node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ShareList {
    files: Vec<ShareFileView>,
    /// True if the shares of earlier runs are still being restored, so that some may be missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    restoring: bool,
    #[serde(skip)]
    shares: Vec<ShareView>,
}

impl NodeCommand for FilesArgs {
    const NAME: &'static str = "files";
    const LINE: LineForm = LineForm::Name(0);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/shares"));
    type Outcome = ShareList;

    fn prepare(&mut self) -> anyhow::Result<()> {
        if let Some(share) = &mut self.share {
            folders::make_path_absolute(share)?;
        }
        Ok(())
    }

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<ShareList> {
        let session = context.session;
        let (shares, restoring) = match &self.share {
            None if self.skip.is_some() => {
                return Err(usage("files needs a SHARE with --skip"));
            }
            None => {
                let restoring = !session.wait_for_shares().await;
                (ShareView::all(&session.node), restoring)
            }
            Some(share) => {
                let skip = self.skip.unwrap_or(0);
                let shares = session.find_shares(share, context.is_request()).await?.into_iter();
                let view = |(path, file)| ShareView::one(&session.node, path, file, skip);
                (shares.map(view).collect(), false)
            }
        };
        // The paths are sorted already.
        let shares = match Page::read(self.limit, self.offset)? {
            None => shares,
            Some(page) => page.of(shares),
        };
        let files = shares.iter().map(ShareFileView::with_access).collect();
        Ok(ShareList { files, restoring, shares })
    }
}

impl Outcome for ShareList {
    fn text(&self, paint: Paint) -> String {
        files::shared(paint, &self.shares, self.restoring)
    }
}
