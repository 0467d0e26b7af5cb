//! What a report says about itself: what was tested, when, and on what machine.
//!
//! The machine's name and its user stay out: reports are passed on.

use agentos_core::{Clock, SystemClock};

use crate::evidence::git_commit;

/// Version (the caller's), commit, date, system and processors, by name. The
/// commit is that of the working directory, and missing outside a repository.
pub fn facts(version: &str) -> Vec<(String, String)> {
    let system = [
        std::fs::read_to_string("/proc/sys/kernel/ostype").unwrap_or_default(),
        std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default(),
        std::env::consts::ARCH.to_owned(),
    ];
    let system: Vec<&str> = system.iter().map(|word| word.trim()).collect();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let fact = |name: &str, fact: String| (name.to_owned(), fact);
    vec![
        fact("version", version.to_owned()),
        fact("commit", git_commit().unwrap_or_else(|| "unknown".into())),
        fact("date", format!("{} UTC", SystemClock.wall().to_text())),
        fact("system", system.join(" ")),
        fact("processors", processors.to_string()),
    ]
}
