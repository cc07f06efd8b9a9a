//! `search`: finds files by name.

use clap::Args;
use peerkit::{FoundFile, NodeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, NodeCommand, Outcome, joined};
use crate::human::files;
use crate::lock::lock;
use crate::text::Paint;
use crate::views::FoundView;

/// Find files by name, across the network
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct SearchArgs {
    /// A part of the name
    #[arg(required = true, num_args = 1..)]
    #[serde(with = "joined")]
    #[schema(value_type = String, min_length = 1)]
    text: Vec<String>,
}

/// The files that a search found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SearchOutcome {
    files: Vec<FoundView>,
    #[serde(skip)]
    found: (Vec<FoundFile>, NodeId),
}

impl NodeCommand for SearchArgs {
    const NAME: &'static str = "search";
    const LINE: LineForm = LineForm::Search;
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/search"));
    type Outcome = SearchOutcome;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<SearchOutcome> {
        let session = context.session;
        let found = session.node.search(&joined::text(&self.text)).await?;
        // If nothing was found, the results of the last successful search are kept.
        if !found.is_empty() {
            *lock(&session.found) = found.iter().map(|found| found.file.clone()).collect();
        }
        let here = session.node.id();
        let files = found.iter().map(|found| FoundView::new(found, here)).collect();
        Ok(SearchOutcome { files, found: (found, here) })
    }
}

impl Outcome for SearchOutcome {
    fn text(&self, paint: Paint) -> String {
        let (found, here) = &self.found;
        files::found(paint, found, *here)
    }
}
