//! What the store must be, in plain memory: tasks with their states, numbered
//! checkpoints, recorded checks and audit lines. A commit is applied to a copy,
//! and the copy is dropped when a part fails.

use agentos_core::records::audit::{TASK_CREATED, TASK_STATUS};
use agentos_core::{
    AuditLine, Commit, EvidenceOutcome, EvidenceResult, RecordVerification, SequenceNumber,
    SetTaskStatus, TaskStatus, Timestamp, Verification,
};
use agentos_tests::{append, new_task, task_id};
use proptest::prelude::*;
use serde_json::json;

/// Tasks that may exist: few, so that steps meet.
pub(crate) const TASKS: usize = 4;

/// One part of a commit, as a plain word.
#[derive(Debug, Clone)]
pub(crate) enum Word {
    Create {
        task: usize,
        variant: u8,
    },
    SetStatus {
        task: usize,
        to: TaskStatus,
    },
    Append {
        task: usize,
        state: Vec<u8>,
    },
    Note {
        task: usize,
        event: String,
    },
    Verify {
        task: usize,
        number: u64,
        items: u32,
    },
}

/// One step of a history.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Commit(Vec<Word>),
    Reopen,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    /// By their order of creation.
    pub(crate) tasks: Vec<Task>,
    /// What the last step had to answer: the numbers given, or the error's type.
    pub(crate) answer: Result<Vec<u64>, &'static str>,
}

#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) index: usize,
    pub(crate) variant: u8,
    pub(crate) status: TaskStatus,
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) audits: Vec<Line>,
}

#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    pub(crate) state: Vec<u8>,
    pub(crate) verification: Verification,
    pub(crate) results: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) event: String,
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
}

pub(crate) fn name(task: usize) -> String {
    format!("task '{task}' é")
}

pub(crate) fn results(items: u32) -> Vec<EvidenceResult> {
    let results = (0..items).map(|item| EvidenceResult {
        item,
        kind: "file_digest".into(),
        outcome: EvidenceOutcome::Passed,
        reason: None,
        checked_at: Timestamp::from_unix_micros(item.into()),
    });
    results.collect()
}

fn verification(items: u32) -> Verification {
    if items == 0 {
        Verification::Failed
    } else {
        Verification::Verified
    }
}

impl Word {
    /// Adds the part that this word stands for.
    pub(crate) fn add_to(&self, commit: Commit) -> Commit {
        match self {
            Word::Create { task, variant } => {
                commit.part(new_task(&name(*task)).metadata(json!({"variant": variant})))
            }
            Word::SetStatus { task, to } => {
                commit.part(SetTaskStatus::new(task_id(&name(*task)), *to))
            }
            Word::Append { task, state } => commit.part(append(&name(*task), state.clone())),
            Word::Note { task, event } => {
                commit.part(AuditLine::new(task_id(&name(*task)), event.clone()))
            }
            Word::Verify {
                task,
                number,
                items,
            } => commit.part(RecordVerification {
                task: task_id(&name(*task)),
                sequence: SequenceNumber::new(*number).expect("a number"),
                verification: verification(*items),
                results: results(*items),
            }),
        }
    }
}

impl Default for Model {
    fn default() -> Model {
        Model {
            tasks: Vec::new(),
            answer: Ok(Vec::new()),
        }
    }
}

impl Model {
    /// Applies a commit wholly or not at all.
    pub(crate) fn commit(mut self, words: &[Word]) -> Model {
        let mut copy = self.clone();
        let answer = if words.is_empty() {
            Err("Invalid")
        } else {
            let mut given = Vec::new();
            let applied = words
                .iter()
                .try_for_each(|word| copy.apply(word, &mut given));
            applied.map(|()| given)
        };
        if answer.is_ok() {
            self = copy;
        }
        self.answer = answer;
        self
    }

    fn apply(&mut self, word: &Word, given: &mut Vec<u64>) -> Result<(), &'static str> {
        match word {
            Word::Create { task, variant } => self.create(*task, *variant),
            Word::SetStatus { task, to } => {
                let task = self.task(*task)?;
                if !task.status.can_become(*to) {
                    return Err("IllegalTransition");
                }
                task.audits.push(Line {
                    event: TASK_STATUS.into(),
                    from: Some(task.status.to_string()),
                    to: Some(to.to_string()),
                });
                task.status = *to;
                Ok(())
            }
            Word::Append { task, state } => {
                let task = self.task(*task)?;
                task.checkpoints.push(Checkpoint {
                    state: state.clone(),
                    verification: Verification::Unverified,
                    results: 0,
                });
                given.push(task.checkpoints.len() as u64);
                Ok(())
            }
            Word::Note { task, event } => {
                self.task(*task)?.audits.push(Line {
                    event: event.clone(),
                    from: None,
                    to: None,
                });
                Ok(())
            }
            Word::Verify {
                task,
                number,
                items,
            } => {
                let task = self.task(*task)?;
                let checkpoint = task.checkpoints.get_mut(*number as usize - 1);
                let checkpoint = checkpoint.ok_or("NotFound")?;
                checkpoint.verification = verification(*items);
                checkpoint.results = *items;
                Ok(())
            }
        }
    }

    fn create(&mut self, index: usize, variant: u8) -> Result<(), &'static str> {
        if let Ok(task) = self.task(index) {
            return if task.variant == variant {
                Ok(())
            } else {
                Err("Conflict")
            };
        }
        self.tasks.push(Task {
            index,
            variant,
            status: TaskStatus::INITIAL,
            checkpoints: Vec::new(),
            audits: vec![Line {
                event: TASK_CREATED.into(),
                from: None,
                to: Some(TaskStatus::INITIAL.to_string()),
            }],
        });
        Ok(())
    }

    fn task(&mut self, index: usize) -> Result<&mut Task, &'static str> {
        let mut tasks = self.tasks.iter_mut();
        tasks.find(|task| task.index == index).ok_or("NotFound")
    }
}

/// Words about tasks and checkpoints that are there by then, and now and then
/// about ones that are not.
pub(crate) fn word(model: &Model) -> BoxedStrategy<Word> {
    let create = (0..TASKS, 0..2_u8).prop_map(|(task, variant)| Word::Create { task, variant });
    let known: Vec<usize> = model.tasks.iter().map(|task| task.index).collect();
    if known.is_empty() {
        return create.boxed();
    }
    let newest = model.tasks.iter().map(|task| task.checkpoints.len() as u64);
    let newest = newest.max().unwrap_or(0);
    let task = prop_oneof![15 => proptest::sample::select(known), 1 => 0..TASKS].boxed();
    prop_oneof![
        2 => create,
        2 => (task.clone(), proptest::sample::select(TaskStatus::ALL))
            .prop_map(|(task, to)| Word::SetStatus { task, to }),
        5 => (task.clone(), proptest::collection::vec(any::<u8>(), 0..64))
            .prop_map(|(task, state)| Word::Append { task, state }),
        2 => (task.clone(), "[a-zé🦀]{1,8}")
            .prop_map(|(task, event)| Word::Note { task, event }),
        4 => (task, 1..newest + 2, 0..3_u32)
            .prop_map(|(task, number, items)| Word::Verify { task, number, items }),
    ]
    .boxed()
}
