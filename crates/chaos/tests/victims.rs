//! The supervisor against real programs: what counts as said, how ends are told
//! apart, and whose fault each of them is.

use std::path::Path;
use std::time::Duration;

use agentos_chaos::{
    Console, Failure, HarnessError, Interrupt, Outcome, Runner, Scenario, TALK_BYTES_MAX, Verdict,
    Victim, VictimSpec,
};
use agentos_process::{CommandSpec, Exit, run};

const PATIENCE: Duration = Duration::from_secs(30);

fn start(script: &str) -> Victim {
    Victim::start(&spec(script)).unwrap()
}

fn spec(script: &str) -> VictimSpec {
    VictimSpec::new("victim", "sh").args(["-c", script])
}

/// What an operator, or the kernel's out-of-memory killer, does.
fn kill_from_outside(pid: u32) {
    let kill = CommandSpec::shell(format!("kill -KILL {pid}"));
    assert!(run(&kill).unwrap().success());
}

#[test]
fn acknowledgements_and_talk_are_kept_apart() {
    let mut victim = start("echo hello; echo ack 1; echo ack two words; echo bye; printf 'ack 3'");
    let acks = victim.wait_for_acks(2, PATIENCE).unwrap();
    assert_eq!(acks, ["1", "two words"]);
    let exit = victim.wait_for_exit(PATIENCE).unwrap();
    assert_eq!(exit, Exit::Exited { code: 0 });
    // The third had no newline: it was never said.
    assert_eq!(victim.acks(), ["1", "two words"]);
    assert_eq!(victim.said(), ["hello", "bye"]);
    let transcript = victim.kill().unwrap();
    assert!(!transcript.killed);
    assert_eq!(transcript.lines.len(), 4);
}

/// Goal: what was printed just before the kill counts.
/// Method: a victim that prints without end is killed after seeded offsets; its
/// transcript must be one sequence without a gap, and longer than what had been
/// waited for in at least one round.
#[test]
fn acknowledgements_just_before_the_kill_are_counted() {
    let mut later = 0;
    for round in 0..10_u64 {
        let mut victim = start("i=0; while :; do i=$((i+1)); echo ack $i; done");
        let before = victim.wait_for_acks(5, PATIENCE).unwrap().len();
        let offset = Duration::from_micros(round * 100);
        let transcript = victim.kill_after(offset).unwrap();
        assert!(transcript.killed);
        assert_eq!(transcript.exit, Some(Exit::Signalled { signal: 9 }));
        let acks = transcript.acks();
        let expected: Vec<String> = (1..=acks.len()).map(|number| number.to_string()).collect();
        assert_eq!(acks, expected);
        assert_eq!(victim.acks(), expected);
        later += acks.len() - before;
    }
    assert!(0 < later);
}

/// The same without chance: the line is in the pipe before anything is read.
#[test]
fn a_line_that_nobody_had_read_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("printed");
    let mut victim = Victim::start(
        &spec("echo ack 1; echo ack 2; echo > \"$MARKER\"; sleep 1000").env("MARKER", &marker),
    )
    .unwrap();
    while !marker.exists() {
        std::thread::yield_now();
    }
    assert_eq!(victim.acks(), Vec::<String>::new());
    assert_eq!(victim.kill().unwrap().acks(), ["1", "2"]);
}

#[test]
fn killing_twice_is_killing_once() {
    let mut victim = start("echo ack 1; sleep 1000");
    victim.wait_for_acks(1, PATIENCE).unwrap();
    let first = victim.kill().unwrap();
    let second = victim.kill().unwrap();
    assert!(first.killed && second.killed);
    assert_eq!(first.lines, second.lines);
}

#[test]
fn lines_are_found_one_after_the_other() {
    let mut victim = start("echo ready 1; echo ack 1; echo ready 2; sleep 1000");
    let mut ready =
        || victim.wait_for_line("a ready line", PATIENCE, |line| line.starts_with("ready"));
    assert_eq!(ready().unwrap(), "ready 1");
    assert_eq!(ready().unwrap(), "ready 2");
    assert_eq!(victim.acks(), ["1"]);
}

#[test]
fn a_foreign_sigkill_is_inconclusive_wherever_it_is_noticed() {
    let script = "echo ack 1; exec sleep 1000";
    let check = |error: HarnessError| {
        let is_foreign = matches!(error, HarnessError::KilledByOthers { .. });
        assert!(is_foreign, "{error:?}");
        assert_eq!(error.verdict(), Verdict::Inconclusive);
    };

    let mut victim = start(script);
    kill_from_outside(victim.pid());
    check(victim.wait_for_acks(2, PATIENCE).unwrap_err());
    check(victim.kill().unwrap_err());

    let mut victim = start(script);
    kill_from_outside(victim.pid());
    check(victim.wait_for_exit(PATIENCE).unwrap_err());

    let mut victim = start(script);
    victim.wait_for_acks(1, PATIENCE).unwrap();
    kill_from_outside(victim.pid());
    check(victim.wait_for_acks(2, PATIENCE).unwrap_err());
    assert_eq!(victim.acks(), ["1"]);
}

#[test]
fn a_victim_may_be_expected_to_kill_itself() {
    let spec = spec("echo ack 1; kill -KILL $$").kills_itself();
    let mut victim = Victim::start(&spec).unwrap();
    assert!(victim.wait_for_exit(PATIENCE).unwrap().is_sigkill());
    assert_eq!(victim.kill().unwrap().acks(), ["1"]);
}

#[test]
fn a_victim_that_ends_too_early_is_a_violation() {
    let mut victim = start("echo ack 1; exit 101");
    let error = victim.wait_for_acks(2, PATIENCE).unwrap_err();
    let expected = Exit::Exited { code: 101 };
    let is_end = matches!(&error, HarnessError::Ended { exit, .. } if *exit == expected);
    assert!(is_end, "{error:?}");
    assert_eq!(error.verdict(), Verdict::Violated);
    // The kill finds it dead, by its own hand and not well.
    let error = victim.kill().unwrap_err();
    assert!(matches!(error, HarnessError::Ended { .. }), "{error:?}");
    assert_eq!(victim.acks(), ["1"]);
}

#[test]
fn a_silent_victim_times_out() {
    let mut victim = start("sleep 1000");
    let soon = Duration::from_millis(100);
    for error in [
        victim.wait_for_acks(1, soon).unwrap_err(),
        victim.wait_for_exit(soon).unwrap_err(),
    ] {
        assert!(matches!(error, HarnessError::TimedOut { .. }), "{error:?}");
        assert_eq!(error.verdict(), Verdict::Violated);
    }
    assert!(victim.kill().unwrap().killed);
}

#[test]
fn a_program_that_does_not_exist_judges_nothing() {
    let error = Victim::start(&VictimSpec::new("v", "no-such-program-here")).unwrap_err();
    assert!(
        matches!(error, HarnessError::NotStarted { .. }),
        "{error:?}"
    );
    assert_eq!(error.verdict(), Verdict::Inconclusive);
}

#[test]
fn a_paused_victim_goes_on_when_resumed_and_dies_when_killed() {
    let mut victim = start("i=0; while :; do i=$((i+1)); echo ack $i; done");
    victim.wait_for_acks(1, PATIENCE).unwrap();
    victim.pause().unwrap();
    let stat = format!("/proc/{}/stat", victim.pid());
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        std::thread::yield_now();
    }
    // More than the pipe can hold comes only from a victim that runs.
    victim.resume().unwrap();
    victim.wait_for_acks(20_000, PATIENCE).unwrap();
    victim.pause().unwrap();
    assert!(victim.kill().unwrap().killed);
}

/// Goal: what a victim says takes bounded memory. Method: long lines, and empty ones, which
/// come to an end a little beyond the bound.
#[test]
fn who_says_more_than_is_kept_is_given_up_and_nothing_is_judged() {
    for script in [
        "yes \"$(printf %1000d 0)\" | head -n 80000; sleep 1000",
        "yes '' | head -n 2500000; sleep 1000",
    ] {
        let mut victim = start(script);
        let error = victim.wait_for_acks(1, PATIENCE).unwrap_err();
        assert!(
            matches!(&error, HarnessError::TalksTooMuch { bytes_max, .. } if *bytes_max == TALK_BYTES_MAX),
            "{script}: {error}"
        );
        assert_eq!(error.verdict(), Verdict::Inconclusive);
        // Its end is known all the same.
        let pid = victim.pid();
        let error = victim.kill().unwrap_err();
        assert!(
            matches!(error, HarnessError::TalksTooMuch { .. }),
            "{error}"
        );
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        let kept: usize = victim.said().iter().map(|line| line.len() + 24).sum();
        assert!((kept as u64) < TALK_BYTES_MAX, "{kept}");
    }
}

/// Goal: a wait ends in time although lines keep coming. Method: `yes`, whose pipe is never
/// empty for long.
#[test]
fn lines_that_keep_coming_do_not_hold_a_deadline_up() {
    let mut victim = Victim::start(&VictimSpec::new("victim", "yes")).unwrap();
    let short = Duration::from_millis(100);
    let timed_out = |error: HarnessError, below: u64| {
        let HarnessError::TimedOut { waited_ms, .. } = error else {
            panic!("{error}");
        };
        assert!(waited_ms < below, "{waited_ms}");
    };
    timed_out(victim.wait_for_acks(1, short).unwrap_err(), 5000);
    timed_out(victim.wait_for_exit(short).unwrap_err(), 5000);
    // Without any time what is there is still read, and no more than that.
    let before = victim.said().len();
    let error = victim.wait_for_line("nothing", Duration::ZERO, |_| false);
    timed_out(error.unwrap_err(), 5000);
    let line = victim.wait_for_line("a word", Duration::ZERO, |_| true);
    assert!(line.is_ok_and(|line| line == "y"));
    assert!(before < victim.said().len());
}

/// Goal: the same of an interruption. Method: it comes while lines are looked at.
#[test]
fn lines_that_keep_coming_do_not_hold_an_interruption_up() {
    let interrupt = Interrupt::new();
    let raise = interrupt.clone();
    let (tell, told) = std::sync::mpsc::channel();
    let scenario = Scenario::new(1, "talk", "", move |run| {
        let mut victim = run.start(&VictimSpec::new("victim", "yes"))?;
        let mut lines = 0;
        let found = victim.wait_for_line("nothing", PATIENCE, |_| {
            lines += 1;
            if lines == 10 {
                raise.raise();
            }
            false
        });
        tell.send(found)
            .map_err(|_| Failure::new("nobody listens"))?;
        Ok(Outcome::passed())
    });
    let dir = tempfile::tempdir().unwrap();
    let runner = Runner::new(1).console(Console::Silent);
    let runner = runner.work_dir(dir.path()).interrupt(interrupt);
    assert_eq!(runner.run(&[&scenario]).exit_code(), 130);
    let error = told.recv().unwrap().unwrap_err();
    assert!(matches!(error, HarnessError::TimedOut { .. }), "{error}");
}
