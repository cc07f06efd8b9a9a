//! The commands of a running node, each declared once in a file of its own below `commands/`.
//!
//! A declaration has the command's arguments with their help (clap), its endpoint in the local API, the code
//! that carries it out, and its output for people and as JSON. The prompt, piped lines, `peerkit COMMAND`, the
//! API with its OpenAPI document, the manual page and the completions are all made from the declarations. To
//! add a command, write its file and add one line to [`COMMANDS`].

use std::future::Future;
use std::pin::Pin;

use anyhow::anyhow;
use clap::{ArgMatches, Args};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema as _, ToSchema};

use crate::progress::ProgressSink;
use crate::session::NodeSession;
use crate::text::Paint;
use endpoint::{ApiEndpoint, ApiRequest};
use line::LineForm;

pub(crate) mod add;
mod ban;
mod bans;
mod broadcast;
mod cancel;
mod config;
mod connect;
mod debug;
mod disconnect;
mod discover;
mod doctor;
mod downloads;
pub(crate) mod endpoint;
mod events;
mod exit;
mod files;
pub(crate) mod get;
#[cfg(test)]
mod guide;
mod help;
mod invite;
mod join;
mod leave;
pub(crate) mod line;
mod load;
pub(crate) mod lookup;
mod map;
mod members;
mod msg;
mod network;
mod page;
mod pause;
mod peers;
mod ping;
mod refresh;
mod remove;
mod resume;
mod revoke;
mod save;
mod search;
mod send;
mod set;
mod shutdown;
mod size;
pub(crate) mod status;
mod unban;

/// Every command, in the order in which `help` lists them.
pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::of::<connect::ConnectArgs>(),
    CommandSpec::of::<join::JoinArgs>(),
    CommandSpec::of::<disconnect::DisconnectArgs>(),
    CommandSpec::of::<peers::PeersArgs>(),
    CommandSpec::of::<ban::BanArgs>(),
    CommandSpec::of::<unban::UnbanArgs>(),
    CommandSpec::of::<bans::BansArgs>(),
    CommandSpec::of::<msg::MsgArgs>(),
    CommandSpec::of::<send::SendArgs>(),
    CommandSpec::of::<broadcast::BroadcastArgs>(),
    CommandSpec::of::<ping::PingArgs>(),
    CommandSpec::of::<discover::DiscoverArgs>(),
    CommandSpec::of::<add::AddArgs>(),
    CommandSpec::of::<remove::RemoveArgs>(),
    CommandSpec::of::<refresh::RefreshArgs>(),
    CommandSpec::of::<files::FilesArgs>(),
    CommandSpec::of::<search::SearchArgs>(),
    CommandSpec::of::<get::GetArgs>(),
    CommandSpec::of::<downloads::DownloadsArgs>(),
    CommandSpec::of::<pause::PauseArgs>(),
    CommandSpec::of::<resume::ResumeArgs>(),
    CommandSpec::of::<cancel::CancelArgs>(),
    CommandSpec::of::<status::StatusArgs>(),
    CommandSpec::of::<doctor::DoctorArgs>(),
    CommandSpec::of::<network::NetworkArgs>(),
    CommandSpec::of::<size::SizeArgs>(),
    CommandSpec::of::<map::MapArgs>(),
    CommandSpec::of::<save::SaveArgs>(),
    CommandSpec::of::<load::LoadArgs>(),
    CommandSpec::of::<members::MembersArgs>(),
    CommandSpec::of::<invite::InviteArgs>(),
    CommandSpec::of::<revoke::RevokeArgs>(),
    CommandSpec::of::<config::ConfigArgs>(),
    CommandSpec::of::<set::SetArgs>(),
    CommandSpec::of::<debug::DebugArgs>(),
    CommandSpec::of::<events::EventsArgs>(),
    CommandSpec::of::<help::HelpArgs>(),
    CommandSpec::of::<leave::LeaveArgs>(),
    CommandSpec::of::<shutdown::ShutdownArgs>(),
    CommandSpec::of::<exit::ExitArgs>(),
];

/// A command: its arguments, as clap and the API read them, and the code that carries it out.
pub(crate) trait NodeCommand:
    Args + Clone + Serialize + DeserializeOwned + ToSchema + Send + Sync + 'static
{
    /// The name of the command, as users type it and as `result` gives it.
    const NAME: &'static str;
    /// Other names for the command.
    const ALIASES: &'static [&'static str] = &[];
    /// The way in which the rest of a line at the prompt becomes arguments.
    const LINE: LineForm = LineForm::Words;
    /// The method and path of the command in the local API; `None` if it is not a part of the API.
    const ENDPOINT: Option<ApiEndpoint>;
    /// True if the node stops after the command.
    const STOPS: bool = false;

    /// True if `peerkit COMMAND` also works without a running node: see [`Self::run_alone`].
    const WORKS_ALONE: bool = false;

    /// The result of the command.
    type Outcome: Outcome;

    /// Returns the endpoint of the command with these arguments.
    fn endpoint(&self) -> Option<ApiEndpoint> {
        Self::ENDPOINT
    }

    /// Prepares arguments that only the process in which the command was typed can read, such as relative
    /// paths.
    ///
    /// # Errors
    /// If an argument can't be used.
    fn prepare(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Carries out the command. Dropping the future ends the command early.
    ///
    /// # Errors
    /// If the command fails.
    fn run(
        self,
        context: &CommandContext<'_>,
    ) -> impl Future<Output = anyhow::Result<Self::Outcome>> + Send;

    /// Carries out the command where no node runs.
    ///
    /// # Errors
    /// If the command fails, or needs a running node.
    fn run_alone(
        self,
        _progress: ProgressSink,
    ) -> impl Future<Output = anyhow::Result<Self::Outcome>> + Send {
        async { Err(anyhow!("`{}` needs a running node", Self::NAME)) }
    }

    /// Finishes the command in the process in which it was typed. For example, writes the file that the
    /// command names.
    ///
    /// # Errors
    /// If the file can't be written.
    fn finish(&self, output: CommandOutput) -> anyhow::Result<CommandOutput> {
        Ok(output)
    }
}

/// The node and the settings with which a command is carried out.
pub(crate) struct CommandContext<'a> {
    pub(crate) session: &'a NodeSession,
    /// Shows the progress of the command.
    pub(crate) progress: ProgressSink,
    /// The colours of the texts.
    pub(crate) paint: Paint,
    pub(crate) origin: CommandOrigin,
}

impl CommandContext<'_> {
    /// Waits until the fetches that piped lines have begun are done, so that a script may end with `exit`.
    /// At a prompt it does not wait: the user decides when to stop.
    pub(crate) async fn wait_for_fetches(&self) {
        if self.origin == CommandOrigin::Pipe {
            self.session.fetches.wait_until_idle().await;
        }
    }

    /// Returns whether the command comes from another process.
    pub(crate) fn is_request(&self) -> bool {
        matches!(self.origin, CommandOrigin::Request | CommandOrigin::Shell)
    }
}

/// The source of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandOrigin {
    /// A line at the prompt.
    Prompt,
    /// A line of standard input.
    Pipe,
    /// A request whose response is only the outcome.
    Request,
    /// `peerkit COMMAND`, or another request that follows the progress.
    Shell,
}

/// The result of a command. Its fields are those of the command's JSON.
pub(crate) trait Outcome: Serialize + ToSchema + Send {
    /// Returns the text for people.
    fn text(&self, paint: Paint) -> String;

    /// Returns whether the command did its whole task. If not, the exit status of the program is 1, although
    /// the command has an outcome.
    fn is_complete(&self) -> bool {
        true
    }

    /// Returns whether the result is printed later, when the task of the command in the background is done.
    fn is_reported_later(&self) -> bool {
        false
    }
}

/// The printed form of an outcome.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CommandOutput {
    /// The text for people, without a newline at its end.
    pub(crate) text: String,
    /// The fields for programs, as a JSON object.
    pub(crate) fields: Box<RawValue>,
    /// See [`Outcome::is_complete`].
    pub(crate) is_complete: bool,
    /// See [`Outcome::is_reported_later`].
    #[serde(skip)]
    pub(crate) is_reported_later: bool,
}

impl CommandOutput {
    /// Makes an output of a text and fields.
    ///
    /// # Errors
    /// If the fields have no JSON form.
    pub(crate) fn new(text: String, fields: &impl Serialize) -> anyhow::Result<Self> {
        Ok(Self {
            text,
            fields: to_raw_value(fields)?,
            is_complete: true,
            is_reported_later: false,
        })
    }

    /// Makes the output of an outcome. Without `paint`, it has no text.
    fn of(outcome: &impl Outcome, paint: Option<Paint>) -> anyhow::Result<Self> {
        Ok(Self {
            text: paint.map_or_else(String::new, |paint| outcome.text(paint)),
            fields: to_raw_value(outcome)?,
            is_complete: outcome.is_complete(),
            is_reported_later: outcome.is_reported_later(),
        })
    }
}

/// The declaration of a command, without its type.
pub(crate) struct CommandSpec {
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    pub(crate) line: LineForm,
    pub(crate) endpoint: Option<ApiEndpoint>,
    pub(crate) stops: bool,
    /// See [`NodeCommand::WORKS_ALONE`].
    pub(crate) works_alone: bool,
    /// Adds the arguments and the help of the command to a clap command.
    pub(crate) augment: fn(clap::Command) -> clap::Command,
    /// Reads the arguments that clap has parsed.
    pub(crate) from_matches: fn(&ArgMatches) -> Result<ParsedCommand, clap::Error>,
    /// Reads the arguments from the JSON body of a request.
    pub(crate) from_json: fn(Map<String, Value>) -> Result<ParsedCommand, String>,
    /// Reads the arguments from the path and the query of a request, percent-encoded.
    pub(crate) from_query: fn(&str) -> Result<ParsedCommand, String>,
    /// Returns the schemas of the arguments and of the outcome.
    pub(crate) schemas: fn() -> CommandSchemas,
}

/// The schemas of a command for the OpenAPI document.
pub(crate) struct CommandSchemas {
    pub(crate) arguments: RefOr<Schema>,
    /// The name of the outcome's schema in the document.
    pub(crate) outcome: String,
    /// The schemas that the others refer to, with their names.
    pub(crate) components: Vec<(String, RefOr<Schema>)>,
}

impl CommandSpec {
    pub(crate) const fn of<C: NodeCommand>() -> Self {
        Self {
            name: C::NAME,
            aliases: C::ALIASES,
            line: C::LINE,
            endpoint: C::ENDPOINT,
            stops: C::STOPS,
            works_alone: C::WORKS_ALONE,
            augment: C::augment_args,
            from_matches: |matches| Ok(Box::new(C::from_arg_matches(matches)?)),
            from_json: |fields| {
                let command: C =
                    serde_json::from_value(fields.into()).map_err(|error| error.to_string())?;
                Ok(Box::new(command))
            },
            from_query: |query| {
                let command: C =
                    serde_urlencoded::from_str(query).map_err(|error| error.to_string())?;
                Ok(Box::new(command))
            },
            schemas: || {
                let mut components = Vec::new();
                C::schemas(&mut components);
                components.push((C::Outcome::name().into_owned(), C::Outcome::schema()));
                C::Outcome::schemas(&mut components);
                CommandSchemas {
                    arguments: C::schema(),
                    outcome: C::Outcome::name().into_owned(),
                    components,
                }
            },
        }
    }

    /// Returns whether the argument `name` is a text that must not be empty, or a list of such texts.
    pub(crate) fn needs_text(&self, name: &str) -> bool {
        let RefOr::T(Schema::Object(arguments)) = (self.schemas)().arguments else { return false };
        match arguments.properties.get(name) {
            Some(RefOr::T(Schema::Object(argument))) => {
                argument.min_length.is_some_and(|min| min > 0)
            }
            Some(RefOr::T(Schema::Array(_))) => true,
            _ => false,
        }
    }

    /// Returns the name and the aliases of the command.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Returns the names of the options, with their dashes.
    pub(crate) fn option_names(&self) -> Vec<String> {
        let command = self.clap();
        let names = command.get_arguments().filter_map(|argument| argument.get_long());
        names.map(|name| format!("--{name}")).collect()
    }

    /// Returns one line that says what the command does.
    pub(crate) fn summary(&self) -> String {
        let about = self.clap().get_about().map(ToString::to_string).unwrap_or_default();
        let mut letters = about.chars();
        letters.next().map_or_else(String::new, |first| {
            format!("{}{}", first.to_lowercase(), letters.as_str())
        })
    }

    /// Returns the further explanation of the command, which may be empty.
    pub(crate) fn more(&self) -> String {
        let command = self.clap();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
        let more = long.strip_prefix(&about).unwrap_or_default().trim_start_matches(['.', '\n']);
        let after = command.get_after_long_help().map(ToString::to_string);
        [Some(more.to_owned()), after]
            .into_iter()
            .flatten()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Returns the clap command that parses the arguments.
    pub(crate) fn clap(&self) -> clap::Command {
        (self.augment)(clap::Command::new(self.name)).visible_aliases(self.aliases)
    }
}

/// A command with its arguments.
pub(crate) type ParsedCommand = Box<dyn AnyCommand>;

/// A command that is ready to be carried out, here or by another process through the API.
pub(crate) trait AnyCommand: Send + Sync {
    /// Returns the arguments as JSON, as the API has them.
    #[cfg(test)]
    fn arguments(&self) -> Value;

    /// See [`NodeCommand::prepare`].
    fn prepare(&mut self) -> anyhow::Result<()>;

    /// See [`NodeCommand::finish`].
    fn finish(&self, output: CommandOutput) -> anyhow::Result<CommandOutput>;

    /// Returns the request that makes a running node carry out the command; `None` if the API has none.
    fn request(&self) -> Option<ApiRequest>;

    /// Carries out the command.
    fn run<'a>(
        &'a self,
        context: &'a CommandContext<'_>,
    ) -> Pin<Box<dyn Future<Output = anyhow::Result<CommandOutput>> + Send + 'a>>;

    /// See [`NodeCommand::run_alone`]. The text has the colours `paint`.
    fn run_alone(
        &self,
        progress: ProgressSink,
        paint: Paint,
    ) -> Pin<Box<dyn Future<Output = anyhow::Result<CommandOutput>> + Send + '_>>;
}

impl<C: NodeCommand> AnyCommand for C {
    #[cfg(test)]
    fn arguments(&self) -> Value {
        serde_json::to_value(self).unwrap()
    }

    fn prepare(&mut self) -> anyhow::Result<()> {
        NodeCommand::prepare(self)
    }

    fn finish(&self, output: CommandOutput) -> anyhow::Result<CommandOutput> {
        NodeCommand::finish(self, output)
    }

    fn request(&self) -> Option<ApiRequest> {
        Some(self.endpoint()?.request(serde_json::to_value(self).unwrap_or_default()))
    }

    fn run<'a>(
        &'a self,
        context: &'a CommandContext<'_>,
    ) -> Pin<Box<dyn Future<Output = anyhow::Result<CommandOutput>> + Send + 'a>> {
        Box::pin(async move {
            let outcome = NodeCommand::run(self.clone(), context).await?;
            // The answer to a request has only the fields.
            let paint = (context.origin != CommandOrigin::Request).then_some(context.paint);
            CommandOutput::of(&outcome, paint)
        })
    }

    fn run_alone(
        &self,
        progress: ProgressSink,
        paint: Paint,
    ) -> Pin<Box<dyn Future<Output = anyhow::Result<CommandOutput>> + Send + '_>> {
        Box::pin(async move {
            let outcome = NodeCommand::run_alone(self.clone(), progress).await?;
            CommandOutput::of(&outcome, Some(paint))
        })
    }
}

/// Serializes a text that a shell has split into words, as one string.
mod joined {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn text(words: &[String]) -> String {
        words.join(" ")
    }

    pub(super) fn serialize<S: Serializer>(words: &[String], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(words))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
        String::deserialize(from).map(|text| vec![text])
    }
}
