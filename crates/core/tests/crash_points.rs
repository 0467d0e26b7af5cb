//! Named points in a build for harnesses, and nothing of them in a normal one:
//! read from the binaries of one program that is built both ways.

use std::fs;
use std::path::{Path, PathBuf};

use agentos_core::crash_point::{COUNT_VARIABLE, DIE_VARIABLE, DIED_FILE};
use agentos_process::{CommandSpec, Finished, Outcome};
use std::time::Duration;
use tempfile::TempDir;

/// A build begins with the dependencies, where nobody built them so before.
const BUILD_TIMEOUT: Duration = Duration::from_secs(580);

/// Builds the example into a file of its own in `dir`.
fn build(dir: &TempDir, features: &[&str]) -> PathBuf {
    // Cargo makes this folder inside the one where it builds.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let spec = CommandSpec::new(cargo)
        .args(["build", "--offline", "--locked", "--quiet"])
        .args(["-p", "agentos-core", "--example", "named_points"])
        .args(features)
        .arg("--target-dir")
        .arg(target)
        .cwd(env!("CARGO_MANIFEST_DIR"))
        .timeout(BUILD_TIMEOUT);
    let finished = agentos_process::run(&spec).unwrap();
    let words = String::from_utf8_lossy(&finished.stderr);
    assert!(finished.success(), "{}: {words}", finished.outcome);
    let built = target.join("debug/examples/named_points");
    let copy = dir.path().join(format!("program{}", features.len()));
    fs::copy(built, &copy).unwrap();
    copy
}

fn contains(program: &Path, text: &str) -> bool {
    let bytes = fs::read(program).unwrap();
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

/// Runs it with these variables.
fn run(program: &Path, variables: &[(&str, &Path)]) -> Finished {
    let mut spec = CommandSpec::new(program);
    for (name, value) in variables {
        spec = spec.env(*name, *value);
    }
    agentos_process::run(&spec).unwrap()
}

/// The lines of the one file that a process left in `counts`, which is emptied.
/// The mark of a death is none.
fn counted(counts: &Path) -> Vec<String> {
    let files: Vec<PathBuf> = fs::read_dir(counts)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with(DIED_FILE))
        .collect();
    assert!(files.len() <= 1, "{files:?}");
    let mut lines = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        lines.extend(text.lines().map(str::to_owned));
        fs::remove_file(file).unwrap();
    }
    lines
}

const ALL: &[u8] = b"ack 1\nack 2\nack 3\n";

#[test]
fn a_normal_build_has_neither_the_names_nor_the_variables_and_obeys_nobody() {
    let dir = TempDir::new().unwrap();
    let counts = dir.path().join("counts");
    fs::create_dir(&counts).unwrap();
    let names = [
        "example.before_saying",
        "example.said",
        COUNT_VARIABLE,
        DIE_VARIABLE,
    ];

    let normal = build(&dir, &[]);
    for name in names {
        assert!(!contains(&normal, name), "{name} is in a normal build");
    }
    let death = Path::new("example.said#2");
    let asked = [(COUNT_VARIABLE, &*counts), (DIE_VARIABLE, death)];
    let finished = run(&normal, &asked);
    assert_eq!(finished.outcome, Outcome::Exited { code: 0 });
    assert_eq!(finished.stdout, ALL);
    assert_eq!(counted(&counts), Vec::<String>::new());

    let armed = build(&dir, &["--features", "crash-points"]);
    for name in names {
        assert!(contains(&armed, name), "{name} is in no build");
    }
    // Nobody asks: nothing happens.
    assert_eq!(run(&armed, &[]).stdout, ALL);
    // Both are counted, in order.
    let finished = run(&armed, &asked[..1]);
    assert_eq!(finished.stdout, ALL);
    let pair = ["example.before_saying", "example.said"];
    assert_eq!(counted(&counts), [pair, pair, pair].concat());
    // It dies at the second, and the count has all until then.
    let finished = run(&armed, &asked);
    assert_eq!(finished.outcome, Outcome::Signalled { signal: 9 });
    assert_eq!(finished.stdout, b"ack 1\nack 2\n");
    let died = ["example.before_saying", "!example.said"];
    assert_eq!(counted(&counts), [pair, died].concat());
    // The next one lives: one death is enough for a program of many processes.
    assert_eq!(run(&armed, &asked).stdout, ALL);
    assert_eq!(counted(&counts), [pair, pair, pair].concat());
    // Where nobody counts, each one dies.
    let finished = run(&armed, &asked[1..]);
    assert_eq!(finished.outcome, Outcome::Signalled { signal: 9 });
    // What cannot be obeyed is not taken for a run without points.
    for (name, value) in [
        (DIE_VARIABLE, Path::new("example.said")),
        (COUNT_VARIABLE, Path::new("/nowhere/at/all")),
    ] {
        let finished = run(&armed, &[(name, value)]);
        assert_eq!(finished.outcome, Outcome::Signalled { signal: 6 });
        assert!(String::from_utf8_lossy(&finished.stderr).contains(name));
    }
}
