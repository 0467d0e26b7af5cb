//! The disk as the log has left it at a cut: what is durable, and what pends.
//!
//! A file's durable content is what was written before its last sync that has
//! ended began. A name is as durable as the last sync of its directory. The
//! state moves forward record by record and is never made again from the
//! beginning; a copy of it shares all bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::content::Content;
use crate::record::{Record, Synced};

/// A file, whatever its names are: the number of the record that made it.
pub(crate) type FileId = usize;
pub(crate) type Names = BTreeMap<Arc<str>, FileId>;

/// One file: what a power cut leaves for sure, and what it may leave.
#[derive(Debug, Clone)]
pub(crate) struct FileState {
    pub(crate) durable: Content,
    pub(crate) durable_print: u64,
    /// Everything applied: what the program sees.
    pub(crate) live: Content,
    pub(crate) live_print: u64,
    /// Records of writes and truncations after the durable content, in order.
    pub(crate) pending: VecDeque<usize>,
}

/// A change of names that no sync of a directory has covered yet.
#[derive(Debug, Clone)]
pub(crate) struct EntryChange {
    pub(crate) record: usize,
    pub(crate) what: Entry,
}

#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Added(Arc<str>, FileId),
    Removed(Arc<str>),
    Renamed(Arc<str>, Arc<str>, FileId),
}

#[derive(Debug, Clone)]
struct OpenSync {
    began: usize,
    file: Option<FileId>,
    directory: Option<Arc<str>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    /// How many records have been applied.
    pub(crate) at: usize,
    pub(crate) files: BTreeMap<FileId, FileState>,
    pub(crate) durable_names: Names,
    pub(crate) live_names: Names,
    pub(crate) entries: Vec<EntryChange>,
    syncs: BTreeMap<u64, OpenSync>,
    /// Names that were there once; what happens to them is nobody's.
    gone: BTreeSet<Arc<str>>,
}

impl Disk {
    /// Applies the records up to `cut`, which lies ahead.
    pub(crate) fn advance(&mut self, records: &[Record], cut: usize) -> Result<(), String> {
        while self.at < cut {
            self.apply(&records[self.at], records)?;
            self.at += 1;
        }
        Ok(())
    }

    /// Whether a cut here leaves any choice.
    pub(crate) fn is_settled(&self) -> bool {
        self.entries.is_empty() && self.files.values().all(|file| file.pending.is_empty())
    }

    fn apply(&mut self, record: &Record, records: &[Record]) -> Result<(), String> {
        match record {
            Record::Start { .. }
            | Record::Mark(_)
            | Record::Stop { .. }
            | Record::Broken { .. } => {}
            Record::Base {
                path,
                offset,
                bytes,
            } => self.base(path, *offset, bytes),
            Record::Open { path, found_bytes } => self.open(path, *found_bytes)?,
            Record::Write {
                path,
                offset,
                bytes,
            } => self.change(path, |content| content.write(*offset, bytes))?,
            Record::Truncate { path, len } => {
                self.change(path, |content| content.truncate(*len))?
            }
            Record::SyncBegin { sync, path, what } => self.sync_begin(*sync, path, *what),
            Record::SyncEnd { sync, durable } => self.sync_end(*sync, *durable, records)?,
            Record::Delete { path } => {
                if self.live_names.remove(path).is_some() {
                    self.gone.insert(Arc::clone(path));
                    self.entry(Entry::Removed(Arc::clone(path)));
                }
            }
            Record::Rename { from, to } => {
                let Some(file) = self.live_names.remove(from) else {
                    return Err(format!("{from} is renamed, but was never there"));
                };
                self.gone.insert(Arc::clone(from));
                self.live_names.insert(Arc::clone(to), file);
                self.entry(Entry::Renamed(Arc::clone(from), Arc::clone(to), file));
            }
        }
        Ok(())
    }

    fn base(&mut self, path: &Arc<str>, offset: u64, bytes: &[u8]) {
        let id = *self.live_names.entry(Arc::clone(path)).or_insert(self.at);
        self.durable_names.insert(Arc::clone(path), id);
        let print = mix(0, self.at as u64);
        let file = self
            .files
            .entry(id)
            .or_insert_with(|| FileState::new(print));
        file.durable.write(offset, bytes);
        file.live = file.durable.clone();
    }

    fn open(&mut self, path: &Arc<str>, found_bytes: u64) -> Result<(), String> {
        if self.live_names.contains_key(path) {
            return Ok(());
        }
        if found_bytes > 0 {
            return Err(format!(
                "{path} was opened with {found_bytes} bytes that nobody recorded"
            ));
        }
        self.live_names.insert(Arc::clone(path), self.at);
        let print = mix(0, self.at as u64);
        self.files.insert(self.at, FileState::new(print));
        self.entry(Entry::Added(Arc::clone(path), self.at));
        Ok(())
    }

    fn change(&mut self, path: &str, change: impl FnOnce(&mut Content)) -> Result<(), String> {
        let Some(id) = self.live_names.get(path) else {
            // Through a handle to a file without a name: no image shows it.
            return if self.gone.contains(path) {
                Ok(())
            } else {
                Err(format!("{path} is changed, but was never opened"))
            };
        };
        let file = self.files.get_mut(id).ok_or("a name without a file")?;
        change(&mut file.live);
        file.live_print = mix(file.live_print, self.at as u64);
        file.pending.push_back(self.at);
        Ok(())
    }

    fn entry(&mut self, what: Entry) {
        self.entries.push(EntryChange {
            record: self.at,
            what,
        });
    }

    fn sync_begin(&mut self, sync: u64, path: &Arc<str>, what: Synced) {
        let of_file = || self.live_names.get(path).copied();
        let open = OpenSync {
            began: self.at,
            file: match what {
                Synced::File | Synced::FileAndEntries => of_file(),
                Synced::Directory => None,
            },
            directory: match what {
                Synced::File => None,
                Synced::FileAndEntries => Some(parent(path).into()),
                Synced::Directory => Some(Arc::clone(path)),
            },
        };
        // A number comes again when a process died in a sync and another one
        // got its id: that sync never ends.
        self.syncs.insert(sync, open);
    }

    fn sync_end(&mut self, sync: u64, durable: bool, records: &[Record]) -> Result<(), String> {
        let Some(open) = self.syncs.remove(&sync) else {
            return Err(format!("sync {sync} ends, but never began"));
        };
        if !durable {
            return Ok(());
        }
        if let Some(file) = open.file.and_then(|id| self.files.get_mut(&id)) {
            while let Some(&record) = file.pending.front()
                && record < open.began
            {
                apply_change(&mut file.durable, &records[record]);
                file.durable_print = mix(file.durable_print, record as u64);
                file.pending.pop_front();
            }
        }
        if let Some(directory) = open.directory {
            self.sync_entries(&directory, open.began);
            self.forget_unnamed();
        }
        Ok(())
    }

    /// Makes the changes of names of a directory durable, and of those of
    /// other directories what a file that was renamed into it had before.
    fn sync_entries(&mut self, directory: &str, began: usize) {
        let mut needed: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut covered = vec![false; self.entries.len()];
        for (change, covered) in self.entries.iter().zip(&mut covered).rev() {
            let names = change.what.names();
            *covered = change.record < began && change.what.directory() == directory
                || names.iter().flatten().any(|name| needed.contains(*name));
            if *covered && let Entry::Renamed(from, ..) = &change.what {
                needed.insert(Arc::clone(from));
            }
        }
        let mut covered = covered.into_iter();
        let names = &mut self.durable_names;
        self.entries.retain(|change| {
            let covered = covered.next().unwrap_or(false);
            if covered {
                change.what.apply(names);
            }
            !covered
        });
    }

    /// Lets files go that no image can show any more.
    fn forget_unnamed(&mut self) {
        let pending = self.entries.iter().filter_map(|change| match change.what {
            Entry::Added(_, id) | Entry::Renamed(_, _, id) => Some(id),
            Entry::Removed(_) => None,
        });
        let named: BTreeSet<FileId> = self
            .durable_names
            .values()
            .chain(self.live_names.values())
            .copied()
            .chain(pending)
            .collect();
        self.files.retain(|id, _| named.contains(id));
    }
}

impl FileState {
    fn new(print: u64) -> FileState {
        FileState {
            durable: Content::default(),
            durable_print: print,
            live: Content::default(),
            live_print: print,
            pending: VecDeque::new(),
        }
    }
}

impl Entry {
    /// The directory whose sync makes this durable. A rename is one step, and
    /// belongs to the directory of the new name.
    pub(crate) fn directory(&self) -> &str {
        match self {
            Entry::Added(path, _) | Entry::Removed(path) | Entry::Renamed(_, path, _) => {
                parent(path)
            }
        }
    }

    /// The names that this touches.
    pub(crate) fn names(&self) -> [Option<&Arc<str>>; 2] {
        match self {
            Entry::Added(path, _) | Entry::Removed(path) => [Some(path), None],
            Entry::Renamed(from, to, _) => [Some(from), Some(to)],
        }
    }

    pub(crate) fn apply(&self, names: &mut Names) {
        match self {
            Entry::Added(path, id) => {
                names.insert(Arc::clone(path), *id);
            }
            Entry::Removed(path) => {
                names.remove(path);
            }
            Entry::Renamed(from, to, id) => {
                if names.get(from) == Some(id) {
                    names.remove(from);
                }
                names.insert(Arc::clone(to), *id);
            }
        }
    }
}

/// Applies a write or a truncation as a whole.
pub(crate) fn apply_change(content: &mut Content, record: &Record) {
    match record {
        Record::Write { offset, bytes, .. } => content.write(*offset, bytes),
        Record::Truncate { len, .. } => content.truncate(*len),
        _ => {}
    }
}

pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// One step of a running hash (the finaliser of splitmix64).
pub(crate) fn mix(state: u64, value: u64) -> u64 {
    let mut mixed = state
        .rotate_left(5)
        .wrapping_add(value)
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
