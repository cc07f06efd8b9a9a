//! `remove`: stops sharing.

use clap::Args;
use peerkit::SharedFile;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, NodeCommand, Outcome};
use crate::folders;
use crate::human::files;
use crate::text::Paint;
use crate::views::FileView;

/// Stop sharing a file or folder; the file itself stays
///
/// HASH may also be the first digits of the hash, or the name or path of the share. A name or path stops one
/// share; a hash stops all shares with this content.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct RemoveArgs {
    /// The hash of the share, its first digits, or the name or path of the share
    #[schema(min_length = 1)]
    hash: String,
}

/// The files and folders that are no longer shared.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Removed {
    files: Vec<FileView>,
    #[serde(skip)]
    removed: Vec<SharedFile>,
}

impl NodeCommand for RemoveArgs {
    const NAME: &'static str = "remove";
    const LINE: LineForm = LineForm::Name(0);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::delete("/shares/{hash}"));
    type Outcome = Removed;

    fn prepare(&mut self) -> anyhow::Result<()> {
        folders::make_path_absolute(&mut self.hash)
    }

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Removed> {
        let session = context.session;
        let mut removed = Vec::new();
        // Copies of a file have the same hash, but each copy is a share of its own.
        for (path, _) in session.find_shares(&self.hash, context.is_request()).await? {
            let gone = session.node.files().unshare_path(&path).await;
            session.held.removed(&path).await;
            removed.extend(gone?);
        }
        Ok(Removed { files: removed.iter().map(FileView::from).collect(), removed })
    }
}

impl Outcome for Removed {
    fn text(&self, paint: Paint) -> String {
        let line = |file| format!("stopped sharing {}", files::file_line(paint, file));
        self.removed.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
