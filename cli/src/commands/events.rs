//! `events`: lists the last events of the node, or follows them.

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::page::Page;
use super::{CommandContext, CommandOrigin, NodeCommand, Outcome};
use crate::event_log::EventLog;
use crate::text::Paint;
use crate::usage;

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
    /// The events were printed as they happened, until the node stopped.
    #[serde(skip)]
    was_followed: bool,
}

impl NodeCommand for EventsArgs {
    const NAME: &'static str = "events";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::get("/events/recent"));
    type Outcome = EventList;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<EventList> {
        let log = &context.session.event_log;
        if self.follow {
            if context.origin != CommandOrigin::Shell {
                return Err(usage(
                    "only `peerkit events --follow` follows: other programs read /api/v1/events",
                ));
            }
            follow(log, context).await;
            return Ok(EventList { events: Vec::new(), was_followed: true });
        }
        let events = log.recent();
        let events = match Page::read(self.limit, self.offset)? {
            None => events,
            Some(page) => page.of(events),
        };
        let events = events.iter().map(|event| Ok(RawValue::from_string(log.line_text(event))?));
        let events = events.collect::<anyhow::Result<_>>()?;
        Ok(EventList { events, was_followed: false })
    }
}

/// Prints the events from now on, until the node stops.
async fn follow(log: &EventLog, context: &CommandContext<'_>) {
    // False if the other process is gone.
    let print = async |line: String| context.progress.line(None, line).await.is_ok();
    let mut reader = log.reader();
    while let Some(batch) = reader.next().await {
        if batch.missed > 0 && !print(log.lagged(batch.missed)).await {
            return;
        }
        for event in batch.events {
            if !print(log.line_text(&event)).await {
                return;
            }
        }
    }
}

impl Outcome for EventList {
    fn text(&self, _paint: Paint) -> String {
        if self.was_followed {
            return "the node has stopped".to_owned();
        }
        if self.events.is_empty() {
            return "no event yet".to_owned();
        }
        self.events.iter().map(|event| event.get()).collect::<Vec<_>>().join("\n")
    }
}
