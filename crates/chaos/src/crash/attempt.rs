//! One run of a subject, struck in one way.
//!
//! The strike says when the victim dies; this says what became of it, hands that
//! to the check, and adds what no check can know: that the victim hung, or ended
//! badly though nobody had struck it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentos_core::Stopwatch;
use agentos_core::crash_point::{COUNT_VARIABLE, DIE_VARIABLE};

use super::ANY_MOMENT;
use super::calls::{CallSeen, Tracing};
use super::derive;
use super::limits::KILL_TRIES_MAX;
use super::points::Points;
use super::strike::Strike;
use super::subject::{Aftermath, Subject};
use crate::error::{Failure, HarnessError};
use crate::scenario::{Run, Scenario, ScenarioResult};
use crate::supervisor::{Victim, VictimSpec};
use crate::verdict::{Outcome, Verdict};

/// What a run is to do, beside being struck.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) strike: Strike,
    pub(crate) size: u64,
    pub(crate) patience: Duration,
    /// Whether named points are counted.
    pub(crate) counts: bool,
    /// Whether system calls are counted.
    pub(crate) traces: bool,
    /// Acknowledgements of a whole run, for the plot.
    pub(crate) acks: Option<usize>,
}

/// What was really struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hit {
    /// What it is counted under.
    pub(crate) label: String,
    /// The same with its place, for people.
    pub(crate) place: String,
}

/// What came of a run, beside its verdict.
#[derive(Debug, Clone, Default)]
pub(crate) struct Landed {
    /// What was really struck.
    pub(crate) hit: Option<Hit>,
    /// When each acknowledgement came, from the start; for a run that nobody
    /// struck.
    pub(crate) ack_times: Vec<Duration>,
    /// When the victim had ended.
    pub(crate) ended: Duration,
    pub(crate) points: Points,
    pub(crate) calls: Vec<CallSeen>,
    /// Calls that cannot be struck.
    pub(crate) unseen: Vec<String>,
}

/// Where a run leaves what came of it.
pub(crate) type Slot = Arc<Mutex<Option<Landed>>>;

/// A scenario that is one run of the subject, and where it leaves what came of
/// it: nothing when it did not come so far.
pub(crate) fn scenario(
    subject: &Arc<Subject>,
    task: Task,
    replay: impl Fn(u64) -> String + Send + Sync + 'static,
) -> (Scenario, Slot) {
    let slot = Slot::default();
    let (subject, landed) = (Arc::clone(subject), Arc::clone(&slot));
    let (name, goal) = (subject.name.clone(), subject.goal.clone());
    let scenario = Scenario::new(1, name, goal, move |run| {
        attempt(&subject, &task, run, &landed)
    });
    (scenario.with_replay(replay), slot)
}

/// What is in the slot.
pub(crate) fn landed(slot: &Slot) -> Option<Landed> {
    lock(slot).take()
}

/// A scenario that kills the subject at a moment that its run's seed decides.
/// One that came too late is made again, earlier: the run's time and not the
/// dry run's is what counts. `replay` gets the strike that was made.
pub(crate) fn killing(
    subject: &Arc<Subject>,
    task: Task,
    choose: impl Fn(u64) -> Strike + Send + Sync + 'static,
    replay: impl Fn(&Strike, u64) -> String + Send + Sync + 'static,
) -> Scenario {
    let subject = Arc::clone(subject);
    let (name, goal) = (subject.name.clone(), subject.goal.clone());
    let choose = Arc::new(choose);
    let chosen = Arc::clone(&choose);
    // Only what was made earlier than chosen is kept, until it is asked for.
    let made = Arc::new(Mutex::new(HashMap::new()));
    let earlier = Arc::clone(&made);
    Scenario::new(1, name, goal, move |run| {
        let mut strike = choose(run.seed());
        for tries in 1.. {
            let task = Task {
                strike: strike.clone(),
                ..task.clone()
            };
            let slot = Slot::default();
            let mut outcome = attempt(&subject, &task, run, &slot)?;
            let missed = landed(&slot).is_none_or(|landed| landed.hit.is_none());
            if !missed || outcome.verdict != Verdict::Passed {
                return Ok(outcome);
            }
            if tries == KILL_TRIES_MAX {
                outcome.not_judged("the victim had ended before each kill");
                return Ok(outcome);
            }
            strike = derive::earlier(&strike);
            lock(&made).insert(run.seed(), strike.clone());
            run.clear()?;
        }
        Ok(Outcome::passed())
    })
    .with_replay(move |seed| {
        let strike = lock(&earlier).remove(&seed);
        replay(&strike.unwrap_or_else(|| chosen(seed)), seed)
    })
}

/// What a panic left behind is whole.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn attempt(subject: &Subject, task: &Task, run: &mut Run, slot: &Slot) -> ScenarioResult {
    let staged = subject.begin(run, task.size)?;
    let struck = strike(run, &staged.spec, task)?;
    let Struck {
        victim,
        hung,
        landed,
    } = struck;
    let after = Aftermath {
        strike: task.strike.clone(),
        size: task.size,
        transcript: victim.transcript(),
        hit: landed.hit.as_ref().map(|hit| hit.place.clone()),
        hung,
    };
    // Nothing of it runs any more; its handle would only keep descriptors.
    drop(victim);
    *lock(slot) = Some(landed);

    let mut outcome = Outcome::passed();
    for reason in wrongs(subject, task, &after) {
        outcome.violate(reason);
    }
    let mut outcome = match (staged.check)(run, &after) {
        Ok(mut checked) => {
            for reason in outcome.reasons {
                checked.violate(reason);
            }
            checked
        }
        Err(failure) => outcome.after(Err(failure))?,
    };
    outcome.metric("strike", task.strike.to_string());
    outcome.metric("size", task.size);
    if let Some(hit) = &after.hit {
        outcome.metric("hit", hit.clone());
        if let Some(acks) = task.acks.filter(|acks| *acks > 0) {
            #[expect(
                clippy::cast_precision_loss,
                reason = "acknowledgements are below 2^53"
            )]
            outcome.kill_point(after.acks().len() as f64 / acks as f64);
        }
    }
    Ok(outcome)
}

/// What is wrong whatever the check says.
fn wrongs(subject: &Subject, task: &Task, after: &Aftermath) -> Vec<String> {
    let mut wrongs = Vec::new();
    let patience = task.patience.as_millis();
    if after.hung && (!subject.may_hang || after.hit.is_none()) {
        wrongs.push(match &after.hit {
            Some(hit) => format!("it did not end within {patience} ms after {hit}"),
            None => format!("it did not end by itself within {patience} ms"),
        });
    }
    if after.hit.is_none()
        && !after.hung
        && let Some(exit) = after.exit()
        && !exit.success()
    {
        wrongs.push(format!("nobody had struck it, and it ended with {exit}"));
    }
    wrongs
}

/// A victim of which nothing runs any more.
struct Struck {
    victim: Victim,
    hung: bool,
    landed: Landed,
}

fn strike(run: &mut Run, spec: &VictimSpec, task: &Task) -> Result<Struck, Failure> {
    let mut spec = spec.clone();
    let mut counts = None;
    if task.counts || matches!(task.strike, Strike::Point { .. }) {
        let directory = run.apart("points")?;
        spec = spec.env(COUNT_VARIABLE, &directory);
        counts = Some(directory);
    }
    if let Strike::Point { name, hit } = &task.strike {
        spec = spec
            .env(DIE_VARIABLE, format!("{name}#{hit}"))
            .kills_itself();
    }
    let mut tracing = Tracing::wanted(&task.strike, task.traces);
    if tracing.is_some() {
        spec = spec.kills_itself();
    }
    let watch = Stopwatch::start();
    let mut victim = match &mut tracing {
        Some(tracing) => tracing.start(run, &spec)?,
        None => run.start(&spec)?,
    };
    let mut landed = Landed::default();
    let hung = match task.strike {
        Strike::Kill { acks, offset } => {
            let (hit, hung) = kill(&mut victim, acks, offset, task.patience)?;
            landed.hit = hit.then(|| Hit {
                label: ANY_MOMENT.to_owned(),
                place: format!("kill after {} acknowledgements", victim.acks().len()),
            });
            hung
        }
        _ => {
            let hung = wait(&mut victim, task.patience, &watch, &mut landed)?;
            landed.ended = watch.elapsed();
            hung
        }
    };
    finish(&mut victim)?;
    if let Some(directory) = counts {
        landed.points = Points::read(&directory)?;
        if matches!(task.strike, Strike::Point { .. }) {
            landed.hit = landed.points.died.first().map(|name| Hit {
                label: name.clone(),
                place: format!("point {name}"),
            });
        }
    }
    if let Some(tracing) = tracing {
        let seen = tracing.end()?;
        landed.hit = seen.hit;
        landed.calls = seen.calls;
        landed.unseen = seen.unseen;
    }
    let killed = victim.transcript();
    if landed.hit.is_none() && !hung && killed.exit.is_some_and(|exit| exit.is_sigkill()) {
        let victim = killed.victim;
        return Err(HarnessError::KilledByOthers { victim }.into());
    }
    Ok(Struck {
        victim,
        hung,
        landed,
    })
}

/// Whether the kill hit a living victim, and whether it hung before.
fn kill(
    victim: &mut Victim,
    acks: usize,
    offset: Duration,
    patience: Duration,
) -> Result<(bool, bool), HarnessError> {
    match victim.wait_for_acks(acks, patience) {
        Ok(_) => {}
        Err(HarnessError::Ended { .. }) => return Ok((false, false)),
        Err(HarnessError::TimedOut { .. }) => return Ok((false, true)),
        Err(error) => return Err(error),
    }
    match victim.kill_after(offset) {
        Ok(transcript) => Ok((transcript.killed, false)),
        Err(HarnessError::Ended { .. }) => Ok((false, false)),
        Err(error) => Err(error),
    }
}

/// Waits for its end, with the time of each acknowledgement; whether it hung.
fn wait(
    victim: &mut Victim,
    patience: Duration,
    watch: &Stopwatch,
    landed: &mut Landed,
) -> Result<bool, HarnessError> {
    let left = patience.saturating_sub(watch.elapsed());
    let prefix = victim.transcript().ack_prefix;
    // One wait for all of them: its time is not over later because they keep coming.
    let heed = |line: &str| {
        if line.starts_with(&prefix) {
            landed.ack_times.push(watch.elapsed());
        }
        false
    };
    match victim.wait_for_line("its end", left, heed) {
        Ok(_) | Err(HarnessError::Ended { .. }) => Ok(false),
        Err(HarnessError::TimedOut { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Ends whatever still runs of it. How it ended before stays.
fn finish(victim: &mut Victim) -> Result<(), HarnessError> {
    match victim.kill() {
        Ok(_) | Err(HarnessError::Ended { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use agentos_process::Exit;

    use super::*;
    use crate::transcript::Transcript;

    fn subject() -> Subject {
        let spec = |_: &std::path::Path, _| VictimSpec::new("nobody", "true");
        Subject::new("subject", spec, |_, _| Ok(Outcome::passed()))
    }

    fn after(hit: Option<&str>, exit: Exit, hung: bool) -> Aftermath {
        Aftermath {
            strike: Strike::None,
            size: 1,
            transcript: Transcript {
                exit: Some(exit),
                ..Transcript::default()
            },
            hit: hit.map(str::to_owned),
            hung,
        }
    }

    #[test]
    fn what_was_struck_may_end_badly_and_may_hang_only_where_that_is_allowed() {
        let task = Task {
            strike: Strike::None,
            size: 1,
            patience: Duration::from_millis(5),
            counts: false,
            traces: false,
            acks: None,
        };
        let wrong = |subject: &Subject, after| wrongs(subject, &task, &after).join("; ");
        let (well, badly) = (Exit::Exited { code: 0 }, Exit::Exited { code: 7 });
        let killed = Exit::Signalled { signal: 9 };
        let (strict, lax) = (subject(), subject().may_hang());
        for subject in [&strict, &lax] {
            assert_eq!(wrong(subject, after(None, well, false)), "");
            assert_eq!(wrong(subject, after(Some("point a"), badly, false)), "");
            assert_eq!(wrong(subject, after(Some("point a"), killed, false)), "");
            let words = "nobody had struck it, and it ended with exit code 7";
            assert_eq!(wrong(subject, after(None, badly, false)), words);
            let words = "it did not end by itself within 5 ms";
            assert_eq!(wrong(subject, after(None, killed, true)), words);
        }
        let hung = after(Some("fsync"), killed, true);
        let words = "it did not end within 5 ms after fsync";
        assert_eq!(wrong(&strict, hung.clone()), words);
        assert_eq!(wrong(&lax, hung), "");
    }
}
