//! How long the disk takes to sync: a figure beside which times are read.
//!
//! One small file is overwritten and synced again and again, as a database's
//! log is. It has no name, so it leaves nothing behind.

use std::io::{self, Seek, Write};
use std::path::Path;

use agentos_core::Stopwatch;

/// Overwrites for one measurement.
pub(crate) const SYNCS: usize = 50;

/// A page of a database.
const PAGE_BYTES: usize = 4096;

/// What each of [`SYNCS`] overwrites with `fsync` took in `dir`, in
/// microseconds.
///
/// # Errors
///
/// When the directory or the file cannot be made or written.
pub(crate) fn sync_times_us(dir: &Path) -> io::Result<Vec<u64>> {
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::tempfile_in(dir)?;
    // The first write makes the file longer, which is another kind of sync.
    file.write_all(&[0; PAGE_BYTES])?;
    file.sync_all()?;
    let mut times = Vec::with_capacity(SYNCS);
    for fill in (1..=u8::MAX).cycle().take(SYNCS) {
        file.rewind()?;
        let watch = Stopwatch::start();
        file.write_all(&[fill; PAGE_BYTES])?;
        file.sync_all()?;
        times.push(u64::try_from(watch.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sync_is_timed_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("made");
        assert_eq!(sync_times_us(&inside).unwrap().len(), SYNCS);
        assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 0);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(sync_times_us(&file).is_err());
    }
}
