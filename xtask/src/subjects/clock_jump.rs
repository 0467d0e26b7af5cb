//! Scenario 11 as a subject. Struck is a process that claims, renews, sweeps and completes
//! items, first on a file where its wall clock jumps by hours, then on another one where its
//! deadline clock does. On each file another one whose clock jumps goes on then.
//!
//! Under wall clocks that jump no lease ends before its deadline, and what is due and what
//! is old follows the wall clock of who asks. Under deadline clocks that jump nobody wins
//! twice, and all can be finished at last.

use std::fs::File;
use std::path::{Path, PathBuf};

use agentos_chaos::{Aftermath, Run, ScenarioResult, Staged, Subject};
use agentos_core::Timestamp;

use super::leases::Fallible;
use crate::canary::Canary;
use crate::scenarios::clock_jump::{Story, prepare_deadlines, prepare_wall};
use crate::scenarios::rivalry::{lease_of, run_rivals};
use crate::scenarios::told::Told;
use crate::victims::{Jumps, Rival, Role, spec, true_now_us};

const LEASE_MS: u64 = 100;
/// It looks seldom when there is nothing to do: each look is a commit that is struck.
const NAP_MS: u64 = 25;
/// Of 100 leases so many end with a completion, if they are not lost before.
const COMPLETES: u64 = 50;
/// The struck one's plan is the same in all runs.
const SEED: u64 = 11;

/// The size is how many leases each process takes.
pub(crate) fn subject(canary: Option<Canary>) -> Subject {
    Subject::staged("clock-jump", move |run, size| {
        let scene = Scene {
            wall: run.dir().join("wall.db"),
            deadlines: run.dir().join("deadlines.db"),
            size,
            canary,
        };
        let now = prepare_wall(&scene.wall)?;
        prepare_deadlines(&scene.deadlines)?;
        let struck = vec![
            scene.rival(&scene.wall, 1, Jumps::Wall),
            scene.rival(&scene.deadlines, 1, Jumps::Deadlines),
        ];
        for rival in &struck {
            // It is open from the beginning.
            File::create(&rival.gate)?;
        }
        let spec = spec("rival-1", &Role::Rivals(struck))?;
        Ok(Staged::new(spec, move |run, after| {
            scene.check(run, after, now)
        }))
    })
    .goal("clocks that jump touch no lease and make no two winners, whatever is struck")
    .size(2)
}

struct Scene {
    wall: PathBuf,
    deadlines: PathBuf,
    size: u64,
    canary: Option<Canary>,
}

impl Scene {
    fn rival(&self, db: &Path, number: u64, jumps: Jumps) -> Rival {
        Rival {
            db: db.to_owned(),
            gate: db.with_extension("gate"),
            name: format!("rival-{number}"),
            seed: SEED + number,
            leases: self.size,
            lease_ms: LEASE_MS,
            nap_ms: NAP_MS,
            completes: COMPLETES,
            jumps,
            canary: self.canary,
        }
    }

    fn check(&self, run: &mut Run, after: &Aftermath, now: Timestamp) -> ScenarioResult {
        let mut story = Story::new(self.canary);
        story.all_heard = after.finished();
        let result = self.both(run, after, now, &mut story);
        story.outcome.after(result)
    }

    fn both(
        &self,
        run: &mut Run,
        after: &Aftermath,
        now: Timestamp,
        story: &mut Story,
    ) -> Fallible<()> {
        // Of each file it begins with the same word.
        let lines = &after.transcript.lines;
        let is_ready = |line: &String| line == "ready";
        let begins = lines.iter().skip(1).position(is_ready);
        let split = begins.map_or(lines.len(), |place| place + 1);
        let (of_wall, of_deadlines) = lines.split_at(split);

        let (told, rivals) = self.go_on(run, &self.wall, Jumps::Wall, of_wall)?;
        story.after_wall_clocks(run, &self.wall, now, told, lease_of(&rivals))?;
        let (told, rivals) = self.go_on(run, &self.deadlines, Jumps::Deadlines, of_deadlines)?;
        story.after_deadline_clocks(run, &self.deadlines, told, lease_of(&rivals))
    }

    /// Another one goes on with a file. Gives what both told.
    fn go_on(
        &self,
        run: &mut Run,
        db: &Path,
        jumps: Jumps,
        lines: &[String],
    ) -> Fallible<(Told, [Rival; 2])> {
        let all = [1, 2].map(|number| self.rival(db, number, jumps));
        let mut told = Told::default();
        for line in lines {
            told.heed(&all[0].name, line)?;
        }
        told.died(&all[0].name, true_now_us());
        run_rivals(run, vec![all[1].clone()], &mut told)?;
        Ok((told, all))
    }
}
