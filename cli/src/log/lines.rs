//! The queue of log lines for the prompt or standard error. A thread of its own writes them, so a
//! reader that does not read blocks only the log.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use crate::lock::{lock, wait};
use crate::output::Printer;

/// Maximum number of lines that wait for the writing thread. 1,024: some 100 KiB, enough for a burst
/// after `debug on`.
const QUEUE: usize = 1024;

/// Maximum time that the program waits at its end until the last lines are written.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

static QUEUED: Mutex<LogQueue> = Mutex::new(LogQueue { lines: VecDeque::new(), is_writing: false });

/// Wakes the writing thread once there is a line.
static NEWS: Condvar = Condvar::new();

/// Wakes the threads that wait until all lines are written.
static WRITTEN: Condvar = Condvar::new();

/// The printer of the prompt, if there is a prompt. A line that did not go through it would overwrite
/// the prompt.
static PROMPT: OnceLock<Printer> = OnceLock::new();

/// True if each line is a JSON object.
static JSON: AtomicBool = AtomicBool::new(false);

/// The waiting lines, oldest first.
struct LogQueue {
    lines: VecDeque<QueuedLine>,
    /// True while the thread writes a line that it has taken out.
    is_writing: bool,
}

/// A line, with its newline.
struct QueuedLine {
    text: String,
    /// Number of lines that came after this one and were dropped.
    left_out: u64,
}

/// Starts the writing thread. If `json`, each line is a JSON object.
pub(super) fn start(json: bool) {
    JSON.store(json, Ordering::Relaxed);
    thread::spawn(|| {
        loop {
            write(next());
        }
    });
}

/// Writes lines through the prompt from now on.
pub(super) fn through(output: Printer) {
    let _ = PROMPT.set(output);
}

/// Queues a line. If the queue is full, the line is dropped and counted; a line in its place says
/// how many are missing.
pub(super) fn put(text: String) {
    let mut queue = queued();
    let is_full = queue.lines.len() >= QUEUE;
    match queue.lines.back_mut() {
        // The new line is dropped, not an old one, so the gap is at the end of the queue.
        Some(last) if is_full => last.left_out += 1,
        _ => queue.lines.push_back(QueuedLine { text, left_out: 0 }),
    }
    NEWS.notify_one();
}

/// Waits until all lines are written, at most [`FLUSH_WAIT`].
pub(crate) fn finish() {
    // The wait is limited, since a reader that does not read may block the thread.
    let waits = |queue: &mut LogQueue| queue.is_writing || !queue.lines.is_empty();
    let _ = WRITTEN.wait_timeout_while(queued(), FLUSH_WAIT, waits);
}

fn queued() -> MutexGuard<'static, LogQueue> {
    lock(&QUEUED)
}

/// Waits for the next line, and takes it out of the queue.
fn next() -> QueuedLine {
    let mut queue = queued();
    queue.is_writing = false;
    loop {
        if let Some(line) = queue.lines.pop_front() {
            queue.is_writing = true;
            return line;
        }
        WRITTEN.notify_all();
        queue = wait(&NEWS, queue);
    }
}

fn write(QueuedLine { mut text, left_out }: QueuedLine) {
    if left_out > 0 {
        // In one write with the line before it, so that no other output comes between.
        text.push_str(&gap(left_out));
    }
    // If the thread of the prompt has ended, the line goes to standard error.
    let unwritten = match PROMPT.get() {
        Some(prompt) => prompt.log(text),
        None => Some(text),
    };
    if let Some(text) = unwritten {
        // If standard error is closed, there is nowhere to report it.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Returns the line that stands in place of the dropped lines.
fn gap(left_out: u64) -> String {
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let message = "lines of the log were left out: they were written faster than they were read";
    if JSON.load(Ordering::Relaxed) {
        let fields = json!({"message": message, "left_out": left_out});
        let target = "peerkit::log";
        let line = json!({"timestamp": time, "level": "WARN", "fields": fields, "target": target});
        return format!("{line}\n");
    }
    let mut line = time;
    let _ = writeln!(line, "  WARN peerkit::log: {left_out} {message}");
    line
}
