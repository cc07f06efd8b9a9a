//! `help`: lists the commands, or explains one.

use anyhow::anyhow;
use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::help;
use crate::text::Paint;

/// Show this list, or explain one command
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct HelpArgs {
    /// The command to explain
    #[arg(value_name = "COMMAND")]
    topic: Option<String>,
}

/// A text about the commands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HelpText {
    help: String,
}

impl NodeCommand for HelpArgs {
    const NAME: &'static str = "help";
    // The API describes itself: /api/v1/openapi.json.
    const ENDPOINT: Option<ApiEndpoint> = None;
    type Outcome = HelpText;

    async fn run(self, _context: &CommandContext<'_>) -> anyhow::Result<HelpText> {
        let help = help::help_text(self.topic.as_deref()).map_err(|error| anyhow!(error))?;
        Ok(HelpText { help })
    }
}

impl Outcome for HelpText {
    fn text(&self, _paint: Paint) -> String {
        self.help.clone()
    }
}
