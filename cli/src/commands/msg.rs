//! `msg`: sends a text to every connected node.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use peerkit::{Error, NodeId};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, NodeCommand, Outcome, joined};
use crate::text::{Paint, count, plain};

/// Maximum time that the command waits for a peer whose queue is full. 10 s: as long as a request waits
/// for its reply.
const FULL_QUEUE_WAIT: Duration = Duration::from_secs(10);

/// Send a text to every connected node
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct MsgArgs {
    /// The text
    #[arg(required = true, num_args = 1..)]
    #[serde(with = "joined")]
    #[schema(value_type = String, min_length = 1)]
    text: Vec<String>,
}

/// The delivery of a text to all connected nodes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SentToAll {
    /// Number of nodes that it was sent to.
    sent_to: usize,
    /// The nodes that it was not sent to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<NotSent>,
}

/// A node that a text was not sent to.
#[derive(Debug, Serialize, ToSchema)]
struct NotSent {
    #[schema(value_type = String)]
    id: NodeId,
    error: String,
}

impl NodeCommand for MsgArgs {
    const NAME: &'static str = "msg";
    const LINE: LineForm = LineForm::Text(0);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/messages"));
    type Outcome = SentToAll;

    /// Waits up to [`FULL_QUEUE_WAIT`] for nodes whose queues are full, since piped commands come faster
    /// than a network can send.
    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<SentToAll> {
        let node = &context.session.node;
        let text = joined::text(&self.text);
        let report = node.send_to_nodes(text.as_str(), &[])?;
        let mut sent_to = report.sent.len();
        let mut failed = Vec::new();
        let mut waiting = JoinSet::new();
        for (id, error) in report.failed {
            // Only a full queue gets room again. Any other failure is final.
            if !matches!(error, Error::Full(_)) {
                failed.push((id, error));
                continue;
            }
            let (node, text) = (node.clone(), text.clone());
            waiting.spawn(async move {
                let sent = tokio::time::timeout(FULL_QUEUE_WAIT, node.send(id, text)).await;
                // If the time is over, the first error stays: the queue is full.
                (id, sent.unwrap_or(Err(error)))
            });
        }
        for (id, sent) in waiting.join_all().await {
            match sent {
                Ok(()) => sent_to += 1,
                Err(error) => failed.push((id, error)),
            }
        }
        let failed = failed.into_iter().map(|(id, error)| NotSent { id, error: error.to_string() });
        Ok(SentToAll { sent_to, failed: failed.collect() })
    }
}

impl Outcome for SentToAll {
    fn text(&self, _paint: Paint) -> String {
        let mut text = format!("sent to {}", count(self.sent_to, "node"));
        for NotSent { id, error } in &self.failed {
            let _ = write!(text, "\nnot sent to {}: {}", id.short(), plain(error));
        }
        text
    }
}
