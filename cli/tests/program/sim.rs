//! Scenarios in the simulator.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::harness::{peerkit, run};

const SCENARIO: &str = r#"
name = "small"
nodes = 20
latency = "10ms to 50ms"

[[step]]
join = { within = "5s" }
wait = "30s"
expect = { not_joined = 0, components = 1 }

[[step]]
broadcast = { every = "100ms", for = "2s" }
expect = { delivered_percent = 100, delivered_twice = 0 }
"#;

fn sim(home: &Path, scenario: &str, args: &[&str]) -> Output {
    let file = home.join("scenario.toml");
    fs::write(&file, scenario).unwrap();
    let mut command = peerkit(home);
    command.arg("sim").arg(file).args(args);
    run(command, "")
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_scenario_with_the_same_seed_gives_the_same_run() {
    let home = tempfile::tempdir().unwrap();
    let output = sim(home.path(), SCENARIO, &["--json", "--seeds", "2"]);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    let [one, two] = &lines(&output)[..] else { panic!("two runs, two lines") };
    assert_eq!((&one["held"], &one["seed"], &two["seed"]), (&true.into(), &1.into(), &2.into()));
    assert_eq!(one["measures"].as_array().unwrap().len(), 4);
    assert_eq!(one["measures"][2]["value"], 100.0);
    assert_ne!(one["trace"], two["trace"]);
    let again = lines(&sim(home.path(), SCENARIO, &["--json", "--seed", "2"]));
    assert_eq!(again[0]["trace"], two["trace"]);
    let smaller = lines(&sim(home.path(), SCENARIO, &["--json", "--nodes", "10"]));
    assert_eq!(smaller[0]["nodes"], 10);
}

#[test]
fn a_missed_bound_is_marked_and_gives_status_1() {
    let home = tempfile::tempdir().unwrap();
    let hopeless = SCENARIO.replace("components = 1", "components = 7");
    let output = sim(home.path(), &hopeless, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("small, seed 1: 20 nodes"), "{text}");
    assert!(text.contains("✗ join       components"), "{text}");
    assert!(text.contains("✓ broadcast  delivered ") && text.contains("100 %"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn an_invalid_scenario_file_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let fails = |scenario: &str, parts: &[&str]| {
        let output = sim(home.path(), scenario, &[]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        for part in parts {
            assert!(error.contains(part), "no `{part}` in {error}");
        }
        assert!(output.stdout.is_empty());
    };
    fails("name = 1", &["scenario.toml", "invalid type", "string"]);
    fails(&SCENARIO.replace("wait", "weight"), &["line 8: unknown field `weight`", "`wait`"]);
    fails(&SCENARIO.replace("5s", "5 minutes"), &["`5 minutes` is no time", "2m"]);
    fails(&SCENARIO.replace("nodes = 20", "nodes = 1"), &["`nodes` is 1", "at least 2"]);
    let mut command = peerkit(home.path());
    command.args(["sim", "not-there.toml"]);
    let output = run(command, "");
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("not-there.toml"), "{error}");
}
