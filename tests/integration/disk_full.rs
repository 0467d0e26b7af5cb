//! A disk that is full: `DiskFull`, nothing acknowledged is lost, what frees
//! space goes on, and so does everything once there is room, without a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentos_core::{
    CheckpointRule, ClaimRequest, Clock, Commit, CompleteWork, LeaseStorage, Receipt, Retention,
    Storage, StorageError, SweepRequest, TaskStatus, TaskStorage, UpkeepStorage, WorkItemStatus,
};
use agentos_recovery::{Mode, Step, UpkeepConfig, run_upkeep_with};
use agentos_store::sqlite::{Config, SqliteStore};
use agentos_tests::{
    SmallDisk, Victim, append, config, disagreements, fence, finish_work, leased_clock,
    leased_file, new_task, numbers, on_small_disk, worker,
};

use crate::VICTIM;

const DISK: u64 = 3 << 20;
const BALLAST: u64 = 256 << 10;
const PAGE: u64 = 4096;

fn database(disk: &SmallDisk) -> PathBuf {
    disk.root().join("agent.db")
}

fn small_config(disk: &SmallDisk) -> Config {
    config(database(disk)).ballast_bytes(BALLAST)
}

fn open(disk: &SmallDisk) -> SqliteStore {
    SqliteStore::open(small_config(disk)).unwrap()
}

/// The numbers of what was acknowledged.
fn acked(receipt: &Receipt) -> u64 {
    receipt.appended().next().unwrap().sequence.get()
}

/// What must be true of a store after its disk was full. Knows only what was
/// acknowledged and what is there.
fn judge(acked: &[u64], found: &[u64], problems: &[String]) -> Result<(), String> {
    if !problems.is_empty() {
        return Err(format!("the file is damaged: {problems:?}"));
    }
    if found != acked {
        return Err(format!("acknowledged {acked:?}, found {found:?}"));
    }
    Ok(())
}

/// A writer: `None` when its commit was not acknowledged.
type Write = fn(&SqliteStore, Vec<u8>) -> Option<u64>;

fn sound(store: &SqliteStore, state: Vec<u8>) -> Option<u64> {
    match store.commit(append("a", state).into()) {
        Ok(receipt) => Some(acked(&receipt)),
        Err(StorageError::DiskFull(_)) => None,
        Err(error) => panic!("{error:?}"),
    }
}

/// Commits until the disk is full, makes room, and goes on: with `left` bytes
/// free at the start.
fn through_a_full_disk(disk: &SmallDisk, left: u64, write: Write) -> Result<(), String> {
    let store = open(disk);
    store.create_task(new_task("a")).unwrap();
    let mut acks = Vec::new();
    disk.fill(left);
    for count in 0.. {
        let refused = store.counters().failed;
        acks.extend(write(&store, vec![7; 1000 + count * 37 % 5000]));
        if store.counters().failed > refused {
            break;
        }
    }
    // The room that was kept is given up, and still everything is refused.
    assert_eq!(store.counters().ballast_given_up, 1);
    assert_eq!(store.inspect().unwrap().ballast_bytes, 0);
    let free = disk.free();
    assert!(BALLAST <= free, "no plain commit has taken it: {free}");
    acks.extend(write(&store, vec![7; 10]));
    assert_eq!(disk.free(), free, "nor does the next");
    let problems = store.check_integrity().unwrap().problems;
    judge(&acks, &numbers(&store, "a"), &problems)?;
    disk.make_room();
    for _ in 0..3 {
        let before = acks.len();
        acks.extend(write(&store, vec![7; 100]));
        assert_eq!(acks.len(), before + 1, "work goes on without a restart");
    }
    assert_eq!(store.inspect().unwrap().ballast_bytes, BALLAST);
    drop(store);
    let store = open(disk);
    let problems = store.check_integrity().unwrap().problems;
    let report = store.doctor().unwrap();
    assert!(report.is_healthy(), "{report}");
    judge(&acks, &numbers(&store, "a"), &problems)
}

/// Goal: wherever space runs out, nothing acknowledged is lost, the error is
/// `DiskFull`, and work goes on once there is room. Method: a disk of the test's
/// own is filled to its last pages, one page less each time, so that another
/// write is the first to fail.
#[test]
fn space_that_runs_out_at_any_write_loses_nothing() {
    let Some(disk) = on_small_disk(DISK) else {
        return;
    };
    for pages in 0..40 {
        through_a_full_disk(&disk, pages * PAGE, sound)
            .unwrap_or_else(|broken| panic!("with {pages} pages left: {broken}"));
        disk.clear();
    }
}

/// The canary of the check above: a writer that takes no notice of its errors.
#[test]
fn a_writer_that_ignores_the_error_of_its_commit_is_caught() {
    let Some(disk) = on_small_disk(DISK) else {
        return;
    };
    let ignoring: Write = |store, state| {
        let newest = numbers(store, "a").last().copied().unwrap_or(0);
        let _ = store.commit(append("a", state).into());
        Some(newest + 1)
    };
    let broken = through_a_full_disk(&disk, 0, ignoring).unwrap_err();
    assert!(broken.starts_with("acknowledged"), "{broken}");
}

/// Many callers at once: each is told the truth about its own commit.
#[test]
fn a_group_that_finds_no_space_is_told_so_as_a_whole() {
    let Some(disk) = on_small_disk(DISK) else {
        return;
    };
    let store = open(&disk);
    store.create_task(new_task("a")).unwrap();
    disk.fill(16 * PAGE);
    let acks = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(number) = sound(&store, vec![7; 2000]) {
                    acks.lock().unwrap().push(number);
                }
            });
        }
    });
    let mut acks = acks.into_inner().unwrap();
    acks.sort_unstable();
    let problems = store.check_integrity().unwrap().problems;
    judge(&acks, &numbers(&store, "a"), &problems).unwrap();
    disk.make_room();
    assert_eq!(sound(&store, vec![7; 10]), Some(acks.len() as u64 + 1));
}

/// Goal: with the disk full to the last page a store opens, reads and tidies up;
/// plain commits are refused. Method: fill the disk while nobody has the store
/// open, after a clean end and after a kill.
#[test]
fn a_store_on_a_full_disk_opens_reads_and_tidies_up() {
    let Some(disk) = on_small_disk(DISK) else {
        return;
    };
    for killed in [false, true] {
        let path = database(&disk);
        drop(open(&disk));
        let arguments = [path.to_str().unwrap(), "a", "5"];
        let mut writer = Victim::start(VICTIM, "append-small", arguments);
        for number in 1..=5 {
            writer.expect(&number.to_string());
        }
        if killed {
            writer.kill();
        } else {
            writer.signal(agentos_process::Signal::Terminate);
            drop(writer);
            drop(open(&disk));
        }
        disk.fill(0);
        assert_eq!(disk.free(), 0);
        let store = open(&disk);
        let found = numbers(&store, "a");
        assert!(found.len() >= 5 && found.len() as u64 == *found.last().unwrap());
        let tasks = store.tasks(TaskStatus::Created, None, 10).unwrap();
        assert_eq!(tasks.items.len(), 1);
        let refused = (0..2000).any(|_| sound(&store, vec![7; 4000]).is_none());
        assert!(refused, "a full disk takes no end of commits");
        // What frees space goes on.
        store.reclaim_space(0).unwrap();
        let answer = store.refresh_statistics();
        assert!(
            matches!(answer, Err(StorageError::DiskFull(_))),
            "{answer:?}"
        );
        store.shorten_log().unwrap();
        disk.make_room();
        assert!(sound(&store, vec![7; 10]).is_some());
        drop(store);
        disk.clear();
    }
}

/// Goal: a full disk is got over without anybody's help, by pruning. Method:
/// fill the disk to the last page around a store that keeps too much; its
/// commits are refused; run the upkeep: it prunes, gives the space back, and
/// commits are taken again, with the disk still full of other things.
#[test]
fn pruning_makes_room_on_a_full_disk() {
    let Some(disk) = on_small_disk(4 * DISK) else {
        return;
    };
    let store = open(&disk);
    store.create_task(new_task("a")).unwrap();
    let mut acks = Vec::new();
    for _ in 0..200 {
        acks.extend(sound(&store, vec![7; 4000]));
    }
    store.shorten_log().unwrap();
    disk.fill(0);
    let mut refused = 0;
    while refused < 3 {
        match sound(&store, vec![7; 4000]) {
            Some(number) => acks.push(number),
            None => refused += 1,
        }
    }
    assert_eq!(store.counters().ballast_given_up, 1);
    let config = UpkeepConfig {
        free_bytes_kept: 0,
        retention: Retention {
            checkpoints: CheckpointRule::keep_last(5),
            ..Retention::default()
        },
        ..UpkeepConfig::default()
    };
    let report = run_upkeep_with(&store, &config, Mode::Apply).unwrap();
    assert_eq!(report.checkpoints.rows as usize, acks.len() - 5);
    // What frees no space has to wait for the next pass.
    let left: Vec<Step> = report.failures.iter().map(|failure| failure.step).collect();
    assert!(
        left.iter().all(|step| *step == Step::Statistics),
        "{report:?}"
    );
    let again = run_upkeep_with(&store, &config, Mode::Apply).unwrap();
    assert!(again.is_complete(), "{again:?}");
    assert!(disk.free() >= 2 * BALLAST, "{}", disk.free());
    let next = sound(&store, vec![7; 4000]);
    assert_eq!(next, Some(acks.len() as u64 + 1));
    assert_eq!(store.inspect().unwrap().ballast_bytes, BALLAST);
    let kept = acks[acks.len() - 5..].iter().copied().chain(next);
    let kept: Vec<u64> = kept.collect();
    let problems = store.check_integrity().unwrap().problems;
    judge(&kept, &numbers(&store, "a"), &problems).unwrap();
}

/// Goal: a process that dies while it gives the ballast up leaves nothing that
/// the next does not understand. Method: kill it before and after.
#[test]
fn a_death_while_the_ballast_is_given_up_loses_nothing() {
    let Some(disk) = on_small_disk(DISK) else {
        return;
    };
    for point in ["ballast.before_giving_up", "ballast.given_up"] {
        let path = database(&disk);
        drop(open(&disk));
        disk.fill(64 * PAGE);
        let path = path.to_str().unwrap();
        let arguments = [point, "1", "append-small", path, "a", "10000"];
        let said = Victim::start(VICTIM, "kill-at", arguments).dies();
        let acks: Vec<u64> = said.iter().map(|line| line.parse().unwrap()).collect();
        assert!(!acks.is_empty(), "it died before it began");
        let store = open(&disk);
        let problems = store.check_integrity().unwrap().problems;
        judge(&acks, &numbers(&store, "a"), &problems).unwrap();
        disk.make_room();
        let next = sound(&store, vec![7; 10]);
        assert_eq!(next, Some(acks.len() as u64 + 1), "after {point}");
        assert_eq!(store.inspect().unwrap().ballast_bytes, BALLAST);
        drop(store);
        disk.clear();
    }
}

/// Without a ballast nothing is refused in advance: each commit is tried.
#[test]
fn without_a_ballast_commits_are_tried_again_and_again() {
    let Some(disk) = on_small_disk(DISK) else {
        return;
    };
    let store = SqliteStore::open(small_config(&disk).ballast_bytes(0)).unwrap();
    store.create_task(new_task("a")).unwrap();
    disk.fill(8 * PAGE);
    let mut acks = Vec::new();
    while let Some(number) = sound(&store, vec![7; 2000]) {
        acks.push(number);
    }
    assert_eq!(sound(&store, vec![7; 2000]), None);
    judge(&acks, &numbers(&store, "a"), &[]).unwrap();
    disk.make_room();
    acks.extend(sound(&store, vec![7; 2000]));
    judge(&acks, &numbers(&store, "a"), &[]).unwrap();
}

/// Goal: on a full disk leases stay true: they are renewed, and lost ones are taken
/// away, while plain commits and claims are refused. Method: fill the disk to the
/// last page around a store with leases; a renewal, a sweep, a commit or a claim is
/// the first to meet it, and whichever it is, heartbeats and sweeps go on from then
/// on, again and again, until there is room.
#[test]
fn heartbeats_and_sweeps_go_on_while_the_disk_is_full() {
    let Some(disk) = on_small_disk(DISK) else {
        return;
    };
    // Their log alone is many times the room that was kept.
    const BEATS: i64 = 500;
    for first in ["renew", "sweep", "commit", "claim"] {
        let path = database(&disk);
        drop(open(&disk));
        leased_file(&path);
        let clock = leased_clock();
        let config = small_config(&disk).clock(Arc::clone(&clock));
        let store = SqliteStore::open(config).unwrap();
        let lease = Duration::from_secs(3600);
        let held = [fence(4, 1), fence(5, 1)];
        let renew = || {
            let answers = store.renew(&held, lease).unwrap();
            let renewed = answers.into_iter().map(|answer| answer.unwrap().expires_at);
            let renewed: Vec<_> = renewed.collect();
            assert_eq!(renewed, [clock.wall().plus(lease); 2]);
        };
        // The holder of three leases is gone: its items come back one by one.
        let sweep = || {
            let request = SweepRequest {
                rows: 1,
                ..SweepRequest::default()
            };
            let swept = store.sweep(&request).unwrap();
            assert_eq!((swept.found, swept.recovered.len()), (1, 1), "{swept:?}");
        };
        let claim = || store.claim(&ClaimRequest::new(worker("new", "first")));
        let refused = |answer: Result<(), StorageError>| {
            assert!(
                matches!(answer, Err(StorageError::DiskFull(_))),
                "{answer:?}"
            );
        };
        disk.fill(0);
        match first {
            "renew" => (0..10_000)
                .take_while(|_| store.counters().ballast_given_up == 0)
                .for_each(|_| renew()),
            "sweep" => sweep(),
            "commit" => while sound(&store, vec![7; 3000]).is_some() {},
            // Nothing is due any more when the disk would still take it.
            _ => refused((0..10_000).try_for_each(|_| claim().map(drop))),
        }
        assert_eq!(store.counters().ballast_given_up, 1, "{first}");
        assert_eq!(store.inspect().unwrap().ballast_bytes, 0);
        for beat in 1..=BEATS {
            clock.advance(Duration::from_secs(1));
            renew();
            if beat <= 2 {
                sweep();
            }
            assert_eq!(sound(&store, vec![7; 10]), None, "beat {beat}");
            refused(claim().map(drop));
            let complete = CompleteWork {
                fence: held[0],
                result: None,
            };
            refused(
                store
                    .commit(Commit::under(held[0]).part(complete))
                    .map(drop),
            );
        }
        // Of the three that were lost all are back, or all but one.
        let counts = store.count_work_items().unwrap();
        assert_eq!(
            counts[&WorkItemStatus::InProgress],
            2 + u64::from(first != "sweep")
        );
        assert!(store.check_integrity().unwrap().is_sound());
        disk.make_room();
        assert!(sound(&store, vec![7; 10]).is_some());
        assert_eq!(store.inspect().unwrap().ballast_bytes, BALLAST);
        finish_work(&store, &clock);
        let counts = store.count_work_items().unwrap();
        assert_eq!(counts[&WorkItemStatus::Succeeded], 7, "{counts:?}");
        drop(store);
        assert_eq!(disagreements(&path), [""; 0]);
        disk.clear();
    }
}

/// Goal: two processes share one ballast: what one gives up the other does not
/// take for plain commits. Method: a second store of the same file, as another
/// process has it, after the first met the full disk.
#[test]
fn the_room_that_one_process_gives_up_is_not_for_the_plain_commits_of_another() {
    let Some(disk) = on_small_disk(DISK) else {
        return;
    };
    let (one, other) = (open(&disk), open(&disk));
    one.create_task(new_task("a")).unwrap();
    disk.fill(4 * PAGE);
    while sound(&one, vec![7; 3000]).is_some() {}
    let free = disk.free();
    assert!(free >= BALLAST, "{free}");
    for _ in 0..3 {
        assert_eq!(sound(&other, vec![7; 10]), None);
    }
    assert_eq!(disk.free(), free);
    disk.make_room();
    assert!(sound(&other, vec![7; 10]).is_some());
    assert!(sound(&one, vec![7; 10]).is_some());
}
