//! The table of all metrics. docs/guide.md has the same table, and a test compares the two.

use std::collections::BTreeMap;

use peerkit::DownloadState;
use prometheus_client::metrics::MetricType::{self, Counter, Gauge, Info};

use super::{Metric, Sample, Snapshot, Value};

/// The states of downloads, with the names that the JSON of `downloads` has.
const DOWNLOAD_STATES: [(DownloadState, &str); 8] = [
    (DownloadState::Queued, "queued"),
    (DownloadState::Finding, "finding"),
    (DownloadState::Checking, "checking"),
    (DownloadState::Fetching, "fetching"),
    (DownloadState::Waiting, "waiting"),
    (DownloadState::Paused, "paused"),
    (DownloadState::Done, "done"),
    (DownloadState::Failed, "failed"),
];

/// All metrics.
pub(super) const METRICS: &[Metric] = &[
    metric(Gauge, "links", "Links now", |now| {
        let Snapshot { status, .. } = now;
        let links = [("inbound", status.inbound), ("outbound", status.outbound)];
        labelled("direction", links.map(|(way, links)| (way, links as u64)))
    }),
    metric(Counter, "links_opened", "Links that were made", |now| one(now.status.links.opened)),
    metric(Counter, "links_ended", "Links that have ended", |now| {
        by("reason", &now.status.links.ended)
    }),
    metric(
        Counter,
        "handshake_failures",
        "Connections that became neither a link nor a stream",
        |now| {
            let failures = &now.status.handshake_failures;
            let all = [("inbound", &failures.inbound), ("outbound", &failures.outbound)];
            let all = all.into_iter().flat_map(|(way, failures)| {
                failures.iter().map(move |(reason, count)| Sample {
                    labels: vec![("direction", way), ("reason", *reason)],
                    value: Value::Integer(*count),
                })
            });
            all.collect()
        },
    ),
    metric(Counter, "messages_sent", "Messages written to links", |now| {
        one(now.status.counters.messages_sent)
    }),
    metric(Counter, "messages_received", "Messages handed to the application", |now| {
        one(now.status.counters.messages_received)
    }),
    metric(
        Counter,
        "messages_failed",
        "Messages that were not delivered, or may not have been",
        |now| one(now.status.counters.messages_failed),
    ),
    with_unit(
        "bytes",
        metric(Counter, "sent", "Bytes written to links", |now| {
            one(now.status.counters.bytes_sent)
        }),
    ),
    with_unit(
        "bytes",
        metric(Counter, "received", "Bytes read from links", |now| {
            one(now.status.counters.bytes_received)
        }),
    ),
    with_unit(
        "bytes",
        metric(Gauge, "queued", "Bytes that wait to be written to links", |now| {
            let peers = &now.status.peers;
            let messages: usize = peers.iter().map(|peer| peer.queued_bytes).sum();
            let control: usize = peers.iter().map(|peer| peer.queued_control_bytes).sum();
            labelled("kind", [("messages", messages as u64), ("control", control as u64)])
        }),
    ),
    metric(Counter, "drops", "Dropped messages, events, broadcasts, frames and queries", |now| {
        let status = &now.status;
        let (drops, broadcasts) = (&status.drops, &status.broadcasts);
        let all = [
            ("message_failed", status.counters.messages_failed),
            ("event_missed", drops.events),
            ("broadcast_missed", broadcasts.missed),
            ("broadcast_untimely", broadcasts.untimely),
            ("broadcast_outdated", broadcasts.outdated),
            ("broadcast_early", broadcasts.early),
            ("run_retired", broadcasts.retired_runs),
            ("run_ignored", broadcasts.ignored_announcements),
            ("broadcast_postponed", drops.postponed_broadcasts),
            ("frame_skipped", drops.frames),
            ("query_refused", drops.queries),
            ("lookup_refused", drops.lookups),
            ("answer_refused", drops.answers),
            ("query_evicted", drops.evicted_queries),
            ("query_over_budget", drops.queries_over_budget),
            ("message_over_budget", drops.messages_over_budget),
            ("broadcast_over_budget", drops.broadcasts_over_budget),
            ("record_over_budget", drops.records_over_budget),
            ("beacon_over_budget", drops.beacons_over_budget),
            ("roster_over_budget", drops.roster_over_budget),
        ];
        labelled("reason", all)
    }),
    metric(Gauge, "member", "1 if the node is a member of its network, else 0", |now| {
        one(u64::from(now.status.member))
    }),
    metric(Gauge, "view_nodes", "Nodes that the member knows, by its views", |now| {
        let status = &now.status;
        let views = [
            ("active", status.neighbours.len()),
            ("passive", status.passive),
            ("pinned", status.pinned.len()),
        ];
        labelled("view", views.map(|(view, nodes)| (view, nodes as u64)))
    }),
    metric(Counter, "broadcasts_sent", "Broadcasts of this node", |now| {
        one(now.status.broadcasts.sent)
    }),
    metric(Counter, "broadcasts_received", "Broadcasts of other nodes", |now| {
        one(now.status.broadcasts.received)
    }),
    metric(Counter, "broadcast_duplicates", "Broadcasts that arrived again", |now| {
        one(now.status.broadcasts.duplicates)
    }),
    metric(Counter, "broadcasts_missed", "Broadcasts that no peer could deliver", |now| {
        one(now.status.broadcasts.missed)
    }),
    metric(
        Counter,
        "broadcasts_untimely",
        "Broadcasts that were too old or from the future",
        |now| one(now.status.broadcasts.untimely),
    ),
    with_unit(
        "ratio",
        metric(
            Gauge,
            "broadcast_redundancy",
            "Broadcasts that arrived again, for each one that was received",
            |now| {
                let broadcasts = &now.status.broadcasts;
                let received = broadcasts.received.max(1);
                real(broadcasts.duplicates as f64 / received as f64)
            },
        ),
    ),
    metric(Gauge, "queries", "Queries that the node remembers", |now| {
        one(now.status.queries as u64)
    }),
    metric(
        Counter,
        "stray_answers",
        "Answers from peers that this node had not sent the query to, or that had finished answering it",
        |now| one(now.status.stray_answers),
    ),
    metric(Gauge, "shares", "Files and folders that the node shares", |now| {
        one(now.status.shares as u64)
    }),
    metric(Gauge, "downloads", "Downloads, by state", |now| {
        let count = |state| now.downloads.iter().filter(|other| **other == state).count();
        labelled("state", DOWNLOAD_STATES.map(|(state, name)| (name, count(state) as u64)))
    }),
    metric(Gauge, "uploads", "Uploads under way", |now| one(now.uploads as u64)),
    metric(Counter, "uploads_completed", "Uploads that the peers have completed", |now| {
        one(now.uploaded)
    }),
    with_unit(
        "bytes",
        metric(Counter, "file_sent", "Bytes of file pieces sent", |now| one(now.status.files.sent)),
    ),
    with_unit(
        "bytes",
        metric(Counter, "file_received", "Bytes of file pieces received", |now| {
            one(now.status.files.received)
        }),
    ),
    metric(Gauge, "clocks_apart", "Peers whose clock is far from this node's", |now| {
        one(now.status.clocks_apart as u64)
    }),
    metric(Counter, "api_requests", "Requests to the API, by the class of their status", |now| {
        labelled("status", now.requests)
    }),
    with_unit(
        "seconds",
        metric(Gauge, "uptime", "Time since the node started", |now| {
            real(now.status.uptime_ms as f64 / 1e3)
        }),
    ),
    metric(Info, "build", "The version of the program", |_| {
        labelled("version", [(env!("CARGO_PKG_VERSION"), 1)])
    }),
];

const fn metric(
    kind: MetricType,
    name: &'static str,
    help: &'static str,
    samples: fn(&Snapshot) -> Vec<Sample>,
) -> Metric {
    Metric { name, unit: None, kind, help, samples }
}

/// Returns the metric with a unit, which is a part of its name.
const fn with_unit(unit: &'static str, metric: Metric) -> Metric {
    let Metric { name, kind, help, samples, .. } = metric;
    Metric { name, unit: Some(unit), kind, help, samples }
}

fn one(value: u64) -> Vec<Sample> {
    vec![Sample { labels: Vec::new(), value: Value::Integer(value) }]
}

fn real(value: f64) -> Vec<Sample> {
    vec![Sample { labels: Vec::new(), value: Value::Real(value) }]
}

/// Returns a sample for each value of a label.
fn labelled(
    label: &'static str,
    values: impl IntoIterator<Item = (&'static str, u64)>,
) -> Vec<Sample> {
    let sample = |(of, value)| Sample { labels: vec![(label, of)], value: Value::Integer(value) };
    values.into_iter().map(sample).collect()
}

/// Returns a sample for each reason.
fn by(label: &'static str, counts: &BTreeMap<&'static str, u64>) -> Vec<Sample> {
    labelled(label, counts.iter().map(|(reason, count)| (*reason, *count)))
}
