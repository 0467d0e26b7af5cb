//! A probe of the machine: what it does to somebody who wants little of it.
//!
//! A promise in milliseconds is about the library on a machine that works. While a
//! victim waits for what is measured, a thread of it makes one small synced write
//! after the other. When one of them takes more than is usual, the disk or the
//! scheduler kept this process waiting, whoever asked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use agentos_core::{Clock, SystemClock};

/// Pause between two writes: the probe itself must not be what is waited for.
const PAUSE: Duration = Duration::from_millis(5);
/// A write and a pause that take no longer count for nothing.
const USUAL_US: i64 = 10_000;
/// What is written: a page.
const PAGE: [u8; 4096] = [0; 4096];

/// A thread that writes until the process ends.
pub(super) struct Probe {
    state: Arc<Mutex<State>>,
}

/// Moments in microseconds of the boot-time clock.
struct State {
    /// When the round under way began.
    begun: i64,
    /// From when to when rounds took more than is usual.
    stalls: Vec<(i64, i64)>,
    error: Option<io::Error>,
}

impl Probe {
    /// Starts it; it writes to a file of its own.
    pub(super) fn start(path: &Path) -> io::Result<Probe> {
        let file = File::create(path)?;
        let state = Arc::new(Mutex::new(State {
            begun: now_us(),
            stalls: Vec::new(),
            error: None,
        }));
        let told = Arc::clone(&state);
        thread::Builder::new()
            .name("probe".into())
            .spawn(move || watch(&file, &told))?;
        Ok(Probe { state })
    }

    /// From when to when the machine kept the probe waiting longer than is usual.
    pub(super) fn stalls(&self) -> io::Result<Vec<(i64, i64)>> {
        let mut state = lock(&self.state);
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let under_way = (state.begun + USUAL_US, now_us());
        let late = (under_way.0 < under_way.1).then_some(under_way);
        Ok(state.stalls.iter().copied().chain(late).collect())
    }
}

fn watch(file: &File, state: &Mutex<State>) {
    loop {
        let begun = now_us();
        lock(state).begun = begun;
        let written = file.write_all_at(&PAGE, 0).and_then(|()| file.sync_data());
        thread::park_timeout(PAUSE);
        let mut state = lock(state);
        let usual = begun + USUAL_US;
        let ended = now_us();
        if usual < ended {
            state.stalls.push((usual, ended));
        }
        if let Err(error) = written {
            state.error = Some(error);
            return;
        }
    }
}

/// Every change is whole, whatever panicked.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Now, in microseconds of the boot-time clock.
pub(super) fn now_us() -> i64 {
    SystemClock.boot().micros
}
