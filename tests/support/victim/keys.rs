//! Roles about idempotency keys: who executes, who replays.

use std::path::Path;
use std::thread;
use std::time::Duration;

use agentos_core::{Begun, Commit, FinishKey, KeyStorage as _, NewOutcome, Storage as _};
use agentos_store::sqlite::SqliteStore;
use agentos_tests::{begin_key, config, key_action, leased_clock, open_leased, pass};

use super::{number, say};

/// Asks for so many keys in so many threads, each until it has executed it or replays;
/// says which it was, and the outcome.
pub(crate) fn once(database: &str, gate: &str, threads: &str, keys: &str, name: &str) {
    let store = SqliteStore::open(config(database)).expect("an open store");
    let keys = number(keys);
    say(format_args!("ready"));
    pass(gate);
    thread::scope(|scope| {
        for thread in 0..number(threads) {
            let store = &store;
            scope.spawn(move || {
                let owner = format!("{name}-{thread}");
                for key in 0..keys {
                    one(store, &format!("key {key}"), &owner);
                }
            });
        }
    });
}

fn one(store: &SqliteStore, key: &str, owner: &str) {
    let begin = begin_key(key, owner);
    loop {
        match store.begin_key(&begin).expect("an answer") {
            Begun::Execute(permit) => {
                say(format_args!("executed {key} {owner}"));
                // Others shall find it in flight.
                thread::park_timeout(Duration::from_millis(1));
                let finish = FinishKey {
                    fence: permit.fence,
                    outcome: NewOutcome::success(owner),
                };
                store.commit(Commit::from(finish)).expect("an outcome");
                return;
            }
            Begun::Replay(entry) => {
                let outcome = entry.outcome.expect("an outcome");
                let outcome = String::from_utf8(outcome).expect("text");
                say(format_args!("replayed {key} {outcome}"));
                return;
            }
            Begun::InFlight(_) => thread::park_timeout(Duration::from_micros(200)),
            Begun::InDoubt(holder) => panic!("{key} is in doubt: {holder:?}"),
        }
    }
}

/// Does something to a key, and says so.
pub(crate) fn key(database: &str, action: &str) {
    let store = open_leased(Path::new(database), &leased_clock());
    say(format_args!("{}", key_action(&store, action)));
}
