//! Scenario 16. Goal: what was acknowledged survives a power cut at any moment; nothing is
//! ever corrupt, nothing is there in part, and no checkpoint outlives its artifact.
//!
//! Method: a mill works with everything that the library has while all that happens to its
//! files is recorded: with full durability, with relaxed, and while its database is made.
//! From the record follow the images that a power cut may have left at each moment: what
//! was not synced is kept, lost, torn or out of order. Each is opened with the real library,
//! after a reboot, recovered, read as a whole, and worked with. Some of these recoveries are
//! recorded as well, with an upkeep after them, and cut off from power again.

mod look;
mod merge;
mod record;
mod sift;

use std::fs;
use std::path::Path;

use agentos_chaos::{Failure, Outcome, Run, Scenario, Verdict};
use agentos_crash_vfs::ImageId;
use agentos_crash_vfs::limits::IMAGES_PER_CUT_DEFAULT;

use self::look::{GoOn, look};
pub(crate) use self::look::{config, sweep};
use self::record::{Recording, Shelf};
pub(crate) use self::sift::Sifter;
use self::sift::{Choice, Sieve, Tally, Wrong, sift};
use crate::canary::Canary;
use crate::model::cut::Mark;
use crate::model::mill::Plan;

/// The number of the scenario.
pub(crate) const ID: u32 = 16;
/// Its name.
pub(crate) const NAME: &str = "power-loss";

/// Threads of the mill.
const THREADS: u64 = 3;
/// Steps of each.
const STEPS: u64 = 8;
const STEPS_QUICK: u64 = 4;
/// First-level images of one recording that a sample opens, and one of many samples.
const SAMPLE: usize = 300;
const SAMPLE_QUICK: usize = 150;
const SAMPLE_OF_MANY: usize = 80;
/// Images at each cut, beside the two extremes, when all are opened.
const PER_CUT_ALL: u32 = 110;
/// How long that may take, in seconds, unless something else is said.
pub(crate) const TIMEOUT_ALL_S: u64 = 1800;
/// Recoveries of one recording that are cut off as well, in a sample.
const NESTED: usize = 3;
/// The same when all images are opened.
const NESTED_ALL: usize = 20;
/// Images of each of these recoveries.
const NESTED_SAMPLE: usize = 30;
/// Violations that are told.
const TOLD_MAX: usize = 5;

/// What is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// How a database is made, with full durability.
    New,
    /// Work with full durability, on a database that is there.
    Full,
    /// The same with relaxed durability.
    Relaxed,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::New => "new",
            Kind::Full => "full",
            Kind::Relaxed => "relaxed",
        }
    }
}

/// How many images are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Some, as the seed says.
    Sample,
    /// Few, as the seed says: there are many runs.
    SampleOfMany,
    /// All of the first level.
    All,
}

type Fallible<T> = Result<T, Failure>;

/// Whether this scenario is named, and no other.
pub(crate) fn is_named_alone(named: &[String]) -> bool {
    let is = |name: &String| *name == NAME || name.parse() == Ok(ID);
    !named.is_empty() && named.iter().all(is)
}

/// The scenario with as many images as are said.
pub(crate) fn scenario(canary: Option<Canary>, extent: Extent) -> Scenario {
    let goal = "what was acknowledged survives a power cut, and nothing is there in part";
    Scenario::new(ID, NAME, goal, move |run| {
        let mut story = Story::new(canary, extent)?;
        let result = story.all(run);
        story.tally.tell(&mut story.outcome);
        story.outcome.after(result)
    })
}

struct Story {
    canary: Option<Canary>,
    extent: Extent,
    shelf: Shelf,
    tally: Tally,
    outcome: Outcome,
}

impl Story {
    fn new(canary: Option<Canary>, extent: Extent) -> Fallible<Story> {
        Ok(Story {
            canary,
            extent,
            shelf: Shelf::new()?,
            tally: Tally::default(),
            outcome: Outcome::passed(),
        })
    }

    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        for kind in [Kind::Full, Kind::Relaxed, Kind::New] {
            let (threads, steps) = match (kind, run.quick()) {
                (Kind::New, _) => (1, 1),
                (_, false) => (THREADS, STEPS),
                (_, true) => (THREADS, STEPS_QUICK),
            };
            let plan = Plan {
                seed: run.rng.next_u64(),
                threads,
                steps,
            };
            run.progress(format!("{}: recording", kind.name()));
            let recording = self.shelf.record(run, kind, plan, self.canary)?;
            self.tally.recorded(&recording);
            self.open_images(run, kind, &recording)?;
            if self.outcome.verdict != Verdict::Passed {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Opens images of a recording, and cuts some of the recoveries off again.
    fn open_images(&mut self, run: &mut Run, kind: Kind, recording: &Recording) -> Fallible<()> {
        let seed = run.rng.next_u64();
        let (few, nested) = match (self.extent, run.quick()) {
            (Extent::All, _) => (None, NESTED_ALL),
            (Extent::Sample, false) => (Some(SAMPLE), NESTED),
            (Extent::Sample, true) => (Some(SAMPLE_QUICK), 1),
            (Extent::SampleOfMany, _) => (Some(SAMPLE_OF_MANY), 1),
        };
        // Most of a new file's images hold no database yet: making one is slow.
        let choice = match (kind, few) {
            (Kind::New, None) => Choice::all(seed, IMAGES_PER_CUT_DEFAULT),
            (Kind::New, Some(most)) => {
                Choice::about(recording, seed, IMAGES_PER_CUT_DEFAULT, most / 10)
            }
            (_, None) => Choice::all(seed, PER_CUT_ALL),
            (_, Some(most)) => Choice::about(recording, seed, IMAGES_PER_CUT_DEFAULT, most),
        };
        let cuts = recording.log.cuts().len();
        run.progress(format!("{}: images of {cuts} cuts", recording.name));
        let (opened, wrong) = sift(run, &self.shelf, recording, choice)?;
        run.progress(format!("{}: {opened}", recording.name));
        self.tally.opened(opened);
        self.tell(run, recording, &wrong)?;
        for _ in 0..nested {
            if self.outcome.verdict != Verdict::Passed || run.is_over() {
                return Ok(());
            }
            run.progress(format!("{}: a recovery is cut off", recording.name));
            self.cut_again(run, recording)?;
        }
        Ok(())
    }

    /// Records the recovery of one image, and opens images of that.
    fn cut_again(&mut self, run: &mut Run, recording: &Recording) -> Fallible<()> {
        let cuts = recording.log.cuts();
        let cut = *run.rng.pick(&cuts).ok_or_else(|| Failure::new("no cut"))?;
        let seed = run.rng.next_u64();
        let images = recording.log.images_at(cut, seed, 1)?;
        let image = images.last().ok_or_else(|| Failure::new("no image"))?;
        // What is in it.
        let place = self.shelf.place("first");
        image.write_to(&place)?;
        let looked = look(&place, &recording.about.plan, GoOn::Append);
        fs::remove_dir_all(&place)?;
        let told = recording.told_before(image);
        let mut broken = looked.broken;
        broken.extend(recording.expected(&told).judge(&looked.seen));
        if !broken.is_empty() {
            let wrong = Wrong {
                image: image.id().to_string(),
                reasons: broken,
            };
            return self.tell(run, recording, &[wrong]);
        }
        // All of that must stay, since it was there, durably, when recovery began.
        let mut marks: Vec<Mark> = Vec::new();
        if let Some(book) = &looked.seen.book {
            let steps = book.iter().copied();
            marks.extend([Mark::Setup, Mark::SetUp]);
            marks.extend(steps.flat_map(|step| [Mark::Begun(step), Mark::Acknowledged(step)]));
        }
        if told.has(Mark::Upkeep) {
            marks.push(Mark::Upkeep);
        }
        let place = self.shelf.place("recovered");
        image.write_to(&place)?;
        let recovery = self.shelf.record_recovery(run, &place, recording, marks)?;
        fs::remove_dir_all(&place)?;
        let choice = Choice::about(&recovery, seed, IMAGES_PER_CUT_DEFAULT, NESTED_SAMPLE);
        let sieve = Sieve {
            recording: &recovery,
            choice,
        };
        let mut wrong = Vec::new();
        let place = self.shelf.place("nested");
        let opened = sieve.work(&place, 0, 1, |one| {
            wrong.push(one);
            Ok(wrong.len() < TOLD_MAX)
        })?;
        self.tally.opened_again(opened);
        self.tell(run, &recovery, &wrong)
    }

    /// Says what is wrong, and how to see it again.
    fn tell(&mut self, run: &Run, recording: &Recording, wrong: &[Wrong]) -> Fallible<()> {
        let Some(first) = wrong.first() else {
            return Ok(());
        };
        let kept = recording.keep(run.dir())?;
        let image = recording.log.image(first.id()?)?;
        let files = kept.join("image");
        image.write_to(&files)?;
        fs::write(kept.join("image.txt"), image.describe())?;
        for one in wrong.iter().take(TOLD_MAX) {
            let line = format!(
                "cargo xtask chaos {NAME} --recording {} --image {}",
                kept.display(),
                one.image
            );
            let reasons = one.reasons.join("; ");
            self.outcome.violate(format!("{reasons} (again: {line})"));
        }
        Ok(())
    }
}

/// Opens one image of a recording that was kept. Says what it is, and what is wrong with
/// it.
pub(crate) fn replay(recording: &Path, image: ImageId) -> Fallible<(String, Vec<String>)> {
    let recording = Recording::kept(recording)?;
    let shelf = Shelf::new()?;
    let image = recording.log.image(image)?;
    let place = shelf.place("image");
    image.write_to(&place)?;
    let plan = &recording.about.plan;
    let looked = look(&place, plan, GoOn::of(image.fingerprint(), plan));
    let told = recording.told_before(&image);
    let mut broken = looked.broken;
    broken.extend(recording.expected(&told).judge(&looked.seen));
    Ok((image.describe(), broken))
}
