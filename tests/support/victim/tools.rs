//! Roles about the ledger of tool calls.

use std::sync::Arc;

use agentos_core::limits::LEASE_MIN;
use agentos_idempotency::{CommandCall, GateConfig, IdempotencyStore, LedgerConfig, ToolLedger};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{config, new_worker, task_id};

use super::say;

/// Runs a script through the ledger, as the first call of the step `step` of the task
/// `task`, and says how it ended.
pub(super) fn run_command(database: &str, script: &str) {
    let store = Arc::new(SqliteStore::open(config(database)).expect("an open store"));
    let config = GateConfig::new(new_worker("agent")).permit_lease(LEASE_MIN);
    let gate = IdempotencyStore::new(store, config).expect("a gate");
    let ledger = ToolLedger::new(gate, LedgerConfig::new());
    let step = ledger.step(&task_id("task"), "step");
    let answer = step.command(&CommandCall::bash(script).cwd("/"), None);
    let answer = answer.expect("an answer");
    say(format_args!(
        "{} replayed={}",
        answer.outcome.exit, answer.replayed
    ));
}
