//! `/metrics` and the health checks of the local API.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{Answer, Api};
use crate::harness::{PATIENCE, Program, content};

/// The metrics of a node: the values by name with labels, as a sample is written.
struct Metrics {
    samples: BTreeMap<String, f64>,
    /// Names of samples, without their labels.
    names: BTreeSet<String>,
}

impl Metrics {
    /// Reads the metrics with the token that can only read, and checks their format.
    fn of(api: &Api) -> Self {
        let answer = api.with_token("GET /metrics", &api.read_token, "");
        assert_eq!(answer.status, 200, "{}", answer.body);
        let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert!(answer.head.contains(kind), "{}", answer.head);
        let text = answer.body.strip_suffix("# EOF\n").expect("the end of the metrics");
        let (mut samples, mut names) = (BTreeMap::new(), BTreeSet::new());
        let mut families = BTreeMap::new();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let [what, family, rest] = comment.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                    panic!("{line}")
                };
                assert!(["HELP", "TYPE", "UNIT"].contains(&what) && !rest.is_empty(), "{line}");
                if what == "TYPE" {
                    families.insert(family.to_owned(), rest.to_owned());
                }
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            let family = name.strip_suffix("_total").or(name.strip_suffix("_info"));
            let kind = &families[family.unwrap_or(name)];
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            names.insert(name.to_owned());
            let before = samples.insert(sample.to_owned(), value.parse().unwrap());
            assert_eq!(before, None, "{line} occurs twice");
        }
        Self { samples, names }
    }

    fn value(&self, sample: &str) -> f64 {
        let value = self.samples.get(sample);
        *value.unwrap_or_else(|| panic!("no {sample} in {:#?}", self.samples))
    }
}

/// Returns the names in the table of the guide.
fn names_in_the_guide() -> BTreeSet<String> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide.md");
    let guide = fs::read_to_string(guide).unwrap();
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `peerkit_"));
    rows.map(|row| format!("peerkit_{}", row.split('`').next().unwrap())).collect()
}

#[test]
fn metrics_show_what_the_node_has_done() {
    let home = tempfile::tempdir().unwrap();
    let mut alice = Program::start(home.path(), "alice", &[]);
    let mut bob = Program::start(home.path(), "bob", &[]);
    let (of_alice, of_bob) = (Api::of(home.path(), "alice"), Api::of(home.path(), "bob"));
    let before = Metrics::of(&of_alice);
    assert_eq!(before.names, names_in_the_guide());
    assert_eq!(before.value("peerkit_links{direction=\"inbound\"}"), 0.0);

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bob.fail(&format!("connect {closed}"));
    bob.run(&format!("connect {}", alice.address));
    bob.run("msg hello");
    assert_eq!(alice.event("node_message")["data"], "hello");
    let file = home.path().join("file");
    fs::write(&file, content(3, 50_000)).unwrap();
    let added = alice.run(&format!("add {}", file.display()));
    let hash = added["files"][0]["hash"].as_str().unwrap().to_owned();
    bob.run(&format!("get {hash}"));
    assert_eq!(
        of_alice.raw("GET /metrics", &[&format!("Host: {}", of_alice.host)], "").status,
        401
    );
    assert_eq!(of_alice.request("GET /metrics", &Value::Null).status, 200);
    assert_eq!(of_alice.request("POST /metrics", &Value::Null).status, 405);

    let (metrics, at_bob) = (Metrics::of(&of_alice), Metrics::of(&of_bob));
    let value = |sample: &str| metrics.value(sample);
    assert_eq!(value("peerkit_links{direction=\"inbound\"}"), 1.0);
    assert_eq!(at_bob.value("peerkit_links{direction=\"outbound\"}"), 1.0);
    assert_eq!(value("peerkit_links_opened_total"), 1.0);
    let failed = "peerkit_handshake_failures_total{direction=\"outbound\",reason=\"refused\"}";
    assert_eq!(at_bob.value(failed), 1.0);
    assert_eq!(value("peerkit_messages_received_total"), 1.0);
    assert_eq!(at_bob.value("peerkit_messages_sent_total"), 1.0);
    assert!(value("peerkit_received_bytes_total") > 0.0);
    assert_eq!(value("peerkit_member"), 0.0);
    assert_eq!(value("peerkit_shares"), 1.0);
    assert!(value("peerkit_file_sent_bytes_total") >= 50_000.0);
    assert_eq!(at_bob.value("peerkit_downloads{state=\"done\"}"), 1.0);
    assert!(value("peerkit_api_requests_total{status=\"2xx\"}") >= 2.0);
    assert_eq!(value("peerkit_api_requests_total{status=\"4xx\"}"), 2.0);
    assert!(value("peerkit_uptime_seconds") > 0.0);

    // `status` has the same counters.
    bob.run("disconnect alice");
    alice.event("inbound_node_disconnected");
    let status = alice.run("status")["status"].clone();
    assert_eq!(status["links"]["opened"], 1);
    assert_eq!(status["links"]["ended"]["requested"], 1);
    assert_eq!(status["drops"]["events"], 0);
    let metrics = Metrics::of(&of_alice);
    assert_eq!(metrics.value("peerkit_links_ended_total{reason=\"requested\"}"), 1.0);
    assert_eq!(metrics.value("peerkit_links{direction=\"inbound\"}"), 0.0);
    let failures = bob.run("status")["status"]["handshake_failures"]["outbound"].clone();
    assert_eq!(failures["refused"], 1);
    alice.exit();
    assert_eq!(bob.stop().0.code(), Some(1), "one of its commands has failed");
}

/// Asks a health check, which needs no token.
fn check(api: &Api, path: &str) -> Answer {
    api.raw(&format!("GET {path}"), &[&format!("Host: {}", api.host)], "")
}

#[test]
fn a_node_is_ready_when_its_first_attempt_to_join_has_ended() {
    let home = tempfile::tempdir().unwrap();
    let alone = Program::start(home.path(), "alone", &[]);
    let begun = Instant::now();
    let until_ready = |api: &Api| {
        while check(api, "/readyz").status != 200 {
            assert!(begun.elapsed() < PATIENCE, "the node never becomes ready");
            thread::sleep(Duration::from_millis(20));
        }
    };
    until_ready(&Api::of(home.path(), "alone"));
    alone.exit();

    for (name, option) in [("alice", None), ("bob", Some("--bootstrap"))] {
        // The system accepts connections to this address, and no program answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let args: Vec<&str> = option.into_iter().chain([address.as_str()]).collect();
        let node = Program::start_with(home.path(), name, &args);
        let api = Api::of(home.path(), name);
        let answer = check(&api, "/readyz");
        assert_eq!(answer.status, 503, "{args:?}: {}", answer.body);
        let kind = "content-type: application/problem+json";
        assert!(answer.head.contains(kind), "{}", answer.head);
        let problem: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(problem["status"], json!(503));
        assert_eq!(check(&api, "/healthz").status, 200);
        // The connection breaks, which ends the attempt.
        drop(silent);
        until_ready(&api);
        node.exit();
    }
}
