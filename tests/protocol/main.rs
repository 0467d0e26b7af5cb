//! The lease protocol, as a model: every state of it explored, and the real store
//! held against it step by step.
//!
//! What is printed with `--nocapture` is how much was explored, and the seed of
//! the histories.

mod exhaustive;
mod exploration;
mod graph;
mod histories;
mod model;
mod product;
mod step;
