//! `broadcast`: sends a signed text to the whole network.

use clap::Args;
use peerkit::{BroadcastReceipt, Hash};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::line::LineForm;
use super::{CommandContext, NodeCommand, Outcome, joined};
use crate::human;
use crate::text::{self, Paint, count};

/// Send a signed text to the whole network
///
/// Put a title with spaces in quotes: broadcast --title "Good news" it works.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct BroadcastArgs {
    /// The title
    #[arg(long, default_value = "", hide_default_value = true)]
    #[serde(default)]
    title: String,
    /// The text
    #[arg(required = true, num_args = 1..)]
    #[serde(with = "joined")]
    #[schema(value_type = String, min_length = 1)]
    text: Vec<String>,
}

/// A broadcast of this node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BroadcastSent {
    /// The id of the broadcast.
    #[schema(value_type = String)]
    id: Hash,
    /// The time of the broadcast, in milliseconds since 1970.
    time: u64,
    /// Number of links that it was sent over.
    links: usize,
}

impl NodeCommand for BroadcastArgs {
    const NAME: &'static str = "broadcast";
    const LINE: LineForm = LineForm::Text(0);
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/broadcasts"));
    type Outcome = BroadcastSent;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<BroadcastSent> {
        let text = joined::text(&self.text);
        let node = &context.session.node;
        let BroadcastReceipt { id, time, links, .. } = node.broadcast(self.title, text).await?;
        Ok(BroadcastSent { id, time, links })
    }
}

impl Outcome for BroadcastSent {
    fn text(&self, _paint: Paint) -> String {
        let (digits, moment) = (human::digits(self.id), text::moment(self.time));
        format!("broadcast {digits} over {} at {moment}", count(self.links, "link"))
    }
}
