//! Claims, heartbeats, completions and sweeps, each measured in alternation with its
//! floor; and claims in front of ever more items.
//!
//! Prints a table; judges nothing by itself, since the machine may be shared. A word
//! on the command line (`claim`, `heartbeat`, `complete`, `sweep`, `flat`) measures
//! that alone.

use std::io::Write;
use std::path::Path;

use agentos_benches::{
    Fill, LeaseFloor, OurLeases, Ratio, mark, median, micros, sync_latency, timed,
};
use agentos_core::limits::SWEEP_ROWS_DEFAULT;
use agentos_store::sqlite::Durability;

/// Leases of which one commit renews all.
const HEARTBEAT_LEASES: usize = 1000;
const ROUNDS: usize = 10;
const PAIRS_PER_ROUND: usize = 200;
const WARM_UP: usize = 200;
/// What one measurement of claims takes away.
const CLAIMS: u32 = (ROUNDS * PAIRS_PER_ROUND + WARM_UP) as u32;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let wants = |what| wanted.is_empty() || wanted.contains(&what);
    say(format!(
        "sync latency, median: {:.0} us",
        micros(sync_latency(place()))
    ));
    say("operation | ours | floor | ratio | least to most of a round | limit".into());
    for durability in [Durability::Full, Durability::Relaxed] {
        let judged = durability == Durability::Full;
        if wants("claim") {
            for with_attempt in [false, true] {
                let what = if with_attempt {
                    "claim of one, floor with its attempt"
                } else {
                    "claim of one, floor without its attempt"
                };
                let ratio = claims(durability, with_attempt);
                row(what, durability, ratio, judged.then_some(1.5));
            }
        }
        if wants("complete") {
            let ratio = completions(durability);
            row("completion of one", durability, ratio, None);
        }
        if wants("heartbeat") {
            let ratio = heartbeats(durability);
            row("heartbeat of 1,000 leases", durability, ratio, None);
        }
    }
    if wants("sweep") {
        for (count, rounds, pairs) in [(100, 10, 6), (1000, 10, 4), (100_000, 5, 1)] {
            let ratio = sweeps(count, rounds, pairs);
            let what = format!("sweep of {count}, {SWEEP_ROWS_DEFAULT} a commit");
            row(&what, Durability::Full, ratio, Some(2.0));
        }
    }
    if wants("flat") {
        flat();
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what is said is made for it")]
fn say(line: String) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .expect("standard output takes a line");
}

fn row(what: &str, durability: Durability, ratio: Ratio, limit: Option<f64>) {
    let limit = limit.map_or(String::from("none"), |limit| {
        format!("at most {limit}{}", mark(ratio.ratio() <= limit))
    });
    say(format!(
        "{what}, {durability:?} | {:.1} us | {:.1} us | {:.2} | {:.2} to {:.2} | {limit}",
        micros(ratio.ours),
        micros(ratio.floor),
        ratio.ratio(),
        ratio.least,
        ratio.most,
    ));
}

/// Beside the build, on a real disk: `/tmp` may be in memory.
fn place() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn claims(durability: Durability, with_attempt: bool) -> Ratio {
    let dir = tempfile::tempdir_in(place()).expect("a temporary directory");
    let fill = Fill::pending(10_000 + CLAIMS);
    let ours = OurLeases::open(dir.path(), durability, fill);
    let floor = LeaseFloor::open(dir.path(), durability, fill);
    for _ in 0..WARM_UP {
        ours.claim();
        floor.claim(with_attempt);
    }
    Ratio::of_pairs(
        ROUNDS,
        PAIRS_PER_ROUND,
        || timed(|| _ = ours.claim()),
        || timed(|| _ = floor.claim(with_attempt)),
    )
}

fn completions(durability: Durability) -> Ratio {
    let dir = tempfile::tempdir_in(place()).expect("a temporary directory");
    let fill = Fill::pending(10_000 + CLAIMS);
    let ours = OurLeases::open(dir.path(), durability, fill);
    let floor = LeaseFloor::open(dir.path(), durability, fill);
    let one = || {
        let fence = ours.claim();
        timed(|| ours.complete(fence))
    };
    let raw = || {
        let fence = floor.claim(true);
        timed(|| floor.complete(fence))
    };
    for _ in 0..WARM_UP {
        one();
        raw();
    }
    Ratio::of_pairs(ROUNDS, PAIRS_PER_ROUND, one, raw)
}

fn heartbeats(durability: Durability) -> Ratio {
    let dir = tempfile::tempdir_in(place()).expect("a temporary directory");
    let fill = Fill::pending(10_000);
    let ours = OurLeases::open(dir.path(), durability, fill);
    let floor = LeaseFloor::open(dir.path(), durability, fill);
    let held: Vec<_> = (0..HEARTBEAT_LEASES).map(|_| ours.claim()).collect();
    let held_raw: Vec<_> = (0..HEARTBEAT_LEASES).map(|_| floor.claim(true)).collect();
    let one = || timed(|| ours.renew(&held));
    let raw = || timed(|| floor.renew(&held_raw));
    for _ in 0..5 {
        one();
        raw();
    }
    Ratio::of_pairs(10, 10, one, raw)
}

fn sweeps(count: u32, rounds: usize, pairs: usize) -> Ratio {
    let dir = tempfile::tempdir_in(place()).expect("a temporary directory");
    let fill = Fill::pending(count);
    let (full, rows) = (Durability::Full, SWEEP_ROWS_DEFAULT);
    let ours = OurLeases::open(dir.path(), full, fill);
    let floor = LeaseFloor::open(dir.path(), full, fill);
    let one = || {
        ours.lose(count);
        timed(|| ours.sweep(count, rows))
    };
    let raw = || {
        let token = floor.lose(count);
        timed(|| floor.sweep(count, rows, token))
    };
    one();
    raw();
    Ratio::of_pairs(rounds, pairs, one, raw)
}

/// Claims in turn from files with ever more items.
fn flat() {
    const SIZES: [(&str, Fill); 4] = [
        (
            "1,000 pending",
            Fill {
                pending: 1000,
                delayed: 0,
            },
        ),
        (
            "100,000 pending",
            Fill {
                pending: 100_000,
                delayed: 0,
            },
        ),
        (
            "1,000,000 pending",
            Fill {
                pending: 1_000_000,
                delayed: 0,
            },
        ),
        (
            "1,000 pending, 100,000 of a higher priority delayed",
            Fill {
                pending: 1000,
                delayed: 100_000,
            },
        ),
    ];
    say("claim of one | Full | Relaxed | sweep that finds nothing, Relaxed".into());
    let measured = [Durability::Full, Durability::Relaxed].map(|durability| {
        let dir = tempfile::tempdir_in(place()).expect("a temporary directory");
        let stores = SIZES.map(|(_, fill)| {
            let fill = Fill {
                pending: fill.pending + CLAIMS,
                ..fill
            };
            OurLeases::open(dir.path(), durability, fill)
        });
        let mut samples = SIZES.map(|_| (Vec::new(), Vec::new()));
        for turn in 0..CLAIMS as usize {
            for (store, samples) in stores.iter().zip(&mut samples) {
                let claim = timed(|| _ = store.claim());
                let sweep = timed(|| store.sweep_nothing());
                if WARM_UP <= turn {
                    samples.0.push(claim);
                    samples.1.push(sweep);
                }
            }
        }
        samples.map(|(claims, sweeps)| (micros(median(claims)), micros(median(sweeps))))
    });
    let [full, relaxed] = measured;
    for (place, (what, _)) in SIZES.iter().enumerate() {
        say(format!(
            "{what} | {:.1} us | {:.1} us | {:.1} us",
            full[place].0, relaxed[place].0, relaxed[place].1
        ));
    }
}
