//! `add`: shares a file or folder.

use std::path::PathBuf;

use clap::Args;
use peerkit::{Access, Added, Event, Events, FileKind, Node, Ticket};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, CommandOrigin, NodeCommand, Outcome};
use crate::human::{self, files};
use crate::share::announcement::announcement;
use crate::text::Paint;
use crate::views::{FileView, SkippedView};
use crate::{folders, json, usage};

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
    /// Share only as long as this request lasts, and report what is fetched meanwhile. The request has to
    /// accept `text/event-stream`
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
        if self.hold && context.caller != CommandOrigin::Shell {
            return Err(usage("only a request that accepts text/event-stream can hold a share"));
        }
        folders::must_be_absolute(&self.path)?;
        let session = context.session;
        // Before the share, so that no upload is missed.
        let events = session.node.events();
        let path = self.path.clone();
        let mut sharing = session.node.share(self.path).on_progress(context.progress.hashing());
        sharing = sharing.remember(!self.hold);
        if self.ticket {
            sharing = sharing.with_ticket();
        }
        if !self.to.is_empty() {
            let mut nodes = Vec::new();
            for node in &self.to {
                nodes.push(session.resolve_node(node).await?);
            }
            sharing = sharing.to_nodes(nodes);
        }
        let added = sharing.await?;
        if self.hold {
            let _unshare = UnshareOnDrop { node: session.node.clone(), path };
            report_uploads(context, &added, events).await?;
        }
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

/// Announces a share, and reports what is fetched of it, until the node stops.
async fn report_uploads(
    context: &CommandContext<'_>,
    added: &Added,
    mut events: Events,
) -> anyhow::Result<()> {
    let node = &context.session.node;
    let announced = announcement(node, added, context.paint, false, &[])?;
    context.progress.line(announced.text.trim_end(), announced.json.trim_end()).await?;
    while let Some(event) = events.next().await {
        let hash = match &event {
            Event::NodeUploadCompleted { upload, .. } => upload.hash,
            Event::NodeShareChanged { hash, .. } => *hash,
            _ => continue,
        };
        // An upload of a file in a shared folder has the hash of that file, which is not known here. So a
        // folder's request reports the uploads of all shares.
        let is_ours = hash == added.shared.hash || added.shared.kind == FileKind::Folder;
        if is_ours && let Some(text) = human::event(context.paint, node, &event) {
            let json = json::event(node, &event);
            let sending = context.progress.line(&text, json.trim_end());
            if !context.session.waits_for_reader(sending).await {
                break;
            }
        }
    }
    Ok(())
}

/// Ends a share when the request that holds it ends.
struct UnshareOnDrop {
    node: Node,
    path: PathBuf,
}

impl Drop for UnshareOnDrop {
    fn drop(&mut self) {
        let (node, path) = (self.node.clone(), std::mem::take(&mut self.path));
        tokio::spawn(async move { node.files().unshare_path(&path).await });
    }
}

impl Outcome for AddedShare {
    fn text(&self, paint: Paint) -> String {
        let (added, ticket) = &self.details;
        files::added(paint, &added.shared, ticket.as_ref(), &added.skipped)
    }
}
