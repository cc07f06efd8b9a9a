//! The output of the demo: a line for each step, as text or JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::json;
use crate::text::{self, Paint, count, millis, plain, time};

/// Prints the steps.
pub(super) struct StepPrinter {
    json: bool,
    paint: Paint,
}

/// The result of a step.
pub(super) struct StepResult {
    text: String,
    details: Vec<String>,
    /// The figures of the JSON line.
    fields: Value,
}

/// The error of a step that failed, which is already printed.
#[derive(Debug, thiserror::Error)]
#[error("a step failed")]
pub(super) struct StepFailed;

impl StepResult {
    /// Returns a result with its text, and its fields, which have to be a JSON object.
    pub(super) fn new(text: String, fields: Value) -> Self {
        Self { text, details: Vec::new(), fields }
    }

    /// Adds lines below that of the step.
    pub(super) fn details(self, details: Vec<String>) -> Self {
        Self { details, ..self }
    }
}

impl StepPrinter {
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

    /// Takes a step and prints its result. Returns the value that the next steps need.
    ///
    /// # Errors
    /// [`StepFailed`] if it has failed, which is already printed; any other error if printing
    /// fails.
    pub(super) async fn step<T>(
        &self,
        name: &str,
        step: impl Future<Output = anyhow::Result<(StepResult, T)>>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        let result = step.await;
        let elapsed = begun.elapsed();
        let (line, value) = match result {
            Ok((figures, value)) if self.json => {
                (json_line(name, true, elapsed, figures.fields), Ok(value))
            }
            Ok((figures, value)) => (self.text(name, elapsed, &figures), Ok(value)),
            Err(error) => (self.failure(name, elapsed, &error), Err(StepFailed)),
        };
        self.put(&line)?;
        Ok(value?)
    }

    /// Takes a step that has no value for the next steps.
    pub(super) async fn check(
        &self,
        name: &str,
        step: impl Future<Output = anyhow::Result<StepResult>>,
    ) -> anyhow::Result<()> {
        self.step(name, async { Ok((step.await?, ())) }).await
    }

    pub(super) fn kept(&self, folder: &Path) -> io::Result<()> {
        if self.json {
            return self.put(&json::line(&json!({"kept": folder.to_string_lossy()})));
        }
        self.put(&format!("\nthe files are in {}\n", folder.display()))
    }

    pub(super) fn end(&self, end: DemoOutcome, elapsed: Duration) -> io::Result<()> {
        if self.json {
            let fields =
                if end == DemoOutcome::Stopped { json!({ "error": STOPPED }) } else { json!({}) };
            return self.put(&json_line("end", end == DemoOutcome::Worked, elapsed, fields));
        }
        let text = match end {
            DemoOutcome::Worked => {
                self.paint.good(&format!("All of it worked, in {}.", time(elapsed)))
            }
            DemoOutcome::Failed => self.paint.bad("It did not work: see the step marked ✗ above."),
            DemoOutcome::Stopped => self.paint.bad(&format!("It was {STOPPED}.")),
        };
        self.put(&format!("\n{text}\n"))
    }

    fn failure(&self, name: &str, elapsed: Duration, error: &anyhow::Error) -> String {
        let error = text::error(error);
        if self.json {
            return json_line(name, false, elapsed, json!({ "error": error }));
        }
        format!("{} {name:10} {}\n", self.paint.bad("✗"), plain(&error))
    }

    fn text(&self, name: &str, elapsed: Duration, figures: &StepResult) -> String {
        let (mark, name) = (self.paint.good("✓"), self.paint.strong(&format!("{name:10}")));
        let elapsed = self.paint.faint(&format!("[{}]", time(elapsed)));
        let mut text = format!("{mark} {name} {} {elapsed}\n", figures.text);
        for line in &figures.details {
            let _ = writeln!(text, "             {line}");
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
pub(super) enum DemoOutcome {
    Worked,
    /// A step failed, and its report says why.
    Failed,
    /// A signal ended it.
    Stopped,
}

const STOPPED: &str = "stopped before it was done";

fn json_line(name: &str, ok: bool, elapsed: Duration, mut fields: Value) -> String {
    fields["step"] = name.into();
    fields["ok"] = ok.into();
    fields["elapsed_ms"] = millis(elapsed).into();
    json::line(&fields)
}
