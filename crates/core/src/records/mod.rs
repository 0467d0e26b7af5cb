//! What is stored, as plain records, and the legal transitions of its states.
//!
//! The state machines stand here once; `docs/STATES.md` draws them, and the
//! database refuses every transition that they do not have.

pub mod audit;
pub mod checkpoint;
pub mod key;
pub mod retention;
pub mod row;
pub mod task;
pub mod work_item;
