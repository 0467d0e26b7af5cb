//! What processes left of the named points that they reached.
//!
//! One file a process, one name a line, in order. A line without its newline is
//! of a process that died while it wrote it, and counts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use agentos_core::crash_point::{DIED_FILE, DIED_MARK};

use super::limits::POINT_BYTES_MAX;

/// The points of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Points {
    /// The names of each process, in the order in which it reached them.
    pub(crate) reached: Vec<Vec<String>>,
    /// Those at which a process died.
    pub(crate) died: Vec<String>,
    /// Whether a process reached more than is read.
    pub(crate) is_cut: bool,
}

impl Points {
    /// Reads what stands in a directory.
    pub(crate) fn read(directory: &Path) -> io::Result<Points> {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.ends_with(DIED_FILE) {
                continue;
            }
            // Process ids are in the order of starts, most of the time.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            files.push((name.parse().unwrap_or(u64::MAX), path.clone()));
        }
        files.sort();
        let mut points = Points::default();
        for (_, path) in files {
            let file = File::open(path)?;
            points.is_cut |= file.metadata()?.len() > POINT_BYTES_MAX;
            let mut bytes = Vec::new();
            file.take(POINT_BYTES_MAX).read_to_end(&mut bytes)?;
            points.add(&String::from_utf8_lossy(&bytes));
        }
        Ok(points)
    }

    fn add(&mut self, text: &str) {
        let mut names = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let name = line.strip_prefix(DIED_MARK).unwrap_or(line);
            names.push(name.to_owned());
            if line.starts_with(DIED_MARK) {
                self.died.push(name.to_owned());
            }
        }
        if !names.is_empty() {
            self.reached.push(names);
        }
    }

    /// How often each was reached, by all processes together.
    pub(crate) fn totals(&self) -> BTreeMap<String, u64> {
        let mut totals = BTreeMap::new();
        for name in self.reached.iter().flatten() {
            *totals.entry(name.clone()).or_default() += 1;
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_its_own_order_and_deaths_are_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("10"), "a\nb\n!a\n").unwrap();
        fs::write(dir.path().join("9"), "b\na").unwrap();
        fs::write(dir.path().join("11"), "").unwrap();
        fs::write(dir.path().join(DIED_FILE), "").unwrap();
        let points = Points::read(dir.path()).unwrap();
        assert_eq!(points.reached, [vec!["b", "a"], vec!["a", "b", "a"]]);
        assert_eq!(points.died, ["a"]);
        let totals = points.totals();
        assert_eq!(totals, BTreeMap::from([("a".into(), 3), ("b".into(), 2)]));
    }
}
