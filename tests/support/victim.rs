//! A program that exists to be started many times, stopped and killed.
//!
//! `agentos-test-victim ROLE ARGUMENTS…`; the roles are in `play`. It says one
//! line at a time, and a line that speaks of a commit is said after the commit:
//! a printed line is a promise.

#[path = "victim/cache.rs"]
mod cache;
#[path = "victim/keys.rs"]
mod keys;
#[path = "victim/leases.rs"]
mod leases;
#[path = "victim/step.rs"]
mod step;
#[path = "victim/tools.rs"]
mod tools;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use agentos_core::{
    AuditLine, Commit, Deadline, NewWorkItem, Stopwatch, Storage, StorageError, UpkeepStorage as _,
    crash_point,
};
use agentos_recovery::{Mode, run_upkeep_with};
use agentos_store::sqlite::{Config, SqliteStore};
use agentos_tests::{
    append, config, lease_action, leased_clock, new_task, numbers, open_leased, pass, task_id,
    upkeep_config,
};
use agentos_worker_pool::{Finish, WorkQueue, WorkerPool};
use rustix::process::{Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit};
use rustix::thread::{set_thread_gid, set_thread_uid};
use rustix::time::{ClockId, clock_gettime};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    play(&arguments);
}

fn play(arguments: &[&str]) {
    match *arguments {
        ["open", database, gate] => open(database, gate),
        ["create", database, task] => create(database, task),
        ["commit", database, gate, seconds, task] => commit(database, gate, seconds, task),
        ["append", database, gate, count, task] => append_many(database, gate, count, task),
        ["write", database, task] => write(database, task),
        ["append-small", database, task, count] => append_small(database, task, count),
        ["upkeep", database] => upkeep(database),
        ["lease", database, action] => lease(database, action),
        ["key", database, action] => keys::key(database, action),
        ["once", database, gate, threads, keys, name] => {
            keys::once(database, gate, threads, keys, name);
        }
        ["shorten", database] => shorten(database),
        ["claim", database, gate, name] => leases::claim(database, gate, name),
        ["hold", database, name, count] => leases::hold(database, name, count),
        ["ask-model", database, gate, calls, name] => cache::ask(database, gate, calls, name),
        ["hang-in-model", database] => cache::hang(database),
        ["run-command", database, script] => tools::run_command(database, script),
        ["step", database, work] => step::step(database, work),
        ["sweep", database, rows] => leases::sweep(database, rows),
        ["backup", database, target] => backup(database, target),
        ["read", database] => read(database),
        ["enqueue", database, work_type, count] => enqueue(database, work_type, count),
        ["idle-pool", database, threads, seconds] => idle_pool(database, threads, seconds),
        ["limited", database, task] => limited(database, task),
        ["limited-group", database, task] => limited_group(database, task),
        ["points", ref action @ ..] => {
            crash_point::observe(|name| say(format_args!("point {name}")));
            play(action);
        }
        ["kill-at", point, hit, ref action @ ..] => {
            send_self_at(point, hit, Signal::KILL);
            play(action);
        }
        ["stop-at", point, hit, ref action @ ..] => {
            send_self_at(point, hit, Signal::STOP);
            play(action);
        }
        ["as-user", id, ref action @ ..] => {
            // One thread runs yet; those to come inherit from it.
            let id = number(id);
            set_thread_gid(rustix::process::Gid::from_raw(id)).expect("another group");
            set_thread_uid(rustix::process::Uid::from_raw(id)).expect("another user");
            play(action);
        }
        _ => panic!("no such role: {arguments:?}"),
    }
}

/// Opens and says how it went.
fn open(database: &str, gate: &str) {
    say(format_args!("ready"));
    pass(gate);
    match SqliteStore::open(Config::at(database)) {
        Ok(store) => {
            drop(store);
            say(format_args!("opened"));
        }
        Err(error) => say(format_args!("refused {}", kind(&error))),
    }
}

/// Opens, makes a task with one checkpoint, and says what happened.
fn create(database: &str, task: &str) {
    let created = SqliteStore::open(Config::at(database)).and_then(|store| {
        store.commit(
            Commit::new()
                .part(new_task(task))
                .part(append(task, "state")),
        )
    });
    match created {
        Ok(_) => say(format_args!("created")),
        Err(error) => say(format_args!("refused {}", kind(&error))),
    }
}

/// Commits for some seconds; says how often, the longest wait in microseconds,
/// and how many errors there were. Uses the default busy timeout.
fn commit(database: &str, gate: &str, seconds: &str, task: &str) {
    let store = SqliteStore::open(Config::at(database)).expect("an open store");
    store.create_task(new_task(task)).expect("a task");
    let state = vec![7_u8; 1024];
    say(format_args!("ready"));
    pass(gate);
    let until = Deadline::after(Duration::from_secs(number(seconds).into()));
    let (mut commits, mut errors, mut worst) = (0_u64, 0_u64, Duration::ZERO);
    while !until.passed() {
        let watch = Stopwatch::start();
        match store.commit(append(task, state.clone()).into()) {
            Ok(_) => commits += 1,
            Err(error) => {
                errors += 1;
                say(format_args!("error {}", kind(&error)));
            }
        }
        worst = worst.max(watch.elapsed());
    }
    say(format_args!(
        "done {commits} {} {errors}",
        worst.as_micros()
    ));
}

/// Appends checkpoints to a task that is there; says each number.
fn append_many(database: &str, gate: &str, count: &str, task: &str) {
    let store = SqliteStore::open(config(database)).expect("an open store");
    say(format_args!("ready"));
    pass(gate);
    for _ in 0..number(count) {
        let receipt = store.commit(append(task, "state").into());
        for appended in receipt.expect("an append").appended() {
            say(format_args!("{}", appended.sequence));
        }
    }
}

/// Appends until it is killed; says number and state of each after its commit.
fn write(database: &str, task: &str) {
    let store = SqliteStore::open(config(database)).expect("an open store");
    store.create_task(new_task(task)).expect("a task");
    for count in 0_u64.. {
        let state = format!("{task} {count} {}", "x".repeat(usize::from(count as u8)));
        let commit = Commit::new()
            .part(append(task, state.clone()))
            .part(AuditLine::new(task_id(task), "step").reason(state.clone()));
        let receipt = store.commit(commit).expect("a commit");
        for appended in receipt.appended() {
            say(format_args!("{} {state}", appended.sequence));
        }
    }
}

/// Appends to a store with a small ballast until it is refused, at most `count`
/// times; says each number, and waits to be killed.
fn append_small(database: &str, task: &str, count: &str) {
    let config = config(database).ballast_bytes(256 << 10);
    let store = SqliteStore::open(config).expect("an open store");
    store.create_task(new_task(task)).expect("a task");
    for _ in 0..number(count) {
        let Ok(receipt) = store.commit(append(task, vec![7; 3000]).into()) else {
            return;
        };
        for appended in receipt.appended() {
            say(format_args!("{}", appended.sequence));
        }
    }
    loop {
        thread::park();
    }
}

/// Does a pass of upkeep with small batches, and says what it removed.
fn upkeep(database: &str) {
    let store = SqliteStore::open(config(database)).expect("an open store");
    let report = run_upkeep_with(&store, &upkeep_config(), Mode::Apply).expect("good rules");
    assert!(report.is_complete(), "{report:?}");
    say(format_args!("done {}", report.checkpoints.rows));
}

/// Does something to a lease, and says so.
fn lease(database: &str, action: &str) {
    let store = open_leased(Path::new(database), &leased_clock());
    say(format_args!("{}", lease_action(&store, action)));
}

/// Cuts the write-ahead log.
fn shorten(database: &str) {
    let store = SqliteStore::open(config(database)).expect("an open store");
    store.create_task(new_task("shorten")).expect("a task");
    store.shorten_log().expect("a shorter log");
}

/// Makes a backup and says how it went.
fn backup(database: &str, target: &str) {
    let store = SqliteStore::open(config(database)).expect("an open store");
    match store.backup(Path::new(target)) {
        Ok(_) => say(format_args!("copied")),
        Err(error) => say(format_args!("refused {}", kind(&error))),
    }
}

/// Reads, and keeps its read open until it is killed.
fn read(database: &str) {
    let connection = rusqlite::Connection::open(database).expect("an open database");
    connection.execute_batch("BEGIN").expect("a transaction");
    let tasks: i64 = connection
        .query_row("SELECT COUNT(*) FROM tasks", [], |row| row.get(0))
        .expect("a count");
    say(format_args!("reading {tasks}"));
    loop {
        thread::park();
    }
}

/// Enqueues items one after the other, with pauses of up to 100 ms; says each with
/// the boot time in microseconds after its commit.
fn enqueue(database: &str, work_type: &str, count: &str) {
    let store = Arc::new(SqliteStore::open(config(database)).expect("an open store"));
    let queue = WorkQueue::new(Arc::clone(&store) as Arc<dyn Storage>);
    let mut random = fastrand::Rng::with_seed(u64::from(number(count)));
    for _ in 0..number(count) {
        let pause = Deadline::after(Duration::from_millis(random.u64(1..100)));
        while !pause.passed() {
            thread::park_timeout(pause.remaining());
        }
        let item = NewWorkItem::new(work_type);
        let id = queue.enqueue(item).expect("an item").id;
        say(format_args!("{id} {}", store.boot_now().micros));
    }
}

/// Holds an idle pool; says how much processor time that cost in microseconds, and
/// how often it looked for work and claimed in vain.
fn idle_pool(database: &str, threads: &str, seconds: &str) {
    let store = Arc::new(SqliteStore::open(config(database)).expect("an open store"));
    let worker = agentos_tests::new_worker("idle");
    let pool = WorkerPool::builder(store, worker)
        .threads(number(threads) as usize)
        .handler("page", |_| Ok(Finish::Done(None)))
        .start()
        .expect("a pool");
    // Its first look reads what later ones find in memory.
    agentos_tests::wait_until("a look", || 2 <= pool.stats().looks);
    let before = (processor_time(), pool.stats());
    let pause = Deadline::after(Duration::from_secs(number(seconds).into()));
    while !pause.passed() {
        thread::park_timeout(pause.remaining());
    }
    let (cost, stats) = (processor_time() - before.0, pool.stats());
    say(format_args!(
        "{} {} {}",
        cost.as_micros(),
        stats.looks - before.1.looks,
        stats.claimed + stats.empty_claims
    ));
}

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(used).expect("a time that is not negative")
}

/// Commits three times, once with no room for its files to grow, and once more.
fn limited(database: &str, task: &str) {
    let store = SqliteStore::open(config(database)).expect("an open store");
    store.create_task(new_task(task)).expect("a task");
    let commit = || match store.commit(append(task, "state").into()) {
        Ok(receipt) => {
            let number = receipt.appended().next().expect("a checkpoint").sequence;
            say(format_args!("{number}"));
        }
        Err(error) => say(format_args!("refused {}", kind(&error))),
    };
    (0..3).for_each(|_| commit());
    let limit = limit_log(database);
    commit();
    say(format_args!("read {}", numbers(&store, task).len()));
    setrlimit(Resource::Fsize, limit).expect("the limit as it was");
    commit();
    say(format_args!("reopened {}", store.counters().reopened));
}

/// Leaves the write-ahead log no room to grow; gives the limit that there was.
fn limit_log(database: &str) -> Rlimit {
    let limit = getrlimit(Resource::Fsize);
    let log = std::fs::metadata(format!("{database}-wal")).expect("a write-ahead log");
    let tight = Rlimit {
        current: Some(log.len() + 100),
        ..limit
    };
    setrlimit(Resource::Fsize, tight).expect("a tight limit");
    limit
}

/// Five commits in one group, with no room for its files to grow.
fn limited_group(database: &str, task: &str) {
    let store = SqliteStore::open(config(database)).expect("an open store");
    store.create_task(new_task(task)).expect("a task");
    let lock = std::fs::File::open(format!("{database}.wlock")).expect("the lock's file");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("the lock");
    let answers: Vec<_> = thread::scope(|scope| {
        let callers: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| store.commit(append(task, "state").into())))
            .collect();
        agentos_tests::wait_until("four wait behind the leader", || {
            store.counters().waiting == 4
        });
        let limit = limit_log(database);
        drop(lock);
        let answers = callers.into_iter().map(|caller| caller.join());
        let answers = answers.map(|answer| answer.expect("an answer")).collect();
        setrlimit(Resource::Fsize, limit).expect("the limit as it was");
        answers
    });
    for answer in answers {
        match answer {
            Ok(_) => say(format_args!("acknowledged")),
            Err(error) => say(format_args!("refused {}", kind(&error))),
        }
    }
    say(format_args!("read {}", numbers(&store, task).len()));
    let receipt = store.commit(append(task, "state").into());
    for appended in receipt.expect("a commit").appended() {
        say(format_args!("{}", appended.sequence));
    }
    say(format_args!("reopened {}", store.counters().reopened));
}

/// Sends a signal to this process when it reaches a point for the n-th time.
fn send_self_at(point: &str, hit: &str, signal: Signal) {
    let (point, hit) = (point.to_string(), number(hit) as usize);
    let hits = AtomicUsize::new(0);
    crash_point::observe(move |name| {
        if name == point && hits.fetch_add(1, Ordering::SeqCst) + 1 == hit {
            kill_process(getpid(), signal).expect("a delivered signal");
        }
    });
}

fn number(text: &str) -> u32 {
    text.parse().expect("a number")
}

/// The name of an error's variant.
fn kind(error: &StorageError) -> String {
    let text = format!("{error:?}");
    text.split(|letter: char| !letter.is_alphanumeric())
        .next()
        .unwrap_or_default()
        .to_string()
}

/// One line, at once.
fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    // Who reads may be gone: then there is nobody to tell.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
