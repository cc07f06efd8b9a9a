//! `peerkit share` and `peerkit get`, without a running node.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use peerkit::Ticket;
use serde_json::Value;

use crate::harness::{
    PATIENCE, Program, Share, TextProgram, address, content, get, get_command, peerkit, run,
    send_signal, stopping_signals, text, ticket, wait_or_kill,
};

#[test]
fn a_share_is_fetched_by_its_ticket() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(1, (3 << 20) + 17);
    let film = home.path().join("a film.bin");
    fs::write(&film, &bytes).unwrap();
    let folder = home.path().join("pictures");
    fs::create_dir_all(folder.join("deep")).unwrap();
    fs::write(folder.join("deep/boat.jpg"), "a boat").unwrap();
    let share = Share::start(home.path(), &[film.to_str().unwrap(), folder.to_str().unwrap()]);
    let shared = share.shared();
    assert_eq!(shared["name"], "a film.bin");
    assert_eq!(shared["size"], bytes.len());
    assert_eq!(shared["hash"], blake3::hash(&bytes).to_hex().as_str());
    assert_eq!(shared["command"], format!("peerkit get {}", ticket(&shared)));

    let got = get(home.path(), &[&ticket(&shared)]);
    let out = text(&got.stdout);
    assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""), "{out}");
    assert!(out.starts_with("a film.bin ") && out.contains("every byte verified"), "{out}");
    assert_eq!(fs::read(home.path().join("other/a film.bin")).unwrap(), bytes);

    let pictures = share.shared();
    let got = get(home.path(), &[&ticket(&pictures), "--json"]);
    let result: Value = serde_json::from_slice(&got.stdout).unwrap();
    assert_eq!((&result["result"], &result["ok"]), (&"get".into(), &true.into()), "{result}");
    let path = Path::new(result["path"].as_str().unwrap());
    assert_eq!(path, home.path().join("other/pictures"));
    assert_eq!(fs::read(path.join("deep/boat.jpg")).unwrap(), b"a boat");
    #[cfg(unix)]
    assert_eq!(share.interrupt(), Some(0));
}

#[test]
fn only_force_replaces_an_existing_file() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "new").unwrap();
    let share = Share::start(home.path(), &[notes.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    let other = home.path().join("other");
    fs::create_dir_all(&other).unwrap();
    let old = other.join("notes.txt");
    fs::write(&old, "old").unwrap();
    for args in [&[ticket.as_str()][..], &[&ticket, "notes.txt"], &[&ticket, "."]] {
        let got = get(home.path(), args);
        assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
        assert!(text(&got.stderr).contains("notes.txt already exists"), "{args:?}");
        let path = text(&got.stdout).split("  ").next().unwrap_or_default();
        let name = path.split(" 3 B").next().unwrap();
        assert_ne!(name, "notes.txt");
        assert_eq!(fs::read_to_string(other.join(name)).unwrap(), "new", "{args:?}");
    }
    assert_eq!(fs::read_to_string(&old).unwrap(), "old");
    let got = get(home.path(), &[&ticket, "--force"]);
    assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""));
    assert_eq!(fs::read_to_string(&old).unwrap(), "new");
    let got = get(home.path(), &[&ticket, "new folder/"]);
    assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""));
    assert_eq!(fs::read_to_string(other.join("new folder/notes.txt")).unwrap(), "new");
}

#[test]
fn one_file_goes_to_standard_output() {
    let home = tempfile::tempdir().unwrap();
    let temporary = home.path().join("tmp");
    fs::create_dir_all(&temporary).unwrap();
    let bytes = content(2, (1 << 20) + 1);
    let file = home.path().join("data.bin");
    fs::write(&file, &bytes).unwrap();
    let folder = home.path().join("folder");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("one"), "1").unwrap();
    let share = Share::start(home.path(), &[file.to_str().unwrap(), folder.to_str().unwrap()]);
    let to_standard = |ticket: &str, args: &[&str]| {
        let mut command = get_command(home.path(), &[ticket, "-"]);
        command.args(args).env("TMPDIR", &temporary);
        run(command, "")
    };
    let file = ticket(&share.shared());
    let got = to_standard(&file, &[]);
    assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""));
    assert!(got.stdout == bytes, "standard output has the file and nothing else");
    let got = to_standard(&ticket(&share.shared()), &[]);
    assert_eq!(got.status.code(), Some(1));
    assert!(text(&got.stderr).contains("this is a folder"), "{}", text(&got.stderr));
    assert!(got.stdout.is_empty());
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "nothing is left");
    assert_eq!(to_standard(&file, &["--json"]).status.code(), Some(2));
    assert_eq!(fs::read_dir(home.path().join("other")).unwrap().count(), 0);
}

#[test]
fn a_hash_alone_needs_an_address() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "by hash").unwrap();
    let share = Share::start(home.path(), &[notes.to_str().unwrap()]);
    let shared = share.shared();
    let hash = shared["hash"].as_str().unwrap();
    let got = get(home.path(), &[hash]);
    assert_eq!(got.status.code(), Some(2));
    assert!(text(&got.stderr).contains("--from ADDR"), "{}", text(&got.stderr));

    let address = address(&shared).without_id();
    let node: Ticket = ticket(&shared).parse().unwrap();
    let named = address.clone().with_id(node.node).to_string();
    for from in [address.to_string(), named] {
        let got = get(home.path(), &[hash, "--from", &from, "--force"]);
        assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""), "{from}");
        assert_eq!(fs::read_to_string(home.path().join("other/notes.txt")).unwrap(), "by hash");
    }
    let other_node = format!("{}@{address}", "06".repeat(32));
    let got = get(home.path(), &[hash, "--from", &other_node]);
    assert_eq!(got.status.code(), Some(1));
    assert!(text(&got.stderr).contains("another node answers"), "{}", text(&got.stderr));
}

#[test]
fn each_unanswered_address_is_named() {
    let home = tempfile::tempdir().unwrap();
    // The listeners are dropped, so that the ports have none.
    let ports = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, two] = ports.map(|port| port.local_addr().unwrap().to_string());
    let got = get(home.path(), &["0a".repeat(32).as_str(), "--from", &one, "--from", &two]);
    let error = text(&got.stderr);
    assert_eq!(got.status.code(), Some(1), "{error}");
    assert!(error.contains("none of the 2 nodes answered"), "{error}");
    for address in [one, two] {
        assert!(error.contains(&format!("can't connect to {address}")), "{error}");
    }
}

#[test]
fn a_shortened_ticket_is_reported_as_cut_short() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "x").unwrap();
    let share = Share::start(home.path(), &[notes.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    let got = get(home.path(), &[&ticket[..ticket.len() - 5]]);
    assert_eq!(got.status.code(), Some(2));
    assert!(text(&got.stderr).contains("cut short or mistyped"), "{}", text(&got.stderr));
    drop(share);
    let got = get(home.path(), &[&ticket]);
    assert_eq!(got.status.code(), Some(1), "the sharing node has stopped");
    let error = text(&got.stderr);
    assert!(error.contains(" that shares it can't be reached: 127.0.0.1:"), "{error}");
    assert!(error.contains("still runs there") && !error.contains("call back"), "{error}");
    assert_eq!(fs::read_dir(home.path().join("other")).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn a_ticket_is_good_after_a_restart_and_two_can_share_at_once() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "still here").unwrap();
    let args = ["--ticket", notes.to_str().unwrap()];
    let share = Share::start(home.path(), &args);
    let first: Ticket = ticket(&share.shared()).parse().unwrap();
    let second = Share::start(home.path(), &args);
    let other: Ticket = ticket(&second.shared()).parse().unwrap();
    assert_ne!(first.node, other.node, "the second share has another key");
    assert_ne!(first.secret, other.secret);
    assert_eq!(get(home.path(), &[&other.to_string()]).status.code(), Some(0));
    assert_eq!(share.interrupt(), Some(0));
    let share = Share::start(home.path(), &args);
    let again: Ticket = ticket(&share.shared()).parse().unwrap();
    assert_eq!((first.node, first.hash), (again.node, again.hash));
    let kept = Ticket { addresses: again.addresses, ..first };
    assert!(kept.secret.is_some());
    let got = get(home.path(), &[&kept.to_string(), "kept.txt"]);
    assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""));
}

#[test]
fn a_running_node_serves_tickets_too() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("my notes.txt");
    fs::write(&notes, "from a running node").unwrap();
    let mut node = Program::start(home.path(), "alice", &[]);
    let added = node.run(&format!("add {} --ticket", notes.display()));
    let ticket = added["ticket"].as_str().unwrap().to_owned();
    let got = get(home.path(), &[&ticket]);
    assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""));
    let fetched = home.path().join("other/my notes.txt");
    assert_eq!(fs::read_to_string(fetched).unwrap(), "from a running node");

    // `get` with the key of the sharing node: a node can't connect to a node with its own key.
    let mut same = get_command(home.path(), &[&ticket, "--force", "--state"]);
    same.arg(home.path().join("alice"));
    let got = run(same, "");
    assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""));

    let mut bob = Program::start(home.path(), "bob", &[]);
    let got = bob.run(&format!("get {ticket}"));
    assert_eq!(got["sources"], serde_json::json!([node.id]));
    let open = node.run(&format!("add {}", home.path().join("other").display()));
    assert_eq!(open.get("ticket"), None, "an open share has no ticket");
    node.exit();
    bob.exit();
}

#[test]
fn piped_commands_end_after_their_fetches() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(3, 5 << 20);
    let file = home.path().join("film.bin");
    fs::write(&file, &bytes).unwrap();
    let share = Share::start(home.path(), &[file.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    for (number, last) in ["exit\n", "leave\n", ""].into_iter().enumerate() {
        let to = home.path().join(format!("film {number}.bin"));
        let mut command = peerkit(home.path());
        command.args(["run", "--manual", "--json", "--listen", "127.0.0.1:0"]);
        let got = run(command, &format!("get {ticket} {}\nsize\n{last}", to.display()));
        assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""), "{last:?}");
        assert!(fs::read(&to).unwrap() == bytes, "{last:?}");
        let lines = text(&got.stdout).lines();
        let lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        let results: Vec<&str> = lines.iter().filter_map(|line| line["result"].as_str()).collect();
        let get = results.iter().position(|result| *result == "get").expect("a result");
        if let Some(end) = results.iter().position(|result| last.contains(result)) {
            assert!(get < end, "{results:?}");
        }
        assert!(lines.iter().any(|line| line["event"] == "node_download_finished"), "{last:?}");
    }
    let mut command = peerkit(home.path());
    command.args(["run", "--manual", "--listen", "127.0.0.1:0"]);
    let nothing = "33".repeat(32);
    let got = run(command, &format!("get {nothing}\nexit\n"));
    assert_eq!(got.status.code(), Some(1), "a fetch has failed");
    assert!(text(&got.stderr).contains("error: "), "{}", text(&got.stderr));
}

/// Fetches 8 MiB until two pieces have come, then stops the fetch with Ctrl-C.
#[cfg(unix)]
fn stopped_get(home: &Path, ticket: &str) -> Output {
    let mut command = get_command(home, &[ticket]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Counts the pieces that have come among the first seven.
    let pieces = |part: &Path| {
        let bytes = fs::read(part).unwrap();
        let pieces = bytes.chunks(1 << 20).take(7);
        pieces.filter(|piece| piece.iter().any(|byte| *byte != 0)).count()
    };
    let begun = Instant::now();
    while part_file(home).is_none_or(|part| pieces(&part) < 2) {
        assert!(begun.elapsed() < PATIENCE, "the fetch does not begin");
        thread::sleep(Duration::from_millis(10));
    }
    send_signal(&child, rustix::process::Signal::INT);
    child.wait_with_output().unwrap()
}

/// Returns the path of the file in the folder of `get`, if there is one.
#[cfg(unix)]
fn part_file(home: &Path) -> Option<PathBuf> {
    fs::read_dir(home.join("other")).unwrap().next().map(|entry| entry.unwrap().path())
}

#[cfg(unix)]
#[test]
fn an_interrupted_fetch_continues_where_it_was() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(4, 8 << 20);
    let film = home.path().join("film.bin");
    fs::write(&film, &bytes).unwrap();
    let share = Share::start(home.path(), &["--up", "2MiB", film.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    let other = home.path().join("other");
    let stopped = stopped_get(home.path(), &ticket);
    assert_eq!(stopped.status.code(), Some(130));
    assert!(
        text(&stopped.stderr).contains("the same command continues"),
        "{}",
        text(&stopped.stderr)
    );
    assert!(part_file(home.path()).is_some() && !other.join("film.bin").exists());

    let again = get(home.path(), &[&ticket]);
    assert_eq!((again.status.code(), text(&again.stderr)), (Some(0), ""));
    assert!(fs::read(other.join("film.bin")).unwrap() == bytes);
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1, "nothing else is left");
}

/// A `get` that fails before it reads the kept part of an earlier `get` does not remove that part.
#[cfg(unix)]
#[test]
fn a_failed_fetch_keeps_the_part_of_an_interrupted_one() {
    let home = tempfile::tempdir().unwrap();
    let film = home.path().join("film.bin");
    fs::write(&film, content(4, 8 << 20)).unwrap();
    let share = Share::start(home.path(), &["--up", "2MiB", film.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    assert_eq!(stopped_get(home.path(), &ticket).status.code(), Some(130));
    let left = part_file(home.path()).unwrap();

    fs::write(&film, "another film").unwrap();
    let changed = get(home.path(), &[&ticket]);
    assert_eq!(changed.status.code(), Some(1));
    let error = text(&changed.stderr);
    assert!(error.contains("was changed") && error.contains("the fetched part is kept"), "{error}");
    drop(share);
    let gone = get(home.path(), &[&ticket]);
    assert_eq!(gone.status.code(), Some(1));
    let error = text(&gone.stderr);
    assert!(error.contains("the fetched part is kept"), "{error}");
    assert_eq!(part_file(home.path()), Some(left));

    let nothing = get(home.path(), &[&ticket, "elsewhere/"]);
    assert!(!text(&nothing.stderr).contains("kept"), "{}", text(&nothing.stderr));
}

#[cfg(unix)]
#[test]
fn a_stopped_get_leaves_nothing_in_the_temporary_folder() {
    let home = tempfile::tempdir().unwrap();
    let film = home.path().join("film.bin");
    fs::write(&film, content(7, 8 << 20)).unwrap();
    let share = Share::start(home.path(), &["--up", "1MiB", film.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    for (signal, status) in stopping_signals() {
        let temporary = home.path().join("tmp");
        fs::create_dir_all(&temporary).unwrap();
        let mut command = get_command(home.path(), &[&ticket, "-"]);
        command.env("TMPDIR", &temporary).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let begun = Instant::now();
        let has_part = || {
            let folders = fs::read_dir(&temporary).unwrap().flatten();
            folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap()).next().is_some()
        };
        while !has_part() {
            assert!(begun.elapsed() < PATIENCE, "the fetch does not begin");
            thread::sleep(Duration::from_millis(10));
        }
        send_signal(&child, signal);
        let stopped = child.wait_with_output().unwrap();
        assert_eq!(stopped.status.code(), Some(status), "{signal:?}");
        assert!(text(&stopped.stderr).contains("nothing is kept"), "{signal:?}");
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "{signal:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_does_not_read_does_not_keep_a_get_from_stopping() {
    use rustix::process::Signal;

    let home = tempfile::tempdir().unwrap();
    let film = home.path().join("film.bin");
    fs::write(&film, content(8, 2 << 20)).unwrap();
    let share = Share::start(home.path(), &[film.to_str().unwrap()]);
    let temporary = home.path().join("tmp");
    fs::create_dir_all(&temporary).unwrap();
    let mut command = get_command(home.path(), &[&ticket(&share.shared()), "-"]);
    command.env("TMPDIR", &temporary).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Once the first byte has come, the program waits: the pipe can't hold the whole file.
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0];
    stdout.read_exact(&mut first).unwrap();
    send_signal(&child, Signal::INT);
    let status = wait_or_kill(&mut child);
    assert_eq!(status.code(), Some(130));
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(error.contains("stopped before the whole file was written"), "{error}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "nothing is left");
    drop(stdout);
}

#[test]
fn a_ticket_is_taken_from_a_file_a_pipe_or_the_environment() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "quietly").unwrap();
    let share = Share::start(home.path(), &["--ticket", notes.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    let (start, end) = ticket.split_at(70);
    let wrapped = format!("\u{201c}{start}\n  {end}\u{201d}\n");
    let file = home.path().join("ticket.txt");
    fs::write(&file, &wrapped).unwrap();
    let by_file = get_command(home.path(), &["--ticket-file", file.to_str().unwrap(), "1/"]);
    let by_pipe = get_command(home.path(), &["2/", "--ticket-file", "-"]);
    let mut by_environment = get_command(home.path(), &["3/"]);
    by_environment.env("PEERKIT_TICKET", &ticket);
    let in_pieces = get_command(home.path(), &[start, end, "4/"]);
    let in_quotes = get_command(home.path(), &[&wrapped, "5/"]);
    // The whole line that `share` prints, pasted after `peerkit get`.
    let line = format!("  peerkit get {ticket}");
    let as_line = get_command(home.path(), &["peerkit", "get", &ticket, "6/"]);
    let as_one = get_command(home.path(), &[&line, "7/"]);
    let mut line_in_environment = get_command(home.path(), &["8/"]);
    line_in_environment.env("PEERKIT_TICKET", &line);
    let lines = [as_line, as_one, line_in_environment];
    let all = [by_file, by_pipe, by_environment, in_pieces, in_quotes].into_iter().chain(lines);
    for (number, command) in all.enumerate() {
        let got = run(command, if number == 1 { &wrapped } else { "" });
        assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""), "{number}");
        let fetched = home.path().join(format!("other/{}/notes.txt", number + 1));
        assert_eq!(fs::read_to_string(fetched).unwrap(), "quietly", "{number}");
    }
    for args in [
        &["a", "b"][..],
        &[&ticket, "a", "b"],
        &[&ticket, ""],
        &[&ticket, &ticket],
        &["--ticket-file", "missing"],
    ] {
        let got = get(home.path(), args);
        let status = if args.contains(&"missing") { 1 } else { 2 };
        assert_eq!(got.status.code(), Some(status), "{args:?}: {}", text(&got.stderr));
    }
}

#[test]
fn share_prints_the_hash_the_ticket_and_the_command() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "abc").unwrap();
    let mut command = peerkit(home.path());
    command.args(["share", "--listen", "127.0.0.1:0", notes.to_str().unwrap()]);
    let out = TextProgram::start(command).until("until Ctrl-C");
    assert_eq!(out[0], "notes.txt  3 B");
    assert_eq!(out[1].split_whitespace().last(), Some(&*blake3::hash(b"abc").to_hex()));
    let ticket = out[2].strip_prefix("  ticket ").expect("a ticket");
    assert!(ticket.parse::<Ticket>().is_ok(), "{ticket}");
    assert!(out.contains(&format!("  peerkit get {ticket}")), "{out:?}");
    assert!(!out.concat().contains('\u{1b}'), "{out:?}");
}

#[test]
fn a_fetch_is_paused_resumed_and_cancelled() {
    let home = tempfile::tempdir().unwrap();
    let film = home.path().join("a film.bin");
    fs::write(&film, content(5, 16 << 20)).unwrap();
    let share = Share::start(home.path(), &["--up", "1MiB", film.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    let mut node = Program::start(home.path(), "alice", &[]);
    node.write(&format!("get {ticket}"));
    let download = |node: &mut Program| node.run("downloads")["downloads"][0].clone();
    let begun = Instant::now();
    while download(&mut node)["sources"] != 1 {
        assert!(begun.elapsed() < PATIENCE, "the fetch does not begin");
    }
    let now = download(&mut node);
    assert_eq!((&now["name"], &now["total"]), (&"a film.bin".into(), &(16 << 20).into()), "{now}");
    assert_eq!((&now["kind"], &now["sources"]), (&"file".into(), &1.into()), "{now}");
    let digits = &now["hash"].as_str().unwrap()[..8];
    let paused = node.run("pause a film.bin");
    assert_eq!(
        (&paused["result"], &paused["download"]["state"]),
        (&"pause".into(), &"paused".into())
    );
    let resumed = node.run(&format!("resume {digits}"));
    assert_ne!(resumed["download"]["state"], "paused");
    assert!(node.fail("pause nothing").contains("`downloads` lists"));
    node.write(&format!("cancel {digits}"));
    let results = [node.result(), node.result()];
    let result = |name: &str| results.iter().find(|result| result["result"] == name).unwrap();
    assert_eq!(result("cancel")["download"]["name"], "a film.bin");
    assert_eq!(
        (&result("get")["ok"], &result("get")["error"]),
        (&false.into(), &"cancelled".into())
    );
    assert_eq!(node.run("downloads")["downloads"], serde_json::json!([]));

    let mut elsewhere = Program::start(home.path(), "bob", &["--network", "another"]);
    let error = elsewhere.fail(&format!("get {ticket}"));
    assert!(error.contains("`peerkit get TICKET`"), "{error}");
    assert!(elsewhere.fail("get peerkit1abc").contains("cut short"));
}

#[test]
fn a_killed_node_continues_a_fetch_by_ticket_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content(6, 6 << 20);
    let film = home.path().join("film.bin");
    fs::write(&film, &bytes).unwrap();
    let share = Share::start(home.path(), &["--up", "2MiB", film.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    let mut node = Program::start(home.path(), "alice", &[]);
    node.write(&format!("get {ticket}"));
    let begun = Instant::now();
    while node.run("downloads")["downloads"][0]["state"] != "fetching" {
        assert!(begun.elapsed() < PATIENCE, "the fetch does not begin");
    }
    node.kill();
    let mut node = Program::start(home.path(), "alice", &[]);
    let finished = node.event("node_download_finished");
    let data = &finished["data"];
    assert_eq!((&data["name"], &data["bytes"]), (&"film.bin".into(), &bytes.len().into()));
    assert!(fs::read(data["path"].as_str().unwrap()).unwrap() == bytes);
    node.exit();
}

/// `share` prints completed uploads, and files that can't be fetched any more.
#[cfg(unix)]
#[test]
fn a_sharing_user_sees_each_finished_upload() {
    let home = tempfile::tempdir().unwrap();
    let (film, notes) = (home.path().join("film.bin"), home.path().join("notes.txt"));
    let bytes = content(12, (3 << 20) + 5);
    fs::write(&film, &bytes).unwrap();
    fs::write(&notes, "abc").unwrap();
    let mut share = Share::start(home.path(), &[film.to_str().unwrap(), notes.to_str().unwrap()]);
    let tickets = [ticket(&share.shared()), ticket(&share.shared())];
    assert_eq!(get(home.path(), &[&tickets[0]]).status.code(), Some(0));
    let event = share.line();
    assert_eq!(event["event"], "node_upload_completed", "{event}");
    assert_eq!(
        (&event["data"]["name"], &event["data"]["bytes"]),
        (&"film.bin".into(), &bytes.len().into())
    );
    assert_eq!(event["data"]["hash"], blake3::hash(&bytes).to_hex().as_str());
    assert!(event["peer"]["id"].is_string() && event["peer"]["name"].is_string(), "{event}");

    fs::write(&notes, "other").unwrap();
    for _ in 0..2 {
        // The fetch fails at once, and does not wait a minute for another source.
        let got = get(home.path(), &[&tickets[1], "new/"]);
        assert_eq!(got.status.code(), Some(1));
        let expected = "error: notes.txt was changed or removed at its source after it was shared: \
             ask the person who shares it to share it again\n";
        assert_eq!(text(&got.stderr), expected);
        assert!(!home.path().join("other/new").exists());
    }
    let event = share.line();
    assert_eq!(
        (&event["event"], &event["data"]["name"]),
        (&"node_share_changed".into(), &"notes.txt".into())
    );
    send_signal(&share.child, rustix::process::Signal::INT);
    let event = share.line();
    assert_eq!(event["event"], "node_stopped", "{event}");
    let expected = serde_json::json!({"bytes": bytes.len(), "peers": 1, "completed": 1});
    assert_eq!(event["data"]["uploads"], expected);
    assert_eq!(share.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_running_node_prints_uploads_and_their_total() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "abc").unwrap();
    let args = ["--manual", "--listen", "127.0.0.1:0", "--share", notes.to_str().unwrap()];
    let node = TextProgram::run(home.path(), &args);
    let listens = node.until("listens").pop().unwrap();
    let address = listens.split_whitespace().last().unwrap();
    let hash = blake3::hash(b"abc").to_hex();
    assert_eq!(get(home.path(), &[hash.as_str(), "--from", address]).status.code(), Some(0));
    let line = node.until("has fetched").pop().unwrap();
    assert!(line.ends_with(" has fetched notes.txt, 3 B"), "{line}");
    let (out, errors) = node.end();
    let total = "Sent 3 B to 1 node; 1 fetch was completed.";
    assert!(out.iter().any(|line| line == total), "{out:?}");
    assert!(errors.is_empty(), "{errors:?}");
}

/// Nothing is left in the temporary folder, also while the reader of the output does not read.
#[cfg(unix)]
#[test]
fn a_get_to_standard_output_leaves_no_temporary_file() {
    let home = tempfile::tempdir().unwrap();
    let temporary = home.path().join("tmp");
    fs::create_dir_all(&temporary).unwrap();
    let file = home.path().join("data.bin");
    fs::write(&file, content(2, 4 << 20)).unwrap();
    let share = Share::start(home.path(), &[file.to_str().unwrap()]);
    let mut command = get_command(home.path(), &[&ticket(&share.shared()), "-"]);
    command.env("TMPDIR", &temporary).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    Read::read_exact(&mut stdout, &mut [0]).unwrap();
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "the open file is removed");
    send_signal(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
