//! Makes recordings: runs a victim under the tracer and with the recorder, and puts both
//! reports together. Kept in a directory, a recording can be cut again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentos_chaos::{Failure, Run};
use agentos_core::TaskStorage;
use agentos_crash_vfs::{Log, Record};
use agentos_store::sqlite::{Config, SqliteStore};
use agentos_tracer::{Plan as Strikes, Trace, Tracer};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::Kind;
use super::look::{DB, WORK};
use super::merge::{Places, merge};
use crate::canary::Canary;
use crate::model::cut::Mark;
use crate::model::mill::{Plan, Step};
use crate::victims::{BOOKED, Mender, Mill, Miller, Role, spec};

/// Where memory is a file system.
const MEMORY: &str = "/dev/shm";
/// For a victim to end.
const PATIENCE: Duration = Duration::from_secs(120);
/// For its tree to be gone.
const AFTERWARDS: Duration = Duration::from_secs(10);
/// Lines of the book asked for; no mill has more.
const PAGE: u32 = 1000;
/// The files of a kept recording.
const LOG_FILE: &str = "log";
const TRACE_FILE: &str = "trace.json";
const ABOUT_FILE: &str = "about.json";

type Fallible<T> = Result<T, Failure>;

/// A place for recordings and images: in memory, where there is such a place. What lies
/// there is gone with it.
pub(super) struct Shelf {
    root: TempDir,
    path: PathBuf,
}

impl Shelf {
    pub(super) fn new() -> Fallible<Shelf> {
        let named = || {
            let mut named = tempfile::Builder::new();
            named.prefix("agentos-power-loss-");
            named
        };
        let root = named().tempdir_in(MEMORY).or_else(|_| named().tempdir())?;
        // As the tracer names it.
        let path = root.path().canonicalize()?;
        Ok(Shelf { root, path })
    }

    /// A name of its own for something on the shelf, which is not there.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        debug_assert!(self.root.path().exists());
        self.path.join(name)
    }

    /// A mill at work, from before its database is opened, or made, until it is closed.
    pub(super) fn record(
        &self,
        run: &mut Run,
        kind: Kind,
        plan: Plan,
        canary: Option<Canary>,
    ) -> Fallible<Recording> {
        let full = kind != Kind::Relaxed;
        let place = self.place(kind.name());
        let dir = place.join("mill");
        fs::create_dir_all(dir.join(WORK))?;
        // A folder is in an image as long as there is a file in it.
        fs::write(dir.join(WORK).join("stays"), "")?;
        if kind != Kind::New {
            SqliteStore::open(Config::at(dir.join(DB)).ballast_bytes(0))?.close();
        }
        let log = place.join(LOG_FILE);
        let role = Role::Miller(Miller {
            db: dir.join(DB),
            work: dir.join(WORK),
            log: log.clone(),
            plan,
            relaxed: !full,
            canary,
            dir: dir.clone(),
        });
        let trace = trace(run, "miller", &role)?;
        let about = About {
            order: order(&dir.join(DB))?,
            plan,
            full,
            dir,
            log: log.clone(),
            // What the victim does is known from its plan.
            known: true,
            told: Vec::new(),
        };
        Recording::of(kind.name(), about, trace, &log)
    }

    /// The recovery and upkeep of what lies in a directory, of which this is known before.
    pub(super) fn record_recovery(
        &self,
        run: &mut Run,
        dir: &Path,
        base: &Recording,
        told: Vec<Mark>,
    ) -> Fallible<Recording> {
        let log = self.place("recovery.log");
        match fs::remove_file(&log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let role = Role::Mender(Mender {
            dir: dir.to_owned(),
            log: log.clone(),
        });
        let trace = trace(run, "mender", &role)?;
        let about = About {
            dir: dir.to_owned(),
            log: log.clone(),
            // It acknowledges what it does with full durability.
            full: true,
            known: false,
            told: told.iter().map(|mark| mark.text()).collect(),
            ..base.about.clone()
        };
        Recording::of(&format!("{}-recovery", base.name), about, trace, &log)
    }
}

/// Runs a victim to its end, under the tracer.
fn trace(run: &mut Run, name: &str, role: &Role) -> Fallible<Trace> {
    let mut tracer = Tracer::new(Strikes::Count);
    let mut victim = run.start_by(&spec(name, role)?, &mut tracer)?;
    let exit = victim.wait_for_exit(PATIENCE)?;
    if !exit.success() {
        let last = victim.said().pop().unwrap_or_default();
        return Err(Failure::new(format!(
            "the {name} ended with {exit}: {last}"
        )));
    }
    drop(victim);
    Ok(tracer.finish(AFTERWARDS)?)
}

/// The order in which the steps were committed.
fn order(db: &Path) -> Fallible<Vec<Step>> {
    let store = SqliteStore::open(Config::at(db).ballast_bytes(0))?;
    let lines = store.audits(&Mill::book()?, None, PAGE)?.items.into_iter();
    let lines = lines.filter(|line| line.event == BOOKED);
    let order: Option<Vec<Step>> = lines.map(|line| Step::of_label(&line.detail)).collect();
    store.close();
    order.ok_or_else(|| Failure::new("a line of the book names no step"))
}

/// What is known of a recording beside what was recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct About {
    /// The work.
    pub(super) plan: Plan,
    /// Whether what was acknowledged must survive.
    pub(super) full: bool,
    /// The order in which the steps were committed in the end.
    pub(super) order: Vec<Step>,
    /// The directory that was recorded.
    dir: PathBuf,
    /// The log as it was called then.
    log: PathBuf,
    /// Whether artifacts were made, as the plan says.
    known: bool,
    /// What had been marked before the recording began.
    pub(super) told: Vec<String>,
}

/// What was recorded of one victim.
pub(super) struct Recording {
    pub(super) name: String,
    pub(super) about: About,
    pub(super) log: Log,
    /// All that was marked, in order.
    pub(super) marks: Vec<Mark>,
    trace: Trace,
    raw: PathBuf,
}

impl Recording {
    fn of(name: &str, about: About, trace: Trace, raw: &Path) -> Fallible<Recording> {
        let (records, torn) = Log::read_records(raw)?;
        if torn > 0 {
            return Err(Failure::new(format!("{torn} records are not whole")));
        }
        let files = match about.known {
            true => about.plan.files(),
            false => BTreeMap::new(),
        };
        let artifacts = files
            .into_iter()
            .map(|(path, bytes)| (Path::new(WORK).join(path), bytes))
            .collect();
        let places = Places {
            dir: &about.dir,
            log: &about.log,
            database: DB,
            artifacts: &artifacts,
        };
        let mut builder = Log::builder();
        for record in merge(records, &trace, &places)? {
            builder.push(record);
        }
        let log = builder.build()?;
        let marks = log.marks().map(|mark| Mark::read(&mark.text));
        let marks: Option<Vec<Mark>> = marks.collect();
        Ok(Recording {
            name: name.to_owned(),
            marks: marks.ok_or_else(|| Failure::new("a strange mark"))?,
            log,
            about,
            trace,
            raw: raw.to_owned(),
        })
    }

    /// How many syncs were made.
    pub(super) fn syncs(&self) -> usize {
        let is_sync = |record: &&Record| matches!(record, Record::SyncEnd { durable: true, .. });
        self.log.records().iter().filter(is_sync).count()
    }

    /// Keeps all that is needed to cut it again.
    pub(super) fn keep(&self, dir: &Path) -> Fallible<PathBuf> {
        let dir = dir.join(&self.name);
        fs::create_dir_all(&dir)?;
        fs::copy(&self.raw, dir.join(LOG_FILE))?;
        fs::write(dir.join(TRACE_FILE), serde_json::to_vec(&self.trace)?)?;
        fs::write(dir.join(ABOUT_FILE), serde_json::to_vec(&self.about)?)?;
        Ok(dir.canonicalize()?)
    }

    /// One that was kept.
    pub(super) fn kept(dir: &Path) -> Fallible<Recording> {
        let about: About = serde_json::from_slice(&fs::read(dir.join(ABOUT_FILE))?)?;
        let trace: Trace = serde_json::from_slice(&fs::read(dir.join(TRACE_FILE))?)?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        Recording::of(&name, about, trace, &dir.join(LOG_FILE))
    }
}
