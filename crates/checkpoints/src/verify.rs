//! Runs a pack of evidence: every item, now, each with its outcome and reason.
//!
//! Commands, rows and the user's own kinds come first, since they may still
//! write; files are read after them and synced through the descriptor that was
//! read. What cannot be asked has failed. Only a store that is busy or closed,
//! or a machine without resources, ends the run with an error, since that says
//! nothing about the evidence; and,
//! before a commit, a file that holds and cannot be made durable.

use agentos_core::limits::REASON_BYTES_MAX;
use agentos_core::{EvidenceOutcome, EvidenceResult, Storage, Verification};

use crate::config::CheckpointConfig;
use crate::error::CheckpointError;
use crate::evidence::{Check, Evidence, Pack};
use crate::paths::{Base, PathProblem};
use crate::sync::Syncer;

/// What a check of a checkpoint's evidence said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What the evidence says as a whole: unverified when there is none.
    pub verification: Verification,
    /// What each item says, in the order of the pack.
    pub results: Vec<EvidenceResult>,
}

impl Report {
    /// The items that failed.
    pub fn failed(&self) -> impl Iterator<Item = &EvidenceResult> {
        self.results
            .iter()
            .filter(|result| result.outcome == EvidenceOutcome::Failed)
    }
}

/// One run over one pack.
pub(crate) struct Examination<'a> {
    storage: &'a dyn Storage,
    config: &'a CheckpointConfig,
    base: Base<'a>,
}

impl<'a> Examination<'a> {
    pub(crate) fn new(storage: &'a dyn Storage, config: &'a CheckpointConfig) -> Examination<'a> {
        let base = Base::new(&config.base_dir, config.allow_outside, &storage.own_files());
        Examination {
            storage,
            config,
            base,
        }
    }

    /// Checks every item of a stored pack.
    pub(crate) fn check(&self, pack: &Pack) -> Result<Report, CheckpointError> {
        let mut run = Run::of(pack);
        for at in run.order.clone() {
            let check = self.check_item(&pack.items()[at], None)?;
            run.note(at, &pack.items()[at], check, self.storage);
        }
        Ok(run.report(pack))
    }

    /// Checks every item of a pack before its checkpoint is stored, takes the
    /// digests that are still to be taken, and makes durable what holds.
    ///
    /// Nothing is checked when verification is off: what exists is made
    /// durable, and the report has results only for digests that could not be
    /// taken, if these alone make the pack fail.
    pub(crate) fn attest(&self, pack: &mut Pack) -> Result<Report, CheckpointError> {
        self.refuse_paths(pack)?;
        let mut syncer = self.config.sync_evidence.then(Syncer::default);
        let mut run = Run::of(pack);
        for at in run.order.clone() {
            let item = &mut pack.items_mut()[at];
            let pending = matches!(item, Evidence::FileDigest(digest) if digest.is_pending());
            let check = match item {
                Evidence::FileDigest(digest) if pending => {
                    digest.take(&self.base, syncer.as_mut())?
                }
                item if self.config.auto_verify => self.check_item(item, syncer.as_mut())?,
                item => {
                    self.sync_item(item, syncer.as_mut())?;
                    continue;
                }
            };
            if self.config.auto_verify || check != Check::Passed {
                run.note(at, &pack.items()[at], check, self.storage);
            }
        }
        let report = if self.config.auto_verify {
            run.report(pack)
        } else {
            run.partial_report(pack)
        };
        // What is refused will not be spoken of: its directories can wait.
        let refused = report.verification == Verification::Failed && self.config.refuses();
        if let (Some(syncer), false) = (syncer, refused) {
            syncer.finish()?;
        }
        Ok(report)
    }

    /// Refuses paths that evidence may not speak of, before any is opened.
    fn refuse_paths(&self, pack: &Pack) -> Result<(), CheckpointError> {
        for (item, evidence) in pack.items().iter().enumerate() {
            let Some(path) = evidence.path() else {
                continue;
            };
            if let Err(PathProblem::Refused(refusal)) = self.base.find(path) {
                return Err(CheckpointError::PathRefused {
                    item,
                    path: path.to_owned(),
                    refusal,
                });
            }
        }
        Ok(())
    }

    fn check_item(
        &self,
        item: &Evidence,
        syncer: Option<&mut Syncer>,
    ) -> Result<Check, CheckpointError> {
        match item {
            Evidence::ArtifactExists(artifact) => artifact.check(&self.base, syncer),
            Evidence::FileDigest(digest) => digest.check(&self.base, syncer),
            Evidence::CommandExit(command) => command.check(&self.base),
            Evidence::DbRow(row) => row.check(&self.base, self.storage),
            Evidence::Custom(custom) => {
                let kind = self.config.find_kind(&custom.name);
                Ok(custom.check(kind, &self.base))
            }
        }
    }

    /// Makes a file durable that nobody verifies.
    fn sync_item(
        &self,
        item: &Evidence,
        syncer: Option<&mut Syncer>,
    ) -> Result<(), CheckpointError> {
        let (Some(syncer), true, Some(path)) = (syncer, speaks_of_file(item), item.path()) else {
            return Ok(());
        };
        match self.base.find(path) {
            Ok(found) => syncer.found(&self.base, &found),
            Err(PathProblem::Unreadable(source)) => Err(CheckpointError::NotDurable {
                path: path.to_owned(),
                source,
            }),
            // It was inside a moment ago; resume will refuse it again.
            Err(PathProblem::Refused(_)) => Ok(()),
        }
    }
}

/// Whether the item is about a file that this crate reads and syncs itself.
fn speaks_of_file(item: &Evidence) -> bool {
    matches!(item, Evidence::ArtifactExists(_) | Evidence::FileDigest(_))
}

/// The results so far.
struct Run {
    /// Positions of the items, in the order in which they are looked at.
    order: Vec<usize>,
    results: Vec<EvidenceResult>,
}

impl Run {
    fn of(pack: &Pack) -> Run {
        let items = pack.items();
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|at| speaks_of_file(&items[*at]));
        Run {
            order,
            results: Vec::with_capacity(items.len()),
        }
    }

    fn note(&mut self, at: usize, item: &Evidence, check: Check, storage: &dyn Storage) {
        let (outcome, reason) = match check {
            Check::Passed => (EvidenceOutcome::Passed, None),
            Check::Failed(reason) => (EvidenceOutcome::Failed, Some(storable(&reason))),
        };
        self.results.push(EvidenceResult {
            item: u32::try_from(at).unwrap_or(u32::MAX), // at most EVIDENCE_ITEMS_MAX
            kind: item.kind().to_owned(),
            outcome,
            reason,
            checked_at: storage.now(),
        });
    }

    fn sorted(mut self) -> Vec<EvidenceResult> {
        self.results.sort_by_key(|result| result.item);
        self.results
    }

    fn report(self, pack: &Pack) -> Report {
        let results = self.sorted();
        Report {
            verification: pack.verdict(&results),
            results,
        }
    }

    /// When only failures were noted, and most items were not looked at.
    fn partial_report(self, pack: &Pack) -> Report {
        if pack.may_hold(self.results.len()) {
            return Report {
                verification: Verification::Unverified,
                results: Vec::new(),
            };
        }
        Report {
            verification: Verification::Failed,
            results: self.sorted(),
        }
    }
}

/// A reason as it can be stored: without NUL, and no longer than the limit.
fn storable(reason: &str) -> String {
    let mut reason = reason.replace('\0', "\u{fffd}");
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_cut_between_characters_and_have_no_nul() {
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
        assert_eq!(storable(""), "");
        let long = "é".repeat(REASON_BYTES_MAX);
        assert_eq!(storable(&long).len(), REASON_BYTES_MAX);
        let odd = format!("a{long}");
        assert_eq!(storable(&odd).len(), REASON_BYTES_MAX - 1);
        // NUL becomes three bytes: the cut comes after the replacement.
        assert!(storable(&"\0".repeat(REASON_BYTES_MAX)).len() <= REASON_BYTES_MAX);
    }

    #[test]
    fn files_are_looked_at_after_everything_that_may_still_write() {
        let pack = Pack::all([
            Evidence::file("a"),
            Evidence::command(["make"], Some(0)),
            Evidence::exists("b", crate::ArtifactKind::Any),
            Evidence::custom("mine", serde_json::Value::Null),
        ]);
        assert_eq!(Run::of(&pack).order, [1, 3, 0, 2]);
    }
}
