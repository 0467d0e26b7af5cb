//! Victims: programs that exist to be killed. One role a file.
//!
//! A victim prints `ack …` after the commit, so a printed line is a promise. It
//! dies of its first error with a message and exit code 2. Its role travels as
//! JSON, so that starting one and being one cannot disagree.

mod agent;
mod appender;
mod appraiser;
mod behind;
mod caller;
mod clerk;
mod counter;
mod holder;
mod janitor;
mod jumps;
mod keeper;
mod key_teller;
mod loader;
mod mender;
mod mill;
mod miller;
mod model;
mod payer;
mod pooled;
mod probe;
mod prompter;
mod reader;
mod recorded;
mod recoverer;
mod refusal;
mod rival;
mod shimmed;
mod sluggish;
mod stocker;
mod stormer;
mod stubborn;
mod successor;
mod taker;
mod talk;
mod tally;
mod tenant;
mod tooler;
mod zombie;

use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use agentos_chaos::VictimSpec;
use agentos_core::BoxError;
use agentos_store::sqlite::{Config, DumpOptions, SqliteStore, dump};
use serde::{Deserialize, Serialize};

use crate::scenarios::power_loss::Sifter;

pub(crate) use self::agent::{Agent, LINES_PER_ITERATION, Progress, artifact_of, input_lines};
pub(crate) use self::appender::{Appender, State};
pub(crate) use self::appraiser::{Appraiser, AtRest, expected_answer, expected_call};
pub(crate) use self::caller::{Caller, ToldCall, standing_at};
pub(crate) use self::clerk::{CLERKS_TASK, Clerk, clerks_steps, steps_done};
pub(crate) use self::counter::{
    ANSWER_EVENT, Counter, Mind, RING, RINGS, RUNG, Report, STEP, WORKED_LOG, names,
};
pub(crate) use self::holder::{HeldLease, Holder};
pub(crate) use self::janitor::{AUDITS_KEPT, Janitor, KEPT, numbered, results, retention, state};
pub(crate) use self::jumps::{JumpingClock, true_now_us};
pub(crate) use self::keeper::{KEEPER_BALLAST_BYTES, KEPT_EVENT, KEPT_TASK, Keeper, Kept};
pub(crate) use self::key_teller::{TELLS, outcome_digest};
pub(crate) use self::loader::{Loader, ack_path, newest_ack};
pub(crate) use self::mender::Mender;
pub(crate) use self::mill::{BOOKED, Mill};
pub(crate) use self::miller::Miller;
pub(crate) use self::model::{Model, port_of};
pub(crate) use self::payer::{Heard, PAYS, Payer};
pub(crate) use self::pooled::{POISON, Pooled, result_of};
pub(crate) use self::prompter::{AskedAll, DONE, GotBack, Prompter};
pub(crate) use self::reader::Reader;
pub(crate) use self::recoverer::{Recoverer, Scan};
pub(crate) use self::rival::{BOOT_BASE_US, HOUR_US, Jumps, Rival};
pub(crate) use self::shimmed::{Failing, Shimmed};
pub(crate) use self::sluggish::{Called, Impatient, Noisy, SLOW_TASK, SLOW_WORK, Sluggish, Worked};
pub(crate) use self::stocker::{
    CALLS, LATE, LATE_COMMITS, STOCKED, Stocker, is_boundary, stocked_state,
};
pub(crate) use self::stormer::{StepDone, Stormer, WORK_TYPE};
pub(crate) use self::stubborn::{Stubborn, Used};
pub(crate) use self::successor::{Succession, Successor, last_commit};
pub(crate) use self::taker::{Done, Taken, Taker, Way};
pub(crate) use self::talk::{OUTBOX, request};
#[cfg(test)]
pub(crate) use self::talk::{Said, Talk};
pub(crate) use self::tally::{Answer, Tally, share};
pub(crate) use self::tenant::{Filled, RENEWALS, TENANTS_BALLAST_BYTES, Tenant, WhileFull};
pub(crate) use self::tooler::{EFFECTS, KINDS, Ran, RanAll, Tooler};
pub(crate) use self::zombie::{Answered, Attempted, Zombie, signed};

/// For the write lock: the machine may be busy, and that is no error of a victim.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// What a victim does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Works in iterations: a command makes an artifact, a checkpoint keeps it.
    Agent(Agent),
    /// Appends checkpoints to one task.
    Appender(Appender),
    /// Opens damaged copies of a store, and tells what it is answered.
    Appraiser(Appraiser),
    /// Makes calls through the ledger of tools, and may stand still in one.
    Caller(Caller),
    /// Writes rows of every kind, step by step.
    Clerk(Clerk),
    /// Counts words in iterations, until it has an exact answer.
    Counter(Counter),
    /// Claims work and holds it.
    Holder(Holder),
    /// Tidies up and makes backups, in turns, while a thread of it appends.
    Janitor(Janitor),
    /// Takes a store through its whole life.
    Keeper(Keeper),
    /// Does everything at once, as fast as it can.
    Loader(Loader),
    /// Recovers what a power cut left, recorded.
    Mender(Mender),
    /// Grinds steps on a store whose files are recorded.
    Miller(Miller),
    /// Answers as a model does, and counts who asked.
    Model(Model),
    /// Asks a model what many others ask too.
    Payer(Payer),
    /// Works with a pool of threads until nothing is left.
    Pooled(Pooled),
    /// Asks a model many things, through the cache.
    Prompter(Prompter),
    /// Holds its view of a database open, again and again.
    Reader(Reader),
    /// Takes lost leases away, and finishes what can be claimed then.
    Recoverer(Recoverer),
    /// Plays another role on a disk that misbehaves.
    Shimmed(Shimmed),
    /// Works longer than a lease lasts, on a slow disk.
    Sluggish(Sluggish),
    /// Keeps the disk and the write lock busy.
    Noisy(Noisy),
    /// Commits, and has little time.
    Impatient(Impatient),
    /// Fills a store with rows of every kind, and waits.
    Stocker(Stocker),
    /// Writes rows of every kind, and goes on after errors.
    Stubborn(Stubborn),
    /// Takes an item over and commits under its lease, step by step.
    Successor(Successor),
    /// Waits for an item that another one holds, and takes it over.
    Taker(Taker),
    /// Works on a small disk that others fill.
    Tenant(Tenant),
    /// Runs many commands, through the ledger.
    Tooler(Tooler),
    /// Goes on under a lease that it has lost, and does not know.
    Zombie(Zombie),
    /// Claims, renews, sweeps and completes the same items as others.
    Rival(Rival),
    /// Is one rival after the other.
    Rivals(Vec<Rival>),
    /// Opens its part of what power cuts left; nobody kills it.
    Sifter(Sifter),
    /// Works in the kill storm.
    Stormer(Stormer),
    /// Opens a store, and says so before and after.
    Open { db: PathBuf },
    /// Writes the evidence of a database; nobody kills it.
    Dump { db: PathBuf, out: PathBuf },
}

/// Plays a role, as read from the command line.
pub(crate) fn run(role: &str) -> Result<(), Box<dyn Error>> {
    serde_json::from_str::<Role>(role)?.play()
}

impl Role {
    fn play(self) -> Result<(), Box<dyn Error>> {
        match self {
            Role::Agent(agent) => agent.run(),
            Role::Appender(appender) => appender.run(),
            Role::Appraiser(appraiser) => appraiser.run(),
            Role::Caller(caller) => caller.run(),
            Role::Clerk(clerk) => clerk.run(),
            Role::Counter(counter) => counter.run(),
            Role::Holder(holder) => holder.run(),
            Role::Janitor(janitor) => janitor.run(),
            Role::Keeper(keeper) => keeper.run(),
            Role::Loader(loader) => loader.run(),
            Role::Mender(mender) => mender.run(),
            Role::Miller(miller) => miller.run(),
            Role::Model(model) => model.run(),
            Role::Payer(payer) => payer.run(),
            Role::Pooled(pooled) => pooled.run(),
            Role::Prompter(prompter) => prompter.run(),
            Role::Reader(reader) => reader.run(),
            Role::Recoverer(recoverer) => recoverer.run(),
            Role::Shimmed(shimmed) => shimmed.run(),
            Role::Sluggish(sluggish) => sluggish.run(),
            Role::Noisy(noisy) => noisy.run(),
            Role::Impatient(impatient) => impatient.run(),
            Role::Stocker(stocker) => stocker.run(),
            Role::Stubborn(stubborn) => stubborn.run(),
            Role::Successor(successor) => successor.run(),
            Role::Taker(taker) => taker.run(),
            Role::Tenant(tenant) => tenant.run(),
            Role::Tooler(tooler) => tooler.run(),
            Role::Zombie(zombie) => zombie.run(),
            Role::Rival(rival) => rival.run(),
            Role::Rivals(rivals) => rivals.iter().try_for_each(Rival::run),
            Role::Sifter(sifter) => sifter.run(),
            Role::Stormer(stormer) => stormer.run(),
            Role::Open { db } => {
                say("open")?;
                drop(SqliteStore::open(Config::at(db))?);
                Ok(say("opened")?)
            }
            Role::Dump { db, out } => {
                dump(&db, &out, DumpOptions::default())?;
                Ok(())
            }
        }
    }
}

/// The program that plays a role, and its arguments.
pub(crate) fn command(role: &Role) -> io::Result<(PathBuf, Vec<OsString>)> {
    let role = serde_json::to_string(role)?;
    Ok((std::env::current_exe()?, vec!["victim".into(), role.into()]))
}

/// The victim that plays a role.
pub(crate) fn spec(name: &str, role: &Role) -> io::Result<VictimSpec> {
    let (program, arguments) = command(role)?;
    Ok(VictimSpec::new(name, program).args(arguments))
}

/// Prints a line at once: what it says has happened.
pub(crate) fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Acknowledges a fact, as JSON.
fn ack(fact: &impl Serialize) -> io::Result<()> {
    say(&format!("ack {}", serde_json::to_string(fact)?))
}

/// Does something in so many threads; each is told which it is, from 0.
fn in_threads(
    threads: u64,
    work: impl Fn(u64) -> Result<(), BoxError> + Sync,
) -> Result<(), Box<dyn Error>> {
    let result = thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> = (0..threads)
            .map(|number| scope.spawn(move || work(number)))
            .collect();
        let ended = started.into_iter().map(|one| match one.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.collect::<Result<(), BoxError>>()
    });
    result.map_err(|error| error as Box<dyn Error>)
}

/// Waits at a gate, a file that is locked until it opens.
fn pass(gate: &Path) -> io::Result<()> {
    File::open(gate)?.lock_shared()
}
