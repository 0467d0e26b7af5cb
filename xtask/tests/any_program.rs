//! `cargo xtask chaos run`: what a file asks for is done, and what it gets wrong is told
//! before anything runs. The examples themselves are tested beside the harness.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agentos_process::{CommandSpec, Finished};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(180);

fn chaos_run(config: &Path, dir: &TempDir, more: &[&str]) -> Finished {
    let spec = CommandSpec::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["chaos", "run", "--seed", "8141", "--config"])
        .arg(config)
        .arg("--artifacts")
        .arg(dir.path().join("artifacts"))
        .args(more)
        .timeout(PATIENCE)
        .max_output(16 << 20);
    agentos_process::run(&spec).unwrap()
}

fn example(file: &str) -> std::path::PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    workspace.join("crates/chaos/examples").join(file)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ended(finished: &Finished, code: i32) {
    let words = text(&finished.stdout) + &text(&finished.stderr);
    assert_eq!(finished.outcome.code(), Some(code), "{words}");
}

/// Goal: the line that is printed shows it again. Method: its words are typed.
#[test]
fn what_is_found_is_shown_again_by_the_line_that_is_printed() {
    let dir = TempDir::new().unwrap();
    let (json, html) = (
        dir.path().join("report.json"),
        dir.path().join("report.html"),
    );
    let config = example("append-log/bad.toml");
    let finished = chaos_run(
        &config,
        &dir,
        &[
            "--json",
            json.to_str().unwrap(),
            "--html",
            html.to_str().unwrap(),
            "--jobs",
            "2",
        ],
    );
    ended(&finished, 1);
    let report: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let violation = &report["violations"][0];
    let strike = violation["strike"].as_str().unwrap();
    assert_eq!(violation["size"], 1, "{violation}");
    let line = format!(
        "cargo xtask chaos run --config {} --strike '{strike}' --size 1 --seed 8141",
        config.display()
    );
    assert_eq!(violation["replay"], line);
    let said = text(&finished.stdout);
    assert!(said.contains(&format!("  replay: {line}\n")), "{said}");
    assert!(
        fs::read_to_string(html)
            .unwrap()
            .contains("append-log-hastily")
    );

    let again = chaos_run(&config, &dir, &["--strike", strike, "--size", "1"]);
    ended(&again, 1);
    let said = text(&again.stdout);
    assert!(said.contains("1 acknowledged, 0 in the log"), "{said}");
}

#[test]
fn what_holds_passes_within_the_budget() {
    let dir = TempDir::new().unwrap();
    let finished = chaos_run(&example("append-log/good.toml"), &dir, &["--budget", "7"]);
    ended(&finished, 0);
    let said = text(&finished.stdout);
    assert!(said.ends_with("7 passed, 0 failed\n"), "{said}");
}

#[test]
fn a_file_that_is_wrong_is_told_with_its_line() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("wrong.toml");
    fs::write(
        &config,
        "name = \"x\"\n[program]\nargv = [\"true\"]\ncmd = 1\n",
    )
    .unwrap();
    let finished = chaos_run(&config, &dir, &[]);
    ended(&finished, 2);
    let said = text(&finished.stderr);
    let expected = format!("error: {}:4:1: unknown field `cmd`", config.display());
    assert!(said.starts_with(&expected), "{said}");
}

#[test]
fn a_check_that_does_not_exist_judges_nothing() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("blind.toml");
    let text_of = "name = \"blind\"\n[program]\nargv = [\"true\"]\n\
                   [check]\nargv = [\"/no/such/check\"]\n[strikes]\nkills = 1\n";
    fs::write(&config, text_of).unwrap();
    let finished = chaos_run(&config, &dir, &[]);
    ended(&finished, 2);
    let said = text(&finished.stdout);
    assert!(said.contains("victim check cannot be started"), "{said}");
}
