//! The results of a scenario: measurements and their bounds.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::id::Hash;

/// The results of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: usize,
    /// The measurements, in the order of the steps.
    pub measures: Vec<Measure>,
    /// Virtual time that has passed, in milliseconds.
    pub virtual_ms: u64,
    /// Number of frames that were sent.
    pub frames: u64,
    /// Number of bytes of these frames.
    pub bytes: u64,
    /// The hash of everything that has happened.
    pub trace: Hash,
}

/// A measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measure {
    /// The name of the step.
    pub step: String,
    /// The name of the measurement.
    pub what: &'static str,
    /// The measured value.
    pub value: Figure,
    /// The bound of the value.
    pub bound: Bound,
    /// The value is within the bound.
    pub held: bool,
}

/// A measured value. As JSON it is a number, with times in seconds, or null for `Never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// A count.
    Count(u64),
    /// A number in thousandths.
    Ratio(u64),
    /// A percentage in thousandths.
    Percent(u64),
    /// A time.
    Time(Duration),
    /// The time or ratio of something that has not happened.
    Never,
}

/// The bound of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// At most this.
    AtMost(Figure),
    /// At least this.
    AtLeast(Figure),
    /// Exactly this.
    Exactly(Figure),
}

impl Report {
    /// Returns whether all measurements are within their bounds.
    #[must_use]
    pub fn held(&self) -> bool {
        self.measures.iter().all(|measure| measure.held)
    }
}

impl Measure {
    /// Creates a measurement, and compares its value with the bound.
    #[must_use]
    pub fn new(step: String, what: &'static str, value: Figure, bound: Bound) -> Self {
        let held = match bound {
            // This arm is the first, because `Never` is greater than all other figures, so it would pass as
            // `AtLeast`.
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
            // Rounded down, so that 99.9999 % is not printed as 100 %.
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
    fn figures_are_compared_with_their_bounds_and_printed() {
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
