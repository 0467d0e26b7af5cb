//! Named places to die.
//!
//! A dangerous place says its name with [`crash_point!`](crate::crash_point!).
//! In a normal build the macro is empty: neither the name nor a branch is in
//! the binary. With the feature `crash-points`, which only harnesses enable,
//! each name is handed to an observer that the process installed; the observer
//! counts it, or kills the process there.

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

    /// Installs the observer of this process. The first one stays.
    ///
    /// It is called in the thread that reached the point, possibly while locks
    /// are held: it may count, print or kill the process, and must not call
    /// back into the library.
    pub fn observe(observer: impl Fn(&'static str) + Send + Sync + 'static) {
        let _ = OBSERVER.set(Box::new(observer));
    }

    #[doc(hidden)]
    pub fn reached(name: &'static str) {
        if let Some(observer) = OBSERVER.get() {
            observer(name);
        }
    }
}

#[cfg(feature = "crash-points")]
pub use observer::{observe, reached};
