//! Lines of the log on their way to the prompt or to standard error. A thread of its own writes them: a
//! reader that does not read holds up nothing but the log.

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
use crate::output::Output;

/// Lines that may wait for the writing thread. 1,024: some 100 KiB, a burst of `debug on`.
const QUEUE: usize = 1024;

/// How long the end of the program waits for the last lines to be read.
const FLUSH: Duration = Duration::from_secs(1);

static QUEUED: Mutex<Queue> = Mutex::new(Queue { lines: VecDeque::new(), is_writing: false });

/// Wakes the writing thread once there is a line.
static NEWS: Condvar = Condvar::new();

/// Wakes those that wait until all lines are written.
static WRITTEN: Condvar = Condvar::new();

/// The prompt's output, once there is one: the log would write over the prompt otherwise.
static PROMPT: OnceLock<Output> = OnceLock::new();

/// Whether a line is a JSON object.
static JSON: AtomicBool = AtomicBool::new(false);

/// Lines that wait, oldest first.
struct Queue {
    lines: VecDeque<Line>,
    /// The thread is writing a line that it has taken.
    is_writing: bool,
}

/// A line, with its end.
struct Line {
    text: String,
    /// Lines behind it that found no room.
    left_out: u64,
}

/// Starts the thread that writes; `json` says what a line looks like.
pub(super) fn start(json: bool) {
    JSON.store(json, Ordering::Relaxed);
    thread::spawn(|| {
        loop {
            write(next());
        }
    });
}

/// Has lines written through the prompt from now on.
pub(super) fn through(output: Output) {
    let _ = PROMPT.set(output);
}

/// Queues a line. One that finds no room is counted: a line in its place says how many are missing.
pub(super) fn put(text: String) {
    let mut queue = queued();
    let is_full = queue.lines.len() >= QUEUE;
    match queue.lines.back_mut() {
        Some(last) if is_full => last.left_out += 1,
        _ => queue.lines.push_back(Line { text, left_out: 0 }),
    }
    NEWS.notify_one();
}

/// Waits until the lines are written, but not long for a reader that does not read.
pub(crate) fn finish() {
    let waits = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
    let _ = WRITTEN.wait_timeout_while(queued(), FLUSH, waits);
}

fn queued() -> MutexGuard<'static, Queue> {
    lock(&QUEUED)
}

/// Waits for the next line, and takes it.
fn next() -> Line {
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

fn write(Line { mut text, left_out }: Line) {
    if left_out > 0 {
        text.push_str(&gap(left_out));
    }
    let unwritten = match PROMPT.get() {
        Some(prompt) => prompt.log(text),
        None => Some(text),
    };
    if let Some(text) = unwritten {
        // A reader that has gone away misses nothing that it would want.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Returns the line that stands where so many are missing.
fn gap(left_out: u64) -> String {
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let message = "lines of the log were left out: they come faster than they are read";
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
