//! `cargo xtask chaos run --config FILE`: strikes a program of any language, as a
//! TOML file says.
//!
//! All that the file means is decided by the harness's `Config`; here it meets the
//! command line and the reports.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agentos_chaos::report::{crash, facts};
use agentos_chaos::{ChaosReport, Config, JOBS_MAX, Strike};
use clap::Args;

use crate::chaos;
use crate::cli::ReportArgs;

/// The command, as a replay line begins.
const COMMAND: &str = "cargo xtask chaos run";

/// The part of a run's files that goes into the evidence.
const KEPT_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Args)]
pub(crate) struct ProgramArgs {
    /// The file that names the program, its check and the strikes.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Makes at most so many strikes at points and calls, instead of what the file says.
    #[arg(long, value_name = "N")]
    budget: Option<usize>,
    /// How many run at a time; one a processor when nothing is said.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=JOBS_MAX as i64))]
    jobs: Option<u16>,
    /// Makes exactly this strike and nothing else, as a report names it.
    #[arg(long, value_name = "STRIKE")]
    strike: Option<Strike>,
    /// The size of the workload, instead of what the file says.
    #[arg(long, value_name = "N")]
    size: Option<u64>,
    #[command(flatten)]
    report: ReportArgs,
    /// Write the report as one HTML file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(crate) fn run(arguments: &ProgramArgs) -> Result<ExitCode, Box<dyn Error>> {
    arguments
        .html
        .as_deref()
        .map_or(Ok(()), chaos::can_be_written)?;
    let config = Config::load(&arguments.config)?;
    let runner = chaos::plain_runner(&arguments.report)?
        .timeout(config.timeout())
        .dump(keep_files);
    let lines = config.clone();
    let mut drive = config
        .chaos()
        .runner(runner)
        .replay(move |_, strike, size, seed| lines.replay_line(COMMAND, strike, size, seed));
    if let Some(budget) = arguments.budget {
        drive = drive.budget(budget);
    }
    if let Some(jobs) = arguments.jobs {
        drive = drive.jobs(jobs.into());
    }
    if let Some(size) = arguments.size {
        drive = drive.size(size);
    }
    if let Some(strike) = &arguments.strike {
        drive = drive.strike(strike.clone());
    }
    let report = drive.run();
    chaos::exit_code(write(&report, arguments), report.exit_code())
}

/// Writes every form that was asked for; one that fails does not cost the others.
fn write(report: &ChaosReport, arguments: &ProgramArgs) -> io::Result<()> {
    let json = arguments.report.json.as_deref();
    let mut written = Vec::new();
    if !chaos::is_stdout(json) {
        written.push(chaos::show(&crash::terminal::render(report)));
    }
    if let Some(path) = &arguments.html {
        let facts = facts(env!("CARGO_PKG_VERSION"));
        written.push(fs::write(path, crash::html::render(report, &facts)));
    }
    if let Some(path) = json {
        let text = crash::json::render(report);
        written.push(text.and_then(|text| chaos::put(path, &text)));
    }
    written.into_iter().collect()
}

/// Copies what the program left behind, as far as there is room. Nothing of it runs
/// any more.
fn keep_files(run_dir: &Path, evidence: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut room = KEPT_BYTES_MAX;
    for entry in fs::read_dir(run_dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        if about.is_file() && about.len() <= room {
            room -= about.len();
            fs::copy(entry.path(), evidence.join(entry.file_name()))?;
        }
    }
    Ok(())
}
