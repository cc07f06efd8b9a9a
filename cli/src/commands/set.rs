//! `set`: lists the settings of the node, or changes one.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::Endpoint;
use super::line::LineForm;
use super::{Command, CommandContext, Outcome};
use crate::settings::{self, SettingView};
use crate::text::Paint;
use crate::{folders, human, usage};

/// List the settings, or change one until the node stops
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
#[command(after_long_help = SETTINGS)]
pub(crate) struct Set {
    /// The name of the setting
    name: Option<String>,
    /// Its new value
    value: Option<String>,
}

/// The settings with their values.
const SETTINGS: &str = "\
downloads DIR       the folder for fetched files
up RATE             maximum rate of files sent
down RATE           maximum rate of files fetched
peer-up RATE        maximum rate of files sent to each node
peer-down RATE      maximum rate of files fetched from each node
messages RATE       maximum rate of messages sent; messages above it wait
peer-messages RATE  maximum rate of messages sent to each node
broadcasts RATE     maximum rate of this node's own broadcasts
peer-receive RATE   maximum rate of bytes read from each node; a faster node waits
RATE is bytes a second, for example 500k or 2MiB; 0 is no limit.";

/// Settings, with their current values.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Settings {
    config: Vec<SettingView>,
}

impl Command for Set {
    const NAME: &'static str = "set";
    const LINE: LineForm = LineForm::Path(1);
    const ENDPOINT: Option<Endpoint> = Some(Endpoint::patch("/settings"));
    type Outcome = Settings;

    fn prepare(&mut self) -> anyhow::Result<()> {
        if self.name.as_deref() == Some(settings::DOWNLOADS)
            && let Some(folder) = &mut self.value
        {
            *folder = folders::absolute(folder.as_ref())?.to_string_lossy().into_owned();
        }
        Ok(())
    }

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Settings> {
        let node = &context.session.node;
        Ok(Settings {
            config: match (self.name, self.value) {
                (Some(name), Some(value)) => vec![settings::set(node, &name, &value)?],
                (Some(name), None) => return Err(usage(settings::missing_value(&name))),
                (None, _) => settings::all(node),
            },
        })
    }
}

impl Outcome for Settings {
    fn text(&self, paint: Paint) -> String {
        human::settings(paint, &self.config)
    }
}
