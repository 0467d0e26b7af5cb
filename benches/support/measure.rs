//! Measuring two things in alternation, so that the machine's moods meet both.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use agentos_core::Stopwatch;

/// What one thing cost, what the other, and how much their ratio differed from round
/// to round.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    /// Median of ours.
    pub ours: Duration,
    /// Median of the floor.
    pub floor: Duration,
    /// Least ratio of the medians of a round.
    pub least: f64,
    /// Largest ratio of the medians of a round.
    pub most: f64,
}

impl Ratio {
    /// Measures `ours` and `floor` in pairs; which of a pair is first alternates.
    /// Each gives the time that it took, so that it can prepare itself untimed.
    pub fn of_pairs(
        rounds: usize,
        pairs: usize,
        mut ours: impl FnMut() -> Duration,
        mut floor: impl FnMut() -> Duration,
    ) -> Ratio {
        let (mut all, mut ratios) = ((Vec::new(), Vec::new()), Vec::new());
        for _ in 0..rounds {
            let mut round = (Vec::new(), Vec::new());
            for pair in 0..pairs {
                if pair % 2 == 0 {
                    round.0.push(ours());
                    round.1.push(floor());
                } else {
                    round.1.push(floor());
                    round.0.push(ours());
                }
            }
            all.0.extend_from_slice(&round.0);
            all.1.extend_from_slice(&round.1);
            ratios.push(median(round.0).as_secs_f64() / median(round.1).as_secs_f64());
        }
        Ratio {
            ours: median(all.0),
            floor: median(all.1),
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            most: ratios.iter().copied().fold(0.0, f64::max),
        }
    }

    /// The ratio of the medians of all pairs.
    pub fn ratio(&self) -> f64 {
        self.ours.as_secs_f64() / self.floor.as_secs_f64()
    }
}

/// Whether a limit was kept, to be seen at a glance.
pub fn mark(ok: bool) -> &'static str {
    if ok { " ✓" } else { " ✗" }
}

/// A duration in microseconds.
pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The median.
///
/// # Panics
///
/// When there are no samples.
pub fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// How long something took.
pub fn timed(work: impl FnOnce()) -> Duration {
    let watch = Stopwatch::start();
    work();
    watch.elapsed()
}

/// An overwrite of 4 KiB and its sync: what one durable commit costs at least.
pub fn sync_latency(place: &Path) -> Duration {
    let dir = tempfile::tempdir_in(place).expect("a temporary directory");
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(dir.path().join("probe"))
        .expect("a file");
    let block = [1_u8; 4096];
    file.write_all_at(&block, 0)
        .and_then(|()| file.sync_all())
        .expect("a write");
    median(
        (0..200)
            .map(|_| {
                timed(|| {
                    file.write_all_at(&block, 0)
                        .and_then(|()| file.sync_data())
                        .expect("a write");
                })
            })
            .collect(),
    )
}
