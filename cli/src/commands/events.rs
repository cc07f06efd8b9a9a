//! `events`: lists the last events of the node, or follows them.

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::page::Page;
use super::{CommandContext, CommandOrigin, NodeCommand, Outcome};
use crate::text::Paint;
use crate::{json, usage};

/// List the last events of the node, or follow them
///
/// Each line is an event as JSON. With --follow, new events are printed until Ctrl-C.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct EventsArgs {
    /// Print new events as they happen
    #[arg(long, short)]
    #[serde(default)]
    follow: bool,
    /// Maximum number of events [default: all]
    #[arg(skip)]
    #[schema(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Number of events to leave out before the first
    #[arg(skip)]
    offset: Option<usize>,
}

/// The last events of the node, the oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventList {
    #[schema(value_type = Vec<Object>)]
    events: Vec<Box<RawValue>>,
}

impl NodeCommand for EventsArgs {
    const NAME: &'static str = "events";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/events/recent"));
    type Outcome = EventList;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<EventList> {
        let session = context.session;
        if self.follow {
            if context.origin != CommandOrigin::Shell {
                return Err(usage(
                    "only `peerkit events --follow` follows: other programs read /api/v1/events",
                ));
            }
            let mut events = session.node.events();
            while let Some(event) = events.next().await {
                let line = json::event(&session.node, &event);
                let sending = context.progress.line(line.trim_end(), line.trim_end());
                if !session.waits_for_reader(sending).await {
                    break;
                }
            }
            return Ok(EventList { events: Vec::new() });
        }
        let lines = session.recent_events.all();
        let lines = match Page::read(self.limit, self.offset)? {
            None => lines,
            Some(page) => page.of(lines),
        };
        let events = lines.into_iter().map(RawValue::from_string).collect::<Result<_, _>>()?;
        Ok(EventList { events })
    }
}

impl Outcome for EventList {
    fn text(&self, _paint: Paint) -> String {
        if self.events.is_empty() {
            return "no event yet".to_owned();
        }
        self.events.iter().map(|event| event.get()).collect::<Vec<_>>().join("\n")
    }
}
