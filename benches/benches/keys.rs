//! Idempotency keys: what a cache hit, a replay, a miss and a tool call cost, each
//! measured in alternation with its floor; and looks among ever more entries.
//!
//! Prints a table; judges nothing by itself, since the machine may be shared. A word
//! on the command line (`hit`, `replay`, `miss`, `call`, `flat`, `beside`) measures that
//! alone.

use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentos_benches::{
    KeyFloor, Ratio, add_others, ask, cache, gate, mark, median, micros, opened, request,
    sync_latency, timed,
};
use agentos_core::{Digest, NewTask, Storage, TaskId};
use agentos_idempotency::{LedgerConfig, LlmRequest, ToolCall, ToolLedger, ToolOutput};
use agentos_store::sqlite::{Durability, SqliteStore};
use serde_json::json;

const ROUNDS: usize = 10;
const PAIRS_PER_ROUND: usize = 400;
const WARM_UP: usize = 200;
/// Entries that are asked for.
const HOT: u64 = 1000;
const SIZES: [u64; 2] = [10_000, 1_000_000];
/// Bytes of an answer.
const BYTES: usize = 2048;
/// Longest part of a second that a look may take at the 95th percentile.
const P95_MAX: Duration = Duration::from_millis(10);

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
    if wants("hit") {
        for bytes in [BYTES, 64 << 10] {
            for is_known in [true, false] {
                let request = if is_known {
                    "of a known key"
                } else {
                    "of 1 KiB"
                };
                let what = format!(
                    "cache hit, request {request}, answer of {} KiB",
                    bytes >> 10
                );
                row(&what, hits(bytes, is_known), Some(1.5));
            }
        }
    }
    if wants("replay") {
        let what = "replay of a tool call, output of 2 KiB, floor reads and digests the same bytes";
        row(what, replays(KeyFloor::look_up_sealed), Some(1.5));
        // What only the seal covers is ours alone here: shown, and without a limit.
        let what =
            "replay of a tool call, output of 2 KiB, floor reads and digests the output alone";
        row(what, replays(KeyFloor::look_up), None);
    }
    if wants("miss") {
        row(
            "miss and store, 2 KiB, Full",
            misses(Durability::Full),
            Some(1.3),
        );
        // No sync hides what the protocol itself costs: shown, and without a limit.
        let what = "miss and store, 2 KiB, Relaxed";
        row(what, misses(Durability::Relaxed), None);
    }
    if wants("call") {
        row("tool call, 2 KiB, Full", calls(), Some(1.3));
    }
    if wants("flat") {
        flat();
    }
    if wants("beside") {
        beside_a_writer();
    }
}

fn say(text: String) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").expect("standard output takes a line");
}

fn row(what: &str, ratio: Ratio, limit: Option<f64>) {
    let limit = limit.map_or(String::from("none"), |limit| {
        format!("at most {limit}{}", mark(ratio.ratio() <= limit))
    });
    say(format!(
        "{what} | {:.1} us | {:.1} us | {:.2} | {:.2} to {:.2} | {limit}",
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

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(place()).expect("a temporary directory")
}

/// Requests that are there, and the keys that they have.
fn recorded(store: &Arc<SqliteStore>, bytes: usize) -> (Vec<LlmRequest>, Vec<String>) {
    let cache = cache(store);
    let requests: Vec<LlmRequest> = (0..HOT).map(request).collect();
    for request in &requests {
        ask(&cache, request, bytes);
    }
    let key = |request: &LlmRequest| request.key().expect("a key").to_string();
    let keys = requests.iter().map(key).collect();
    (requests, keys)
}

/// A hit, against a look by the key and the digest of what it brings. Where the request
/// was not digested before, the floor digests it too.
fn hits(bytes: usize, is_known: bool) -> Ratio {
    let dir = directory();
    let path = dir.path().join("keys.db");
    let store = opened(&path, Durability::Relaxed);
    let (requests, keys) = recorded(&store, bytes);
    let bodies: Vec<Vec<u8>> = requests
        .iter()
        .map(|request| serde_json::to_vec(request.body()).expect("JSON"))
        .collect();
    let (cache, floor) = (cache(&store), KeyFloor::open(&path, Durability::Relaxed));
    let (mut ours, mut theirs) = (0, 0);
    let hit = || {
        ours = (ours + 7) % HOT;
        let new = request(ours);
        let request = if is_known {
            &requests[ours as usize]
        } else {
            &new
        };
        timed(|| drop(black_box(ask(&cache, request, 0))))
    };
    let look = || {
        theirs = (theirs + 7) % HOT;
        let (key, body) = (&keys[theirs as usize], &bodies[theirs as usize]);
        timed(|| {
            if !is_known {
                black_box(Digest::of(body));
            }
            drop(black_box(floor.look_up(key)));
        })
    };
    of_pairs(hit, look)
}

/// Pairs after a warm-up.
fn of_pairs(mut ours: impl FnMut() -> Duration, mut floor: impl FnMut() -> Duration) -> Ratio {
    for _ in 0..WARM_UP {
        ours();
        floor();
    }
    Ratio::of_pairs(ROUNDS, PAIRS_PER_ROUND, ours, floor)
}

fn ledger(store: &Arc<SqliteStore>) -> ToolLedger {
    ToolLedger::new(gate(store), LedgerConfig::default())
}

/// A call with arguments of about 200 bytes.
fn call(number: u64, task: &TaskId) -> ToolCall {
    let arguments = json!({ "path": format!("src/{number}.rs"), "text": "0123456789".repeat(15) });
    ToolCall::new("write_file", arguments)
        .of_task(task)
        .in_step("step-1")
}

fn run(ledger: &ToolLedger, call: &ToolCall) {
    let output = || Ok(ToolOutput::new(vec![7_u8; BYTES]));
    let answer = ledger.execute_or_replay(call, |_| output());
    black_box(answer.expect("an answer"));
}

fn task(store: &SqliteStore) -> TaskId {
    let id = TaskId::new("bench").expect("a short id");
    store
        .create_task(NewTask::new(id.clone(), "bench"))
        .expect("a task");
    id
}

/// A replay, against a look by the key and the digest of what it brings.
fn replays(look_up: impl Fn(&KeyFloor, &str) -> (Vec<u8>, Digest)) -> Ratio {
    let dir = directory();
    let path = dir.path().join("keys.db");
    let store = opened(&path, Durability::Relaxed);
    let (ledger, task) = (ledger(&store), task(&store));
    for number in 0..HOT {
        run(&ledger, &call(number, &task));
    }
    let keys: Vec<String> = ledger
        .history(&task, None, HOT as u32)
        .expect("the calls")
        .items
        .iter()
        .map(|call| call.key().to_string())
        .collect();
    let floor = KeyFloor::open(&path, Durability::Relaxed);
    let (mut ours, mut theirs) = (0, 0);
    let replay = || {
        ours = (ours + 7) % HOT;
        let call = call(ours, &task);
        timed(|| run(&ledger, &call))
    };
    let look = || {
        theirs = (theirs + 7) % HOT;
        let key = &keys[theirs as usize];
        timed(|| drop(black_box(look_up(&floor, key))))
    };
    of_pairs(replay, look)
}

/// Two raw transactions: the key is pending, the outcome is recorded.
fn two_transactions(floor: &KeyFloor, number: u64, expires_at: Option<&str>) -> Duration {
    let key = agentos_core::IdempotencyKey::of_cache(&Digest::of(&number.to_le_bytes()));
    let outcome = vec![7_u8; BYTES];
    timed(|| {
        let id = floor.begin(key.as_str());
        floor.finish(id, &outcome, expires_at);
    })
}

fn misses(durability: Durability) -> Ratio {
    let (dir, other) = (directory(), directory());
    let (ours, theirs) = (dir.path().join("ours.db"), other.path().join("floor.db"));
    let store = opened(&ours, durability);
    drop(opened(&theirs, durability));
    let (cache, floor) = (cache(&store), KeyFloor::open(&theirs, durability));
    let (mut asked, mut written) = (0, 0);
    let miss = || {
        asked += 1;
        let request = request(asked);
        timed(|| drop(black_box(ask(&cache, &request, BYTES))))
    };
    let raw = || {
        written += 1;
        two_transactions(&floor, written, Some("2126-01-01 00:00:00.000000"))
    };
    of_pairs(miss, raw)
}

fn calls() -> Ratio {
    let (dir, other) = (directory(), directory());
    let (ours, theirs) = (dir.path().join("ours.db"), other.path().join("floor.db"));
    let store = opened(&ours, Durability::Full);
    drop(opened(&theirs, Durability::Full));
    let (ledger, floor) = (ledger(&store), KeyFloor::open(&theirs, Durability::Full));
    let task = task(&store);
    let (mut asked, mut written) = (0, 0);
    let one = || {
        asked += 1;
        let call = call(asked, &task);
        timed(|| run(&ledger, &call))
    };
    let raw = || {
        written += 1;
        two_transactions(&floor, written, None)
    };
    of_pairs(one, raw)
}

/// Hits of the same entries among few and among many.
fn flat() {
    let dirs: Vec<_> = SIZES.iter().map(|_| directory()).collect();
    let caches: Vec<_> = SIZES
        .iter()
        .zip(&dirs)
        .map(|(size, dir)| {
            let path = dir.path().join("keys.db");
            let store = opened(&path, Durability::Relaxed);
            recorded(&store, BYTES);
            drop(store);
            add_others(&path, size - HOT, BYTES);
            cache(&opened(&path, Durability::Relaxed))
        })
        .collect();
    let mut places = [0; SIZES.len()];
    let mut hit = |which: usize| {
        places[which] = (places[which] + 7) % HOT;
        let request = request(places[which]);
        timed(|| drop(black_box(ask(&caches[which], &request, 0))))
    };
    for _ in 0..2 * HOT {
        hit(0);
        hit(1);
    }
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS * PAIRS_PER_ROUND {
        for (which, took) in all.iter_mut().enumerate() {
            took.push(hit(which));
        }
    }
    let [few, many] = all.map(median);
    let ratio = many.as_secs_f64() / few.as_secs_f64();
    say(format!(
        "cache hit among {} entries, against {} | {:.1} us | {:.1} us | {ratio:.2} |  | at most 1.3{}",
        SIZES[1],
        SIZES[0],
        micros(many),
        micros(few),
        mark(ratio <= 1.3),
    ));
}

/// Hits while another thread writes all the time, against hits while nobody does.
fn beside_a_writer() {
    let dir = directory();
    let path = dir.path().join("keys.db");
    let store = opened(&path, Durability::Full);
    recorded(&store, BYTES);
    let cache = cache(&store);
    let measure = || -> Vec<Duration> {
        (0..ROUNDS as u64 * PAIRS_PER_ROUND as u64)
            .map(|number| {
                let request = request(number * 7 % HOT);
                timed(|| drop(black_box(ask(&cache, &request, 0))))
            })
            .collect()
    };
    measure();
    let alone = measure();
    let stop = AtomicBool::new(false);
    let beside = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = HOT;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                ask(&cache, &request(number), BYTES);
            }
        });
        let took = measure();
        stop.store(true, Ordering::Relaxed);
        took
    });
    for (what, mut took) in [("alone", alone), ("beside a writer", beside)] {
        took.sort_unstable();
        let average = took.iter().sum::<Duration>() / took.len() as u32;
        let p95 = took[took.len() * 95 / 100];
        say(format!(
            "cache hit {what}: median {:.1} us, average {:.1} us (at most 5 ms), 95 % {:.1} us (at most 10 ms){}, longest {:.1} us",
            micros(took[took.len() / 2]),
            micros(average),
            micros(p95),
            mark(p95 <= P95_MAX),
            micros(took[took.len() - 1]),
        ));
    }
}
