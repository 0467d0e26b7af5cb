//! Time: the one module that reads a clock.
//!
//! Text columns hold UTC as `YYYY-MM-DD HH:MM:SS.ffffff`, with the space:
//! a `T` would sort after it, and comparisons with SQLite's
//! `CURRENT_TIMESTAMP` and `datetime('now', …)` would be wrong.
//! Everything else takes a [`Clock`], so that a test can move time.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use jiff::tz::TimeZone;
use rustix::time::{ClockId, clock_gettime};

/// A moment in UTC, in microseconds since 1970-01-01, years 0000 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

/// Length of a timestamp as text, in bytes.
const TEXT_BYTES: usize = 26;

impl Timestamp {
    /// 0000-01-01 00:00:00.000000
    pub const MIN: Timestamp = Timestamp(-62_167_219_200_000_000);
    /// 9999-12-30 22:00:00.000000, the last that `jiff` carries through every zone.
    pub const MAX: Timestamp = Timestamp(253_402_207_200_000_000);

    /// From microseconds since 1970-01-01 UTC, clamped to the years 0000 to 9999.
    pub const fn from_unix_micros(micros: i64) -> Timestamp {
        if micros < Timestamp::MIN.0 {
            Timestamp::MIN
        } else if micros > Timestamp::MAX.0 {
            Timestamp::MAX
        } else {
            Timestamp(micros)
        }
    }

    /// Microseconds since 1970-01-01 UTC.
    pub const fn unix_micros(self) -> i64 {
        self.0
    }

    /// Later by `duration`, at most [`Timestamp::MAX`].
    pub fn plus(self, duration: Duration) -> Timestamp {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_unix_micros(self.0.saturating_add(micros))
    }

    /// Earlier by `duration`, at least [`Timestamp::MIN`].
    #[must_use]
    pub fn minus(self, duration: Duration) -> Timestamp {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_unix_micros(self.0.saturating_sub(micros))
    }

    /// As `YYYY-MM-DD HH:MM:SS.ffffff`.
    pub fn to_text(self) -> String {
        let moment = jiff::Timestamp::from_microsecond(self.0)
            .expect("a timestamp is within the years that jiff knows");
        let t = TimeZone::UTC.to_datetime(moment);
        let mut text = String::with_capacity(TEXT_BYTES);
        digits(&mut text, t.year().unsigned_abs().into(), 4);
        for (separator, value) in [
            ('-', t.month()),
            ('-', t.day()),
            (' ', t.hour()),
            (':', t.minute()),
            (':', t.second()),
        ] {
            text.push(separator);
            digits(&mut text, value.unsigned_abs().into(), 2);
        }
        text.push('.');
        digits(&mut text, t.subsec_nanosecond().unsigned_abs() / 1_000, 6);
        text
    }

    /// Reads exactly the form that [`Timestamp::to_text`] writes; `None` for any other.
    pub fn parse(text: &str) -> Option<Timestamp> {
        // By hand: rows have several of them, and a general parser costs more than
        // reading the row.
        let bytes: &[u8; TEXT_BYTES] = text.as_bytes().try_into().ok()?;
        for (at, separator) in [
            (4, b'-'),
            (7, b'-'),
            (10, b' '),
            (13, b':'),
            (16, b':'),
            (19, b'.'),
        ] {
            if bytes[at] != separator {
                return None;
            }
        }
        let number = |from: usize, to: usize| {
            bytes[from..to].iter().try_fold(0_i32, |number, &digit| {
                digit
                    .is_ascii_digit()
                    .then(|| number * 10 + i32::from(digit - b'0'))
            })
        };
        let small = |from: usize| i8::try_from(number(from, from + 2)?).ok();
        let year = i16::try_from(number(0, 4)?).ok()?;
        let date = jiff::civil::Date::new(year, small(5)?, small(8)?).ok()?;
        let nanos = number(20, TEXT_BYTES)? * 1_000;
        let time = jiff::civil::Time::new(small(11)?, small(14)?, small(17)?, nanos).ok()?;
        let moment = TimeZone::UTC.to_timestamp(date.to_datetime(time)).ok()?;
        let timestamp = Timestamp(moment.as_microsecond());
        (Timestamp::MIN..=Timestamp::MAX)
            .contains(&timestamp)
            .then_some(timestamp)
    }
}

/// Appends `value` with `width` decimal digits.
fn digits(text: &mut String, value: u32, width: u32) {
    for place in (0..width).rev() {
        let digit = value / 10_u32.pow(place) % 10;
        text.push(char::from(
            b'0' + u8::try_from(digit).expect("a digit is below ten"),
        ));
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

/// A moment of the clock that decides deadlines: microseconds since this machine
/// was booted, the time it was suspended included.
///
/// Moments of two boots cannot be compared: after a reboot every earlier
/// deadline is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootTime {
    /// Which boot.
    pub boot: BootId,
    /// Microseconds since then.
    pub micros: i64,
}

impl BootTime {
    /// The moment `duration` after this one.
    #[must_use]
    pub fn plus(&self, duration: Duration) -> BootTime {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        BootTime {
            boot: self.boot.clone(),
            micros: self.micros.saturating_add(micros),
        }
    }

    /// How long it is until `deadline`; zero once it has been reached, and when it
    /// is one of another boot.
    pub fn until(&self, deadline: &BootTime) -> Duration {
        if self.boot != deadline.boot {
            return Duration::ZERO;
        }
        let micros = deadline.micros.saturating_sub(self.micros);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

/// Names one boot of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootId(Arc<str>);

impl BootId {
    /// Takes a name.
    pub fn new(name: impl AsRef<str>) -> BootId {
        BootId(name.as_ref().into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Tells the time: the wall clock's for the text columns, the boot-time clock's
/// for deadlines.
///
/// The adapter owns one, given when the store is opened. No promise of safety
/// rests on it: a clock that jumps makes a takeover early or late.
pub trait Clock: Send + Sync {
    /// Now, by the wall clock, in UTC.
    fn wall(&self) -> Timestamp;

    /// Now, by the clock that does not jump and goes on while the machine sleeps.
    fn boot(&self) -> BootTime;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn wall(&self) -> Timestamp {
        (**self).wall()
    }

    fn boot(&self) -> BootTime {
        (**self).boot()
    }
}

/// The operating system's clocks: the wall clock, and `CLOCK_BOOTTIME` with the
/// kernel's boot id.
///
/// Where the boot id cannot be read (no `/proc`), all boots count as one: then a
/// lease of an earlier boot lasts until this boot is as old as that one was.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// Where Linux names the boot.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

fn this_boot() -> BootId {
    static BOOT: OnceLock<BootId> = OnceLock::new();
    let read = || match std::fs::read_to_string(BOOT_ID_FILE) {
        Ok(id) => BootId::new(id.trim()),
        Err(_) => BootId::new("unknown"),
    };
    BOOT.get_or_init(read).clone()
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that others take"
    )]
    fn wall(&self) -> Timestamp {
        let micros = match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => {
                i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros)
            }
        };
        Timestamp::from_unix_micros(micros)
    }

    fn boot(&self) -> BootTime {
        let now = clock_gettime(ClockId::Boottime);
        BootTime {
            boot: this_boot(),
            micros: now.tv_sec.saturating_mul(1_000_000) + now.tv_nsec / 1_000,
        }
    }
}

/// Clocks that stand until they are moved; for tests.
#[derive(Debug)]
pub struct ManualClock {
    wall: AtomicI64,
    boot_micros: AtomicI64,
    boots: AtomicU64,
}

impl ManualClock {
    /// Stands at `start`, an hour after the machine was booted.
    pub fn at(start: Timestamp) -> ManualClock {
        ManualClock {
            wall: AtomicI64::new(start.0),
            boot_micros: AtomicI64::new(3_600_000_000),
            boots: AtomicU64::new(1),
        }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.wall().plus(by));
        self.advance_boot(by);
    }

    /// The wall clock jumps, forward or back.
    pub fn set(&self, to: Timestamp) {
        self.wall.store(to.0, Ordering::SeqCst);
    }

    /// Moves only the boot-time clock forward.
    pub fn advance_boot(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.jump_boot(micros);
    }

    /// The boot-time clock jumps by so many microseconds, forward or back, which
    /// no real one does.
    pub fn jump_boot(&self, micros: i64) {
        self.boot_micros.fetch_add(micros, Ordering::SeqCst);
    }

    /// Another boot begins; its clock stands at zero.
    pub fn reboot(&self) {
        self.boots.fetch_add(1, Ordering::SeqCst);
        self.boot_micros.store(0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::SeqCst))
    }

    fn boot(&self) -> BootTime {
        BootTime {
            boot: BootId::new(format!("boot-{}", self.boots.load(Ordering::SeqCst))),
            micros: self.boot_micros.load(Ordering::SeqCst),
        }
    }
}

/// A point in monotonic time until which a caller is ready to wait.
///
/// Waits concern other threads and processes, which no manual clock moves:
/// this is always real time.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    started: Instant,
    wait: Duration,
}

impl Deadline {
    /// From now on, `wait` long.
    #[expect(clippy::disallowed_methods, reason = "deadlines are made here")]
    pub fn after(wait: Duration) -> Deadline {
        Deadline {
            started: Instant::now(),
            wait,
        }
    }

    /// How long is left; zero when it has passed.
    pub fn remaining(&self) -> Duration {
        self.wait.saturating_sub(self.waited())
    }

    /// Whichever of the two passes later.
    #[must_use]
    pub fn later(self, other: Deadline) -> Deadline {
        if self.remaining() < other.remaining() {
            other
        } else {
            self
        }
    }

    /// Whether nothing is left.
    pub fn passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// How long the wait has lasted so far.
    pub fn waited(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Measures how long something took, in monotonic time.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "stopwatches are made here")]
    pub fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_exact() {
        for (micros, text) in [
            (0, "1970-01-01 00:00:00.000000"),
            (1, "1970-01-01 00:00:00.000001"),
            (-1, "1969-12-31 23:59:59.999999"),
            (1_769_644_801_000_042, "2026-01-29 00:00:01.000042"),
            (Timestamp::MIN.0, "0000-01-01 00:00:00.000000"),
        ] {
            let timestamp = Timestamp::from_unix_micros(micros);
            assert_eq!(timestamp.to_text(), text);
            assert_eq!(Timestamp::parse(text), Some(timestamp));
        }
        assert_eq!(
            Timestamp::parse(&Timestamp::MAX.to_text()),
            Some(Timestamp::MAX)
        );
    }

    #[test]
    fn only_the_one_form_is_read() {
        for text in [
            "",
            "2026-01-29T00:00:01.000042",
            "2026-01-29 00:00:01",
            "2026-01-29 00:00:01.0000421",
            "2026-02-30 00:00:01.000000",
            "2026-01-29 24:00:00.000000",
            "+026-01-29 00:00:01.000042",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn text_sorts_as_time_does() {
        let earlier = Timestamp::from_unix_micros(1_769_644_801_000_000);
        let later = earlier.plus(Duration::from_micros(1));
        assert!(earlier.to_text() < later.to_text());
        // CURRENT_TIMESTAMP has no fraction: the same second with one is later.
        assert!("2026-01-29 00:00:01" < earlier.to_text().as_str());
    }

    #[test]
    fn a_manual_clock_stands_until_moved() {
        let clock = ManualClock::at(Timestamp::from_unix_micros(5));
        assert_eq!(clock.wall(), clock.wall());
        clock.advance(Duration::from_micros(7));
        assert_eq!(clock.wall().unix_micros(), 12);
    }

    #[test]
    fn the_boot_time_clock_goes_forward_within_one_boot() {
        let first = SystemClock.boot();
        let second = SystemClock.boot();
        assert_eq!(first.boot, second.boot);
        assert!(first.micros <= second.micros);
        assert!(0 < first.micros);
    }

    #[test]
    fn a_deadline_of_another_boot_is_over() {
        let clock = ManualClock::at(Timestamp::from_unix_micros(5));
        let deadline = clock.boot().plus(Duration::from_secs(2));
        assert_eq!(clock.boot().until(&deadline), Duration::from_secs(2));
        clock.advance_boot(Duration::from_secs(3));
        assert_eq!(clock.boot().until(&deadline), Duration::ZERO);
        clock.jump_boot(-2_000_000);
        assert_eq!(clock.boot().until(&deadline), Duration::from_secs(1));
        clock.reboot();
        assert_eq!(clock.boot().until(&deadline), Duration::ZERO);
        // The wall clock's jumps move no deadline.
        assert_eq!(clock.wall().unix_micros(), 5);
    }

    #[test]
    fn moments_beyond_the_calendar_are_clamped() {
        assert_eq!(Timestamp::from_unix_micros(i64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from_unix_micros(i64::MIN), Timestamp::MIN);
        assert_eq!(Timestamp::MAX.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.minus(Duration::MAX), Timestamp::MIN);
        let moment = Timestamp::from_unix_micros(7);
        assert_eq!(moment.minus(Duration::from_micros(9)).unix_micros(), -2);
    }
}
