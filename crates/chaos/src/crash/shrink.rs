//! The smallest workload for which a strike still shows a violation, and the
//! earliest such strike. Pure: what a size shows is asked for.

use super::strike::Strike;

/// What the runs of one size showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The first strike that was violated.
    Violated(Strike),
    /// None was.
    Nothing,
    /// No run is left.
    OutOfRuns,
}

/// The smallest case that was found, never larger than what is given.
///
/// Sizes are doubled from the smallest on until one shows something, and then
/// halved towards the last that did not. The earliest strike of the found size
/// is what `show` gave for it.
pub(crate) fn smallest(
    found: (Strike, u64),
    smallest: u64,
    mut show: impl FnMut(u64) -> Shown,
) -> (Strike, u64) {
    let (mut best, mut size) = found;
    let mut innocent = None;
    for candidate in sizes(smallest, size) {
        match show(candidate) {
            Shown::Violated(strike) => {
                (best, size) = (strike, candidate);
                break;
            }
            Shown::Nothing => innocent = Some(candidate),
            Shown::OutOfRuns => return (best, size),
        }
    }
    while let Some(low) = innocent.filter(|low| low + 1 < size) {
        let middle = u64::midpoint(low, size);
        match show(middle) {
            Shown::Violated(strike) => (best, size) = (strike, middle),
            Shown::Nothing => innocent = Some(middle),
            Shown::OutOfRuns => break,
        }
    }
    (best, size)
}

/// The smallest, then further by 1, 2, 4, …; the last is the size itself.
fn sizes(smallest: u64, size: u64) -> Vec<u64> {
    let mut sizes = Vec::new();
    let mut step: u64 = 0;
    while let Some(candidate) = smallest.checked_add(step).filter(|one| *one < size) {
        sizes.push(candidate);
        step = (step * 2).max(1);
    }
    sizes.push(size);
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(hit: u64) -> Strike {
        let name = "a".to_owned();
        Strike::Point { name, hit }
    }

    /// Everything from `from` on shows something, in at most `runs` looks.
    fn shrunk(size: u64, from: u64, mut runs: u32) -> (Strike, u64) {
        smallest((point(99), size), 1, |size| {
            if runs == 0 {
                return Shown::OutOfRuns;
            }
            runs -= 1;
            if size >= from {
                Shown::Violated(point(size))
            } else {
                Shown::Nothing
            }
        })
    }

    #[test]
    fn sizes_double_from_the_smallest_to_the_size() {
        assert_eq!(sizes(1, 20), [1, 2, 3, 5, 9, 17, 20]);
        assert_eq!(sizes(1, 1), [1]);
        assert_eq!(sizes(5, 3), [3]);
        assert_eq!(sizes(u64::MAX, u64::MAX), [u64::MAX]);
    }

    #[test]
    fn the_smallest_size_and_its_earliest_strike_are_found() {
        for size in 1..70 {
            for from in 1..=size {
                assert_eq!(shrunk(size, from, 100), (point(from), from), "{size}");
            }
        }
    }

    #[test]
    fn what_cannot_be_shown_again_stays_as_it_was_found() {
        assert_eq!(shrunk(20, 21, 100), (point(99), 20));
    }

    #[test]
    fn without_runs_the_best_so_far_stays() {
        assert_eq!(shrunk(20, 7, 0), (point(99), 20));
        // 1, 2, 3, 5, then 9 shows something.
        assert_eq!(shrunk(20, 7, 5), (point(9), 9));
    }
}
