//! What counts say about a rate, and what times say about a distribution.
//!
//! Pure: no clock, no file. The bound is exact (Clopper-Pearson), not the usual
//! approximation, which would call 50 passes of 50 a certainty.

/// The chance that the bound is wrong.
const ALPHA: f64 = 0.05;

/// Halvings of an interval of length 1: more than a float can tell apart.
const BISECTIONS: u32 = 100;

/// A tail's terms that are smaller than this part of its sum do not matter.
const NEGLIGIBLE: f64 = 1e-17;

/// The one-sided lower bound, at 95 % confidence, of the rate of success after
/// `passes` of `judged`: were the true rate lower, so many passes or more would
/// come with a probability of less than 5 %. It is 0 when nothing passed, and
/// `0.05^(1/n)` when all `n` did.
///
/// More passes than runs count as that many.
pub fn lower_bound_95(passes: u64, judged: u64) -> f64 {
    let passes = passes.min(judged);
    if passes == 0 {
        return 0.0;
    }
    // The tail grows with the rate, and at the observed rate it is above 5 %.
    let (mut low, mut high) = (0.0, as_float(passes) / as_float(judged));
    let ln_choose = ln_choose(judged, passes);
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if tail(passes, judged, ln_choose, middle) < ALPHA {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// The probability of `passes` or more successes of `judged` at this rate, which
/// must not be above `passes / judged`: from there on the terms fall.
fn tail(passes: u64, judged: u64, ln_choose: f64, rate: f64) -> f64 {
    if rate <= 0.0 {
        return 0.0;
    }
    let failures = as_float(judged - passes);
    // 0 * ln(0) would be no number.
    let ln_of_failures = if passes == judged {
        0.0
    } else {
        failures * (-rate).ln_1p()
    };
    let first = (ln_choose + as_float(passes) * rate.ln() + ln_of_failures).exp();
    let odds = rate / (1.0 - rate);
    let (mut sum, mut term) = (1.0, 1.0);
    for successes in passes..judged {
        term *= as_float(judged - successes) / as_float(successes + 1) * odds;
        sum += term;
        if term < sum * NEGLIGIBLE {
            break;
        }
    }
    first * sum
}

/// The logarithm of `n` over `k`.
fn ln_choose(n: u64, k: u64) -> f64 {
    let fewer = k.min(n - k);
    (1..=fewer)
        .map(|i| (as_float(n - fewer + i) / as_float(i)).ln())
        .sum()
}

/// The smallest value that at least `percent` of 100 values do not exceed;
/// `None` when there is none. The values must be sorted.
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    debug_assert!(sorted.is_sorted());
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// How many values fall into each of `bins` equal parts of 0 to `max`; the last
/// part has its upper end too. Nothing falls outside.
pub(crate) fn histogram(values: impl Iterator<Item = f64>, max: f64, bins: usize) -> Vec<u64> {
    let mut counts = vec![0; bins];
    for value in values {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a float becomes the nearest index there is"
        )]
        let bin = if max > 0.0 {
            ((value / max * bins as f64) as usize).min(bins.saturating_sub(1))
        } else {
            0
        };
        if let Some(count) = counts.get_mut(bin) {
            *count += 1;
        }
    }
    counts
}

/// Counts of runs are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
pub(crate) fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} {expected}");
    }

    /// The values come from exact sums in another language.
    #[test]
    fn the_bound_is_the_exact_one() {
        assert_close(lower_bound_95(50, 50), 0.941_844_920_883_027_6);
        assert_close(lower_bound_95(49, 50), 0.908_601_869_280_302_5);
        assert_close(lower_bound_95(48, 50), 0.879_385_844_577_955_8);
        assert_close(lower_bound_95(25, 50), 0.376_245_891_209_045_3);
        assert_close(lower_bound_95(1, 50), 0.001_025_339_867_232_064);
        assert_close(lower_bound_95(97, 100), 0.924_289_206_250_169_9);
        assert_close(lower_bound_95(350, 350), 0.991_477_290_899_437_9);
    }

    #[test]
    fn nothing_is_known_when_nothing_passed() {
        assert_close(lower_bound_95(0, 50), 0.0);
        assert_close(lower_bound_95(0, 0), 0.0);
        assert_close(lower_bound_95(1, 1), 0.05);
    }

    #[test]
    fn many_runs_neither_overflow_nor_take_long() {
        assert_close(lower_bound_95(700_000, 700_000), 0.05_f64.powf(1.0 / 7e5));
        let half = lower_bound_95(350_000, 700_000);
        assert!(0.499 < half && half < 0.5, "{half}");
        let all_but_one = lower_bound_95(699_999, 700_000);
        assert!(0.999_99 < all_but_one && all_but_one < 1.0);
    }

    proptest! {
        /// Goal: at the bound the tail is 5 %. Method: the tail is summed term
        /// by term, with whole numbers for the binomial coefficients.
        #[test]
        fn at_the_bound_the_tail_is_five_percent(judged in 1_u64..60, passes in 1_u64..60) {
            let passes = passes.min(judged);
            let bound = lower_bound_95(passes, judged);
            let mut sum = 0.0;
            for k in passes..=judged {
                let choose = (1..=k).fold(1_u128, |all, i| all * u128::from(judged - k + i) / u128::from(i));
                let (k, rest) = (i32::try_from(k).unwrap(), i32::try_from(judged - k).unwrap());
                sum += choose as f64 * bound.powi(k) * (1.0 - bound).powi(rest);
            }
            prop_assert!((sum - ALPHA).abs() < 1e-9, "{passes} of {judged}: {bound} gives {sum}");
        }

        #[test]
        fn the_bound_is_below_the_rate_and_grows_with_passes(judged in 1_u64..5000, passes in 0_u64..5000) {
            let passes = passes.min(judged);
            let bound = lower_bound_95(passes, judged);
            prop_assert!((0.0..1.0).contains(&bound));
            prop_assert!(bound <= passes as f64 / judged as f64);
            prop_assert!(passes == judged || bound < lower_bound_95(passes + 1, judged));
        }

        #[test]
        fn a_percentile_is_one_of_the_values(mut values in prop::collection::vec(0_u64..1000, 1..200), percent in 1_usize..=100) {
            values.sort_unstable();
            let found = percentile(&values, percent).unwrap();
            let below = values.iter().filter(|value| **value <= found).count();
            let strictly = values.iter().filter(|value| **value < found).count();
            prop_assert!(values.contains(&found));
            prop_assert!(below * 100 >= values.len() * percent);
            prop_assert!(strictly * 100 < values.len() * percent);
        }

        #[test]
        fn every_value_falls_into_one_bin(values in prop::collection::vec(0.0..=1.0, 0..200)) {
            let counts = histogram(values.iter().copied(), 1.0, 20);
            prop_assert_eq!(counts.len(), 20);
            prop_assert_eq!(counts.iter().sum::<u64>(), values.len() as u64);
        }
    }

    #[test]
    fn percentiles_of_few_values_are_values() {
        assert_eq!(percentile(&[], 50), None);
        assert_eq!(percentile(&[7], 95), Some(7));
        assert_eq!(percentile(&[1, 2, 3, 4], 50), Some(2));
        assert_eq!(percentile(&[1, 2, 3, 4], 95), Some(4));
    }

    #[test]
    fn bins_have_their_lower_end_and_the_last_both() {
        let counts = histogram([0.0, 0.05, 0.1, 0.99, 1.0].into_iter(), 1.0, 10);
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(histogram([0.0, 0.0].into_iter(), 0.0, 3), [2, 0, 0]);
    }
}
