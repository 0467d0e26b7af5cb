//! The crash points that stand in the sources of this checkout, and which of them the
//! runs of all subjects reached.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use agentos_chaos::{ChaosReport, Family};

/// What comes before the name of a point.
const MARK: &str = "crash_point!(\"";
/// Deeper folders are not looked into.
const DEPTH_MAX: u32 = 8;

/// The folder of the product's crates.
pub(super) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates")
}

/// The names of all points in the `src` folders of the crates of a folder.
///
/// # Errors
///
/// When a file cannot be read; [`io::ErrorKind::NotFound`] when there is no point at
/// all: then these are not the sources.
pub(super) fn declared(crates: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(crates)? {
        let sources = entry?.path().join("src");
        if sources.is_dir() {
            read(&sources, DEPTH_MAX, &mut names)?;
        }
    }
    if names.is_empty() {
        let words = format!("no crash point stands in {}", crates.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, words));
    }
    Ok(names)
}

fn read(folder: &Path, depth: u32, names: &mut BTreeSet<String>) -> io::Result<()> {
    let Some(depth) = depth.checked_sub(1) else {
        return Ok(());
    };
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, depth, names)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(named(&fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

/// The points in a source text; those in comments are none.
fn named(text: &str) -> impl Iterator<Item = String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    code.filter_map(|line| {
        let (_, rest) = line.split_once(MARK)?;
        let (name, _) = rest.split_once('"')?;
        Some(name.to_owned())
    })
}

/// What became of the points in a run of all subjects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Points {
    /// How many there are.
    pub(super) declared: usize,
    /// Those at which no run died; with a budget those that no dry run reached.
    pub(super) never_hit: Vec<String>,
}

impl Points {
    pub(super) fn of(
        declared: &BTreeSet<String>,
        reports: &[ChaosReport],
        budget: Option<u32>,
    ) -> Points {
        let lines = reports.iter().flat_map(|report| &report.coverage);
        let points = lines.filter(|line| line.family == Family::Point);
        let met = points.filter(|line| match budget {
            Some(_) => line.counted > 0,
            None => line.hit > 0,
        });
        let met: BTreeSet<&str> = met.map(|line| line.name.as_str()).collect();
        let missing = declared.iter().filter(|name| !met.contains(name.as_str()));
        Points {
            declared: declared.len(),
            never_hit: missing.cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_from_code_and_not_from_comments() {
        let text = format!(
            "    {MARK}store.before\");\n/// {MARK}of.a.comment\");\n  x({MARK}two\"));\ncrash_point!(name)"
        );
        assert_eq!(named(&text).collect::<Vec<_>>(), ["store.before", "two"]);
    }

    #[test]
    fn the_points_of_this_checkout_are_found() {
        let found = declared(&sources()).unwrap();
        for name in [
            "store.before_commit",
            "sweep.between_batches",
            "create.empty",
        ] {
            assert!(found.contains(name), "{name}: {found:?}");
        }
    }

    #[test]
    fn a_folder_without_points_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/src")).unwrap();
        let error = declared(folder.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
