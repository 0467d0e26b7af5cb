//! A flag that says to stop working on an item: its lease is lost, or the pool
//! shuts down.
//!
//! The flag knows the lease's deadline and compares it with the clock whenever it
//! is asked. So it is raised on time even while the thread that renews hangs in the
//! store: nobody has to come and raise it. Once raised, it stays.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentos_core::{BootTime, Clock, Deadline, Fence, Renewed, StaleLease};
use parking_lot::{Condvar, Mutex};

use crate::limits::CLOCK_LOOK_INTERVAL;

/// How a lease was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The store says that it is not held any more: taken away, taken over,
    /// cancelled, or ended by its holder.
    Taken(Box<StaleLease>),
    /// It was not renewed in time. The item may still be there, but another worker
    /// can have it at any moment.
    Overdue,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Taken(stale) => stale.fmt(f),
            Loss::Overdue => f.write_str("the lease was not renewed in time"),
        }
    }
}

/// Why to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelCause {
    /// The lease is lost: nothing can be committed under it any more.
    Lost(Loss),
    /// The pool shuts down and its grace period is over. The lease is still held: a
    /// handler that returns now can still commit what it has.
    ShuttingDown,
}

/// Says when to stop working on an item. Cloning it is cheap, and clones may go to
/// other threads.
#[derive(Clone)]
pub struct Cancellation {
    flag: Arc<Flag>,
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancellation")
            .field("fence", &self.flag.fence)
            .field("cause", &self.cause())
            .finish()
    }
}

impl Cancellation {
    pub(crate) fn of(flag: &Arc<Flag>) -> Cancellation {
        Cancellation {
            flag: Arc::clone(flag),
        }
    }

    /// Whether to stop. Costs a look at the clock, and can be asked in a loop.
    ///
    /// After the work has ended the lease is not renewed any more, so this becomes
    /// true at its deadline.
    pub fn is_cancelled(&self) -> bool {
        self.flag.raised.load(Ordering::Acquire)
            || self.flag.look(&self.flag.clock.boot()).is_none()
    }

    /// Why to stop; `None` while there is no reason to. A loss outweighs a shutdown.
    pub fn cause(&self) -> Option<CancelCause> {
        let now = self.flag.clock.boot();
        self.flag.look(&now);
        self.flag.state.lock().cause()
    }

    /// Waits until it is time to stop, at most until `deadline`. Says whether it is.
    pub fn wait(&self, deadline: Deadline) -> bool {
        loop {
            let now = self.flag.clock.boot();
            self.flag.look(&now);
            let mut state = self.flag.state.lock();
            if state.cause().is_some() {
                return true;
            }
            let left = deadline.remaining();
            if left.is_zero() {
                return false;
            }
            let lease_left = now.until(&state.deadline);
            let pause = left.min(lease_left).min(CLOCK_LOOK_INTERVAL);
            self.flag.changed.wait_for(&mut state, pause);
        }
    }
}

impl Cancellation {
    /// Waits until the lease is lost, at most until `deadline`, also while the pool
    /// shuts down. Says whether it is.
    pub(crate) fn wait_lost(&self, deadline: Deadline) -> bool {
        loop {
            let now = self.flag.clock.boot();
            let Some(lease_left) = self.flag.look(&now) else {
                return true;
            };
            let left = deadline.remaining();
            if left.is_zero() {
                return false;
            }
            let mut state = self.flag.state.lock();
            if state.loss.is_none() {
                let pause = left.min(lease_left).min(CLOCK_LOOK_INTERVAL);
                self.flag.changed.wait_for(&mut state, pause);
            }
        }
    }
}

/// What is called when a lease is lost.
pub(crate) type OnLoss = Box<dyn FnOnce(&Loss) + Send>;

/// What the holder of a lease, the thread that renews it and the one that watches
/// its deadline share.
pub(crate) struct Flag {
    pub(crate) fence: Fence,
    clock: Arc<dyn Clock>,
    /// Set once, when there is a cause.
    raised: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Counted from before the request that gave it.
    deadline: BootTime,
    loss: Option<Loss>,
    shutting_down: bool,
    /// The holder is ending the lease, and will see for itself whether it was lost.
    settling: bool,
    /// The store said so while the holder was ending it: there is nothing to renew.
    gone: bool,
    on_loss: Option<OnLoss>,
}

impl State {
    fn cause(&self) -> Option<CancelCause> {
        match &self.loss {
            Some(loss) => Some(CancelCause::Lost(loss.clone())),
            None if self.shutting_down => Some(CancelCause::ShuttingDown),
            None => None,
        }
    }
}

impl Flag {
    pub(crate) fn new(
        fence: Fence,
        deadline: BootTime,
        clock: Arc<dyn Clock>,
        on_loss: Option<OnLoss>,
    ) -> Flag {
        Flag {
            fence,
            clock,
            raised: AtomicBool::new(false),
            state: Mutex::new(State {
                deadline,
                loss: None,
                shutting_down: false,
                settling: false,
                gone: false,
                on_loss,
            }),
            changed: Condvar::new(),
        }
    }

    /// Looks whether the deadline has passed, and says how long it is until then;
    /// `None` once the lease is lost.
    pub(crate) fn look(&self, now: &BootTime) -> Option<Duration> {
        let mut state = self.state.lock();
        if state.loss.is_some() {
            return None;
        }
        let left = now.until(&state.deadline);
        if left.is_zero() {
            self.lose(&mut state, Loss::Overdue);
            return None;
        }
        Some(left)
    }

    /// How long it is until the deadline of a lease that is worth renewing.
    pub(crate) fn renewable(&self, now: &BootTime) -> Option<Duration> {
        let left = self.look(now)?;
        (!self.state.lock().gone).then_some(left)
    }

    /// Takes the answer to a renewal that has just come back. An answer that comes
    /// after the deadline is too late, whatever it says.
    pub(crate) fn answered(&self, answer: Result<Renewed, StaleLease>) {
        let now = self.clock.boot();
        if self.look(&now).is_none() {
            return;
        }
        let mut state = self.state.lock();
        match answer {
            Ok(renewed) if state.loss.is_none() => state.deadline = renewed.deadline,
            Err(_) if state.settling => state.gone = true,
            Err(stale) if state.loss.is_none() => {
                self.lose(&mut state, Loss::Taken(Box::new(stale)));
            }
            Ok(_) | Err(_) => {}
        }
    }

    fn lose(&self, state: &mut State, loss: Loss) {
        state.loss = Some(loss);
        self.raised.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Asks the holder to stop, although the lease is held.
    pub(crate) fn shut_down(&self) {
        self.state.lock().shutting_down = true;
        self.raised.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// The holder begins to end the lease, or has failed to: then it is renewed
    /// again, and told what the store says.
    pub(crate) fn set_settling(&self, settling: bool) {
        let mut state = self.state.lock();
        state.settling = settling;
        state.gone = false;
    }

    /// How the lease was lost, if it was.
    pub(crate) fn loss(&self) -> Option<Loss> {
        let now = self.clock.boot();
        self.look(&now);
        self.state.lock().loss.clone()
    }

    /// What is to be called, and with what, if the lease is lost and nobody did.
    pub(crate) fn take_callback(&self) -> Option<(OnLoss, Loss)> {
        let mut state = self.state.lock();
        let loss = state.loss.clone()?;
        Some((state.on_loss.take()?, loss))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use agentos_core::{FencingToken, ManualClock, Timestamp, WorkItemId};

    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn fence() -> Fence {
        Fence {
            item: WorkItemId::new(1).unwrap(),
            token: FencingToken::new(1).unwrap(),
        }
    }

    fn fixture() -> (Arc<ManualClock>, Arc<Flag>, Cancellation) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_micros(0)));
        let deadline = clock.boot().plus(LEASE);
        let flag = Arc::new(Flag::new(
            fence(),
            deadline,
            Arc::clone(&clock) as Arc<dyn Clock>,
            None,
        ));
        let cancellation = Cancellation::of(&flag);
        (clock, flag, cancellation)
    }

    fn renewed(deadline: BootTime) -> Result<Renewed, StaleLease> {
        Ok(Renewed {
            fence: fence(),
            expires_at: Timestamp::from_unix_micros(0),
            deadline,
        })
    }

    fn stale() -> StaleLease {
        StaleLease {
            fence: fence(),
            status: None,
            newest: None,
            holder: None,
        }
    }

    fn lost(loss: Loss) -> Option<CancelCause> {
        Some(CancelCause::Lost(loss))
    }

    #[test]
    fn the_flag_is_raised_at_the_deadline_without_anybody_raising_it() {
        let (clock, _flag, cancellation) = fixture();
        clock.advance_boot(LEASE - Duration::from_micros(1));
        assert!(!cancellation.is_cancelled());
        assert_eq!(cancellation.cause(), None);
        clock.advance_boot(Duration::from_micros(1));
        assert!(cancellation.is_cancelled());
        assert_eq!(cancellation.cause(), lost(Loss::Overdue));
    }

    #[test]
    fn a_renewal_in_time_moves_the_deadline_and_one_too_late_does_not() {
        let (clock, flag, cancellation) = fixture();
        clock.advance_boot(LEASE / 2);
        flag.answered(renewed(clock.boot().plus(LEASE)));
        clock.advance_boot(LEASE - Duration::from_micros(1));
        assert!(!cancellation.is_cancelled());
        clock.advance_boot(Duration::from_micros(1));
        // Nobody has asked yet when the answer comes: it is late all the same.
        flag.answered(renewed(clock.boot().plus(LEASE)));
        assert_eq!(cancellation.cause(), lost(Loss::Overdue));
        // And no answer takes it back.
        flag.answered(Err(stale()));
        assert_eq!(cancellation.cause(), lost(Loss::Overdue));
    }

    #[test]
    fn a_lease_that_is_gone_is_told_unless_its_holder_is_ending_it() {
        let (clock, flag, cancellation) = fixture();
        let now = clock.boot();
        flag.set_settling(true);
        assert_eq!(flag.renewable(&now), Some(LEASE));
        flag.answered(Err(stale()));
        assert!(!cancellation.is_cancelled());
        assert_eq!(flag.renewable(&now), None, "it would be due for ever");
        flag.set_settling(false);
        assert_eq!(flag.renewable(&now), Some(LEASE));
        flag.answered(Err(stale()));
        let taken = Loss::Taken(Box::new(stale()));
        assert_eq!(cancellation.cause(), lost(taken.clone()));
        assert_eq!(flag.loss(), Some(taken));
    }

    #[test]
    fn a_shutdown_is_no_loss_and_a_loss_outweighs_it() {
        let (clock, flag, cancellation) = fixture();
        flag.shut_down();
        assert!(cancellation.is_cancelled());
        assert_eq!(cancellation.cause(), Some(CancelCause::ShuttingDown));
        assert_eq!(flag.loss(), None);
        clock.advance_boot(LEASE);
        assert_eq!(cancellation.cause(), lost(Loss::Overdue));
    }

    #[test]
    fn who_waits_is_woken_by_a_loss_and_returns_at_its_own_deadline() {
        let (_clock, flag, cancellation) = fixture();
        assert!(!cancellation.wait(Deadline::after(Duration::from_millis(1))));
        let waiter = thread::spawn(move || cancellation.wait(Deadline::after(LEASE)));
        flag.answered(Err(stale()));
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn the_callback_is_given_out_once_and_only_after_a_loss() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_micros(0)));
        let deadline = clock.boot().plus(LEASE);
        let flag = Flag::new(
            fence(),
            deadline,
            Arc::clone(&clock) as Arc<dyn Clock>,
            Some(Box::new(|_| {})),
        );
        assert!(flag.take_callback().is_none());
        clock.reboot();
        assert_eq!(flag.loss(), Some(Loss::Overdue));
        assert!(flag.take_callback().is_some());
        assert!(flag.take_callback().is_none());
    }
}
