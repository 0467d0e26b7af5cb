//! `cargo xtask chaos`: runs scenarios and reports.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agentos_chaos::{Console, Runner, fresh_seed, report, select};
use agentos_process::CommandSpec;

use crate::cli::ChaosArgs;
use crate::scenarios;
use crate::victims::{self, Role};

/// How long the dump of one database may take.
const DUMP_TIMEOUT: Duration = Duration::from_secs(30);

#[expect(clippy::print_stdout, reason = "this is what the command is asked for")]
pub(crate) fn run(arguments: &ChaosArgs) -> Result<ExitCode, Box<dyn Error>> {
    let all = scenarios::all(arguments.canary);
    if arguments.list {
        for scenario in &all {
            println!(
                "{:>3}  {:<24} {}",
                scenario.id, scenario.name, scenario.goal
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = select(&all, &arguments.scenarios)?;
    let to_stdout = arguments.json.as_deref() == Some(Path::new("-"));
    let work_dir = target_dir().join("chaos-work");
    fs::create_dir_all(&work_dir)?;
    let canary = arguments.canary;
    let quick = arguments.quick;
    let mut runner = Runner::new(arguments.seed.unwrap_or_else(fresh_seed))
        .quick(quick)
        .verbose(arguments.verbose)
        .keep(arguments.keep)
        .timeout(Duration::from_secs(arguments.timeout))
        .work_dir(work_dir)
        .artifacts(target_dir().join("chaos-failures"))
        .console(if to_stdout {
            Console::Stderr
        } else {
            Console::Stdout
        })
        .replay(move |name, seed| {
            let quick = if quick { " --quick" } else { "" };
            let canary = canary.map_or(String::new(), |canary| {
                format!(" --canary {}", canary.name())
            });
            format!("cargo xtask chaos {name} --seed {seed}{quick}{canary}")
        })
        .dump(|run_dir, evidence| dump_databases(run_dir, evidence));
    if let Some(artifacts) = &arguments.artifacts {
        runner = runner.artifacts(artifacts);
    }
    let report = runner.run(&chosen);
    if let Some(json) = &arguments.json {
        report::json::write(&report, json)?;
    }
    if !to_stdout {
        print!("{}", report::terminal::render(&report));
    }
    Ok(ExitCode::from(report.exit_code()))
}

/// The build's own directory: on a real disk, and ignored by version control.
fn target_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."));
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from)
}

/// Dumps every database of a run, each in a process of its own: a violation
/// may have left this one in any state.
fn dump_databases(run_dir: &Path, evidence: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut problems = Vec::new();
    for entry in fs::read_dir(run_dir)? {
        let database = entry?.path();
        if database
            .extension()
            .is_none_or(|extension| extension != "db")
        {
            continue;
        }
        let name = database.file_stem().unwrap_or_default();
        let role = Role::Dump {
            db: database.clone(),
            out: evidence.join(name),
        };
        let (program, arguments) = victims::command(&role)?;
        let spec = CommandSpec::new(program)
            .args(arguments)
            .timeout(DUMP_TIMEOUT);
        let finished = agentos_process::run(&spec)?;
        if !finished.success() {
            let words = String::from_utf8_lossy(&finished.stderr);
            problems.push(format!(
                "{}: {}: {words}",
                database.display(),
                finished.outcome
            ));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("\n").into())
    }
}
