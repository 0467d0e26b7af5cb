//! The model against a naive one: for any log, cut and choice, what an image
//! holds is what a replay of the whole log by hand gives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use crate::choice::{Choice, ImageId, Kept, Left, Plan, Tear};
use crate::log::Log;
use crate::record::{Mark, Record, Synced};

type Bytes = BTreeMap<String, Vec<u8>>;

const NAMES: [&str; 4] = ["a", "b", "d/a", "d/b"];

/// A step; those that make no sense where they stand are left out.
#[derive(Debug, Clone)]
enum Step {
    Open(usize),
    Write(usize, u64, usize, u8),
    Truncate(usize, u64),
    Begin(usize, u8),
    End(usize, bool),
    Delete(usize),
    Rename(usize, usize),
    Mark(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        3 => name.clone().prop_map(Step::Open),
        6 => (name.clone(), 0..3000_u64, 0..1500_usize, any::<u8>())
            .prop_map(|(name, offset, len, fill)| Step::Write(name, offset, len, fill)),
        1 => (name.clone(), 0..3000_u64).prop_map(|(name, len)| Step::Truncate(name, len)),
        3 => (name.clone(), 0..4_u8).prop_map(|(name, what)| Step::Begin(name, what)),
        3 => (0..3_usize, prop::bool::weighted(0.9)).prop_map(|(at, durable)| Step::End(at, durable)),
        1 => name.clone().prop_map(Step::Delete),
        1 => (name.clone(), name).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => any::<bool>().prop_map(Step::Mark),
    ]
}

fn log_of(steps: &[Step], with_base: bool) -> Log {
    let mut builder = Log::builder();
    let mut there = BTreeSet::new();
    if with_base {
        builder = builder.base("a", &[7; 700]).base("d/b", b"");
        there.extend(["a", "d/b"]);
    }
    let mut open: Vec<u64> = Vec::new();
    for step in steps {
        let record = match *step {
            Step::Open(name) => {
                there.insert(NAMES[name]);
                Record::Open {
                    path: NAMES[name].into(),
                    found_bytes: 0,
                }
            }
            Step::Write(name, offset, len, fill) if there.contains(NAMES[name]) => Record::Write {
                path: NAMES[name].into(),
                offset,
                bytes: vec![fill; len].into(),
            },
            Step::Truncate(name, len) if there.contains(NAMES[name]) => Record::Truncate {
                path: NAMES[name].into(),
                len,
            },
            Step::Begin(name, what) => {
                let sync = builder.new_sync();
                open.push(sync);
                let directory = if NAMES[name].starts_with("d/") {
                    "d"
                } else {
                    ""
                };
                let (path, what) = match what {
                    0 | 1 => (NAMES[name], Synced::File),
                    2 => (NAMES[name], Synced::FileAndEntries),
                    _ => (directory, Synced::Directory),
                };
                Record::SyncBegin {
                    sync,
                    path: path.into(),
                    what,
                }
            }
            Step::End(at, durable) if at < open.len() => Record::SyncEnd {
                sync: open.remove(at),
                durable,
            },
            Step::Delete(name) if there.remove(NAMES[name]) => Record::Delete {
                path: NAMES[name].into(),
            },
            Step::Rename(from, to) if from != to && there.remove(NAMES[from]) => {
                there.insert(NAMES[to]);
                Record::Rename {
                    from: NAMES[from].into(),
                    to: NAMES[to].into(),
                }
            }
            Step::Mark(true) => Record::Mark(Mark::acknowledged("x")),
            Step::Mark(false) => Record::Mark(Mark::begun("x")),
            _ => continue,
        };
        builder.push(record);
    }
    builder.build().unwrap()
}

/// Everything that happened to one file, and how far it is durable.
#[derive(Debug, Default)]
struct NaiveFile {
    base: Vec<u8>,
    changes: Vec<usize>,
    durable_before: usize,
}

#[derive(Debug, Clone)]
enum Change {
    Add(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

#[derive(Debug, Default)]
struct Naive {
    files: BTreeMap<usize, NaiveFile>,
    base_names: BTreeMap<String, usize>,
    live_names: BTreeMap<String, usize>,
    changes: Vec<(usize, Change, bool)>,
}

fn directory(name: &str) -> &str {
    name.rfind('/').map_or("", |at| &name[..at])
}

impl Naive {
    fn replay(records: &[Record]) -> Naive {
        let mut naive = Naive::default();
        let mut syncs: BTreeMap<u64, (usize, Option<usize>, Option<String>)> = BTreeMap::new();
        for (number, record) in records.iter().enumerate() {
            match record {
                Record::Base { path, bytes, .. } => {
                    naive.base_names.insert(path.to_string(), number);
                    naive.live_names.insert(path.to_string(), number);
                    naive.files.entry(number).or_default().base = bytes.to_vec();
                }
                Record::Open { path, .. } => {
                    if !naive.live_names.contains_key(&**path) {
                        naive.live_names.insert(path.to_string(), number);
                        naive.files.insert(number, NaiveFile::default());
                        naive.change(number, Change::Add(path.to_string(), number));
                    }
                }
                Record::Write { path, .. } | Record::Truncate { path, .. } => {
                    let id = naive.live_names[&**path];
                    naive.files.get_mut(&id).unwrap().changes.push(number);
                }
                Record::SyncBegin { sync, path, what } => {
                    let file = naive.live_names.get(&**path).copied();
                    let entry = match what {
                        Synced::File => (number, file, None),
                        Synced::FileAndEntries => (number, file, Some(directory(path).to_owned())),
                        Synced::Directory => (number, None, Some(path.to_string())),
                    };
                    syncs.insert(*sync, entry);
                }
                Record::SyncEnd { sync, durable } => {
                    let (began, file, entries) = syncs.remove(sync).unwrap();
                    if let (true, Some(file)) = (durable, file) {
                        let file = naive.files.get_mut(&file).unwrap();
                        file.durable_before = file.durable_before.max(began);
                    }
                    if let (true, Some(entries)) = (durable, entries) {
                        naive.sync_entries(&entries, began);
                    }
                }
                Record::Delete { path } => {
                    naive.live_names.remove(&**path);
                    naive.change(number, Change::Remove(path.to_string()));
                }
                Record::Rename { from, to } => {
                    let id = naive.live_names.remove(&**from).unwrap();
                    naive.live_names.insert(to.to_string(), id);
                    naive.change(number, Change::Rename(from.to_string(), to.to_string(), id));
                }
                Record::Mark(_)
                | Record::Start { .. }
                | Record::Stop { .. }
                | Record::Broken { .. } => {}
            }
        }
        naive
    }

    fn change(&mut self, number: usize, change: Change) {
        self.changes.push((number, change, false));
    }

    fn sync_entries(&mut self, of: &str, began: usize) {
        for (number, change, durable) in &mut self.changes {
            let (Change::Add(name, _) | Change::Remove(name) | Change::Rename(_, name, _)) = change;
            *durable |= *number < began && directory(name) == of;
        }
        // A rename takes with it what its old name rests on, until nothing
        // more follows.
        loop {
            let before = self.changes.iter().filter(|change| change.2).count();
            for at in 0..self.changes.len() {
                let (_, Change::Rename(from, ..), true) = self.changes[at].clone() else {
                    continue;
                };
                for (_, change, durable) in &mut self.changes[..at] {
                    *durable |= match change {
                        Change::Add(name, _) | Change::Remove(name) => *name == from,
                        Change::Rename(a, b, _) => *a == from || *b == from,
                    };
                }
            }
            if before == self.changes.iter().filter(|change| change.2).count() {
                return;
            }
        }
    }

    /// The files, where `entries` and `left` say what is kept of what pends.
    fn files(
        &self,
        records: &[Record],
        entries: &[bool],
        left: impl Fn(usize) -> Option<Left>,
    ) -> Bytes {
        let mut entries = entries.iter();
        let mut names = self.base_names.clone();
        for (_, change, durable) in &self.changes {
            if !*durable && !*entries.next().unwrap() {
                continue;
            }
            match change {
                Change::Add(name, id) => {
                    names.insert(name.clone(), *id);
                }
                Change::Remove(name) => {
                    names.remove(name);
                }
                Change::Rename(from, to, id) => {
                    if names.get(from) == Some(id) {
                        names.remove(from);
                    }
                    names.insert(to.clone(), *id);
                }
            }
        }
        assert_eq!(entries.next(), None);
        names
            .into_iter()
            .map(|(name, id)| (name, self.bytes(records, id, left(id))))
            .collect()
    }

    fn bytes(&self, records: &[Record], id: usize, left: Option<Left>) -> Vec<u8> {
        let file = &self.files[&id];
        let mut bytes = file.base.clone();
        let mut pending = 0;
        for record in &file.changes {
            let mut kept = Kept::Whole;
            if *record >= file.durable_before {
                kept = match left.as_ref().unwrap() {
                    Left::All => Kept::Whole,
                    Left::Nothing => Kept::Nothing,
                    Left::Some(kept) => kept[pending],
                };
                pending += 1;
            }
            apply(&mut bytes, &records[*record], kept);
        }
        bytes
    }
}

fn apply(file: &mut Vec<u8>, record: &Record, kept: Kept) {
    let (offset, bytes) = match (record, kept) {
        (_, Kept::Nothing) => return,
        (Record::Truncate { len, .. }, _) => return file.resize(*len as usize, 0),
        (Record::Write { offset, bytes, .. }, _) => (*offset as usize, bytes),
        _ => unreachable!(),
    };
    if bytes.is_empty() {
        return;
    }
    let first = offset / 512;
    let last = (offset + bytes.len() - 1) / 512;
    let kept: Vec<bool> = match kept {
        Kept::Torn(seed) => {
            let count = (last - first + 1) as u64;
            let mut tear = Tear::new(seed, count);
            (0..count).map(|sector| tear.keeps(sector)).collect()
        }
        _ => vec![true; last - first + 1],
    };
    for (at, byte) in bytes.iter().enumerate() {
        let at = offset + at;
        if kept[at / 512 - first] {
            if file.len() <= at {
                file.resize(at + 1, 0);
            }
            file[at] = *byte;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn an_image_is_what_a_replay_by_hand_gives(
        steps in proptest::collection::vec(step(), 1..40),
        with_base: bool,
        seed: u64,
    ) {
        let log = log_of(&steps, with_base);
        for cut in log.cuts() {
            let naive = Naive::replay(&log.records()[..cut]);
            let disk = log.disk_at(cut).unwrap();
            for image in log.images_at(cut, seed, 8).unwrap() {
                let plan = Plan::decide(&disk, image.id().choice);
                let left = |id| plan.files.get(&id).cloned();
                let expected = naive.files(log.records(), &plan.entries, left);
                let found: Bytes = image
                    .files()
                    .map(|file| (file.path.to_owned(), file.bytes()))
                    .collect();
                prop_assert!(found == expected, "{}\n{}", image.describe(), cut);
                if image.id().choice == Choice::All {
                    let names: Vec<&String> = naive.live_names.keys().collect();
                    prop_assert_eq!(found.keys().collect::<Vec<_>>(), names);
                }
            }
        }
    }

    #[test]
    fn the_images_of_a_walk_are_those_of_their_lines(
        steps in proptest::collection::vec(step(), 1..60),
        with_base: bool,
        seed: u64,
        parts in 1..5_usize,
    ) {
        let log = log_of(&steps, with_base);
        let mut prints = BTreeSet::new();
        for image in log.crash_images(seed) {
            let line = image.id().to_string();
            let again = log.image(line.parse::<ImageId>().unwrap()).unwrap();
            prop_assert_eq!(again.fingerprint(), image.fingerprint());
            let bytes = |image: &crate::Image<'_>| -> Bytes {
                image.files().map(|file| (file.path.to_owned(), file.bytes())).collect()
            };
            prop_assert!(bytes(&again) == bytes(&image));
            let acknowledged = image.acknowledged().count();
            prop_assert!(prints.insert((image.fingerprint(), acknowledged)));
        }
        let every = log.crash_images(seed).per_cut(0).at_every_record();
        let cuts: BTreeSet<usize> = every.map(|image| image.cut()).collect();
        let writes = log.records().iter().filter(|record| {
            matches!(record, Record::Write { bytes, .. } if !bytes.is_empty())
        });
        prop_assert!(cuts.len() >= writes.count());
        let split: BTreeSet<_> = log
            .crash_images(seed)
            .split(parts)
            .into_iter()
            .flatten()
            .map(|image| (image.fingerprint(), image.acknowledged().count()))
            .collect();
        prop_assert_eq!(split, prints);
    }

    #[test]
    fn a_line_is_read_as_it_was_written(cut: usize, seed: Option<u64>, all: bool) {
        let choice = match (seed, all) {
            (Some(seed), _) => Choice::Seeded(seed),
            (None, true) => Choice::All,
            (None, false) => Choice::Nothing,
        };
        let id = ImageId { cut, choice };
        prop_assert_eq!(id.to_string().parse::<ImageId>(), Ok(id));
    }

    #[test]
    fn any_bytes_are_a_record_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Some((_, record)) = Record::decode(&bytes) {
            let frame = record.frame();
            let again = Record::decode(&frame[crate::record::HEADER_BYTES..]);
            prop_assert_eq!(again, Some((std::process::id(), record)));
        }
    }
}

#[test]
fn every_kind_of_record_is_read_as_it_was_written() {
    let path: Arc<str> = "d/a".into();
    let bytes: Arc<[u8]> = [1_u8, 2, 3].into();
    let records = [
        Record::Start { process: 7 },
        Record::Base {
            path: Arc::clone(&path),
            offset: 9,
            bytes: Arc::clone(&bytes),
        },
        Record::Open {
            path: Arc::clone(&path),
            found_bytes: 4,
        },
        Record::Write {
            path: Arc::clone(&path),
            offset: 1 << 31,
            bytes,
        },
        Record::Truncate {
            path: Arc::clone(&path),
            len: 5,
        },
        Record::SyncBegin {
            sync: 1,
            path: Arc::clone(&path),
            what: Synced::File,
        },
        Record::SyncBegin {
            sync: 2,
            path: Arc::clone(&path),
            what: Synced::FileAndEntries,
        },
        Record::SyncBegin {
            sync: 3,
            path: "".into(),
            what: Synced::Directory,
        },
        Record::SyncEnd {
            sync: 3,
            durable: true,
        },
        Record::SyncEnd {
            sync: 2,
            durable: false,
        },
        Record::Delete {
            path: Arc::clone(&path),
        },
        Record::Rename {
            from: path,
            to: "b".into(),
        },
        Record::Mark(Mark::begun("ä")),
        Record::Mark(Mark::acknowledged("")),
        Record::Mark(Mark::note("x")),
        Record::Stop { process: 7 },
        Record::Broken { why: "w".into() },
    ];
    for record in records {
        let frame = record.frame();
        let payload = &frame[crate::record::HEADER_BYTES..];
        let written = Some((std::process::id(), record));
        assert_eq!(Record::decode(payload), written);
    }
}
