//! A disk that fails while committing: nobody can know what became of the
//! commit, all who shared it are told so, and the store goes on by itself once
//! the disk does.

use agentos_process::{CommandSpec, run};
use agentos_tests::{at, numbers};

use crate::VICTIM;

/// Goal: an error of the disk at COMMIT is `CommitUnknown`; the connections are
/// opened anew; later commits work, and no number is given twice or left out.
/// Method: a victim that ignores SIGXFSZ (as its shell arranged) limits the size
/// of its files to what the write-ahead log has, commits, lifts the limit, and
/// commits again.
#[test]
fn a_write_error_at_commit_is_unknown_and_the_store_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    let spec = CommandSpec::shell("trap '' XFSZ; exec \"$0\" \"$@\"").args([
        VICTIM,
        "limited",
        path.to_str().unwrap(),
        "a",
    ]);
    let finished = run(&spec).unwrap();
    let said = String::from_utf8(finished.stdout).unwrap();
    assert!(finished.outcome.success(), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "1",
            "2",
            "3",
            "refused CommitUnknown",
            "read 3",
            "4",
            "reopened 1"
        ]
    );
    let store = at(&path);
    assert_eq!(numbers(&store, "a"), [1, 2, 3, 4]);
    assert!(store.check_integrity().unwrap().is_sound());
}

/// Goal: all who shared the commit are told that nobody knows. Method: five
/// commits wait behind the lock, so that they are one group; then as above.
#[test]
fn a_write_error_at_commit_is_unknown_to_the_whole_group() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.db");
    let spec = CommandSpec::shell("trap '' XFSZ; exec \"$0\" \"$@\"").args([
        VICTIM,
        "limited-group",
        path.to_str().unwrap(),
        "a",
    ]);
    let finished = run(&spec).unwrap();
    let said = String::from_utf8(finished.stdout).unwrap();
    assert!(finished.outcome.success(), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let unknown = "refused CommitUnknown";
    assert_eq!(
        lines,
        [
            unknown,
            unknown,
            unknown,
            unknown,
            unknown,
            "read 0",
            "1",
            "reopened 1"
        ]
    );
    assert_eq!(numbers(&at(&path), "a"), [1]);
}
