//! What a scenario found out: one of three verdicts, figures and reasons.
//!
//! A violation is never hidden by anything that comes later, and a run in which
//! anything was not judged does not exit with 0.

use std::fmt;

use serde::ser::{Serialize, Serializer};
use serde_json::Value;

use crate::error::Failure;

/// Kill points that one outcome keeps: a loop of many runs adds them up.
const KILL_POINTS_MAX: usize = 1000;

/// What is to be said about a guarantee after a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Every check held.
    Passed,
    /// A guarantee was broken. The evidence is kept.
    Violated,
    /// The machine got in the way (no memory, no disk). Neither pass nor
    /// failure.
    Inconclusive,
}

impl Verdict {
    /// The word that stands in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Violated => "violated",
            Verdict::Inconclusive => "inconclusive",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The exit code of a program that SIGINT ended, as shells have it.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// The exit code of a program that ran scenarios with these verdicts: 1 when
/// anything was violated, else 2 when anything was inconclusive or nothing ran
/// at all, else 0.
pub fn exit_code(verdicts: impl IntoIterator<Item = Verdict>) -> u8 {
    let (mut any, mut inconclusive) = (false, false);
    for verdict in verdicts {
        any = true;
        match verdict {
            Verdict::Violated => return 1,
            Verdict::Inconclusive => inconclusive = true,
            Verdict::Passed => {}
        }
    }
    if inconclusive || !any { 2 } else { 0 }
}

/// Figures of a scenario, in the order in which they were set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(Vec<(String, Value)>);

impl Metrics {
    /// Sets a figure; one of that name is replaced in its place.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// The figure of that name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.iter()
            .find_map(|(known, value)| (known == name).then_some(value))
    }

    /// All figures, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl fmt::Display for Metrics {
    /// `acked=12 found=13`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            match value {
                Value::String(text) => write!(f, "{space}{name}={text}")?,
                other => write!(f, "{space}{name}={other}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// The result of a scenario, built while it checks.
///
/// ```
/// use agentos_chaos::{Outcome, Verdict};
///
/// let mut outcome = Outcome::passed();
/// outcome.metric("acked", 12);
/// outcome.check(12 <= 11, || "12 acknowledged, 11 found".to_owned());
/// assert_eq!(outcome.verdict, Verdict::Violated);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Outcome {
    /// The verdict so far.
    pub verdict: Verdict,
    /// Figures for the report.
    pub metrics: Metrics,
    /// Why it is not passed, one sentence each.
    pub reasons: Vec<String>,
    /// Where the kills fell, 0 to 1 each, in the order in which they were named.
    pub kill_points: Vec<f64>,
}

impl Outcome {
    /// Passed, until a check fails.
    pub fn passed() -> Outcome {
        Outcome {
            verdict: Verdict::Passed,
            metrics: Metrics::default(),
            reasons: Vec::new(),
            kill_points: Vec::new(),
        }
    }

    /// Sets a figure for the report.
    pub fn metric(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.metrics.set(name, value);
    }

    /// Says how far the work was when a kill fell: 0 before its beginning, 1 at
    /// its end. What lies outside is moved to the nearer end; what is no number
    /// is ignored, as is every point beyond the first 1,000.
    pub fn kill_point(&mut self, fraction: f64) {
        if !fraction.is_nan() && self.kill_points.len() < KILL_POINTS_MAX {
            self.kill_points.push(fraction.clamp(0.0, 1.0));
        }
    }

    /// Checks a guarantee: when `holds` is false the outcome is violated for
    /// this reason. Returns `holds`.
    pub fn check(&mut self, holds: bool, reason: impl FnOnce() -> String) -> bool {
        if !holds {
            self.violate(reason());
        }
        holds
    }

    /// A guarantee was broken, for this reason.
    pub fn violate(&mut self, reason: impl Into<String>) {
        self.verdict = Verdict::Violated;
        self.reasons.push(reason.into());
    }

    /// The outcome of a scenario that ended with `result`. A violation that was
    /// found before is not hidden by the error: it stays one, with the error as
    /// one more reason.
    ///
    /// # Errors
    ///
    /// The error itself, when nothing was violated before.
    pub fn after(mut self, result: Result<(), Failure>) -> Result<Outcome, Failure> {
        match result {
            Err(failure) if self.verdict == Verdict::Violated => {
                self.reasons.push(failure.reason());
                Ok(self)
            }
            Err(failure) => Err(failure),
            Ok(()) => Ok(self),
        }
    }

    /// The machine got in the way. A violation that was found stays one.
    pub fn not_judged(&mut self, reason: impl Into<String>) {
        if self.verdict == Verdict::Passed {
            self.verdict = Verdict::Inconclusive;
        }
        self.reasons.push(reason.into());
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Inconclusive, Passed, Violated};
    use super::*;

    #[test]
    fn exit_code_zero_needs_that_all_passed() {
        assert_eq!(exit_code([Passed, Passed]), 0);
        assert_eq!(exit_code([Passed, Inconclusive]), 2);
        assert_eq!(exit_code([Passed, Violated]), 1);
        assert_eq!(exit_code([]), 2);
    }

    #[test]
    fn a_violation_is_not_hidden_by_something_inconclusive() {
        assert_eq!(exit_code([Violated, Inconclusive]), 1);
        assert_eq!(exit_code([Inconclusive, Violated]), 1);
        let mut outcome = Outcome::passed();
        assert!(!outcome.check(false, || "lost".to_owned()));
        outcome.not_judged("no memory");
        assert_eq!(outcome.verdict, Violated);
        assert_eq!(outcome.reasons, ["lost", "no memory"]);
    }

    #[test]
    fn a_kill_point_lies_between_the_beginning_and_the_end() {
        let mut outcome = Outcome::passed();
        for fraction in [0.25, -1.0, f64::NAN, 7.0, f64::INFINITY] {
            outcome.kill_point(fraction);
        }
        assert_eq!(outcome.kill_points, [0.25, 0.0, 1.0, 1.0]);
        for _ in 0..2 * KILL_POINTS_MAX {
            outcome.kill_point(0.5);
        }
        assert_eq!(outcome.kill_points.len(), KILL_POINTS_MAX);
    }

    #[test]
    fn a_violation_is_not_hidden_by_an_error_that_comes_later() {
        let full = || Failure::from(std::io::Error::from(std::io::ErrorKind::StorageFull));
        let mut outcome = Outcome::passed();
        outcome.violate("lost");
        let outcome = outcome.after(Err(full())).unwrap();
        assert_eq!(outcome.verdict, Violated);
        assert_eq!(outcome.reasons, ["lost", "no storage space"]);
        let failure = Outcome::passed().after(Err(full())).unwrap_err();
        assert_eq!(failure.verdict(), Inconclusive);
        assert!(Outcome::passed().after(Ok(())).is_ok());
    }

    #[test]
    fn figures_keep_their_order() {
        let mut metrics = Metrics::default();
        metrics.set("z", 1);
        metrics.set("a", "text");
        metrics.set("z", 2);
        assert_eq!(metrics.to_string(), "z=2 a=text");
        let json = serde_json::to_string(&metrics).unwrap();
        assert_eq!(json, r#"{"z":2,"a":"text"}"#);
        assert_eq!(metrics.get("a"), Some(&Value::from("text")));
    }
}
