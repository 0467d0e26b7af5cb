//! `cargo xtask`: this project's scenarios, and the victims they kill.
//!
//! The binary re-executes itself as the victim, so that what is killed is
//! always what was just built.

mod any_program;
mod broken_store;
mod canary;
mod chaos;
mod chat;
mod checks;
mod cli;
mod doctor;
mod exhaustive;
mod guarantees;
mod model;
mod port;
mod scenarios;
mod sealed_anew;
mod soak;
mod stability;
mod subjects;
mod victims;
mod work;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let result = match cli::Cli::parse().command {
        cli::Command::Chaos(arguments) => match &arguments.command {
            Some(cli::ChaosCommand::Run(program)) => any_program::run(program),
            None => chaos::run(&arguments),
        },
        cli::Command::Stability(arguments) => stability::run(&arguments),
        cli::Command::Guarantees(arguments) => guarantees::run(&arguments),
        cli::Command::Soak(arguments) => soak::run(&arguments),
        cli::Command::Doctor(arguments) => doctor::run(&arguments),
        cli::Command::Smoke(arguments) => doctor::smoke(&arguments),
        cli::Command::Victim { role } => victims::run(&role).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        report(error.as_ref());
        ExitCode::from(2)
    })
}

/// An error and its causes, one a line.
#[expect(
    clippy::print_stderr,
    reason = "a command tells its user why it failed"
)]
fn report(error: &dyn std::error::Error) {
    eprintln!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("  because: {cause}");
        source = cause.source();
    }
}
