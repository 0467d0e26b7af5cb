//! All images of a log, cut by cut: the state moves forward and never back.

use std::collections::HashSet;
use std::iter::FusedIterator;

use crate::choice::{ImageId, Plan};
use crate::disk::{Disk, mix};
use crate::image::Image;
use crate::limits::IMAGES_PER_CUT_DEFAULT;
use crate::log::{Log, choice};
use crate::record::MarkKind;

/// The images of a log's cuts, in the order of the cuts.
///
/// Of images that hold the same only the first is given: a later one counts
/// again where more had been acknowledged by then.
#[derive(Debug, Clone)]
pub struct CrashImages<'log> {
    log: &'log Log,
    seed: u64,
    seeded: u32,
    cuts: std::vec::IntoIter<usize>,
    disk: Disk,
    /// The next choice at the cut that the disk is at; beyond the last one,
    /// the next cut.
    next: u32,
    /// Marks before the cut that make a check stricter.
    acknowledged: u64,
    /// How many marks have been looked at.
    marks: usize,
    seen: HashSet<u64>,
    skipped: u64,
}

impl<'log> CrashImages<'log> {
    pub(crate) fn new(log: &'log Log, seed: u64) -> CrashImages<'log> {
        CrashImages {
            log,
            seed,
            seeded: IMAGES_PER_CUT_DEFAULT,
            cuts: log.cuts().into_iter(),
            disk: Disk::default(),
            next: u32::MAX,
            acknowledged: 0,
            marks: 0,
            seen: HashSet::new(),
            skipped: 0,
        }
    }

    /// How many images the seed chooses at each cut, beside the two extremes.
    /// To be called before the first image is taken.
    #[must_use]
    pub fn per_cut(mut self, seeded: u32) -> CrashImages<'log> {
        self.seeded = seeded;
        self
    }

    /// Cuts after every record, also after single writes: what a longer search
    /// finds is found with fewer choices at each cut. To be called before the
    /// first image is taken.
    #[must_use]
    pub fn at_every_record(mut self) -> CrashImages<'log> {
        let cuts: Vec<usize> = (self.log.first_cut()..=self.log.records().len()).collect();
        self.cuts = cuts.into_iter();
        self
    }

    /// Splits what is left into at most `parts` of about as many cuts each,
    /// for as many threads. Between two parts the same image may come twice.
    #[must_use]
    pub fn split(mut self, parts: usize) -> Vec<CrashImages<'log>> {
        let each = self.cuts.len().div_ceil(parts.max(1)).max(1);
        let mut split = Vec::new();
        while self.cuts.len() > 0 {
            let cuts: Vec<usize> = self.cuts.by_ref().take(each).collect();
            let mut part = self.clone();
            part.cuts = cuts.clone().into_iter();
            split.push(part);
            if let Some(last) = cuts.last() {
                self.move_to(*last);
            }
            self.next = u32::MAX;
            self.seen.clear();
            self.skipped = 0;
        }
        split
    }

    /// How many images were left out since they were the same as earlier ones.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn move_to(&mut self, cut: usize) {
        self.log.advance(&mut self.disk, cut);
        let count = self.log.mark_count(cut);
        for number in self.marks..count {
            if self.log.mark(number).kind != MarkKind::Begun {
                self.acknowledged += 1;
            }
        }
        self.marks = count;
    }
}

impl<'log> Iterator for CrashImages<'log> {
    type Item = Image<'log>;

    fn next(&mut self) -> Option<Image<'log>> {
        loop {
            let choices = match self.disk.is_settled() {
                true => 1,
                false => self.seeded.saturating_add(2),
            };
            if self.next >= choices {
                let cut = self.cuts.next()?;
                self.move_to(cut);
                self.next = 0;
                continue;
            }
            let id = ImageId {
                cut: self.disk.at,
                choice: choice(self.seed, self.disk.at, self.next),
            };
            self.next += 1;
            let plan = Plan::decide(&self.disk, id.choice);
            if self.seen.insert(mix(plan.print, self.acknowledged)) {
                return Some(Image::build(self.log, &self.disk, id, &plan));
            }
            self.skipped += 1;
        }
    }
}

impl FusedIterator for CrashImages<'_> {}
