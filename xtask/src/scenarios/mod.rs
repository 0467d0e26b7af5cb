//! The scenarios. One file each: goal, method, run.

pub(crate) mod bit_rot;
pub(crate) mod clerks_rows;
pub(crate) mod clock_jump;
pub(crate) mod concurrent_checkpoints;
pub(crate) mod crew;
pub(crate) mod disk_full;
pub(crate) mod end_to_end;
mod gate;
pub(crate) mod in_doubt;
pub(crate) mod io_error;
pub(crate) mod kill_9_recovery;
pub(crate) mod kill_during_upkeep;
pub(crate) mod kill_storm;
pub(crate) mod lease_expiration;
mod lineage;
pub(crate) mod llm_cache;
mod own_disk;
mod plan;
pub(crate) mod poison_item;
pub(crate) mod power_loss;
pub(crate) mod recovery_sweep;
pub(crate) mod rivalry;
pub(crate) mod single_flight;
pub(crate) mod slow_disk;
mod sources;
pub(crate) mod sweep_race;
pub(crate) mod tidied;
pub(crate) mod told;
pub(crate) mod too_many;
pub(crate) mod tool_replay;
mod traces;
pub(crate) mod zombie_worker;

use std::fmt::{Debug, Display};

use agentos_chaos::{Failure, Outcome, Scenario, UnknownScenario, select};
use serde::de::DeserializeOwned;

use self::power_loss::Extent;
use crate::canary::Canary;

/// The scenarios that run when nothing is said: those of the numbers 1 to 7.
const DEFAULT_MAX: u32 = 7;

/// Every scenario in the order of their numbers, with victims that are broken as
/// `canary` says.
pub(crate) fn all(canary: Option<Canary>) -> Vec<Scenario> {
    all_with(canary, Extent::Sample)
}

/// The same for many runs: what is a sample in one of them is a smaller one.
pub(crate) fn all_for_many_runs(canary: Option<Canary>) -> Vec<Scenario> {
    all_with(canary, Extent::SampleOfMany)
}

fn all_with(canary: Option<Canary>, cuts: Extent) -> Vec<Scenario> {
    vec![
        kill_9_recovery::scenario(canary),
        concurrent_checkpoints::scenario(canary),
        lease_expiration::scenario(canary),
        recovery_sweep::scenario(canary),
        llm_cache::scenario(canary),
        tool_replay::scenario(canary),
        end_to_end::scenario(canary),
        zombie_worker::scenario(canary),
        kill_storm::scenario(canary),
        poison_item::scenario(canary),
        clock_jump::scenario(canary),
        sweep_race::scenario(canary),
        in_doubt::scenario(canary),
        single_flight::scenario(canary),
        power_loss::scenario(canary, cuts),
        disk_full::scenario(canary),
        io_error::scenario(canary),
        bit_rot::scenario(canary),
        slow_disk::scenario(canary),
        kill_during_upkeep::scenario(canary),
        too_many::scenario(canary),
    ]
}

/// Those that are named; when none is, the first seven, or all of them if `every`.
pub(crate) fn chosen<'all>(
    all: &'all [Scenario],
    named: &[String],
    every: bool,
) -> Result<Vec<&'all Scenario>, UnknownScenario> {
    let mut chosen = select(all, named)?;
    if named.is_empty() && !every {
        chosen.retain(|scenario| scenario.id <= DEFAULT_MAX);
    }
    Ok(chosen)
}

/// What a victim acknowledged, as it wrote it.
pub(crate) fn fact<T: DeserializeOwned>(ack: &str) -> Result<T, Failure> {
    serde_json::from_str(ack)
        .map_err(|error| Failure::new(format!("a strange acknowledgement, {ack:?}: {error}")))
}

/// Checks that something is as it must be.
pub(crate) fn same<T: PartialEq + Debug>(
    outcome: &mut Outcome,
    what: impl Display,
    found: T,
    expected: T,
) {
    outcome.check(found == expected, || {
        format!("{what}: {found:?}, and must be {expected:?}")
    });
}
