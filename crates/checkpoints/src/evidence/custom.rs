//! Evidence of a user's own kind: a name, parameters, and code registered under
//! that name. A kind that nobody registered fails; it never passes.

use std::path::{Path, PathBuf};

use agentos_core::limits::check_name;
use agentos_core::{InvalidInput, StorageError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::evidence::Evidence;
use crate::paths::Base;

/// What a check of one item of evidence said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// It holds, now.
    Passed,
    /// It does not hold, or could not be asked, for this reason. Reasons are
    /// cut to [`REASON_BYTES_MAX`](agentos_core::limits::REASON_BYTES_MAX).
    Failed(String),
}

impl Check {
    /// It does not hold, or could not be asked, for this `reason`.
    pub fn failed(reason: impl Into<String>) -> Check {
        Check::Failed(reason.into())
    }

    /// Passed when `holds`, else failed for the `reason`.
    pub fn when(holds: bool, reason: impl FnOnce() -> String) -> Check {
        if holds {
            Check::Passed
        } else {
            Check::Failed(reason())
        }
    }
}

/// A kind of evidence that this crate does not know.
///
/// Every function `Fn(&Value, &CheckContext<'_>) -> Check` is one.
pub trait EvidenceKind: Send + Sync {
    /// Asks the outside world whether what `params` say holds now.
    ///
    /// Called before a commit and again on every resume: it should be quick,
    /// bound its waits, and change nothing.
    fn check(&self, params: &Value, context: &CheckContext<'_>) -> Check;
}

impl<F> EvidenceKind for F
where
    F: Fn(&Value, &CheckContext<'_>) -> Check + Send + Sync,
{
    fn check(&self, params: &Value, context: &CheckContext<'_>) -> Check {
        self(params, context)
    }
}

/// What a check of the user's own kind may rest on.
#[derive(Debug)]
pub struct CheckContext<'a> {
    base: &'a Base<'a>,
}

impl<'a> CheckContext<'a> {
    pub(crate) fn new(base: &'a Base<'a>) -> CheckContext<'a> {
        CheckContext { base }
    }

    /// The base directory of evidence, absolute.
    pub fn base_dir(&self) -> &Path {
        self.base.dir()
    }

    /// The absolute path that `path` leads to, under the rules for all
    /// evidence; the file may be missing.
    ///
    /// # Errors
    ///
    /// A failed check that says why: the path leaves the base directory, is a
    /// file of the store, or cannot be looked up.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<PathBuf, Check> {
        let path = path.as_ref();
        self.base
            .find(path)
            .map(|found| found.place.path)
            .map_err(|problem| Check::failed(format!("{} {problem}", path.display())))
    }
}

/// An item of a user's own kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Custom {
    pub(crate) name: String,
    pub(crate) params: Value,
}

impl Custom {
    /// The kind registered as `name`, asked with `params`.
    pub fn new(name: impl Into<String>, params: Value) -> Custom {
        Custom {
            name: name.into(),
            params,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), StorageError> {
        check_kind_name(&self.name)
    }

    pub(crate) fn check(&self, kind: Option<&dyn EvidenceKind>, base: &Base<'_>) -> Check {
        match kind {
            Some(kind) => kind.check(&self.params, &CheckContext::new(base)),
            None => Check::failed(format!("no kind {:?} is registered here", self.name)),
        }
    }
}

/// Refuses a name that no user's kind can have: results carry it, and must not
/// be taken for those of a kind that this crate knows.
pub(crate) fn check_kind_name(name: &str) -> Result<(), StorageError> {
    check_name("evidence kind", name)?;
    if Evidence::OWN_KINDS.contains(&name) {
        return Err(InvalidInput::new("evidence kind", format!("{name:?} is taken")).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kind_that_is_not_registered_fails() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::new(dir.path(), false, &[]);
        let custom = Custom::new("ticket_open", json!({"id": 7}));
        assert_eq!(
            custom.check(None, &base),
            Check::failed("no kind \"ticket_open\" is registered here")
        );
    }

    #[test]
    fn a_registered_kind_gets_its_parameters_and_the_rules_for_paths() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let base = Base::new(&top, false, &[]);
        let kind = |params: &Value, context: &CheckContext<'_>| {
            let path = params["path"].as_str().unwrap_or_default();
            match context.resolve(path) {
                Ok(path) => Check::when(path.starts_with(context.base_dir()), || "far".into()),
                Err(refused) => refused,
            }
        };
        let check = |path| Custom::new("mine", json!({ "path": path })).check(Some(&kind), &base);
        assert_eq!(check("inside"), Check::Passed);
        assert_eq!(
            check("../outside"),
            Check::failed("../outside leaves the base directory")
        );
    }

    #[test]
    fn names_of_known_kinds_are_taken() {
        for name in Evidence::OWN_KINDS {
            assert!(check_kind_name(name).is_err(), "{name}");
        }
        assert!(check_kind_name("").is_err());
        assert!(check_kind_name("ticket_open").is_ok());
    }
}
