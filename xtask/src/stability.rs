//! `cargo xtask stability`: every scenario many times, and what that proves.
//!
//! What can be wrong with the command line is found before the first run, not
//! after the last: a report's folder that is not there is an error at once.
//! The reports are written also when Ctrl-C ended the loop.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use agentos_chaos::report::{facts, stability};
use agentos_chaos::{JOBS_MAX, Stability, StabilityReport, select};

use crate::chaos;
use crate::cli::StabilityArgs;
use crate::scenarios;

#[expect(clippy::print_stdout, reason = "this is what the command is asked for")]
pub(crate) fn run(arguments: &StabilityArgs) -> Result<ExitCode, Box<dyn Error>> {
    let common = &arguments.common;
    let all = scenarios::all(common.canary);
    let chosen = select(&all, &arguments.scenarios)?;
    for path in [&common.json, &arguments.junit, &arguments.html] {
        path.as_deref().map_or(Ok(()), can_be_written)?;
    }
    let report = Stability::new(chaos::runner(common)?)
        .runs(arguments.runs)
        .jobs(arguments.jobs.map_or_else(processors, usize::from))
        .min_pass_rate(arguments.min_pass_rate)
        .run(&chosen);
    // The table comes first: a file that cannot be written must not cost it.
    let to_stdout = chaos::is_stdout(common.json.as_deref());
    if !to_stdout {
        print!("{}", stability::terminal::render(&report));
        io::stdout().flush()?;
    }
    write(&report, arguments)?;
    Ok(ExitCode::from(report.exit_code()))
}

fn write(report: &StabilityReport, arguments: &StabilityArgs) -> Result<(), Box<dyn Error>> {
    if let Some(path) = &arguments.junit {
        fs::write(path, stability::junit::render(report)?)?;
    }
    if let Some(path) = &arguments.html {
        let facts = facts(env!("CARGO_PKG_VERSION"));
        fs::write(path, stability::html::render(report, &facts))?;
    }
    if let Some(path) = &arguments.common.json {
        let text = stability::json::render(report)?;
        if chaos::is_stdout(Some(path)) {
            io::stdout().lock().write_all(text.as_bytes())?;
        } else {
            fs::write(path, text)?;
        }
    }
    Ok(())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(JOBS_MAX))
}

/// Whether a report will find its folder.
fn can_be_written(path: &Path) -> Result<(), Box<dyn Error>> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if folder.is_dir() && !path.is_dir() {
        Ok(())
    } else {
        Err(format!("{} cannot be written", path.display()).into())
    }
}
