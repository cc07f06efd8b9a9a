//! The prompt on a pseudo-terminal.
#![cfg(unix)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::harness::{
    PATIENCE, Program, Share, content, get_command, peerkit, send_signal, stopping_signals,
    wait_or_kill,
};

/// Opens a pseudo-terminal. Returns the end of the test and the end of the program.
fn open_terminal() -> (File, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name, flags, Mode::empty()).unwrap();
    (ours.into(), terminal.into())
}

/// A node at a prompt.
struct Prompt {
    child: Child,
    /// The test's end of the terminal.
    keys: File,
    /// The program's end, held open to check its settings.
    terminal: File,
    screen: Receiver<Vec<u8>>,
    /// The output that `sees` has not discarded.
    unseen: String,
    /// All output since the start.
    all: String,
}

impl Prompt {
    fn start(home: &Path, env: &[(&str, &str)], args: &[&str]) -> Self {
        let mut command = peerkit(home);
        command
            .args(["run", "--manual", "--listen", "127.0.0.1:0", "--name", "alice"])
            .arg("--state")
            .arg(home.join("alice"))
            .args(args)
            .envs(env.iter().copied());
        Self::start_command(command)
    }

    /// Starts a program on its own terminal.
    fn start_command(mut command: Command) -> Self {
        let (keys, terminal) = open_terminal();
        let end = || Stdio::from(terminal.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let mut output = keys.try_clone().unwrap();
        let (sender, screen) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, keys, terminal, screen, unseen: String::new(), all: String::new() }
    }

    /// Starts `get` without a ticket, and waits until the answer to its question can be typed.
    fn start_at_question(home: &Path) -> Self {
        let mut command = peerkit(home);
        command.arg("get").arg("--state").arg(home.join("get"));
        let mut asked = Self::start_command(command);
        asked.sees("Ticket");
        let begun = Instant::now();
        while asked.echoes() {
            asked.read(Duration::from_millis(5));
            assert!(begun.elapsed() < PATIENCE, "no line is being edited");
        }
        asked
    }

    fn press(&mut self, keys: &str) {
        self.press_bytes(keys.as_bytes());
    }

    fn press_bytes(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    /// Waits until `text` is on the screen, and discards the output up to it.
    fn sees(&mut self, text: &str) {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.unseen.find(text) {
                self.unseen.drain(..at + text.len());
                return;
            }
            self.read(Duration::from_millis(100));
            assert!(begun.elapsed() < PATIENCE, "no {text:?}: {:?}", self.all);
        }
    }

    /// Returns whether the terminal has echo and canonical mode, as a shell needs them.
    fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.terminal).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }

    /// Waits until the program ends. Returns its exit status.
    fn status(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            self.read(Duration::from_millis(5));
            assert!(begun.elapsed() < PATIENCE, "the program does not end: {:?}", self.all);
        }
    }

    /// Reads output, if some comes within `time`.
    fn read(&mut self, time: Duration) {
        if let Ok(bytes) = self.screen.recv_timeout(time) {
            let text = String::from_utf8_lossy(&bytes);
            self.unseen.push_str(&text);
            self.all.push_str(&text);
        }
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn commands_are_typed_completed_and_remembered() {
    let home = tempfile::tempdir().unwrap();
    let mut bob = Program::start(home.path(), "bob", &[]);
    let mut alice = Prompt::start(home.path(), &[("NO_COLOR", "1")], &[&bob.address]);
    alice.sees(&bob.address);
    alice.sees("alice> ");
    alice.press("pee\t\r");
    alice.sees("1 node connected");
    alice.sees("alice> ");
    alice.press("half a comm");
    alice.sees("comm");
    bob.run("msg look up");
    alice.sees("look up\r\n");
    alice.sees("alice> half a comm");
    alice.press("\u{15}send b\thello\r");
    alice.sees("sent to bob");
    assert_eq!(bob.event("node_message")["data"], "hello");
    alice.sees("alice> ");
    alice.press("nonsense\r");
    alice.sees("error: `nonsense` is not a command");
    alice.sees("alice> ");
    alice.press("\u{4}");
    assert_eq!(alice.status(), Some(0), "at a prompt a mistake is no failure");
    assert!(alice.echoes());
    bob.event("inbound_node_disconnected");

    let mut alice = Prompt::start(home.path(), &[], &[]);
    alice.sees("alice");
    alice.sees("> ");
    alice.press("\u{1b}[A\u{1b}[A\r");
    alice.sees("send bob hello");
    alice.sees("no node that this one can ask knows");
    alice.sees("> ");
    alice.press("\u{3}");
    assert_eq!(alice.status(), Some(0));
    bob.exit();
}

#[test]
fn the_progress_of_a_fetch_is_shown_above_the_prompt() {
    let home = tempfile::tempdir().unwrap();
    let film = home.path().join("film.bin");
    fs::write(&film, content(1, 16 << 20)).unwrap();
    let share = Share::start(home.path(), &["--up", "1MiB", film.to_str().unwrap()]);
    let shared = share.shared();
    let downloads = home.path().join("downloads");
    let to = ["--downloads", downloads.to_str().unwrap()];
    let mut alice = Prompt::start(home.path(), &[("NO_COLOR", "1")], &to);
    alice.sees("alice> ");
    alice.press(&format!("get {}\r", shared["ticket"].as_str().unwrap()));
    alice.sees("fetching ");
    alice.sees("alice> ");
    alice.press("siz");
    alice.sees("siz");
    alice.sees("% of 16.0 MiB");
    alice.sees("MiB/s");
    alice.sees("1 source\r\n");
    alice.sees("alice> siz");
    alice.press("e\r");
    alice.sees("1 node\r\n");
    alice.sees("alice> ");
    alice.press("pause film.bin\r");
    alice.sees("paused at ");
    alice.sees("alice> ");
    alice.press("resume film.bin\r");
    alice.sees("alice> ");
    alice.press("exit\r");
    alice.sees("1 fetch will continue at the next start");
    assert_eq!(alice.status(), Some(0), "at a prompt, exit does not wait for a fetch");
    assert!(alice.echoes());

    let mut alice = Prompt::start(home.path(), &[("NO_COLOR", "1")], &to);
    alice.sees("Continuing 1 fetch");
    alice.sees("% of 16.0 MiB");
    alice.press("cancel film.bin\r");
    alice.sees("cancelled film.bin");
    alice.sees("alice> ");
    alice.press("downloads\r");
    alice.sees("nothing is being fetched");
    alice.sees("alice> ");
    alice.press("\u{4}");
    assert_eq!(alice.status(), Some(0));
}

#[test]
fn a_terminal_is_left_as_it_was_found() {
    let home = tempfile::tempdir().unwrap();
    let mut alice = Prompt::start(home.path(), &[], &[]);
    alice.sees("> ");
    alice.press("being typ");
    alice.sees("typ");
    assert!(!alice.echoes(), "a line is being edited");
    send_signal(&alice.child, Signal::TERM);
    assert_eq!(alice.status(), Some(0));
    assert!(alice.echoes());
}

#[test]
fn a_terminal_has_colours_unless_they_are_not_wanted() {
    for (env, coloured) in [(&[][..], true), (&[("NO_COLOR", "1")], false)] {
        let home = tempfile::tempdir().unwrap();
        let mut alice = Prompt::start(home.path(), env, &[]);
        alice.sees("> ");
        alice.press("peers\r");
        alice.sees("no peers");
        alice.press("exit\r");
        alice.sees("stopping");
        assert_eq!(alice.status(), Some(0));
        // A colour or weight ends with `m`; moving the cursor does not.
        let styled = |part: &str| {
            let end = part.find(|c: char| !c.is_ascii_digit() && c != ';');
            end.is_some_and(|end| part[end..].starts_with('m'))
        };
        let coloured_parts = alice.all.split("\u{1b}[").skip(1).any(styled);
        assert_eq!(coloured_parts, coloured, "{env:?}: {:?}", alice.all);
    }
}

#[test]
fn a_dumb_terminal_gets_plain_lines() {
    let home = tempfile::tempdir().unwrap();
    let mut alice = Prompt::start(home.path(), &[("TERM", "dumb")], &[]);
    alice.sees("Ctrl-D stops the node");
    alice.press("peers\r");
    alice.sees("no peers");
    alice.press("\u{4}");
    assert_eq!(alice.status(), Some(0));
    assert!(!alice.all.contains('\u{1b}'), "{:?}", alice.all);
}

#[test]
fn a_line_that_is_not_utf8_is_refused_and_the_prompt_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let mut alice = Prompt::start(home.path(), &[("NO_COLOR", "1")], &[]);
    alice.sees("alice> ");
    alice.press_bytes(b"msg caf\xe9 exit\r");
    alice.sees("error: this line is not UTF-8 after `msg caf`");
    alice.sees("alice> ");
    alice.press_bytes(b"\xff\xfe\r");
    alice.sees("error: this line is not UTF-8 after its start");
    alice.sees("alice> ");
    alice.press("size\r");
    alice.sees("1 node\r\n");
    alice.sees("alice> ");
    alice.press("\u{4}");
    assert_eq!(alice.status(), Some(0));
    assert!(alice.echoes());
}

#[test]
fn a_paste_that_is_not_utf8_is_discarded_to_its_end() {
    let home = tempfile::tempdir().unwrap();
    let mut alice = Prompt::start(home.path(), &[("NO_COLOR", "1")], &[]);
    alice.sees("alice> ");
    // More text than the buffer of a terminal can hold.
    let paste =
        [b"\x1b[200~msg caf\xe9\n", b"exit\n".repeat(8_000).as_slice(), b"\x1b[201~"].concat();
    alice.press_bytes(&paste);
    alice.sees("error: this line is not UTF-8");
    alice.sees("alice> ");
    alice.press("size\r");
    alice.sees("1 node\r\n");
}

#[test]
fn an_interrupt_ends_a_search_in_the_history() {
    let home = tempfile::tempdir().unwrap();
    for env in [&[][..], &[("NO_COLOR", "1")]] {
        let mut alice = Prompt::start(home.path(), env, &[]);
        alice.sees("> ");
        alice.press("size\r");
        alice.sees("1 node\r\n");
        alice.sees("> ");
        for sought in ["", "no such line"] {
            alice.press("\u{12}");
            alice.sees("(reverse-i-search)`':");
            if !sought.is_empty() {
                alice.press(sought);
                alice.sees(&format!("`{sought}':"));
            }
            alice.press("\u{3}");
            alice.sees("alice");
            alice.sees("> ");
            alice.press("size\r");
            alice.sees("1 node\r\n");
            // Only once the prompt is back does the program handle Ctrl-R, and not the terminal.
            alice.sees("> ");
        }
    }
}

#[test]
fn an_interrupt_clears_the_line_and_stops_the_node_on_an_empty_one() {
    let home = tempfile::tempdir().unwrap();
    let mut alice = Prompt::start(home.path(), &[("NO_COLOR", "1")], &[]);
    alice.sees("alice> ");
    alice.press("exi");
    alice.sees("exi");
    alice.press("\u{3}");
    alice.sees("alice> ");
    alice.press("size\r");
    alice.sees("1 node\r\n");
    alice.sees("alice> ");
    // Ctrl-C also clears a line that came from the history.
    alice.press("\u{1b}[A");
    alice.sees("size");
    alice.press("\u{3}");
    alice.sees("alice> ");
    alice.press("x\u{7f}");
    alice.press("\u{3}");
    assert_eq!(alice.status(), Some(0), "nothing was left on the line");
    assert!(alice.echoes());
}

#[test]
fn several_lines_typed_ahead_are_all_carried_out() {
    let home = tempfile::tempdir().unwrap();
    let mut alice = Prompt::start(home.path(), &[("NO_COLOR", "1")], &[]);
    alice.sees("alice> ");
    alice.press("size\rfiles\rexit\r");
    alice.sees("1 node\r\n");
    alice.sees("nothing is shared");
    alice.sees("stopping");
    assert_eq!(alice.status(), Some(0));
}

#[test]
fn completion_writes_the_path_that_is_shared() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("it's here");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("my \"file\" & more.txt"), "content").unwrap();
    let mut alice = Prompt::start(home.path(), &[("NO_COLOR", "1")], &[]);
    alice.sees("alice> ");
    alice.press(&format!("add {}/it\t\t\r", home.path().display()));
    alice.sees("sharing ");
    alice.sees("my \"file\" & more.txt");
    alice.sees("alice> ");
    alice.press(&format!("add '{}/it\t\t\r", home.path().display()));
    alice.sees("sharing ");
    alice.sees("alice> ");
    alice.press("\u{4}");
    assert_eq!(alice.status(), Some(0));
}

#[test]
fn a_ticket_is_pasted_in_pieces_and_its_folder_is_made() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "by a wrapped ticket").unwrap();
    let share = Share::start(home.path(), &["--ticket", notes.to_str().unwrap()]);
    let shared = share.shared();
    let ticket = shared["ticket"].as_str().unwrap();
    let mut alice = Prompt::start(home.path(), &[("NO_COLOR", "1")], &[]);
    alice.sees("alice> ");
    let to = home.path().join("new folder/");
    let (start, end) = ticket.split_at(80);
    let paste = format!("\u{1b}[200~peerkit get \u{201c}{start}\r\n{end}\u{201d}\u{1b}[201~");
    alice.press(&format!("{paste} '{}'\r", to.display()));
    alice.sees("notes.txt");
    alice.sees("every byte verified");
    assert_eq!(fs::read_to_string(to.join("notes.txt")).unwrap(), "by a wrapped ticket");
    alice.press("size\r");
    alice.sees("1 node\r\n");
    alice.sees("alice> ");
    alice.press("exit\r");
    assert_eq!(alice.status(), Some(0));
    let history = fs::read_to_string(home.path().join("alice/history")).unwrap();
    assert!(history.contains("size"), "{history}");
    assert!(!history.contains(&start[..40]) && !history.contains(end), "{history}");
}

#[test]
fn an_interrupt_ends_the_command_that_runs_and_not_the_node() {
    let home = tempfile::tempdir().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let mut alice = Prompt::start(home.path(), &[("NO_COLOR", "1")], &[]);
    alice.sees("alice> ");
    alice.press(&format!("connect {address}\r"));
    let (connection, _) = silent.accept().unwrap();
    send_signal(&alice.child, Signal::INT);
    alice.sees("error: interrupted");
    alice.sees("alice> ");
    alice.press("size\r");
    alice.sees("1 node\r\n");
    alice.sees("alice> ");
    send_signal(&alice.child, Signal::INT);
    assert_eq!(alice.status(), Some(0));
    assert!(alice.echoes());
    drop(connection);
}

#[test]
fn a_ticket_typed_at_the_question_is_not_stored() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes.txt");
    fs::write(&notes, "asked").unwrap();
    let share = Share::start(home.path(), &["--ticket", notes.to_str().unwrap()]);
    let shared = share.shared();
    let (start, end) = shared["ticket"].as_str().unwrap().split_at(80);
    let mut get = Prompt::start_command(get_command(home.path(), &["new/"]));
    get.sees("Ticket");
    get.press("peerkit1abc\r");
    get.sees("cut short");
    get.sees("Ticket");
    get.press_bytes(b"caf\xe9\r");
    get.sees("not UTF-8");
    get.sees("Ticket");
    get.press(&format!("\u{1b}[200~{start}\n{end}\u{1b}[201~\r"));
    get.sees("every byte verified");
    assert_eq!(get.status(), Some(0));
    assert!(get.echoes());
    let fetched = home.path().join("other/new/notes.txt");
    assert_eq!(fs::read_to_string(fetched).unwrap(), "asked");
    let state = home.path().join("other-data/peerkit");
    assert_eq!(fs::read_dir(state).unwrap().count(), 1, "the key and nothing else");

    let mut get = Prompt::start_command(get_command(home.path(), &[]));
    get.sees("Ticket");
    get.press("\u{3}");
    assert_eq!(get.status(), Some(130));
    assert!(get.echoes());
}

#[test]
fn pasted_lines_are_commands_or_one_text() {
    let home = tempfile::tempdir().unwrap();
    let mut bob = Program::start(home.path(), "bob", &[]);
    let mut alice = Prompt::start(home.path(), &[("NO_COLOR", "1")], &[&bob.address]);
    alice.sees("alice> ");
    alice.press("\u{1b}[200~size\nfiles\u{1b}[201~\r");
    alice.sees("2 nodes");
    alice.sees("nothing is shared");
    alice.sees("alice> ");
    alice.press("\u{1b}[200~msg two\nexit\u{1b}[201~\r");
    alice.sees("sent to 1 node");
    assert_eq!(bob.event("node_message")["data"], "two\nexit");
    alice.sees("alice> ");
    alice.press("\u{4}");
    assert_eq!(alice.status(), Some(0));
}

#[test]
fn a_signal_at_the_question_for_a_ticket_leaves_the_terminal_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    // Repeated, right after line editing has begun: a signal just before the first key was once lost.
    for (signal, status) in stopping_signals().into_iter().cycle().take(24) {
        let mut asked = Prompt::start_at_question(home.path());
        send_signal(&asked.child, signal);
        asked.sees("stopped before the fetch began");
        assert_eq!(asked.status(), Some(status), "{signal:?}");
        assert!(asked.echoes(), "{signal:?} leaves a terminal without echo");
    }
}

#[test]
fn a_resized_window_keeps_the_text_typed_at_the_question_for_a_ticket() {
    let home = tempfile::tempdir().unwrap();
    let mut asked = Prompt::start_at_question(home.path());
    for _ in 0..3 {
        send_signal(&asked.child, Signal::WINCH);
        asked.press("x");
        asked.sees("x");
    }
    asked.press("\r");
    asked.sees("neither a ticket");
    asked.sees("Ticket");
    asked.press("\u{3}");
    asked.sees("stopped before the fetch began");
    assert_eq!(asked.status(), Some(130));
}

#[test]
fn a_signal_at_the_prompt_stops_the_node_with_or_without_typed_text() {
    let home = tempfile::tempdir().unwrap();
    for (signal, _) in stopping_signals() {
        for typed in ["", "half a comm"] {
            let mut alice = Prompt::start(home.path(), &[("NO_COLOR", "1")], &[]);
            alice.sees("alice> ");
            alice.press(typed);
            alice.sees(typed);
            send_signal(&alice.child, signal);
            assert_eq!(alice.status(), Some(0), "{signal:?} after {typed:?}");
            assert!(alice.echoes(), "{signal:?} leaves a terminal without echo");
        }
    }
}

#[test]
fn a_terminal_that_is_closed_stops_a_node_cleanly() {
    let home = tempfile::tempdir().unwrap();
    let mut other = Program::start(home.path(), "bob", &[]);
    for args in [&[][..], &["--json"]] {
        let (ours, terminal) = open_terminal();
        let end = || Stdio::from(terminal.try_clone().unwrap());
        let mut command = peerkit(home.path());
        command.args(["run", "--manual", "--listen", "127.0.0.1:0", &other.address]).args(args);
        let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        other.event("inbound_node_connected");
        drop((ours, terminal, command));
        let event = other.event("inbound_node_disconnected");
        assert_eq!(event["data"]["by_peer"], true, "{args:?}: {event}");
        let status = wait_or_kill(&mut child);
        assert_eq!(status.code(), Some(0), "{args:?}");
    }
    other.exit();
}
