//! The house: which crate may know which, and where a word may stand.
//!
//! Reads manifests and sources, so that a rule of `docs/ARCHITECTURE.md` that
//! is broken is a failing test and not a matter of taste.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use agentos_process::CommandSpec;
use serde_json::Value;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// The packages under `crates/`, each with what it depends on at run time.
fn crates() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let spec = CommandSpec::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .cwd(workspace())
        .max_output(16 << 20);
    let finished = agentos_process::run(&spec).unwrap();
    assert!(
        finished.success(),
        "{}",
        String::from_utf8_lossy(&finished.stderr)
    );
    let metadata: Value = serde_json::from_slice(&finished.stdout).unwrap();
    let folder = workspace().join("crates");
    let mut crates = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        if !Path::new(package["manifest_path"].as_str().unwrap()).starts_with(&folder) {
            continue;
        }
        let dependencies = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
            .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
            .collect();
        crates.insert(package["name"].as_str().unwrap().to_owned(), dependencies);
    }
    crates
}

/// Every Rust file under `crates/*/src`, with its path below `crates/`.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let folder = workspace().join("crates");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        walk(&entry.unwrap().path().join("src"), &mut files);
    }
    let name = |path: &Path| {
        path.strip_prefix(&folder)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    files
        .iter()
        .map(|path| (name(path), fs::read_to_string(path).unwrap()))
        .collect()
}

/// Code without comments and without what is only compiled for tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn each_crate_depends_only_on_what_is_below_it() {
    let below: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("agentos-core", &[][..]),
        ("agentos-crash-vfs", &[]),
        ("agentos-process", &[]),
        ("agentos-store", &["agentos-core"]),
        ("agentos-tracer", &["agentos-process"]),
        ("agentos-checkpoints", &["agentos-core", "agentos-process"]),
        (
            "agentos-chaos",
            &["agentos-core", "agentos-process", "agentos-tracer"],
        ),
        ("agentos-recovery", &["agentos-core", "agentos-checkpoints"]),
        ("agentos-worker-pool", &["agentos-core"]),
        ("agentos-idempotency", &["agentos-core", "agentos-process"]),
    ]);
    for (name, dependencies) in crates() {
        let allowed = below
            .get(name.as_str())
            .unwrap_or_else(|| panic!("{name} has no place"));
        for dependency in dependencies
            .iter()
            .filter(|name| name.starts_with("agentos-"))
        {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} knows {dependency}"
            );
        }
    }
}

#[test]
fn only_the_store_and_the_crash_vfs_know_the_engine_and_only_core_the_binary_codec() {
    let owners: [(&str, &[&str]); 4] = [
        ("rusqlite", &["agentos-store", "agentos-crash-vfs"]),
        ("r2d2", &["agentos-store"]),
        ("r2d2_sqlite", &["agentos-store"]),
        ("bincode", &["agentos-core"]),
    ];
    for (name, dependencies) in crates() {
        for (dependency, owners) in owners {
            assert!(
                !dependencies.contains(dependency) || owners.contains(&name.as_str()),
                "{name} depends on {dependency}, which belongs to {owners:?}"
            );
        }
    }
}

#[test]
fn words_stand_only_where_they_belong() {
    let rules: [(&str, &[&str]); 5] = [
        ("rusqlite::", &["store/src/sqlite/", "crash-vfs/src/sys.rs"]),
        ("bincode::", &["core/src/codec.rs"]),
        (
            "Instant::now",
            &["core/src/time.rs", "process/src/clock.rs"],
        ),
        ("SystemTime::now", &["core/src/time.rs"]),
        ("Command::new", &["process/src/"]),
    ];
    for (file, text) in sources() {
        let code = code(&text);
        for (word, places) in rules {
            let found = code.lines().any(|line| line.contains(word));
            let at_home = places.iter().any(|place| file.starts_with(place));
            assert!(
                !found || at_home,
                "{file} says {word}, which belongs into {places:?}"
            );
        }
        // ptrace, seccomp and what happens between fork and exec; the table of
        // C functions that SQLite calls.
        let may_be_unsafe = ["tracer/src/sys.rs", "crash-vfs/src/sys.rs"].contains(&file.as_str());
        assert!(
            may_be_unsafe || !code.contains("unsafe "),
            "{file} has unsafe code"
        );
    }
}

#[test]
fn every_file_opens_by_saying_what_it_promises() {
    for (file, text) in sources() {
        assert!(text.starts_with("//! "), "{file}");
    }
}
