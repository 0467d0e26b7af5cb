//! Programs in shell, struck at seeded moments: what is found, what is shown
//! again, and what no drive can judge.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use agentos_chaos::report::crash::{Fate, StrikeRun, html, terminal};
use agentos_chaos::{
    Aftermath, Chaos, Console, Failure, Family, Interrupt, Outcome, Run, Runner, ScenarioResult,
    Staged, Strike, Subject, Verdict, VictimSpec,
};
use tempfile::TempDir;

const SEED: u64 = 8141;

/// Runs the script with the size as `$SIZE`, in its own directory.
fn shell(script: &'static str) -> impl Fn(&Path, u64) -> VictimSpec {
    move |dir, size| {
        VictimSpec::new("writer", "sh")
            .args(["-c", script])
            .env("SIZE", size.to_string())
            .cwd(dir)
    }
}

const RIGHT: &str =
    "i=0; while [ $i -lt $SIZE ]; do i=$((i+1)); echo $i >> log; echo ack $i; sleep 0.01; done";

/// Says that a line is there, and writes it later.
const HASTY: &str =
    "i=0; while [ $i -lt $SIZE ]; do i=$((i+1)); echo ack $i; sleep 0.02; echo $i >> log; done";

/// Every acknowledged line is in the log.
fn check(run: &mut Run, after: &Aftermath) -> ScenarioResult {
    let log = fs::read_to_string(run.dir().join("log")).unwrap_or_default();
    let (acked, found) = (after.acks().len(), log.lines().count());
    let mut outcome = Outcome::passed();
    outcome.metric("acked", acked);
    outcome.check(acked <= found, || {
        format!("{acked} acknowledged, {found} found")
    });
    Ok(outcome)
}

fn drive(subject: Subject, dir: &TempDir) -> Chaos {
    Chaos::new(subject.size(4))
        .seed(SEED)
        .artifacts(dir.path().join("artifacts"))
        .replay(|name, strike, size, seed| format!("{name} {strike} {size} {seed}"))
}

#[test]
fn a_program_that_writes_before_it_says_so_survives_every_kill() {
    let dir = TempDir::new().unwrap();
    let report = drive(Subject::new("right", shell(RIGHT), check), &dir)
        .kills(25)
        .run();
    report.assert_passed();
    assert_eq!(report.runs.len(), 25);
    let fates = [Fate::Passed, Fate::Missed].map(|fate| report.count(fate));
    assert_eq!(fates.iter().sum::<usize>(), 25);
    // A kill may come too late for the last gap; not so most of the others.
    assert!(fates[0] > 5, "{fates:?}");
    assert!(
        report
            .runs
            .iter()
            .all(|run| run.strike.family() == Family::Kill)
    );
    let hit = |run: &&StrikeRun| run.hit.is_some();
    assert!(
        report
            .runs
            .iter()
            .filter(hit)
            .all(|run| run.position.is_some())
    );
    let text = terminal::render(&report);
    assert!(
        text.ends_with(&format!("{} passed, 0 failed\n", fates[0])),
        "{text}"
    );
    let page = html::render(&report, &[("version".to_owned(), "<1>".to_owned())]);
    assert!(page.contains("strikes, by how far the work was"), "{page}");
    assert!(page.contains("&lt;1&gt;"), "{page}");
}

#[test]
fn a_program_that_says_so_before_it_writes_is_caught_and_shown_again() {
    let dir = TempDir::new().unwrap();
    let subject = || Subject::new("hasty", shell(HASTY), check);
    let report = drive(subject(), &dir).kills(12).run();
    assert_eq!(report.exit_code(), 1, "{}", terminal::render(&report));
    let [violation] = &report.violations[..] else {
        panic!("{:?}", report.violations);
    };
    assert!(violation.confirmed);
    assert_eq!(
        (violation.size, violation.strike.family()),
        (1, Family::Kill)
    );
    assert_eq!(violation.reasons, ["1 acknowledged, 0 found"]);
    let line = format!("hasty {} 1 {SEED}", violation.strike);
    assert_eq!(violation.replay, line);
    let evidence = violation.evidence.as_ref().unwrap();
    let kept = fs::read_to_string(evidence.join("replay.txt")).unwrap();
    assert_eq!(kept, format!("{line}\n"));

    let again = drive(subject(), &dir)
        .size(1)
        .strike(violation.strike.clone())
        .run();
    assert_eq!(again.exit_code(), 1, "{}", terminal::render(&again));
    assert_eq!(again.violations[0].reasons, violation.reasons);
    let text = terminal::render(&report);
    assert!(text.contains(&format!("  replay: {line}\n")), "{text}");
}

#[test]
fn a_dry_run_that_fails_is_all_that_is_run() {
    let dir = TempDir::new().unwrap();
    let run = |script: &'static str, patience: Duration| {
        let report = drive(Subject::new("broken", shell(script), check), &dir)
            .patience(patience)
            .kills(5)
            .stability(5)
            .run();
        assert_eq!((report.exit_code(), report.runs.len()), (1, 0));
        assert!(report.stability.is_none());
        report.dry[0].reasons.clone()
    };
    let long = Duration::from_secs(20);
    let reasons = run("echo ack 1; exit 0", long);
    assert_eq!(reasons, ["1 acknowledged, 0 found"]);
    let reasons = run("exit 3", long);
    assert_eq!(
        reasons,
        ["nobody had struck it, and it ended with exit code 3"]
    );
    let reasons = run("sleep 1000", Duration::from_millis(700));
    assert_eq!(reasons, ["it did not end by itself within 700 ms"]);
}

#[test]
fn what_the_machine_spoils_is_no_verdict() {
    let dir = TempDir::new().unwrap();
    let full = |_: &mut Run, _| Err(Failure::from(io::Error::from(io::ErrorKind::StorageFull)));
    let subject = Subject::new("full", shell(RIGHT), check).prepare(full);
    let report = drive(subject, &dir).kills(5).run();
    assert_eq!(
        (report.exit_code(), report.dry[0].verdict),
        (2, Verdict::Inconclusive)
    );
    let nowhere = |_: &Path, _| VictimSpec::new("nobody", "/nowhere/at/all");
    let report = drive(Subject::new("nobody", nowhere, check), &dir)
        .kills(5)
        .run();
    assert_eq!(
        (report.exit_code(), report.dry[0].verdict),
        (2, Verdict::Inconclusive)
    );
    // Nothing was asked for, or nothing is there to be struck: no pass.
    let report = drive(Subject::new("right", shell(RIGHT), check), &dir).run();
    assert_eq!(
        (report.exit_code(), &report.problems[..]),
        (2, &["nobody was struck".to_owned()][..])
    );
    let report = drive(Subject::new("right", shell(RIGHT), check), &dir)
        .every_point()
        .run();
    assert_eq!(report.exit_code(), 2);
    assert!(report.problems[0].starts_with("no crash point was reached"));
}

/// The check owns what the directory was made ready with, and is told all.
#[test]
fn a_check_is_told_what_struck_and_how_the_victim_ended() {
    let dir = TempDir::new().unwrap();
    let subject = Subject::staged("told", |run, size| {
        fs::write(run.dir().join("ready"), size.to_string())?;
        let ready = fs::File::open(run.dir().join("ready"))?;
        Ok(Staged::new(
            shell(RIGHT)(run.dir(), size),
            move |_, after| {
                let mut outcome = Outcome::passed();
                outcome.check(ready.metadata()?.len() == 1, || "not ready".to_owned());
                outcome.check(after.size == 4, || format!("size {}", after.size));
                outcome.check(after.finished() == after.hit.is_none(), || {
                    format!("{after:?}")
                });
                outcome.check(!after.hung, || "it hung".to_owned());
                let killed = after.exit().is_some_and(agentos_process::Exit::is_sigkill);
                outcome.check(killed != after.finished(), || format!("{after:?}"));
                outcome.check(!after.finished() || after.acks().len() == 4, || {
                    format!("{after:?}")
                });
                Ok(outcome)
            },
        ))
    });
    let report = drive(subject, &dir).kills(6).run();
    report.assert_passed();
}

#[test]
fn many_seeded_kills_are_counted_and_each_names_its_strike() {
    let dir = TempDir::new().unwrap();
    let report = drive(Subject::new("right", shell(RIGHT), check), &dir)
        .stability(12)
        .run();
    report.assert_passed();
    let stability = report.stability.as_ref().unwrap();
    assert_eq!(stability.counts().passed, 12);
    assert_eq!(stability.scenarios[0].kill_points.len(), 12);

    let report = drive(Subject::new("hasty", shell(HASTY), check), &dir)
        .stability(12)
        .run();
    assert_eq!(report.exit_code(), 1);
    let stability = report.stability.unwrap();
    let failure = &stability.scenarios[0].failures[0];
    let words: Vec<&str> = failure.replay.split(' ').collect();
    let strike: Strike = words[1].parse().unwrap();
    assert_eq!(strike.family(), Family::Kill);
    let seed = failure.seed.to_string();
    assert_eq!(
        [words[0], words[2], words[3]],
        ["hasty", "4", seed.as_str()]
    );
}

/// Goal: only a violation is made small, and only so many runs are spent on it.
#[test]
fn without_runs_a_violation_stays_as_it_was_found() {
    let dir = TempDir::new().unwrap();
    let report = drive(Subject::new("hasty", shell(HASTY), check), &dir)
        .kills(12)
        .shrink_runs(0)
        .run();
    let violation = &report.violations[0];
    assert_eq!((violation.size, violation.runs), (4, 0));
    assert_eq!(violation.strike, violation.found.strike);
}

/// Goal: a victim that is faster than it was in the dry run is killed all the same.
/// Method: it waits only where nobody was before it.
#[test]
fn a_kill_that_comes_too_late_is_made_earlier() {
    let dir = TempDir::new().unwrap();
    let mark = dir.path().join("slow");
    fs::write(&mark, "").unwrap();
    let wait = "if mv $MARK $MARK.$$ 2>/dev/null; then sleep 1; fi; echo ack 1; echo ack 2";
    let subject = Subject::new(
        "sometimes",
        move |dir, _| {
            VictimSpec::new("writer", "sh")
                .args(["-c", wait])
                .env("MARK", &mark)
                .cwd(dir)
        },
        |_, after| {
            let mut outcome = Outcome::passed();
            outcome.metric("acked", after.acks().len());
            Ok(outcome)
        },
    );
    let report = drive(subject, &dir).stability(10).run();
    report.assert_passed();
    assert!(report.dry[0].duration_ms >= 1000);
    assert_eq!(report.stability.unwrap().counts().passed, 10);
}

/// Goal: a program that acknowledges for ever hangs, and is no longer waited for than another.
#[test]
fn acknowledgements_that_keep_coming_are_no_reason_to_wait_longer() {
    let dir = TempDir::new().unwrap();
    let subject = Subject::new(
        "endless",
        |_, _| VictimSpec::new("writer", "yes").arg("ack 1"),
        |_, _| Ok(Outcome::passed()),
    );
    let patience = Duration::from_millis(100);
    let report = drive(subject, &dir).kills(1).patience(patience).run();
    let words = "it did not end by itself within 100 ms";
    assert_eq!(report.dry[0].reasons, [words], "{report:?}");
}

#[test]
fn an_interrupted_drive_says_so_and_runs_no_more() {
    let dir = TempDir::new().unwrap();
    let interrupt = Interrupt::new();
    let raise = interrupt.clone();
    let subject = Subject::new("right", shell(RIGHT), move |run, after| {
        if after.hit.is_some() {
            raise
                .flag()
                .store(true, std::sync::atomic::Ordering::SeqCst);
        }
        check(run, after)
    });
    let runner = Runner::new(SEED)
        .console(Console::Silent)
        .interrupt(interrupt);
    let report = drive(subject, &dir)
        .runner(runner)
        .kills(50)
        .jobs(1)
        .stability(5)
        .run();
    assert!(report.interrupted);
    assert_eq!(report.exit_code(), 130);
    assert!(report.runs.len() < 50);
}
