//! Bounded runs of real programs: codes and signals, time, output, input, and
//! what becomes of processes that a command leaves behind.

mod support;

use std::time::Duration;

use agentos_process::{CancelToken, CommandSpec, Outcome, ProcessError, run, run_until, run_while};
use support::{PATIENCE, has_ended, pid_of};

fn shell(text: &str) -> CommandSpec {
    CommandSpec::shell(text).timeout(PATIENCE)
}

#[test]
fn an_exit_code_is_reported_as_it_is() {
    assert!(run(&shell("exit 0")).unwrap().success());
    let finished = run(&shell("exit 42")).unwrap();
    assert_eq!(finished.outcome, Outcome::Exited { code: 42 });
    assert!(!finished.success());
}

#[test]
fn a_signal_is_told_apart_from_an_exit_code() {
    let killed = run(&shell("kill -KILL $$")).unwrap();
    assert_eq!(killed.outcome, Outcome::Signalled { signal: 9 });
    let terminated = run(&shell("kill -TERM $$")).unwrap();
    assert_eq!(terminated.outcome, Outcome::Signalled { signal: 15 });
    let look_alike = run(&shell("exit 137")).unwrap();
    assert_eq!(look_alike.outcome, Outcome::Exited { code: 137 });
}

#[test]
fn both_streams_come_back_byte_for_byte() {
    let finished = run(&shell(r"printf 'a\377\000b\r\n'; printf '\200' >&2")).unwrap();
    assert_eq!(finished.stdout, b"a\xff\0b\r\n");
    assert_eq!(finished.stderr, b"\x80");
    assert!(!finished.stdout_truncated && !finished.stderr_truncated);
}

#[test]
fn arguments_pass_without_a_shell_reading_them() {
    let spec = CommandSpec::from_argv(["printf", "%s|", "a b", "$HOME", "'", "ü"]).unwrap();
    assert_eq!(run(&spec).unwrap().stdout, "a b|$HOME|'|ü|".as_bytes());
}

#[test]
fn standard_input_ends_after_its_last_byte() {
    let long = vec![b'x'; 300_000];
    let finished = run(&shell("cat").stdin_bytes(long.clone())).unwrap();
    assert_eq!(finished.stdout, long);
    let without = run(&shell("cat; echo end")).unwrap();
    assert_eq!(without.stdout, b"end\n");
}

#[test]
fn a_program_may_ignore_its_input() {
    let finished = run(&shell("exit 7").stdin_bytes(vec![0; 300_000])).unwrap();
    assert_eq!(finished.outcome, Outcome::Exited { code: 7 });
}

#[test]
fn environment_and_directory_are_those_of_the_spec() {
    let dir = tempfile::tempdir().unwrap();
    let spec = shell("echo \"$A:$B:${HOME-none}\"; pwd -P")
        .env("A", "1")
        .env("B", "2")
        .env_remove("B")
        .env_clear()
        .cwd(dir.path());
    let finished = run(&spec).unwrap();
    let expected = format!(
        "1::none\n{}\n",
        dir.path().canonicalize().unwrap().display()
    );
    assert_eq!(String::from_utf8(finished.stdout).unwrap(), expected);
}

#[test]
fn output_beyond_the_bound_is_dropped_and_marked() {
    let spec = shell("head -c 1000000 /dev/zero; echo short >&2; exit 5").max_output(1000);
    let finished = run(&spec).unwrap();
    // The command was not blocked by its full pipe: it reached its own exit.
    assert_eq!(finished.outcome, Outcome::Exited { code: 5 });
    assert_eq!(finished.stdout, vec![0; 1000]);
    assert!(finished.stdout_truncated);
    assert_eq!(finished.stderr, b"short\n");
    assert!(!finished.stderr_truncated);
}

#[test]
fn output_of_exactly_the_bound_is_whole() {
    let finished = run(&shell("printf 12345").max_output(5)).unwrap();
    assert_eq!(finished.stdout, b"12345");
    assert!(!finished.stdout_truncated);
}

/// Goal: what stands in the pipe when the command ends is not lost.
/// Method: more than one read's worth, written at once and followed by exit.
#[test]
fn the_last_words_of_a_command_are_read() {
    for bytes in [1, 65_536, 65_537, 200_000] {
        let finished = run(&shell(&format!("head -c {bytes} /dev/zero"))).unwrap();
        assert_eq!(finished.stdout.len(), bytes);
    }
}

#[test]
fn a_timeout_kills_the_whole_group() {
    let spec = shell("sleep 1000 & echo child $!; wait").timeout(Duration::from_secs(1));
    let finished = run(&spec).unwrap();
    assert_eq!(finished.outcome, Outcome::TimedOut);
    assert!(finished.duration >= Duration::from_secs(1));
    let grandchild = pid_of(finished.stdout.trim_ascii_end());
    assert!(has_ended(grandchild));
}

/// Goal: nothing of a cancelled command runs when its caller goes on.
/// Method: a command starts a child that ignores signals, and says so through a FIFO;
/// then it is cancelled from another thread.
#[test]
fn cancelling_kills_the_whole_group_before_it_returns() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let spec = shell(
        "mkfifo ready; (trap '' TERM INT HUP; exec sleep 1000) & echo child $!; : > ready; wait",
    )
    .cwd(dir.path());
    let cancel = CancelToken::new().unwrap();
    let finished = std::thread::scope(|scope| {
        let running = scope.spawn(|| run_until(&spec, &cancel));
        let deadline = CommandSpec::shell("until [ -p ready ]; do :; done; read _ < ready || true")
            .cwd(ready.parent().unwrap())
            .timeout(PATIENCE);
        assert!(run(&deadline).unwrap().success());
        cancel.cancel();
        running.join().unwrap().unwrap()
    });
    assert_eq!(finished.outcome, Outcome::Cancelled);
    assert_eq!(finished.outcome.code(), None);
    assert!(finished.duration < PATIENCE);
    assert!(has_ended(pid_of(finished.stdout.trim_ascii_end())));
}

#[test]
fn what_was_cancelled_before_never_starts() {
    let dir = tempfile::tempdir().unwrap();
    let cancel = CancelToken::new().unwrap();
    cancel.clone().cancel();
    cancel.cancel();
    let error = run_until(&shell("touch trace").cwd(dir.path()), &cancel).unwrap_err();
    assert!(matches!(error, ProcessError::Cancelled { .. }), "{error:?}");
    assert!(error.nothing_ran());
    assert!(!dir.path().join("trace").exists());
}

#[test]
fn a_command_that_nobody_cancels_ends_by_itself() {
    let cancel = CancelToken::new().unwrap();
    let finished = run_until(&shell("echo done; exit 4"), &cancel).unwrap();
    assert_eq!(finished.outcome, Outcome::Exited { code: 4 });
    assert_eq!(finished.stdout, b"done\n");
    // Afterwards it changes nothing.
    cancel.cancel();
    assert!(cancel.is_cancelled());
}

/// Goal: who is asked is asked again and again, whether the command is silent or not.
#[test]
fn a_command_that_is_not_to_go_on_is_killed() {
    for script in ["sleep 1000", "while :; do echo more; done"] {
        let spec = shell(script).timeout(PATIENCE).max_output(10);
        let mut asked = 0;
        let finished = run_while(&spec, None, Duration::from_millis(5), || {
            asked += 1;
            asked < 4
        });
        assert_eq!(finished.unwrap().outcome, Outcome::Cancelled);
        assert_eq!(asked, 4);
    }
    let spec = shell("echo done; exit 4").timeout(PATIENCE);
    let finished = run_while(&spec, None, Duration::from_millis(1), || true).unwrap();
    assert_eq!(finished.outcome, Outcome::Exited { code: 4 });
    assert_eq!(finished.stdout, b"done\n");
}

#[test]
fn a_talkative_command_times_out_like_a_silent_one() {
    let spec = shell("while :; do echo more; done")
        .timeout(Duration::from_millis(200))
        .max_output(10);
    let finished = run(&spec).unwrap();
    assert_eq!(finished.outcome, Outcome::TimedOut);
    assert!(finished.duration < PATIENCE);
}

#[test]
fn a_command_that_ignores_signals_and_one_that_is_stopped_time_out() {
    let limit = Duration::from_millis(200);
    let deaf = shell("trap '' TERM INT HUP; while :; do sleep 1; done").timeout(limit);
    assert_eq!(run(&deaf).unwrap().outcome, Outcome::TimedOut);
    let stopped = shell("kill -STOP $$").timeout(limit);
    assert_eq!(run(&stopped).unwrap().outcome, Outcome::TimedOut);
}

/// Goal: a background process that keeps the pipes open holds nobody up.
#[test]
fn a_background_process_is_killed_when_the_command_has_ended() {
    let finished = run(&shell("sleep 1000 & echo child $!; exit 3")).unwrap();
    assert_eq!(finished.outcome, Outcome::Exited { code: 3 });
    assert!(finished.duration < PATIENCE);
    assert!(has_ended(pid_of(finished.stdout.trim_ascii_end())));
}

/// A process that leaves its group is not killed, as documented, and still
/// cannot hold up its caller through the pipe that it keeps open.
#[test]
fn a_process_that_left_its_group_holds_nobody_up() {
    let finished = run(&shell("setsid sleep 60 & echo child $!")).unwrap();
    assert_eq!(finished.outcome, Outcome::Exited { code: 0 });
    assert!(finished.duration < PATIENCE);
    let stranger = pid_of(finished.stdout.trim_ascii_end());
    // Whether it had left before the kill is its own race; end it if it did.
    let _ = rustix::process::kill_process(stranger, rustix::process::Signal::KILL);
}

#[test]
fn a_script_that_signals_its_group_does_not_reach_this_process() {
    let finished = run(&shell("kill -TERM 0; sleep 1000")).unwrap();
    assert_eq!(finished.outcome, Outcome::Signalled { signal: 15 });
}

#[test]
fn what_cannot_start_says_why_by_type() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plain");
    std::fs::write(&file, "no program").unwrap();

    let missing = run(&CommandSpec::new("no-such-program-here")).unwrap_err();
    assert!(
        matches!(missing, ProcessError::NotFound { .. }),
        "{missing:?}"
    );
    let denied = run(&CommandSpec::new(&file)).unwrap_err();
    assert!(
        matches!(denied, ProcessError::PermissionDenied { .. }),
        "{denied:?}"
    );
    let nul = run(&CommandSpec::new("echo").arg("a\0b")).unwrap_err();
    assert!(matches!(nul, ProcessError::Invalid { .. }), "{nul:?}");
    let long = run(&CommandSpec::new("echo").arg("x".repeat(4 << 20))).unwrap_err();
    assert!(matches!(long, ProcessError::Invalid { .. }), "{long:?}");
    for cwd in [dir.path().join("missing"), file] {
        let error = run(&shell("true").cwd(cwd)).unwrap_err();
        assert!(
            matches!(error, ProcessError::WorkingDirectory { .. }),
            "{error:?}"
        );
        assert!(!error.is_machine());
        assert!(error.nothing_ran());
    }
}

#[test]
fn many_runs_at_the_same_time_keep_their_results_apart() {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for turn in 0..5 {
                    let code = thread * 10 + turn;
                    let finished = run(&shell(&format!("echo {code}; exit {code}"))).unwrap();
                    assert_eq!(finished.outcome, Outcome::Exited { code });
                    assert_eq!(finished.stdout, format!("{code}\n").as_bytes());
                }
            });
        }
    });
}
