//! A program with named points, died at each of them. The victims are this test
//! binary itself.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use agentos_chaos::report::crash::{Fate, json};
use agentos_chaos::{
    Aftermath, Chaos, ChaosReport, Family, Outcome, Run, SEED_VARIABLE, SIZE_VARIABLE,
    STRIKE_VARIABLE, ScenarioResult, Strike, Subject, VictimSpec, crash_point,
};
use agentos_process::CommandSpec;
use tempfile::TempDir;

const SEED: u64 = 8141;

/// Saves records in its working directory, as its environment says.
#[test]
#[ignore = "a victim: the other tests start it"]
fn victim() {
    let Ok(how) = std::env::var("HOW") else {
        return;
    };
    let size: u64 = std::env::var("SIZE").unwrap().parse().unwrap();
    for record in 1..=size {
        match how.as_str() {
            "right" => save(record),
            // Every third is acknowledged before it is there.
            "hasty" if record % 3 == 0 => {
                acknowledge(record);
                crash_point!("log.acknowledged");
                append("log", record);
                continue;
            }
            "hasty" => save(record),
            "two-files" => {
                append("log", record);
                crash_point!("log.between");
                append("index", record);
            }
            // Another process does the work, and is started anew when it dies.
            "supervised" => {
                while !agentos_process::run(&worker(record)).unwrap().success() {}
                continue;
            }
            "worker" => {
                save(record);
                continue;
            }
            how => panic!("{how}"),
        }
        acknowledge(record);
        crash_point!("log.said");
    }
}

fn worker(record: u64) -> CommandSpec {
    CommandSpec::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture"])
        .env("HOW", "worker")
        .env("SIZE", record.to_string())
}

fn save(record: u64) {
    crash_point!("log.before");
    append("log", record);
    crash_point!("log.after");
}

fn append(file: &str, record: u64) {
    let mut log = OpenOptions::new();
    let mut log = log.create(true).append(true).open(file).unwrap();
    log.write_all(format!("{record}\n").as_bytes()).unwrap();
}

fn acknowledge(record: u64) {
    // In a line of its own: the harness of tests prints as well.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\nack {record}\n").as_bytes())
        .unwrap();
    out.flush().unwrap();
}

fn spec(how: &'static str) -> impl Fn(&Path, u64) -> VictimSpec {
    move |dir, size| {
        VictimSpec::new("saver", std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--ignored", "--nocapture"])
            .env("HOW", how)
            .env("SIZE", size.to_string())
            .cwd(dir)
    }
}

fn read(run: &Run, file: &str) -> String {
    fs::read_to_string(run.dir().join(file)).unwrap_or_default()
}

/// What was acknowledged is in the log, in order, and at most one record more.
fn check_log(run: &mut Run, after: &Aftermath) -> ScenarioResult {
    let (log, acked) = (read(run, "log"), after.acks());
    let found: Vec<&str> = log.lines().collect();
    let mut outcome = Outcome::passed();
    let counted = |number: usize| (1..=number).map(|one| one.to_string()).collect::<Vec<_>>();
    outcome.check(found == counted(found.len()), || {
        format!("the log is {found:?}")
    });
    outcome.check(acked == counted(acked.len()), || {
        format!("acknowledged: {acked:?}")
    });
    outcome.check(
        (acked.len()..=acked.len() + 1).contains(&found.len()),
        || format!("{} acknowledged, {} found", acked.len(), found.len()),
    );
    Ok(outcome)
}

/// Both files say the same.
fn check_both(run: &mut Run, _: &Aftermath) -> ScenarioResult {
    let (log, index) = (read(run, "log"), read(run, "index"));
    let mut outcome = Outcome::passed();
    outcome.check(log == index, || {
        let (log, index) = (log.lines().count(), index.lines().count());
        format!("{log} records, {index} of them in the index")
    });
    Ok(outcome)
}

fn drive(subject: Subject, artifacts: &TempDir) -> Chaos {
    Chaos::new(subject.size(7))
        .seed(SEED)
        .patience(Duration::from_secs(15))
        .artifacts(artifacts.path())
}

/// The figures of one point: counted, planned, hit, missed, violated.
fn covered(report: &ChaosReport, name: &str) -> [u64; 5] {
    let one = report.coverage.iter().find(|one| one.name == name).unwrap();
    assert_eq!(one.family, Family::Point);
    [one.counted, one.planned, one.hit, one.missed, one.violated]
}

#[test]
fn a_program_that_saves_well_is_hit_at_every_point_and_never_violated() {
    let artifacts = TempDir::new().unwrap();
    let report = drive(Subject::new("right", spec("right"), check_log), &artifacts)
        .every_point()
        .run();
    report.assert_passed();
    for name in ["log.before", "log.after", "log.said"] {
        assert_eq!(covered(&report, name), [7, 7, 7, 0, 0], "{name}");
    }
    assert_eq!((report.derived, report.coverage.len()), (21, 3));
    assert_eq!(report.count(Fate::Passed), 21);
    let first: Vec<String> = report.runs[..4]
        .iter()
        .map(|run| run.strike.to_string())
        .collect();
    let expected = [
        "point:log.before#1",
        "point:log.after#1",
        "point:log.said#1",
        "point:log.before#2",
    ];
    assert_eq!(first, expected);
    // At the third point of the first record one of seven was acknowledged.
    assert_eq!(report.runs[2].position, Some(1.0 / 7.0));
    let value: serde_json::Value = serde_json::from_str(&json::render(&report).unwrap()).unwrap();
    assert_eq!(
        (&value["passed"], &value["missed"]),
        (&21.into(), &0.into())
    );
    assert_eq!(fs::read_dir(artifacts.path()).unwrap().count(), 0);
}

#[test]
fn an_acknowledgement_before_the_write_is_found_and_shrunk_to_the_smallest_workload() {
    let artifacts = TempDir::new().unwrap();
    let report = drive(Subject::new("hasty", spec("hasty"), check_log), &artifacts)
        .every_point()
        .run();
    assert_eq!(report.exit_code(), 1);
    assert_eq!(covered(&report, "log.acknowledged"), [2, 2, 2, 0, 2]);
    assert_eq!(covered(&report, "log.before"), [5, 5, 5, 0, 0]);
    let [violation] = &report.violations[..] else {
        panic!("{:?}", report.violations);
    };
    // The third record is the first that is acknowledged too early.
    assert_eq!((violation.size, violation.count), (3, 2));
    assert!(violation.confirmed);
    assert_eq!(violation.reasons, ["3 acknowledged, 2 found"]);
    assert_eq!(
        violation.replay,
        "AGENTOS_CHAOS_STRIKE='point:log.acknowledged#1' AGENTOS_CHAOS_SIZE=3 \
         AGENTOS_CHAOS_SEED=8141 cargo test \
         an_acknowledgement_before_the_write_is_found_and_shrunk_to_the_smallest_workload"
    );
    assert!(
        violation
            .evidence
            .as_ref()
            .unwrap()
            .join("replay.txt")
            .exists()
    );
}

/// Goal: few runs are spent where they are most likely to show something.
#[test]
fn with_few_runs_the_smallest_workload_is_found_by_what_is_alike() {
    let artifacts = TempDir::new().unwrap();
    let report = drive(Subject::new("hasty", spec("hasty"), check_log), &artifacts)
        .every_point()
        .shrink_runs(12)
        .run();
    let violation = &report.violations[0];
    assert_eq!(violation.size, 3);
    assert_eq!(violation.strike.to_string(), "point:log.acknowledged#1");
    assert!(violation.runs <= 12 && violation.confirmed, "{violation:?}");
}

#[test]
fn two_files_where_one_should_do_are_found_at_the_first_record() {
    let artifacts = TempDir::new().unwrap();
    let report = drive(
        Subject::new("two-files", spec("two-files"), check_both),
        &artifacts,
    )
    .every_point()
    .budget(3)
    .replay(|name, strike, size, seed| format!("{name} {strike} {size} {seed}"))
    .run();
    assert_eq!(report.exit_code(), 1);
    // Both names are there, and only one of them twice.
    assert_eq!((report.derived, report.runs.len()), (14, 3));
    let planned = |name| covered(&report, name)[1];
    assert!(planned("log.between") > 0 && planned("log.said") > 0);
    assert_eq!(
        report.violations[0].replay,
        "two-files point:log.between#1 1 8141"
    );
    assert_eq!(
        report.violations[0].reasons,
        ["1 records, 0 of them in the index"]
    );
}

/// Goal: a worker that dies at a point is not killed for ever.
/// Method: the first worker saves one record, the second two; a worker that dies is
/// followed by another, so that all is there in the end.
#[test]
fn of_many_processes_one_dies_at_a_point() {
    let artifacts = TempDir::new().unwrap();
    let all_there = |run: &mut Run, after: &Aftermath| {
        let log = read(run, "log");
        let mut outcome = Outcome::passed();
        outcome.check(after.finished(), || format!("{:?}", after.exit()));
        // A record is there twice where the worker died after it was saved.
        let found: Vec<&str> = log.lines().collect();
        outcome.check(found.starts_with(&["1"]) && found.ends_with(&["2"]), || {
            log.clone()
        });
        outcome.check((3..=5).contains(&found.len()), || log.clone());
        Ok(outcome)
    };
    let subject = Subject::new("supervised", spec("supervised"), all_there);
    let report = drive(subject, &artifacts).size(2).every_point().run();
    report.assert_passed();
    // Reached three times in all, and at most twice in one process.
    assert_eq!(covered(&report, "log.before"), [3, 2, 2, 0, 0]);
    assert_eq!(covered(&report, "log.after"), [3, 2, 2, 0, 0]);
}

#[test]
fn one_strike_is_replayed_alone() {
    let artifacts = TempDir::new().unwrap();
    let strike = |text: &str| {
        let strike: Strike = text.parse().unwrap();
        drive(Subject::new("hasty", spec("hasty"), check_log), &artifacts)
            .every_point()
            .size(3)
            .strike(strike)
            .run()
    };
    let violated = strike("point:log.acknowledged#1");
    assert_eq!((violated.exit_code(), violated.runs.len()), (1, 1));
    assert_eq!(violated.violations[0].reasons, ["3 acknowledged, 2 found"]);
    let passed = strike("point:log.before#1");
    assert_eq!((passed.exit_code(), passed.runs.len()), (0, 1));
    // The second of them needs a workload of six.
    let missed = strike("point:log.acknowledged#2");
    assert_eq!((missed.exit_code(), missed.runs[0].tries), (2, 3));
    assert_eq!(missed.count(Fate::Missed), 1);
    let expected = "point:log.acknowledged#2 was not reached";
    assert_eq!(missed.problems, [expected]);
}

/// What a user's test looks like; the variables of a replay line reach it.
#[test]
#[ignore = "started by the next test, with variables"]
fn drives_the_hasty_program() {
    if std::env::var_os(STRIKE_VARIABLE).is_none() {
        return;
    }
    let artifacts = TempDir::new().unwrap();
    drive(Subject::new("hasty", spec("hasty"), check_log), &artifacts)
        .every_point()
        .run()
        .assert_passed();
}

#[test]
fn the_replay_line_shows_a_violation_again_and_nothing_else() {
    let run = |strike: &str, size: &str| {
        let spec = CommandSpec::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "drives_the_hasty_program",
                "--ignored",
                "--nocapture",
            ])
            .env(STRIKE_VARIABLE, strike)
            .env(SIZE_VARIABLE, size)
            .env(SEED_VARIABLE, "5");
        let finished = agentos_process::run(&spec).unwrap();
        let words = [finished.stdout, finished.stderr].concat();
        (finished.outcome.code(), String::from_utf8(words).unwrap())
    };
    let (code, words) = run("point:log.acknowledged#1", "3");
    assert_eq!(code, Some(101), "{words}");
    assert!(words.contains("seed 5, size 3, "), "{words}");
    assert!(words.contains("3 acknowledged, 2 found"), "{words}");
    assert!(words.contains("0 passed, 1 failed"), "{words}");
    assert_eq!(run("point:log.after#1", "3").0, Some(0));
    let (code, words) = run("point:log.after", "3");
    assert_eq!(code, Some(101));
    assert!(
        words.contains("AGENTOS_CHAOS_STRIKE: \"point:log.after\" is no strike"),
        "{words}"
    );
}
