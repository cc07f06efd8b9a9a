//! `map`: draws the network.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use peerkit::NetworkGraph;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, CommandOutput, NodeCommand, Outcome};
use crate::map_file::{self, MapFormat};
use crate::text::{Paint, path as shown};
use crate::views::MapView;

/// Draw the network, or write it as .svg, .dot, .graphml or .json
///
/// The ending of FILE selects the format. Each link points from the node that dialled.
///
/// .svg is a picture, for browsers and documents. .dot is for Graphviz: dot -Tpdf FILE.dot > FILE.pdf.
/// .graphml is for Gephi, yEd, igraph, or networkx.read_graphml("FILE.graphml"). .json is what `map` prints
/// with --json; NetworkX reads it with node_link_graph(data, source="from", target="to", edges="edges").
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct MapArgs {
    /// The file to write
    #[serde(skip)]
    file: Option<PathBuf>,
    /// The format of the map [default: JSON]
    #[arg(skip)]
    format: Option<MapFormat>,
}

/// The map of the network: as JSON, or as a document in the requested format.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MapOutcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<MapView>)]
    map: Option<NetworkGraph>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
}

impl NodeCommand for MapArgs {
    const NAME: &'static str = "map";
    const LINE: LineForm = LineForm::Path(0);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/network/map"));
    type Outcome = MapOutcome;

    fn prepare(&mut self) -> anyhow::Result<()> {
        // A wrong ending fails here, before the network is discovered.
        self.format = self.file.as_deref().map(MapFormat::of).transpose()?;
        Ok(())
    }

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<MapOutcome> {
        let map = context.session.node.network().graph().await?;
        let Some(format) = self.format else {
            return Ok(MapOutcome { map: Some(map), document: None });
        };
        // A picture of a large network takes long.
        let drawing = tokio::task::spawn_blocking(move || format.document(&map));
        Ok(MapOutcome { map: None, document: Some(drawing.await?) })
    }

    fn finish(&self, output: CommandOutput) -> anyhow::Result<CommandOutput> {
        #[derive(Deserialize)]
        struct Document {
            document: String,
        }
        #[derive(Serialize)]
        struct Written {
            path: String,
        }
        let Some(file) = &self.file else { return Ok(output) };
        let Document { document } = serde_json::from_str(output.fields.get())?;
        map_file::write(file, document.as_bytes())
            .with_context(|| format!("could not write {}", file.display()))?;
        let path = std::path::absolute(file)?;
        let fields = to_raw_value(&Written { path: path.to_string_lossy().into_owned() })?;
        Ok(CommandOutput { text: format!("wrote {}", shown(&path)), fields, ..output })
    }
}

impl Outcome for MapOutcome {
    fn text(&self, _paint: Paint) -> String {
        self.map.as_ref().map(NetworkGraph::to_text).unwrap_or_default()
    }
}
