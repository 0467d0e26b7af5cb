//! Named places to die.
//!
//! A dangerous place says its name with [`crash_point!`](crate::crash_point!).
//! In a normal build the macro is empty: neither the name nor a branch is in
//! the binary. With the feature `crash-points`, which only harnesses enable,
//! each name is handed to an observer that the process installed; the observer
//! counts it, or kills the process there. A process that installed none obeys
//! its environment: [`COUNT_VARIABLE`] has each point counted, [`DIE_VARIABLE`]
//! names one to die at. Both are read when the first point is reached.

#[cfg(feature = "crash-points")]
mod environment;

/// The variable that names a directory: every point that a process reaches is
/// appended to a file of its own there, one name a line, before the process
/// goes on. The directory must exist. Nothing reads this in a normal build.
pub const COUNT_VARIABLE: &str = "AGENTOS_CRASH_POINTS_COUNT";

/// The variable `NAME#N`: a process sends itself SIGKILL when it reaches that
/// point for the `N`-th time, from 1. Every process that inherits it counts for
/// itself. Where points are counted as well, only the first one dies: a program
/// that starts its workers anew shall come to its end. Nothing reads this in a
/// normal build.
pub const DIE_VARIABLE: &str = "AGENTOS_CRASH_POINT_DIE";

/// The file beside the counts that the process makes that is about to die.
pub const DIED_FILE: &str = "died";

/// What begins the line of the point at which a process died.
pub const DIED_MARK: char = '!';

/// Marks a place at which a crash must do no harm.
///
/// Empty unless `agentos-core` is built with the feature `crash-points`.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        $crate::crash_point::__reached!($name)
    };
}

#[cfg(not(feature = "crash-points"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __crash_point_reached {
    ($name:literal) => {};
}

#[cfg(feature = "crash-points")]
#[doc(hidden)]
#[macro_export]
macro_rules! __crash_point_reached {
    ($name:literal) => {
        $crate::crash_point::reached($name)
    };
}

#[doc(hidden)]
pub use crate::__crash_point_reached as __reached;

#[cfg(feature = "crash-points")]
mod observer {
    use std::sync::OnceLock;

    type Observer = Box<dyn Fn(&'static str) + Send + Sync>;

    static OBSERVER: OnceLock<Observer> = OnceLock::new();

    /// Installs the observer of this process. The first one stays. The
    /// environment is not obeyed from then on.
    ///
    /// It is called in the thread that reached the point, possibly while locks
    /// are held: it may count, print or kill the process, and must not call
    /// back into the library.
    pub fn observe(observer: impl Fn(&'static str) + Send + Sync + 'static) {
        let _ = OBSERVER.set(Box::new(observer));
    }

    #[doc(hidden)]
    pub fn reached(name: &'static str) {
        match OBSERVER.get() {
            Some(observer) => observer(name),
            None => super::environment::reached(name),
        }
    }
}

#[cfg(feature = "crash-points")]
pub use observer::{observe, reached};
