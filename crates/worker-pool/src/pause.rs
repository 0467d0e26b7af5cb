//! Pauses that double, up to a longest one. Pure.

use std::time::Duration;

/// The next pause.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pause {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Pause {
    pub(crate) const fn new(first: Duration, most: Duration) -> Pause {
        Pause {
            first,
            most,
            next: first,
        }
    }

    /// How long to pause now; the next one is twice as long.
    pub(crate) fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.most);
        pause
    }

    /// What was wrong is over.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let ms = Duration::from_millis;
        let mut pause = Pause::new(ms(10), ms(35));
        let taken: Vec<Duration> = (0..4).map(|_| pause.take()).collect();
        assert_eq!(taken, [ms(10), ms(20), ms(35), ms(35)]);
        pause.reset();
        assert_eq!(pause.take(), ms(10));
    }
}
