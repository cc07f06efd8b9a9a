//! `peerkit sim`: runs scenarios in the simulator, and checks their results.

use std::fs;
use std::io::{self, IsTerminal, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use peerkit::sim::scenario::{self, Bound, Figure, Measure, Progress, Report, Scenario};
use serde_json::{Value, json};

use crate::args::SimArgs;
use crate::text::{Paint, count, plain, time};
use crate::{UsageError, print};

/// Time after which a run begins to show its progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// Interval between updates of the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Runs the scenarios. Returns true if all expectations held.
pub(crate) fn sim(args: &SimArgs) -> anyhow::Result<bool> {
    let scenarios = args.files.iter().map(|file| read(file, args.nodes));
    let scenarios = scenarios.collect::<anyhow::Result<Vec<_>>>()?;
    let seeds = match args.seeds {
        Some(seeds) => 1..=seeds,
        None => args.seed..=args.seed,
    };
    let paint = Paint::on(&io::stdout());
    let (mut runs, mut failed) = (0, 0);
    for scenario in &scenarios {
        for seed in seeds.clone() {
            let (report, took) = run(scenario, seed)?;
            if args.json {
                print(format!("{}\n", line(&report, took)).as_bytes())?;
            } else {
                print(table(&report, took, paint).as_bytes())?;
            }
            runs += 1;
            failed += usize::from(!report.held());
        }
    }
    if runs > 1 && !args.json {
        let verdict = match failed {
            0 => paint.good("all held"),
            failed => paint.bad(&format!("{failed} did not hold")),
        };
        print(format!("{}: {verdict}\n", count(runs, "run")).as_bytes())?;
    }
    Ok(failed == 0)
}

fn read(file: &Path, nodes: Option<usize>) -> anyhow::Result<Scenario> {
    let shown = plain(&file.display().to_string());
    let text = fs::read_to_string(file)
        .map_err(|error| UsageError(format!("can't read the scenario {shown}: {error}")))?;
    let mut scenario: Scenario = toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        UsageError(format!("{shown} is not a scenario: line {line}: {}", error.message()))
    })?;
    scenario.nodes = nodes.unwrap_or(scenario.nodes);
    scenario.check().map_err(|error| UsageError(format!("{shown} is not a scenario: {error}")))?;
    Ok(scenario)
}

/// Runs a scenario. Adds measures of the time and memory that the run took, if the scenario limits
/// them.
fn run(scenario: &Scenario, seed: u64) -> anyhow::Result<(Report, Duration)> {
    let begun = Instant::now();
    let mut shown = ProgressLine::default();
    let report = scenario::run(scenario, seed, |progress| shown.show(scenario, seed, progress));
    shown.clear();
    let mut report = report.map_err(UsageError)?;
    let took = begun.elapsed();
    let machine = |what, value, most| {
        Measure::new("this machine".to_owned(), what, value, Bound::AtMost(most))
    };
    if let Some(most) = scenario.limits.real_time {
        report.measures.push(machine("real time", Figure::Time(took), Figure::Time(most.0)));
    }
    if let Some(most) = scenario.limits.memory_mib {
        // The peak of the whole process, so it may be that of an earlier, larger run.
        let used = memory().map_or(Figure::Never, Figure::Count);
        report.measures.push(machine("memory, MiB", used, Figure::Count(most)));
    }
    Ok((report, took))
}

/// Returns the peak memory of this process in MiB, if the system reports it.
fn memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

/// The progress of a run, on one line of a terminal.
#[derive(Default)]
struct ProgressLine {
    begun: Option<Instant>,
    last: Option<Instant>,
}

impl ProgressLine {
    fn show(&mut self, scenario: &Scenario, seed: u64, progress: &Progress) {
        let now = Instant::now();
        let begun = *self.begun.get_or_insert(now);
        // The simulator reports far more often than a person can read.
        let soon = self.last.is_some_and(|last| now - last < PROGRESS_INTERVAL);
        if now - begun < PROGRESS_AFTER || soon || !io::stderr().is_terminal() {
            return;
        }
        self.last = Some(now);
        let Progress { step, steps, title, percent, time } = progress;
        let (name, title) = (plain(&scenario.name), plain(title));
        let time = time.as_secs();
        let line =
            format!("{name}, seed {seed}: step {step} of {steps}, {title}, {percent} % ({time} s)");
        let _ = write!(io::stderr(), "\r\x1b[K{line}");
    }

    fn clear(&self) {
        if self.last.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Returns the measures of a run as a table.
fn table(report: &Report, took: Duration, paint: Paint) -> String {
    let mut text = format!(
        "{}, seed {}: {}\n",
        paint.strong(&plain(&report.scenario)),
        report.seed,
        count(report.nodes, "node")
    );
    let steps = report.measures.iter().map(|measure| plain(&measure.step).chars().count());
    let (steps, whats) =
        (steps.max().unwrap_or(0), report.measures.iter().map(|measure| measure.what.len()));
    let whats = whats.max().unwrap_or(0);
    for measure in &report.measures {
        let mark = if measure.held { paint.good("✓") } else { paint.bad("✗") };
        let (step, value) = (plain(&measure.step), measure.value.to_string());
        let (what, bound) = (measure.what, paint.faint(&measure.bound.to_string()));
        text += &format!("  {mark} {step:<steps$}  {what:<whats$}  {value:>9}  {bound}\n");
    }
    let virtual_time = time(Duration::from_millis(report.virtual_ms));
    let trace = report.trace.to_string();
    let rest = format!(
        "{virtual_time} for the nodes, {} here, {} frames, trace {}",
        time(took),
        report.frames,
        &trace[..16]
    );
    text + &format!("    {}\n\n", paint.faint(&rest))
}

/// Returns the JSON line of a run.
fn line(report: &Report, took: Duration) -> Value {
    let mut line = serde_json::to_value(report).expect("a report has a JSON form");
    line["held"] = json!(report.held());
    line["real_ms"] = json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::SIM_EXAMPLES;

    #[test]
    fn the_scenario_in_the_help_is_valid() {
        let lines = SIM_EXAMPLES.lines().skip(1).take_while(|line| !line.starts_with("Other keys"));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        let scenario: Scenario = toml::from_str(&text).unwrap();
        scenario.check().unwrap();
        assert_eq!((scenario.nodes, scenario.steps.len()), (200, 3));
    }
}
