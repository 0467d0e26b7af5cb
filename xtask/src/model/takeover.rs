//! What must be true of a takeover in time: never before the lease has run out, and
//! soon after it. Moments are in microseconds of the boot-time clock.
//!
//! A machine can only make a takeover later. So one that is late says nothing about
//! the library if the machine is known to have stood still for as long, and
//! everything if it is known not to have. In between stand waits that are too short
//! to be seen, of which there may be some on a machine that others load.

use std::fmt;
use std::time::Duration;

/// Short waits that nobody sees do not add up to more than so many margins.
const MARGINS_UNSEEN: i64 = 3;

/// A takeover in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Takeover {
    /// When the lease ran out.
    deadline_us: i64,
    /// From when on it had run out, and somebody was there to take over.
    from_us: i64,
    taken_us: i64,
    /// For how long the machine stood still since then.
    stalled_us: i64,
}

/// What is to be said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timing {
    /// Before the lease had run out.
    Early,
    InTime,
    /// On a machine that did not stand still, or by far more than it did.
    Late,
    /// On a machine that stood still, but not for as long: it should be made again.
    Disturbed,
    /// Not later than the machine made it, as far as is known: the same.
    Excused,
}

impl Takeover {
    /// Of a lease that ran out at `deadline_us`, by one who looked for work since
    /// `watched_us`. `stalls` say from when to when the machine stood still.
    pub(crate) fn of(
        deadline_us: i64,
        watched_us: i64,
        taken_us: i64,
        stalls: &[(i64, i64)],
    ) -> Takeover {
        let from_us = deadline_us.max(watched_us);
        let overlap = |&(begin, end): &(i64, i64)| end.min(taken_us) - begin.max(from_us);
        Takeover {
            deadline_us,
            from_us,
            taken_us,
            stalled_us: stalls.iter().map(overlap).map(|us| us.max(0)).sum(),
        }
    }

    /// How long after the deadline it came, or after the one who takes over was
    /// there.
    pub(crate) fn late_us(&self) -> i64 {
        self.taken_us - self.from_us
    }

    /// Whether it came in time, if at most `margin` is allowed.
    pub(crate) fn timing(&self, margin: Duration) -> Timing {
        let allowed = i64::try_from(margin.as_micros()).unwrap_or(i64::MAX);
        let own_us = self.late_us() - self.stalled_us;
        if self.taken_us < self.deadline_us {
            Timing::Early
        } else if self.late_us() <= allowed {
            Timing::InTime
        } else if self.stalled_us == 0 || allowed.saturating_mul(MARGINS_UNSEEN) < own_us {
            Timing::Late
        } else if own_us <= allowed {
            Timing::Excused
        } else {
            Timing::Disturbed
        }
    }
}

impl fmt::Display for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let early = self.deadline_us - self.taken_us;
        if 0 < early {
            return write!(f, "taken over {early} us before the lease ran out");
        }
        let (late, stalled) = (self.late_us(), self.stalled_us);
        write!(
            f,
            "taken over {late} us after the lease ran out; the machine stood still for {stalled}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(watched: i64, taken: i64, stalls: &[(i64, i64)]) -> Timing {
        Takeover::of(1000, watched, taken, stalls).timing(Duration::from_micros(100))
    }

    #[test]
    fn a_takeover_is_neither_early_nor_late() {
        assert_eq!(timing(900, 999, &[]), Timing::Early);
        assert_eq!(timing(900, 1000, &[]), Timing::InTime);
        assert_eq!(timing(900, 1100, &[]), Timing::InTime);
        assert_eq!(timing(900, 1101, &[]), Timing::Late);
        let words = |taken| Takeover::of(1000, 900, taken, &[]).to_string();
        assert!(words(999).contains("1 us before"));
        assert!(words(1101).contains("101 us after"));
    }

    #[test]
    fn who_comes_late_counts_from_then_on() {
        assert_eq!(timing(5000, 5100, &[]), Timing::InTime);
        assert_eq!(timing(5000, 5101, &[]), Timing::Late);
    }

    #[test]
    fn only_a_machine_that_stood_still_meanwhile_disturbs() {
        let stalls = [(0, 1020), (1050, 1100), (1150, 9000)];
        let takeover = Takeover::of(1000, 900, 1250, &stalls);
        assert_eq!(takeover.stalled_us, 20 + 50 + 100);
        assert_eq!(timing(900, 1250, &stalls), Timing::Excused);
        assert_eq!(timing(900, 1250, &stalls[..2]), Timing::Disturbed);
        assert_eq!(timing(900, 1370, &stalls[..2]), Timing::Disturbed);
        assert_eq!(timing(900, 1371, &stalls[..2]), Timing::Late);
        for stall in [(0, 1000), (1250, 9000), (1100, 1090)] {
            assert_eq!(timing(900, 1250, &[stall]), Timing::Late);
        }
        // Nothing excuses what is early.
        assert_eq!(timing(900, 999, &stalls), Timing::Early);
    }
}
