//! Where results and events go: lines, written by one thread, whole and in order.
//!
//! A reader of our output may be slow, and writing to it then blocks. It blocks this thread and,
//! once the queue is full, those who print; never the node.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use peerkit::{Event, Node};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::human;
use crate::json::{self, EventLine, ResultLine, Stopped};
use crate::outcome::Outcome;
use crate::progress::Bars;
use crate::text::Paint;

/// Lines that may wait for the writing thread: a few screens.
const QUEUE: usize = 256;

/// How long the last lines may take to be read: as long as the node flushes its links.
const FLUSH: Duration = Duration::from_secs(5);

/// Prints results and events. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Output {
    lines: mpsc::Sender<Line>,
    json: bool,
    paint: Paint,
    errors: Paint,
    /// Cancelled once nothing waits any more for a reader that does not read.
    late: CancellationToken,
}

/// The writing end of an [`Output`].
pub(crate) struct Writer {
    lines: mpsc::Sender<Line>,
    ended: std_mpsc::Receiver<io::Result<()>>,
    broken: CancellationToken,
    /// The lines go to a terminal, which may be closed.
    is_terminal: bool,
}

/// What takes the lines.
pub(crate) enum Sink {
    /// Standard output, and standard error for errors.
    Streams,
    /// The prompt of a terminal, which moves down.
    Prompt(Box<dyn rustyline::ExternalPrinter + Send>),
}

enum Line {
    Out(String),
    Err(String),
    /// What stands above the prompt from now on, in place of what stood there.
    Above(String),
    /// A line was typed: what stands above it stays there.
    Typed,
    /// All before it is written.
    Mark(oneshot::Sender<()>),
    End,
}

impl Output {
    /// Starts the writing thread. After `stop` is cancelled, lines wait for a reader that does not
    /// read only for [`FLUSH`]: such a reader must not keep the node from its end.
    pub(crate) fn start(
        json: bool,
        sink: Sink,
        bars: Bars,
        stop: &CancellationToken,
    ) -> (Self, Writer) {
        let (lines, queue) = mpsc::channel(QUEUE);
        let (end, ended) = std_mpsc::channel();
        let broken = CancellationToken::new();
        let token = broken.clone();
        thread::spawn(move || {
            let result = write_lines(queue, sink, &bars);
            if result.is_err() {
                token.cancel();
            }
            let _ = end.send(result);
        });
        let late = CancellationToken::new();
        let (stop, given_up) = (stop.clone(), late.clone());
        tokio::spawn(async move {
            stop.cancelled().await;
            tokio::time::sleep(FLUSH).await;
            given_up.cancel();
        });
        let output = Self {
            lines: lines.clone(),
            json,
            paint: Paint::on(&io::stdout()),
            errors: Paint::on(&io::stderr()),
            late,
        };
        let is_terminal = io::stdout().is_terminal();
        let writer = Writer { lines, ended, broken, is_terminal };
        (output, writer)
    }

    /// Whether JSON lines are wanted.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// How text on standard output is coloured.
    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    /// Prints the result of a command.
    pub(crate) async fn result(&self, command: &str, result: &Result<Outcome, anyhow::Error>) {
        let line = match result {
            _ if self.json => Line::Out(json::line(&ResultLine::new(command, result))),
            Ok(outcome) => Line::Out(human::outcome(self.paint, command, outcome) + "\n"),
            Err(error) => Line::Err(human::error(self.errors, error) + "\n"),
        };
        self.put(line).await;
    }

    /// Prints an event.
    pub(crate) async fn event(&self, node: &Node, event: &Event) {
        if self.json {
            let line = json::line(&EventLine::new(node, event));
            self.put(Line::Out(line)).await;
            return;
        }
        let failure = matches!(
            event,
            Event::OutboundNodeConnectionError { .. }
                | Event::InboundNodeConnectionError { .. }
                | Event::NodeReconnectionError { .. }
                | Event::NodeMessageFailed { .. }
                | Event::NodeDownloadFailed { .. }
                | Event::NodeSourceDropped { .. }
                | Event::NodeShareChanged { .. }
                | Event::NodeLagged { .. }
                | Event::NodeShutdownRefused { .. }
                | Event::NodeBroadcastsMissed { .. }
                | Event::NodeHandlerPanicked { .. }
                | Event::NodeClockSkew { .. }
        );
        let paint = if failure { self.errors } else { self.paint };
        if let Some(text) = human::event(paint, node, event) {
            let line = if failure { Line::Err } else { Line::Out };
            self.put(line(text + "\n")).await;
        }
    }

    /// Tells that the node has not joined its network, and when it tries again. In JSON the events
    /// of the links that failed say as much.
    pub(crate) async fn not_joined(&self, error: &str, again: Option<Duration>) {
        if !self.json {
            self.put(Line::Err(human::not_joined(self.errors, error, again) + "\n")).await;
        }
    }

    /// Prints a warning. In JSON it is left out: events say as much.
    pub(crate) async fn warning(&self, text: String) {
        if !self.json {
            self.put(Line::Err(human::warning(self.errors, &text) + "\n")).await;
        }
    }

    /// Tells what a node that has stopped had sent of files; that it was nothing if `always`.
    pub(crate) async fn stopped(&self, node: &Node, always: bool) {
        let totals = node.files().upload_totals();
        let line = match self.json {
            true => json::line(&Stopped::new(node)),
            false if always || totals.peers > 0 => human::uploads::total(&totals) + "\n",
            false => return,
        };
        // A reader that has stopped reading does not keep the program from its end.
        let _ = tokio::time::timeout(FLUSH, self.put(Line::Out(line))).await;
    }

    /// Prints a text as it stands. It has to end with a line's end.
    pub(crate) async fn text(&self, text: String) {
        self.put(Line::Out(text)).await;
    }

    /// Shows lines right above the prompt, in place of those shown before; none for nothing. Each has
    /// to fit the terminal. Without a prompt nothing is shown.
    pub(crate) async fn above_prompt(&self, lines: String) {
        self.put(Line::Above(lines)).await;
    }

    /// Tells that a line was typed at the prompt, which has moved down.
    pub(crate) async fn typed(&self) {
        self.put(Line::Typed).await;
    }

    /// Waits until all lines so far are written.
    pub(crate) async fn settle(&self) {
        let (mark, written) = oneshot::channel();
        self.put(Line::Mark(mark)).await;
        let _ = self.late.run_until_cancelled(written).await;
    }

    /// Prints a line of the log, and waits for room. Returns it once nothing is printed any more.
    pub(crate) fn log(&self, text: String) -> Option<String> {
        match self.lines.blocking_send(Line::Err(text)) {
            Err(mpsc::error::SendError(Line::Err(text))) => Some(text),
            _ => None,
        }
    }

    async fn put(&self, line: Line) {
        // The thread ends early only where its output has broken, which `finish` reports.
        let _ = self.late.run_until_cancelled(self.lines.send(line)).await;
    }
}

impl Writer {
    /// Cancelled once nobody can read the output any more.
    pub(crate) fn broken(&self) -> CancellationToken {
        self.broken.clone()
    }

    /// Waits until all lines are written. A reader that went away is no error: it had enough. Nor is a
    /// terminal that was closed.
    pub(crate) async fn finish(self) -> io::Result<()> {
        let end = self.lines.send(Line::End);
        let _ = tokio::time::timeout(FLUSH, end).await;
        let ended = tokio::task::spawn_blocking(move || self.ended.recv_timeout(FLUSH)).await;
        match ended {
            Ok(Ok(Err(error)))
                if !self.is_terminal && error.kind() != io::ErrorKind::BrokenPipe =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

fn write_lines(mut queue: mpsc::Receiver<Line>, mut sink: Sink, bars: &Bars) -> io::Result<()> {
    let mut above = Above::default();
    while let Some(line) = queue.blocking_recv() {
        match (&mut sink, line) {
            (_, Line::End) => break,
            (_, Line::Mark(mark)) => drop(mark),
            (Sink::Streams, Line::Out(text)) => bars.step_aside(|| {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text.as_bytes())?;
                stdout.flush()
            })?,
            // Where standard error is gone there is nowhere to say so.
            (Sink::Streams, Line::Err(text)) => bars.step_aside(|| {
                let _ = io::stderr().lock().write_all(text.as_bytes());
            }),
            (Sink::Streams, Line::Above(_) | Line::Typed) => {}
            (Sink::Prompt(printer), Line::Out(text) | Line::Err(text)) => {
                let text = above.make_way(&text);
                bars.step_aside(|| printer.print(text)).map_err(io::Error::other)?;
            }
            (Sink::Prompt(printer), Line::Above(lines)) => {
                if let Some(text) = above.set(lines) {
                    printer.print(text).map_err(io::Error::other)?;
                }
            }
            (Sink::Prompt(_), Line::Typed) => above.leave(),
        }
    }
    Ok(())
}

/// What stands above the prompt and is written anew in its place.
#[derive(Default)]
struct Above {
    lines: String,
    /// How many of the lines right above the prompt are these.
    shown: usize,
}

impl Above {
    /// What to print so that `lines` stand there; `None` where they do.
    fn set(&mut self, lines: String) -> Option<String> {
        let same = self.lines == lines && self.shown == lines.lines().count();
        if same {
            return None;
        }
        let mut text = format!("{}{lines}", self.erase());
        if lines.is_empty() && self.shown > 0 {
            // The prompt ends what it prints with a line's end: up one line more makes up for it.
            text.push_str("\u{1b}[A\n");
        }
        self.shown = lines.lines().count();
        self.lines = lines;
        Some(text).filter(|text| !text.is_empty())
    }

    /// What to print so that `text` stands there. When the lines are set again they go below it.
    fn make_way(&mut self, text: &str) -> String {
        let text = format!("{}{text}", self.erase());
        self.shown = 0;
        text
    }

    /// They stay where they are, and are written again below.
    fn leave(&mut self) {
        self.shown = 0;
    }

    fn erase(&self) -> String {
        match self.shown {
            0 => String::new(),
            lines => format!("\u{1b}[{lines}A\u{1b}[J"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_above_the_prompt_are_written_in_their_place() {
        let mut above = Above::default();
        assert_eq!(above.make_way("a\n"), "a\n");
        assert_eq!(above.set("1 %\n2 %\n".into()).unwrap(), "1 %\n2 %\n");
        assert_eq!(above.set("1 %\n2 %\n".into()), None);
        assert_eq!(above.set("3 %\n".into()).unwrap(), "\u{1b}[2A\u{1b}[J3 %\n");
        assert_eq!(above.make_way("b\n"), "\u{1b}[1A\u{1b}[Jb\n");
        assert_eq!(above.set("3 %\n".into()).unwrap(), "3 %\n");
        above.leave();
        assert_eq!(above.set("3 %\n".into()).unwrap(), "3 %\n");
        assert_eq!(above.set(String::new()).unwrap(), "\u{1b}[1A\u{1b}[J\u{1b}[A\n");
        assert_eq!(above.set(String::new()), None);
    }
}
