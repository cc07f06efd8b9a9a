//! Measurements, and tables of their medians. The tables also have the ratio of each system to a reference
//! system.

use std::fmt::Write;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::workload::Job;

/// One measurement. It is serialized as a flat JSON object.
#[derive(Debug, Clone)]
pub(crate) struct Measurement {
    /// The name of the workload.
    pub workload: &'static str,
    /// The name of the system.
    pub system: &'static str,
    /// The name of the system with which this system is compared.
    pub reference: &'static str,
    /// The name of the case, such as `64 B` or `32 peers`.
    pub case: String,
    /// The measured figures.
    pub figures: Vec<Figure>,
}

/// One figure of a measurement.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// The name of the figure, with its unit at the end, such as `messages_per_s`.
    pub name: &'static str,
    /// The value of the figure.
    pub value: f64,
    /// The direction in which the figure gets better.
    pub better: Better,
}

/// The direction in which a figure gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// Larger is better.
    Higher,
    /// Smaller is better.
    Lower,
    /// The figure is for information. No ratio is printed.
    Neither,
}

impl Measurement {
    /// Creates the measurement of `job`.
    pub(crate) fn new(job: &Job, figures: Vec<Figure>) -> Self {
        let (workload, system) = (job.workload.name(), job.system.name());
        let reference = job.workload.reference().name();
        Self { workload, system, reference, case: job.case.name.clone(), figures }
    }

    fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}

impl Figure {
    /// Creates a figure for which a larger value is better.
    pub(crate) fn higher(name: &'static str, value: f64) -> Self {
        Self { name, value, better: Better::Higher }
    }

    /// Creates a figure for which a smaller value is better.
    pub(crate) fn lower(name: &'static str, value: f64) -> Self {
        Self { name, value, better: Better::Lower }
    }

    /// Creates a figure for information, without a ratio.
    pub(crate) fn info(name: &'static str, value: f64) -> Self {
        Self { name, value, better: Better::Neither }
    }
}

impl Serialize for Measurement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3 + self.figures.len()))?;
        map.serialize_entry("workload", self.workload)?;
        map.serialize_entry("system", self.system)?;
        map.serialize_entry("case", &self.case)?;
        for figure in &self.figures {
            map.serialize_entry(figure.name, &figure.value)?;
        }
        map.end()
    }
}

/// Formats one table for each workload. It has one row for each case and system, in the order in which they
/// were first measured. `rounds` has the measurements of each round.
pub(crate) fn tables(rounds: &[Vec<Measurement>]) -> String {
    let mut out = String::new();
    for workload in distinct(rounds, |measurement| Some(measurement.workload)) {
        table(&mut out, rounds, workload);
    }
    if !out.is_empty() {
        let _ = writeln!(
            out,
            "\nThe values are medians. In brackets is the median of the ratios to the system named above, in the same round. \
             +: more is better, -: less is better."
        );
    }
    out
}

fn table(out: &mut String, rounds: &[Vec<Measurement>], workload: &str) {
    let is_of_workload = |m: &Measurement| m.workload == workload;
    let cases = distinct(rounds, |m| is_of_workload(m).then_some(m.case.as_str()));
    let systems = distinct(rounds, |m| is_of_workload(m).then_some(m.system));
    // All systems of a workload have the same reference, so this is one name.
    let reference = distinct(rounds, |m| is_of_workload(m).then_some(m.reference)).concat();
    let mut columns: Vec<(&str, Better)> = Vec::new();
    for figure in rounds.iter().flatten().filter(|m| is_of_workload(m)).flat_map(|m| &m.figures) {
        if columns.iter().all(|(name, _)| *name != figure.name) {
            columns.push((figure.name, figure.better));
        }
    }
    let mut lines = vec![vec!["case".to_owned(), "system".to_owned()]];
    lines[0].extend(columns.iter().map(|(name, better)| match better {
        Better::Higher => format!("{name} +"),
        Better::Lower => format!("{name} -"),
        Better::Neither => (*name).to_owned(),
    }));
    for case in cases {
        for system in &systems {
            let line = TableRow { rounds, workload, reference: &reference, system, case };
            if line.all().next().is_some() {
                let mut cells = vec![case.to_owned(), (*system).to_owned()];
                cells.extend(columns.iter().map(|(name, better)| line.cell(name, *better)));
                lines.push(cells);
            }
        }
    }
    let has_reference = systems.contains(&reference.as_str());
    let ratios = if has_reference { format!(", ratios to {reference}") } else { String::new() };
    let _ = writeln!(out, "\n{workload}{ratios}");
    write_aligned(out, &lines);
}

/// One row of a table: one case of one system.
struct TableRow<'a> {
    rounds: &'a [Vec<Measurement>],
    workload: &'a str,
    reference: &'a str,
    system: &'a str,
    case: &'a str,
}

impl TableRow<'_> {
    /// Returns the measurements of this row, one for each round.
    fn all(&self) -> impl Iterator<Item = &Measurement> {
        self.rounds.iter().filter_map(|round| self.of(round, self.system))
    }

    fn of<'m>(&self, round: &'m [Measurement], system: &str) -> Option<&'m Measurement> {
        let (workload, case) = (self.workload, self.case);
        round.iter().find(|m| m.workload == workload && m.system == system && m.case == case)
    }

    fn cell(&self, name: &str, better: Better) -> String {
        let values = self.all().filter_map(|m| Some(m.figure(name)?.value));
        let Some(value) = median(values.collect()) else { return String::new() };
        let ratios = self.rounds.iter().filter_map(|round| {
            let reference = self.of(round, self.reference)?.figure(name)?.value;
            Some(self.of(round, self.system)?.figure(name)?.value / reference)
        });
        // The value of the reference may be 0, as processor times are on systems without `/proc`.
        match median(ratios.filter(|ratio| ratio.is_finite()).collect()) {
            Some(ratio) if better != Better::Neither => format!("{} ({ratio:.2})", rounded(value)),
            _ => rounded(value),
        }
    }
}

/// Returns the median. For an even number of values, this is the mean of the two values in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (below, above) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some((values[below] + values[above]) / 2.0)
}

/// Formats a number. The larger it is, the fewer decimal places it gets.
fn rounded(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// Returns the different values that `of` returns for the measurements, in the order of their first
/// occurrence.
fn distinct<'a, T: PartialEq>(
    rounds: &'a [Vec<Measurement>],
    of: impl Fn(&'a Measurement) -> Option<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    for value in rounds.iter().flatten().filter_map(of) {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

/// Writes the table. The first two columns are aligned left, the others right.
fn write_aligned(out: &mut String, lines: &[Vec<String>]) {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    for line in lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(out, "{cell:<width$}"),
                1 => write!(out, "  {cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(system: &'static str, per_s: f64, cpu_s: f64) -> Measurement {
        let figures = vec![Figure::higher("per_s", per_s), Figure::info("cpu_s", cpu_s)];
        let (workload, reference) = ("throughput", "raw-tls");
        Measurement { workload, system, reference, case: "64 B".into(), figures }
    }

    #[test]
    fn a_measurement_is_a_flat_object() {
        let json = serde_json::to_string(&measured("peerkit", 2.5, 1.0)).unwrap();
        let flat =
            r#"{"workload":"throughput","system":"peerkit","case":"64 B","per_s":2.5,"cpu_s":1.0}"#;
        assert_eq!(json, flat);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was twice as fast in the second round. The third round has no reference.
        let rounds = [
            vec![measured("raw-tls", 100.0, 1.0), measured("peerkit", 50.0, 1.0)],
            vec![measured("raw-tls", 200.0, 1.0), measured("peerkit", 100.0, 1.0)],
            vec![measured("peerkit", 900.0, 1.0)],
        ];
        let tables = tables(&rounds);
        let lines: Vec<_> = tables.lines().collect();
        assert_eq!(lines[1], "throughput, ratios to raw-tls");
        assert_eq!(lines[2], "case  system        per_s +  cpu_s");
        assert_eq!(lines[3], "64 B  raw-tls  150.0 (1.00)  1.000");
        assert_eq!(lines[4], "64 B  peerkit  100.0 (0.50)  1.000");
    }

    #[test]
    fn the_median_is_the_value_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
