//! The loop over many seeds: what it counts, what its gate says, how it ends.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentos_chaos::report::stability::{Counts, ScenarioTally};
use agentos_chaos::{
    Console, Interrupt, Outcome, Runner, Scenario, Stability, StabilityReport, Verdict, VictimSpec,
    run_seed,
};
use tempfile::TempDir;

const SEED: u64 = 8141;
const PATIENCE: Duration = Duration::from_secs(30);

struct Fixture {
    dir: TempDir,
    screen: Screen,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture {
            dir: TempDir::new().unwrap(),
            screen: Screen::default(),
        }
    }

    fn runner(&self) -> Runner {
        Runner::new(SEED)
            .work_dir(self.dir.path().join("work"))
            .artifacts(self.dir.path().join("artifacts"))
            .replay(|name, seed| format!("replay {name} {seed}"))
            .console(Console::Writer(Box::new(self.screen.clone())))
    }

    fn stability(&self) -> Stability {
        Stability::new(self.runner()).runs(20).jobs(3)
    }

    fn left_in(&self, folder: &str) -> usize {
        std::fs::read_dir(self.dir.path().join(folder)).map_or(0, Iterator::count)
    }
}

/// A writer that the test can read afterwards.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn passing(id: u32, name: &str) -> Scenario {
    Scenario::new(id, name, "", |run| {
        let mut outcome = Outcome::passed();
        outcome.kill_point(run.rng.between(0, 100) as f64 / 100.0);
        Ok(outcome)
    })
}

/// Violated in these runs of the loop, inconclusive in those.
fn failing(name: &str, violated: &'static [u64], inconclusive: &'static [u64]) -> Scenario {
    Scenario::new(7, name, "", move |run| {
        let is = |runs: &[u64]| runs.iter().any(|one| run_seed(SEED, *one) == run.seed());
        let mut outcome = Outcome::passed();
        outcome.check(!is(violated), || "lost".to_owned());
        if is(inconclusive) {
            outcome.not_judged("no memory");
        }
        Ok(outcome)
    })
}

fn counts(passed: u64, violated: u64, inconclusive: u64) -> Counts {
    Counts {
        passed,
        violated,
        inconclusive,
    }
}

fn runs_of(tally: &ScenarioTally, verdict: Verdict) -> Vec<u32> {
    let of = tally.failures.iter().filter(|one| one.verdict == verdict);
    of.map(|one| one.run).collect()
}

/// All but the times, which differ.
fn timeless(mut report: StabilityReport) -> StabilityReport {
    report.sync_us = None;
    report.jobs = 0;
    for tally in &mut report.scenarios {
        tally.kill_points.sort_by(f64::total_cmp);
        tally.records.iter_mut().for_each(|run| run.duration_ms = 0);
        tally
            .failures
            .iter_mut()
            .for_each(|run| run.evidence = None);
    }
    report
}

#[test]
fn every_scenario_runs_as_often_as_it_should_and_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let (one, two) = (passing(1, "one"), passing(2, "two"));
    let report = fixture.stability().run(&[&one, &two]);
    assert_eq!(report.counts(), counts(40, 0, 0));
    assert_eq!((report.runs, report.planned()), (20, 40));
    assert!(report.sync_us.is_some() && !report.interrupted);
    for tally in &report.scenarios {
        assert_eq!(tally.counts(), counts(20, 0, 0));
        let numbers: Vec<u32> = tally.records.iter().map(|one| one.run).collect();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
        assert_eq!(tally.kill_points.len(), 20);
    }
    assert_eq!(report.exit_code(), 0);
    assert_eq!(fixture.left_in("work"), 0);
    assert_eq!(fixture.left_in("artifacts"), 0);
}

#[test]
fn the_seeds_that_fail_are_named_with_their_replays_and_evidence() {
    let fixture = Fixture::new();
    let scenario = failing("fragile", &[3, 17], &[5]);
    let report = fixture.stability().run(&[&scenario, &passing(1, "one")]);
    let tally = &report.scenarios[0];
    assert_eq!(tally.counts(), counts(17, 2, 1));
    assert_eq!(runs_of(tally, Verdict::Violated), [3, 17]);
    assert_eq!(runs_of(tally, Verdict::Inconclusive), [5]);
    for failure in &tally.failures {
        let seed = run_seed(SEED, u64::from(failure.run));
        assert_eq!(failure.seed, seed);
        assert_eq!(failure.replay, format!("replay fragile {seed}"));
        let kept = failure.evidence.as_ref().map(|folder| {
            assert!(folder.join("summary.txt").is_file());
            folder.file_name().unwrap().to_str().unwrap().to_owned()
        });
        let expected =
            (failure.verdict == Verdict::Violated).then(|| format!("fragile-seed-{seed}"));
        assert_eq!(kept, expected);

        // The replay's seed, given to a single run, is that run again.
        let alone = Runner::new(failure.seed)
            .work_dir(fixture.dir.path().join("work"))
            .artifacts(fixture.dir.path().join("again"))
            .console(Console::Silent)
            .run(&[&scenario]);
        assert_eq!(alone.scenarios[0].verdict, failure.verdict);
        assert_eq!(alone.scenarios[0].reasons, failure.reasons);
    }
    assert_eq!(report.counts(), counts(37, 2, 1));
}

#[test]
fn the_same_seed_makes_the_same_runs_however_many_run_at_a_time() {
    let fixture = Fixture::new();
    let scenarios = [failing("fragile", &[2, 3], &[9]), passing(1, "one")];
    let all: Vec<&Scenario> = scenarios.iter().collect();
    let alone = timeless(fixture.stability().jobs(1).run(&all));
    let together = timeless(fixture.stability().jobs(8).run(&all));
    assert_eq!(alone, together);
    let other = Stability::new(Runner::new(1).console(Console::Silent)).runs(20);
    assert_ne!(timeless(other.run(&all)).scenarios, alone.scenarios);
}

#[test]
fn something_inconclusive_neither_hides_a_violation_nor_makes_a_pass() {
    let fixture = Fixture::new();
    let code = |violated, inconclusive| {
        let scenario = failing("fragile", violated, inconclusive);
        fixture.stability().run(&[&scenario]).exit_code()
    };
    assert_eq!(code(&[], &[]), 0);
    assert_eq!(code(&[], &[1]), 2);
    assert_eq!(code(&[1], &[2, 3]), 1);
    assert_eq!(code(&[4], &[]), 1);

    let never = Scenario::new(1, "never judged", "", |_| {
        Err(io::Error::from(io::ErrorKind::StorageFull).into())
    });
    let report = fixture.stability().run(&[&never]);
    assert_eq!(report.counts(), counts(0, 0, 20));
    assert_eq!(report.counts().pass_rate(), None);
    assert!(report.gate_holds());
    assert_eq!(report.exit_code(), 2);
    assert_eq!(fixture.stability().run(&[]).exit_code(), 2);
}

/// Goal: a scenario cannot hide behind another, nor behind runs that nobody
/// judged.
#[test]
fn the_gate_asks_every_scenario_and_all_together() {
    let fixture = Fixture::new();
    let code = |rate: f64, violated, inconclusive, others: usize| {
        let scenario = failing("fragile", violated, inconclusive);
        let good: Vec<Scenario> = (0..others).map(|_| passing(1, "one")).collect();
        let all: Vec<&Scenario> = good.iter().chain([&scenario]).collect();
        let stability = fixture.stability().min_pass_rate(rate);
        stability.run(&all).exit_code()
    };
    // 19 of 20 is exactly 0.95.
    assert_eq!(code(0.95, &[4], &[], 0), 0);
    assert_eq!(code(0.951, &[4], &[], 0), 1);
    assert_eq!(code(0.95, &[4], &[5], 0), 1, "18 of 19");
    assert_eq!(code(0.94, &[4], &[5], 0), 2);
    // 58 of 60 in all, and 18 of 20 of one.
    assert_eq!(code(0.95, &[4, 5], &[], 2), 1);
    assert_eq!(code(0.90, &[4, 5], &[], 2), 0);
    assert_eq!(code(1.0, &[4], &[], 2), 1);
}

/// Goal: so many runs really go on at a time. Method: each says that it is there
/// and goes on only when as many as there are jobs have done so.
#[test]
fn as_many_run_at_a_time_as_was_asked_for() {
    const JOBS: usize = 4;
    let fixture = Fixture::new();
    let (here, arrivals) = mpsc::channel();
    let arrivals = Mutex::new(arrivals);
    let (go_sender, go) = mpsc::channel();
    let (go_sender, go) = (Mutex::new(go_sender), Mutex::new(go));
    let place = AtomicU32::new(0);
    let scenario = Scenario::new(1, "meets others", "", move |_| {
        here.send(()).unwrap();
        if place.fetch_add(1, Ordering::SeqCst) as usize % JOBS == JOBS - 1 {
            let arrivals = arrivals.lock().unwrap();
            for _ in 0..JOBS {
                arrivals.recv_timeout(PATIENCE)?;
                go_sender.lock().unwrap().send(()).unwrap();
            }
        }
        go.lock().unwrap().recv_timeout(PATIENCE)?;
        Ok(Outcome::passed())
    });
    let stability = fixture.stability().jobs(JOBS).runs(2 * JOBS as u32);
    let report = stability.run(&[&scenario]);
    assert_eq!(report.counts(), counts(8, 0, 0), "{report:?}");
}

/// Goal: what ended is reported, what was under way is not, and nothing of it
/// is left. Method: the third run raises the interruption and then waits for
/// what never comes.
#[test]
fn an_interrupted_loop_tells_what_it_knows() {
    let fixture = Fixture::new();
    let interrupt = Interrupt::new();
    let raised = interrupt.clone();
    let scenario = Scenario::new(1, "waits", "", move |run| {
        if run.seed() == run_seed(SEED, 3) {
            let sleeper = VictimSpec::new("sleeper", "sleep").arg("1000");
            let mut victim = run.start(&sleeper)?;
            raised.raise();
            victim.wait_for_acks(1, PATIENCE)?;
        }
        Ok(Outcome::passed())
    });
    let stability = Stability::new(fixture.runner().interrupt(interrupt)).runs(1000);
    let report = stability.run(&[&scenario]);
    assert!(report.interrupted);
    assert_eq!(report.counts(), counts(2, 0, 0));
    assert_eq!(report.exit_code(), 130);
    assert_eq!(fixture.left_in("work"), 0);
    assert_eq!(fixture.left_in("artifacts"), 0);
}

#[test]
fn an_interrupted_loop_that_knows_of_a_violation_says_so() {
    let fixture = Fixture::new();
    let interrupt = Interrupt::new();
    let raised = interrupt.clone();
    let scenario = Scenario::new(1, "fails first", "", move |run| {
        let mut outcome = Outcome::passed();
        outcome.check(run.seed() != run_seed(SEED, 1), || "lost".to_owned());
        if run.seed() == run_seed(SEED, 2) {
            raised.raise();
            outcome.violate("half a run proves nothing");
        }
        Ok(outcome)
    });
    let stability = Stability::new(fixture.runner().interrupt(interrupt)).min_pass_rate(0.0);
    let report = stability.run(&[&scenario]);
    assert_eq!(report.counts(), counts(0, 1, 0));
    assert_eq!(report.exit_code(), 1);
}

#[test]
fn a_single_run_can_be_interrupted_too() {
    let fixture = Fixture::new();
    let interrupt = Interrupt::new();
    let raised = interrupt.clone();
    let scenario = Scenario::new(2, "stops", "", move |run| {
        raised.raise();
        assert!(run.is_over() && run.remaining().is_zero());
        panic!("nobody hears this");
    });
    let runner = fixture.runner().interrupt(interrupt);
    let report = runner.run(&[&passing(1, "one"), &scenario, &passing(3, "three")]);
    assert!(report.interrupted);
    assert_eq!(report.scenarios.len(), 1);
    assert_eq!(report.exit_code(), 130);
    assert_eq!(fixture.left_in("work"), 0);
}

#[test]
fn a_panic_of_a_scenario_is_a_violation_and_one_of_the_harness_is_inconclusive() {
    let fixture = Fixture::new();
    let scenario = Scenario::new(1, "panics", "", |_| panic!("on purpose"));
    let report = fixture.stability().runs(4).run(&[&scenario]);
    assert_eq!(report.counts(), counts(0, 4, 0));
    assert_eq!(
        report.scenarios[0].failures[0].reasons,
        ["a check panicked: on purpose"]
    );

    let broken = fixture.runner().replay(|_, _| panic!("no such line"));
    let report = Stability::new(broken).runs(4).run(&[&passing(1, "one")]);
    assert_eq!(report.counts(), counts(0, 0, 4));
    assert_eq!(report.exit_code(), 2);
}

#[test]
fn evidence_is_kept_of_the_first_hundred_violations_only() {
    let fixture = Fixture::new();
    let scenario = Scenario::new(1, "broken", "", |_| {
        let mut outcome = Outcome::passed();
        outcome.violate("always");
        Ok(outcome)
    });
    let report = fixture.stability().runs(120).run(&[&scenario]);
    assert_eq!(report.counts(), counts(0, 120, 0));
    let failures = &report.scenarios[0].failures;
    assert_eq!(failures.len(), 120);
    let kept = failures.iter().filter(|one| one.evidence.is_some()).count();
    assert_eq!((kept, fixture.left_in("artifacts")), (100, 100));
    assert_eq!(fixture.left_in("work"), 100);
}

#[test]
fn the_seed_comes_first_and_progress_and_failures_as_they_happen() {
    let fixture = Fixture::new();
    let scenario = failing("fragile", &[3], &[]);
    fixture.stability().jobs(1).run(&[&scenario]);
    let text = fixture.screen.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("seed {SEED}"));
    assert_eq!(lines[1], "[2/20] 2 passed, 0 violated, 0 inconclusive");
    assert!(
        lines[2].starts_with("fragile run 3: violated in "),
        "{text}"
    );
    assert_eq!(lines[3], "  lost");
    let replay = format!("  replay: replay fragile {}", run_seed(SEED, 3));
    assert_eq!(lines[4], replay);
    assert!(lines[5].starts_with("  kept "), "{text}");
    assert_eq!(lines[6], "[4/20] 3 passed, 1 violated, 0 inconclusive");
    let last = lines[lines.len() - 1];
    assert_eq!(last, "[20/20] 19 passed, 1 violated, 0 inconclusive");
}
