//! What tracing costs: calls that are not interesting, and calls that are.
//!
//! ```text
//! cargo run --release -p agentos-tracer --example overhead
//! ```

#![allow(clippy::print_stdout, reason = "an example says what it found")]

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use agentos_process::{Child, CommandSpec, NextLine, Sink};
use agentos_tracer::{Plan, Tracer};

const CALLS: u32 = 100_000;
const ROUNDS: usize = 7;
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some(role) => Ok(work(role)?),
        None => measure(),
    }
}

/// Says how long its calls took, in nanoseconds each.
fn work(role: &str) -> std::io::Result<()> {
    let mut null = OpenOptions::new().write(true).open("/dev/null")?;
    let watch = agentos_core::Stopwatch::start();
    for _ in 0..CALLS {
        match role {
            "reads" => {
                let _ = rustix::process::getppid();
            }
            _ => null.write_all(b"x")?,
        }
    }
    println!("{}", watch.elapsed().as_nanos() / u128::from(CALLS));
    Ok(())
}

fn measure() -> Result<(), Box<dyn Error>> {
    for (role, what) in [("reads", "getppid"), ("writes", "write to /dev/null")] {
        let plain = median(role, false)?;
        let traced = median(role, true)?;
        println!(
            "{what}: {plain} ns each, traced {traced} ns each ({CALLS} calls, median of {ROUNDS} runs)"
        );
    }
    Ok(())
}

fn median(role: &str, traced: bool) -> Result<u64, Box<dyn Error>> {
    let spec = CommandSpec::new(std::env::current_exe()?).arg(role);
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let mut tracer = Tracer::new(Plan::Count);
        let mut child = if traced {
            tracer.spawn(&spec, Sink::Inherit)?
        } else {
            Child::spawn(&spec, Sink::Inherit)?
        };
        let NextLine::Line(line) = child.next_line(PATIENCE)? else {
            return Err("it said nothing".into());
        };
        times.push(String::from_utf8(line)?.parse()?);
        child.wait(PATIENCE)?;
        if traced {
            tracer.finish(PATIENCE)?;
        }
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
