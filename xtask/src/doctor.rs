//! `cargo xtask doctor` and `cargo xtask smoke`: is this file all right, and does
//! this machine keep the promises?

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use agentos_chaos::{Failure, Outcome, Run, Scenario, ScenarioResult, select};
use agentos_core::{NewTask, Storage, StorageError, TaskId, TaskStorage};
use agentos_store::sqlite::{Config, Integrity, Report, SqliteStore};
use serde::Serialize;

use crate::cli::{DoctorArgs, SmokeArgs};
use crate::{chaos, scenarios};

/// What the doctor and, where it was asked for, the whole check found.
#[derive(Serialize)]
struct Findings<'f> {
    #[serde(flatten)]
    report: &'f Report,
    integrity: Option<&'f Integrity>,
}

/// Opens the store as its program would, and asks its doctor.
#[expect(clippy::print_stdout, reason = "this is what the command is asked for")]
pub(crate) fn run(arguments: &DoctorArgs) -> Result<ExitCode, Box<dyn Error>> {
    if !arguments.file.is_file() {
        // Opening it would make it.
        return Err(format!("{} is no file", arguments.file.display()).into());
    }
    let config = Config::at(&arguments.file)
        .allow_unsafe_file_system(arguments.allow_unsafe_file_system)
        .skip_check_after_crash(arguments.skip_check_after_crash);
    let store = SqliteStore::open(config)?;
    let report = store.doctor()?;
    let integrity = arguments.full.then(|| integrity_of(&store)).transpose()?;
    let integrity = integrity.as_ref();
    if arguments.json {
        let findings = Findings {
            report: &report,
            integrity,
        };
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{report}");
        for problem in integrity.iter().flat_map(|found| &found.problems) {
            println!("refused  integrity      {problem}");
        }
    }
    let sound = integrity.is_none_or(Integrity::is_sound) && report.refusals().next().is_none();
    let good = sound && (!arguments.strict || report.is_healthy());
    Ok(ExitCode::from(u8::from(!good)))
}

/// The whole check. That the file is too damaged to be checked is a finding too.
fn integrity_of(store: &SqliteStore) -> Result<Integrity, StorageError> {
    match store.check_integrity() {
        Err(error @ StorageError::Corrupt { .. }) => Ok(Integrity {
            problems: vec![error.to_string()],
        }),
        checked => checked,
    }
}

/// Does on a machine, in the directory where the file will lie, what the
/// promises rest on.
pub(crate) fn smoke(arguments: &SmokeArgs) -> Result<ExitCode, Box<dyn Error>> {
    let all = scenarios::all(None);
    let wanted = ["kill-9-recovery", "end-to-end"].map(str::to_owned);
    let goal = "the place has no fault, and a backup is whole";
    let place = Scenario::new(0, "place", goal, look_at_place);
    let mut chosen = vec![&place];
    chosen.extend(select(&all, &wanted)?);
    if !arguments.directory.is_dir() {
        return Err(format!("{} is no directory", arguments.directory.display()).into());
    }
    let runner = chaos::plain_runner(&arguments.report)?
        .work_dir(&arguments.directory)
        .replay({
            let directory = arguments.directory.display().to_string();
            move |_, seed| format!("cargo xtask smoke '{directory}' --seed {seed}")
        })
        .quick(true);
    chaos::finish(&runner.run(&chosen), arguments.report.json.as_deref())
}

/// A store in the run's directory: its doctor, a backup, and the copy's doctor.
fn look_at_place(run: &mut Run) -> ScenarioResult {
    let mut outcome = Outcome::passed();
    let (path, copy) = (run.dir().join("place.db"), run.dir().join("copy.db"));
    let store = SqliteStore::open(Config::at(&path))?;
    let task = TaskId::new("smoke")?;
    store.create_task(NewTask::new(task.clone(), "smoke test"))?;
    heed(&mut outcome, &store)?;
    store.backup(&copy)?;
    let copy = SqliteStore::open(Config::at(&copy))?;
    heed(&mut outcome, &copy)?;
    outcome.check(copy.task(&task)?.is_some(), || {
        "the copy does not have the task".into()
    });
    let kept = size(&path)?;
    outcome.metric("database_bytes", kept);
    Ok(outcome)
}

fn heed(outcome: &mut Outcome, store: &SqliteStore) -> Result<(), Failure> {
    for check in store.doctor()?.checks {
        let condition = check.condition.as_str();
        let finding = check.finding.as_str();
        outcome.check(finding == "fine", || {
            format!("{finding}: {condition}: {}", check.detail)
        });
    }
    Ok(())
}

fn size(path: &Path) -> Result<u64, Failure> {
    Ok(fs::metadata(path)?.len())
}
