//! What came of a scenario, as figures with their bounds.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::id::Hash;

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// How many nodes there were in all.
    pub nodes: usize,
    /// What was measured, in its order.
    pub measures: Vec<Measure>,
    /// How much time has passed for the nodes, in milliseconds.
    pub virtual_ms: u64,
    /// Frames that were sent.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The hash of all that has happened.
    pub trace: Hash,
}

/// Something that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measure {
    /// In which step.
    pub step: String,
    /// What.
    pub what: &'static str,
    /// What it is.
    pub value: Figure,
    /// What it has to be.
    pub bound: Bound,
    /// Whether it is so.
    pub held: bool,
}

/// A figure. As JSON a number, times in seconds; null for what never came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// How many.
    Count(u64),
    /// A number in thousandths.
    Ratio(u64),
    /// Of a hundred, in thousandths.
    Percent(u64),
    /// How long.
    Time(Duration),
    /// It has not come to be.
    Never,
}

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This or less.
    AtMost(Figure),
    /// This or more.
    AtLeast(Figure),
    /// This.
    Exactly(Figure),
}

impl Report {
    /// Whether all that was measured is as it has to be.
    #[must_use]
    pub fn held(&self) -> bool {
        self.measures.iter().all(|measure| measure.held)
    }
}

impl Measure {
    /// A figure that has been measured, and its bound.
    #[must_use]
    pub fn new(step: String, what: &'static str, value: Figure, bound: Bound) -> Self {
        let held = match bound {
            _ if value == Figure::Never => false,
            Bound::AtMost(most) => value <= most,
            Bound::AtLeast(least) => value >= least,
            Bound::Exactly(exactly) => value == exactly,
        };
        Self { step, what, value, bound, held }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Ratio(ratio) => write!(f, "{}.{:02}", ratio / 1000, ratio % 1000 / 10),
            // Rounded down: what is not all does not read as if it were.
            Self::Percent(percent) => match (percent / 1000, percent % 1000) {
                (whole, 0) => write!(f, "{whole} %"),
                (whole, rest) => write!(f, "{whole}.{rest:03} %"),
            },
            Self::Time(time) if *time < Duration::from_secs(1) => {
                write!(f, "{} ms", time.as_millis())
            }
            Self::Time(time) => {
                write!(f, "{}.{} s", time.as_secs(), time.subsec_millis() / 100)
            }
            Self::Never => f.write_str("never"),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(figure) => write!(f, "at most {figure}"),
            Self::AtLeast(figure) => write!(f, "at least {figure}"),
            Self::Exactly(figure) => write!(f, "{figure}"),
        }
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::Ratio(thousandths) | Self::Percent(thousandths) => {
                serializer.serialize_f64(*thousandths as f64 / 1000.0)
            }
            Self::Time(time) => serializer.serialize_f64(time.as_millis() as f64 / 1000.0),
            Self::Never => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_within_their_bounds_or_not() {
        let measure = |value, bound| Measure::new("s".into(), "w", value, bound);
        assert!(measure(Figure::Count(5), Bound::AtMost(Figure::Count(5))).held);
        assert!(!measure(Figure::Count(6), Bound::AtMost(Figure::Count(5))).held);
        assert!(!measure(Figure::Percent(99_999), Bound::AtLeast(Figure::Percent(100_000))).held);
        assert!(!measure(Figure::Never, Bound::AtMost(Figure::Time(Duration::MAX))).held);
        assert!(!measure(Figure::Never, Bound::AtLeast(Figure::Count(0))).held);
        assert_eq!(Figure::Percent(99_999).to_string(), "99.999 %");
        assert_eq!(Figure::Ratio(1083).to_string(), "1.08");
        assert_eq!(Figure::Time(Duration::from_millis(1250)).to_string(), "1.2 s");
    }
}
