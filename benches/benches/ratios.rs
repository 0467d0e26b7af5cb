//! The ratios that are promised, each measured in alternation with its floor.
//!
//! Prints a table; judges nothing by itself, since the machine may be shared.

use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use agentos_benches::{Floor, Ours, State, mark, median, micros, sync_latency, timed};
use agentos_core::{Codec, Stopwatch, Storage};
use agentos_store::sqlite::Durability;

const ROUNDS: usize = 5;
const PAIRS_PER_ROUND: usize = 400;
const WARM_UP: usize = 200;
const CALLERS: usize = 64;
const THROUGHPUT_ROUNDS: usize = 15;
const THROUGHPUT_ROUND: Duration = Duration::from_millis(500);

fn main() {
    let mut out = std::io::stdout().lock();
    let mut line = |text: String| writeln!(out, "{text}").expect("standard output takes a line");
    line(format!(
        "sync latency, median: {:.0} us",
        micros(sync_latency(place()))
    ));
    line("operation | ours | floor | ratio | limit".into());
    for (durability, limit) in [(Durability::Full, 1.3), (Durability::Relaxed, 2.0)] {
        for part_only in [true, false] {
            let (ours, floor) = latency(durability, part_only);
            let what = if part_only {
                "commit of a prepared part"
            } else {
                "append of a state"
            };
            let ratio = ours.as_secs_f64() / floor.as_secs_f64();
            line(format!(
                "{what}, 1 KiB, 1 caller, {durability:?} | {:.1} us | {:.1} us | {ratio:.2} | at most {limit}{}",
                micros(ours),
                micros(floor),
                mark(ratio <= limit),
            ));
        }
    }
    let (ours, floor) = throughput();
    let ratio = ours / floor;
    line(format!(
        "append of a state, 1 KiB, {CALLERS} callers, Full | {ours:.0} /s | {floor:.0} /s | {ratio:.2} | at least 0.6{}",
        mark(ratio >= 0.6),
    ));
}

/// Beside the build, on a real disk: `/tmp` may be in memory.
fn place() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn latency(durability: Durability, part_only: bool) -> (Duration, Duration) {
    let dir = tempfile::tempdir_in(place()).expect("a temporary directory");
    let state = State::sample(7);
    let bytes = Codec::Bincode
        .encode(&state)
        .expect("the state can be encoded");
    let ours = Ours::open(dir.path(), durability, 1);
    let floor = Floor::open(dir.path(), durability, 1, bytes.clone());
    let task = &ours.tasks[0];
    let one = || {
        if part_only {
            let part = ours.part(task, &bytes);
            timed(|| drop(black_box(ours.store.commit(part.into()).expect("a commit"))))
        } else {
            timed(|| ours.append(task, &state))
        }
    };
    let raw = || timed(|| floor.transaction(1).expect("a transaction"));
    for _ in 0..WARM_UP {
        one();
        raw();
    }
    let mut pairs = (Vec::new(), Vec::new());
    for round in 0..ROUNDS * PAIRS_PER_ROUND {
        // Neither is always the first after the other's sync.
        if round % 2 == 0 {
            pairs.0.push(one());
            pairs.1.push(raw());
        } else {
            pairs.1.push(raw());
            pairs.0.push(one());
        }
    }
    (median(pairs.0), median(pairs.1))
}

/// Rates of ours and of the floor, from the round with the median ratio: the
/// machine's speed drifts between rounds, hardly within one.
fn throughput() -> (f64, f64) {
    let dir = tempfile::tempdir_in(place()).expect("a temporary directory");
    let state = State::sample(7);
    let bytes = Codec::Bincode
        .encode(&state)
        .expect("the state can be encoded");
    let ours = Ours::open(dir.path(), Durability::Full, CALLERS);
    let floor = Floor::open(dir.path(), Durability::Full, CALLERS, bytes);
    let mut rounds: Vec<(f64, f64)> = (0..THROUGHPUT_ROUNDS)
        .map(|_| (callers_round(&ours, &state), floor_round(&floor)))
        .collect();
    rounds.sort_unstable_by(|one, other| (one.0 / one.1).total_cmp(&(other.0 / other.1)));
    rounds[rounds.len() / 2]
}

fn floor_round(floor: &Floor) -> f64 {
    let watch = Stopwatch::start();
    let mut rows = 0;
    while watch.elapsed() < THROUGHPUT_ROUND {
        floor.transaction(CALLERS).expect("a transaction");
        rows += CALLERS;
    }
    rows as f64 / watch.elapsed().as_secs_f64()
}

fn callers_round(ours: &Ours, state: &State) -> f64 {
    let (stop, rows, start) = (
        AtomicBool::new(false),
        AtomicU64::new(0),
        Barrier::new(CALLERS + 1),
    );
    std::thread::scope(|scope| {
        for task in &ours.tasks {
            scope.spawn(|| {
                start.wait();
                while !stop.load(Ordering::Relaxed) {
                    ours.append(task, state);
                    rows.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        start.wait();
        let watch = Stopwatch::start();
        while watch.elapsed() < THROUGHPUT_ROUND {
            std::thread::park_timeout(THROUGHPUT_ROUND.saturating_sub(watch.elapsed()));
        }
        let rate = rows.load(Ordering::Relaxed) as f64 / watch.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        rate
    })
}
