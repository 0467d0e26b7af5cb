//! `cargo xtask chaos`: runs scenarios and reports.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agentos_chaos::{Console, Interrupt, Report, Runner, fresh_seed, report};
use agentos_crash_vfs::ImageId;
use agentos_process::CommandSpec;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::cli::{ChaosArgs, CommonArgs, ReportArgs, TIMEOUT_S};
use crate::scenarios::power_loss::{self, Extent};
use crate::victims::{self, Role};
use crate::{canary, exhaustive, scenarios};

/// The exit code of a command that was interrupted.
const EXIT_INTERRUPTED: i32 = 130;

/// How long the dump of one database may take.
const DUMP_TIMEOUT: Duration = Duration::from_secs(30);

#[expect(clippy::print_stdout, reason = "this is what the command is asked for")]
pub(crate) fn run(arguments: &ChaosArgs) -> Result<ExitCode, Box<dyn Error>> {
    if let (Some(recording), Some(image)) = (&arguments.recording, arguments.image) {
        return cut_again(recording, image);
    }
    if arguments.exhaustive.exhaustive {
        return match power_loss::is_named_alone(&arguments.scenarios) && !arguments.list {
            true => run_all_cuts(arguments),
            false => exhaustive::run(arguments),
        };
    }
    let common = &arguments.common;
    let all = scenarios::all(common.canary);
    if arguments.list {
        for scenario in &all {
            println!(
                "{:>3}  {:<24} {}",
                scenario.id, scenario.name, scenario.goal
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = scenarios::chosen(&all, &arguments.scenarios, arguments.every)?;
    canary::check(common.canary, chosen.iter().map(|one| one.name.as_str()))?;
    let report = runner(common)?
        .verbose(arguments.verbose)
        .keep(arguments.keep)
        .run(&chosen);
    finish(&report, common.report.json.as_deref())
}

/// All images that a power cut may leave, instead of a sample.
fn run_all_cuts(arguments: &ChaosArgs) -> Result<ExitCode, Box<dyn Error>> {
    let common = &arguments.common;
    let timeout = match common.timeout {
        TIMEOUT_S => power_loss::TIMEOUT_ALL_S,
        said => said,
    };
    let scenario = power_loss::scenario(common.canary, Extent::All);
    canary::check(common.canary, [scenario.name.as_str()])?;
    let options = replay_options(common);
    let report = runner(common)?
        .timeout(Duration::from_secs(timeout))
        .replay(move |name, seed| {
            format!("cargo xtask chaos {name} --exhaustive --seed {seed}{options}")
        })
        .verbose(arguments.verbose)
        .keep(arguments.keep)
        .run(&[&scenario]);
    finish(&report, common.report.json.as_deref())
}

/// One image of a recording that was kept.
fn cut_again(recording: &Path, image: ImageId) -> Result<ExitCode, Box<dyn Error>> {
    let (what, broken) =
        power_loss::replay(recording, image).map_err(|failure| failure.reason())?;
    let broken_text: String = broken.iter().map(|reason| format!("{reason}\n")).collect();
    let verdict = if broken.is_empty() {
        "sound\n"
    } else {
        "violated\n"
    };
    let shown = show(&format!("{what}{broken_text}{verdict}"));
    exit_code(shown, u8::from(!broken.is_empty()))
}

/// Prints and writes a report; gives its exit code.
pub(crate) fn finish(report: &Report, json: Option<&Path>) -> Result<ExitCode, Box<dyn Error>> {
    let shown = if is_stdout(json) {
        Ok(())
    } else {
        show(&report::terminal::render(report))
    };
    let written = json.map_or(Ok(()), |path| report::json::write(report, path));
    exit_code(shown.and(written), report.exit_code())
}

/// Prints a text; a reader that is gone is an error, and no panic.
pub(crate) fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a text to a file, or to standard output if that is what the path means.
pub(crate) fn put(path: &Path, text: &str) -> io::Result<()> {
    if is_stdout(Some(path)) {
        show(text)
    } else {
        fs::write(path, text)
    }
}

/// A violation weighs more than a report that could not be written.
pub(crate) fn exit_code(written: io::Result<()>, code: u8) -> Result<ExitCode, Box<dyn Error>> {
    match (written, code) {
        (Ok(()), code) => Ok(ExitCode::from(code)),
        (Err(error), 1) => {
            crate::report(&error);
            Ok(ExitCode::from(1))
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Whether a report will find its folder: asked before the first run.
pub(crate) fn can_be_written(path: &Path) -> Result<(), Box<dyn Error>> {
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

/// A runner for one run or many, that Ctrl-C stops.
pub(crate) fn runner(arguments: &CommonArgs) -> Result<Runner, Box<dyn Error>> {
    let options = replay_options(arguments);
    Ok(plain_runner(&arguments.report)?
        .quick(arguments.quick)
        .timeout(Duration::from_secs(arguments.timeout))
        .replay(move |name, seed| format!("cargo xtask chaos {name} --seed {seed}{options}")))
}

/// A runner that Ctrl-C stops, for what is no scenario of `chaos`.
pub(crate) fn plain_runner(arguments: &ReportArgs) -> Result<Runner, Box<dyn Error>> {
    arguments.json.as_deref().map_or(Ok(()), can_be_written)?;
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    Ok(runner_of(arguments, seed, interrupt()?))
}

/// Raised by Ctrl-C.
pub(crate) fn interrupt() -> io::Result<Interrupt> {
    let interrupt = Interrupt::new();
    for signal in [SIGINT, SIGTERM] {
        // The second time there is no waiting for an orderly end. Victims die all
        // the same: their guardians see to it.
        flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED, interrupt.flag())?;
        flag::register(signal, interrupt.flag())?;
    }
    Ok(interrupt)
}

/// A runner that takes its choices from this seed, and that this stops.
pub(crate) fn runner_of(arguments: &ReportArgs, seed: u64, interrupt: Interrupt) -> Runner {
    let runner = runner_at(seed, interrupt, arguments.artifacts.clone());
    runner.console(if is_stdout(arguments.json.as_deref()) {
        Console::Stderr
    } else {
        Console::Stdout
    })
}

/// The same, with evidence in `artifacts` or its usual place.
pub(crate) fn runner_at(seed: u64, interrupt: Interrupt, artifacts: Option<PathBuf>) -> Runner {
    let target = target_dir();
    Runner::new(seed)
        .work_dir(target.join("chaos-work"))
        .artifacts(artifacts.unwrap_or_else(|| target.join("chaos-failures")))
        .interrupt(interrupt)
        .dump(dump_databases)
}

/// What else a run depends on, as it stands on the command line.
pub(crate) fn replay_options(arguments: &CommonArgs) -> String {
    let mut options = String::new();
    if arguments.quick {
        options.push_str(" --quick");
    }
    if arguments.timeout != TIMEOUT_S {
        options.push_str(&format!(" --timeout {}", arguments.timeout));
    }
    if let Some(canary) = arguments.canary {
        options.push_str(&format!(" --canary {}", canary.name()));
    }
    options
}

/// Whether a report goes to standard output, which then has nothing else.
pub(crate) fn is_stdout(json: Option<&Path>) -> bool {
    json == Some(Path::new("-"))
}

/// The build's own directory: on a real disk, and ignored by version control.
pub(crate) fn target_dir() -> PathBuf {
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
