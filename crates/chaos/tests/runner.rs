//! The runner with whole scenarios: verdicts, canaries, evidence, and what is
//! printed when.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentos_chaos::{
    Console, Outcome, Report, Run, Runner, Scenario, ScenarioReport, ScenarioResult, Verdict,
    Victim, VictimSpec,
};
use agentos_process::{CommandSpec, run};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// Appends a line to a file and acknowledges it, for ever.
const HONEST: &str = "i=0; while :; do i=$((i+1)); echo $i >> log; echo ack $i; done";
/// Acknowledges first; dies with an unfinished write now and then, which is
/// allowed only for what was not acknowledged.
const FORGETFUL: &str =
    "i=0; while :; do i=$((i+1)); [ $i -eq 3 ] || echo $i >> log; echo ack $i; done";
/// Acknowledges without writing at all.
const LIAR: &str = ": > log; i=0; while :; do i=$((i+1)); echo ack $i; done";

/// One scenario for all victims: it does not know which of them it judges.
fn scenario(script: &'static str, meddle: fn(&Victim)) -> Scenario {
    Scenario::new(1, "log", "an acknowledged line survives", move |run| {
        judge(run, script, meddle)
    })
}

fn judge(run: &mut Run, script: &str, meddle: fn(&Victim)) -> ScenarioResult {
    let spec = VictimSpec::new("writer", "sh")
        .args(["-c", script])
        .cwd(run.dir());
    let mut victim = run.start(&spec)?;
    let count = usize::try_from(run.rng.between(5, 20))?;
    victim.wait_for_acks(count, PATIENCE)?;
    meddle(&victim);
    let offset = run
        .rng
        .duration_between(Duration::ZERO, Duration::from_micros(900));
    let acked = victim.kill_after(offset)?.acks();
    let log = std::fs::read_to_string(run.dir().join("log"))?;
    let found: Vec<&str> = log.lines().collect();

    let mut outcome = Outcome::passed();
    outcome.metric("acked", acked.len());
    outcome.metric("found", found.len());
    for ack in &acked {
        let survived = found.contains(&ack.as_str());
        outcome.check(survived, || format!("{ack} was acknowledged and is lost"));
    }
    Ok(outcome)
}

fn leave_alone(_: &Victim) {}

/// What the out-of-memory killer does.
fn kill_from_outside(victim: &Victim) {
    let kill = CommandSpec::shell(format!("kill -KILL {}", victim.pid()));
    assert!(run(&kill).unwrap().success());
    // The victim is a zombie until the harness reaps it: dead for certain.
    let stat = format!("/proc/{}/stat", victim.pid());
    while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
        std::thread::yield_now();
    }
}

struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture {
            dir: TempDir::new().unwrap(),
        }
    }

    fn runner(&self) -> Runner {
        Runner::new(8141)
            .work_dir(self.dir.path().join("work"))
            .artifacts(self.dir.path().join("artifacts"))
            .replay(|name, seed| format!("replay {name} {seed}"))
            .console(Console::Silent)
    }

    /// Entries of `work`: the directories of runs that were kept.
    fn runs_left(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("work"))
            .unwrap()
            .count()
    }
}

fn only(report: &Report) -> &ScenarioReport {
    assert_eq!(report.scenarios.len(), 1);
    &report.scenarios[0]
}

#[test]
fn an_honest_victim_passes_and_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let report = fixture.runner().run(&[&scenario(HONEST, leave_alone)]);
    let result = only(&report);
    assert_eq!(result.verdict, Verdict::Passed, "{result:?}");
    assert_eq!(report.exit_code(), 0);
    assert_eq!(result.evidence, None);
    assert_eq!(fixture.runs_left(), 0);
    assert!(!fixture.dir.path().join("artifacts").exists());
}

/// Canary. Goal: the harness notices a product that acknowledges what it did
/// not write. Method: the victim lies; the check is the one above.
#[test]
fn a_victim_that_acknowledges_without_writing_is_a_violation() {
    for canary in [LIAR, FORGETFUL] {
        let fixture = Fixture::new();
        let report = fixture.runner().run(&[&scenario(canary, leave_alone)]);
        let result = only(&report);
        assert_eq!(result.verdict, Verdict::Violated, "{result:?}");
        assert!(result.reasons[0].contains("lost"), "{:?}", result.reasons);
        assert_eq!(report.exit_code(), 1);
    }
}

/// Canary for the other side: a kill that we did not send proves nothing.
#[test]
fn a_foreign_sigkill_is_inconclusive() {
    for script in [HONEST, LIAR] {
        let fixture = Fixture::new();
        let report = fixture
            .runner()
            .run(&[&scenario(script, kill_from_outside)]);
        let result = only(&report);
        assert_eq!(result.verdict, Verdict::Inconclusive, "{result:?}");
        assert_eq!(report.exit_code(), 2);
        assert_eq!(result.evidence, None);
    }
}

#[test]
fn a_violation_beside_something_inconclusive_still_counts() {
    let fixture = Fixture::new();
    let report = fixture.runner().run(&[
        &scenario(HONEST, kill_from_outside),
        &scenario(LIAR, leave_alone),
        &scenario(HONEST, leave_alone),
    ]);
    let verdicts: Vec<Verdict> = report.scenarios.iter().map(|one| one.verdict).collect();
    let expected = [Verdict::Inconclusive, Verdict::Violated, Verdict::Passed];
    assert_eq!(verdicts, expected);
    assert_eq!(report.exit_code(), 1);
}

#[test]
fn evidence_of_a_violation_is_complete() {
    let fixture = Fixture::new();
    let script: &str = "echo trouble >&2; echo hello; i=0
        while :; do i=$((i+1)); : >> log; echo ack $i; done";
    let runner = fixture.runner().dump(|run_dir, folder| {
        assert!(run_dir.join("log").exists());
        std::fs::write(folder.join("dumped"), "by the user")?;
        Ok(())
    });
    let report = runner.run(&[&scenario(script, leave_alone)]);
    let folder = only(&report).evidence.clone().unwrap();
    assert_eq!(folder.file_name().unwrap(), "log-seed-8141");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();

    let record: Value = serde_json::from_str(&read("evidence.json")).unwrap();
    assert_eq!(record["verdict"], "violated");
    assert_eq!(record["seed"], 8141);
    assert_eq!(record["replay"], "replay log 8141");
    assert_eq!(record["dump_error"], Value::Null);
    assert!(record.get("git_commit").is_some());
    let victim = &record["victims"][0];
    assert_eq!(victim["name"], "writer");
    assert_eq!(victim["exit"], "signal 9");
    assert_eq!(victim["killed_by_harness"], true);
    assert_eq!(victim["said"][0], "hello");
    assert_eq!(
        victim["acks"].as_array().unwrap().len() as u64,
        record["metrics"]["acked"]
    );
    assert_eq!(read("replay.txt"), "replay log 8141\n");
    assert!(read("victims/1-writer.lines").starts_with("hello\nack 1\n"));
    assert_eq!(read("victims/1-writer.stderr"), "trouble\n");
    assert_eq!(read("dump/dumped"), "by the user");
    assert!(read("summary.txt").contains("was acknowledged and is lost"));
    // The wreck itself stays too.
    assert!(
        Path::new(record["run_dir"].as_str().unwrap())
            .join("log")
            .exists()
    );

    let again = runner.run(&[&scenario(script, leave_alone)]);
    let folder = only(&again).evidence.clone().unwrap();
    assert_eq!(folder.file_name().unwrap(), "log-seed-8141-2");
}

#[test]
fn a_dump_that_fails_or_panics_spoils_nothing() {
    let fixture = Fixture::new();
    let failing = fixture.runner().dump(|_, _| Err("no backup".into()));
    let panicking = fixture.runner().dump(|_, _| panic!("on purpose"));
    for (runner, error) in [(failing, "no backup"), (panicking, "the dump panicked")] {
        let report = runner.run(&[&scenario(LIAR, leave_alone)]);
        let result = only(&report);
        assert_eq!(result.verdict, Verdict::Violated);
        let folder = result.evidence.clone().unwrap();
        let json = std::fs::read(folder.join("evidence.json")).unwrap();
        let record: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(record["dump_error"], error);
    }
}

#[test]
fn evidence_that_cannot_be_kept_does_not_change_the_verdict() {
    let fixture = Fixture::new();
    let file = fixture.dir.path().join("in-the-way");
    std::fs::write(&file, "").unwrap();
    let runner = fixture.runner().artifacts(file);
    let report = runner.run(&[&scenario(LIAR, leave_alone)]);
    let result = only(&report);
    assert_eq!(result.verdict, Verdict::Violated);
    assert_eq!(result.evidence, None);
    let last = result.reasons.last().unwrap();
    assert!(last.starts_with("no evidence could be kept"), "{last}");
}

#[test]
fn a_panicking_check_is_a_violation_with_its_message_and_its_acks() {
    let fixture = Fixture::new();
    let panicking = Scenario::new(1, "panics", "", |run| {
        let spec = VictimSpec::new("writer", "sh").args(["-c", "echo ack 7; exec sleep 1000"]);
        let mut victim = run.start(&spec)?;
        victim.wait_for_acks(1, PATIENCE)?;
        panic!("row {} is missing", victim.acks()[0]);
    });
    let report = fixture.runner().run(&[&panicking]);
    let result = only(&report);
    assert_eq!(result.verdict, Verdict::Violated);
    assert_eq!(result.reasons, ["a check panicked: row 7 is missing"]);
    let folder = result.evidence.clone().unwrap();
    let lines = std::fs::read_to_string(folder.join("victims/1-writer.lines")).unwrap();
    assert_eq!(lines, "ack 7\n");
}

#[test]
fn errors_are_sorted_by_whose_fault_they_are() {
    let fixture = Fixture::new();
    let full = Scenario::new(1, "full", "", |_| {
        Err(io::Error::from(io::ErrorKind::StorageFull).into())
    });
    let broken = Scenario::new(2, "broken", "", |_| Err(io::Error::other("corrupt").into()));
    let early = Scenario::new(3, "early", "", |run| {
        let spec = VictimSpec::new("v", "sh").args(["-c", "exit 101"]);
        run.start(&spec)?.wait_for_acks(1, PATIENCE)?;
        Ok(Outcome::passed())
    });
    let report = fixture.runner().run(&[&full, &broken, &early]);
    let verdicts: Vec<Verdict> = report.scenarios.iter().map(|one| one.verdict).collect();
    let expected = [Verdict::Inconclusive, Verdict::Violated, Verdict::Violated];
    assert_eq!(verdicts, expected);
    assert_eq!(report.scenarios[1].reasons, ["corrupt"]);
}

/// Goal: no wait of the harness goes beyond the scenario's time, however long a
/// scenario wants to wait.
#[test]
fn the_timeout_of_a_scenario_ends_its_waits() {
    let fixture = Fixture::new();
    let hanging = Scenario::new(1, "hangs", "", |run| {
        let spec = VictimSpec::new("v", "sleep").arg("1000");
        run.start(&spec)?.wait_for_acks(1, Duration::MAX)?;
        Ok(Outcome::passed())
    });
    let late = Scenario::new(2, "late", "", |run| {
        while !run.is_over() {
            std::thread::yield_now();
        }
        Ok(Outcome::passed())
    });
    let runner = fixture.runner().timeout(Duration::from_millis(200));
    let report = runner.run(&[&hanging, &late]);
    for result in &report.scenarios {
        assert_eq!(result.verdict, Verdict::Violated, "{result:?}");
        assert!(Duration::from_millis(result.duration_ms) < PATIENCE);
    }
}

#[test]
fn the_directories_of_all_runs_are_kept_on_request() {
    let fixture = Fixture::new();
    let runner = fixture.runner().keep(true);
    runner.run(&[&scenario(HONEST, leave_alone)]);
    assert_eq!(fixture.runs_left(), 1);
}

#[test]
fn one_seed_makes_the_same_choices_alone_or_among_others() {
    let choices = |id, name: &str| {
        Scenario::new(id, name, "", |run| {
            let mut outcome = Outcome::passed();
            outcome.metric("choice", run.rng.next_u64());
            Ok(outcome)
        })
    };
    let (one, two) = (choices(1, "one"), choices(2, "two"));
    let fixture = Fixture::new();
    let both = fixture.runner().run(&[&one, &two]);
    let alone = fixture.runner().run(&[&two]);
    assert_eq!(both.scenarios[1].metrics, alone.scenarios[0].metrics);
    assert_ne!(both.scenarios[0].metrics, alone.scenarios[0].metrics);
}

/// A writer that the test can read afterwards.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_seed_is_printed_before_anything_runs() {
    let fixture = Fixture::new();
    let screen = Screen::default();
    let seen = screen.clone();
    let curious = Scenario::new(1, "curious", "sees the seed", move |run| {
        assert!(seen.text().starts_with("seed 8141\n"));
        run.progress("half way");
        Ok(Outcome::passed())
    });
    let runner = fixture
        .runner()
        .verbose(true)
        .console(Console::Writer(Box::new(screen.clone())));
    let report = runner.run(&[&curious]);
    assert_eq!(report.exit_code(), 0, "{report:?}");
    let text = screen.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "[1/1] curious: sees the seed");
    assert_eq!(lines[2], "[1/1] curious: half way");
    assert!(lines[3].starts_with("[1/1] curious: passed in "), "{text}");
}
