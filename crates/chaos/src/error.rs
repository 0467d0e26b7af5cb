//! What can go wrong between the harness and a victim, and what it means for
//! the verdict: a failing machine proves nothing, a failing victim does.

use std::error::Error;
use std::io;

use agentos_process::{Exit, ProcessError};

use crate::verdict::Verdict;

/// The harness could not go on with a scenario.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HarnessError {
    /// The machine failed, not the victim: inconclusive.
    #[error("the machine failed to {doing}")]
    Machine {
        /// What was being tried.
        doing: String,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The victim's program cannot be started as it was named. Nothing was
    /// judged: inconclusive. Correct the spec.
    #[error("victim {victim} cannot be started")]
    NotStarted {
        /// The victim's name.
        victim: String,
        /// Why.
        source: ProcessError,
    },
    /// A SIGKILL that the harness did not send ended the victim, as the
    /// kernel's out-of-memory killer does: inconclusive.
    #[error("victim {victim} got a SIGKILL that the harness did not send")]
    KilledByOthers {
        /// The victim's name.
        victim: String,
    },
    /// The victim ended by itself while something was expected of it: a
    /// violation, unless the scenario knows better.
    #[error("victim {victim} ended with {exit} while {waiting_for} was awaited")]
    Ended {
        /// The victim's name.
        victim: String,
        /// How it ended.
        exit: Exit,
        /// What it should have done.
        waiting_for: String,
    },
    /// The victim did not do in time what was expected of it: a violation,
    /// unless the scenario knows better.
    #[error("victim {victim} kept the harness waiting {waited_ms} ms for {waiting_for}")]
    TimedOut {
        /// The victim's name.
        victim: String,
        /// What it should have done.
        waiting_for: String,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// The victim printed something that is no line: a violation of the
    /// protocol.
    #[error("victim {victim} printed a line that cannot be read")]
    Unreadable {
        /// The victim's name.
        victim: String,
        /// What is wrong with it.
        source: ProcessError,
    },
    /// The victim said more than anybody keeps. What it acknowledged beyond that is not
    /// known, so nothing can be judged: inconclusive. Let it say less.
    #[error("victim {victim} said more than {bytes_max} bytes, of which nothing more is kept")]
    TalksTooMuch {
        /// The victim's name.
        victim: String,
        /// How many bytes of memory its words may take.
        bytes_max: u64,
    },
}

impl HarnessError {
    /// What this means for a scenario that cannot explain it.
    pub fn verdict(&self) -> Verdict {
        match self {
            HarnessError::Machine { .. }
            | HarnessError::NotStarted { .. }
            | HarnessError::KilledByOthers { .. }
            | HarnessError::TalksTooMuch { .. } => Verdict::Inconclusive,
            HarnessError::Ended { .. }
            | HarnessError::TimedOut { .. }
            | HarnessError::Unreadable { .. } => Verdict::Violated,
        }
    }

    pub(crate) fn machine<E>(doing: impl Into<String>) -> impl FnOnce(E) -> HarnessError
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        move |source| HarnessError::Machine {
            doing: doing.into(),
            source: source.into(),
        }
    }
}

/// Any error that ends a scenario early. `?` makes one of every error type.
///
/// It is inconclusive when the error, or one that caused it, says that the
/// machine failed: a [`HarnessError`] of that kind, a
/// [`ProcessError::is_machine`], an [`io::Error`] for a full disk or exhausted
/// memory. Everything else is a violation: the product returned an error where
/// the scenario expected none.
#[derive(Debug)]
pub struct Failure(Box<dyn Error + Send + Sync>);

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(Box::new(error))
    }
}

impl Failure {
    /// From what is no error type itself: a boxed error, or a text.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure(error.into())
    }

    /// The verdict that follows.
    pub fn verdict(&self) -> Verdict {
        chain(self.0.as_ref())
            .find_map(|error| {
                if let Some(error) = error.downcast_ref::<HarnessError>() {
                    return Some(error.verdict());
                }
                let machine = error
                    .downcast_ref::<ProcessError>()
                    .is_some_and(ProcessError::is_machine)
                    || error
                        .downcast_ref::<io::Error>()
                        .is_some_and(|error| is_exhausted(error.kind()));
                machine.then_some(Verdict::Inconclusive)
            })
            .unwrap_or(Verdict::Violated)
    }

    /// The error and its causes in one line.
    pub fn reason(&self) -> String {
        let texts: Vec<String> = chain(self.0.as_ref()).map(ToString::to_string).collect();
        texts.join(": ")
    }
}

fn chain<'error>(
    first: &'error (dyn Error + 'static),
) -> impl Iterator<Item = &'error (dyn Error + 'static)> {
    std::iter::successors(Some(first), |error| (*error).source())
}

fn is_exhausted(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the product failed")]
    struct Product(#[source] io::Error);

    #[test]
    fn an_error_of_the_product_is_a_violation() {
        let failure = Failure::from(Product(io::ErrorKind::NotFound.into()));
        assert_eq!(failure.verdict(), Verdict::Violated);
        assert_eq!(failure.reason(), "the product failed: entity not found");
    }

    #[test]
    fn a_full_disk_below_an_error_is_inconclusive() {
        let failure = Failure::from(Product(io::ErrorKind::StorageFull.into()));
        assert_eq!(failure.verdict(), Verdict::Inconclusive);
        let text = Failure::new("a text");
        assert_eq!(text.verdict(), Verdict::Violated);
    }

    #[test]
    fn a_failing_victim_is_a_violation_and_a_foreign_kill_is_not() {
        let victim = "v".to_owned();
        let foreign = HarnessError::KilledByOthers {
            victim: victim.clone(),
        };
        assert_eq!(Failure::from(foreign).verdict(), Verdict::Inconclusive);
        let ended = HarnessError::Ended {
            victim,
            exit: Exit::Exited { code: 101 },
            waiting_for: "3 acks".to_owned(),
        };
        let failure = Failure::from(ended);
        assert_eq!(failure.verdict(), Verdict::Violated);
        let expected = "victim v ended with exit code 101 while 3 acks was awaited";
        assert_eq!(failure.reason(), expected);
    }
}
