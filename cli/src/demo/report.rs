//! The output of the demo: one line for each step, as text or as JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::json;
use crate::text::{self, Paint, count, millis, plain, time};

/// Runs the steps and prints their results.
pub(super) struct StepPrinter {
    json: bool,
    paint: Paint,
}

/// The result of a step.
pub(super) struct StepResult {
    text: String,
    details: Vec<String>,
    /// The step's own fields of the JSON line.
    fields: Value,
}

/// The error of a failed step. The line of the step has already given the reason.
#[derive(Debug, thiserror::Error)]
#[error("a step failed")]
pub(super) struct StepFailed;

impl StepResult {
    /// Returns a result that prints as `text`, or as the JSON object `fields`.
    pub(super) fn new(text: String, fields: Value) -> Self {
        Self { text, details: Vec::new(), fields }
    }

    /// Adds lines that are printed below the step's own line.
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

    /// Runs a step and prints its result. Returns the value that the next steps use.
    ///
    /// # Errors
    /// [`StepFailed`] if the step fails, after its error has been printed. Any other error if
    /// printing fails.
    pub(super) async fn step<T>(
        &self,
        name: &str,
        step: impl Future<Output = anyhow::Result<(StepResult, T)>>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        let result = step.await;
        let elapsed = begun.elapsed();
        let (line, value) = match result {
            Ok((result, value)) if self.json => {
                (json_line(name, true, elapsed, result.fields), Ok(value))
            }
            Ok((result, value)) => (self.text(name, elapsed, &result), Ok(value)),
            Err(error) => (self.failure(name, elapsed, &error), Err(StepFailed)),
        };
        self.put(&line)?;
        Ok(value?)
    }

    /// Runs a step that returns no value for the next steps.
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

    pub(super) fn end(&self, outcome: DemoOutcome, elapsed: Duration) -> io::Result<()> {
        if self.json {
            let fields = if outcome == DemoOutcome::Stopped {
                json!({ "error": STOPPED })
            } else {
                json!({})
            };
            return self.put(&json_line("end", outcome == DemoOutcome::Worked, elapsed, fields));
        }
        let text = match outcome {
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
        // Escapes characters that control a terminal, since the error may have text from a peer.
        format!("{} {name:10} {}\n", self.paint.bad("✗"), plain(&error))
    }

    fn text(&self, name: &str, elapsed: Duration, result: &StepResult) -> String {
        let (mark, name) = (self.paint.good("✓"), self.paint.strong(&format!("{name:10}")));
        let elapsed = self.paint.faint(&format!("[{}]", time(elapsed)));
        let mut text = format!("{mark} {name} {} {elapsed}\n", result.text);
        for line in &result.details {
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
    /// A signal ended the demo early.
    Stopped,
}

const STOPPED: &str = "stopped before it was done";

fn json_line(name: &str, ok: bool, elapsed: Duration, mut fields: Value) -> String {
    fields["step"] = name.into();
    fields["ok"] = ok.into();
    fields["elapsed_ms"] = millis(elapsed).into();
    json::line(&fields)
}
