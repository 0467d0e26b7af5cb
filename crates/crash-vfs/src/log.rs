//! A log: what happened, in order, and the images that follow from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::choice::{Choice, ImageId, Plan};
use crate::disk::{Disk, mix};
use crate::error::LogError;
use crate::image::Image;
use crate::images::CrashImages;
use crate::record::{Found, Mark, Record, frame_at};

/// What one or more processes did to the files of a directory, and what they
/// said meanwhile; read from a file, or put together by hand.
#[derive(Debug, Clone)]
pub struct Log {
    records: Vec<Record>,
    /// Where the marks are among the records.
    marks: Vec<(usize, Mark)>,
    /// How many records come before the first cut.
    first_cut: usize,
    unused_bytes: usize,
}

impl Log {
    /// Reads what a [`Recorder`](crate::Recorder) wrote.
    ///
    /// A process that was killed, or ended without stopping its recorder while
    /// it had files open, ends the log for all: one operation more may have
    /// been done than was recorded, and others may have read what it did. So
    /// what others recorded after the last record of such a process is not
    /// used. A frame that is not whole is the end too.
    /// [`unused_bytes`](Self::unused_bytes) says how much was left out.
    ///
    /// # Errors
    ///
    /// [`LogError::NotALog`] when the file begins as no log of this version
    /// does, [`LogError::Inconsistent`] when its records cannot have happened,
    /// [`LogError::Machine`] when it cannot be read.
    pub fn read(path: &Path) -> Result<Log, LogError> {
        let (records, unused_bytes) = Log::read_records(path)?;
        let mut log = Log::from_records(records)?;
        log.unused_bytes = unused_bytes;
        Ok(log)
    }

    /// The bare records of a file up to its sound end, and how many bytes come
    /// after that; see [`read`](Self::read) for both. For a program that also renames or makes files of its database by itself: the
    /// records make a log only together with those operations.
    ///
    /// # Errors
    ///
    /// [`LogError::NotALog`] and [`LogError::Machine`] as for
    /// [`read`](Self::read).
    pub fn read_records(path: &Path) -> Result<(Vec<Record>, usize), LogError> {
        let bytes = fs::read(path).map_err(LogError::machine("read the log"))?;
        decode(&bytes)
    }

    /// A log to be put together by hand, or from another one and file
    /// operations that SQLite did not do.
    pub fn builder() -> LogBuilder {
        LogBuilder::default()
    }

    fn from_records(mut records: Vec<Record>) -> Result<Log, LogError> {
        let broken = |record: &Record| matches!(record, Record::Broken { .. });
        if let Some(end) = records.iter().position(broken) {
            records.truncate(end);
        }
        let is_base = |record: &Record| matches!(record, Record::Base { .. });
        let first_cut = records.iter().rposition(is_base).map_or(0, |last| last + 1);
        let mut disk = Disk::default();
        for (number, record) in records.iter().enumerate() {
            let early = |record| matches!(record, &Record::Base { .. } | &Record::Start { .. });
            let flaw = match record.flaw() {
                None if number < first_cut && !early(record) => {
                    Some("something happened before all files were there".to_owned())
                }
                flaw => flaw.map(str::to_owned),
            };
            let checked = flaw.map_or(Ok(()), Err);
            checked
                .and_then(|()| disk.advance(&records, number + 1))
                .map_err(|why| LogError::Inconsistent {
                    record: number,
                    why,
                })?;
        }
        let mark = |(number, record): (usize, &Record)| match record {
            Record::Mark(mark) => Some((number, mark.clone())),
            _ => None,
        };
        Ok(Log {
            marks: records.iter().enumerate().filter_map(mark).collect(),
            records,
            first_cut,
            unused_bytes: 0,
        })
    }

    /// All records, in order. The n-th is the n-th `write(2)` to the file.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// How many bytes of the file come after the sound end of the log: 0 unless
    /// a process was killed while others recorded.
    pub fn unused_bytes(&self) -> usize {
        self.unused_bytes
    }

    /// Everything that the program said, in order.
    pub fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.marks_before(self.records.len())
    }

    pub(crate) fn marks_before(&self, cut: usize) -> impl Iterator<Item = &Mark> + use<'_> {
        let count = self.mark_count(cut);
        self.marks[..count].iter().map(|(_, mark)| mark)
    }

    pub(crate) fn first_cut(&self) -> usize {
        self.first_cut
    }

    pub(crate) fn mark_count(&self, cut: usize) -> usize {
        self.marks.partition_point(|(record, _)| *record < cut)
    }

    pub(crate) fn mark(&self, number: usize) -> &Mark {
        &self.marks[number].1
    }

    /// The places where cutting the power is worth the while, as numbers of
    /// records before the cut: just before and just after each sync begins and
    /// ends, each mark, and each file that is opened, truncated, deleted or
    /// renamed. Writes need no cuts of their own: an image holds any part of
    /// those that pend.
    pub fn cuts(&self) -> Vec<usize> {
        let mut cuts = BTreeSet::from([self.first_cut, self.records.len()]);
        for (number, record) in self.records.iter().enumerate().skip(self.first_cut) {
            match record {
                Record::Start { .. }
                | Record::Base { .. }
                | Record::Write { .. }
                | Record::Stop { .. }
                | Record::Broken { .. } => {}
                Record::Open { .. }
                | Record::Truncate { .. }
                | Record::SyncBegin { .. }
                | Record::SyncEnd { .. }
                | Record::Delete { .. }
                | Record::Rename { .. }
                | Record::Mark(_) => cuts.extend([number, number + 1]),
            }
        }
        cuts.into_iter().collect()
    }

    /// The images of all [`cuts`](Self::cuts): at each the two extremes and
    /// some that the seed chooses
    /// ([`per_cut`](CrashImages::per_cut)), without those that are the same.
    pub fn crash_images(&self, seed: u64) -> CrashImages<'_> {
        CrashImages::new(self, seed)
    }

    /// Images of one cut: everything kept, nothing kept, and `seeded` more;
    /// the same may come twice.
    ///
    /// # Errors
    ///
    /// [`LogError::NoSuchCut`].
    pub fn images_at(
        &self,
        cut: usize,
        seed: u64,
        seeded: u32,
    ) -> Result<Vec<Image<'_>>, LogError> {
        let disk = self.disk_at(cut)?;
        Ok((0..seeded.saturating_add(2))
            .map(|number| {
                let choice = choice(seed, cut, number);
                self.image_of(&disk, choice)
            })
            .collect())
    }

    /// The one image that a line names.
    ///
    /// # Errors
    ///
    /// [`LogError::NoSuchCut`].
    pub fn image(&self, id: ImageId) -> Result<Image<'_>, LogError> {
        let disk = self.disk_at(id.cut)?;
        Ok(self.image_of(&disk, id.choice))
    }

    fn image_of(&self, disk: &Disk, choice: Choice) -> Image<'_> {
        let id = ImageId {
            cut: disk.at,
            choice,
        };
        Image::build(self, disk, id, &Plan::decide(disk, choice))
    }

    pub(crate) fn disk_at(&self, cut: usize) -> Result<Disk, LogError> {
        if cut < self.first_cut || self.records.len() < cut {
            return Err(LogError::NoSuchCut { cut });
        }
        let mut disk = Disk::default();
        self.advance(&mut disk, cut);
        Ok(disk)
    }

    /// Moves a state of this log forward.
    pub(crate) fn advance(&self, disk: &mut Disk, cut: usize) {
        disk.advance(&self.records, cut)
            .expect("every record was applied once when the log was made");
    }
}

/// The choice that is the `number`-th of a cut.
pub(crate) fn choice(seed: u64, cut: usize, number: u32) -> Choice {
    match number {
        0 => Choice::All,
        1 => Choice::Nothing,
        number => Choice::Seeded(mix(mix(seed, cut as u64), u64::from(number))),
    }
}

/// A [`Log`] in the making.
#[derive(Debug, Clone, Default)]
pub struct LogBuilder {
    records: Vec<Record>,
    syncs: u64,
}

impl LogBuilder {
    /// A file that was there, durably, before anything happened.
    #[must_use]
    pub fn base(mut self, path: &str, bytes: &[u8]) -> LogBuilder {
        self.push(Record::Base {
            path: path.into(),
            offset: 0,
            bytes: bytes.into(),
        });
        self
    }

    /// What comes next. Records of another log can be pushed as they are.
    pub fn push(&mut self, record: Record) -> &mut LogBuilder {
        self.records.push(record);
        self
    }

    /// A number for a sync that no recorder uses, for [`Record::SyncBegin`]
    /// and [`Record::SyncEnd`].
    pub fn new_sync(&mut self) -> u64 {
        self.syncs += 1;
        // Recorders put a process id into the upper half; this is none.
        u64::from(u32::MAX) << 32 | self.syncs
    }

    /// The log.
    ///
    /// # Errors
    ///
    /// [`LogError::Inconsistent`] when the records cannot have happened in
    /// this order: a file is changed that was never there, a sync ends that
    /// never began, or a path leaves the directory.
    pub fn build(self) -> Result<Log, LogError> {
        Log::from_records(self.records)
    }
}

/// The records of a file up to its sound end, and how many bytes follow.
fn decode(bytes: &[u8]) -> Result<(Vec<Record>, usize), LogError> {
    let mut records = Vec::new();
    let mut ends = vec![0];
    let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
    // Of each process that records: how many records there were at its last.
    let mut recording: BTreeMap<u32, usize> = BTreeMap::new();
    let mut sound = usize::MAX;
    let mut at = 0;
    while let Found::Frame(payload, len) = frame_at(&bytes[at..]) {
        let (process, record) = Record::decode(payload).ok_or(LogError::NotALog)?;
        at += len;
        ends.push(at);
        if matches!(record, Record::Start { .. })
            && let Some(last) = recording.remove(&process)
        {
            // Another process has got the id of one that was killed.
            sound = sound.min(last);
        }
        let stops = matches!(record, Record::Stop { .. });
        records.push(share_names(record, &mut names));
        if stops {
            recording.remove(&process);
        } else {
            recording.insert(process, records.len());
        }
    }
    if !matches!(records.first(), Some(Record::Start { .. })) {
        return Err(LogError::NotALog);
    }
    records.truncate(recording.into_values().fold(sound, usize::min));
    let unused = bytes.len() - ends[records.len()];
    Ok((records, unused))
}

/// The same path is the same memory in all records.
fn share_names(mut record: Record, names: &mut BTreeSet<Arc<str>>) -> Record {
    let mut share = |name: &mut Arc<str>| match names.get(name) {
        Some(known) => *name = Arc::clone(known),
        None => {
            names.insert(Arc::clone(name));
        }
    };
    match &mut record {
        Record::Base { path, .. }
        | Record::Open { path, .. }
        | Record::Write { path, .. }
        | Record::Truncate { path, .. }
        | Record::SyncBegin { path, .. }
        | Record::Delete { path } => share(path),
        Record::Rename { from, to } => {
            share(from);
            share(to);
        }
        Record::Start { .. }
        | Record::SyncEnd { .. }
        | Record::Mark(_)
        | Record::Stop { .. }
        | Record::Broken { .. } => {}
    }
    record
}
