//! Asks the outside world whether something happened there.

/// What the outside world says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding<T> {
    /// It happened, with this outcome.
    Happened(T),
    /// It did not happen, and never will by itself.
    DidNotHappen,
    /// It cannot be told, for this reason.
    CannotTell(String),
}

/// Asks whether the effect of a question's subject happened, and with what outcome.
///
/// Every function `Fn(&Q) -> Finding<T>` is one.
pub trait Probe<Q: ?Sized, T>: Send + Sync {
    /// Asks. It should bound its waits, and change nothing.
    fn ask(&self, question: &Q) -> Finding<T>;
}

impl<Q: ?Sized, T, F> Probe<Q, T> for F
where
    F: Fn(&Q) -> Finding<T> + Send + Sync,
{
    fn ask(&self, question: &Q) -> Finding<T> {
        self(question)
    }
}
