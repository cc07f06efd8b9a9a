//! `get`: fetches a file or folder through the running node.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use peerkit::{Changes, Download, DownloadState, DownloadStatus, FetchRequest, Fetched};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, CommandOrigin, NodeCommand, Outcome};
use crate::address::check_address;
use crate::fetch_arguments::{self, SaveLocation, TicketOrHash};
use crate::fetches;
use crate::human::{downloads, files};
use crate::lock::lock;
use crate::progress::ProgressSink;
use crate::text::Paint;
use crate::views::FetchedView;
use crate::{folders, usage};

/// Fetch a file or folder from all its sources, and verify it
///
/// NAME is the name of a search result; the first digits of its HASH work too. Without PATH the file goes to
/// the downloads folder. A PATH that ends with / is a folder, which is made if it is missing. At the prompt
/// the fetch runs in the background, and continues after a restart. If a file of the same name exists, a number
/// is added to the name of the new file.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct GetArgs {
    /// A ticket, a hash, or the name of a search result
    #[arg(value_name = "TICKET|HASH|NAME")]
    #[schema(min_length = 1)]
    what: String,
    /// The path to save the file or folder at
    #[schema(value_type = Option<String>, min_length = 1)]
    path: Option<PathBuf>,
    /// Also ask the node at this address, which need not be a member of the network
    #[arg(long, value_name = "ADDR")]
    #[serde(default)]
    from: Vec<String>,
    /// Replace an existing file of the same name
    #[arg(long)]
    #[serde(default)]
    force: bool,
}

/// A fetch that has begun or is done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GetOutcome {
    /// The fetch, if it is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    download: Option<DownloadStatus>,
    /// The result, if it is done. The OpenAPI document leaves it out: a request that does not follow the
    /// progress is answered when the fetch has begun.
    #[serde(flatten)]
    #[schema(ignore)]
    done: Option<FetchedView>,
    #[serde(skip)]
    fetched: Option<(Fetched, Changes)>,
    /// True if the result is printed once the fetch is done.
    #[serde(skip)]
    is_reported_later: bool,
}

impl GetArgs {
    pub(crate) fn new(what: String, path: PathBuf, from: Vec<String>, force: bool) -> Self {
        Self { what, path: Some(path), from, force }
    }

    /// Returns the request for the node.
    async fn fetch_request(&self, context: &CommandContext<'_>) -> anyhow::Result<FetchRequest> {
        let session = context.session;
        self.from.iter().try_for_each(|address| check_address(address)).map_err(usage)?;
        let (wanted, name, path_on_line) = {
            // The block ends the lock before the task waits for the network.
            let found = lock(&session.found);
            fetch_arguments::read(&self.what, &found).map_err(|error| anyhow!(error))?
        };
        let path = self.path.clone().or(path_on_line);
        // At the prompt `-` would mix the file with the output of the node.
        if path.as_deref() == Some(std::path::Path::new("-")) {
            bail!(
                "a file can't go to standard output here, where the node prints its own: use `peerkit get \
                 TICKET -` in a shell"
            );
        }
        if let Some(path) = path.as_deref().filter(|_| context.is_request()) {
            folders::must_be_absolute(path)?;
        }
        let request = match wanted {
            TicketOrHash::Ticket(ticket) if ticket.network != session.node.network().name() => {
                bail!(
                    "this ticket is for the network `{}`, and this node is in another one: \
                 `peerkit get TICKET` in a shell fetches from there",
                    ticket.network
                )
            }
            TicketOrHash::Ticket(ticket) => FetchRequest::ticket(&ticket),
            TicketOrHash::Hash(hash) => FetchRequest::new(hash),
        };
        let request = match name {
            Some(name) => request.named(name),
            None => request,
        };
        let from = session.addresses(&self.from).await?;
        let request = from.into_iter().fold(request.overwrite(self.force), FetchRequest::from);
        let folder = session.node.files().download_folder();
        let destination = SaveLocation::new(path.as_deref(), &folder);
        Ok(destination.context("there is no current folder")?.apply_to(request))
    }
}

impl NodeCommand for GetArgs {
    const NAME: &'static str = "get";
    const ALIASES: &'static [&'static str] = &["req"];
    const LINE: LineForm = LineForm::Rest(0);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/downloads"));
    type Outcome = GetOutcome;

    fn prepare(&mut self) -> anyhow::Result<()> {
        if let Some(path) = &mut self.path {
            *path = folders::absolute(path)?;
        }
        Ok(())
    }

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<GetOutcome> {
        let session = context.session;
        let request = self.fetch_request(context).await?;
        let before = session.node.files().downloads();
        let download = session.node.fetch(request);
        let status = download.status();
        let mut outcome = GetOutcome {
            download: Some(status),
            done: None,
            fetched: None,
            is_reported_later: context.origin == CommandOrigin::Pipe,
        };
        match context.origin {
            CommandOrigin::Request => {}
            CommandOrigin::Prompt | CommandOrigin::Pipe => {
                let is_quiet = context.origin == CommandOrigin::Prompt;
                session.fetches.report_when_done(download, session.output.clone(), is_quiet);
            }
            CommandOrigin::Shell => {
                let is_known = |known: &DownloadStatus| {
                    known.hash == download.hash() && known.state.is_under_way()
                };
                let _pause = (!before.iter().any(is_known)).then(|| PauseOnDrop(download.clone()));
                let mut fetched = follow(&download, &context.progress).await?;
                let changes = fetches::take_changes(&mut fetched);
                outcome.download = None;
                outcome.done = Some(FetchedView::new(&fetched, &changes));
                outcome.fetched = Some((fetched, changes));
            }
        }
        Ok(outcome)
    }
}

impl Outcome for GetOutcome {
    fn text(&self, paint: Paint) -> String {
        match (&self.fetched, &self.download) {
            (Some((fetched, changes)), _) => files::fetched(paint, fetched, changes),
            (None, Some(download)) => {
                let named = downloads::named(paint, download);
                format!("fetching {named}: `downloads` shows its progress")
            }
            (None, None) => String::new(),
        }
    }

    fn is_complete(&self) -> bool {
        self.fetched.as_ref().is_none_or(|(_, changes)| changes.is_whole())
    }

    fn is_reported_later(&self) -> bool {
        self.is_reported_later
    }
}

/// Waits for the end of a fetch, and shows its progress.
async fn follow(download: &Download, progress: &ProgressSink) -> anyhow::Result<Fetched> {
    let mut statuses = download.progress();
    while let Some(status) = statuses.next().await {
        progress.download(&status);
    }
    let fetched = download.clone().await;
    fetched.map_err(|error| fetches::failure(download, error))
}

/// Pauses a fetch if the command that began it ends early. The fetched part is kept.
struct PauseOnDrop(Download);

impl Drop for PauseOnDrop {
    fn drop(&mut self) {
        let download = self.0.clone();
        if !matches!(download.status().state, DownloadState::Done | DownloadState::Failed) {
            tokio::spawn(async move { download.pause().await });
        }
    }
}
