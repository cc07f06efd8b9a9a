//! File names: how the program prints, finds and writes them.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Program, Share, get, peerkit, run, text, ticket};

/// A control character that reverses the direction of the text after it.
const REVERSE: &str = "\u{202e}";

fn result(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn names(files: &Value) -> Vec<&str> {
    files.as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect()
}

#[test]
fn each_share_of_equal_content_has_its_own_ticket() {
    let home = tempfile::tempdir().unwrap();
    for name in ["a.txt", "b.txt", "one/x", "two/x"] {
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "the same").unwrap();
    }
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let share = Share::start(home.path(), &[&at("a.txt"), &at("b.txt"), &at("one"), &at("two")]);
    for name in ["a.txt", "b.txt", "one", "two"] {
        let shared = share.shared();
        assert_eq!(shared["name"], name);
        let got = get(home.path(), &[&ticket(&shared), "--json"]);
        let path = home.path().join("other").join(name);
        assert_eq!(result(&got)["path"], json!(path));
    }

    let mut node = Program::start(home.path(), "alice", &[]);
    let added = node.run(&format!("add {} --ticket", at("a.txt")));
    let first = added["ticket"].as_str().unwrap().to_owned();
    let added = node.run(&format!("add {} --ticket", at("b.txt")));
    let second = added["ticket"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert_eq!(names(&node.run("files")["files"]), ["a.txt", "b.txt"]);
    assert_eq!(names(&node.run("search txt")["files"]), ["a.txt", "b.txt"]);
    assert_eq!(names(&node.run("remove b.txt")["files"]), ["b.txt"], "the other one stays");
    let same_name = home.path().join("elsewhere/a.txt");
    fs::create_dir(same_name.parent().unwrap()).unwrap();
    fs::write(&same_name, "the same").unwrap();
    node.run(&format!("add {}", same_name.display()));
    assert!(node.fail("remove a.txt").contains("2 shares have the name `a.txt`"));
    assert_eq!(names(&node.run(&format!("remove {}", same_name.display()))["files"]), ["a.txt"]);
    assert_eq!(node.run("files")["files"][0]["path"], json!(home.path().join("a.txt")));
    let got = get(home.path(), &[&first, "by ticket/", "--json"]);
    assert_eq!(result(&got)["path"], json!(home.path().join("other/by ticket/a.txt")));
    let (status, stderr) = node.stop();
    assert_eq!((status.code(), stderr.as_str()), (Some(1), ""), "one command has failed");
}

#[test]
fn a_file_fetched_by_its_name_is_written_under_that_name() {
    let home = tempfile::tempdir().unwrap();
    let mut alice = Program::start(home.path(), "alice", &[]);
    for name in ["a.txt", "b.txt"] {
        let path = home.path().join(name);
        fs::write(&path, "the same").unwrap();
        alice.run(&format!("add {}", path.display()));
    }
    let mut bob = Program::start(home.path(), "bob", &[]);
    bob.run(&format!("connect {}", alice.address));
    let found = bob.run("search txt")["files"].clone();
    assert_eq!(names(&found), ["a.txt", "b.txt"]);
    for name in ["b.txt", "a.txt"] {
        let got = bob.run(&format!("get {name}"));
        assert_eq!(got["path"], json!(bob.downloads.join(name)));
    }
    alice.exit();
    bob.exit();
}

#[test]
fn the_files_of_a_folder_are_listed_and_found_by_their_hashes() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("music");
    fs::create_dir_all(folder.join("live")).unwrap();
    fs::write(folder.join("live/song.mp3"), "la la").unwrap();
    fs::write(folder.join("cafe\u{301}.txt"), "menu").unwrap();
    let hash = |content: &str| blake3::hash(content.as_bytes()).to_hex().to_string();
    let contents = json!([
        {"hash": hash("menu"), "name": "cafe\u{301}.txt", "size": 4, "path": "cafe\u{301}.txt"},
        {"hash": hash("la la"), "name": "song.mp3", "size": 5, "path": "live/song.mp3"},
    ]);
    let mut node = Program::start(home.path(), "alice", &["--share", folder.to_str().unwrap()]);
    for command in ["files", "refresh", "files music"] {
        let listed = node.run(command)["files"][0].clone();
        assert_eq!((&listed["name"], &listed["count"]), (&json!("music"), &json!(2)), "{command}");
        assert_eq!(listed["files"], contents, "{command}");
    }
    let rest = node.run("files music --skip 1")["files"][0].clone();
    assert_eq!((&rest["files"][0], &rest["skipped"]), (&contents[1], &json!(1)));
    assert_eq!(rest["files"].as_array().unwrap().len(), 1);
    for text in ["SONG", "caf\u{e9}", "cafe\u{301}"] {
        let found = node.run(&format!("search {text}"))["files"].clone();
        let [found] = &found.as_array().unwrap()[..] else { panic!("{text}: {found}") };
        assert_eq!(found["sources"], json!([node.id]), "{text}");
        assert_eq!(found["here"], true, "{text}");
    }
    node.exit();

    let mut command = peerkit(home.path());
    command.args(["run", "--manual", "--listen", "127.0.0.1:0", "--share"]).arg(&folder);
    let printed = run(command, "files\nsearch song\nrefresh\n");
    let (printed, line) =
        (text(&printed.stdout), format!("  {}  live/song.mp3  5 B", hash("la la")));
    assert_eq!(printed.matches(&line).count(), 2, "{printed}");
    assert!(printed.contains(&format!("{}  song.mp3  5 B  here", hash("la la"))), "{printed}");
}

#[cfg(unix)]
#[test]
fn control_characters_in_a_name_are_printed_escaped() {
    let home = tempfile::tempdir().unwrap();
    let forged = "x\nerror: forged\u{1b}[2J";
    let turned = format!("{REVERSE}fdp.exe");
    let top = home.path().join(format!("top {REVERSE}"));
    fs::create_dir(&top).unwrap();
    fs::write(top.join(forged), "skipped for its newline").unwrap();
    fs::write(top.join(&turned), "shared").unwrap();
    std::os::unix::fs::symlink("nowhere", top.join(format!("{forged} link"))).unwrap();
    let is_plain = |what: &str, output: &[u8]| {
        let text = text(output);
        assert!(!text.contains("\nerror: forged") && !text.contains(REVERSE), "{what}: {text:?}");
        assert!(!text.contains('\u{1b}') && !text.starts_with("error: forged"), "{what}: {text:?}");
        text.to_owned()
    };
    let commands = format!(
        "add {0}\nfiles\nrefresh\nsearch exe\nremove {REVERSE}\nremove a\u{2066}\nadd {0}/none\n\
         get {REVERSE}\npause {REVERSE}\nload {0}/none\nmap {0}/none/x.svg\nsave {0}/none/x\ndownloads\n",
        top.display()
    );
    for json in [false, true] {
        let mut command = peerkit(home.path());
        command.args(["run", "--manual", "--listen", "127.0.0.1:0", "--share"]).arg(&top);
        command.env("PEERKIT_LOG", "debug");
        if json {
            command.arg("--json").env("PEERKIT_LOG_FORMAT", "json");
        }
        let printed = run(command, &commands);
        let out = is_plain("out", &printed.stdout);
        is_plain("err", &printed.stderr);
        assert!(out.contains("x\\nerror: forged"), "the skipped file is named: {out}");
        let written = if json { "\\u202efdp.exe" } else { "\\u{202e}fdp.exe" };
        assert!(out.contains(written), "{out}");
        if json {
            let mut lines = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let files = lines.find(|line| line["result"] == "files").unwrap();
            assert_eq!(files["files"][0]["files"][0]["name"], turned, "the value is the name");
        }
    }
    for args in [&["share"][..], &["share", "--json"], &["sim"]] {
        let mut command = peerkit(home.path());
        command.args(args).arg(top.join("none"));
        let printed = run(command, "");
        is_plain("out", &printed.stdout);
        is_plain("err", &printed.stderr);
    }
    let share = Share::start(home.path(), &[top.to_str().unwrap()]);
    let got = get(home.path(), &[&ticket(&share.shared())]);
    is_plain("out", &got.stdout);
    let message = is_plain("err", &got.stderr);
    assert!(message.contains("top \\u{202e} is called top _ here"), "{message}");
    assert!(message.contains("\\u{202e}fdp.exe is called _fdp.exe here"), "{message}");
}

#[test]
fn a_hidden_name_is_not_written_unless_it_was_chosen() {
    let home = tempfile::tempdir().unwrap();
    let from = home.path().join("from");
    fs::create_dir(&from).unwrap();
    for name in [".bash_profile", "-rf"] {
        fs::write(from.join(name), name).unwrap();
    }
    let at = |name: &str| from.join(name).to_str().unwrap().to_owned();
    let share = Share::start(home.path(), &[&at(".bash_profile"), &at("-rf")]);
    let other = home.path().join("other");
    let profile = ticket(&share.shared());
    let got = get(home.path(), &[&profile]);
    assert_eq!(got.status.code(), Some(0));
    assert!(text(&got.stdout).starts_with("_bash_profile "), "{}", text(&got.stdout));
    let message = ".bash_profile is called _bash_profile here: it begins with a dot\n";
    assert_eq!(text(&got.stderr), message);
    let got = result(&get(home.path(), &[&ticket(&share.shared()), ".", "--json"]));
    let path = other.join("_rf");
    let renamed = json!([{"name": "-rf", "path": path, "why": "it begins with a dash"}]);
    assert_eq!((&got["path"], &got["renamed"]), (&json!(path), &renamed));
    assert!(!other.join(".bash_profile").exists() && !other.join("-rf").exists());
    let got = get(home.path(), &[&profile, ".bash_profile"]);
    assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""));
    assert!(other.join(".bash_profile").exists());
    // The same for a fetch of a running node.
    let mut node = Program::start(home.path(), "bob", &[]);
    let got = node.run(&format!("get {profile}"));
    assert_eq!(got["path"], json!(node.downloads.join("_bash_profile")));
    node.exit();
}

#[cfg(unix)]
#[test]
fn a_pipe_device_or_link_is_not_replaced_by_a_fetch() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "content").unwrap();
    let share = Share::start(home.path(), &[file.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    let other = home.path().join("other");
    fs::create_dir(&other).unwrap();
    mknodat(CWD, other.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    for path in ["pipe", "/dev/null", "/dev/fd/1", "/dev/stdout"] {
        for args in [&[ticket.as_str(), path][..], &[&ticket, path, "--force"]] {
            let got = get(home.path(), args);
            assert_eq!((got.status.code(), text(&got.stdout)), (Some(1), ""), "{args:?}");
            let error = text(&got.stderr);
            assert!(error.contains("does not replace") && error.contains("- > PATH"), "{error}");
        }
    }
    std::os::unix::fs::symlink(&file, other.join("link")).unwrap();
    let got = get(home.path(), &[&ticket, "link", "--force"]);
    assert!(text(&got.stderr).contains("a symbolic link"), "{}", text(&got.stderr));
    assert!(other.join("link").is_symlink());
    assert_eq!(fs::read_dir(&other).unwrap().count(), 2, "nothing is left behind");
    let mut node = Program::start(home.path(), "bob", &[]);
    let error = node.fail(&format!("get {ticket} {} --force", other.join("pipe").display()));
    assert!(error.contains("- > PATH"), "{error}");
    assert!(node.fail(&format!("get {ticket} /dev/null")).contains("a device"));
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_the_disk_refuses_are_reported_and_fail_the_fetch() {
    let home = tempfile::tempdir().unwrap();
    let top = home.path().join("top");
    fs::create_dir(&top).unwrap();
    fs::write(top.join("short"), "short").unwrap();
    let long = "x".repeat(255);
    fs::write(top.join(&long), "long").unwrap();
    let share = Share::start(home.path(), &[top.to_str().unwrap()]);
    let ticket = ticket(&share.shared());
    let mut deep = home.path().join("deep");
    while deep.as_os_str().len() < 3800 {
        deep.push("d".repeat(100));
    }
    fs::create_dir_all(&deep).unwrap();
    let to = |name: &str| format!("{}/{name}/", deep.display());
    let got = get(home.path(), &[&ticket, &to("text")]);
    assert_eq!(got.status.code(), Some(1), "a file is missing");
    let message = format!("not written: {long}: it is too long for this disk\n");
    assert_eq!(text(&got.stderr), message);
    assert_eq!(fs::read(Path::new(&to("text")).join("top/short")).unwrap(), b"short");
    let got = get(home.path(), &[&ticket, &to("json"), "--json"]);
    assert_eq!(got.status.code(), Some(1));
    let left = json!([{"path": long, "why": "it is too long for this disk"}]);
    assert_eq!((&result(&got)["ok"], &result(&got)["left_out"]), (&json!(true), &left));
    // The same for a fetch of a running node, and in its list of downloads.
    let mut node = Program::start(home.path(), "bob", &[]);
    assert_eq!(node.run(&format!("get {ticket} '{}'", to("prompt")))["left_out"], left);
    assert_eq!(node.event("node_download_finished")["data"]["left_out"], left);
    assert_eq!(node.run("downloads")["downloads"][0]["left_out"], 1);
}
