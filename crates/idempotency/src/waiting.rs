//! Where those wait who ask for a key that is in flight.
//!
//! What ends in this process wakes them; they look by themselves for what ends in
//! others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agentos_core::IdempotencyKey;
use parking_lot::{Condvar, Mutex};

/// A room for each key that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Rooms(Mutex<HashMap<IdempotencyKey, Occupied>>);

#[derive(Debug, Default)]
struct Occupied {
    room: Arc<Room>,
    /// How many are in it.
    waiting: usize,
}

#[derive(Debug, Default)]
struct Room {
    /// How often something ended that may concern those who wait.
    ends: Mutex<u64>,
    ended: Condvar,
}

impl Rooms {
    /// Enters the room of a key, until the guard is dropped.
    pub(crate) fn enter(&self, key: &IdempotencyKey) -> Waiting<'_> {
        let mut rooms = self.0.lock();
        let occupied = rooms.entry(key.clone()).or_default();
        occupied.waiting += 1;
        Waiting {
            rooms: self,
            key: key.clone(),
            room: Arc::clone(&occupied.room),
        }
    }

    /// Something ended that may concern those who wait for this key.
    pub(crate) fn ended(&self, key: &IdempotencyKey) {
        let room = self.0.lock().get(key).map(|found| Arc::clone(&found.room));
        if let Some(room) = room {
            *room.ends.lock() += 1;
            room.ended.notify_all();
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

/// Somebody who waits for a key.
pub(crate) struct Waiting<'r> {
    rooms: &'r Rooms,
    key: IdempotencyKey,
    room: Arc<Room>,
}

impl Waiting<'_> {
    /// How much has ended so far. Asked before looking at the key, so that what ends
    /// between the look and the wait is not missed.
    pub(crate) fn ends(&self) -> u64 {
        *self.room.ends.lock()
    }

    /// Waits until more than `seen` has ended, at most for `pause`.
    pub(crate) fn wait(&self, seen: u64, pause: Duration) {
        let mut ends = self.room.ends.lock();
        if *ends == seen {
            self.room.ended.wait_for(&mut ends, pause);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut rooms = self.rooms.0.lock();
        if let Some(occupied) = rooms.get_mut(&self.key) {
            occupied.waiting -= 1;
            if occupied.waiting == 0 {
                rooms.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use agentos_core::Deadline;

    use super::*;

    #[test]
    fn an_end_wakes_those_of_its_key_and_the_last_one_closes_the_room() {
        let rooms = Rooms::default();
        let key = |name| IdempotencyKey::new(name).unwrap();
        let long = Duration::from_secs(60);
        let deadline = Deadline::after(long);
        thread::scope(|scope| {
            let waiting = rooms.enter(&key("a"));
            let other = rooms.enter(&key("a"));
            let seen = waiting.ends();
            scope.spawn(|| rooms.ended(&key("a")));
            waiting.wait(seen, long);
            assert_eq!(waiting.ends(), seen + 1);
            // It ended before the wait: nobody waits for what is over.
            other.wait(seen, long);
            drop(waiting);
            assert!(!rooms.is_empty());
        });
        assert!(!deadline.passed());
        assert!(rooms.is_empty());
        rooms.ended(&key("a"));
    }

    #[test]
    fn the_end_of_another_key_wakes_nobody() {
        let rooms = Rooms::default();
        let waiting = rooms.enter(&IdempotencyKey::new("a").unwrap());
        let seen = waiting.ends();
        rooms.ended(&IdempotencyKey::new("b").unwrap());
        waiting.wait(seen, Duration::from_millis(1));
        assert_eq!(waiting.ends(), seen);
    }
}
