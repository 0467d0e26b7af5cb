//! Puts two reports of one run together: the log of what SQLite did to its files, and the
//! trace of every call by which the program changed files itself.
//!
//! The recorder appends each record to its log by exactly one `write`, which the trace
//! shows as well: the k-th write to the log *is* the k-th record. So both lie on one line,
//! and the artifacts' operations get the places among the database's at which they were
//! made. What a call writes to an artifact is known from the plan; that it was written, and
//! how far, and what was synced, renamed or removed, only the trace says. A sync counts
//! from its return on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentos_chaos::Failure;
use agentos_crash_vfs::{Record, Synced};
use agentos_tracer::{Call, Class, Target, Trace};

/// How a database's name ends while it is made.
const NEW: &str = ".agentos-new";

/// What the run's directory holds beside artifacts.
pub(super) struct Places<'all> {
    /// The recorded directory.
    pub(super) dir: &'all Path,
    /// The log.
    pub(super) log: &'all Path,
    /// Where the files begin that SQLite works on, relative to the directory: what it
    /// does to them is recorded.
    pub(super) database: &'all str,
    /// What artifacts hold, by their first names relative to the directory.
    pub(super) artifacts: &'all BTreeMap<PathBuf, Vec<u8>>,
}

/// What a call does to a file or directory of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Did {
    /// A record of the recorder stands here.
    Recorded,
    Made(Record),
    SyncBegun(Record),
    SyncEnded(Record),
}

/// All records, in the order in which things happened.
pub(super) fn merge(
    records: Vec<Record>,
    trace: &Trace,
    places: &Places<'_>,
) -> Result<Vec<Record>, Failure> {
    if trace.dropped() > 0 {
        return Err(Failure::new(format!(
            "{} calls were not kept",
            trace.dropped()
        )));
    }
    let own = records.len();
    let newest = records.iter().filter_map(|record| match record {
        Record::SyncBegin { sync, .. } => Some(*sync),
        _ => None,
    });
    let parents = places
        .artifacts
        .keys()
        .flat_map(|path| path.ancestors().skip(1));
    let mut reader = Reader {
        directories: parents.chain([Path::new("")]).collect(),
        places,
        lengths: HashMap::new(),
        next_sync: newest.max().map_or(0, |newest| newest + 1),
    };
    // What happens before the call of this place begins: syncs that have returned.
    let mut returns: BTreeMap<usize, Vec<Record>> = BTreeMap::new();
    let mut records = records.into_iter();
    let mut merged = Vec::with_capacity(own + trace.calls.len());
    let (mut written, mut last_return) = (0, 0);
    for (place, (call, returned)) in trace.calls.iter().zip(&trace.returned).enumerate() {
        merged.extend(returns.remove(&place).unwrap_or_default());
        if call.result.is_none_or(|result| result < 0) {
            continue;
        }
        for did in reader.read(call)? {
            match did {
                Did::Recorded => {
                    // Of two at the same time nobody could say which is which.
                    if place < last_return {
                        return Err(Failure::new(format!(
                            "two writes to the log at once: {call}"
                        )));
                    }
                    last_return = returned.unwrap_or(usize::MAX);
                    written += 1;
                    merged.extend(records.next());
                }
                Did::Made(record) | Did::SyncBegun(record) => merged.push(record),
                Did::SyncEnded(record) => {
                    if let Some(at) = returned {
                        returns.entry(*at).or_default().push(record);
                    }
                }
            }
        }
    }
    merged.extend(returns.into_values().flatten());
    if written != own {
        return Err(Failure::new(format!(
            "the log has {own} records, and was written to {written} times"
        )));
    }
    Ok(merged)
}

struct Reader<'all> {
    places: &'all Places<'all>,
    /// Those that hold the database or an artifact.
    directories: BTreeSet<&'all Path>,
    /// How long each artifact is by now.
    lengths: HashMap<Arc<str>, u64>,
    next_sync: u64,
}

impl Reader<'_> {
    /// The path within the directory; `None` for what lies elsewhere.
    fn within(&self, path: &str) -> Option<Arc<str>> {
        let path = Path::new(path).strip_prefix(self.places.dir).ok()?;
        Some(path.to_str()?.into())
    }

    /// Whether the recorder has what SQLite does to this file.
    fn is_recorded(&self, path: &str) -> bool {
        path.starts_with(self.places.database)
    }

    fn read(&mut self, call: &Call) -> Result<Vec<Did>, Failure> {
        let path = match &call.target {
            Target::Path(path) => path,
            Target::Paths { from, to } => return Ok(self.read_rename(call, from, to)),
            _ => return Ok(Vec::new()),
        };
        if Path::new(path) == self.places.log {
            let is_write = call.class() == Class::Write;
            return Ok(if is_write {
                vec![Did::Recorded]
            } else {
                Vec::new()
            });
        }
        let Some(path) = self.within(path) else {
            return Ok(Vec::new());
        };
        if self.directories.contains(Path::new(&*path)) {
            return Ok(match call.class() {
                Class::Sync => self.sync(path, Synced::Directory),
                _ => Vec::new(),
            });
        }
        if self.is_recorded(&path) {
            return Ok(self.read_beside_sqlite(call, path));
        }
        match call.class() {
            Class::Write => self.write(call, path),
            Class::Sync => Ok(self.sync(path, Synced::File)),
            Class::Create if call.name().starts_with("open") || call.name() == "creat" => {
                Ok(self.create(path))
            }
            Class::Remove => {
                self.lengths.remove(&path);
                Ok(vec![Did::Made(Record::Delete { path })])
            }
            Class::Metadata => Ok(Vec::new()),
            _ => Err(Failure::new(format!("what nobody can follow: {call}"))),
        }
    }

    /// The store makes the empty file for a new database by itself, and removes one that
    /// was left over. All else is SQLite's.
    fn read_beside_sqlite(&self, call: &Call, path: Arc<str>) -> Vec<Did> {
        if !path.ends_with(NEW) {
            return Vec::new();
        }
        match call.class() {
            Class::Create if call.name().starts_with("open") => {
                let found_bytes = 0;
                vec![Did::Made(Record::Open { path, found_bytes })]
            }
            Class::Remove => vec![Did::Made(Record::Delete { path })],
            _ => Vec::new(),
        }
    }

    /// Every file is created or emptied when it is opened for writing.
    fn create(&mut self, path: Arc<str>) -> Vec<Did> {
        let found = self.lengths.insert(Arc::clone(&path), 0);
        let found_bytes = found.unwrap_or(0);
        let mut did = vec![Did::Made(Record::Open {
            path: Arc::clone(&path),
            found_bytes,
        })];
        if found_bytes > 0 {
            did.push(Did::Made(Record::Truncate { path, len: 0 }));
        }
        did
    }

    fn write(&mut self, call: &Call, path: Arc<str>) -> Result<Vec<Did>, Failure> {
        let content = self.places.artifacts.get(Path::new(&*path));
        let (Some(content), Some(length)) = (content, self.lengths.get_mut(&path)) else {
            return Err(Failure::new(format!(
                "a file that the plan does not know: {call}"
            )));
        };
        let offset = *length;
        *length += call.result.unwrap_or(0).unsigned_abs();
        let (from, to) = (usize::try_from(offset)?, usize::try_from(*length)?);
        let bytes = content
            .get(from..to)
            .ok_or_else(|| Failure::new(format!("more than the plan says: {call}")))?;
        Ok(vec![Did::Made(Record::Write {
            path,
            offset,
            bytes: bytes.into(),
        })])
    }

    fn sync(&mut self, path: Arc<str>, what: Synced) -> Vec<Did> {
        let sync = self.next_sync;
        self.next_sync += 1;
        let durable = true;
        vec![
            Did::SyncBegun(Record::SyncBegin { sync, path, what }),
            Did::SyncEnded(Record::SyncEnd { sync, durable }),
        ]
    }

    fn read_rename(&mut self, call: &Call, from: &str, to: &str) -> Vec<Did> {
        let (Some(from), Some(to)) = (self.within(from), self.within(to)) else {
            return Vec::new();
        };
        if call.class() != Class::Rename {
            return Vec::new();
        }
        if let Some(length) = self.lengths.remove(&from) {
            self.lengths.insert(Arc::clone(&to), length);
        }
        vec![Did::Made(Record::Rename { from, to })]
    }
}

#[cfg(test)]
mod tests {
    use agentos_tracer::CallKind;

    use super::*;

    fn call(name: &str, target: Target, result: i64) -> Call {
        Call {
            position: "1/1#1".parse().unwrap(),
            kind: CallKind::named(name).unwrap(),
            target,
            result: Some(result),
        }
    }

    fn path(path: &str) -> Target {
        Target::Path(path.into())
    }

    fn places(artifacts: &BTreeMap<PathBuf, Vec<u8>>) -> Places<'_> {
        Places {
            dir: Path::new("/mill"),
            log: Path::new("/elsewhere/log"),
            database: "mill.db",
            artifacts,
        }
    }

    fn mark(text: &str) -> Record {
        Record::Mark(agentos_crash_vfs::Mark::note(text))
    }

    /// Goal: each operation stands where it was made. Method: a trace by hand, in which a
    /// sync returns after the recorder has written once more.
    #[test]
    fn operations_stand_among_the_records_where_they_were_made() {
        let artifacts = BTreeMap::from([("work/a".into(), b"flour".to_vec())]);
        let log = || call("write", path("/elsewhere/log"), 10);
        let renamed = Target::Paths {
            from: "/mill/work/a".into(),
            to: "/mill/work/b".into(),
        };
        let calls = [
            (log(), 1),
            (call("openat", path("/mill/work/a"), 5), 2),
            (call("write", path("/mill/work/a"), 3), 3),
            (call("write", path("/mill/work/a"), 2), 4),
            (call("fsync", path("/mill/work/a"), 0), 6),
            (log(), 6),
            (call("rename", renamed, 0), 7),
            (call("pwrite64", path("/mill/mill.db-wal"), 24), 8),
            (call("unlink", path("/mill/work/none"), -2), 9),
            (log(), 10),
        ];
        let trace = Trace {
            returned: calls.iter().map(|(_, returned)| Some(*returned)).collect(),
            counts: BTreeMap::from([(CallKind::named("write").unwrap(), calls.len() as u64)]),
            calls: calls.into_iter().map(|(call, _)| call).collect(),
            ..Trace::default()
        };
        let records = ["one", "two", "three"].map(mark).to_vec();
        let merged = merge(records.clone(), &trace, &places(&artifacts)).unwrap();
        let write = |offset, bytes: &[u8]| Record::Write {
            path: "work/a".into(),
            offset,
            bytes: bytes.into(),
        };
        assert_eq!(
            merged,
            [
                mark("one"),
                Record::Open {
                    path: "work/a".into(),
                    found_bytes: 0
                },
                write(0, b"flo"),
                write(3, b"ur"),
                Record::SyncBegin {
                    sync: 0,
                    path: "work/a".into(),
                    what: Synced::File
                },
                mark("two"),
                Record::SyncEnd {
                    sync: 0,
                    durable: true
                },
                Record::Rename {
                    from: "work/a".into(),
                    to: "work/b".into()
                },
                mark("three"),
            ]
        );
        let more = [records, vec![mark("four")]].concat();
        assert!(merge(more, &trace, &places(&artifacts)).is_err());
    }

    #[test]
    fn what_the_plan_does_not_know_is_an_error() {
        let artifacts = BTreeMap::from([("work/a".into(), b"flour".to_vec())]);
        for calls in [
            vec![call("write", path("/mill/work/a"), 1)],
            vec![
                call("openat", path("/mill/work/a"), 5),
                call("write", path("/mill/work/a"), 6),
            ],
            vec![call("ftruncate", path("/mill/work/a"), 0)],
        ] {
            let trace = Trace {
                returned: (1..=calls.len()).map(Some).collect(),
                counts: BTreeMap::from([(CallKind::named("write").unwrap(), calls.len() as u64)]),
                calls,
                ..Trace::default()
            };
            assert!(merge(Vec::new(), &trace, &places(&artifacts)).is_err());
        }
    }
}
