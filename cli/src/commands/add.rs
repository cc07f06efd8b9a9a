//! `add`: shares a file or folder.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use peerkit::{Access, Added, Event, Sharing, Ticket};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, CommandOrigin, NodeCommand, Outcome};
use crate::held_shares::Audience;
use crate::human::{self, files};
use crate::session::NodeSession;
use crate::share::access_line;
use crate::share::announcement::announcement;
use crate::text::{Paint, plain};
use crate::views::{FileView, SkippedView};
use crate::{folders, usage};

/// Share a file or folder with the network, or with some nodes
///
/// The file stays in its place: nothing is copied. The path may contain spaces. Without options, every member
/// of the network can find and fetch the file. With --to, only these nodes can. With --ticket, only nodes that
/// have the printed ticket can: treat the ticket like a password. Other nodes can't see the file at all.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct AddArgs {
    /// The file or folder
    #[schema(value_type = String, min_length = 1)]
    path: PathBuf,
    /// Share only with these nodes
    #[arg(long, value_name = "NODE", num_args = 1..)]
    #[serde(default)]
    to: Vec<String>,
    /// Share only with nodes that have the ticket
    #[arg(long, conflicts_with = "to")]
    #[serde(default)]
    ticket: bool,
    /// Share only as long as this request lasts, and report what is fetched meanwhile. An earlier share of the
    /// path stays as it is. The request has to accept `text/event-stream`
    #[arg(skip)]
    #[serde(default)]
    hold: bool,
}

/// A new share.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AddedShare {
    /// The file or folder.
    files: [FileView; 1],
    /// The ticket that fetches it, unless every member of the network can.
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
    /// Entries of the folder that are not shared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<SkippedView>,
    #[serde(skip)]
    details: (Added, Option<Ticket>),
}

impl AddArgs {
    /// Returns the command that shares a file or folder as long as its request lasts. It is shared with the
    /// nodes `to`, or with every node that has the ticket if `to` is empty.
    pub(crate) fn held(path: PathBuf, to: Vec<String>) -> Self {
        Self { path, ticket: to.is_empty(), to, hold: true }
    }
}

impl NodeCommand for AddArgs {
    const NAME: &'static str = "add";
    const LINE: LineForm = LineForm::Path(0);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/shares"));
    type Outcome = AddedShare;

    fn prepare(&mut self) -> anyhow::Result<()> {
        self.path = folders::absolute(&self.path)?;
        Ok(())
    }

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<AddedShare> {
        if self.ticket && !self.to.is_empty() {
            return Err(usage("add takes --to or --ticket, not both"));
        }
        if self.hold && context.origin != CommandOrigin::Shell {
            return Err(usage("only a request that accepts text/event-stream can hold a share"));
        }
        folders::must_be_absolute(&self.path)?;
        let session = context.session;
        let path = folders::resolved(&self.path).await;
        let mut nodes = Vec::new();
        for node in &self.to {
            nodes.push(session.resolve_node(node).await?);
        }
        let sharing = session.node.share(self.path).on_progress(context.progress.hashing());
        let (sharing, audience) = match (self.ticket, nodes.is_empty()) {
            (true, _) => (sharing.with_ticket(), Audience::TicketHolders),
            (_, false) => (sharing.to_nodes(nodes.clone()), Audience::Nodes(nodes)),
            _ => (sharing, Audience::Everyone),
        };
        let added = if self.hold {
            hold(context, sharing, &path, &audience).await?
        } else {
            session.held.allow(&path, &audience).await?;
            let added = sharing.await?;
            session.held.replaced(&path, &audience).await;
            added
        };
        let is_open = matches!(added.access, Access::Open);
        // An open share needs no ticket: the network finds it by its hash.
        let ticket = session.node.files().ticket_for(&added.shared).filter(|_| !is_open);
        Ok(AddedShare {
            files: [FileView::from(&added.shared)],
            ticket: ticket.as_ref().map(ToString::to_string),
            skipped: SkippedView::all(&added.skipped),
            details: (added, ticket),
        })
    }
}

/// Shares `path` until the request or the node ends. Announces the share, and reports what is fetched of it.
///
/// # Errors
/// If the path can't be shared, is already shared with other nodes, or is no longer shared.
async fn hold(
    context: &CommandContext<'_>,
    sharing: Sharing,
    path: &Path,
    audience: &Audience,
) -> anyhow::Result<Added> {
    let NodeSession { node, held, event_log, .. } = context.session;
    // Before the share, so that no upload is missed. Events that wait here do not hold up the node while it hashes.
    let mut events = event_log.reader();
    // Before the share, too: it ends even if this request ends at the moment at which it begins.
    let mut guard = held.hold(node, path).await;
    let added = sharing.remember(false).keep_earlier().await?;
    let note = guard.accept(&added, audience).await?;
    let announced = announcement(node, &added, context.paint, false, note.as_slice())?;
    let access = match (&note, audience) {
        (Some(note), _) => format!("note: {note}"),
        (None, Audience::Nodes(nodes)) => access_line(nodes.len(), false).to_owned(),
        (None, _) => access_line(0, true).to_owned(),
    };
    let text = format!("{}{}", announced.text, context.paint.faint(&access));
    context.progress.line(Some(text), announced.json.trim_end().to_owned()).await?;
    loop {
        let batch = tokio::select! {
            ending = guard.ended_early() => bail!("{}: {ending}", plain(added.shared.name.as_str())),
            batch = events.next() => batch,
        };
        // The node stops.
        let Some(batch) = batch else { return Ok(added) };
        for logged in &batch.events {
            let hash = match &logged.event {
                Event::NodeUploadCompleted { upload, .. } => upload.hash,
                Event::NodeShareChanged { hash, .. } => *hash,
                _ => continue,
            };
            if node.files().is_shared_at(path, &hash)
                && let Some(text) = human::event(context.paint, node, &logged.event)
            {
                let json = event_log.line_text(logged);
                context.progress.line(Some(text), json).await?;
            }
        }
    }
}

impl Outcome for AddedShare {
    fn text(&self, paint: Paint) -> String {
        let (added, ticket) = &self.details;
        files::added(paint, &added.shared, ticket.as_ref(), &added.skipped)
    }
}
