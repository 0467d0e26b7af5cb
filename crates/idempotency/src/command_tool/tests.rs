//! What is part of a command's call, and the stored form of its end.

use std::collections::HashSet;
use std::os::unix::ffi::OsStringExt;

use agentos_core::TaskId;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn key(command: &CommandCall) -> String {
    let task = TaskId::new("task").unwrap();
    let call = command.to_call().unwrap().of_task(&task);
    call.identity().unwrap().key.to_string()
}

#[test]
fn what_is_run_where_and_with_what_is_part_of_the_call() {
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let commands = [
        CommandCall::bash("true"),
        CommandCall::sh("true"),
        CommandCall::argv(["bash", "-c", "true"]),
        CommandCall::argv(["true"]),
        CommandCall::argv(["true", ""]),
        CommandCall::argv([bytes(b"\xff")]),
        CommandCall::argv([bytes(b"\xfe")]),
        CommandCall::argv(["\u{fffd}"]),
        CommandCall::argv(["[255]"]),
        CommandCall::bash("true").cwd("/"),
        CommandCall::bash("true").cwd("/tmp"),
        CommandCall::bash("true").env("A", "1"),
        CommandCall::bash("true").env("A", "2"),
        CommandCall::bash("true").env("A", "1").env("B", "1"),
        CommandCall::bash("true").env_clear(),
        CommandCall::bash("true").stdin(""),
        CommandCall::bash("true").stdin("x"),
        CommandCall::bash("true").tool("bash"),
    ];
    let keys: HashSet<String> = commands.iter().map(key).collect();
    assert_eq!(keys.len(), commands.len());
}

#[test]
fn how_long_it_may_take_is_no_part_of_the_call() {
    let command = CommandCall::bash("true");
    let here = std::env::current_dir().unwrap();
    for same in [
        command.clone().timeout(Duration::from_secs(1)),
        command.clone().output_bytes(1),
        command.clone().cut_off(CutOff::Doubt),
        command.clone().with(ToolCall::read_only),
        command.clone().cwd(here),
        command.clone().cwd("."),
    ] {
        assert_eq!(key(&same), key(&command), "{same:?}");
    }
    let (a, b) = (command.clone().env("A", "1"), command.env("B", "2"));
    assert_eq!(key(&a.env("B", "2")), key(&b.env("A", "1")));
}

fn outcomes() -> impl Strategy<Value = CommandOutcome> {
    let exits = prop_oneof![
        any::<i32>().prop_map(|code| CommandEnd::Exited { code }),
        any::<i32>().prop_map(|signal| CommandEnd::Signalled { signal }),
        Just(CommandEnd::TimedOut),
        Just(CommandEnd::Cancelled),
    ];
    let stream = || vec(any::<u8>(), 0..100);
    let flags = (any::<bool>(), any::<bool>());
    (exits, stream(), stream(), flags, any::<u64>()).prop_map(
        |(exit, stdout, stderr, (stdout_cut, stderr_cut), micros)| CommandOutcome {
            exit,
            stdout,
            stderr,
            stdout_cut,
            stderr_cut,
            duration: Duration::from_micros(micros),
        },
    )
}

proptest! {
    #[test]
    fn what_is_stored_comes_back_as_it_was(outcome in outcomes()) {
        let bytes = outcome.encode();
        prop_assert_eq!(CommandOutcome::decode(&bytes), Ok(outcome.clone()));
        for length in 0..23 {
            let cut = CommandOutcome::decode(&bytes[..length]);
            prop_assert_eq!(cut, Err(MalformedOutcome::CutOff));
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_one_outcome(
        mut bytes in vec(any::<u8>(), 0..60),
        header in (0..5_u8, 0..5_u8, 0..40_u8),
    ) {
        let _ = CommandOutcome::decode(&bytes);
        if bytes.len() >= 23 {
            bytes[0] = COMMAND_VERSION;
            (bytes[1], bytes[6]) = (header.0, header.1);
            bytes[15..23].copy_from_slice(&u64::from(header.2).to_le_bytes());
        }
        if let Ok(outcome) = CommandOutcome::decode(&bytes) {
            prop_assert_eq!(outcome.encode(), bytes);
        }
    }
}

#[test]
fn the_bytes_of_version_one_stay_readable() {
    let mut bytes = b"\x01\x00\x03\x00\x00\x00\x02".to_vec();
    bytes.extend_from_slice(&1_500_u64.to_le_bytes());
    bytes.extend_from_slice(&2_u64.to_le_bytes());
    bytes.extend_from_slice(b"o\xffe\x00");
    let outcome = CommandOutcome {
        exit: CommandEnd::Exited { code: 3 },
        stdout: b"o\xff".to_vec(),
        stderr: b"e\x00".to_vec(),
        stdout_cut: false,
        stderr_cut: true,
        duration: Duration::from_micros(1_500),
    };
    assert_eq!(CommandOutcome::decode(&bytes), Ok(outcome.clone()));
    assert_eq!(outcome.encode(), bytes);
    bytes[0] = 2;
    assert_eq!(
        CommandOutcome::decode(&bytes),
        Err(MalformedOutcome::Version(2))
    );
}
