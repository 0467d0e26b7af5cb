//! Bounds of this crate.
