//! The part of `docs/GUARANTEES.md` that is written from runs. Pure: text from data.

use std::fmt::Write;

use super::promises::{PROMISES, Promise};
use super::record::{Record, Tried, Withstood};

/// What stands around the part that is written here.
pub(super) const BEGIN: &str = "<!-- Written by `cargo xtask guarantees`. -->";
pub(super) const END: &str = "<!-- Here ends what it writes. -->";

/// The document with its part written anew; `None` when it has no place for it.
pub(super) fn put(document: &str, part: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{part}\n{END}{after}"))
}

/// The part, from what was run.
pub(super) fn part(record: &Record) -> String {
    let mut text = String::new();
    for table in [
        head(record),
        promises(record),
        scenarios(record),
        canaries(record),
    ] {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&table);
    }
    text
}

fn head(record: &Record) -> String {
    let fact = |name: &str| {
        let found = record.facts.iter().find(|(known, _)| known == name);
        found.map_or("unknown", |(_, fact)| fact.as_str())
    };
    let sync = match record.sync_us {
        Some(sync) => format!("; a small write with `fsync` takes {sync} µs (median)"),
        None => String::new(),
    };
    let all = total(&record.scenarios);
    format!(
        "`{}` ran {} s ({} rounds, seed {}) at commit {}, {}, on {} with {} processors{sync}. \
         {} victims died by SIGKILL, {} of them at a named point and {} before or after a chosen \
         system call; {} power cuts, {} faults; {} acknowledged writes were looked for. \
         {} violations, {} runs not judged.\n",
        record.command,
        record.seconds,
        record.rounds,
        record.seed,
        fact("commit"),
        fact("date"),
        fact("system"),
        fact("processors"),
        number(all.kills()),
        number(all.at_points),
        number(all.at_calls),
        number(all.cuts),
        number(all.faults),
        number(all.acks),
        all.violated,
        all.inconclusive,
    )
}

fn promises(record: &Record) -> String {
    let mut text = String::from(
        "| promise | scenarios | runs | killed | power cuts | faults | acknowledged, looked for | violations | canaries caught |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for promise in PROMISES {
        let of = promise.scenarios.iter();
        let of: Vec<Withstood> = of
            .filter_map(|name| record.scenario(name).cloned())
            .collect();
        let all = total(&of);
        let (caught, tried) = caught(promise, &record.trials);
        let names: Vec<String> = of.iter().map(|one| format!("`{}`", one.name)).collect();
        let _ = writeln!(
            text,
            "| **{}** | {} | {} | {} | {} | {} | {} | {} | {caught} of {tried} |",
            promise.name,
            names.join(", "),
            number(all.runs),
            number(all.kills()),
            number(all.cuts),
            number(all.faults),
            number(all.acks),
            all.violated,
        );
    }
    text
}

/// How many canaries of a promise were caught, and how many there are.
fn caught(promise: &Promise, tried: &[Tried]) -> (usize, usize) {
    let caught = promise.trials.iter().filter(|trial| {
        let canary = trial.canary.name();
        let is_it = |one: &&Tried| one.scenario == trial.scenario && one.canary == canary;
        tried.iter().find(is_it).is_some_and(|one| one.caught > 0)
    });
    (caught.count(), promise.trials.len())
}

fn scenarios(record: &Record) -> String {
    let mut text = String::from(
        "| scenario | seeded runs | SIGKILLs in them | killed at points | at system calls | power cuts | faults | acknowledged, looked for | violations | not judged |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    let all = total(&record.scenarios);
    for one in record.scenarios.iter().chain([&all]) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            match one.name.as_str() {
                "" => "all".to_owned(),
                name => format!("`{name}`"),
            },
            number(one.runs),
            number(one.sigkills),
            number(one.at_points),
            number(one.at_calls),
            number(one.cuts),
            number(one.faults),
            number(one.acks),
            one.violated,
            one.inconclusive,
        );
    }
    text
}

fn canaries(record: &Record) -> String {
    let mut text = String::from("| canary | scenario | caught, of so many runs |\n|---|---|---|\n");
    for one in &record.trials {
        let (canary, scenario) = (&one.canary, &one.scenario);
        let _ = writeln!(
            text,
            "| `{canary}` | `{scenario}` | {} of {} |",
            one.caught, one.runs
        );
    }
    text
}

fn total(scenarios: &[Withstood]) -> Withstood {
    let mut all = Withstood::default();
    for one in scenarios {
        all.runs += one.runs;
        all.violated += one.violated;
        all.inconclusive += one.inconclusive;
        all.sigkills += one.sigkills;
        all.at_points += one.at_points;
        all.at_calls += one.at_calls;
        all.missed += one.missed;
        all.cuts += one.cuts;
        all.faults += one.faults;
        all.acks += one.acks;
    }
    all
}

/// With a comma between thousands.
fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (given, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(number(given), expected);
        }
    }

    #[test]
    fn only_what_stands_between_the_marks_is_written_anew() {
        let document = format!("head\n{BEGIN}\nold\n{END}\ntail\n");
        let expected = format!("head\n{BEGIN}\n\nnew\n\n{END}\ntail\n");
        assert_eq!(put(&document, "new\n"), Some(expected.clone()));
        assert_eq!(put(&expected, "new\n"), Some(expected));
        assert_eq!(put("no marks", "new\n"), None);
    }
}
