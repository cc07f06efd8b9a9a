//! `refresh`: checks the shared files for changes.

use clap::Args;
use peerkit::{FileKind, Hash, Refreshed};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human::files;
use crate::text::Paint;
use crate::views::{FileView, ShareFileView, ShareView, SkippedView};

/// Check the shared files for changes, and hash the changed ones
///
/// It prints the changes, and then all shares, as `files` does.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct RefreshArgs {}

/// The shares after a check.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RefreshedShares {
    /// All shares.
    files: Vec<ShareFileView>,
    /// The shares whose content has changed, as they are now.
    changed: Vec<FileView>,
    /// The shares whose file or folder no longer exists.
    removed: Vec<RemovedShare>,
    /// Entries of folders that are not shared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<SkippedView>,
    #[serde(skip)]
    details: (Refreshed, Vec<ShareView>),
}

impl NodeCommand for RefreshArgs {
    const NAME: &'static str = "refresh";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/shares/refresh"));
    type Outcome = RefreshedShares;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<RefreshedShares> {
        let session = context.session;
        session.wait_for_shares().await;
        let refreshed = session.node.files().refresh(context.progress.hashing()).await?;
        let shares = ShareView::all(&session.node);
        let removed = refreshed.removed.iter().map(|(path, file)| RemovedShare {
            path: path.to_string_lossy().into_owned(),
            hash: file.as_ref().map(|file| file.hash),
            name: file.as_ref().map(|file| file.name.to_string()),
            size: file.as_ref().map(|file| file.size),
            kind: file.as_ref().map(|file| file.kind),
        });
        Ok(RefreshedShares {
            files: shares.iter().map(ShareFileView::from).collect(),
            changed: refreshed.changed.iter().map(|(_, now)| FileView::from(now)).collect(),
            removed: removed.collect(),
            skipped: SkippedView::all(&refreshed.skipped),
            details: (refreshed, shares),
        })
    }
}

impl Outcome for RefreshedShares {
    fn text(&self, paint: Paint) -> String {
        let (refreshed, shares) = &self.details;
        files::refreshed(paint, refreshed, shares)
    }
}

/// A share that is gone.
#[derive(Debug, Serialize, ToSchema)]
struct RemovedShare {
    path: String,
    /// The hash of the content. This and the fields below are left out if the content was not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    hash: Option<Hash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    kind: Option<FileKind>,
}
