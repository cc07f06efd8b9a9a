//! `load`: reads peers from a file.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, NodeCommand, Outcome};
use crate::folders;
use crate::text::{Paint, count, path as shown};
use crate::views::{KnownView, PeerView};

/// Read peers from a file that `save` wrote, and connect to them
///
/// The default FILE is peers.json in the state folder.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct LoadArgs {
    /// The file, on the machine of the node
    #[schema(value_type = Option<String>, min_length = 1)]
    file: Option<PathBuf>,
}

/// Peers that were read from a file.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LoadedPeers {
    path: String,
    peers: Vec<KnownView>,
    /// The peers to which this command has made links.
    connected: Vec<PeerView>,
}

impl NodeCommand for LoadArgs {
    const NAME: &'static str = "load";
    const LINE: LineForm = LineForm::Path(0);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/known-peers/load"));
    type Outcome = LoadedPeers;

    fn prepare(&mut self) -> anyhow::Result<()> {
        self.file = self.file.as_deref().map(folders::absolute).transpose()?;
        Ok(())
    }

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<LoadedPeers> {
        let session = context.session;
        let path = session.peers_file(self.file)?;
        let loaded = session.node.network().load_peers(&path).await?;
        let connected = session.views(&session.node.network().connect_to_known(&loaded).await);
        let peers = loaded.into_iter().map(KnownView::from).collect();
        Ok(LoadedPeers { path: path.to_string_lossy().into_owned(), peers, connected })
    }
}

impl Outcome for LoadedPeers {
    fn text(&self, _paint: Paint) -> String {
        let (read, links) =
            (count(self.peers.len(), "peer"), count(self.connected.len(), "new link"));
        format!("read {read} from {}: {links}", shown(self.path.as_ref()))
    }
}
