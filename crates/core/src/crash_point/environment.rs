//! Obeys the environment: counts points, or dies at one of them.
//!
//! Nothing is buffered. A line stands in its file before the process goes on, so
//! a SIGKILL at any moment loses nothing of what happened. A harness that asked
//! for something impossible is told by an abort: a run in which nothing was
//! counted must not look like one in which nothing was there to count.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

use super::{COUNT_VARIABLE, DIE_VARIABLE, DIED_FILE, DIED_MARK};

static ORDERS: OnceLock<Option<Orders>> = OnceLock::new();

/// What the environment asks for.
struct Orders {
    counts: Option<Counts>,
    death: Option<Death>,
}

/// Where points are counted.
struct Counts {
    directory: PathBuf,
    file: File,
}

/// Where to die.
struct Death {
    name: String,
    at: u64,
    reached: AtomicU64,
}

pub(super) fn reached(name: &str) {
    if let Some(orders) = ORDERS.get_or_init(read) {
        orders.obey(name);
    }
}

impl Orders {
    fn obey(&self, name: &str) {
        let due = self.death.as_ref().is_some_and(|death| death.is_due(name));
        let dies = match &self.counts {
            Some(counts) => {
                let dies = due && counts.claim();
                counts.write(name, dies);
                dies
            }
            None => due,
        };
        if dies {
            let _ = kill_process(getpid(), Signal::KILL);
            // The kernel does not return from that.
            std::process::abort();
        }
    }
}

impl Counts {
    /// Whether this process is the one that dies.
    fn claim(&self) -> bool {
        match File::create_new(self.directory.join(DIED_FILE)) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => refuse(&format!("{COUNT_VARIABLE}: {error}")),
        }
    }

    /// One write at the end of the file: lines of threads never mix.
    fn write(&self, name: &str, dies: bool) {
        let line = if dies {
            format!("{DIED_MARK}{name}\n")
        } else {
            format!("{name}\n")
        };
        let mut file = &self.file;
        if let Err(error) = file.write_all(line.as_bytes()) {
            refuse(&format!("{COUNT_VARIABLE}: {error}"));
        }
    }
}

impl Death {
    fn is_due(&self, name: &str) -> bool {
        self.name == name && self.reached.fetch_add(1, Ordering::Relaxed) + 1 == self.at
    }

    fn parse(text: &str) -> Option<Death> {
        let (name, at) = text.rsplit_once('#')?;
        let at = at.parse().ok().filter(|at| *at > 0)?;
        (!name.is_empty()).then(|| Death {
            name: name.to_owned(),
            at,
            reached: AtomicU64::new(0),
        })
    }
}

fn read() -> Option<Orders> {
    let counts = std::env::var_os(COUNT_VARIABLE);
    let death = std::env::var_os(DIE_VARIABLE);
    if counts.is_none() && death.is_none() {
        return None;
    }
    Some(Orders {
        counts: counts.map(|directory| open(directory.into())),
        death: death.map(|text| death_of(&text)),
    })
}

fn open(directory: PathBuf) -> Counts {
    let file = directory.join(getpid().as_raw_nonzero().to_string());
    match OpenOptions::new().create(true).append(true).open(&file) {
        Ok(file) => Counts { directory, file },
        Err(error) => refuse(&format!("{COUNT_VARIABLE}: {}: {error}", file.display())),
    }
}

fn death_of(text: &OsStr) -> Death {
    match text.to_str().and_then(Death::parse) {
        Some(death) => death,
        None => refuse(&format!("{DIE_VARIABLE} is no NAME#N: {}", text.display())),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "only in a build for harnesses, whose evidence has standard error"
)]
fn refuse(why: &str) -> ! {
    eprintln!("{why}");
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_due_at_its_name_and_count_alone() {
        let death = Death::parse("a#b#2").unwrap();
        let due: Vec<bool> = ["a#b", "a", "a#b", "a#b"]
            .iter()
            .map(|name| death.is_due(name))
            .collect();
        assert_eq!(due, [false, false, true, false]);
    }

    #[test]
    fn what_is_no_name_and_count_is_refused() {
        for text in ["", "a", "a#", "a#0", "a#x", "#1", "a#-1"] {
            assert!(Death::parse(text).is_none(), "{text}");
        }
    }
}
