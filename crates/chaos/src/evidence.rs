//! What is kept when a guarantee was broken: one folder per failure.
//!
//! It holds what the victims printed, how they ended, their standard error, the
//! seed, the line that replays it, reasons, figures and the git commit. Of the
//! product's data it holds what the user's `dump` puts there: the harness opens
//! no file of a run, since opening and closing a database's file can drop the
//! locks of a process that has it open.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_process::{CommandSpec, Exit, run};
use serde::Serialize;

use crate::scenario::file_name;
use crate::transcript::Transcript;
use crate::verdict::{Metrics, Verdict};

/// Why a user's dump failed.
pub type DumpError = Box<dyn std::error::Error + Send + Sync>;

/// Writes evidence about what stands in the first directory (a run's) into the
/// second (an empty one).
pub(crate) type Dump = dyn Fn(&Path, &Path) -> Result<(), DumpError> + Send + Sync;

/// Failures of one scenario with one seed that are kept side by side.
const FOLDERS_MAX: u32 = 1000;

/// How long git may take to name the commit.
const GIT_TIMEOUT: Duration = Duration::from_secs(5);

/// The facts of a failure.
pub(crate) struct Failed<'run> {
    pub(crate) id: u32,
    pub(crate) name: &'run str,
    pub(crate) goal: &'run str,
    pub(crate) seed: u64,
    pub(crate) replay: &'run str,
    pub(crate) verdict: Verdict,
    pub(crate) reasons: &'run [String],
    pub(crate) metrics: &'run Metrics,
    pub(crate) duration_ms: u64,
    pub(crate) transcripts: &'run [Transcript],
    pub(crate) run_dir: &'run Path,
    pub(crate) log_dir: &'run Path,
}

#[derive(Serialize)]
struct Record<'run> {
    id: u32,
    name: &'run str,
    goal: &'run str,
    verdict: Verdict,
    seed: u64,
    replay: &'run str,
    reasons: &'run [String],
    metrics: &'run Metrics,
    duration_ms: u64,
    git_commit: Option<String>,
    run_dir: String,
    dump_error: Option<String>,
    victims: Vec<VictimRecord<'run>>,
}

#[derive(Serialize)]
struct VictimRecord<'run> {
    name: &'run str,
    exit: Option<String>,
    killed_by_harness: bool,
    acks: Vec<String>,
    said: Vec<String>,
}

/// Keeps a failure in a folder of its own under `artifacts`, and returns it.
pub(crate) fn keep(
    artifacts: &Path,
    dump: Option<&Dump>,
    failed: &Failed<'_>,
) -> io::Result<PathBuf> {
    let folder = new_folder(artifacts, failed)?;
    // Facts that need nobody's help are written before the dump, which may
    // fail in any way.
    write_record(&folder, failed, None)?;
    fs::write(folder.join("replay.txt"), format!("{}\n", failed.replay))?;
    keep_victims(&folder.join("victims"), failed)?;
    if let Some(dump) = dump
        && let Some(error) = run_dump(dump, failed.run_dir, &folder.join("dump"))
    {
        write_record(&folder, failed, Some(error))?;
    }
    Ok(folder)
}

/// `<scenario>-seed-<seed>`, or with `-2`, `-3`, … when that exists.
fn new_folder(artifacts: &Path, failed: &Failed<'_>) -> io::Result<PathBuf> {
    fs::create_dir_all(artifacts)?;
    let base = format!("{}-seed-{}", file_name(failed.name), failed.seed);
    for number in 1..=FOLDERS_MAX {
        let folder = if number == 1 {
            artifacts.join(&base)
        } else {
            artifacts.join(format!("{base}-{number}"))
        };
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{FOLDERS_MAX} failures of {base} are kept already"),
    ))
}

fn write_record(folder: &Path, failed: &Failed<'_>, dump_error: Option<String>) -> io::Result<()> {
    let record = Record {
        id: failed.id,
        name: failed.name,
        goal: failed.goal,
        verdict: failed.verdict,
        seed: failed.seed,
        replay: failed.replay,
        reasons: failed.reasons,
        metrics: failed.metrics,
        duration_ms: failed.duration_ms,
        git_commit: git_commit(),
        run_dir: failed.run_dir.display().to_string(),
        dump_error,
        victims: failed.transcripts.iter().map(victim_record).collect(),
    };
    fs::write(folder.join("summary.txt"), summary(&record))?;
    let mut json = serde_json::to_string_pretty(&record)?;
    json.push('\n');
    fs::write(folder.join("evidence.json"), json)
}

fn victim_record(transcript: &Transcript) -> VictimRecord<'_> {
    VictimRecord {
        name: &transcript.victim,
        exit: transcript.exit.as_ref().map(Exit::to_string),
        killed_by_harness: transcript.killed,
        acks: transcript.acks(),
        said: transcript.said(),
    }
}

fn summary(record: &Record<'_>) -> String {
    let mut text = format!(
        "{} {}: {}\n\ngoal      {}\nseed      {}\nreplay    {}\ncommit    {}\nrun dir   {}\nfigures   {}\n",
        record.id,
        record.name,
        record.verdict,
        record.goal,
        record.seed,
        record.replay,
        record.git_commit.as_deref().unwrap_or("unknown"),
        record.run_dir,
        record.metrics,
    );
    // Writing to a String cannot fail.
    for reason in record.reasons {
        let _ = writeln!(text, "reason    {reason}");
    }
    for victim in &record.victims {
        let _ = writeln!(
            text,
            "victim    {}: {} acknowledgements, {}{}",
            victim.name,
            victim.acks.len(),
            victim.exit.as_deref().unwrap_or("end unknown"),
            if victim.killed_by_harness {
                ", killed by the harness"
            } else {
                ""
            },
        );
    }
    if let Some(error) = &record.dump_error {
        let _ = writeln!(text, "dump      failed: {error}");
    }
    text
}

/// Every line of every victim, and the standard error files.
fn keep_victims(folder: &Path, failed: &Failed<'_>) -> io::Result<()> {
    fs::create_dir(folder)?;
    for (index, transcript) in failed.transcripts.iter().enumerate() {
        let file = format!("{}-{}.lines", index + 1, file_name(&transcript.victim));
        let mut lines = transcript.lines.join("\n");
        if !lines.is_empty() {
            lines.push('\n');
        }
        fs::write(folder.join(file), lines)?;
    }
    for entry in fs::read_dir(failed.log_dir)? {
        let entry = entry?;
        fs::copy(entry.path(), folder.join(entry.file_name()))?;
    }
    Ok(())
}

/// What went wrong in the user's dump, if anything did.
fn run_dump(dump: &Dump, run_dir: &Path, folder: &Path) -> Option<String> {
    if let Err(error) = fs::create_dir(folder) {
        return Some(error.to_string());
    }
    match catch_unwind(AssertUnwindSafe(|| dump(run_dir, folder))) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the dump panicked".to_owned()),
    }
}

/// The commit of the working directory; outside a repository, or without git,
/// there is none.
pub(crate) fn git_commit() -> Option<String> {
    let spec = CommandSpec::new("git")
        .args(["rev-parse", "HEAD"])
        .timeout(GIT_TIMEOUT);
    let finished = run(&spec).ok().filter(|finished| finished.success())?;
    let commit = String::from_utf8(finished.stdout).ok()?;
    Some(commit.trim().to_owned())
}
