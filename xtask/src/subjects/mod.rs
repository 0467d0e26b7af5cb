//! The scenarios of this project as subjects: the same victims and the same checks,
//! for a crash at every point and at every system call.
//!
//! A subject has the name of its scenario. One file each: what the victim does, how
//! the directory is made ready, and what must hold after it was struck anywhere.

mod clock_jump;
mod concurrent_checkpoints;
mod end_to_end;
mod every_row;
mod in_doubt;
mod kill_9_recovery;
mod kill_during_upkeep;
mod kill_storm;
mod lease_expiration;
mod leases;
mod llm_cache;
mod poison_item;
mod recovery_sweep;
mod single_flight;
mod store_lifecycle;
mod sweep_race;
mod tool_replay;
mod zombie_worker;

use agentos_chaos::Subject;

use crate::canary::Canary;

/// Every subject in the order of their scenarios' numbers, with victims that are broken
/// as `canary` says.
pub(crate) fn all(canary: Option<Canary>) -> Vec<Subject> {
    vec![
        kill_9_recovery::subject(canary),
        concurrent_checkpoints::subject(canary),
        lease_expiration::subject(canary),
        recovery_sweep::subject(canary),
        llm_cache::subject(canary),
        tool_replay::subject(canary),
        end_to_end::subject(canary),
        zombie_worker::subject(canary),
        kill_storm::subject(canary),
        poison_item::subject(canary),
        clock_jump::subject(canary),
        sweep_race::subject(canary),
        in_doubt::subject(canary),
        single_flight::subject(canary),
        kill_during_upkeep::subject(canary),
        store_lifecycle::subject(canary),
        every_row::subject(canary),
    ]
}
