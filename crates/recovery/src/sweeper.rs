//! The sweep in the background: asleep until the next lease runs out.
//!
//! One thread, which waits on its inbox with a deadline and holds nothing
//! meanwhile. When it wakes it reads when the next lease runs out, which is a
//! look at an index and waits for nobody; only when one has run out does it ask
//! for the write lock. It ends when the inbox closes, after the batch under way.
//! An error is logged and counted, and the next scan tries again.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use agentos_core::limits::{SWEEP_INTERVAL_HELD, SWEEP_INTERVAL_IDLE};
use agentos_core::{Lost, Outlook, Stopwatch, Storage, StorageError, WorkFilter};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError, bounded};
use parking_lot::Mutex;

use crate::config::SweepConfig;
use crate::sweep::{SweepStatistics, scan};

/// Why a sweeper was not started.
#[derive(Debug, thiserror::Error)]
pub enum SweeperError {
    /// The configuration can never be right.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The system has no thread left: try again.
    #[error("no thread for the sweeper")]
    Thread(#[source] io::Error),
}

/// How a [`Sweeper`] is.
#[derive(Debug, Clone)]
pub struct SweeperHealth {
    /// Scans that have ended, those among them that found nothing.
    pub scans: u64,
    /// How long ago the last one ended; before the first, how long ago the
    /// sweeper was started. A sweeper that works never has more than 100 ms and
    /// the duration of a scan here: with seconds, it waits for the write lock, or
    /// is gone.
    pub last_scan_age: Duration,
    /// How late the last recovery came: the longest time between a deadline and
    /// its recovery in the last scan that recovered anything, by the wall clock.
    /// After a start it is long when nobody had swept for long.
    pub lag: Duration,
    /// The last error, of a scan or of an item, in words; for people.
    pub last_error: Option<String>,
    /// The sums over all scans. An item that fails is counted in each of them.
    pub totals: SweepStatistics,
}

/// A sweep that goes on until it is stopped or dropped.
///
/// It sleeps until the next deadline that it knows of: 50 ms at most while leases
/// are held, 100 ms while none is. A scan that finds no lease run out is one
/// read. Any number of processes may run one on a file: they share the work.
#[derive(Debug)]
pub struct Sweeper {
    /// Closed by dropping it.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    state: Arc<Mutex<State>>,
}

/// What the thread has to tell.
#[derive(Debug)]
struct State {
    scans: u64,
    /// Since the last scan, or since the start.
    since: Stopwatch,
    lag: Duration,
    last_error: Option<String>,
    totals: SweepStatistics,
}

impl Sweeper {
    /// Starts with a scan at once.
    ///
    /// # Errors
    ///
    /// [`SweeperError`]; nothing was started.
    pub fn start(storage: Arc<dyn Storage>, config: SweepConfig) -> Result<Sweeper, SweeperError> {
        config.check()?;
        let (wake, inbox) = bounded(1);
        let state = Arc::new(Mutex::new(State {
            scans: 0,
            since: Stopwatch::start(),
            lag: Duration::ZERO,
            last_error: None,
            totals: SweepStatistics::default(),
        }));
        let told = Arc::clone(&state);
        let thread = thread::Builder::new()
            .name("agentos-sweeper".into())
            .spawn(move || run(storage.as_ref(), &config, &inbox, &told))
            .map_err(SweeperError::Thread)?;
        Ok(Sweeper {
            wake: Some(wake),
            thread: Some(thread),
            state,
        })
    }

    /// Asks for a scan now, or right after the one under way. Does not wait for
    /// it: [`SweeperHealth::scans`] counts those that have ended.
    pub fn run_now(&self) {
        if let Some(wake) = &self.wake {
            match wake.try_send(()) {
                // One that is asked for and has not begun serves both.
                Ok(()) | Err(TrySendError::Full(())) => {}
                Err(TrySendError::Disconnected(())) => {
                    tracing::error!("the thread of the sweeper is gone");
                }
            }
        }
    }

    /// How it is.
    pub fn health(&self) -> SweeperHealth {
        let state = self.state.lock();
        SweeperHealth {
            scans: state.scans,
            last_scan_age: state.since.elapsed(),
            lag: state.lag,
            last_error: state.last_error.clone(),
            totals: state.totals.clone(),
        }
    }

    /// Stops after the batch under way, and says how it was.
    pub fn stop(mut self) -> SweeperHealth {
        self.join();
        self.health()
    }

    fn join(&mut self) {
        drop(self.wake.take()); // closes the inbox
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the sweeper panicked");
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.join();
    }
}

fn run(storage: &dyn Storage, config: &SweepConfig, inbox: &Receiver<()>, state: &Mutex<State>) {
    let mut wait = Duration::ZERO;
    loop {
        if let Err(RecvTimeoutError::Disconnected) = inbox.recv_timeout(wait) {
            return;
        }
        let mut asked_again = false;
        let mut go_on = || match inbox.try_recv() {
            Ok(()) => {
                asked_again = true;
                true
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => false,
        };
        let answer = look_and_sweep(storage, config, &mut go_on);
        let closed = matches!(answer, Err(StorageError::Closed));
        wait = state.lock().note(answer);
        if closed {
            return;
        }
        if asked_again {
            wait = Duration::ZERO;
        }
    }
}

/// What one scan did.
struct Scanned {
    /// What the store said before it.
    outlook: Outlook,
    /// What it did and how late; `None` when no lease had run out.
    swept: Option<(SweepStatistics, Duration)>,
}

fn look_and_sweep(
    storage: &dyn Storage,
    config: &SweepConfig,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Scanned, StorageError> {
    let outlook = storage.outlook(&WorkFilter::any())?;
    if outlook.expires != Some(Duration::ZERO) {
        let swept = None;
        return Ok(Scanned { outlook, swept });
    }
    let mut lag = Duration::ZERO;
    let swept = scan(
        config,
        Lost::Expired,
        &mut |batch| {
            let swept = storage.sweep(batch)?;
            let now = storage.now().unix_micros();
            for holder in swept
                .recovered
                .iter()
                .filter_map(|item| item.holder.as_ref())
            {
                let late = now.saturating_sub(holder.until.unix_micros());
                lag = lag.max(Duration::from_micros(u64::try_from(late).unwrap_or(0)));
            }
            Ok(swept)
        },
        go_on,
    )?;
    let swept = Some((swept, lag));
    Ok(Scanned { outlook, swept })
}

impl State {
    /// Remembers a scan; gives the time until the next one.
    fn note(&mut self, answer: Result<Scanned, StorageError>) -> Duration {
        self.scans += 1;
        self.since = Stopwatch::start();
        let scanned = match answer {
            Ok(scanned) => scanned,
            Err(error) => {
                self.totals.errors += 1;
                self.complain(format!("{error}"));
                return SWEEP_INTERVAL_HELD;
            }
        };
        let Some((swept, lag)) = scanned.swept else {
            return match scanned.outlook.expires {
                Some(expires) => expires.min(SWEEP_INTERVAL_HELD),
                None => SWEEP_INTERVAL_IDLE,
            };
        };
        self.totals.add(&swept);
        if 0 < swept.recovered {
            self.lag = lag;
        }
        if let Some(failure) = swept.failures.last() {
            let what = match failure.item {
                Some(item) => format!("work item {item}: {}", failure.error),
                None => failure.error.to_string(),
            };
            self.complain(what);
        }
        if swept.is_complete() && 0 < swept.recovered {
            // What runs out next is not known yet.
            return Duration::ZERO;
        }
        // What could not be recovered has run out still: without a pause it would
        // be tried again without an end.
        SWEEP_INTERVAL_HELD
    }

    /// Logs an error once, however often it comes again.
    fn complain(&mut self, what: String) {
        if self.last_error.as_ref() == Some(&what) {
            tracing::debug!(error = what, "the sweeper failed again");
        } else {
            tracing::warn!(error = what, "the sweeper failed, and goes on");
            self.last_error = Some(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use agentos_core::WorkItemId;

    use super::*;

    fn state() -> State {
        State {
            scans: 0,
            since: Stopwatch::start(),
            lag: Duration::ZERO,
            last_error: None,
            totals: SweepStatistics::default(),
        }
    }

    fn probe(expires: Option<Duration>) -> Result<Scanned, StorageError> {
        Ok(Scanned {
            outlook: Outlook {
                claimable: None,
                expires,
            },
            swept: None,
        })
    }

    fn swept(swept: SweepStatistics, lag: Duration) -> Result<Scanned, StorageError> {
        let outlook = Outlook {
            claimable: None,
            expires: Some(Duration::ZERO),
        };
        let swept = Some((swept, lag));
        Ok(Scanned { outlook, swept })
    }

    #[test]
    fn it_sleeps_until_the_next_deadline_within_its_bounds() {
        let mut state = state();
        let soon = Duration::from_micros(700);
        assert_eq!(state.note(probe(Some(soon))), soon);
        let late = Duration::from_secs(30);
        assert_eq!(state.note(probe(Some(late))), SWEEP_INTERVAL_HELD);
        assert_eq!(state.note(probe(None)), SWEEP_INTERVAL_IDLE);
        assert_eq!((state.scans, state.totals.batches), (3, 0));
    }

    #[test]
    fn it_looks_again_at_once_only_when_it_has_got_on() {
        let mut state = state();
        let recovered = |recovered| SweepStatistics {
            recovered,
            batches: 1,
            ..SweepStatistics::default()
        };
        let late = Duration::from_millis(3);
        assert_eq!(state.note(swept(recovered(2), late)), Duration::ZERO);
        assert_eq!((state.lag, state.totals.recovered), (late, 2));
        // Another was faster.
        let answer = swept(recovered(0), Duration::ZERO);
        assert_eq!(state.note(answer), SWEEP_INTERVAL_HELD);
        assert_eq!(state.lag, late, "of the last recovery");
        let mut failing = recovered(1);
        let error = StorageError::corrupt("work item 7", "its task");
        failing.fail(Some(WorkItemId::new(7).unwrap()), error);
        assert_eq!(state.note(swept(failing, late)), SWEEP_INTERVAL_HELD);
        let words = state.last_error.clone().unwrap();
        assert_eq!(words, "work item 7: corrupt: work item 7");
        assert_eq!(state.note(Err(StorageError::Closed)), SWEEP_INTERVAL_HELD);
        assert_eq!((state.totals.errors, state.totals.failed), (1, 1));
        assert_eq!(state.last_error.unwrap(), "the store is closed");
    }
}
