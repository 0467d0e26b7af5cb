//! What the subjects about leases have in common.

use std::path::Path;
use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Run, Strike};
use agentos_store::sqlite::{Config, SqliteStore};

use crate::checks::Wreck;
use crate::victims::{JumpingClock, Role, spec};

/// For a victim that nobody strikes to end; the machine may be busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How far a clock is behind by which leases are given that have run out already:
/// longer than any that is given so.
const BEHIND_US: i64 = 10_000_000;

pub(super) type Fallible<T> = Result<T, Failure>;

/// Plays a role that nobody strikes, to its end; gives what it acknowledged.
pub(super) fn play(run: &mut Run, name: &str, role: &Role) -> Fallible<Vec<String>> {
    let mut victim = run.start(&spec(name, role)?)?;
    let exit = victim.wait_for_exit(PATIENCE)?;
    if exit.success() {
        Ok(victim.acks())
    } else {
        Err(Failure::new(format!(
            "nobody had struck {name}, and it ended with {exit}"
        )))
    }
}

/// Opens the file as its next user would, and says what is wrong with it.
pub(super) fn sound(db: &Path, when: &str, outcome: &mut Outcome) -> Fallible<()> {
    let wreck = Wreck::open(db, db.parent().unwrap_or(db))?;
    for problem in wreck.problems()? {
        outcome.violate(format!("{when}: {problem}"));
    }
    Ok(())
}

/// A store by whose clock leases are given that have run out by the machine's.
pub(super) fn behind(db: &Path) -> Fallible<SqliteStore> {
    let clock = JumpingClock::default();
    clock.set_boot(-BEHIND_US);
    Ok(SqliteStore::open(Config::at(db).clock(clock))?)
}

/// One of several ways, which another strike may not take: the seed is the same in all
/// runs of a drive.
pub(super) fn one_of<T: Copy>(ways: &[T], strike: &Strike) -> Option<T> {
    let sum: usize = strike.to_string().bytes().map(usize::from).sum();
    ways.get(sum % ways.len().max(1)).copied()
}
