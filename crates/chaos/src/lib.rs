//! A crash harness: starts any program, kills it, and checks what it promised.
//!
//! It knows no engine and no database. A *victim* is any program that prints
//! `ack <payload>` on standard output after each commit: from then on, what the
//! line speaks of is a promise. A *scenario* starts victims, kills them with
//! SIGKILL at a seeded moment, and then reads what they left behind. Verdicts
//! are three: passed, violated (the evidence is kept), and inconclusive, when
//! the machine got in the way. A [`Runner`] runs scenarios once, [`Stability`]
//! many times with a seed each, and says what the counts prove.
//!
//! SIGKILL proves nothing about `fsync`: the page cache survives it.
//!
//! # Quick start
//!
//! A [`Subject`] is a program under test, and what must hold after a crash of it
//! anywhere. [`Chaos`] finds the crashes. It runs the program once without
//! striking it, counts what there is to strike, strikes each in a run of its own,
//! and reduces what it finds to the smallest workload and the earliest strike.
//! It is at home inside a `#[test]`.
//!
//! ```
//! use agentos_chaos::{Chaos, Outcome, Subject, VictimSpec};
//!
//! // The program: it writes a line, then it says so.
//! let append = "i=0; while [ $i -lt $SIZE ]; do i=$((i+1)); echo $i >> log; echo ack $i; done";
//! let subject = Subject::new(
//!     "log",
//!     // How it is started in a fresh directory, for a workload of a size.
//!     move |dir, size| {
//!         let spec = VictimSpec::new("writer", "sh").args(["-c", append]);
//!         spec.env("SIZE", size.to_string()).cwd(dir)
//!     },
//!     // What must hold when nothing of it runs any more.
//!     |run, after| {
//!         let log = std::fs::read_to_string(run.dir().join("log")).unwrap_or_default();
//!         let (acked, found) = (after.acks().len(), log.lines().count());
//!         let mut outcome = Outcome::passed();
//!         outcome.check(acked <= found, || format!("{acked} acknowledged, {found} found"));
//!         Ok(outcome)
//!     },
//! );
//! Chaos::new(subject).kills(20).run().assert_passed();
//! ```
//!
//! - [`Chaos::kills`] kills at seeded moments, [`Chaos::stability`] in many runs.
//! - [`Chaos::every_syscall`] kills before and after every system call that
//!   changes files or talks to others, and [`Chaos::faults`] lets each fail: of
//!   any program, as it is.
//! - [`Chaos::every_point`] kills at every place that the program names with
//!   [`crash_point!`]. Give your crate a feature that turns on this crate's
//!   `crash-points`, and build the victim with it; nothing of the points is in
//!   any other build. Of several processes only the first that comes to a point
//!   so often is struck there.
//!
//! A violation comes with one line that shows it again. The whole story is in
//! `docs/CHAOS.md`.
//!
//! # By hand
//!
//! A [`Scenario`] decides by itself when its victims die.
//!
//! ```
//! use agentos_chaos::report::terminal;
//! use agentos_chaos::{Console, Outcome, Runner, Scenario, VictimSpec};
//! use std::time::Duration;
//!
//! let scenario = Scenario::new(1, "log", "an acknowledged line survives", |run| {
//!     let append = "i=0; while :; do i=$((i+1)); echo $i >> log; echo ack $i; done";
//!     let spec = VictimSpec::new("writer", "sh").args(["-c", append]).cwd(run.dir());
//!     let mut victim = run.start(&spec)?;
//!
//!     let acks = run.rng.between(5, 20) as usize;
//!     victim.wait_for_acks(acks, Duration::from_secs(10))?;
//!     let offset = run.rng.duration_between(Duration::ZERO, Duration::from_micros(500));
//!     let acked = victim.kill_after(offset)?.acks();
//!
//!     let log = std::fs::read_to_string(run.dir().join("log"))?;
//!     let found: Vec<&str> = log.lines().collect();
//!     let mut outcome = Outcome::passed();
//!     outcome.metric("acked", acked.len());
//!     outcome.metric("found", found.len());
//!     outcome.check(found.starts_with(&acked.iter().map(String::as_str).collect::<Vec<_>>()), || {
//!         format!("{} acknowledged, but the log is {found:?}", acked.len())
//!     });
//!     Ok(outcome)
//! });
//!
//! let report = Runner::new(8141).console(Console::Silent).run(&[&scenario]);
//! assert_eq!(report.exit_code(), 0, "{}", terminal::render(&report));
//! ```

mod clock;
mod config;
mod crash;
mod disk;
mod error;
mod evidence;
mod interrupt;
mod limits;
mod pool;
mod prng;
pub mod report;
mod runner;
mod scenario;
mod stability;
mod statistics;
mod supervisor;
mod transcript;
mod verdict;
mod wreck;

pub use agentos_core::crash_point;
pub use agentos_tracer::{Fault, Position, PositionError, When};
pub use config::{Config, ConfigError};
pub use crash::{
    Aftermath, Chaos, Family, KILL_REPLAYS_MAX, PATIENCE_DEFAULT, SEED_VARIABLE, SHRINK_RUNS_MAX,
    SIZE_VARIABLE, STRIKE_VARIABLE, STRIKES_MAX, Staged, Strike, StrikeError, Subject, TRIES_MAX,
};
pub use error::{Failure, HarnessError};
pub use evidence::DumpError;
pub use interrupt::Interrupt;
pub use limits::TALK_BYTES_MAX;
pub use prng::{Prng, fresh_seed, run_seed, scenario_seed};
pub use report::crash::ChaosReport;
pub use report::live::Console;
pub use report::stability::StabilityReport;
pub use report::{Report, ScenarioReport, Toll};
pub use runner::{Runner, SCENARIO_TIMEOUT_DEFAULT};
pub use scenario::{Run, Scenario, ScenarioResult, UnknownScenario, select};
pub use stability::{JOBS_MAX, RUNS_MAX, Stability};
pub use statistics::lower_bound_95;
pub use supervisor::{Victim, VictimSpec};
pub use transcript::{ACK_PREFIX, Transcript};
pub use verdict::{Metrics, Outcome, Verdict, exit_code};
