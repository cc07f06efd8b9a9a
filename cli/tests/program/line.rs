//! Every command, with three nodes in a chain.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Program, content, start_chain};

fn ids(nodes: &Value) -> BTreeSet<String> {
    let nodes = nodes.as_array().unwrap().iter();
    nodes.map(|node| node["id"].as_str().unwrap().to_owned()).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_first_line_has_the_name_network_identity_and_address() {
    let home = tempfile::tempdir().unwrap();
    let node = Program::start(home.path(), "alice", &[]);
    let started = &node.started;
    assert_eq!(started["name"], "alice");
    assert_eq!(started["network"], "peerkit");
    assert_eq!(started["peer"], Value::Null);
    assert_eq!(started["data"], Value::Null);
    assert_eq!(node.id.len(), 64);
    assert!(node.address.starts_with("127.0.0.1:") && !node.address.ends_with(":0"));
    node.exit();
}

#[test]
fn discovery_counts_hops() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    let [a, b, c] = [&chain.a, &chain.b, &chain.c].map(|node| node.id.clone());

    let alone = chain.a.run("discover 0");
    assert_eq!(ids(&alone["nodes"]), BTreeSet::from([a.clone()]));
    let near = chain.a.run("discover 1");
    assert_eq!(ids(&near["nodes"]), BTreeSet::from([a.clone(), b.clone()]));
    assert_eq!(near["size"], 2);
    let all = chain.a.run("discover -1");
    assert_eq!(ids(&all["nodes"]), BTreeSet::from([a.clone(), b.clone(), c.clone()]));
    assert_eq!((&all["size"], &all["links"]), (&json!(3), &json!(2)));
    assert!(all["elapsed_ms"].is_number());
    let two = chain.a.run("discover 2");
    assert_eq!(ids(&two["nodes"]), ids(&all["nodes"]));
    assert_eq!(ids(&chain.a.run("discover")["nodes"]), ids(&all["nodes"]));

    let nodes = all["nodes"].as_array().unwrap();
    let bob = nodes.iter().find(|node| node["id"] == json!(b)).unwrap();
    let fields =
        ["address", "id", "inbound", "inbound_nodes", "name", "outbound", "outbound_nodes"];
    assert_eq!(keys(bob), fields);
    assert_eq!(bob["name"], "bob");
    assert_eq!(bob["address"], chain.b.address);
    assert_eq!(bob["outbound"], json!([c]));
    assert_eq!(bob["inbound"], json!([a]));

    assert_eq!(chain.c.run("size")["size"], 3);
    let network = chain.c.run("network")["network"].clone();
    assert_eq!(network["nodes"], 3);
    assert_eq!(network["links"], 2);
    assert_eq!(network["components"], 1);
    assert_eq!((&network["diameter"], &network["diameter_exact"]), (&json!(2), &json!(true)));
    let degree = json!({"min": 1, "avg": 1.33, "max": 2, "histogram": {"1": 2, "2": 1}});
    assert_eq!(network["degree"], degree);
    assert_eq!(network["cut_nodes"], json!([b]));
    chain.exit();
}

#[test]
fn a_file_is_found_and_fetched_without_a_link() {
    let home = tempfile::tempdir().unwrap();
    let shared = home.path().join("shared");
    fs::create_dir_all(shared.join("sub")).unwrap();
    let bytes = content(1, (3 << 20) + 17);
    fs::write(shared.join("a film.bin"), &bytes).unwrap();
    fs::write(shared.join("sub/empty"), "").unwrap();
    let mut chain = start_chain(home.path(), &["--share", shared.to_str().unwrap()]);

    let file = shared.join("a film.bin");
    let added = chain.c.run(&format!("add {}", file.display()));
    let hash = blake3::hash(&bytes).to_hex().to_string();
    let expected =
        json!([{"hash": hash, "name": "a film.bin", "size": bytes.len(), "kind": "file"}]);
    assert_eq!(added["files"], expected);
    let files = chain.c.run("files")["files"].clone();
    assert_eq!(files.as_array().unwrap().len(), 2);
    let film = files.as_array().unwrap().iter().find(|shared| shared["hash"] == json!(hash));
    let film = film.expect("it is listed");
    assert_eq!((&film["path"], &film["access"]), (&json!(file), &json!("open")));

    let found = chain.a.run("search A FILM");
    let files = found["files"].as_array().unwrap();
    let film = files.iter().find(|file| file["hash"] == json!(hash)).expect("the file is found");
    assert_eq!(film["sources"], json!([chain.c.id]));
    assert_eq!(chain.a.run("search nothing-of-the-kind")["files"], json!([]));
    let to = home.path().join("by name/");
    let got = chain.a.run(&format!("get a film.bin {}", to.display()));
    assert_eq!(
        got["path"],
        json!(to.join("a film.bin")),
        "a search without results keeps the earlier results"
    );
    let to = home.path().join("fetched.bin");
    let got = chain.a.run(&format!("get {hash} {}", to.display()));
    assert_eq!(got["path"], json!(to));
    assert_eq!(got["bytes"], bytes.len());
    assert!(got["seconds"].is_number());
    assert_eq!(fs::read(&to).unwrap(), bytes);

    let found = chain.a.run("search shared");
    let folder = &found["files"][0];
    assert_eq!(folder["kind"], "folder");
    let digits = &folder["hash"].as_str().unwrap()[..12];
    let got = chain.a.run(&format!("req {digits}"));
    assert_eq!(got["result"], "get");
    assert_eq!(got["path"], json!(chain.a.downloads.join("shared")));
    let folder = chain.a.downloads.join("shared");
    assert_eq!(fs::read(folder.join("a film.bin")).unwrap(), bytes);
    assert_eq!(fs::read(folder.join("sub/empty")).unwrap(), b"");
    let peers = chain.a.run("peers");
    assert_eq!(ids(&peers["peers"]), BTreeSet::from([chain.b.id.clone()]), "no link was made");

    let removed = chain.c.run(&format!("remove {hash}"));
    assert_eq!(removed["files"], expected);
    assert_eq!(chain.c.run("files")["files"].as_array().unwrap().len(), 1);
    assert!(chain.c.fail(&format!("remove {hash}")).contains("not shared"));
    let left = chain.a.run("search film.bin");
    assert_eq!(left["files"].as_array().unwrap().len(), 1, "it is still in the folder: {left}");
    chain.c.run("remove shared");
    assert_eq!(chain.a.run("search film.bin")["files"], json!([]));
    let (status, stderr) = chain.c.stop();
    assert_eq!((status.code(), stderr.as_str()), (Some(1), ""), "a command has failed");
    chain.a.exit();
    chain.b.exit();
}

#[test]
fn refresh_reports_a_changed_share() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("notes.txt");
    fs::write(&file, "one").unwrap();
    let mut node = Program::start(home.path(), "alice", &["--share", file.to_str().unwrap()]);
    let hash = blake3::hash(b"one").to_hex().to_string();
    let shared = json!([{"hash": hash, "name": "notes.txt", "size": 3, "kind": "file"}]);
    assert_eq!(node.started["files"], shared);
    let refreshed = node.run("refresh");
    assert_eq!((&refreshed["files"][0]["size"], &refreshed["changed"]), (&json!(3), &json!([])));
    fs::write(&file, "two and more").unwrap();
    let refreshed = node.run("refresh");
    let hash = blake3::hash(b"two and more").to_hex().to_string();
    assert_eq!(refreshed["files"][0]["hash"], json!(hash));
    assert_eq!(refreshed["changed"], refreshed["files"]);
    assert_eq!(node.run("files")["files"][0]["size"], 12);
    node.exit();
}

#[test]
fn messages_reach_their_recipients() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    assert_eq!(chain.b.run("msg  hello \"all\" ")["sent_to"], 2);
    for node in [&mut chain.a, &mut chain.c] {
        let event = node.event("node_message");
        assert_eq!(event["data"], " hello \"all\" ");
        assert_eq!(event["peer"]["name"], "bob");
        assert_eq!(event["peer"]["id"], json!(chain.b.id));
        assert_eq!(event["node"], json!(node.id));
        assert_eq!(keys(&event["peer"]), ["address", "direction", "id", "name", "rtt_ms"]);
    }
    let by_name = chain.b.run("send carol déjà vu \u{1b}[31m");
    assert_eq!(by_name["peer"]["id"], json!(chain.c.id));
    assert_eq!(by_name["peer"]["direction"], "outbound");
    assert_eq!(chain.c.event("node_message")["data"], "déjà vu \u{1b}[31m");
    let prefix = chain.c.id[..10].to_owned();
    chain.b.run(&format!("send {prefix} two"));
    assert_eq!(chain.c.event("node_message")["data"], "two");
    chain.b.run(&format!("send {} three", chain.c.id));
    assert_eq!(chain.c.event("node_message")["data"], "three");
    assert!(chain.a.unread_events("node_message").is_empty());
    assert!(chain.b.fail("send dave hi").contains("dave"));
    assert!(chain.a.fail(&format!("send {prefix} hi")).contains(&prefix[..8]));
    assert_eq!(chain.b.stop().0.code(), Some(1), "commands have failed");
    chain.a.event("outbound_node_disconnected");
}

#[test]
fn send_reaches_a_node_without_a_link_by_its_whole_identity() {
    let home = tempfile::tempdir().unwrap();
    let mut c = Program::start(home.path(), "carol", &[]);
    let mut b = Program::start(home.path(), "bob", &[&c.address]);
    let mut a = Program::start(home.path(), "alice", &[&b.address]);
    a.event("outbound_node_connected");
    b.event("outbound_node_connected");
    let sent = a.run(&format!("send {} hello", c.id));
    let nothing = Value::Null;
    let peer = json!({
        "id": c.id, "name": "", "address": nothing, "direction": nothing, "rtt_ms": nothing,
    });
    assert_eq!(sent["peer"], peer, "the message was relayed, without a link");
    let event = c.event("node_message");
    assert_eq!(event["data"], "hello");
    assert_eq!((&event["peer"]["id"], &event["peer"]["name"]), (&json!(a.id), &json!("alice")));
    assert_eq!(event["peer"]["direction"], nothing);
    assert!(a.fail("send dave hi").contains("dave"));
    let unknown = "00".repeat(32);
    assert!(a.fail(&format!("send {unknown} hi")).contains(&unknown));
    assert_eq!(a.stop().0.code(), Some(1), "commands have failed");
    b.event("inbound_node_disconnected");
    b.exit();
    c.exit();
}

#[test]
fn the_largest_message_is_sent_and_a_larger_one_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut bob = Program::start(home.path(), "bob", &[]);
    let mut alice = Program::start(home.path(), "alice", &[&bob.address]);
    let text = "é".repeat(8 << 20);
    assert_eq!(alice.run(&format!("msg {text}"))["sent_to"], 1);
    assert_eq!(bob.event("node_message")["data"], text.as_str());
    for command in ["send bob", "msg"] {
        let error = alice.fail(&format!("{command} {text}+"));
        assert!(error.contains("16777217") && error.contains("16777216"), "{error}");
    }
    alice.run("ping bob");
    assert_eq!(alice.stop().0.code(), Some(1), "a command has failed");
    bob.event("inbound_node_disconnected");
    assert!(bob.unread_events("node_message").is_empty());
    bob.exit();
}

#[test]
fn a_broadcast_reaches_every_node_once() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    let first = chain.a.run("broadcast to all of you")["id"].clone();
    let sent = chain.a.run("broadcast --title 'Good news' done");
    let last = sent["id"].clone();
    for node in [&mut chain.b, &mut chain.c] {
        let event = node.event("node_broadcast");
        assert_eq!(event["peer"], Value::Null);
        let data = &event["data"];
        assert_eq!(data["id"], first);
        assert_eq!(data["author"], json!(chain.a.id));
        assert_eq!(data["title"], "");
        assert_eq!(data["message"], "to all of you");
        assert!(data["time"].as_u64().unwrap() > 1_700_000_000_000);
        let event = node.event("node_broadcast");
        assert_eq!(event["data"]["id"], last);
        assert_eq!(event["data"]["title"], "Good news");
        assert_eq!(event["data"]["time"], sent["time"]);
        assert_eq!(event["data"]["message"], "done");
        node.run("ping");
        assert!(node.unread_events("node_broadcast").is_empty());
    }
    chain.exit();
}

#[test]
fn peers_ping_and_status_show_the_links() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    let ping = chain.b.run("ping alice");
    let pings = ping["pings"].as_array().unwrap();
    assert_eq!(pings.len(), 1);
    assert_eq!(pings[0]["peer"]["id"], json!(chain.a.id));
    assert!(pings[0]["rtt_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(chain.b.run("ping")["pings"].as_array().unwrap().len(), 2);

    let peers = chain.b.run("peers");
    let directions = |direction: &str| {
        let peers = peers["peers"].as_array().unwrap().iter();
        let peers = peers.filter(|peer| peer["direction"] == direction);
        peers.map(|peer| peer["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(directions("inbound"), ["alice"]);
    assert_eq!(directions("outbound"), ["carol"]);
    for peer in peers["peers"].as_array().unwrap() {
        assert!(peer["rtt_ms"].is_number(), "`ping` has measured it: {peer}");
    }
    assert!(ids(&peers["known"]).contains(&chain.c.id));

    let status = chain.b.run("status")["status"].clone();
    assert_eq!(status["id"], json!(chain.b.id));
    assert_eq!((&status["inbound"], &status["outbound"]), (&json!(1), &json!(1)));
    assert_eq!(status["name"], "bob");
    chain.exit();
}

#[test]
fn links_are_closed_by_either_side_and_made_again() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    let closed = chain.b.run("disconnect alice");
    assert_eq!(closed["peer"]["id"], json!(chain.a.id));
    assert_eq!(closed["peer"]["direction"], "inbound");
    chain.b.event("node_disconnect_with_inbound_node");
    let event = chain.b.event("inbound_node_disconnected");
    assert_eq!(event["data"]["by_peer"], false);
    let event = chain.a.event("outbound_node_disconnected");
    assert_eq!(event["peer"]["name"], "bob");
    assert_eq!(event["data"]["by_peer"], true);
    assert!(event["data"]["reason"].as_str().unwrap().contains("request"));
    assert_eq!(ids(&chain.a.run("peers")["peers"]).len(), 0);
    assert!(chain.b.fail("disconnect alice").contains("alice"));

    let (host, port) = chain.b.address.rsplit_once(':').unwrap();
    let again = chain.a.run(&format!("connect {host} {port}"));
    assert_eq!(again["peer"]["id"], json!(chain.b.id));
    chain.b.event("inbound_node_connected");
    chain.a.run("disconnect bob");
    chain.a.event("outbound_node_disconnected");
    chain.b.event("inbound_node_disconnected");
    for known in ["bob".to_owned(), chain.b.id[..8].to_owned(), chain.b.id.clone()] {
        let connected = chain.a.run(&format!("connect {known}"));
        assert_eq!(connected["peer"]["address"], json!(chain.b.address), "{known}");
        chain.b.event("inbound_node_connected");
        chain.a.run("disconnect bob");
        chain.b.event("inbound_node_disconnected");
        chain.a.event("outbound_node_disconnected");
    }

    let address = chain.b.address.clone();
    let connected = chain.a.run(&format!("connect {}@{address}", chain.b.id));
    assert_eq!(connected["peer"]["name"], "bob");
    assert_eq!(connected["peer"]["address"], json!(address));
    chain.b.event("inbound_node_connected");
    let wrong = chain.a.fail(&format!("connect {}@{}", chain.a.id, chain.c.address));
    assert!(wrong.contains(&chain.c.address), "{wrong}");

    let left = chain.b.run("leave");
    assert_eq!(left["peers"].as_array().unwrap().len(), 2);
    chain.a.event("outbound_node_disconnected");
    chain.c.event("inbound_node_disconnected");
    assert_eq!(chain.b.run("size")["size"], 1);
    assert!(chain.b.is_running());
}

#[test]
fn a_node_joins_through_any_address_that_answers() {
    let home = tempfile::tempdir().unwrap();
    let b = Program::start(home.path(), "bob", &[]);
    let mut a = Program::start(home.path(), "alice", &[]);
    let joined = a.run(&format!("join 127.0.0.1:1 {}", b.address));
    assert_eq!(joined["peers"][0]["id"], json!(b.id));
    let error = a.event("outbound_node_connection_error");
    assert_eq!(error["data"]["address"], "127.0.0.1:1");
    let why = error["data"]["error"].as_str().unwrap();
    assert!(!why.is_empty() && !why.contains("127.0.0.1:1"), "the address is named once: {why}");
    assert!(a.fail("join 127.0.0.1:1").contains("127.0.0.1:1"));
    a.event("outbound_node_connection_error");
    assert!(a.is_running());
}

#[test]
fn an_address_that_does_not_answer_at_the_start_is_reported() {
    let home = tempfile::tempdir().unwrap();
    let b = Program::start(home.path(), "bob", &[]);
    let mut a = Program::start(home.path(), "alice", &["127.0.0.1:1", &b.address]);
    let error = a.event("outbound_node_connection_error");
    assert_eq!(error["data"]["address"], "127.0.0.1:1");
    let peers = a.run("peers");
    assert_eq!(ids(&peers["peers"]), BTreeSet::from([b.id.clone()]));
    a.exit();
    b.exit();
}

#[test]
fn the_map_is_drawn() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    let map = chain.a.run("map")["map"].clone();
    assert_eq!(map["nodes"].as_array().unwrap().len(), 3);
    let edges = map["edges"].as_array().unwrap();
    let edge = |from: &Program, to: &Program| json!({"from": from.id, "to": to.id});
    assert_eq!(edges.len(), 2);
    assert!(edges.contains(&edge(&chain.a, &chain.b)) && edges.contains(&edge(&chain.b, &chain.c)));

    let dot = home.path().join("my map.dot");
    assert_eq!(chain.a.run(&format!("map {}", dot.display()))["path"], json!(dot));
    let text = fs::read_to_string(&dot).unwrap();
    assert!(text.starts_with("digraph") && text.contains("alice"), "{text}");
    assert!(text.contains(&format!("\"{}\" -> \"{}\"", chain.a.id, chain.b.id)));
    let file = home.path().join("map.json");
    chain.a.run(&format!("map \"{}\"", file.display()));
    let read: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(read, map);
    let own_nodes =
        map["nodes"].as_array().unwrap().iter().filter(|node| node["is_self"] == json!(true));
    assert_eq!(own_nodes.map(|node| &node["id"]).collect::<Vec<_>>(), [&json!(chain.a.id)]);
    for (name, start) in [("map.svg", "<svg "), ("map.graphml", "<?xml ")] {
        let file = home.path().join(name);
        chain.b.run(&format!("map {}", file.display()));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with(start), "{text}");
        assert!(["alice", "bob", "carol"].iter().all(|name| text.contains(name)), "{text}");
    }
    let other = home.path().join("map.png");
    assert!(chain.b.fail(&format!("map {}", other.display())).contains(".svg"));
    assert!(!other.exists());
}

#[test]
fn peers_are_saved_and_loaded() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    // The known peers are written to disk in the background.
    let begun = Instant::now();
    while !ids(&chain.b.run("peers")["known"]).contains(&chain.c.id) {
        assert!(begun.elapsed() < PATIENCE, "the peer does not become known");
    }
    let file = home.path().join("peers.json");
    let saved = chain.b.run(&format!("save {}", file.display()));
    assert_eq!(saved["path"], json!(file));
    let text = fs::read_to_string(&file).unwrap();
    serde_json::from_str::<Value>(&text).unwrap();
    assert!(text.contains(&chain.c.id), "{text}");

    let mut dave = Program::start(home.path(), "dave", &[]);
    let loaded = dave.run(&format!("load {}", file.display()));
    assert!(ids(&loaded["peers"]).contains(&chain.c.id));
    assert!(ids(&dave.run("peers")["peers"]).contains(&chain.c.id));
    assert!(dave.fail("load /does/not/exist").contains("/does/not/exist"));
    let unnamed = chain.b.run("save");
    assert_eq!(unnamed["path"], json!(home.path().join("bob/peers.json")));
    dave.kill();
    chain.exit();
}

#[test]
fn errors_name_the_command_and_give_advice() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let result = node.attempt("serach x");
    assert_eq!(result["result"], "serach");
    assert!(result["error"].as_str().unwrap().contains("`search`"));
    assert_eq!(node.attempt("discover deep")["result"], "discover");
    assert!(node.fail("connect 7117").contains("without a host"));
    assert!(node.fail("connect nobody.invalid").contains("nobody.invalid:7117"));
    assert!(node.fail("join lan").contains("local network"));
    assert!(node.fail("get 12").contains("search"));
    assert!(node.fail("remove 12").contains("files"));
    let missing = home.path().join("missing");
    let error = node.fail(&format!("add {}", missing.display()));
    assert!(error.contains("missing"), "{error}");
    let myself = node.address.clone();
    assert!(node.fail(&format!("connect {myself}")).contains("itself"));
    node.write("");
    assert_eq!(node.run("debug on")["debug"], true);
    node.run("debug off");
    assert!(node.run("help")["help"].as_str().unwrap().contains("broadcast [--title TITLE] TEXT"));
    assert!(node.run("help get")["help"].as_str().unwrap().contains("req"));
    let unknown = "get 0000000000000000000000000000000000000000000000000000000000000000";
    assert!(node.fail(unknown).contains("000000"));
    assert_eq!(node.run("stop")["result"], "exit");
    assert_eq!(node.wait().0.code(), Some(1), "commands have failed");
}

#[test]
fn an_invalid_argument_is_not_treated_as_a_missing_one() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    for line in ["files \"abc", "files --skip 1 \"abc", "add \"abc", "save \"abc", "get \"abc"] {
        let error = node.fail(line);
        let command = line.split(' ').next().unwrap();
        assert!(error.starts_with(&format!("{command} needs a closing quote")), "{line}: {error}");
    }
    for line in ["map \"\"", "save ''", "load \"\"", "add ''", "set downloads ''"] {
        let error = node.fail(line);
        assert!(error.contains("empty path") && error.contains(": "), "{line}: {error}");
    }
    assert!(!home.path().join("alice/peers.json").exists(), "nothing was saved");
    assert!(node.fail("set x").contains("has no setting `x`"));
    let id = node.id.clone();
    for line in [format!("connect {id}"), format!("send {id} hi"), format!("ping {id}")] {
        assert!(node.fail(&line).contains("this node itself"), "{line}");
    }
    node.run("exit");
    assert_eq!(node.wait().0.code(), Some(1), "commands have failed");
}

#[test]
fn an_error_shortens_a_long_pasted_word() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let word = "a".repeat(2_000_000);
    for line in [&word, &format!("get {word}"), &format!("add {word}"), &format!("join {word}")] {
        let result = node.attempt(line);
        assert_eq!(result["ok"], false);
        assert!(result.to_string().len() < 5_000, "{}", result.to_string().len());
    }
    node.run("exit");
    assert_eq!(node.wait().0.code(), Some(1), "commands have failed");
}

#[test]
fn discover_names_the_neighbours_of_each_node() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    let nodes = chain.a.run("discover")["nodes"].clone();
    let node = |id: &str| nodes.as_array().unwrap().iter().find(|node| node["id"] == id).unwrap();
    let one = |program: &Program| json!([{"id": program.id, "name": program.name, "address": program.address}]);
    assert_eq!(node(&chain.b.id)["outbound_nodes"], one(&chain.c));
    assert_eq!(node(&chain.a.id)["outbound_nodes"], one(&chain.b));
    assert_eq!(node(&chain.c.id)["inbound_nodes"][0]["name"], "bob");
    assert_eq!(node(&chain.b.id)["outbound"], json!([chain.c.id]), "the list of identities stays");
    chain.exit();
}

#[test]
fn ping_reaches_a_node_without_a_link_and_peers_have_times() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    let far = chain.c.id.clone();
    let ping = chain.a.run(&format!("ping {far}"))["pings"][0].clone();
    assert_eq!(ping["peer"]["id"], json!(far));
    assert!(ping["rtt_ms"].as_f64().unwrap() > 0.0, "{ping}");
    let unknown = "7".repeat(64);
    assert!(chain.a.fail(&format!("ping {unknown}")).contains(&unknown));
    let peers = chain.a.run("peers")["peers"].clone();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    for peer in peers.as_array().unwrap() {
        let seen = peer["last_seen"].as_u64().unwrap();
        assert!(seen <= now && now - seen < PATIENCE.as_millis() as u64, "{peer} at {now}");
    }
    chain.a.stop();
    chain.b.exit();
    chain.c.exit();
}

#[test]
fn settings_are_listed_and_changed_while_the_node_runs() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = start_chain(home.path(), &[]);
    let files = ["downloads", "up", "down", "peer-up", "peer-down"];
    let messages = ["messages", "peer-messages", "broadcasts", "peer-receive"];
    let others = ["max-inbound", "log"];
    let names = [&files[..], &messages[..], &others[..]].concat();
    let listed = chain.a.run("set")["config"].clone();
    assert_eq!(chain.a.run("config")["config"], listed);
    let listed = listed.as_array().unwrap().iter().map(|setting| setting["name"].clone());
    assert_eq!(listed.collect::<Vec<_>>(), names);

    let shared = home.path().join("a song");
    fs::write(&shared, "la la la").unwrap();
    let hash = chain.b.run(&format!("add '{}'", shared.display()))["files"][0]["hash"].clone();
    let folder = home.path().join("other downloads");
    let set = chain.a.run(&format!("set downloads '{}'", folder.display()));
    assert_eq!(set["config"], json!([{"name": "downloads", "value": folder, "origin": "set"}]));
    let fetched = chain.a.run(&format!("get {}", hash.as_str().unwrap()));
    assert_eq!(fetched["path"], json!(folder.join("a song")));
    assert_eq!(fs::read(folder.join("a song")).unwrap(), b"la la la");

    assert_eq!(
        chain.a.run("set up 2k")["config"],
        json!([{"name": "up", "value": 2000, "origin": "set"}])
    );
    let up = chain.a.run("set")["config"][1].clone();
    assert_eq!(up, json!({"name": "up", "value": 2000, "origin": "set"}));
    assert!(
        chain.a.fail(&format!("set downloads '{}'", shared.display())).contains("not a folder")
    );
    assert!(chain.a.fail("set colour blue").contains("downloads, up, down"));
    chain.a.stop();
    chain.b.exit();
    chain.c.exit();
}
