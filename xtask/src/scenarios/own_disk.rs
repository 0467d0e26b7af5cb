//! A file system of a victim's own, in memory, that nobody else sees and that goes with it.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use agentos_chaos::{Failure, HarnessError, VictimSpec};
use agentos_process::CommandSpec;

/// Mounts a file system at the first argument, and becomes the program after it.
const SCRIPT: &str = r#"mount -t tmpfs none "$1" || exit 125
shift
exec "$@""#;

/// How a process gets a file system that nobody else sees: as root, or as anybody where
/// users may have namespaces; `None` where neither is.
pub(super) fn namespaces() -> Option<&'static [&'static str]> {
    let root: &[&str] = &["--mount"];
    let anybody: &[&str] = &["--user", "--map-root-user", "--mount"];
    let works = |namespaces: &&'static [&'static str]| {
        let spec = CommandSpec::new("unshare")
            .args(*namespaces)
            .args(["--", "mount", "-t", "tmpfs", "none", "/tmp"]);
        agentos_process::run(&spec).is_ok_and(|finished| finished.success())
    };
    [root, anybody].into_iter().find(works)
}

/// That there can be none proves nothing.
pub(super) fn none() -> Failure {
    let source = io::Error::other("neither root nor namespaces of users, or no `unshare`");
    HarnessError::Machine {
        doing: "mount a small disk".into(),
        source: source.into(),
    }
    .into()
}

/// A program with such a file system at `place`, or without where there can be none.
pub(super) fn in_memory(
    name: &str,
    place: &Path,
    (program, arguments): (impl Into<OsString>, Vec<OsString>),
) -> VictimSpec {
    match namespaces() {
        None => VictimSpec::new(name, program).args(arguments),
        Some(namespaces) => VictimSpec::new(name, "unshare")
            .args(namespaces)
            .args(["--", "sh", "-c", SCRIPT, "sh"])
            .arg(place)
            .arg(program)
            .args(arguments),
    }
}
