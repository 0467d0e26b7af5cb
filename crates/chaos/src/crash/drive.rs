//! Makes runs: one, a dry one, many at a time, and those of the shrinking.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use agentos_tracer::Fault;

use super::ANY_MOMENT;
use super::attempt::{self, Landed, Task};
use super::calls::{CallSeen, failing};
use super::derive::{self, Planned};
use super::limits::{EVIDENCE_MAX, KILL_REPLAYS_MAX, TRIES_MAX};
use super::points::Points;
use super::shrink::{self, Shown};
use super::strike::{Family, Strike};
use super::subject::Subject;
use crate::pool;
use crate::prng::Prng;
use crate::report::crash::{StrikeRun, Violation};
use crate::runner::Runner;
use crate::stability::panicked;
use crate::verdict::Verdict;

/// Names the line that runs a subject again: its name, strike, size, seed.
pub(crate) type Replay = dyn Fn(&str, &Strike, u64, u64) -> String + Send + Sync;

/// All that the runs of one drive have in common.
pub(crate) struct Drive {
    pub(crate) runner: Arc<Runner>,
    pub(crate) subject: Arc<Subject>,
    pub(crate) seed: u64,
    pub(crate) patience: Duration,
    pub(crate) jobs: usize,
    /// In which ways calls may fail.
    pub(crate) faults: Vec<Fault>,
    pub(crate) replay: Arc<Replay>,
    pub(crate) evidence: AtomicU32,
}

/// What a dry run is to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) points: bool,
    pub(crate) calls: bool,
}

/// What the dry runs counted.
#[derive(Debug, Default)]
pub(crate) struct Dry {
    pub(crate) runs: Vec<StrikeRun>,
    pub(crate) points: Points,
    pub(crate) calls: Vec<CallSeen>,
    pub(crate) unseen: Vec<String>,
    pub(crate) ack_times: Vec<Duration>,
    pub(crate) ended: Duration,
}

impl Dry {
    pub(crate) fn passed(&self) -> bool {
        !self.runs.is_empty() && self.runs.iter().all(|run| run.verdict == Verdict::Passed)
    }

    /// What there is of each name, to be killed at and to fail.
    pub(crate) fn counted(&self, calls: bool, faults: bool) -> BTreeMap<(Family, String), u64> {
        let points = self.points.totals().into_iter();
        let mut counted: BTreeMap<_, _> = points
            .map(|(name, count)| ((Family::Point, name), count))
            .collect();
        for call in &self.calls {
            if calls {
                let key = (Family::Call, call.kind.clone());
                *counted.entry(key).or_default() += 1;
            }
            for fault in call.faults.iter().filter(|_| faults) {
                let key = (Family::Fail, failing(&call.kind, *fault));
                *counted.entry(key).or_default() += 1;
            }
        }
        counted
    }
}

/// How the runs of a batch are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) size: u64,
    /// Acknowledgements of the dry run.
    pub(crate) acks: usize,
    pub(crate) keeps_evidence: bool,
    /// Whether nothing new is begun after a violation.
    pub(crate) first_only: bool,
}

impl Drive {
    /// The line that runs a strike again.
    pub(crate) fn line(&self, strike: &Strike, size: u64) -> String {
        (self.replay)(&self.subject.name, strike, size, self.seed)
    }

    fn task(&self, strike: &Strike, size: u64) -> Task {
        Task {
            strike: strike.clone(),
            size,
            patience: self.patience,
            counts: false,
            traces: false,
            acks: None,
        }
    }

    /// One run; `None` when it was interrupted.
    fn once(&self, task: Task, label: &str, keeps_evidence: bool) -> Option<(StrikeRun, Landed)> {
        let (strike, size) = (task.strike.clone(), task.size);
        let replay = self.line(&strike, size);
        let line = replay.clone();
        let (scenario, slot) = attempt::scenario(&self.subject, task, move |_| line.clone());
        let keeps =
            || keeps_evidence && self.evidence.fetch_add(1, Ordering::Relaxed) < EVIDENCE_MAX;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            self.runner
                .run_one(&scenario, self.seed, &keeps, Box::new(|_| {}))
        }));
        let report = match ran {
            Ok(ran) => ran?.report,
            Err(_) => panicked(&scenario, self.seed).report,
        };
        let landed = attempt::landed(&slot).unwrap_or_default();
        let hit = landed.hit.clone();
        let run = StrikeRun {
            strike,
            size,
            planned: label.to_owned(),
            hit: hit.as_ref().map(|hit| hit.label.clone()),
            place: hit.map(|hit| hit.place),
            tries: 1,
            verdict: report.verdict,
            reasons: report.reasons,
            position: report.kill_points.first().copied(),
            duration_ms: report.duration_ms,
            replay,
            evidence: report.evidence,
        };
        Some((run, landed))
    }

    /// One strike, tried again while it is not reached.
    fn tried(&self, planned: &Planned, batch: Batch) -> Option<StrikeRun> {
        let mut tries = 0;
        loop {
            tries += 1;
            let task = Task {
                acks: Some(batch.acks),
                ..self.task(&planned.strike, batch.size)
            };
            let (run, _) = self.once(task, &planned.label, batch.keeps_evidence)?;
            let reached = run.hit.is_some() || run.strike == Strike::None;
            if reached || run.verdict != Verdict::Passed || tries == TRIES_MAX {
                return Some(StrikeRun { tries, ..run });
            }
        }
    }

    /// Runs that nobody strikes. What is counted in one would disturb the other:
    /// counting a point is a system call.
    pub(crate) fn dry(&self, size: u64, wanted: Wanted, keeps: bool) -> Option<Dry> {
        let mut dry = Dry::default();
        let plain = Task {
            counts: wanted.points,
            ..self.task(&Strike::None, size)
        };
        let (run, landed) = self.once(plain, "", keeps)?;
        dry.runs.push(run);
        dry.points = landed.points;
        dry.ack_times = landed.ack_times;
        dry.ended = landed.ended;
        if wanted.calls && dry.passed() {
            let traced = Task {
                traces: true,
                ..self.task(&Strike::None, size)
            };
            let (run, landed) = self.once(traced, "", keeps)?;
            dry.runs.push(run);
            dry.calls = landed.calls;
            for call in &mut dry.calls {
                call.faults.retain(|fault| self.faults.contains(fault));
            }
            dry.unseen = landed.unseen;
        }
        Some(dry)
    }

    /// Makes the runs, several at a time. What comes back is in the order of the
    /// plan; runs that were interrupted, or not begun any more, are missing.
    pub(crate) fn batch(
        &self,
        planned: &[Planned],
        batch: Batch,
        mut heed: impl FnMut(&StrikeRun),
    ) -> Vec<StrikeRun> {
        let next = AtomicUsize::new(0);
        let over = AtomicBool::new(false);
        let mut runs = Vec::new();
        let work = || {
            if over.load(Ordering::Relaxed) {
                return None;
            }
            let place = next.fetch_add(1, Ordering::Relaxed);
            let run = self.tried(planned.get(place)?, batch)?;
            if batch.first_only && run.verdict == Verdict::Violated {
                over.store(true, Ordering::Relaxed);
            }
            Some((place, run))
        };
        let live = self.runner.live();
        pool::spread(live, self.jobs, "agentos-chaos", work, |(place, run)| {
            heed(&run);
            runs.push((place, run));
        });
        runs.sort_by_key(|(place, _)| *place);
        runs.into_iter().map(|(_, run)| run).collect()
    }

    /// One strike that a user asks for again. A kill is tried often: its moment
    /// is the scheduler's as well.
    pub(crate) fn again(&self, strike: &Strike, size: u64, tries: u32) -> Option<StrikeRun> {
        let planned = Planned {
            strike: strike.clone(),
            label: match strike {
                Strike::Point { name, .. } => name.clone(),
                Strike::Kill { .. } => ANY_MOMENT.to_owned(),
                // Only the run says which call it is.
                Strike::None | Strike::Call { .. } | Strike::Fail { .. } => "a call".to_owned(),
            },
        };
        let batch = Batch {
            size,
            acks: 0,
            keeps_evidence: true,
            first_only: true,
        };
        let mut last = self.tried(&planned, batch)?;
        for _ in 1..tries {
            if last.verdict != Verdict::Passed {
                break;
            }
            last = self.tried(&planned, batch)?;
        }
        Some(last)
    }

    /// How often a strike is made until it shows a violation.
    pub(crate) fn tries_of(strike: &Strike) -> u32 {
        match strike.family() {
            Family::Kill => KILL_REPLAYS_MAX,
            Family::Call | Family::Fail => TRIES_MAX,
            Family::None | Family::Point => 1,
        }
    }

    /// Makes a violation as small as it gets, in at most so many runs.
    pub(crate) fn shrink(&self, found: StrikeRun, count: u64, runs_max: u32) -> Violation {
        let mut left = runs_max;
        let mut cut = BTreeSet::new();
        let start = (found.strike.clone(), found.size);
        let (mut strike, mut size) = shrink::smallest(start, self.subject.smallest, |size| {
            // A third for this size, so that others have their turn.
            let room = left.saturating_sub(1).div_ceil(3);
            let (shown, all) = self.show(&found, size, room, &mut left);
            if !all {
                cut.insert(size);
            }
            shown
        });
        // Not all of that size were tried: an earlier one may show it as well.
        let room = left.saturating_sub(1);
        if cut.contains(&size)
            && let (Shown::Violated(first), true) = self.show(&found, size, room, &mut left)
        {
            strike = first;
        }
        let violated = |strike: &Strike, size| {
            let again = self.again(strike, size, Drive::tries_of(strike));
            again.filter(|run| run.verdict == Verdict::Violated)
        };
        let mut again = violated(&strike, size);
        // A smaller one that came once and no more helps nobody.
        if again.is_none() && (&strike, size) != (&found.strike, found.size) {
            (strike, size) = (found.strike.clone(), found.size);
            again = violated(&strike, size);
        }
        let shown = again.as_ref().unwrap_or(&found);
        Violation {
            count,
            confirmed: again.is_some(),
            reasons: shown.reasons.clone(),
            replay: self.line(&strike, size),
            evidence: shown.evidence.clone().or_else(|| found.evidence.clone()),
            runs: runs_max - left,
            strike,
            size,
            found,
        }
    }

    /// What the strikes of that kind show at this size, in order, and whether
    /// all of them were to be made: of more than there is room for, those that
    /// are most like the one that was found.
    fn show(&self, found: &StrikeRun, size: u64, room: u32, left: &mut u32) -> (Shown, bool) {
        let family = found.strike.family();
        let wanted = Wanted {
            points: family == Family::Point,
            calls: matches!(family, Family::Call | Family::Fail),
        };
        if *left == 0 {
            return (Shown::OutOfRuns, false);
        }
        *left -= 1;
        let Some(dry) = self.dry(size, wanted, false) else {
            return (Shown::OutOfRuns, false);
        };
        if !dry.passed() {
            return (Shown::Nothing, true);
        }
        let acks = dry.ack_times.len();
        let all = match &found.strike {
            Strike::None => Vec::new(),
            Strike::Kill { offset, .. } => derive::kills_in_order(acks, *offset),
            Strike::Point { .. } => derive::points(&dry.points),
            Strike::Call { .. } => derive::calls(&dry.calls),
            Strike::Fail { .. } => derive::faults(&dry.calls),
        };
        let (count, room) = (all.len(), usize::try_from(room).unwrap_or(usize::MAX));
        let label = found.hit.as_ref().unwrap_or(&found.planned);
        let mut rng = Prng::seeded(self.seed);
        let planned = derive::likely(all, label, room, &mut rng);
        let batch = Batch {
            size,
            acks,
            keeps_evidence: false,
            first_only: true,
        };
        let runs = self.batch(&planned, batch, |_| *left = left.saturating_sub(1));
        let shown = match runs.iter().find(|run| run.verdict == Verdict::Violated) {
            Some(run) => Shown::Violated(run.strike.clone()),
            None if self.runner.is_interrupted() => Shown::OutOfRuns,
            None => Shown::Nothing,
        };
        (shown, planned.len() == count)
    }
}
