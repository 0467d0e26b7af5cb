//! Work that is spread over threads, and heeded in one.
//!
//! Every worker has a name and an end, and the pool ends with the last of them.
//! A worker waits with its result while the one before is heeded.

use std::sync::mpsc;
use std::thread;

use crate::report::live::Live;

/// Calls `work` in `jobs` threads until it gives nothing more, and hands each
/// result to `heed` in this thread, in the order in which they came.
pub(crate) fn spread<R: Send>(
    live: &Live,
    jobs: usize,
    name: &str,
    work: impl Fn() -> Option<R> + Sync,
    heed: impl FnMut(R),
) {
    thread::scope(|scope| {
        let (sender, results) = mpsc::sync_channel(jobs);
        let mut workers = Vec::new();
        for number in 1..=jobs {
            let (sender, work) = (sender.clone(), &work);
            let spawned = thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn_scoped(scope, move || {
                    while let Some(result) = work() {
                        if sender.send(result).is_err() {
                            return;
                        }
                    }
                });
            match spawned {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    live.line(&format!("only {} at a time: {error}", number - 1));
                    break;
                }
            }
        }
        drop(sender);
        results.into_iter().for_each(heed);
        for worker in workers {
            // What it was doing is missing from the report, which says so.
            if worker.join().is_err() {
                live.line("a worker died");
            }
        }
    });
}
