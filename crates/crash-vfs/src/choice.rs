//! What a power cut leaves of what pends: the choice behind an image.
//!
//! A choice is decided first, as a list of what is kept, and its fingerprint
//! is known before a byte is copied. The same choice at the same cut of the
//! same log is always the same image.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::content::Content;
use crate::disk::{Disk, FileId, FileState, Names, apply_change, mix};
use crate::limits::SECTOR_BYTES;
use crate::record::Record;

/// What is kept of that which no sync has made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Choice {
    /// All of it: what SIGKILL leaves.
    All,
    /// Nothing of it.
    Nothing,
    /// Some of it, as this seed says: for each file, and for the entries of
    /// directories, all, nothing, a prefix, a suffix, any subset, and any of
    /// that torn at sectors of 512 bytes.
    Seeded(u64),
}

/// Which image of a log: the cut and the choice. As text `<cut>:all`,
/// `<cut>:nothing` or `<cut>:<16 hex digits>`: the line that replays it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId {
    /// How many records of the log came before the power was cut.
    pub cut: usize,
    /// What was left of what was pending.
    pub choice: Choice,
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.choice {
            Choice::All => write!(f, "{}:all", self.cut),
            Choice::Nothing => write!(f, "{}:nothing", self.cut),
            Choice::Seeded(seed) => write!(f, "{}:{seed:016x}", self.cut),
        }
    }
}

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an image: {text:?}")]
pub struct ImageIdError {
    /// The text.
    pub text: String,
}

impl FromStr for ImageId {
    type Err = ImageIdError;

    fn from_str(text: &str) -> Result<ImageId, ImageIdError> {
        let parse = || {
            let (cut, choice) = text.trim().split_once(':')?;
            let choice = match choice {
                "all" => Choice::All,
                "nothing" => Choice::Nothing,
                seed if seed.len() == 16 && !seed.starts_with('+') => {
                    Choice::Seeded(u64::from_str_radix(seed, 16).ok()?)
                }
                _ => return None,
            };
            Some(ImageId {
                cut: cut.parse().ok()?,
                choice,
            })
        };
        parse().ok_or_else(|| ImageIdError {
            text: text.to_owned(),
        })
    }
}

/// What is left of one pending operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Whole,
    Nothing,
    /// Some sectors, as this seed says.
    Torn(u64),
}

/// What is left of the pending operations of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Left {
    All,
    Nothing,
    Some(Vec<Kept>),
}

/// A choice, decided: everything that an image needs but its bytes.
pub(crate) struct Plan {
    pub(crate) names: Names,
    pub(crate) files: BTreeMap<FileId, Left>,
    /// For each pending change of names, whether it is kept; in order.
    pub(crate) entries: Vec<bool>,
    /// Two plans with the same print have the same names and bytes.
    pub(crate) print: u64,
}

impl Plan {
    pub(crate) fn decide(disk: &Disk, choice: Choice) -> Plan {
        let mut rng = match choice {
            Choice::Seeded(seed) => Some(fastrand::Rng::with_seed(mix(seed, disk.at as u64))),
            Choice::All | Choice::Nothing => None,
        };
        let mut left = |count: usize| match (&mut rng, choice) {
            (Some(rng), _) => draw(rng, count),
            (None, Choice::All) => Left::All,
            (None, _) => Left::Nothing,
        };

        let entries: Vec<bool> = match left(disk.entries.len()) {
            Left::All => vec![true; disk.entries.len()],
            Left::Nothing => vec![false; disk.entries.len()],
            // A change of names is never torn.
            Left::Some(kept) => kept.iter().map(|kept| *kept != Kept::Nothing).collect(),
        };
        let mut names = disk.durable_names.clone();
        for (change, kept) in disk.entries.iter().zip(&entries) {
            if *kept {
                change.what.apply(&mut names);
            }
        }

        let mut print = 0;
        let mut files = BTreeMap::new();
        for (name, id) in &names {
            let Some(file) = disk.files.get(id) else {
                continue;
            };
            let left = left(file.pending.len());
            print = mix(name_print(print, name), left_print(file, &left));
            files.insert(*id, left);
        }
        Plan {
            names,
            files,
            entries,
            print,
        }
    }

    /// The files of the image.
    pub(crate) fn build(&self, disk: &Disk, records: &[Record]) -> BTreeMap<Arc<str>, Content> {
        let content = |id: &FileId| {
            let file = disk.files.get(id)?;
            Some(match self.files.get(id)? {
                Left::All => file.live.clone(),
                Left::Nothing => file.durable.clone(),
                Left::Some(kept) => {
                    let mut content = file.durable.clone();
                    for (record, kept) in file.pending.iter().zip(kept) {
                        match kept {
                            Kept::Whole => apply_change(&mut content, &records[*record]),
                            Kept::Nothing => {}
                            Kept::Torn(seed) => tear(&mut content, &records[*record], *seed),
                        }
                    }
                    content
                }
            })
        };
        self.names
            .iter()
            .filter_map(|(name, id)| Some((Arc::clone(name), content(id)?)))
            .collect()
    }
}

/// Draws what is left of `count` operations in a row.
fn draw(rng: &mut fastrand::Rng, count: usize) -> Left {
    use Kept::{Nothing, Torn, Whole};
    let whole_if = |kept: bool| if kept { Whole } else { Nothing };
    let mode = rng.u8(..10);
    if count == 0 {
        return Left::All;
    }
    let place = rng.usize(..count);
    let torn = Torn(rng.u64(..));
    let mut kept: Vec<Kept> = match mode {
        0 => return Left::All,
        1 => return Left::Nothing,
        // In order, up to a point; the last one may be torn.
        2 | 3 => (0..count).map(|at| whole_if(at < place)).collect(),
        // All but the first ones, one missing, one alone.
        4 => (0..count).map(|at| whole_if(at >= place)).collect(),
        5 => (0..count).map(|at| whole_if(at != place)).collect(),
        6 => (0..count).map(|at| whole_if(at == place)).collect(),
        // Any.
        _ => (0..count).map(|_| whole_if(rng.bool())).collect(),
    };
    match mode {
        3 | 6 => kept[place] = torn,
        9 => {
            for kept in &mut kept {
                if rng.u8(..4) == 0 {
                    *kept = Torn(rng.u64(..));
                }
            }
        }
        _ => {}
    }
    if kept.iter().all(|kept| *kept == Whole) {
        Left::All
    } else if kept.iter().all(|kept| *kept == Nothing) {
        Left::Nothing
    } else {
        Left::Some(kept)
    }
}

/// Which sectors of a torn write are kept: the first ones, the last ones, or
/// any of them.
pub(crate) struct Tear {
    rng: fastrand::Rng,
    mode: u8,
    place: u64,
}

impl Tear {
    pub(crate) fn new(seed: u64, sectors: u64) -> Tear {
        let mut rng = fastrand::Rng::with_seed(seed);
        Tear {
            mode: rng.u8(..4),
            place: rng.u64(..=sectors),
            rng,
        }
    }

    pub(crate) fn keeps(&mut self, sector: u64) -> bool {
        match self.mode {
            0 => sector < self.place,
            1 => sector >= self.place,
            _ => self.rng.bool(),
        }
    }
}

/// Applies some sectors of a write; a truncation is not torn.
fn tear(content: &mut Content, record: &Record, seed: u64) {
    let Record::Write { offset, bytes, .. } = record else {
        return apply_change(content, record);
    };
    let mut tear = Tear::new(seed, sectors(*offset, bytes.len()));
    let mut at = *offset;
    let mut rest = &bytes[..];
    let mut sector = 0;
    while !rest.is_empty() {
        let to_next = SECTOR_BYTES - at % SECTOR_BYTES;
        let count = rest.len().min(to_next as usize);
        if tear.keeps(sector) {
            content.write(at, &rest[..count]);
        }
        at += count as u64;
        rest = &rest[count..];
        sector += 1;
    }
}

/// How many sectors a write touches.
fn sectors(offset: u64, len: usize) -> u64 {
    (offset % SECTOR_BYTES + len as u64).div_ceil(SECTOR_BYTES)
}

fn name_print(print: u64, name: &str) -> u64 {
    name.bytes()
        .fold(mix(print, name.len() as u64), |print, byte| {
            mix(print, u64::from(byte))
        })
}

fn left_print(file: &FileState, left: &Left) -> u64 {
    match left {
        Left::All => file.live_print,
        Left::Nothing => file.durable_print,
        Left::Some(kept) => {
            let mut print = file.durable_print;
            for (record, kept) in file.pending.iter().zip(kept) {
                match kept {
                    Kept::Whole => print = mix(print, *record as u64),
                    Kept::Nothing => {}
                    Kept::Torn(seed) => print = mix(mix(print, *record as u64), *seed | 1),
                }
            }
            print
        }
    }
}
