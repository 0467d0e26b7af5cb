//! The doctor: what could keep the store from its promises, condition by
//! condition.
//!
//! At open the grave ones refuse, with an error of their own type, and the others
//! warn. On demand all are looked at again, and the file is looked through. The
//! doctor changes nothing.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use agentos_core::{StorageError, Timestamp};
use serde::{Serialize, Serializer};

use super::admission::{check_file_system, directory_of, identify, identity_of, look_through};
use super::ballast::{Ballast, State};
use super::connection::check_version;
use super::error::of_io;
use super::file_system::{check_writable, free_bytes, unsafe_kind};
use super::paths::with_suffix;
use super::readers::ReadError;
use super::{SqliteStore, statements};

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Condition {
    /// SQLite has no known bug that damages what it stores.
    Engine,
    /// Every pragma of the writing connection has the value that was set.
    Settings,
    /// The file is ours, of a known version, and the one that was opened.
    Identity,
    /// The directory can be written.
    Directory,
    /// The file system shares memory and locks between processes.
    FileSystem,
    /// SQLite finds the file sound. At open, only after a crash.
    Soundness,
    /// The clock does not stand before the newest row.
    Clock,
    /// The write-ahead log is well within its bound.
    Log,
    /// There is more free space than the ballast has.
    Space,
    /// The ballast is in place.
    Ballast,
    /// The whole file was checked not too long ago.
    IntegrityAge,
}

impl Condition {
    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::Engine => "engine",
            Condition::Settings => "settings",
            Condition::Identity => "identity",
            Condition::Directory => "directory",
            Condition::FileSystem => "file_system",
            Condition::Soundness => "soundness",
            Condition::Clock => "clock",
            Condition::Log => "log",
            Condition::Space => "space",
            Condition::Ballast => "ballast",
            Condition::IntegrityAge => "integrity_age",
        }
    }
}

/// How it was found.
#[derive(Debug)]
pub enum Finding {
    /// As it should be.
    Fine,
    /// The promises hold, and somebody should look at it.
    Warning,
    /// The promises do not hold. At open the store is refused with this error.
    Refused(StorageError),
}

impl Finding {
    /// Its name in reports.
    pub fn as_str(&self) -> &'static str {
        match self {
            Finding::Fine => "fine",
            Finding::Warning => "warning",
            Finding::Refused(_) => "refused",
        }
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One condition, looked at.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub condition: Condition,
    /// How it was found.
    pub finding: Finding,
    /// The figures, for people.
    pub detail: String,
}

/// What the doctor found, every condition once.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The database.
    pub path: PathBuf,
    /// One entry a condition.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether everything is as it should be.
    pub fn is_healthy(&self) -> bool {
        self.checks
            .iter()
            .all(|check| matches!(check.finding, Finding::Fine))
    }

    /// What somebody should look at.
    pub fn warnings(&self) -> impl Iterator<Item = &Check> {
        self.checks
            .iter()
            .filter(|check| matches!(check.finding, Finding::Warning))
    }

    /// What keeps the store from its promises.
    pub fn refusals(&self) -> impl Iterator<Item = &Check> {
        self.checks
            .iter()
            .filter(|check| matches!(check.finding, Finding::Refused(_)))
    }

    /// One condition.
    pub fn check(&self, condition: Condition) -> Option<&Check> {
        self.checks
            .iter()
            .find(|check| check.condition == condition)
    }
}

impl fmt::Display for Report {
    /// One line a condition: `warning  ballast        it is missing`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let (finding, condition) = (check.finding.as_str(), check.condition.as_str());
            writeln!(f, "{finding:<8} {condition:<14} {}", check.detail)?;
        }
        Ok(())
    }
}

impl SqliteStore {
    /// Looks at every condition anew, and looks through the whole file, which
    /// takes about 1.2 s a GiB; others go on reading and writing meanwhile.
    ///
    /// # Errors
    ///
    /// [`StorageError::Closed`], [`StorageError::Busy`]: nothing could be looked
    /// at. What is wrong with the store is in the report.
    pub fn doctor(&self) -> Result<Report, StorageError> {
        let sound = self.readers.read("looking through the file", |connection| {
            look_through(connection).map_err(ReadError::from)
        });
        if let Err(error @ (StorageError::Closed | StorageError::Busy { .. })) = sound {
            return Err(error);
        }
        let settings = self.queue.with_writer(|writer| writer.check_settings());
        let directory = directory_of(&self.path);
        let mut checks = vec![
            refusal(
                Condition::Engine,
                check_version(rusqlite::version_number()),
                || format!("SQLite {}", rusqlite::version()),
            ),
            match settings {
                None => warning(
                    Condition::Settings,
                    "the next commit opens the connections anew",
                ),
                Some(settings) => refusal(Condition::Settings, settings, || {
                    "every pragma is as it was set".into()
                }),
            },
            refusal(Condition::Identity, self.check_identity(), || {
                "it is the file that was opened".into()
            }),
            refusal(
                Condition::Directory,
                check_writable(directory).map_err(|error| of_io(error, directory)),
                || "it can be written".into(),
            ),
            self.file_system(),
            refusal(Condition::Soundness, sound, || {
                "nothing is wrong with it".into()
            }),
        ];
        checks.extend(self.warnings());
        Ok(Report {
            path: self.path.clone(),
            checks,
        })
    }

    /// Says what should be looked at, to whoever listens.
    pub(crate) fn warn(&self) {
        for check in std::iter::once(self.file_system()).chain(self.warnings()) {
            if !matches!(check.finding, Finding::Fine) {
                let condition = check.condition.as_str();
                let path = self.path.display();
                tracing::warn!(%path, condition, detail = check.detail, "the doctor warns");
            }
        }
    }

    pub(crate) fn check_identity(&self) -> Result<(), StorageError> {
        identify(&self.path)?;
        match identity_of(&self.path) {
            Ok(found) if found == self.identity => Ok(()),
            _ => Err(StorageError::NotOurs {
                reason: "another file has taken the place of the one that was opened".into(),
            }),
        }
    }

    fn file_system(&self) -> Check {
        let condition = Condition::FileSystem;
        let directory = directory_of(&self.path);
        match unsafe_kind(directory) {
            Ok(Some(kind)) if self.config.allow_unsafe_file_system => {
                warning(condition, format!("{kind}, as the configuration allows"))
            }
            _ => refusal(
                condition,
                check_file_system(directory, &self.config),
                || "it is local".into(),
            ),
        }
    }

    /// The conditions that refuse nothing.
    fn warnings(&self) -> Vec<Check> {
        let newest = self.moment(statements::CLOCK_NEWEST);
        let checked = self.moment(statements::INTEGRITY_LAST_SOUND);
        let unsound = self.moment(statements::INTEGRITY_UNSOUND);
        let log = with_suffix(&self.path, "-wal");
        let log = fs::metadata(log).map_or(0, |found| found.len());
        let free = free_bytes(directory_of(&self.path));
        let ballast = Ballast::new(&self.path, self.config.ballast_bytes);
        let now = self.config.clock.wall();
        vec![
            unless_unreadable(Condition::Clock, newest, |newest| clock(now, newest)),
            log_size(log, self.config.log_bytes),
            match free {
                Ok(free) => space(free, ballast.bytes()),
                Err(error) => warning(Condition::Space, error.to_string()),
            },
            of_ballast(ballast.state(), ballast.bytes()),
            match unsound {
                Ok(Some(at)) => warning(
                    Condition::IntegrityAge,
                    format!("the last integrity check found damage, at {at}"),
                ),
                _ => unless_unreadable(Condition::IntegrityAge, checked, |checked| {
                    integrity_age(now, checked, self.config.integrity_age)
                }),
            },
        ]
    }

    /// A moment that a statement finds; `None` when there is none.
    fn moment(&self, statement: &str) -> Result<Option<Timestamp>, StorageError> {
        self.readers.read("asking for a moment", |connection| {
            let text: Option<String> = connection
                .prepare_cached(statement)?
                .query_row([], |row| row.get(0))?;
            match text {
                Some(text) if !text.is_empty() => match Timestamp::parse(&text) {
                    Some(moment) => Ok(Some(moment)),
                    None => Err(StorageError::corrupt("a timestamp", text).into()),
                },
                _ => Ok(None),
            }
        })
    }
}

fn fine(condition: Condition, detail: impl Into<String>) -> Check {
    Check {
        condition,
        finding: Finding::Fine,
        detail: detail.into(),
    }
}

fn warning(condition: Condition, detail: impl Into<String>) -> Check {
    Check {
        condition,
        finding: Finding::Warning,
        detail: detail.into(),
    }
}

fn refusal(
    condition: Condition,
    result: Result<(), StorageError>,
    good: impl FnOnce() -> String,
) -> Check {
    match result {
        Ok(()) => fine(condition, good()),
        Err(error) => Check {
            condition,
            detail: in_words(&error),
            finding: Finding::Refused(error),
        },
    }
}

/// An error and its causes in one line.
fn in_words(error: &StorageError) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        source = cause.source();
    }
    words
}

fn unless_unreadable(
    condition: Condition,
    moment: Result<Option<Timestamp>, StorageError>,
    judge: impl FnOnce(Option<Timestamp>) -> Check,
) -> Check {
    match moment {
        Ok(moment) => judge(moment),
        Err(error) => warning(condition, in_words(&error)),
    }
}

/// From `earlier` to `later`; zero when they stand the other way round.
fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    let micros = later.unix_micros() - earlier.unix_micros();
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn clock(now: Timestamp, newest: Option<Timestamp>) -> Check {
    match newest {
        Some(newest) if now < newest => {
            let behind = between(now, newest).as_secs_f64();
            let detail = format!("it stands {behind:.1} s before the newest row, of {newest}");
            warning(Condition::Clock, detail)
        }
        _ => fine(Condition::Clock, "it does not stand before the newest row"),
    }
}

fn log_size(bytes: u64, bound: u64) -> Check {
    let detail = format!("{bytes} bytes of at most {bound}");
    if bytes >= bound / 2 {
        warning(Condition::Log, detail)
    } else {
        fine(Condition::Log, detail)
    }
}

fn space(free: u64, ballast: u64) -> Check {
    let detail = format!("{free} bytes are free, the ballast has {ballast}");
    if free < ballast {
        warning(Condition::Space, detail)
    } else {
        fine(Condition::Space, detail)
    }
}

fn of_ballast(state: State, bytes: u64) -> Check {
    let condition = Condition::Ballast;
    match state {
        State::Unwanted => fine(condition, "none is wanted"),
        State::InPlace => fine(condition, format!("{bytes} bytes are in place")),
        State::Missing => warning(condition, format!("{bytes} bytes are missing")),
        State::GivenUp => warning(
            condition,
            format!("{bytes} bytes are given up: plain commits are refused"),
        ),
    }
}

fn integrity_age(now: Timestamp, checked: Option<Timestamp>, most: Duration) -> Check {
    let condition = Condition::IntegrityAge;
    let Some(checked) = checked else {
        return warning(condition, "it is not known when the file was checked");
    };
    let detail = format!("last found sound at {checked}");
    if between(checked, now) > most {
        warning(condition, detail)
    } else {
        fine(condition, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(seconds * 1_000_000)
    }

    fn warns(check: &Check) -> bool {
        matches!(check.finding, Finding::Warning)
    }

    #[test]
    fn a_clock_before_the_newest_row_warns_and_says_by_how_much() {
        assert!(!warns(&clock(at(10), None)));
        assert!(!warns(&clock(at(10), Some(at(10)))));
        let check = clock(at(10), Some(at(12)));
        assert!(warns(&check) && check.detail.contains("2.0 s"), "{check:?}");
    }

    #[test]
    fn every_bound_warns_on_its_far_side_only() {
        assert!(!warns(&log_size(49, 100)) && warns(&log_size(50, 100)));
        assert!(!warns(&space(100, 100)) && warns(&space(99, 100)));
        let age = Duration::from_secs(5);
        assert!(!warns(&integrity_age(at(10), Some(at(5)), age)));
        assert!(warns(&integrity_age(at(11), Some(at(5)), age)));
        assert!(warns(&integrity_age(at(11), None, age)));
        for (state, expected) in [
            (State::Unwanted, false),
            (State::InPlace, false),
            (State::Missing, true),
            (State::GivenUp, true),
        ] {
            assert_eq!(warns(&of_ballast(state, 1)), expected, "{state:?}");
        }
    }
}
