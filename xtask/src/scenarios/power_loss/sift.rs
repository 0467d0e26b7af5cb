//! Opens images of a recording and judges each by what had been marked before its cut:
//! a few in this process, many in processes of their own, one a processor. Within one
//! process SQLite's threads would wait for each other at every allocation.
//!
//! Images that hold the same files are opened once; what was found is judged again for
//! each.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;

use agentos_chaos::{Failure, Outcome, Run, Victim};
use agentos_core::{Digest, DigestBuilder};
use agentos_crash_vfs::{Image, ImageDir, ImageFile, ImageId, LogError};
use serde::{Deserialize, Serialize};

use super::look::{GoOn, Looked, look};
use super::record::{Recording, Shelf};
use crate::model::cut::{Expected, Mark, Told};
use crate::victims::{Role, say, spec};

/// Parts of the images for each process: what is at one place of a log is not all in one.
const PARTS_PER_PROCESS: usize = 16;
/// Violations after which a process opens nothing more.
const WRONG_MAX: usize = 3;
const MILLION: u64 = 1_000_000;
/// How a process says what is wrong with an image, and at last what it did.
const WRONG: &str = "wrong ";
const DONE: &str = "done ";

type Fallible<T> = Result<T, Failure>;

/// Figures of a scenario.
#[derive(Debug, Default)]
pub(super) struct Tally {
    records: u64,
    syncs: u64,
    cuts: u64,
    /// First-level images.
    first: Opened,
    /// Recoveries that were cut off again, and their images.
    recoveries: u64,
    nested: Opened,
}

/// What was done with images.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Opened {
    /// Images that were judged, and those of them that were opened.
    images: u64,
    distinct: u64,
    /// Acknowledged steps that were looked for.
    acknowledged: u64,
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} images, {} of them opened",
            self.images, self.distinct
        )
    }
}

impl Opened {
    fn add(&mut self, more: Opened) {
        self.images += more.images;
        self.distinct += more.distinct;
        self.acknowledged += more.acknowledged;
    }
}

impl Tally {
    pub(super) fn recorded(&mut self, recording: &Recording) {
        self.records += recording.log.records().len() as u64;
        self.syncs += recording.syncs() as u64;
        self.cuts += recording.log.cuts().len() as u64;
    }

    /// Takes note of the images of a recording.
    pub(super) fn opened(&mut self, opened: Opened) {
        self.first.add(opened);
    }

    /// Takes note of the images of a recovery.
    pub(super) fn opened_again(&mut self, opened: Opened) {
        self.recoveries += 1;
        self.nested.add(opened);
    }

    /// Into the report.
    pub(super) fn tell(&self, outcome: &mut Outcome) {
        for (name, figure) in [
            ("records", self.records),
            ("syncs", self.syncs),
            ("cuts", self.cuts),
            ("images", self.first.images),
            ("distinct", self.first.distinct),
            ("recoveries", self.recoveries),
            ("nested", self.nested.images),
            (
                "acknowledged",
                self.first.acknowledged + self.nested.acknowledged,
            ),
        ] {
            outcome.metric(name, figure);
        }
    }
}

/// An image that is not as it must be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Wrong {
    pub(super) image: String,
    pub(super) reasons: Vec<String>,
}

impl Wrong {
    pub(super) fn id(&self) -> Fallible<ImageId> {
        Ok(self.image.parse()?)
    }
}

/// Which images of a recording are opened.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Choice {
    /// What they follow from.
    seed: u64,
    /// Images at each cut beside the two extremes.
    per_cut: u32,
    /// So many of a million of them.
    share: u64,
}

impl Choice {
    /// About so many of a recording.
    pub(super) fn about(recording: &Recording, seed: u64, per_cut: u32, most: usize) -> Choice {
        let images = recording.log.crash_images(seed).per_cut(per_cut);
        let all = images.count().max(1) as u64;
        let share = (most as u64).saturating_mul(MILLION) / all;
        Choice {
            seed,
            per_cut,
            share,
        }
    }

    /// All of a recording.
    pub(super) fn all(seed: u64, per_cut: u32) -> Choice {
        Choice {
            seed,
            per_cut,
            share: MILLION,
        }
    }

    fn has(&self, image: &Image<'_>) -> bool {
        let mixed = (image.fingerprint() ^ self.seed.rotate_left(17) ^ image.cut() as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) % MILLION < self.share
    }
}

/// The role of one that opens its part of the images. Nobody kills it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sifter {
    recording: PathBuf,
    place: PathBuf,
    choice: Choice,
    /// Which of how many processes it is.
    number: usize,
    processes: usize,
}

impl Sifter {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let recording = Recording::kept(&self.recording).map_err(|failure| failure.reason())?;
        let sieve = Sieve {
            recording: &recording,
            choice: self.choice,
        };
        let mut wrong = 0;
        let opened = sieve.work(&self.place, self.number, self.processes, |one| {
            wrong += 1;
            say(&format!("{WRONG}{}", serde_json::to_string(&one)?))?;
            Ok(wrong < WRONG_MAX)
        });
        let opened = opened.map_err(|failure| failure.reason())?;
        Ok(say(&format!("{DONE}{}", serde_json::to_string(&opened)?))?)
    }
}

/// Opens the chosen images of a recording in processes of their own.
pub(super) fn sift(
    run: &mut Run,
    shelf: &Shelf,
    recording: &Recording,
    choice: Choice,
) -> Fallible<(Opened, Vec<Wrong>)> {
    let processes = thread::available_parallelism().map_or(1, usize::from);
    let kept = recording.keep(&shelf.place("kept"))?;
    let mut sifters: Vec<Victim> = Vec::new();
    for number in 0..processes {
        let role = Role::Sifter(Sifter {
            recording: kept.clone(),
            place: shelf.place(&format!("{}-images-{number}", recording.name)),
            choice,
            number,
            processes,
        });
        sifters.push(run.start(&spec("sifter", &role)?)?);
    }
    let (mut all, mut wrong) = (Opened::default(), Vec::new());
    for mut sifter in sifters {
        let exit = sifter.wait_for_exit(run.remaining())?;
        let mut done = false;
        for line in sifter.said() {
            if let Some(one) = line.strip_prefix(WRONG) {
                wrong.push(serde_json::from_str(one)?);
            } else if let Some(opened) = line.strip_prefix(DONE) {
                all.add(serde_json::from_str(opened)?);
                done = true;
            }
        }
        if !done {
            return Err(Failure::new(format!(
                "one that opened images ended with {exit}"
            )));
        }
    }
    Ok((all, wrong))
}

/// Opens images of a recording in this process.
pub(super) struct Sieve<'all> {
    pub(super) recording: &'all Recording,
    pub(super) choice: Choice,
}

impl Sieve<'_> {
    /// Opens those that are chosen of its part, one after the other, until it is told that
    /// it is enough.
    pub(super) fn work(
        &self,
        place: &Path,
        number: usize,
        processes: usize,
        mut found: impl FnMut(Wrong) -> Fallible<bool>,
    ) -> Fallible<Opened> {
        let dir = ImageDir::at(place)?;
        let Choice { seed, per_cut, .. } = self.choice;
        let images = self.recording.log.crash_images(seed).per_cut(per_cut);
        let parts = images.split(processes * PARTS_PER_PROCESS).into_iter();
        let mut opened = Opened::default();
        'all: for part in parts.skip(number).step_by(processes) {
            let mut known = Known::default();
            for image in part {
                if !self.choice.has(&image) {
                    continue;
                }
                let reasons = self.judge(&dir, &image, &mut known, &mut opened)?;
                let image = image.id().to_string();
                if !reasons.is_empty() && !found(Wrong { image, reasons })? {
                    break 'all;
                }
            }
        }
        std::fs::remove_dir_all(place)?;
        Ok(opened)
    }

    /// What is wrong with an image.
    fn judge(
        &self,
        dir: &ImageDir,
        image: &Image<'_>,
        known: &mut Known,
        opened: &mut Opened,
    ) -> Result<Vec<String>, LogError> {
        let print = image.fingerprint();
        let content = *known
            .contents
            .entry(print)
            .or_insert_with(|| content(image));
        let looked = match known.looked.entry(content) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                dir.write(image)?;
                let plan = &self.recording.about.plan;
                opened.distinct += 1;
                entry.insert(look(dir.path(), plan, GoOn::of(print, plan)))
            }
        };
        let told = self.recording.told_before(image);
        opened.images += 1;
        opened.acknowledged += told.acknowledged();
        let own = looked.broken.iter().cloned();
        let judged = self.recording.expected(&told).judge(&looked.seen);
        Ok(own.chain(judged).collect())
    }
}

/// What was found in images, by what they hold.
#[derive(Default)]
struct Known {
    /// What those of a print hold.
    contents: HashMap<u64, Digest>,
    looked: HashMap<Digest, Looked>,
}

/// What an image holds, whatever it was made of.
fn content(image: &Image<'_>) -> Digest {
    let begun = DigestBuilder::new("image");
    let add = |all: DigestBuilder, file: ImageFile<'_>| {
        all.bytes(file.path.as_bytes()).bytes(&file.bytes())
    };
    image.files().fold(begun, add).finish()
}

impl Recording {
    /// What had been marked before an image's cut.
    pub(super) fn told_before(&self, image: &Image<'_>) -> Told {
        let earlier = self.about.told.iter().filter_map(|text| Mark::read(text));
        let count = image.marks().count();
        Told::of(earlier.chain(self.marks[..count].iter().copied()))
    }

    pub(super) fn expected<'all>(&'all self, told: &'all Told) -> Expected<'all> {
        Expected {
            plan: &self.about.plan,
            order: &self.about.order,
            told,
            full: self.about.full,
        }
    }
}
