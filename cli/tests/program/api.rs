//! The local API of a running node, and `peerkit COMMAND`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Program, content, peerkit, run, start_chain, text};
#[cfg(unix)]
use crate::harness::{piped, send_signal, wait_or_kill};

/// The API of a node, as its `api.json` describes it.
pub(crate) struct Api {
    pub(crate) host: String,
    token: String,
    pub(crate) read_token: String,
}

/// The answer to a request.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Api {
    pub(crate) fn of(home: &Path, name: &str) -> Self {
        let file = fs::read_to_string(state(home, name).join("api.json")).unwrap();
        let file: Value = serde_json::from_str(&file).unwrap();
        let part = |name: &str| file[name].as_str().unwrap().to_owned();
        let host = part("url").strip_prefix("http://").unwrap().to_owned();
        Self { host, token: part("token"), read_token: part("read_token") }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.host).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Follows the events of the node, and returns them as they come, until the stream ends.
    pub(crate) fn event_stream(&self) -> impl Iterator<Item = Value> + use<> {
        let mut stream = self.connect();
        // An answer to HTTP/1.0 has no chunks, which could begin within a line.
        let request = format!(
            "GET /api/v1/events HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
            self.host, self.read_token
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        lines.find(|line| line.is_empty()).expect("the head of the answer");
        lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
    }

    /// Sends a request with these header lines, and reads the answer to its end.
    pub(crate) fn raw(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        let mut stream = self.connect();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let head = format!(
            "{line} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // A node that refuses a request may close the connection before it has read the body.
        let _ = stream.write_all(head.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn with_token(&self, line: &str, token: &str, body: &str) -> Answer {
        let host = format!("Host: {}", self.host);
        let token = format!("Authorization: Bearer {token}");
        self.raw(line, &[&host, &token, "Content-Type: application/json"], body)
    }

    pub(crate) fn request(&self, line: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.with_token(line, &self.token, &body)
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let answer = self.request(&format!("GET {path}"), &Value::Null);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }
}

pub(crate) fn state(home: &Path, name: &str) -> PathBuf {
    home.join(name)
}

/// Runs `peerkit COMMAND` for the node of this name.
pub(crate) fn command(home: &Path, name: &str, words: &[&str]) -> Output {
    let mut command = peerkit(home);
    command.current_dir(home).args(words).arg("--state").arg(state(home, name));
    run(command, "")
}

/// Runs a command that has to work. Returns its JSON line.
fn json_of(home: &Path, name: &str, words: &[&str]) -> Value {
    let output = command(home, name, &[words, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn only_requests_with_the_token_and_from_this_machine_are_answered() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let api = Api::of(home.path(), "alice");
    assert_eq!(node.started["api"], format!("http://{}", api.host));
    assert!(api.host.starts_with("127.0.0.1:"));
    let own = format!("Host: {}", api.host);
    let token = format!("Authorization: Bearer {}", api.token);
    let status = |line: &str, headers: &[&str]| api.raw(line, headers, "").status;
    let peers = "GET /api/v1/peers";
    assert_eq!(status(peers, &[&own, &token]), 200);
    assert_eq!(status(peers, &[&own]), 401);
    assert_eq!(status(peers, &[&own, "Authorization: Bearer 00"]), 401);
    assert_eq!(status(peers, &["Host: rebound.example", &token]), 421);
    assert_eq!(status(peers, &[&own, &token, "Origin: http://rebound.example"]), 403);
    assert_eq!(status("GET /healthz", &[&own]), 200);
    assert_eq!(status("GET /healthz", &["Host: rebound.example"]), 421);

    let refused = api.with_token("POST /api/v1/messages", &api.read_token, "{\"text\":\"hi\"}");
    assert_eq!(refused.status, 403);
    assert!(refused.head.contains("content-type: application/problem+json"), "{}", refused.head);
    let problem: Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!((&problem["status"], &problem["title"]), (&json!(403), &json!("Forbidden")));
    assert_eq!(api.with_token(peers, &api.read_token, "").status, 200);

    let unread = api.request("POST /api/v1/messages?text=hi", &json!({}));
    assert_eq!(unread.status, 400, "arguments of a POST must not be in the URL, which logs keep");
    assert_eq!(api.request("GET /api/v1/nothing", &Value::Null).status, 404);
    assert_eq!(api.request("PUT /api/v1/peers", &Value::Null).status, 405);
    assert_eq!(api.request("POST /api/v1/messages", &json!({})).status, 400);
    let typed = api.raw("POST /api/v1/messages", &[&own, &token, "Content-Type: text/plain"], "hi");
    assert_eq!(typed.status, 415);
    let large = json!({"text": "x".repeat(18 << 20)});
    assert_eq!(api.request("POST /api/v1/messages", &large).status, 413);
    assert_eq!(node.run("status")["status"]["inbound"], 0, "the node still answers");
    node.exit();
    assert!(!state(home.path(), "alice").join("api.json").exists());
}

fn peerkit_with(home: &Path, argument: &str) -> std::process::Command {
    let mut command = peerkit(home);
    command.arg(argument);
    command
}

#[test]
fn commands_endpoints_and_subcommands_are_the_same() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let help = node.run("help")["help"].as_str().unwrap().to_owned();
    let listed = help.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let listed: BTreeSet<String> =
        listed.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
    assert!(listed.len() > 30, "{listed:?}");

    let document = Api::of(home.path(), "alice").get("/api/v1/openapi.json");
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|item| item.as_object().unwrap().values());
    let ids = operations.map(|operation| operation["operationId"].as_str().unwrap().to_owned());
    let ids: BTreeSet<String> = ids.collect();
    let without_help: BTreeSet<String> =
        listed.iter().filter(|name| *name != "help").cloned().collect();
    let others = ["event_stream", "healthz", "metrics", "openapi", "readyz"].map(str::to_owned);
    assert_eq!(ids, without_help.union(&others.into()).cloned().collect::<BTreeSet<_>>());

    let overview = run(peerkit_with(home.path(), "--help"), "");
    for name in &without_help {
        let mut command = peerkit(home.path());
        command.args([name, "--help"]);
        let help = run(command, "");
        assert_eq!(help.status.code(), Some(0), "{name}");
        let help = text(&help.stdout);
        assert!(help.contains("--state"), "{name}");
        // `get` also works without a running node, so it has a help of its own.
        if name == "get" {
            continue;
        }
        let line = format!("  {name} ");
        assert!(text(&overview.stdout).contains(&line), "{name}");
        let summary = node.run(&format!("help {name}"))["help"].as_str().unwrap().to_owned();
        let summary = summary.lines().nth(1).unwrap().trim().trim_end_matches('.').to_lowercase();
        assert!(help.to_lowercase().starts_with(&summary), "{summary}: {help}");
    }
    node.exit();
}

#[test]
fn a_command_in_a_shell_prints_what_the_prompt_prints() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    let shared = home.path().join("shared file");
    fs::write(&shared, content(5, 100_000)).unwrap();
    let here = home.path();

    let peers = json_of(here, "bob", &["peers"]);
    let expected = chain.b.run("peers");
    let ids = |result: &Value| -> Vec<Value> {
        result["peers"].as_array().unwrap().iter().map(|peer| peer["id"].clone()).collect()
    };
    assert_eq!((&peers["result"], &peers["ok"]), (&json!("peers"), &json!(true)));
    assert_eq!(ids(&peers), ids(&expected));
    assert_eq!(json_of(here, "bob", &["size"]), chain.b.run("size"));

    let sent = json_of(here, "alice", &["send", "bob", "from", "a  shell"]);
    assert_eq!(sent["peer"]["name"], "bob");
    assert_eq!(chain.b.event("node_message")["data"], "from a  shell");
    let added = json_of(here, "bob", &["add", "shared file"]);
    let hash = added["files"][0]["hash"].as_str().unwrap().to_owned();
    assert_eq!(added["files"][0]["name"], "shared file");
    let found = json_of(here, "alice", &["search", "shared"]);
    assert_eq!(found["files"][0]["hash"], json!(hash));

    // `get` uses the running node, and writes where it was typed.
    let got = json_of(here, "alice", &["get", &hash, "new/"]);
    assert_eq!(got["path"], json!(here.join("new/shared file")), "{got}");
    assert_eq!(fs::read(here.join("new/shared file")).unwrap(), content(5, 100_000));
    assert_eq!(got["sources"], json!([chain.b.id]));

    // The name of a search result is one for the node that has searched.
    let got = json_of(here, "alice", &["get", "shared file", "by-name/"]);
    assert_eq!(got["path"], json!(here.join("by-name/shared file")), "{got}");

    let map = json_of(here, "carol", &["map", "map.svg"]);
    assert_eq!(map["path"], json!(here.join("map.svg")));
    assert!(fs::read_to_string(here.join("map.svg")).unwrap().starts_with("<svg"));
    let text_map = command(here, "carol", &["map"]);
    assert!(text(&text_map.stdout).contains("bob"));

    let unknown = command(here, "alice", &["send", "nobody", "hi"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("nobody"), "{}", text(&unknown.stderr));
    let failed = command(here, "alice", &["send", "nobody", "hi", "--json"]);
    assert_eq!(failed.status.code(), Some(1));
    let line: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!((&line["result"], &line["ok"]), (&json!("send"), &json!(false)));

    let stopped = command(here, "carol", &["stop"]);
    assert_eq!((stopped.status.code(), text(&stopped.stdout)), (Some(0), "stopping\n"));
    assert_eq!(chain.c.wait().0.code(), Some(0));
    chain.a.exit();
    chain.b.exit();
}

#[test]
fn events_are_a_stream() {
    let home = tempfile::tempdir().unwrap();
    let alice = Program::start(home.path(), "alice", &[]);
    let mut bob = Program::start(home.path(), "bob", &[]);
    let api = Api::of(home.path(), "alice");
    let mut events = api.event_stream();
    bob.run(&format!("connect {}", alice.address));
    bob.run("msg hello");
    let data = events.find(|event| event["event"] == "node_message").expect("the message");
    assert_eq!((&data["data"], &data["peer"]["name"]), (&json!("hello"), &json!("bob")));
    let recent = json_of(home.path(), "alice", &["events"]);
    let names: Vec<&str> =
        recent["events"].as_array().unwrap().iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert!(
        names.contains(&"inbound_node_connected") && names.contains(&"node_message"),
        "{names:?}"
    );
    alice.exit();
    let last: Vec<Value> = events.map(|event| event["event"].clone()).collect();
    assert!(
        last.contains(&json!("node_request_to_stop")),
        "the stream ends with the node: {last:?}"
    );
    bob.exit();
}

#[test]
fn a_slow_stream_gets_the_number_of_events_that_it_missed() {
    const MESSAGES: usize = 1500;
    let home = tempfile::tempdir().unwrap();
    let alice = Program::start(home.path(), "alice", &[]);
    let mut bob = Program::start(home.path(), "bob", &[]);
    let api = Api::of(home.path(), "alice");
    let mut streams = [api.event_stream(), api.event_stream()];
    bob.run(&format!("connect {}", alice.address));
    for events in &mut streams {
        events.find(|event| event["event"] == "inbound_node_connected").expect("the first event");
    }
    // 24 MB are more than the kept events and the buffers of a socket hold.
    let filler = "x".repeat(16 << 10);
    for number in 0..MESSAGES {
        bob.write(&format!("msg {number} {filler}"));
    }
    bob.run("msg end");
    // Once `events` lists the last message, all events have been offered to the streams.
    let begun = std::time::Instant::now();
    while api.get("/api/v1/events/recent")["events"].as_array().unwrap().last().unwrap()["data"]
        != "end"
    {
        assert!(begun.elapsed() < PATIENCE);
    }
    for events in streams {
        let (mut next, mut lagged) = (0, 0);
        for event in events {
            match event["event"].as_str().unwrap() {
                "node_message" if event["data"] == "end" => break,
                "node_message" => {
                    let text = event["data"].as_str().unwrap();
                    let number: usize = text.split(' ').next().unwrap().parse().unwrap();
                    assert_eq!(
                        number, next,
                        "each message comes in its order, or counts as missed"
                    );
                    next += 1;
                }
                "node_lagged" => {
                    next += usize::try_from(event["data"]["missed"].as_u64().unwrap()).unwrap();
                    lagged += 1;
                }
                _ => {}
            }
        }
        assert_eq!(next, MESSAGES);
        assert!(lagged > 0, "the stream was too slow");
    }
    alice.exit();
    bob.exit();
}

#[test]
fn without_a_running_node_a_command_says_how_to_start_one() {
    let home = tempfile::tempdir().unwrap();
    let none = command(home.path(), "alice", &["peers"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("no running node uses"), "{}", text(&none.stderr));
    assert!(text(&none.stderr).contains("`peerkit run`"), "{}", text(&none.stderr));

    // A node that was killed leaves its api.json behind.
    let mut node = Program::start(home.path(), "alice", &[]);
    let before = Api::of(home.path(), "alice");
    node.kill();
    let killed = command(home.path(), "alice", &["peers"]);
    assert_eq!(killed.status.code(), Some(1));
    assert!(text(&killed.stderr).contains("`peerkit run`"), "{}", text(&killed.stderr));

    let again = Program::start(home.path(), "alice", &[]);
    assert_eq!(again.id, node.id);
    let api = Api::of(home.path(), "alice");
    assert_ne!(api.token, before.token);
    assert_eq!(api.with_token("GET /api/v1/peers", &before.token, "").status, 401);

    // The node is given by its URL, and its token by the environment.
    let url = format!("http://{}", api.host);
    for (token, status, part) in [
        (Some(api.token.as_str()), Some(0), ""),
        (Some("wrong"), Some(1), "each start makes a new one"),
        (None, Some(2), "PEERKIT_TOKEN"),
    ] {
        let mut remote = peerkit(home.path());
        remote.args(["peers", "--node", &url]).env_remove("PEERKIT_TOKEN");
        if let Some(token) = token {
            remote.env("PEERKIT_TOKEN", token);
        }
        let output = run(remote, "");
        assert_eq!(output.status.code(), status, "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
    }

    // Two nodes on two state folders, and a second run on the same folder.
    let bob = Program::start(home.path(), "bob", &[]);
    let name = |of: &str| json_of(home.path(), of, &["status"])["status"]["name"].clone();
    assert_eq!((name("alice"), name("bob")), (json!("alice"), json!("bob")));
    let mut second = peerkit(home.path());
    second.args(["run", "--headless", "--listen", "127.0.0.1:0", "--state"]);
    second.arg(state(home.path(), "alice"));
    let second = run(second, "");
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("--state DIR"), "{}", text(&second.stderr));
    assert_eq!(name("alice"), "alice", "the second run did not change the api.json of the first");
    again.exit();
    bob.exit();
}

#[test]
fn an_api_json_that_was_changed_by_hand_harms_only_the_commands_that_read_it() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let file = state(home.path(), "alice").join("api.json");
    let written = fs::read_to_string(&file).unwrap();
    let api = Api::of(home.path(), "alice");
    let refused = |part: &str| {
        let refused = command(home.path(), "alice", &["peers"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused.stderr).contains(part), "{}", text(&refused.stderr));
    };
    fs::remove_file(&file).unwrap();
    refused("(it has no api.json): `peerkit run` starts a node");
    for damaged in ["", "{\"url\""] {
        fs::write(&file, damaged).unwrap();
        refused("api.json is damaged, and the node writes it at its next start");
    }
    fs::write(&file, written.replace(&api.token, &"0".repeat(64))).unwrap();
    refused("this is not the token of this node: each start makes a new one");
    assert_eq!(api.get("/api/v1/peers")["peers"], json!([]), "the node knows its own token");
    fs::write(&file, &written).unwrap();
    assert_eq!(json_of(home.path(), "alice", &["status"])["status"]["name"], "alice");
    node.run("peers");
    node.exit();
    assert!(!file.exists());
}

#[test]
fn the_api_can_be_switched_off() {
    let home = tempfile::tempdir().unwrap();
    let node = Program::start(home.path(), "alice", &["--no-api"]);
    assert_eq!(node.started.get("api"), None);
    assert!(!state(home.path(), "alice").join("api.json").exists());
    node.exit();
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_only_the_fetch_that_the_command_began() {
    let home = tempfile::tempdir().unwrap();
    let mut source = Program::start(home.path(), "alice", &["--up", "200k"]);
    let file = home.path().join("film.bin");
    fs::write(&file, content(7, 4 << 20)).unwrap();
    let hash = source.run(&format!("add {}", file.display()))["files"][0]["hash"].clone();
    let hash = hash.as_str().unwrap();
    let mut node = Program::start(home.path(), "bob", &[&source.address]);
    node.event("outbound_node_connected");
    let mut get = peerkit(home.path());
    get.args(["get", hash, "there/", "--state"]).arg(state(home.path(), "bob"));
    let mut get = piped(get.current_dir(home.path()));
    let begun = std::time::Instant::now();
    let download = loop {
        let downloads = node.run("downloads")["downloads"].clone();
        if downloads[0]["done"].as_u64().is_some_and(|done| done > 0) {
            break downloads[0].clone();
        }
        assert!(begun.elapsed() < PATIENCE, "{downloads}");
    };
    assert_eq!(download["hash"], hash);
    send_signal(&get, rustix::process::Signal::INT);
    assert_eq!(wait_or_kill(&mut get).code(), Some(130));
    let state = loop {
        let state = node.run("downloads")["downloads"][0]["state"].clone();
        if state != "fetching" {
            break state;
        }
        assert!(begun.elapsed() < PATIENCE);
    };
    assert_eq!(state, "paused", "the fetched part is kept, and the node runs");
    node.exit();
    source.exit();
}

#[test]
fn settings_are_listed_and_changed_through_the_api() {
    let home = tempfile::tempdir().unwrap();
    let mut alice = Program::start(home.path(), "alice", &["--max-inbound", "7"]);
    let mut bob = Program::start(home.path(), "bob", &[]);
    let api = Api::of(home.path(), "alice");
    let setting = |name: &str| {
        let listed = api.with_token("GET /api/v1/settings", &api.read_token, "");
        assert_eq!(listed.status, 200, "{}", listed.body);
        let listed: Value = serde_json::from_str(&listed.body).unwrap();
        let listed = listed["config"].as_array().unwrap();
        listed.iter().find(|setting| setting["name"] == name).unwrap().clone()
    };
    assert_eq!(
        setting("max-inbound"),
        json!({"name": "max-inbound", "value": 7, "origin": "option"})
    );
    assert_eq!(setting("log"), json!({"name": "log", "value": "warn", "origin": "default"}));
    let patch = |body: Value| api.request("PATCH /api/v1/settings", &body);

    let changed = patch(json!({"name": "max-inbound", "value": "0"}));
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert!(bob.fail(&format!("connect {}", alice.address)).contains("room"));
    assert_eq!(setting("max-inbound")["origin"], "set");
    assert_eq!(patch(json!({"name": "max-inbound", "value": "1"})).status, 200);
    bob.run(&format!("connect {}", alice.address));
    assert_eq!(patch(json!({"name": "max-inbound", "value": "0"})).status, 200);
    assert!(bob.run("ping")["pings"][0]["rtt_ms"].is_number(), "the link stays");

    assert_eq!(patch(json!({"name": "log", "value": "warn,link=debug"})).status, 200);
    assert_eq!(setting("log")["value"], "warn,link=debug");
    bob.run("disconnect alice");
    alice.event("inbound_node_disconnected");
    alice.run("debug on");
    assert!(setting("log")["value"].as_str().unwrap().contains("peerkit=debug"));
    alice.run("debug off");
    assert_eq!(setting("log")["value"], "warn,link=debug", "as before `debug on`");

    for (body, part) in [
        (json!({}), "name and a value"),
        (json!({"name": "log"}), "needs a value for `log`"),
        (json!({"name": "log", "value": ""}), "`value` is empty"),
        (json!({"name": "log", "value": "loud"}), "neither a level"),
        (json!({"name": "max-inbound", "value": "-1"}), "not a number"),
        (json!({"name": "downloads", "value": "here"}), "give the whole path"),
        (json!({"name": "colour", "value": "blue"}), "has no setting"),
    ] {
        let refused = patch(body.clone());
        assert_eq!(refused.status, 400, "{body}: {}", refused.body);
        assert!(refused.body.contains(part), "{body}: {}", refused.body);
    }
    // Without arguments, `set` in a shell only lists.
    let listed = json_of(home.path(), "alice", &["set"]);
    assert_eq!(listed["config"], json_of(home.path(), "alice", &["config"])["config"]);
    assert_eq!(setting("log")["value"], "warn,link=debug");
    let (stopped, log) = alice.stop();
    assert_eq!(stopped.code(), Some(0), "{log}");
    assert!(log.contains("peerkit::link") && log.contains("ended"), "{log}");
    // One of its commands has failed.
    assert_eq!(bob.stop().0.code(), Some(1));
}

#[test]
fn empty_texts_and_relative_paths_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let node = Program::start(home.path(), "alice", &[]);
    let api = Api::of(home.path(), "alice");
    let hash = "ab".repeat(32);
    let status = |line: &str, body: Value, part: &str| {
        let refused = api.request(line, &body);
        assert_eq!(refused.status, 400, "{line} {body}: {}", refused.body);
        assert!(refused.body.contains(part), "{line} {body}: {}", refused.body);
    };
    for (line, body) in [
        ("POST /api/v1/messages", json!({"text": ""})),
        ("POST /api/v1/peers/bob/messages", json!({"text": ""})),
        ("POST /api/v1/broadcasts", json!({"text": "", "title": "x"})),
        ("POST /api/v1/peers", json!({"address": ""})),
        ("POST /api/v1/membership", json!({"addresses": [""]})),
        ("POST /api/v1/pings", json!({"peer": ""})),
        ("POST /api/v1/shares", json!({"path": ""})),
        ("POST /api/v1/shares", json!({"path": "/tmp", "to": ["bob", ""]})),
        ("POST /api/v1/downloads", json!({"what": ""})),
        ("POST /api/v1/downloads", json!({"what": hash, "path": ""})),
        ("POST /api/v1/known-peers/save", json!({"file": ""})),
        ("POST /api/v1/known-peers/load", json!({"file": ""})),
        ("GET /api/v1/search?text=", Value::Null),
        ("GET /api/v1/shares?share=", Value::Null),
    ] {
        status(line, body, "is empty");
    }
    for (line, body) in [
        ("POST /api/v1/shares", json!({"path": "a/b"})),
        ("POST /api/v1/downloads", json!({"what": hash, "path": "a/b"})),
        ("POST /api/v1/downloads", json!({"what": format!("{hash} a/b")})),
        ("POST /api/v1/known-peers/save", json!({"file": "a"})),
        ("POST /api/v1/known-peers/load", json!({"file": "a"})),
        ("GET /api/v1/shares?share=./a", Value::Null),
        ("DELETE /api/v1/shares/a%2Fb", Value::Null),
    ] {
        status(line, body, "give the whole path");
    }
    node.exit();
}

#[test]
fn long_lists_have_pages() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    let api = Api::of(home.path(), "bob");
    for name in ["one", "two", "three"] {
        let path = home.path().join(name);
        fs::write(&path, name).unwrap();
        chain.b.run(&format!("add '{}'", path.display()));
    }
    for (path, list, key, count) in [
        ("/api/v1/peers", "peers", "id", 2),
        ("/api/v1/shares", "files", "hash", 3),
        ("/api/v1/network/nodes", "nodes", "id", 3),
    ] {
        let keys = |query: &str| -> Vec<String> {
            let all = api.get(&format!("{path}{query}"))[list].take();
            let all = all.as_array().unwrap().iter();
            all.map(|entry| entry[key].as_str().unwrap().to_owned()).collect()
        };
        let whole = keys("");
        assert_eq!(whole.len(), count, "{path}");
        let pages = (0..=count).map(|offset| keys(&format!("?limit=1&offset={offset}")));
        let pages: Vec<_> = pages.collect();
        assert!(pages[count].is_empty(), "{path}");
        assert_eq!(
            pages.concat().into_iter().collect::<BTreeSet<_>>(),
            whole.into_iter().collect::<BTreeSet<_>>()
        );
        for query in ["?limit=0", "?limit=1001", "?limit=", "?offset=-1"] {
            let refused = api.request(&format!("GET {path}{query}"), &Value::Null);
            assert_eq!(refused.status, 400, "{path}{query}");
        }
    }
    let events = |query: &str| api.get(&format!("/api/v1/events/recent{query}"))["events"].take();
    assert_eq!(events("?limit=1&offset=1"), json!([events("")[1]]));
    assert_eq!(api.get("/api/v1/downloads?limit=5")["downloads"], json!([]));
    chain.a.exit();
    chain.b.exit();
    chain.c.exit();
}

#[test]
fn a_body_that_does_not_arrive_ends_the_request() {
    let home = tempfile::tempdir().unwrap();
    let node = Program::start(home.path(), "alice", &[]);
    let api = Api::of(home.path(), "alice");
    let mut stream = api.connect();
    let head = format!(
        "POST /api/v1/messages HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{\"text\":",
        api.host, api.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(text(&answer).starts_with("HTTP/1.1 408 "), "{}", text(&answer));
    node.exit();
}

#[test]
fn a_node_whose_api_json_can_not_be_written_says_so() {
    let home = tempfile::tempdir().unwrap();
    Program::start(home.path(), "alice", &[]).exit();
    fs::create_dir(state(home.path(), "alice").join("api.json")).unwrap();
    let mut blocked = peerkit(home.path());
    blocked.args(["run", "--headless", "--listen", "127.0.0.1:0", "--state"]);
    blocked.arg(state(home.path(), "alice"));
    let blocked = run(blocked, "");
    assert_eq!(blocked.status.code(), Some(1));
    assert!(text(&blocked.stderr).contains("api.json"), "{}", text(&blocked.stderr));
    // Without the API the node runs, and has lost nothing.
    Program::start(home.path(), "alice", &["--no-api"]).exit();
}
