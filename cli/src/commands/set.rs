//! `set`: lists the settings of the node, or changes one.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::config::{ConfigArgs, Settings};
use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, NodeCommand};
use crate::settings;
use crate::{folders, usage};

/// List the settings, or change one until the node stops
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
#[command(after_long_help = SETTINGS)]
pub(crate) struct SetArgs {
    /// The name of the setting
    #[schema(value_type = String, required, min_length = 1)]
    name: Option<String>,
    /// Its new value
    #[schema(value_type = String, required, min_length = 1)]
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
max-inbound N       maximum number of links that other nodes make to this one; 0 refuses all
log LEVEL           the level of the log: off, error, warn, info, debug or trace, or any filter
                    that PEERKIT_LOG takes, such as warn,link=debug
RATE is bytes a second, for example 500k or 2MiB; 0 is no limit.";

impl NodeCommand for SetArgs {
    const NAME: &'static str = "set";
    const LINE: LineForm = LineForm::Path(1);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::patch("/settings"));
    type Outcome = Settings;

    fn endpoint(&self) -> Option<ApiEndpoint> {
        // Without a setting, `set` only lists them.
        if self.name.is_none() { ConfigArgs::ENDPOINT } else { Self::ENDPOINT }
    }

    fn prepare(&mut self) -> anyhow::Result<()> {
        if self.name.as_deref() == Some(settings::DOWNLOADS)
            && let Some(folder) = &mut self.value
        {
            *folder = folders::absolute(folder.as_ref())?.to_string_lossy().into_owned();
        }
        Ok(())
    }

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<Settings> {
        let session = context.session;
        Ok(Settings {
            config: match (self.name, self.value) {
                (Some(name), Some(value)) => vec![settings::set(session, &name, &value).await?],
                (Some(name), None) => return Err(usage(settings::missing_value(&name))),
                (None, None) if !context.is_request() => settings::all(session).await?,
                (None, _) => return Err(usage("set needs a name and a value")),
            },
        })
    }
}
