//! The gate: execute, wait or replay.
