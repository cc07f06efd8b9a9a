//! The output of a node: results and events, written by one thread as whole lines and in order.
//!
//! If the reader of the output is slow, writing blocks. It blocks this thread and, once the queue
//! is full, the tasks that print. It never blocks the node.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use peerkit::{Event, Node};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::commands::CommandOutput;
use crate::human;
use crate::json;
use crate::progress::Bars;
use crate::text::{self, Paint, plain};

/// Maximum number of lines that wait for the writing thread. 256: a few screens.
const QUEUE: usize = 256;

/// Maximum time that the program waits at its end until the last lines are read. 5 s: as long as the
/// node flushes its links.
const FLUSH_WAIT: Duration = Duration::from_secs(5);

/// Prints results and events. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Printer {
    lines: mpsc::Sender<PrintJob>,
    json: bool,
    paint: Paint,
    errors: Paint,
    /// Cancelled [`FLUSH_WAIT`] after the node was asked to stop. Then nothing waits for the reader.
    reader_given_up: CancellationToken,
}

/// A handle of the thread that writes the lines of a [`Printer`].
pub(crate) struct PrinterThread {
    lines: mpsc::Sender<PrintJob>,
    ended: std_mpsc::Receiver<io::Result<()>>,
    broken: CancellationToken,
    /// True if the lines go to a terminal, which the user may close.
    is_terminal: bool,
}

/// The destination of the lines.
pub(crate) enum Sink {
    /// To standard output, errors to standard error.
    Streams,
    /// Above the prompt of a terminal.
    Prompt(Box<dyn rustyline::ExternalPrinter + Send>),
}

enum PrintJob {
    Out(String),
    Err(String),
    /// New text for the lines right above the prompt.
    Above(String),
    /// The user typed a line. The lines above the prompt stay where they are.
    Typed,
    /// Dropped once all lines before it are written.
    Mark(oneshot::Sender<()>),
    End,
}

impl Printer {
    /// Starts the writing thread. After `stop` is cancelled, lines wait at most [`FLUSH_WAIT`] for a
    /// reader that does not read, so that such a reader does not keep the node from stopping.
    pub(crate) fn start(
        json: bool,
        sink: Sink,
        bars: Bars,
        stop: &CancellationToken,
    ) -> (Self, PrinterThread) {
        let (lines, queue) = mpsc::channel(QUEUE);
        let (end, ended) = std_mpsc::channel();
        let broken = CancellationToken::new();
        let token = broken.clone();
        // A thread and not a task, since a write blocks until the reader reads.
        thread::spawn(move || {
            let result = write_lines(queue, sink, &bars);
            if result.is_err() {
                token.cancel();
            }
            let _ = end.send(result);
        });
        let reader_given_up = CancellationToken::new();
        let (stop, given_up) = (stop.clone(), reader_given_up.clone());
        tokio::spawn(async move {
            stop.cancelled().await;
            // A slow reader has this time to read the last lines.
            tokio::time::sleep(FLUSH_WAIT).await;
            given_up.cancel();
        });
        let output = Self {
            lines: lines.clone(),
            json,
            paint: Paint::on(&io::stdout()),
            errors: Paint::on(&io::stderr()),
            reader_given_up,
        };
        let is_terminal = io::stdout().is_terminal();
        let writer = PrinterThread { lines, ended, broken, is_terminal };
        (output, writer)
    }

    /// Returns whether the output is JSON lines.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Returns the colours for standard output.
    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    /// Prints the result of a command.
    pub(crate) async fn result(&self, command: &str, result: anyhow::Result<CommandOutput>) {
        let line = match result {
            result if self.json => PrintJob::Out(json::result(command, &result)),
            Ok(output) => PrintJob::Out(format!("{}\n", output.text.trim_end())),
            Err(error) => PrintJob::Err(human::error(self.errors, &error) + "\n"),
        };
        self.put(line).await;
    }

    /// Prints an event.
    pub(crate) async fn event(&self, node: &Node, event: &Event) {
        if self.json {
            self.put(PrintJob::Out(json::event(node, event))).await;
            return;
        }
        if let Some(text) = human::failure(self.errors, event) {
            self.put(PrintJob::Err(text + "\n")).await;
        } else if let Some(text) = human::event(self.paint, node, event) {
            self.put(PrintJob::Out(text + "\n")).await;
        }
    }

    /// Prints that the node has not joined its network, and when it tries again. JSON output has the
    /// events of the failed dials instead.
    pub(crate) async fn not_joined(&self, error: &str, again: Option<Duration>) {
        if !self.json {
            let again = again.map_or_else(String::new, |wait| {
                format!("; trying again in {}, until it works", text::time(wait))
            });
            self.failure(&format!("not joined: {}{again}", plain(error))).await;
        }
    }

    /// Prints a warning. JSON output has events instead.
    pub(crate) async fn warning(&self, text: &str) {
        if !self.json {
            self.failure(&plain(text)).await;
        }
    }

    async fn failure(&self, text: &str) {
        self.put(PrintJob::Err(format!("{} {text}\n", self.errors.bad("!")))).await;
    }

    /// Prints the totals of the uploads, after the node has stopped. As text, totals of a node that has
    /// sent nothing are printed only if `always`.
    pub(crate) async fn stopped(&self, node: &Node, always: bool) {
        let totals = node.files().upload_totals();
        let line = if self.json {
            json::stopped(node)
        } else if always || totals.peers > 0 {
            human::uploads::total(&totals) + "\n"
        } else {
            return;
        };
        // A reader that does not read must not keep the program from ending.
        let _ = tokio::time::timeout(FLUSH_WAIT, self.put(PrintJob::Out(line))).await;
    }

    /// Prints a text unchanged. It has to end with a newline.
    pub(crate) async fn text(&self, text: String) {
        self.put(PrintJob::Out(text)).await;
    }

    /// Shows lines right above the prompt, in place of the lines of the previous call. Each line has
    /// to fit the width of the terminal. Without a prompt nothing is shown.
    pub(crate) async fn above_prompt(&self, lines: String) {
        self.put(PrintJob::Above(lines)).await;
    }

    /// Notes that the user typed a line, so that the next prompt is further down.
    pub(crate) async fn note_line_typed(&self) {
        self.put(PrintJob::Typed).await;
    }

    /// Waits until all lines so far are written.
    pub(crate) async fn flush(&self) {
        let (mark, written) = oneshot::channel();
        self.put(PrintJob::Mark(mark)).await;
        let _ = self.reader_given_up.run_until_cancelled(written).await;
    }

    /// Prints a line of the log. Blocks until the queue has room. Returns the line if the writing
    /// thread has ended.
    pub(crate) fn log(&self, text: String) -> Option<String> {
        // `blocking_send` would panic in a task. Only the thread of the log calls this function.
        match self.lines.blocking_send(PrintJob::Err(text)) {
            Err(mpsc::error::SendError(PrintJob::Err(text))) => Some(text),
            _ => None,
        }
    }

    async fn put(&self, line: PrintJob) {
        // The thread ends early only if writing failed, which `finish` reports.
        let _ = self.reader_given_up.run_until_cancelled(self.lines.send(line)).await;
    }
}

impl PrinterThread {
    /// Returns a token that is cancelled when writing fails, for example because the reader has
    /// closed the output.
    pub(crate) fn broken(&self) -> CancellationToken {
        self.broken.clone()
    }

    /// Waits until all lines are written. It is no error if the reader has closed the output or the
    /// terminal was closed.
    pub(crate) async fn finish(self) -> io::Result<()> {
        let end = self.lines.send(PrintJob::End);
        let _ = tokio::time::timeout(FLUSH_WAIT, end).await;
        let ended = tokio::task::spawn_blocking(move || self.ended.recv_timeout(FLUSH_WAIT)).await;
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

fn write_lines(mut queue: mpsc::Receiver<PrintJob>, mut sink: Sink, bars: &Bars) -> io::Result<()> {
    let mut above = LinesAbovePrompt::default();
    while let Some(line) = queue.blocking_recv() {
        match (&mut sink, line) {
            (_, PrintJob::End) => break,
            // Lines are written in order, so all lines before the mark are written now.
            (_, PrintJob::Mark(mark)) => drop(mark),
            (Sink::Streams, PrintJob::Out(text)) => bars.while_hidden(|| {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text.as_bytes())?;
                stdout.flush()
            })?,
            // If standard error is closed, there is nowhere to report it.
            (Sink::Streams, PrintJob::Err(text)) => bars.while_hidden(|| {
                let _ = io::stderr().lock().write_all(text.as_bytes());
            }),
            (Sink::Streams, PrintJob::Above(_) | PrintJob::Typed) => {}
            (Sink::Prompt(printer), PrintJob::Out(text) | PrintJob::Err(text)) => {
                // This erases the lines above the prompt. The next update writes them below the text.
                let text = above.print_over(&text);
                bars.while_hidden(|| printer.print(text)).map_err(io::Error::other)?;
            }
            (Sink::Prompt(printer), PrintJob::Above(lines)) => {
                if let Some(text) = above.set(lines) {
                    printer.print(text).map_err(io::Error::other)?;
                }
            }
            (Sink::Prompt(_), PrintJob::Typed) => above.leave_in_place(),
        }
    }
    Ok(())
}

/// The lines above the prompt, which are rewritten in place.
#[derive(Default)]
struct LinesAbovePrompt {
    lines: String,
    /// Number of these lines that are on the screen, right above the prompt.
    shown: usize,
}

impl LinesAbovePrompt {
    /// Returns the text to print so that `lines` are above the prompt; `None` if they are already
    /// there.
    fn set(&mut self, lines: String) -> Option<String> {
        // After `print_over` or `leave_in_place` equal lines have to be written again.
        let same = self.lines == lines && self.shown == lines.lines().count();
        if same {
            return None;
        }
        let mut text = format!("{}{lines}", self.erase());
        if lines.is_empty() && self.shown > 0 {
            // rustyline adds a newline to printed text, so the cursor moves up one more line.
            text.push_str("\u{1b}[A\n");
        }
        self.shown = lines.lines().count();
        self.lines = lines;
        Some(text).filter(|text| !text.is_empty())
    }

    /// Returns the text to print so that `text` stands in place of the lines. The next [`Self::set`]
    /// writes the lines below it.
    fn print_over(&mut self, text: &str) -> String {
        let text = format!("{}{text}", self.erase());
        self.shown = 0;
        text
    }

    /// Leaves the lines where they are. The next [`Self::set`] writes lines below them.
    fn leave_in_place(&mut self) {
        self.shown = 0;
    }

    /// Returns the text to print so that the lines are erased.
    fn erase(&self) -> String {
        match self.shown {
            0 => String::new(),
            // Moves the cursor up to the first of the lines, and erases the screen from there.
            lines => format!("\u{1b}[{lines}A\u{1b}[J"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_above_the_prompt_are_written_in_their_place() {
        let mut above = LinesAbovePrompt::default();
        assert_eq!(above.print_over("a\n"), "a\n");
        assert_eq!(above.set("1 %\n2 %\n".into()).unwrap(), "1 %\n2 %\n");
        assert_eq!(above.set("1 %\n2 %\n".into()), None);
        assert_eq!(above.set("3 %\n".into()).unwrap(), "\u{1b}[2A\u{1b}[J3 %\n");
        assert_eq!(above.print_over("b\n"), "\u{1b}[1A\u{1b}[Jb\n");
        assert_eq!(above.set("3 %\n".into()).unwrap(), "3 %\n");
        above.leave_in_place();
        assert_eq!(above.set("3 %\n".into()).unwrap(), "3 %\n");
        assert_eq!(above.set(String::new()).unwrap(), "\u{1b}[1A\u{1b}[J\u{1b}[A\n");
        assert_eq!(above.set(String::new()), None);
    }
}
