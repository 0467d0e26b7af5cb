//! The scenarios. One file each: goal, method, run.

mod concurrent_checkpoints;
mod end_to_end;
mod kill_9_recovery;
mod kill_during_upkeep;
mod lineage;
mod plan;
mod sources;
mod tidied;

use agentos_chaos::Scenario;

use crate::canary::Canary;

/// Every scenario, with victims that are broken as `canary` says.
pub(crate) fn all(canary: Option<Canary>) -> Vec<Scenario> {
    vec![
        kill_9_recovery::scenario(canary),
        concurrent_checkpoints::scenario(canary),
        end_to_end::scenario(canary),
        kill_during_upkeep::scenario(canary),
    ]
}
