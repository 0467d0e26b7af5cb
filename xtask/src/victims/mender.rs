//! The first to open what a power cut left: it takes lost leases away, tidies up and cuts
//! the log. All that it does to files is recorded, so that its power can be cut as well.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use agentos_core::{Storage, UpkeepStorage};
use agentos_crash_vfs::Recorder;
use agentos_recovery::{Mode, run_upkeep};
use agentos_store::sqlite::SqliteStore;
use serde::{Deserialize, Serialize};

use super::miller::{marker, shim};
use crate::model::cut::Mark;
use crate::model::mill::retention;
use crate::scenarios::power_loss::{config, sweep};

/// The role of a mender.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mender {
    /// The directory of the image, which is recorded.
    pub(crate) dir: PathBuf,
    /// The log of what is done to files.
    pub(crate) log: PathBuf,
}

impl Mender {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let recorder = Recorder::start(&self.log, shim(&self.dir))?;
        let mark = marker(&recorder);
        let store = Arc::new(SqliteStore::open(config(&self.dir))?);
        sweep(Arc::clone(&store) as Arc<dyn Storage>).scan_and_recover()?;
        mark(Mark::Swept)?;
        mark(Mark::Upkeep)?;
        let report = run_upkeep(store.as_ref(), &retention(), Mode::Apply)?;
        if let Some(failure) = report.failures.into_iter().next() {
            return Err(failure.error.into());
        }
        store.shorten_log()?;
        store.close();
        Ok(recorder.stop()?)
    }
}
