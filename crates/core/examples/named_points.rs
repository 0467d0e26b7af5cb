//! A program that says its dangerous places by name, and obeys a harness only
//! when it is built with the feature `crash-points`.

use std::error::Error;
use std::io::Write;

use agentos_core::crash_point;

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    for number in 1..=3 {
        crash_point!("example.before_saying");
        writeln!(out, "ack {number}")?;
        crash_point!("example.said");
    }
    Ok(())
}
