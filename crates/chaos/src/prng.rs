//! Seeded randomness: every choice that a scenario makes comes from one seed.
//!
//! The derivations [`scenario_seed`] and [`run_seed`] are fixed for ever, so a
//! seed from an old report stays the same seed. The numbers that a [`Prng`] then
//! draws are `fastrand`'s; replay with the build that found the failure. A seed
//! replays our choices, never the scheduler's.

use std::time::Duration;

/// Seeds stay below 2^53, so that every JSON reader keeps them exact.
const SEED_BITS: u32 = 53;

/// A seed for a run to which the user gave none: short enough to type.
pub fn fresh_seed() -> u64 {
    fastrand::u64(1..1_000_000_000)
}

/// The seed of one scenario within a run: splitmix64 of the run's seed mixed
/// with the FNV-1a hash of the name. Running one scenario alone with the same
/// seed therefore makes the same choices.
pub fn scenario_seed(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    splitmix64(seed ^ hash)
}

/// The seed of run number `run` of a loop over many runs: splitmix64 of the
/// loop's seed advanced by `run` steps, cut to 53 bits. Run 37 replays alone.
pub fn run_seed(loop_seed: u64, run: u64) -> u64 {
    let step = run.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    splitmix64(loop_seed.wrapping_add(step)) >> (u64::BITS - SEED_BITS)
}

fn splitmix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A deterministic source of choices.
#[derive(Debug, Clone)]
pub struct Prng(fastrand::Rng);

impl Prng {
    /// The same seed gives the same choices.
    pub fn seeded(seed: u64) -> Prng {
        Prng(fastrand::Rng::with_seed(seed))
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number from `min` to `max`, both included. Bounds in the wrong order
    /// are swapped.
    pub fn between(&mut self, min: u64, max: u64) -> u64 {
        self.0.u64(min.min(max)..=min.max(max))
    }

    /// A time from `min` to `max`, in whole nanoseconds, both included.
    pub fn duration_between(&mut self, min: Duration, max: Duration) -> Duration {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.between(nanos(min), nanos(max)))
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.between(0, 99) < percent
    }

    /// One of the items; `None` when there is none.
    pub fn pick<'items, T>(&mut self, items: &'items [T]) -> Option<&'items T> {
        self.0.choice(items)
    }

    /// Puts the items in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        self.0.shuffle(items);
    }

    /// Random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.fill(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These numbers stand in old reports: they must never change.
    #[test]
    fn derived_seeds_are_fixed_for_ever() {
        assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(scenario_seed(1, "kill-9-recovery"), 0x62fa_39d7_1ba2_4cdd,);
        assert_eq!(run_seed(8141, 37), 0x0017_3ced_523e_6d96);
    }

    #[test]
    fn derived_seeds_differ_by_name_and_by_run() {
        assert_ne!(scenario_seed(1, "a"), scenario_seed(1, "b"));
        assert_ne!(scenario_seed(1, "a"), scenario_seed(2, "a"));
        let mut seeds: Vec<u64> = (0..1000).map(|run| run_seed(5, run)).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 1000);
        assert!(seeds.iter().all(|seed| *seed < 1 << SEED_BITS));
    }

    #[test]
    fn one_seed_makes_the_same_choices_within_its_bounds() {
        let (mut one, mut two) = (Prng::seeded(7), Prng::seeded(7));
        for _ in 0..1000 {
            let number = one.between(5, 9);
            assert!((5..=9).contains(&number));
            assert_eq!(number, two.between(9, 5));
        }
        assert_eq!(one.bytes(100), two.bytes(100));
        let millis = Duration::from_millis;
        assert!(one.duration_between(millis(1), millis(2)) >= millis(1));
        assert_eq!(one.pick::<u8>(&[]), None);
        assert!(one.percent(100) && !one.percent(0));
    }
}
