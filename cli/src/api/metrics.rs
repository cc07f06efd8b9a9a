//! The metrics of the node, as OpenMetrics text. All values are read when a client asks for them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use peerkit::{DownloadState, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::ApiState;
use super::problem::Problem;

mod table;

use table::METRICS;

/// The first part of the name of every metric.
const PREFIX: &str = "peerkit";

/// The media type of the OpenMetrics text format.
pub(super) const MEDIA_TYPE: &str = "application/openmetrics-text";

/// The media type with its parameters.
const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The classes of statuses that the API answers with.
const CLASSES: [&str; 3] = ["2xx", "4xx", "5xx"];

/// Numbers of requests to the API, by the class of the status of their answer.
#[derive(Debug, Default)]
pub(crate) struct RequestCounters([AtomicU64; CLASSES.len()]);

/// A metric, and the function that reads its values.
struct Metric {
    /// The name, without the prefix, the unit and the ending of its kind.
    name: &'static str,
    unit: Option<&'static str>,
    kind: MetricType,
    help: &'static str,
    samples: fn(&Snapshot) -> Vec<Sample>,
}

/// A value of a metric, with its labels.
struct Sample {
    /// Names and values of the labels. All of them are texts of this program, none is of a peer.
    labels: Vec<(&'static str, &'static str)>,
    value: Value,
}

#[derive(Clone, Copy)]
enum Value {
    Integer(u64),
    Real(f64),
}

/// The state of the node that the metrics show.
#[derive(Debug)]
struct Snapshot {
    status: Status,
    downloads: Vec<DownloadState>,
    /// Number of uploads under way.
    uploads: usize,
    /// Number of uploads that were completed.
    uploaded: u64,
    requests: [(&'static str, u64); CLASSES.len()],
}

/// Answers with the metrics.
pub(super) async fn metrics(State(state): State<Arc<ApiState>>) -> Response {
    let node = &state.session.node;
    let files = node.files();
    let snapshot = Snapshot {
        status: node.status().await,
        downloads: files.downloads().iter().map(|download| download.state).collect(),
        uploads: files.uploads().len(),
        uploaded: files.upload_totals().completed,
        requests: state.requests.read(),
    };
    match snapshot.text() {
        Ok(text) => ([(CONTENT_TYPE, CONTENT)], text).into_response(),
        Err(error) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}

impl RequestCounters {
    /// Counts a request that is answered with this status.
    pub(crate) fn add(&self, status: StatusCode) {
        let [ok, client_error, server_error] = &self.0;
        let count = match status.as_u16() {
            ..400 => ok,
            400..500 => client_error,
            500.. => server_error,
        };
        count.fetch_add(1, Relaxed);
    }

    fn read(&self) -> [(&'static str, u64); CLASSES.len()] {
        let [ok, client_error, server_error] = &self.0;
        let [of_ok, of_client_error, of_server_error] = CLASSES;
        [
            (of_ok, ok.load(Relaxed)),
            (of_client_error, client_error.load(Relaxed)),
            (of_server_error, server_error.load(Relaxed)),
        ]
    }
}

impl Snapshot {
    /// Returns the metrics as OpenMetrics text.
    fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Metric { name, unit, kind, help, samples } in METRICS {
            let unit = unit.map(|unit| Unit::Other(unit.to_owned()));
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), *kind)?;
            for Sample { labels, value } in samples(self) {
                match kind {
                    MetricType::Info => family.encode_info(&labels)?,
                    _ if labels.is_empty() => value.encode(*kind, &mut family)?,
                    _ => value.encode(*kind, &mut family.encode_family(&labels)?)?,
                }
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(self, kind: MetricType, to: &mut MetricEncoder<'_>) -> fmt::Result {
        match (kind, self) {
            (MetricType::Counter, Self::Integer(value)) => {
                to.encode_counter::<NoLabelSet, _, f64>(&value, None)
            }
            (MetricType::Counter, Self::Real(value)) => {
                to.encode_counter::<NoLabelSet, _, f64>(&value, None)
            }
            (_, Self::Integer(value)) => to.encode_gauge(&value),
            (_, Self::Real(value)) => to.encode_gauge(&value),
        }
    }
}

impl Metric {
    /// Returns the name of the samples.
    #[cfg(test)]
    fn full_name(&self) -> String {
        let unit = self.unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        let ending = match self.kind {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        format!("{PREFIX}_{}{unit}{ending}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const GUIDE: &str = include_str!("../../../docs/guide.md");

    async fn snapshot() -> Snapshot {
        let node = peerkit::Node::builder().spawn().await.unwrap();
        let status = node.status().await;
        node.shutdown().await;
        let downloads = vec![DownloadState::Fetching, DownloadState::Fetching, DownloadState::Done];
        let requests = RequestCounters::default();
        requests.add(StatusCode::NOT_FOUND);
        Snapshot { status, downloads, uploads: 1, uploaded: 2, requests: requests.read() }
    }

    /// Returns the labels of a metric with all their values, as the guide shows them.
    fn labels(metric: &Metric, snapshot: &Snapshot) -> String {
        let mut labels: Vec<(&str, Vec<&str>)> = Vec::new();
        for (label, value) in (metric.samples)(snapshot).into_iter().flat_map(|s| s.labels) {
            let at = labels.iter().position(|(name, _)| *name == label).unwrap_or_else(|| {
                labels.push((label, Vec::new()));
                labels.len() - 1
            });
            if !labels[at].1.contains(&value) {
                labels[at].1.push(value);
            }
        }
        let is_info = matches!(metric.kind, MetricType::Info);
        let shown = labels.into_iter().map(|(label, values)| {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            if is_info { format!("`{label}`") } else { format!("`{label}`: {}", values.join(", ")) }
        });
        shown.collect::<Vec<_>>().join("; ")
    }

    #[tokio::test]
    async fn the_table_of_the_guide_has_every_metric() {
        let snapshot = snapshot().await;
        let expected = METRICS.iter().map(|metric| {
            let labels = labels(metric, &snapshot);
            format!("| `{}` | {labels} | {} |", metric.full_name(), metric.help)
                .replace("|  |", "| |")
        });
        let expected: Vec<String> = expected.collect();
        let shown: Vec<&str> =
            GUIDE.lines().filter(|line| line.starts_with("| `peerkit_")).collect();
        assert_eq!(shown, expected, "the table has to be:\n{}", expected.join("\n"));
    }

    #[tokio::test]
    async fn metrics_have_distinct_names_and_the_same_labels_in_every_sample() {
        let snapshot = snapshot().await;
        let names: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            let samples = (metric.samples)(&snapshot);
            let labels: BTreeSet<Vec<&str>> = samples
                .iter()
                .map(|sample| sample.labels.iter().map(|(name, _)| *name).collect())
                .collect();
            assert_eq!(labels.len(), 1, "{}", metric.name);
            let distinct: BTreeSet<_> = samples.iter().map(|sample| &sample.labels).collect();
            assert_eq!(distinct.len(), samples.len(), "{}", metric.name);
        }
    }

    #[tokio::test]
    async fn values_are_written_in_the_open_metrics_format() {
        let text = snapshot().await.text().unwrap();
        for part in [
            "# TYPE peerkit_downloads gauge\n",
            "peerkit_downloads{state=\"fetching\"} 2\n",
            "peerkit_downloads{state=\"failed\"} 0\n",
            "peerkit_uploads_completed_total 2\n",
            "peerkit_api_requests_total{status=\"4xx\"} 1\n",
            "# UNIT peerkit_uptime_seconds seconds\n",
            "peerkit_broadcast_redundancy_ratio 0.0\n",
            concat!("peerkit_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n"),
        ] {
            assert!(text.contains(part), "{part}{text}");
        }
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }
}
