//! Which outcomes were used of late, until that is written.
//!
//! A use is no write of its own: it waits for others, or for the next end of an
//! execution. Forgetting one makes an outcome look less used than it is.

use std::collections::BTreeSet;
use std::time::Duration;

use agentos_core::{Deadline, KeyId};

use crate::limits::{USE_WAIT_MAX, USES_KEPT_MAX, USES_PER_BATCH};

#[derive(Debug, Default)]
pub(crate) struct Uses {
    keys: BTreeSet<KeyId>,
    /// Until when the first of them waits at most.
    until: Option<Deadline>,
}

impl Uses {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Notes a use, where there is room for it.
    pub(crate) fn note(&mut self, key: KeyId) {
        if self.keys.len() < USES_KEPT_MAX && self.keys.insert(key) && self.until.is_none() {
            self.until = Some(Deadline::after(USE_WAIT_MAX));
        }
    }

    /// Whether they are enough to be written.
    pub(crate) fn is_batch(&self) -> bool {
        USES_PER_BATCH <= self.keys.len()
    }

    /// How long they wait still; zero when they are to be written, `None` when there
    /// are none.
    pub(crate) fn due(&self) -> Option<Duration> {
        let until = self.until.as_ref()?;
        Some(if self.is_batch() {
            Duration::ZERO
        } else {
            until.remaining()
        })
    }

    /// Takes all of them.
    pub(crate) fn take(&mut self) -> Vec<KeyId> {
        self.until = None;
        std::mem::take(&mut self.keys).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> KeyId {
        KeyId::new(i64::try_from(number).unwrap()).unwrap()
    }

    #[test]
    fn uses_wait_for_a_batch_and_are_bounded() {
        let mut uses = Uses::default();
        assert_eq!(uses.due(), None);
        uses.note(key(1));
        uses.note(key(1));
        assert!(Duration::ZERO < uses.due().unwrap());
        assert_eq!(uses.take(), [key(1)]);
        assert_eq!(uses.due(), None);
        for number in 1..=USES_PER_BATCH {
            uses.note(key(number));
        }
        assert_eq!(uses.due(), Some(Duration::ZERO));
        for number in 1..=2 * USES_KEPT_MAX {
            uses.note(key(number));
        }
        assert_eq!(uses.take().len(), USES_KEPT_MAX);
    }
}
