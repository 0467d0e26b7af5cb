//! A small file system of a test's own, which can be filled to the last page.
//!
//! A test that needs one runs itself again in a mount namespace in which a
//! directory is a tmpfs of a few MiB. Nobody else sees it, and it goes with the
//! process. It needs `unshare` and `mount` of util-linux, and root or user
//! namespaces; where neither is to be had the test fails, and says so.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread;

use agentos_process::CommandSpec;

use crate::PATIENCE;

/// Tells the test that it runs on its small disk.
const VARIABLE: &str = "AGENTOS_TEST_SMALL_DISK";

const SCRIPT: &str = r#"mount -t tmpfs -o "size=$1" none "$2" && shift 2 && exec "$@""#;

/// A small file system.
pub struct SmallDisk {
    root: PathBuf,
}

/// Runs the test that calls it again on a small disk of `bytes`, and gives that
/// disk to it there; gives `None` to the one that called.
///
/// # Panics
///
/// When the test fails on its small disk, or there can be none.
pub fn on_small_disk(bytes: u64) -> Option<SmallDisk> {
    if let Some(root) = std::env::var_os(VARIABLE) {
        return Some(SmallDisk { root: root.into() });
    }
    let thread = thread::current();
    let test = thread.name().expect("a test has its name");
    let root = tempfile::tempdir().expect("a directory for the small disk");
    let program = std::env::current_exe().expect("the test's own program");
    let run = |namespaces: &[&str], command: &[&str]| {
        let spec = CommandSpec::new("unshare")
            .args(namespaces)
            .args(["--", "sh", "-c", SCRIPT, "sh"])
            .arg(bytes.to_string())
            .arg(root.path())
            .args(command)
            .env(VARIABLE, root.path())
            .timeout(PATIENCE * 4);
        agentos_process::run(&spec).expect("`unshare` of util-linux")
    };
    let root_only: &[&str] = &["--mount"];
    let anybody: &[&str] = &["--user", "--map-root-user", "--mount"];
    let namespaces = [root_only, anybody]
        .into_iter()
        .find(|namespaces| run(namespaces, &["true"]).success())
        .expect("root or user namespaces, to mount a small disk");
    let program = program.to_str().expect("a path in UTF-8");
    let finished = run(namespaces, &[program, "--exact", test, "--nocapture"]);
    assert!(
        finished.success(),
        "on the small disk: {}\n{}\n{}",
        finished.outcome,
        String::from_utf8_lossy(&finished.stdout),
        String::from_utf8_lossy(&finished.stderr)
    );
    let said = String::from_utf8_lossy(&finished.stdout).into_owned();
    assert!(said.contains("1 passed"), "the test did not run: {said}");
    None
}

impl SmallDisk {
    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Free bytes.
    ///
    /// # Panics
    ///
    /// When the system does not tell.
    pub fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.root).expect("facts of the small disk");
        found.f_bavail * found.f_frsize
    }

    /// Takes all its space but `left` bytes; gives the file that took it.
    ///
    /// # Panics
    ///
    /// When there is less than that.
    pub fn fill(&self, left: u64) -> PathBuf {
        let path = self.root.join("filler");
        let mut filler = File::create(&path).expect("a file that fills the disk");
        let page = [1_u8; 4096];
        while self.free() > left {
            filler.write_all(&page).expect("room for the filler");
        }
        assert!(self.free() <= left, "the disk has less than {left} bytes");
        path
    }

    /// Gives the space back.
    ///
    /// # Panics
    ///
    /// When it was not taken.
    pub fn make_room(&self) {
        fs::remove_file(self.root.join("filler")).expect("a filler");
    }

    /// Removes everything.
    ///
    /// # Panics
    ///
    /// When something stays.
    pub fn clear(&self) {
        for entry in fs::read_dir(&self.root).expect("a readable disk") {
            fs::remove_file(entry.expect("an entry").path()).expect("a removed file");
        }
        assert!(crate::names(&self.root).is_empty());
    }
}
