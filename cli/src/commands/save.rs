//! `save`: writes the known peers to a file.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, NodeCommand, Outcome};
use crate::folders;
use crate::text::{Paint, count, path as shown};
use crate::views::KnownView;

/// Write the known peers to a JSON file
///
/// The default FILE is peers.json in the state folder.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct SaveArgs {
    /// The file, on the machine of the node
    #[schema(value_type = Option<String>, min_length = 1)]
    file: Option<PathBuf>,
}

/// The known peers, and the file that has them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SavedPeers {
    path: String,
    peers: Vec<KnownView>,
}

impl NodeCommand for SaveArgs {
    const NAME: &'static str = "save";
    const LINE: LineForm = LineForm::Path(0);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/known-peers/save"));
    type Outcome = SavedPeers;

    fn prepare(&mut self) -> anyhow::Result<()> {
        self.file = self.file.as_deref().map(folders::absolute).transpose()?;
        Ok(())
    }

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<SavedPeers> {
        let session = context.session;
        let path = session.peers_file(self.file)?;
        session.node.network().save_peers(&path).await?;
        let peers = session.known().await?;
        Ok(SavedPeers { path: path.to_string_lossy().into_owned(), peers })
    }
}

impl Outcome for SavedPeers {
    fn text(&self, _paint: Paint) -> String {
        format!("wrote {} to {}", count(self.peers.len(), "peer"), shown(self.path.as_ref()))
    }
}
