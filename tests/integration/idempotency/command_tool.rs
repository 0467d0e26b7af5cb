//! Commands through the ledger: real processes, counted by what they leave behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agentos_checkpoints::{
    CheckpointConfig, CheckpointError, CheckpointManager, CommandExit, Evidence, NewCheckpoint,
    Pack,
};
use agentos_core::{
    CheckpointType, Digest, Finding, KeyStatus, KeyStorage, LeaseStorage, Storage, SweepRequest,
    Verification,
};
use agentos_idempotency::{
    CommandCall, CommandEnd, CommandError, CommandOutcome, CutOff, DoubtfulCall, KEY_VARIABLE,
    OnDoubt, OnFailure, ToolError, ToolOutcome, ToolOutput,
};
use agentos_process::CancelToken;
use agentos_tests::{PATIENCE, Victim, at, new_task, task_id, wait_until};
use rustix::process::{Pid, test_kill_process};

use super::tool_ledger::Ground;
use crate::VICTIM;

/// A script that leaves a line in `runs` each time it runs.
fn script(directory: &Path, rest: &str) -> CommandCall {
    CommandCall::bash(format!("echo run >> runs; {rest}")).cwd(directory)
}

/// How often it ran.
fn runs(directory: &Path) -> usize {
    let lines = fs::read_to_string(directory.join("runs")).unwrap_or_default();
    lines.lines().count()
}

fn pid_in(file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(file).ok()?;
    Pid::from_raw(text.strip_suffix('\n')?.parse().ok()?)
}

/// Whether a process runs no more; a zombie that its new parent has not reaped counts.
fn has_ended(pid: Pid) -> bool {
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = fs::read_to_string(stat).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    test_kill_process(pid).is_err() || state.starts_with(['Z', 'X'])
}

#[test]
fn a_command_runs_once_and_its_streams_are_replayed_byte_for_byte() {
    let (ground, directory) = (Ground::new(), tempfile::tempdir().unwrap());
    let command = script(
        directory.path(),
        r"printf 'a\377\000b'; printf '\200' >&2; cat; head -c 3000000 /dev/zero",
    )
    .stdin(b"in\xff".to_vec());
    let run = || {
        let step = ground.ledger().step(&task_id("task"), "step");
        step.command(&command, None).unwrap()
    };
    let (first, again) = (run(), run());
    assert_eq!((first.replayed, again.replayed), (false, true));
    assert_eq!(first.outcome, again.outcome);
    let outcome = first.outcome;
    assert_eq!(outcome.exit, CommandEnd::Exited { code: 0 });
    assert_eq!(outcome.stdout[..7], *b"a\xff\0bin\xff");
    assert_eq!(outcome.stdout.len(), 3_000_007);
    assert_eq!(outcome.stderr, b"\x80");
    assert!(!outcome.stdout_cut && !outcome.stderr_cut);
    assert_eq!(runs(directory.path()), 1);
}

#[test]
fn a_command_that_is_given_twice_runs_twice_and_is_replayed_as_two() {
    let (ground, directory) = (Ground::new(), tempfile::tempdir().unwrap());
    let command = script(directory.path(), "wc -l < runs");
    for replayed in [false, true] {
        let step = ground.ledger().step(&task_id("task"), "step");
        for count in ["1\n", "2\n"] {
            let answer = step.command(&command, None).unwrap();
            assert_eq!(answer.outcome.stdout, count.as_bytes());
            assert_eq!(answer.replayed, replayed);
        }
    }
    assert_eq!(runs(directory.path()), 2);
}

#[test]
fn the_directory_and_the_chosen_environment_are_part_of_the_call() {
    let (ground, directory) = (Ground::new(), tempfile::tempdir().unwrap());
    let ledger = ground.ledger();
    let here = fs::canonicalize(directory.path()).unwrap();
    let there = here.join("there");
    fs::create_dir(&there).unwrap();
    let command = |cwd: &Path, value: &str| {
        CommandCall::bash("pwd; echo $WORD")
            .cwd(cwd)
            .env("WORD", value)
            .with(|call| call.of_task(&task_id("task")))
    };
    for (cwd, value) in [(&here, "a"), (&there, "a"), (&here, "b")] {
        for replayed in [false, true] {
            let answer = ledger.command(&command(cwd, value), None).unwrap();
            let expected = format!("{}\n{value}\n", cwd.display());
            assert_eq!(answer.outcome.stdout, expected.as_bytes());
            assert_eq!(answer.replayed, replayed);
        }
    }
}

#[test]
fn exit_code_signal_and_timeout_are_told_apart_and_kept() {
    let (ground, directory) = (Ground::new(), tempfile::tempdir().unwrap());
    let ledger = ground.ledger();
    for (number, (rest, end)) in [
        ("echo out; exit 3", CommandEnd::Exited { code: 3 }),
        ("echo out; exit 137", CommandEnd::Exited { code: 137 }),
        (
            "echo out; kill -KILL $$",
            CommandEnd::Signalled { signal: 9 },
        ),
        ("echo out; sleep 1000", CommandEnd::TimedOut),
    ]
    .into_iter()
    .enumerate()
    {
        let timeout = match end {
            CommandEnd::TimedOut => Duration::from_millis(300),
            _ => PATIENCE,
        };
        let command = script(directory.path(), rest).timeout(timeout);
        let replayed = command
            .clone()
            .with(|call| call.on_failure(OnFailure::Replay));
        // By default a failure is run again on the next ask; by policy it is replayed.
        for (command, executions, is_replay) in [
            (&command, 1, false),
            (&replayed, 1, true),
            (&command, 2, false),
        ] {
            let step = ledger.step(&task_id("task"), "step");
            let answer = step.command(command, None).unwrap();
            assert_eq!(answer.outcome.exit, end);
            assert_eq!(answer.outcome.stdout, b"out\n");
            assert_eq!(
                (answer.executions, answer.replayed),
                (executions, is_replay)
            );
        }
        assert_eq!(runs(directory.path()), 2 * (number + 1));
    }
}

#[test]
fn output_that_is_taken_cut_is_recorded_so_and_says_so() {
    let ground = Ground::new();
    let directory = tempfile::tempdir().unwrap();
    let command = CommandCall::sh("echo >> ran; printf 123456; printf 12345 >&2")
        .cwd(directory.path())
        .output_bytes(5);
    for taken in [true, false, true] {
        let step = ground.ledger().step(&task_id("task"), "step");
        let answer = if taken {
            step.command(&command.clone().take_cut_output(), None)
        } else {
            step.command(&command, None)
        };
        let outcome = match answer {
            Ok(answer) if taken => answer.outcome,
            Err(CommandError::OutputTooLarge {
                large: None,
                outcome: Some(outcome),
            }) if !taken => *outcome,
            answer => panic!("{answer:?}"),
        };
        assert_eq!(fs::read(directory.path().join("ran")).unwrap(), b"\n");
        assert_eq!(
            (&outcome.stdout[..], outcome.stdout_cut),
            (&b"12345"[..], true)
        );
        assert_eq!(
            (&outcome.stderr[..], outcome.stderr_cut),
            (&b"12345"[..], false)
        );
    }
}

/// Goal: nothing of an output is lost before its caller has seen it. Method: three times
/// of what is to be recorded, on each stream in turn, and as a failure.
#[test]
fn output_beyond_the_bound_is_handed_back_whole_and_its_command_runs_once() {
    for (rest, stream) in [
        (r"head -c 3145728 /dev/zero | tr '\0' x", "stdout"),
        (r"head -c 3145728 /dev/zero | tr '\0' x >&2", "stderr"),
        (r"head -c 3145728 /dev/zero | tr '\0' x; exit 3", "failed"),
    ] {
        let (ground, directory) = (Ground::new(), tempfile::tempdir().unwrap());
        let command = script(directory.path(), rest)
            .output_bytes(1 << 20)
            .with(|call| call.on_failure(OnFailure::Replay));
        let ask = || {
            let step = ground.ledger().step(&task_id("task"), "step");
            match step.command(&command, None).unwrap_err() {
                CommandError::OutputTooLarge {
                    large: Some(large),
                    outcome,
                } => (large, outcome),
                error => panic!("{error:?}"),
            }
        };
        let (large, outcome) = ask();
        let outcome = outcome.unwrap();
        let (long, short) = match stream {
            "stderr" => (&outcome.stderr, &outcome.stdout),
            _ => (&outcome.stdout, &outcome.stderr),
        };
        assert_eq!((long.len(), short.len()), (3 << 20, 0), "{stream}");
        assert!(long.iter().all(|byte| *byte == b'x'));
        assert!(!outcome.stdout_cut && !outcome.stderr_cut);
        assert_eq!(outcome.is_success(), stream != "failed");
        let encoded = outcome.encode();
        assert_eq!(large.bytes, encoded.len() as u64);
        assert_eq!(large.digest, Digest::of(&encoded));
        assert_eq!(large.failure.is_some(), stream == "failed");
        // Whoever asks again is told that it ran, and by what its output is known.
        assert_eq!(ask(), (large, None));
        assert_eq!(runs(directory.path()), 1);
    }
}

#[test]
fn a_command_can_hand_its_key_on() {
    let ground = Ground::new();
    let step = ground.ledger().step(&task_id("task"), "step");
    let command = CommandCall::sh(format!("printf %s \"${KEY_VARIABLE}\""));
    let answer = step.command(&command, None).unwrap();
    let key = String::from_utf8(answer.outcome.stdout).unwrap();
    let call = command.to_call().unwrap().of_task(&task_id("task"));
    assert_eq!(key, call.in_step("step").key().unwrap().as_str());
}

/// Goal: when a cancelled call returns, nothing of what it started runs. Method: the
/// command says by a file that its child, which ignores signals, runs.
#[test]
fn cancelling_kills_the_whole_group_and_is_recorded_as_what_it_is() {
    let (ground, directory) = (Ground::new(), tempfile::tempdir().unwrap());
    let pid_file = directory.path().join("pid");
    let command = script(
        directory.path(),
        "(trap '' TERM INT HUP; exec sleep 1000) & echo $! > pid.new; mv pid.new pid; wait",
    )
    .timeout(PATIENCE);
    let ledger = ground.ledger();
    let step = ledger.step(&task_id("task"), "step");
    let cancel = CancelToken::new().unwrap();
    let answer = std::thread::scope(|scope| {
        let running = scope.spawn(|| step.command(&command, Some(&cancel)));
        wait_until("the command runs", || pid_file.exists());
        cancel.cancel();
        running.join().unwrap().unwrap()
    });
    assert_eq!(answer.outcome.exit, CommandEnd::Cancelled);
    assert_eq!(answer.outcome.exit.code(), None);
    assert!(has_ended(pid_in(&pid_file).unwrap()));
    // What was cancelled before it began did nothing, and is as if it had not been asked.
    let other = script(directory.path(), "true");
    let error = step.command(&other, Some(&cancel)).unwrap_err();
    assert!(
        matches!(error, CommandError::Tool(ToolError::NotDone { .. })),
        "{error:?}"
    );
    assert_eq!(runs(directory.path()), 1);
    let replayed = command.with(|call| call.on_failure(OnFailure::Replay));
    let again = ledger.step(&task_id("task"), "step");
    let again = again.command(&replayed, None).unwrap();
    assert_eq!((again.outcome, again.replayed), (answer.outcome, true));
}

/// Goal: who lost the right to run a command runs it no longer, and does not say how it
/// ended. Method: time is moved beyond its permit, or its item is taken away, while its
/// child, which ignores signals, runs.
#[test]
fn a_command_whose_right_to_run_is_lost_is_killed_and_in_doubt() {
    for is_leased in [false, true] {
        let (ground, directory) = (Ground::new(), tempfile::tempdir().unwrap());
        let pid_file = directory.path().join("pid");
        let command = script(
            directory.path(),
            "(trap '' TERM INT HUP; exec sleep 1000) & echo $! > pid.new; mv pid.new pid; wait",
        )
        .timeout(PATIENCE);
        let ledger = ground.ledger();
        let mut step = ledger.step(&task_id("task"), "step");
        if is_leased {
            ground.enqueue();
            step = step.under(&ground.claim());
        }
        let error = std::thread::scope(|scope| {
            let running = scope.spawn(|| step.command(&command, None));
            wait_until("the command runs", || pid_file.exists());
            ground.clock.advance(Duration::from_secs(31));
            if is_leased {
                let swept = ground.store.sweep(&SweepRequest::default()).unwrap();
                assert_eq!(swept.recovered.len(), 1);
            }
            running.join().unwrap().unwrap_err()
        });
        let CommandError::Tool(ToolError::InDoubt { reason, .. }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(
            reason,
            "the right to run the command was lost, and it was killed"
        );
        assert!(has_ended(pid_in(&pid_file).unwrap()));
        // The next one finds it so.
        let step = ground.ledger().step(&task_id("task"), "step");
        let error = step.command(&command, None).unwrap_err();
        assert!(
            matches!(error, CommandError::Tool(ToolError::InDoubt { .. })),
            "{error:?}"
        );
        assert_eq!(runs(directory.path()), 1);
    }
}

/// What was cut off may have happened in part: who says so has it in doubt, and asks.
#[test]
fn a_command_that_was_cut_off_can_be_in_doubt() {
    let (ground, directory) = (Ground::new(), tempfile::tempdir().unwrap());
    let command = script(directory.path(), "echo partly; sleep 1000")
        .timeout(Duration::from_millis(300))
        .cut_off(CutOff::Doubt);
    let ledger = ground.ledger();
    let error = ledger
        .step(&task_id("task"), "step")
        .command(&command, None)
        .unwrap_err();
    let CommandError::Tool(ToolError::InDoubt { reason, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(reason, "the command did not end by itself: timed out");
    let found = CommandOutcome {
        exit: CommandEnd::Exited { code: 0 },
        stdout: b"partly\n".to_vec(),
        stderr: Vec::new(),
        stdout_cut: false,
        stderr_cut: false,
        duration: Duration::from_secs(1),
    };
    let bytes = found.encode();
    let probe = OnDoubt::verify(move |call: &DoubtfulCall| {
        assert_eq!(call.arguments["shell"], "bash");
        Finding::Happened(ToolOutcome::Done(ToolOutput::new(bytes.clone())))
    });
    let verified = command.with(|call| call.on_doubt(probe));
    let step = ledger.step(&task_id("task"), "step");
    let answer = step.command(&verified, None).unwrap();
    assert_eq!((answer.outcome, answer.replayed), (found, true));
    assert_eq!(runs(directory.path()), 1);
}

#[test]
fn what_cannot_be_started_was_not_done() {
    let (ground, directory) = (Ground::new(), tempfile::tempdir().unwrap());
    let ledger = ground.ledger();
    let step = ledger.step(&task_id("task"), "step");
    for command in [
        CommandCall::argv(["no-such-program-here"]),
        CommandCall::argv(Vec::<String>::new()),
        CommandCall::argv(["true"]).cwd(directory.path().join("missing")),
        CommandCall::bash("a\0b"),
    ] {
        let error = step.command(&command, None).unwrap_err();
        assert!(
            matches!(error, CommandError::Tool(ToolError::NotDone { .. })),
            "{error:?}"
        );
    }
    assert!(ledger.in_doubt(None, 10).unwrap().items.is_empty());
    assert!(
        ledger
            .history(&task_id("task"), None, 10)
            .unwrap()
            .items
            .is_empty()
    );
    assert_eq!(ledger.stats().not_done, 4);
}

#[test]
fn what_an_operator_recorded_may_be_no_outcome_of_a_command() {
    let ground = Ground::new();
    let ledger = ground.ledger();
    let command = CommandCall::sh("true").with(|call| call.of_task(&task_id("task")));
    ledger
        .execute_or_replay(&command.to_call().unwrap(), |_| Ok("by hand".into()))
        .unwrap();
    let error = ledger.command(&command, None).unwrap_err();
    assert!(matches!(error, CommandError::Malformed(_)), "{error:?}");
}

#[test]
fn how_a_command_ended_is_evidence_of_a_checkpoint() {
    let (ground, directory) = (Ground::new(), tempfile::tempdir().unwrap());
    ground.store.create_task(new_task("task")).unwrap();
    let config = CheckpointConfig::new(directory.path());
    let storage: std::sync::Arc<dyn Storage> = ground.store.clone();
    let checkpoints = CheckpointManager::new(storage, config).unwrap();
    let ledger = ground.ledger();
    let step = ledger.step(&task_id("task"), "step");
    let with = |code: i32| {
        let command = script(directory.path(), &format!("exit {code}"));
        let answer = step.command(&command, None).unwrap();
        assert_eq!(answer.executed[..2], ["bash", "-c"]);
        let ended = CommandExit::new(answer.executed, answer.outcome.exit.code());
        let new = NewCheckpoint::new(task_id("task"), CheckpointType::ToolExecuted)
            .state(&code)
            .unwrap()
            .evidence(Pack::all([Evidence::from(ended)]));
        checkpoints.prepare(new)
    };
    assert_eq!(with(0).unwrap().verification, Verification::Verified);
    let error = with(1).unwrap_err();
    assert!(
        matches!(error, CheckpointError::EvidenceFailed { .. }),
        "{error:?}"
    );
}

/// Goal: a command does not outlive the process that runs it, and its call is in doubt
/// then. Method: a process is killed while its command runs.
#[test]
fn when_the_process_dies_its_command_dies_and_is_in_doubt() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("agent.db");
    let pid_file = directory.path().join("pid");
    drop(at(&database));
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; sleep 1000",
        pid_file.display()
    );
    let victim = Victim::start(VICTIM, "run-command", [database.to_str().unwrap(), &script]);
    wait_until("the command runs", || pid_file.exists());
    let pid = pid_in(&pid_file).unwrap();
    assert_eq!(victim.kill(), Vec::<String>::new());
    wait_until("the command is killed", || has_ended(pid));

    let store = at(&database);
    let command = CommandCall::bash(script).cwd("/");
    let call = command.to_call().unwrap().of_task(&task_id("task"));
    let key = call.in_step("step").key().unwrap();
    wait_until("its permit is over", || {
        !store.keys_in_doubt(None, 10).unwrap().items.is_empty()
    });
    let entry = store.find_key(&key).unwrap().unwrap();
    assert_eq!(entry.summary.view.status, KeyStatus::Pending);
    assert_eq!(entry.summary.operation.as_deref(), Some("command"));
}
