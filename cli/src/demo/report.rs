//! What the demo prints: a line for each step, or a line of JSON.

use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::json;
use crate::text::{self, Paint, count, millis, plain, time};

/// Prints the steps.
pub(super) struct Report {
    json: bool,
    paint: Paint,
}

/// What came out of a step.
pub(super) struct Figures {
    text: String,
    details: Vec<String>,
    fields: Map<String, Value>,
}

/// A step failed, and that was printed.
#[derive(Debug)]
pub(super) struct Failed;

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a step failed")
    }
}

impl std::error::Error for Failed {}

impl Figures {
    /// In words.
    pub(super) fn new(text: String) -> Self {
        Self { text, details: Vec::new(), fields: Map::new() }
    }

    /// A figure of the JSON line.
    pub(super) fn field(mut self, name: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).expect("our own types have a JSON form");
        self.fields.insert(name.to_owned(), value);
        self
    }

    /// Lines below the step's own.
    pub(super) fn details(self, details: Vec<String>) -> Self {
        Self { details, ..self }
    }
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json, paint: Paint::on(&io::stdout()) }
    }

    pub(super) fn title(&self, nodes: usize) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let title = self.paint.strong("peerkit demo");
        self.put(&format!(
            "{title}: {} on this machine, real sockets, every link encrypted\n\n",
            count(nodes, "node")
        ))
    }

    /// Takes a step and prints how it went. Gives what the next steps need of it.
    ///
    /// # Errors
    /// [`Failed`] where it failed, which is printed already; or where printing does.
    pub(super) async fn step<T>(
        &self,
        name: &str,
        step: impl Future<Output = anyhow::Result<(Figures, T)>>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        let result = step.await;
        let elapsed = begun.elapsed();
        let (line, value) = match result {
            Ok((figures, value)) if self.json => {
                (json_line(name, true, elapsed, figures.fields), Ok(value))
            }
            Ok((figures, value)) => (self.text(name, elapsed, &figures), Ok(value)),
            Err(error) => (self.failure(name, elapsed, &error), Err(Failed)),
        };
        self.put(&line)?;
        Ok(value?)
    }

    pub(super) fn kept(&self, folder: &Path) -> io::Result<()> {
        if self.json {
            return self.put(&json::line(&json!({"kept": folder.to_string_lossy()})));
        }
        self.put(&format!("\nthe files are in {}\n", folder.display()))
    }

    pub(super) fn end(&self, end: End, elapsed: Duration) -> io::Result<()> {
        if self.json {
            let mut fields = Map::new();
            if end == End::Stopped {
                fields.insert("error".to_owned(), STOPPED.into());
            }
            return self.put(&json_line("end", end == End::Worked, elapsed, fields));
        }
        let text = match end {
            End::Worked => self.paint.good(&format!("All of it worked, in {}.", time(elapsed))),
            End::Failed => self.paint.bad("It did not work: see the step marked ✗ above."),
            End::Stopped => self.paint.bad(&format!("It was {STOPPED}.")),
        };
        self.put(&format!("\n{text}\n"))
    }

    fn failure(&self, name: &str, elapsed: Duration, error: &anyhow::Error) -> String {
        let error = text::error(error);
        if self.json {
            let fields = Map::from_iter([("error".to_owned(), error.into())]);
            return json_line(name, false, elapsed, fields);
        }
        format!("{} {name:10} {}\n", self.paint.bad("✗"), plain(&error))
    }

    fn text(&self, name: &str, elapsed: Duration, figures: &Figures) -> String {
        let mut text = format!(
            "{} {} {} {}\n",
            self.paint.good("✓"),
            self.paint.strong(&format!("{name:10}")),
            figures.text,
            self.paint.faint(&format!("[{}]", time(elapsed))),
        );
        for line in &figures.details {
            text.push_str("             ");
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    fn put(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }
}

/// The outcome of a demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Worked,
    /// A step failed, and its report says why.
    Failed,
    /// A signal ended it.
    Stopped,
}

const STOPPED: &str = "stopped before it was done";

fn json_line(name: &str, ok: bool, elapsed: Duration, fields: Map<String, Value>) -> String {
    let mut line = json!({"step": name, "ok": ok, "elapsed_ms": millis(elapsed)});
    if let Value::Object(line) = &mut line {
        line.extend(fields);
    }
    json::line(&line)
}
