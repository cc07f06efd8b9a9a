//! `config`: lists the settings of the node.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human;
use crate::settings::{self, SettingView};
use crate::text::Paint;

/// List the settings that `set` changes, and the origin of each value
///
/// The origin is the program's default, an option of `peerkit run`, an environment variable, or `set`.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct ConfigArgs {}

/// Settings, with their current values.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Settings {
    pub(super) config: Vec<SettingView>,
}

impl NodeCommand for ConfigArgs {
    const NAME: &'static str = "config";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/settings"));
    type Outcome = Settings;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Settings> {
        Ok(Settings { config: settings::all(context.session).await? })
    }
}

impl Outcome for Settings {
    fn text(&self, paint: Paint) -> String {
        human::settings(paint, &self.config)
    }
}
