//! A program under test: how it is started in a directory for a workload of a
//! size, and what must hold after it was struck.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use agentos_process::Exit;

use super::strike::Strike;
use crate::error::Failure;
use crate::scenario::{Run, ScenarioResult};
use crate::supervisor::VictimSpec;
use crate::transcript::Transcript;

/// Says what must hold, once.
type Check = Box<dyn FnOnce(&mut Run, &Aftermath) -> ScenarioResult + Send>;

/// Makes a fresh directory ready, and says what to start and to check there.
type Begin = dyn Fn(&mut Run, u64) -> Result<Staged, Failure> + Send + Sync;

/// A victim that is to be started, and what must hold after it was struck.
pub struct Staged {
    pub(crate) spec: VictimSpec,
    pub(crate) check: Check,
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl Staged {
    /// This victim, and this check. What the check owns lives as long as the
    /// victim: a server that it talks to, for one.
    pub fn new(
        spec: VictimSpec,
        check: impl FnOnce(&mut Run, &Aftermath) -> ScenarioResult + Send + 'static,
    ) -> Staged {
        Staged {
            spec,
            check: Box::new(check),
        }
    }
}

/// A program under test. See [`Subject::new`].
pub struct Subject {
    pub(crate) name: String,
    pub(crate) goal: String,
    pub(crate) size: u64,
    pub(crate) smallest: u64,
    pub(crate) may_hang: bool,
    begin: Box<Begin>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("name", &self.name)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Subject {
    /// A program under a name.
    ///
    /// `victim` gets a fresh, empty directory and the *size* of the workload:
    /// how much the program has to do before it ends by itself with code 0.
    /// `check` runs when nothing of the victim runs any more, and says what must
    /// hold then: after a crash anywhere, after a failed system call, and when
    /// nobody was struck. It may start more victims through its [`Run`], for
    /// instance one that recovers.
    pub fn new(
        name: impl Into<String>,
        victim: impl Fn(&Path, u64) -> VictimSpec + Send + Sync + 'static,
        check: impl Fn(&mut Run, &Aftermath) -> ScenarioResult + Send + Sync + 'static,
    ) -> Subject {
        let check = Arc::new(check);
        Subject::staged(name, move |run, size| {
            let check = Arc::clone(&check);
            let spec = victim(run.dir(), size);
            Ok(Staged::new(spec, move |run, after| check(run, after)))
        })
    }

    /// A program whose directory is made ready first, or whose check needs what
    /// that brought: `begin` is called once a run with the size, and returns the
    /// victim and its check.
    pub fn staged(
        name: impl Into<String>,
        begin: impl Fn(&mut Run, u64) -> Result<Staged, Failure> + Send + Sync + 'static,
    ) -> Subject {
        Subject {
            name: name.into(),
            goal: "what was acknowledged survives".to_owned(),
            size: 10,
            smallest: 1,
            may_hang: false,
            begin: Box::new(begin),
        }
    }

    /// Does this in every fresh directory first, before the victim is named.
    #[must_use]
    pub fn prepare(
        mut self,
        prepare: impl Fn(&mut Run, u64) -> Result<(), Failure> + Send + Sync + 'static,
    ) -> Subject {
        let begin = self.begin;
        self.begin = Box::new(move |run, size| {
            prepare(run, size)?;
            begin(run, size)
        });
        self
    }

    /// The guarantee, in one sentence, for reports.
    #[must_use]
    pub fn goal(mut self, goal: impl Into<String>) -> Subject {
        self.goal = goal.into();
        self
    }

    /// The size of the workload; 10 unless said otherwise. A violation is shown
    /// again with smaller ones, down to [`smallest`](Self::smallest).
    #[must_use]
    pub fn size(mut self, size: u64) -> Subject {
        self.size = size;
        self
    }

    /// The smallest size that is a workload; 1 unless said otherwise.
    #[must_use]
    pub fn smallest(mut self, smallest: u64) -> Subject {
        self.smallest = smallest;
        self
    }

    /// Allows the victim not to end after a strike. It is killed then, and
    /// checked all the same. Without this, to hang is a violation.
    #[must_use]
    pub fn may_hang(mut self) -> Subject {
        self.may_hang = true;
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The size of its workload.
    pub fn default_size(&self) -> u64 {
        self.size
    }

    pub(crate) fn begin(&self, run: &mut Run, size: u64) -> Result<Staged, Failure> {
        (self.begin)(run, size)
    }
}

/// What a check gets to know of the victim, of which nothing runs any more.
#[derive(Debug, Clone)]
pub struct Aftermath {
    /// How it was to be struck.
    pub strike: Strike,
    /// The size of its workload.
    pub size: u64,
    /// All that it said, and how it ended.
    pub transcript: Transcript,
    /// What was really struck; `None` when the strike was not reached, so that
    /// the victim came to its end as if nobody were there.
    pub hit: Option<String>,
    /// Whether it did not end in time and was killed for that.
    pub hung: bool,
}

impl Aftermath {
    /// The payloads of the acknowledgements, in order.
    pub fn acks(&self) -> Vec<String> {
        self.transcript.acks()
    }

    /// How the victim ended.
    pub fn exit(&self) -> Option<Exit> {
        self.transcript.exit
    }

    /// Whether the victim came to its own end with code 0: then it says that
    /// all was done.
    pub fn finished(&self) -> bool {
        self.transcript.exit.is_some_and(Exit::success)
    }
}
