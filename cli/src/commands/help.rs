//! `help`: lists the commands, or explains one.

use std::fmt::Write as _;

use anyhow::anyhow;
use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::lookup::{find_command, unknown_command};
use super::{COMMANDS, CommandContext, NodeCommand, Outcome, line};
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
        let help = help_text(self.topic.as_deref()).map_err(|error| anyhow!(error))?;
        Ok(HelpText { help })
    }
}

impl Outcome for HelpText {
    fn text(&self, _paint: Paint) -> String {
        self.help.clone()
    }
}

/// Returns the text of `help`, or of `help COMMAND`.
fn help_text(topic: Option<&str>) -> Result<String, String> {
    let Some(topic) = topic else {
        return Ok(overview());
    };
    let spec = find_command(topic).ok_or_else(|| unknown_command(topic))?;
    let mut text = format!("{}\n  {}.", line::usage(spec), spec.summary());
    for line in spec.more().lines() {
        let _ = write!(text, "\n  {line}");
    }
    if !spec.aliases.is_empty() {
        let _ = write!(text, "\n  Also: {}", spec.aliases.join(", "));
    }
    Ok(text)
}

/// Width of the column with the commands, in characters. If a command is longer, its summary is on
/// the next line.
const COLUMN: usize = 27;

fn overview() -> String {
    let mut text = String::new();
    for spec in COMMANDS {
        let (usage, summary) = (line::usage(spec), spec.summary());
        if usage.len() > COLUMN {
            let _ = writeln!(text, "  {usage}");
            let _ = writeln!(text, "  {:COLUMN$}  {summary}", "");
        } else {
            let _ = writeln!(text, "  {usage:COLUMN$}  {summary}");
        }
    }
    text.push_str(
        "PEER is the name of a node, its identity, or the first digits of its identity. \
         `help COMMAND` explains a command.",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_all_commands_and_explains_one() {
        let all = help_text(None).unwrap();
        for entry in COMMANDS {
            assert!(all.contains(&line::usage(entry)), "{}", entry.name);
            assert!(help_text(Some(entry.name)).unwrap().contains(&entry.summary()));
        }
        assert!(help_text(Some("stop")).unwrap().contains("goodbye"));
        assert!(help_text(Some("nothing")).is_err());
    }
}
