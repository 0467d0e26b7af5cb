//! Programs in shell, struck at every system call: those that save badly are
//! found at the very call, those that save well survive all.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agentos_chaos::report::crash::{Fate, terminal};
use agentos_chaos::{
    Aftermath, Chaos, ChaosReport, Family, Outcome, Run, ScenarioResult, Strike, Subject,
    VictimSpec,
};
use tempfile::TempDir;

const SEED: u64 = 8141;

/// Runs the body so often as the size says, in its own directory.
fn shell(body: &'static str) -> impl Fn(&Path, u64) -> VictimSpec {
    move |dir, size| {
        let script = format!("i=0; while [ $i -lt $SIZE ]; do i=$((i+1)); {body}; done");
        VictimSpec::new("writer", "sh")
            .args(["-c", &script])
            .env("SIZE", size.to_string())
            .cwd(dir)
    }
}

fn lines(run: &Run, file: &str) -> Vec<String> {
    let text = fs::read_to_string(run.dir().join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Every acknowledged line is in the log.
fn check_log(run: &mut Run, after: &Aftermath) -> ScenarioResult {
    let (log, acked) = (lines(run, "log"), after.acks());
    let mut outcome = Outcome::passed();
    let missing: Vec<&String> = acked.iter().filter(|line| !log.contains(line)).collect();
    outcome.check(missing.is_empty(), || {
        format!("acknowledged and not there: {missing:?}")
    });
    Ok(outcome)
}

/// Two files that belong together say the same.
fn check_both(run: &mut Run, _: &Aftermath) -> ScenarioResult {
    let (one, other) = (lines(run, "one"), lines(run, "other"));
    let mut outcome = Outcome::passed();
    outcome.check(one == other, || format!("{one:?} and {other:?}"));
    Ok(outcome)
}

/// There is always a whole file.
fn check_file(run: &mut Run, _: &Aftermath) -> ScenarioResult {
    let found = lines(run, "data");
    let mut outcome = Outcome::passed();
    outcome.check(found.len() == 1, || format!("the file has {found:?}"));
    Ok(outcome)
}

fn drive(subject: Subject, dir: &TempDir) -> Chaos {
    Chaos::new(subject.size(3))
        .seed(SEED)
        .patience(Duration::from_secs(15))
        .artifacts(dir.path())
        .replay(|name, strike, size, seed| format!("{name} {strike} {size} {seed}"))
}

/// Counted, planned, hit, missed, violated.
fn covered(report: &ChaosReport, family: Family, name: &str) -> [u64; 5] {
    let is =
        |one: &&agentos_chaos::report::crash::Covered| one.family == family && one.name == name;
    let Some(one) = report.coverage.iter().find(is) else {
        panic!("{name}: {:?}", report.coverage);
    };
    [one.counted, one.planned, one.hit, one.missed, one.violated]
}

/// What the drive found, as the line that shows it again; the line does.
fn found(subject: impl Fn() -> Subject, ask: impl Fn(Chaos) -> Chaos) -> String {
    let dir = TempDir::new().unwrap();
    let report = ask(drive(subject(), &dir)).run();
    assert_eq!(report.exit_code(), 1, "{}", terminal::render(&report));
    let [violation] = &report.violations[..] else {
        panic!("{}", terminal::render(&report));
    };
    assert!(violation.confirmed);
    let words: Vec<&str> = violation.replay.split(' ').collect();
    let strike: Strike = words[1].parse().unwrap();
    let again = ask(drive(subject(), &dir))
        .size(words[2].parse().unwrap())
        .strike(strike)
        .run();
    assert_eq!(again.exit_code(), 1, "{}", terminal::render(&again));
    assert_eq!(again.violations[0].reasons, violation.reasons);
    violation.replay.clone()
}

#[test]
fn a_program_that_writes_before_it_says_so_survives_a_crash_at_every_call() {
    let dir = TempDir::new().unwrap();
    let subject = Subject::new("right", shell("echo $i >> log && echo ack $i"), check_log);
    let report = drive(subject, &dir).every_syscall().run();
    report.assert_passed();
    // Three lines, each one opened, written and acknowledged; both sides of each.
    for kind in ["openat file", "write file", "write pipe"] {
        assert_eq!(
            covered(&report, Family::Call, kind),
            [3, 6, 6, 0, 0],
            "{kind}"
        );
    }
    assert_eq!((report.derived, report.count(Fate::Passed)), (18, 18));
    assert_eq!(report.coverage.len(), 3, "{:?}", report.coverage);
    assert_eq!(report.runs[0].strike.to_string(), "call:1/1#1:before");
    let place = report.runs[0].place.as_ref().unwrap();
    assert!(
        place.contains("openat") && place.ends_with("/run/log at 1/1#1"),
        "{place}"
    );
}

#[test]
fn a_program_that_heeds_errors_survives_every_fault() {
    let dir = TempDir::new().unwrap();
    let subject = Subject::new("right", shell("echo $i >> log && echo ack $i"), check_log);
    let report = drive(subject, &dir).faults().run();
    report.assert_passed();
    // Each of three rounds opens, writes, and acknowledges.
    assert_eq!(report.calls, 9);
    for fault in ["EIO", "ENOSPC", "EINTR", "short"] {
        let name = format!("write file {fault}");
        assert_eq!(
            covered(&report, Family::Fail, &name)[1..],
            [3, 3, 0, 0],
            "{name}"
        );
    }
}

#[test]
fn an_acknowledgement_before_the_write_is_found_at_its_call() {
    let subject = || Subject::new("hasty", shell("echo ack $i; echo $i >> log"), check_log);
    let line = found(subject, Chaos::every_syscall);
    assert_eq!(line, "hasty call:1/1#1:after 1 8141");
}

#[test]
fn two_files_where_one_should_do_are_found_between_their_writes() {
    let body = "echo $i >> one; echo $i >> other; echo ack $i";
    let line = found(
        || Subject::new("two", shell(body), check_both),
        Chaos::every_syscall,
    );
    assert_eq!(line, "two call:1/1#2:after 1 8141");
}

#[test]
fn a_rename_before_the_write_is_found_in_the_process_that_renames() {
    let body = ": > new; mv new data; echo $i > data; echo ack $i";
    let subject = || {
        Subject::new("renamed", shell(body), check_file).prepare(|run, _| {
            fs::write(run.dir().join("data"), "0\n")?;
            Ok(())
        })
    };
    let line = found(subject, Chaos::every_syscall);
    // It may ask first whether the name is taken.
    let of_mv = line.starts_with("renamed call:1.1/1#") && line.ends_with(":after 1 8141");
    assert!(of_mv, "{line}");
}

#[test]
fn an_error_that_nobody_heeds_is_found_by_a_fault() {
    let subject = || Subject::new("deaf", shell("echo $i >> log; echo ack $i"), check_log);
    let line = found(subject, Chaos::faults);
    assert_eq!(line, "deaf fail:1/1#1:EIO 1 8141");
}

/// Goal: what hangs after a fault is told, unless that is allowed.
/// Method: the program waits for a file that it could not make.
#[test]
fn a_victim_that_hangs_after_a_fault_is_a_violation_unless_it_may() {
    let dir = TempDir::new().unwrap();
    let body = "echo $i >> log; while [ ! -s log ]; do sleep 0.05; done; echo ack $i";
    let drive = |subject: Subject| {
        drive(subject.size(1), &dir)
            .patience(Duration::from_secs(2))
            .strike("fail:1/1#1:EIO".parse().unwrap())
            .run()
    };
    let report = drive(Subject::new("waits", shell(body), check_log));
    assert_eq!(report.exit_code(), 1);
    let reason = &report.violations[0].reasons[0];
    assert!(
        reason.starts_with("it did not end within 2000 ms after"),
        "{reason}"
    );
    drive(Subject::new("waits", shell(body), check_log).may_hang()).assert_passed();
}

/// Goal: where the n-th call is another one than in the dry run, the run says so.
/// Method: the program makes a file until it was traced once, and talks from then on.
/// Goal: a drive that reached little says so. Method: a program that makes six calls
/// while it is counted, and one ever after.
#[test]
fn when_most_strikes_are_not_reached_that_is_a_problem() {
    let dir = TempDir::new().unwrap();
    let mark = dir.path().join("traced");
    let (seen, runs) = (mark.clone(), AtomicU32::new(0));
    let spec = move |dir: &Path, size| {
        let body = "if [ -e $MARK ]; then : > 1; else for i in 1 2 3 4 5 6; do : > $i; done; fi";
        shell(body)(dir, size).env("MARK", &mark)
    };
    let check = move |_: &mut Run, _: &Aftermath| {
        if runs.fetch_add(1, Ordering::SeqCst) == 1 {
            fs::write(&seen, "")?;
        }
        Ok(Outcome::passed())
    };
    let report = drive(Subject::new("changes", spec, check), &dir)
        .size(1)
        .every_syscall()
        .run();
    assert_eq!(
        report.problems,
        ["of 12 call strikes only 2 were reached".to_owned()]
    );
    assert_eq!(report.exit_code(), 2);
}

#[test]
fn coverage_is_counted_by_the_call_that_was_really_hit() {
    let dir = TempDir::new().unwrap();
    let mark = dir.path().join("traced");
    let (seen, runs) = (mark.clone(), AtomicU32::new(0));
    let spec = move |dir: &Path, size| {
        shell("if [ -e $MARK ]; then echo talk; else : > made; fi")(dir, size).env("MARK", &mark)
    };
    let check = move |_: &mut Run, _: &Aftermath| {
        if runs.fetch_add(1, Ordering::SeqCst) == 1 {
            fs::write(&seen, "")?;
        }
        Ok(Outcome::passed())
    };
    let report = drive(Subject::new("changes", spec, check), &dir)
        .size(1)
        .every_syscall()
        .run();
    report.assert_passed();
    let covered = |name| covered(&report, Family::Call, name);
    assert_eq!(covered("openat file"), [1, 2, 0, 0, 0]);
    assert_eq!(covered("write pipe"), [0, 0, 2, 0, 0]);
    let place = report.runs[0].place.as_ref().unwrap();
    assert_eq!(place, "write pipe at 1/1#1");
}
