//! The examples in `examples/`, as their files name them: what saves badly is found
//! and shown again by one line, what saves well survives every call.
//!
//! Needs `python3` for one of them, and the example `two_inserts`, which `cargo test`
//! builds beside the tests.

use std::fs;
use std::path::{Path, PathBuf};

use agentos_chaos::report::crash::terminal;
use agentos_chaos::{
    Aftermath, Chaos, ChaosReport, Config, Family, Outcome, Run, ScenarioResult, Strike, Subject,
    Verdict, VictimSpec,
};
use agentos_process::{CommandSpec, run};
use rusqlite::Connection;
use tempfile::TempDir;

const SEED: u64 = 8141;

/// The Python that is here, and no script that looks for it: what that does would be
/// struck as well. CI installs one, and says that it must be there.
fn python() -> Option<String> {
    let asked = ["-c", "import sys; print(sys.executable)"];
    let told = run(&CommandSpec::new("python3").args(asked)).ok();
    let told = told.filter(|finished| finished.success());
    let path = told.map(|finished| String::from_utf8(finished.stdout).unwrap());
    let needed = std::env::var_os("AGENTOS_NEEDS_PYTHON3").is_some();
    assert!(path.is_some() || !needed, "there is no python3");
    Some(path?.trim().to_owned())
}

/// The program `two_inserts` of the same build as this test.
fn two_inserts() -> String {
    let tests = std::env::current_exe().unwrap();
    let folder = tests.parent().and_then(Path::parent).unwrap();
    let program = folder.join("examples/two_inserts");
    let words = "cargo build -p agentos-chaos --example two_inserts builds it";
    assert!(program.is_file(), "{}: {words}", program.display());
    program.to_str().unwrap().to_owned()
}

/// A file of an example; its program is that of this build.
fn example(file: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(file);
    let mut text = fs::read_to_string(&path).unwrap();
    if let Some(python) = python() {
        text = text.replace("python3", &python);
    }
    if text.contains("{env:TWO_INSERTS}") {
        text = text.replace("{env:TWO_INSERTS}", &two_inserts());
    }
    Config::parse(path, &text).unwrap()
}

fn drive(config: &Config, dir: &TempDir) -> Chaos {
    let lines = config.clone();
    config
        .chaos()
        .seed(SEED)
        .artifacts(dir.path().join("artifacts"))
        .replay(move |_, strike, size, seed| lines.replay_line("again", strike, size, seed))
}

/// What must be found is found by calls and by faults, each shown again by its line;
/// the reason of the first.
fn is_found(config: &Config, families: &[Family]) -> Vec<String> {
    let dir = TempDir::new().unwrap();
    let report = drive(config, &dir).budget(60).run();
    let text = terminal::render(&report);
    assert_eq!(report.exit_code(), 1, "{text}");
    for family in families {
        let violation = report
            .violations
            .iter()
            .find(|one| one.strike.family() == *family)
            .unwrap_or_else(|| panic!("{text}"));
        assert!(violation.confirmed, "{text}");
        assert_eq!(violation.replay.lines().count(), 1, "{text}");
        let (strike, size) = typed(&violation.replay);
        assert_eq!((&strike, size), (&violation.strike, violation.size));
        let again = drive(config, &dir).strike(strike).size(size).run();
        assert_eq!(again.exit_code(), 1, "{}", terminal::render(&again));
        assert_eq!(again.violations[0].reasons, violation.reasons);
    }
    let first = report.violations.into_iter().next().unwrap();
    first.reasons
}

/// What a line says, as somebody types it.
fn typed(line: &str) -> (Strike, u64) {
    let after = |option: &str| {
        let rest = line.split_once(option).unwrap().1;
        rest.split(' ').next().unwrap().trim_matches('\'')
    };
    let strike = after("--strike ").parse().unwrap();
    (strike, after("--size ").parse().unwrap())
}

/// Nothing is found at this size, and no call was left out.
fn survives(config: &Config, size: u64) {
    let dir = TempDir::new().unwrap();
    let report = drive(config, &dir).size(size).run();
    report.assert_passed();
    let calls = report.coverage.iter();
    let calls = calls.filter(|one| one.family == Family::Call && one.counted > 0);
    let mut kinds = 0;
    for one in calls {
        assert_eq!(
            (one.planned, one.hit),
            (2 * one.counted, 2 * one.counted),
            "{one:?}"
        );
        kinds += 1;
    }
    assert!(kinds > 0, "{}", terminal::render(&report));
}

#[test]
fn a_log_that_is_acknowledged_before_it_is_written_is_found() {
    let config = example("append-log/bad.toml");
    let reasons = is_found(&config, &[Family::Call, Family::Fail]);
    assert_eq!(reasons, ["1 acknowledged, 0 in the log"]);
}

#[test]
fn a_log_that_is_acknowledged_when_it_is_written_survives() {
    survives(&example("append-log/good.toml"), 5);
}

#[test]
fn a_json_file_that_is_written_over_is_found() {
    if python().is_some() {
        let reasons = is_found(&example("save-json/bad.toml"), &[Family::Call]);
        let words = "0 was acknowledged, and the file is no JSON";
        assert!(reasons[0].starts_with(words), "{reasons:?}");
    }
}

#[test]
fn a_json_file_that_is_put_in_place_survives() {
    if python().is_some() {
        survives(&example("save-json/good.toml"), 2);
    }
}

#[test]
fn two_inserts_apart_are_found() {
    let reasons = is_found(&example("two-inserts/bad.toml"), &[Family::Call]);
    assert_eq!(reasons, ["1 of 1 orders without an invoice"]);
}

#[test]
fn two_inserts_together_survive() {
    survives(&example("two-inserts/good.toml"), 1);
}

/// The same program without a file, as a test of its own project has it.
fn shop(way: &'static str) -> Subject {
    let program = two_inserts();
    let victim = move |dir: &Path, size: u64| {
        VictimSpec::new("shop", &program)
            .args([way, "shop.db", &size.to_string()])
            .cwd(dir)
    };
    Subject::new("shop", victim, look).size(2)
}

fn look(run: &mut Run, after: &Aftermath) -> ScenarioResult {
    let mut outcome = Outcome::passed();
    let connection = Connection::open(run.dir().join("shop.db"))?;
    let rows = |table: &str| -> rusqlite::Result<i64> {
        let known = connection.table_exists(None, table)?;
        let sql = format!("SELECT count(*) FROM {table}");
        if known {
            connection.query_row(&sql, [], |row| row.get(0))
        } else {
            Ok(0)
        }
    };
    let (orders, invoices, acked) = (rows("orders")?, rows("invoices")?, after.acks().len());
    outcome.check(orders == invoices, || {
        format!("{orders} orders, {invoices} invoices")
    });
    let acked = i64::try_from(acked)?;
    outcome.check(acked <= orders, || {
        format!("{acked} acknowledged, {orders} orders")
    });
    Ok(outcome)
}

#[test]
fn an_order_and_its_invoice_survive_together() {
    let dir = TempDir::new().unwrap();
    let drive = Chaos::new(shop("together"))
        .seed(SEED)
        .artifacts(dir.path());
    drive.every_syscall().budget(60).run().assert_passed();
}

#[test]
fn an_order_and_its_invoice_do_not_survive_apart() {
    let dir = TempDir::new().unwrap();
    let drive = Chaos::new(shop("apart")).seed(SEED).artifacts(dir.path());
    let report = drive.every_syscall().budget(40).run();
    assert_eq!(report.exit_code(), 1, "{}", terminal::render(&report));
    assert_eq!(report.violations[0].reasons, ["1 orders, 0 invoices"]);
}

/// A log with this check, without a strike.
fn judged(check: &str, more: &str) -> ChaosReport {
    let dir = TempDir::new().unwrap();
    let path: PathBuf = dir.path().join("log.toml");
    let text = format!(
        "name = \"log\"\n[program]\nargv = [\"sh\", \"-c\", \"echo 1 >> log; echo ack 1\"]\n\
         [check]\nargv = {check}\n{more}\n[strikes]\nkills = 1\n"
    );
    let config = Config::parse(path, &text).unwrap();
    drive(&config, &dir).run()
}

#[test]
fn a_check_that_is_broken_judges_nothing() {
    let short = "[limits]\ncommand_ms = 700\n";
    for (check, limits, reason) in [
        (
            r#"["/no/such/check"]"#,
            "",
            "victim check cannot be started",
        ),
        (
            r#"["sh", "-c", "echo no disk >&2; exit 3"]"#,
            "",
            "the check is broken: it ended with exit code 3: no disk",
        ),
        (
            r#"["sh", "-c", "kill -9 $$"]"#,
            "",
            "victim check got a SIGKILL",
        ),
        (
            r#"["sleep", "60"]"#,
            short,
            "the check is broken: victim check kept",
        ),
    ] {
        let report = judged(check, limits);
        let text = terminal::render(&report);
        assert_eq!((report.exit_code(), report.runs.len()), (2, 0), "{text}");
        assert_eq!(report.dry[0].verdict, Verdict::Inconclusive, "{text}");
        let told = &report.dry[0].reasons[0];
        assert!(told.starts_with(reason), "{told}");
    }
    let report = judged(r#"["true"]"#, "");
    assert_eq!(report.dry[0].verdict, Verdict::Passed, "{report:?}");
}

#[test]
fn what_a_check_says_is_the_reason() {
    let said = |script: &str| {
        let check = format!("[\"sh\", \"-c\", \"{script}\"]");
        let report = judged(&check, "");
        assert_eq!(report.exit_code(), 1);
        report.dry[0].reasons.clone()
    };
    assert_eq!(
        said("echo one; echo two; echo x >&2; exit 1"),
        ["one", "two"]
    );
    assert_eq!(said("echo a >&2; echo b >&2; exit 1"), ["b"]);
    // Nothing that a terminal would obey.
    assert_eq!(said(r"printf 'a\\033[2Jb\\n'; exit 1"), ["a\u{fffd}[2Jb"]);
    assert_eq!(
        said("exit 1"),
        ["the check ended with exit code 1, silently"]
    );
    let told = "echo $CHAOS_ACK_COUNT $CHAOS_LAST_ACK $CHAOS_SIZE $CHAOS_STRIKE $CHAOS_FINISHED \
                $(cat $CHAOS_ACKS $CHAOS_DIR/log); exit 1";
    assert_eq!(said(told), ["1 1 10 none 1 1 1"]);
}

/// Goal: whatever a program acknowledges, its check is asked.
/// Method: what cannot stand in a variable, and what is too long for one.
#[test]
fn an_odd_acknowledgement_keeps_no_check_from_its_work() {
    let dir = TempDir::new().unwrap();
    let long = r"printf 'ack '; head -c 200000 /dev/zero | tr '\0' x; echo";
    for (says, last, bytes) in [(r"printf 'ack a\000b\n'", 1, 4), (long, 64 * 1024, 200_001)] {
        let text = format!(
            "name = \"odd\"\n[program]\nargv = [\"sh\", \"-c\", '''{says}''']\n[check]\n\
             argv = [\"sh\", \"-c\", '[ ${{{{#CHAOS_LAST_ACK}}}} -eq {last} ] && \
             [ $(wc -c < $CHAOS_ACKS) -eq {bytes} ]']\n[strikes]\nkills = 1\n"
        );
        let config = Config::parse(dir.path().join("odd.toml"), &text).unwrap();
        let report = drive(&config, &dir).run();
        let dry = &report.dry[0];
        assert_eq!(dry.verdict, Verdict::Passed, "{:?}", dry.reasons);
    }
}

/// Goal: a kill of a named program that came too late is made again, earlier.
/// Method: it is slow where nobody was before it, in the dry run.
#[test]
fn a_named_program_that_outran_its_kill_is_killed_again() {
    let dir = TempDir::new().unwrap();
    let mark = dir.path().join("slow");
    let text = format!(
        "name = \"sometimes\"\n[program]\nargv = [\"sh\", \"-c\", \"[ -e $MARK ] || sleep 1; \
         : > $MARK; echo ack 1\"]\nenv = {{ MARK = {mark:?} }}\n\
         [prepare]\nargv = [\"true\"]\n[check]\nargv = [\"true\"]\n[strikes]\nkills = 1\n"
    );
    let config = Config::parse(dir.path().join("sometimes.toml"), &text).unwrap();
    let report = drive(&config, &dir).kills(0).stability(6).run();
    report.assert_passed();
    assert!(report.dry[0].duration_ms >= 1000);
    assert_eq!(report.stability.unwrap().counts().passed, 6);
}

#[test]
fn a_directory_that_is_not_made_ready_is_not_judged() {
    let prepare = "[prepare]\nargv = [\"sh\", \"-c\", \"echo full >&2; exit 1\"]";
    let report = judged(r#"["true"]"#, prepare);
    assert_eq!(report.exit_code(), 2, "{}", terminal::render(&report));
    assert_eq!(
        report.dry[0].reasons,
        [
            "the machine failed to make a directory ready: the prepare command ended with exit code 1: full"
        ]
    );
}

#[test]
fn a_directory_is_made_ready_before_the_program_starts() {
    let prepare =
        "[prepare]\nargv = [\"sh\", \"-c\", \"echo $WHO > made\"]\nenv = { WHO = \"{size}\" }";
    let report = judged(r#"["grep", "-qx", "10", "{dir}/made"]"#, prepare);
    assert_eq!(report.dry[0].verdict, Verdict::Passed, "{report:?}");
    let report = judged(r#"["grep", "-qx", "11", "{dir}/made"]"#, prepare);
    assert_eq!(report.dry[0].verdict, Verdict::Violated, "{report:?}");
}
