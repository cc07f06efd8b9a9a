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
up RATE             bytes a second of files sent, for example 500k; 0: no limit
down RATE           bytes a second of files fetched
peer-up RATE        as up, to each node
peer-down RATE      as down, from each node
messages RATE       bytes a second of messages sent; messages above it wait
peer-messages RATE  as messages, to each node
broadcasts RATE     bytes a second of own broadcasts sent
peer-receive RATE   bytes a second read from each node; a faster node has to wait";

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
