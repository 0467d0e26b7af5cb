//! The command line.

use std::path::PathBuf;

use agentos_chaos::{JOBS_MAX, RUNS_MAX, SCENARIO_TIMEOUT_DEFAULT, SHRINK_RUNS_MAX, Strike};
use agentos_crash_vfs::ImageId;
use clap::{Args, Parser, Subcommand};

use crate::any_program::ProgramArgs;
use crate::canary::Canary;

/// Seconds that one scenario may take when nothing is said.
pub(crate) const TIMEOUT_S: u64 = SCENARIO_TIMEOUT_DEFAULT.as_secs();

/// Proves that AgentOS Recovery survives what it says it survives.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Kills real processes and checks what they left behind.
    ///
    /// Exit codes: 0 all scenarios passed; 1 a promise was broken; 2 a scenario
    /// could not be judged, or the command line is wrong; 130 interrupted.
    Chaos(Box<ChaosArgs>),
    /// Runs scenarios many times, each time with another seed.
    ///
    /// Exit codes: 0 the gate holds and every run was judged; 1 the gate is
    /// broken, or a violation is known of an interrupted loop; 2 a run could
    /// not be judged, or the command line is wrong; 130 interrupted.
    Stability(StabilityArgs),
    /// Runs every scenario, a sample of every crash and every canary, and writes what
    /// backs each promise into docs/GUARANTEES.md.
    ///
    /// Exit codes: 0 nothing was violated and every canary was caught; 1 otherwise; 2 it
    /// could not be run or written; 130 interrupted.
    Guarantees(GuaranteesArgs),
    /// Loads one file for a long time, with kills: nothing may grow.
    ///
    /// Exit codes as those of `chaos`.
    Soak(SoakArgs),
    /// Opens a store as its program would, and says what could keep it from its
    /// promises. An older schema is brought forward, a missing ballast is made.
    ///
    /// Exit codes: 0 nothing does; 1 something does; 2 it cannot be opened, or
    /// the command line is wrong.
    Doctor(DoctorArgs),
    /// Does in a directory what the promises rest on: for the machine and the
    /// disk on which a store will lie. Removes what it made, unless a promise was
    /// broken. It works on the sources of this checkout.
    ///
    /// Exit codes as those of `chaos`.
    Smoke(SmokeArgs),
    /// A program that exists to be killed.
    #[command(hide = true)]
    Victim {
        /// Its role, as JSON.
        role: String,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ChaosArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ChaosCommand>,
    /// Scenarios to run, by name or number; 1 to 7 when none is named.
    #[arg(value_name = "NAME|NUMBER")]
    pub(crate) scenarios: Vec<String>,
    /// Run all scenarios.
    #[arg(long = "all", conflicts_with = "scenarios")]
    pub(crate) every: bool,
    /// List the scenarios and stop.
    #[arg(long)]
    pub(crate) list: bool,
    #[command(flatten)]
    pub(crate) exhaustive: ExhaustiveArgs,
    /// Cut one recording of power-loss again, that a violation has kept.
    #[arg(long, value_name = "DIR", requires = "image")]
    pub(crate) recording: Option<PathBuf>,
    /// Which image of that recording.
    #[arg(long, value_name = "IMAGE", requires = "recording")]
    pub(crate) image: Option<ImageId>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Keep the directories of all runs.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Print progress as lines.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ChaosCommand {
    /// Strikes a program of any language, as a TOML file says.
    ///
    /// Exit codes: 0 everything that was struck held; 1 something was broken; 2 a
    /// run could not be judged, or the file or the command line is wrong; 130
    /// interrupted.
    Run(ProgramArgs),
}

/// A crash at every dangerous point, and not at seeded moments.
#[derive(Debug, Args)]
pub(crate) struct ExhaustiveArgs {
    /// Strike each scenario's victim at every named point and at every system call,
    /// one run each; of all scenarios that can be struck so when none is named. Of
    /// power-loss, named alone: open all images of the first level.
    #[arg(long, conflicts_with = "quick")]
    pub(crate) exhaustive: bool,
    /// Only at named points, or at what else is asked for.
    #[arg(long, requires = "exhaustive")]
    pub(crate) points: bool,
    /// Only before and after system calls, or at what else is asked for.
    #[arg(long, requires = "exhaustive")]
    pub(crate) calls: bool,
    /// Let system calls fail; alone, or with what else is asked for.
    #[arg(long, requires = "exhaustive")]
    pub(crate) faults: bool,
    /// At most so many strikes of each scenario, chosen by the seed.
    #[arg(long, value_name = "N", requires = "exhaustive", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) budget: Option<u32>,
    /// How many run at a time; one a processor when nothing is said.
    #[arg(long, value_name = "N", requires = "exhaustive", value_parser = clap::value_parser!(u16).range(1..=JOBS_MAX as i64))]
    pub(crate) jobs: Option<u16>,
    /// How much the victim has to do; each scenario has a size of its own.
    #[arg(long, value_name = "N", requires = "exhaustive", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) size: Option<u64>,
    /// Runs that making one violation small may take.
    #[arg(long, value_name = "N", requires = "exhaustive", default_value_t = SHRINK_RUNS_MAX)]
    pub(crate) shrink_runs: u32,
    /// Make this strike of the one scenario that is named, and no other.
    #[arg(long, value_name = "STRIKE", requires = "exhaustive", conflicts_with_all = ["points", "calls", "faults", "budget"])]
    pub(crate) strike: Option<Strike>,
    /// Write a page for each scenario, and one that leads to them under this name.
    #[arg(long, value_name = "FILE", requires = "exhaustive")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct GuaranteesArgs {
    /// Run nothing: fail when what is published is wrong.
    #[arg(long, conflicts_with_all = ["minutes", "dry"])]
    pub(crate) check: bool,
    /// Rounds are made until so much time is over, one at least.
    #[arg(long, value_name = "M", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=10_080))]
    pub(crate) minutes: u64,
    /// How often each scenario runs in a round.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(RUNS_MAX)))]
    pub(crate) runs: u32,
    /// Make the same choices as the run that printed this seed.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Seconds that one run may take.
    #[arg(long, value_name = "S", default_value_t = TIMEOUT_S, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// Where evidence of violations goes.
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts: Option<PathBuf>,
    /// Write no file.
    #[arg(long = "dry-run")]
    pub(crate) dry: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// How long it lasts.
    #[arg(long, value_name = "S", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(3..=604_800))]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
    /// Print progress as lines.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The database.
    pub(crate) file: PathBuf,
    /// Check the whole file as well, about 3 s a GiB.
    #[arg(long)]
    pub(crate) full: bool,
    /// Let warnings count as well.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Open it also on a network file system or FUSE.
    #[arg(long)]
    pub(crate) allow_unsafe_file_system: bool,
    /// Open it after a crash without looking through it first.
    #[arg(long)]
    pub(crate) skip_check_after_crash: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SmokeArgs {
    /// The directory in which a store will lie.
    pub(crate) directory: PathBuf,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StabilityArgs {
    /// How often each scenario runs.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(RUNS_MAX)))]
    pub(crate) runs: u32,
    /// A scenario to run, by name or number; may be given again. 1 to 7 when
    /// none is named.
    #[arg(long = "scenario", value_name = "NAME|NUMBER")]
    pub(crate) scenarios: Vec<String>,
    /// Run all scenarios.
    #[arg(long = "all", conflicts_with = "scenarios")]
    pub(crate) every: bool,
    /// How many run at a time; one a processor when nothing is said.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=JOBS_MAX as i64))]
    pub(crate) jobs: Option<u16>,
    /// The part of the judged runs that must pass, of each scenario and of all.
    /// 1 allows no violation.
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = pass_rate)]
    pub(crate) min_pass_rate: f64,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Write the report as JUnit XML to a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Write the report as one HTML file.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// What one run and many have in common.
#[derive(Debug, Args)]
pub(crate) struct CommonArgs {
    #[command(flatten)]
    pub(crate) report: ReportArgs,
    /// Fewer kills, for a first look.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Seconds that one scenario may take.
    #[arg(long, value_name = "S", default_value_t = TIMEOUT_S, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// Run victims that are broken on purpose: the checks must catch them.
    #[arg(long, value_enum, hide = true)]
    pub(crate) canary: Option<Canary>,
}

/// Where choices come from, and where findings go.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Makes the same choices as the run that printed this seed.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Write the report as JSON to a file, or to standard output with `-`.
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
    /// Where the evidence of violations goes.
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts: Option<PathBuf>,
}

fn pass_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok(rate),
        _ => Err("a pass rate is a number from 0 to 1".to_owned()),
    }
}
