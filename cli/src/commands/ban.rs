//! `ban`: keeps a node out.

use std::time::Duration;

use clap::Args;
use peerkit::Ban;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::ApiEndpoint;
use super::{CommandContext, NodeCommand, Outcome};
use crate::human::network;
use crate::text::Paint;
use crate::usage;

/// Keep a node out: close its link, and neither accept nor dial it
///
/// Other nodes at the same address are not affected. The ban is kept over restarts.
#[derive(Debug, Clone, Args, Serialize, Deserialize, ToSchema)]
pub(crate) struct BanArgs {
    /// The name of the node, its identity, or the first digits of its identity
    #[schema(min_length = 1)]
    peer: String,
    /// The time after which the ban ends, such as 30m, 12h or 7d [default: never]
    #[arg(long = "for", value_name = "TIME")]
    #[serde(rename = "for")]
    #[schema(value_type = String, min_length = 1)]
    time: Option<String>,
}

/// Bans.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BanList {
    pub(super) bans: Vec<Ban>,
}

impl NodeCommand for BanArgs {
    const NAME: &'static str = "ban";
    const ENDPOINT: Option<ApiEndpoint> = Some(ApiEndpoint::post("/bans"));
    type Outcome = BanList;

    async fn run(self, context: &CommandContext<'_>) -> anyhow::Result<BanList> {
        let time = self.time.as_deref().map(read_time).transpose()?;
        let node = &context.session.node;
        let peer = node.network().find_node(&self.peer).await?;
        Ok(BanList { bans: vec![node.ban(&peer, time, "banned by the user").await?] })
    }
}

fn read_time(text: &str) -> anyhow::Result<Duration> {
    let time = humantime::parse_duration(text).ok().filter(|time| !time.is_zero());
    time.ok_or_else(|| usage("`--for` takes a time such as 30m, 12h or 7d"))
}

impl Outcome for BanList {
    fn text(&self, paint: Paint) -> String {
        network::bans(paint, &self.bans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_ban_is_a_number_with_a_unit() {
        assert_eq!(read_time("30m").unwrap(), Duration::from_secs(1800));
        assert_eq!(read_time("7d").unwrap(), Duration::from_secs(7 * 86_400));
        for text in ["", "soon", "5", "0s", "-1h"] {
            assert!(read_time(text).is_err(), "{text}");
        }
    }
}
