//! `debug`: switches the log of the node's actions.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::text::Paint;

/// Switch the log of the node's actions on or off
///
/// Without `on` or `off` it toggles the log. The log goes to standard error. It has a line for each link,
/// message (its size and kind), query, neighbour, broadcast and transfer, but never their contents.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct DebugArgs {
    /// On or off
    #[arg(value_name = "on|off")]
    switch: Option<Switch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Switch {
    On,
    Off,
}

/// The state of the log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LogState {
    /// True if the node's actions are logged.
    debug: bool,
}

impl NodeCommand for DebugArgs {
    const NAME: &'static str = "debug";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::put("/debug"));
    type Outcome = LogState;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<LogState> {
        let on = self.switch.map(|switch| switch == Switch::On);
        Ok(LogState { debug: context.session.log.set_debug(on)? })
    }
}

impl Outcome for LogState {
    fn text(&self, _paint: Paint) -> String {
        let text = if self.debug {
            "logging the node's actions"
        } else {
            "logging warnings, or what PEERKIT_LOG asks for"
        };
        text.to_owned()
    }
}
