//! `cargo xtask chaos --exhaustive`: each scenario's victim, struck at every named
//! point and at every system call, one run each; or one of these strikes again.
//!
//! All subjects share a seed, which is printed first, and one interruption. A point
//! that stands in the sources and that no subject reaches fails a run of all of them:
//! what is never struck is not tested.

mod choice;
mod points;
mod tally;

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agentos_chaos::report::{crash, facts};
use agentos_chaos::{Chaos, ChaosReport, Interrupt, Subject, fresh_seed};
use serde_json::{Value, json};

use self::points::Points;
use self::tally::Tally;
use crate::chaos::{self, can_be_written, is_stdout, show};
use crate::cli::{ChaosArgs, ExhaustiveArgs};
use crate::{canary, scenarios, subjects};

/// What is struck, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ways {
    points: bool,
    calls: bool,
    faults: bool,
}

impl Ways {
    /// What is asked for; points and calls when nothing is.
    fn of(arguments: &ExhaustiveArgs) -> Ways {
        let ExhaustiveArgs {
            points,
            calls,
            faults,
            ..
        } = *arguments;
        let nothing = !(points || calls || faults);
        Ways {
            points: points || nothing,
            calls: calls || nothing,
            faults,
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is what the command is asked for")]
pub(crate) fn run(arguments: &ChaosArgs) -> Result<ExitCode, Box<dyn Error>> {
    let (asked, common) = (&arguments.exhaustive, &arguments.common);
    let json = common.report.json.as_deref();
    let known = scenarios::all(common.canary);
    let all = subjects::all(common.canary);
    if arguments.list {
        for subject in &all {
            println!("{}", choice::listed(subject.name(), &known));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let count = all.len();
    let chosen = choice::chosen(all, &known, &arguments.scenarios)?;
    canary::check(common.canary, chosen.iter().map(Subject::name))?;
    if asked.strike.is_some() && chosen.len() != 1 {
        return Err("one strike is made of one scenario: name it".into());
    }
    for path in [json.filter(|_| !is_stdout(json)), asked.html.as_deref()] {
        path.map_or(Ok(()), can_be_written)?;
    }
    let ways = Ways::of(asked);
    let complete = asked.strike.is_none() && chosen.len() == count;
    let declared = points::declared(&points::sources())?;
    let seed = common.report.seed.unwrap_or_else(fresh_seed);
    say(json, &format!("{} subjects, seed {seed}\n", chosen.len()))?;

    let interrupt = chaos::interrupt()?;
    let (mut reports, mut written) = (Vec::new(), Ok(()));
    for subject in chosen {
        if interrupt.is_raised() {
            break;
        }
        let report = drive(subject, arguments, ways, seed, &interrupt);
        let text = crash::terminal::render(&report);
        // A reader that is gone ends nothing: the exit code must still be true.
        written = written.and(say(json, &format!("\n{text}")));
        reports.push(report);
    }
    // Those of an interrupted run say nothing about what was left out.
    let complete = complete && reports.len() == count && !reports.iter().any(|one| one.interrupted);
    let points = (ways.points && complete).then(|| Points::of(&declared, &reports, asked.budget));
    let tally = Tally::of(&reports, points);
    let text = tally.render();
    written = written.and(say(json, &format!("\n{text}")));
    written = written.and(write(arguments, seed, &reports, &tally));
    let interrupted = interrupt.is_raised();
    chaos::exit_code(written, tally.exit_code(interrupted))
}

/// One subject, in all the ways that are asked for.
fn drive(
    subject: Subject,
    arguments: &ChaosArgs,
    ways: Ways,
    seed: u64,
    interrupt: &Interrupt,
) -> ChaosReport {
    let (asked, common) = (&arguments.exhaustive, &arguments.common);
    let timeout = Duration::from_secs(common.timeout);
    let runner = chaos::runner_of(&common.report, seed, interrupt.clone())
        .timeout(timeout)
        .verbose(arguments.verbose)
        .keep(arguments.keep);
    let options = chaos::replay_options(common);
    // A disk that is slow for a while is no violation; a third is left for the check.
    let mut chaos = Chaos::new(subject).runner(runner).patience(timeout * 2 / 3);
    chaos = chaos.replay(move |name, strike, size, seed| {
        // No strike of this project has a character that a shell reads.
        format!(
            "cargo xtask chaos {name} --exhaustive --strike {strike} --size {size} --seed {seed}{options}"
        )
    });
    chaos = chaos.shrink_runs(asked.shrink_runs);
    if ways.points {
        chaos = chaos.every_point();
    }
    if ways.calls {
        chaos = chaos.every_syscall();
    }
    if ways.faults {
        chaos = chaos.faults();
    }
    if let Some(budget) = asked.budget {
        chaos = chaos.budget(usize::try_from(budget).unwrap_or(usize::MAX));
    }
    if let Some(jobs) = asked.jobs {
        chaos = chaos.jobs(usize::from(jobs));
    }
    if let Some(size) = asked.size {
        chaos = chaos.size(size);
    }
    if let Some(strike) = &asked.strike {
        chaos = chaos.strike(strike.clone());
    }
    chaos.run()
}

/// Prints a text, unless standard output is for JSON alone.
fn say(json: Option<&Path>, text: &str) -> io::Result<()> {
    if is_stdout(json) { Ok(()) } else { show(text) }
}

/// Writes every form that was asked for; one that fails does not cost the others.
fn write(
    arguments: &ChaosArgs,
    seed: u64,
    reports: &[ChaosReport],
    tally: &Tally,
) -> io::Result<()> {
    let mut written = Vec::new();
    if let Some(path) = &arguments.exhaustive.html {
        written.push(write_html(path, reports, tally));
    }
    let json = arguments.common.report.json.as_deref();
    if let Some(path) = json {
        let text = render_json(seed, reports, tally);
        written.push(text.and_then(|text| {
            if is_stdout(json) {
                show(&text)
            } else {
                fs::write(path, text)
            }
        }));
    }
    written.into_iter().collect()
}

/// All reports in one document, each as the driver gives it.
fn render_json(seed: u64, reports: &[ChaosReport], tally: &Tally) -> io::Result<String> {
    let reports = reports.iter().map(|report| {
        let text = crash::json::render(report)?;
        Ok(serde_json::from_str::<Value>(&text)?)
    });
    let document = json!({
        "seed": seed,
        "summary": tally.to_json(),
        "subjects": reports.collect::<io::Result<Vec<_>>>()?,
    });
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    Ok(text)
}

/// The page of one subject; of several one each, and one that leads to them.
fn write_html(path: &Path, reports: &[ChaosReport], tally: &Tally) -> io::Result<()> {
    let facts = facts(env!("CARGO_PKG_VERSION"));
    if let [report] = reports {
        return fs::write(path, crash::html::render(report, &facts));
    }
    let beside = |report: &ChaosReport| -> PathBuf {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        format!("{stem}-{}.html", report.subject).into()
    };
    for report in reports {
        let page = crash::html::render(report, &facts);
        fs::write(path.with_file_name(beside(report)), page)?;
    }
    let links = reports.iter().map(beside).collect::<Vec<_>>();
    fs::write(path, tally.page(&links))
}
