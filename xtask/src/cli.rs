//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::canary::Canary;

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
    /// could not be judged, or the command line is wrong.
    Chaos(ChaosArgs),
    /// A program that exists to be killed.
    #[command(hide = true)]
    Victim {
        /// Its role, as JSON.
        role: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ChaosArgs {
    /// Scenarios to run, by name or number; all of them when none is named.
    #[arg(value_name = "NAME|NUMBER")]
    pub(crate) scenarios: Vec<String>,
    /// List the scenarios and stop.
    #[arg(long)]
    pub(crate) list: bool,
    /// Fewer kills, for a first look.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Makes the same choices as the run that printed this seed.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Seconds that one scenario may take.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// Write the report as JSON to a file, or to standard output with `-`.
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
    /// Where the evidence of violations goes.
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts: Option<PathBuf>,
    /// Keep the directories of all runs.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Print progress as lines.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Run victims that are broken on purpose: the checks must catch them.
    #[arg(long, value_enum, hide = true)]
    pub(crate) canary: Option<Canary>,
}
