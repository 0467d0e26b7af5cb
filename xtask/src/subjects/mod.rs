//! The scenarios of this project as subjects: the same victims and the same checks,
//! for a crash at every point and at every system call.
//!
//! A subject has the name of its scenario. One file each: what the victim does, how
//! the directory is made ready, and what must hold after it was struck anywhere.

use agentos_chaos::Subject;

use crate::canary::Canary;

/// Every subject in the order of their scenarios' numbers, with victims that are broken
/// as `canary` says.
pub(crate) fn all(_canary: Option<Canary>) -> Vec<Subject> {
    Vec::new()
}
