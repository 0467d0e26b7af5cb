//! Which subjects are struck: those that are named, by name or by the number of the
//! scenario that has the name.

use std::fmt;

use agentos_chaos::{Scenario, Subject};

/// A name or number without a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoSubject {
    wish: String,
    /// Those that there are.
    known: Vec<String>,
}

impl fmt::Display for NoSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.join(", ");
        let wish = &self.wish;
        write!(
            f,
            "{wish:?} cannot be struck exhaustively; these can: {known}"
        )
    }
}

impl std::error::Error for NoSubject {}

/// The number of the scenario of a name.
fn number(name: &str, scenarios: &[Scenario]) -> Option<u32> {
    let found = scenarios.iter().find(|scenario| scenario.name == name);
    found.map(|scenario| scenario.id)
}

/// A subject's line in a list: number and name, or the name alone.
pub(super) fn listed(name: &str, scenarios: &[Scenario]) -> String {
    let number = number(name, scenarios).map_or_else(String::new, |number| number.to_string());
    format!("{number:>3}  {name}")
}

/// Those that are named, in the order of `all` and each once; all of them when none is.
pub(super) fn chosen(
    all: Vec<Subject>,
    scenarios: &[Scenario],
    wanted: &[String],
) -> Result<Vec<Subject>, NoSubject> {
    let is = |subject: &Subject, wish: &String| {
        wish == subject.name()
            || number(subject.name(), scenarios).is_some_and(|id| wish.parse() == Ok(id))
    };
    for wish in wanted {
        if !all.iter().any(|subject| is(subject, wish)) {
            let known = all.iter().map(|subject| {
                let listed = listed(subject.name(), scenarios);
                listed.trim().replace("  ", " ")
            });
            return Err(NoSubject {
                wish: wish.clone(),
                known: known.collect(),
            });
        }
    }
    let is_wanted =
        |subject: &Subject| wanted.is_empty() || wanted.iter().any(|wish| is(subject, wish));
    Ok(all.into_iter().filter(is_wanted).collect())
}

#[cfg(test)]
mod tests {
    use agentos_chaos::{Outcome, VictimSpec};

    use super::*;

    fn all() -> Vec<Subject> {
        let subject = |name: &str| {
            let spec = |_: &std::path::Path, _| VictimSpec::new("nobody", "true");
            Subject::new(name, spec, |_, _| Ok(Outcome::passed()))
        };
        ["a", "c", "no-scenario"].map(subject).into()
    }

    fn scenarios() -> Vec<Scenario> {
        let passed = |id, name: &str| Scenario::new(id, name, "", |_| Ok(Outcome::passed()));
        vec![passed(1, "a"), passed(2, "b"), passed(3, "c")]
    }

    fn names(wanted: &[&str]) -> Result<Vec<String>, String> {
        let wanted: Vec<String> = wanted.iter().map(|wish| (*wish).to_owned()).collect();
        let chosen = chosen(all(), &scenarios(), &wanted).map_err(|error| error.to_string())?;
        Ok(chosen.iter().map(|one| one.name().to_owned()).collect())
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn subjects_are_chosen_by_name_and_by_their_scenarios_number_in_their_order() {
        assert_eq!(names(&[]), Ok(owned(&["a", "c", "no-scenario"])));
        assert_eq!(names(&["3", "a", "c"]), Ok(owned(&["a", "c"])));
        assert_eq!(names(&["no-scenario"]), Ok(owned(&["no-scenario"])));
    }

    #[test]
    fn what_has_no_subject_is_refused_with_those_that_there_are() {
        for wish in ["b", "2", "9", "nobody"] {
            let words =
                format!("{wish:?} cannot be struck exhaustively; these can: 1 a, 3 c, no-scenario");
            assert_eq!(names(&["a", wish]), Err(words));
        }
    }
}
