//! `cargo xtask stability`: scenarios many times, and what that proves.
//!
//! What can be wrong with the command line is found before the first run, not
//! after the last: a report's folder that is not there is an error at once.
//! The reports are written also when Ctrl-C ended the loop.

use std::error::Error;
use std::fs;
use std::io;
use std::process::ExitCode;

use agentos_chaos::report::{facts, stability};
use agentos_chaos::{JOBS_MAX, Stability, StabilityReport};

use crate::canary;
use crate::chaos;
use crate::cli::StabilityArgs;
use crate::scenarios;

pub(crate) fn run(arguments: &StabilityArgs) -> Result<ExitCode, Box<dyn Error>> {
    let common = &arguments.common;
    let all = scenarios::all_for_many_runs(common.canary);
    let chosen = scenarios::chosen(&all, &arguments.scenarios, arguments.every)?;
    canary::check(common.canary, chosen.iter().map(|one| one.name.as_str()))?;
    for path in [&arguments.junit, &arguments.html] {
        path.as_deref().map_or(Ok(()), chaos::can_be_written)?;
    }
    let report = Stability::new(chaos::runner(common)?)
        .runs(arguments.runs)
        .jobs(arguments.jobs.map_or_else(processors, usize::from))
        .min_pass_rate(arguments.min_pass_rate)
        .run(&chosen);
    chaos::exit_code(write(&report, arguments), report.exit_code())
}

/// Writes every form that was asked for; one that fails does not cost the others.
fn write(report: &StabilityReport, arguments: &StabilityArgs) -> io::Result<()> {
    let json = arguments.common.report.json.as_deref();
    let mut written = Vec::new();
    if !chaos::is_stdout(json) {
        written.push(chaos::show(&stability::terminal::render(report)));
    }
    if let Some(path) = &arguments.junit {
        let text = stability::junit::render(report);
        written.push(text.and_then(|text| fs::write(path, text)));
    }
    if let Some(path) = &arguments.html {
        let facts = facts(env!("CARGO_PKG_VERSION"));
        written.push(fs::write(path, stability::html::render(report, &facts)));
    }
    if let Some(path) = json {
        let text = stability::json::render(report);
        written.push(text.and_then(|text| chaos::put(path, &text)));
    }
    written.into_iter().collect()
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(JOBS_MAX))
}
