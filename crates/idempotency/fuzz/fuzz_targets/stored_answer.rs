//! Stored answers of the model cache from arbitrary bytes: no panic, and what is read is
//! written again as it was.
//!
//! `cargo +nightly fuzz run stored_answer -- -max_total_time=600`, in `crates/idempotency`.

#![no_main]

use agentos_idempotency::{AnswerBody, AnswerFormat, Json, StoredAnswer};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let Ok(stored) = StoredAnswer::decode(bytes.to_vec()) else {
        return;
    };
    assert_eq!(stored.clone().encode(), bytes);
    match stored.format {
        AnswerFormat::Bytes => {
            let read = Vec::<u8>::from_bytes(stored.bytes.clone()).expect("bytes are bytes");
            assert_eq!(read, stored.bytes);
        }
        AnswerFormat::Text => {
            if let Ok(read) = String::from_bytes(stored.bytes.clone()) {
                assert_eq!(read.as_bytes(), stored.bytes);
            }
        }
        AnswerFormat::Json => {
            if let Ok(read) = Value::from_bytes(stored.bytes.clone()) {
                // What was read can be stored, and comes back.
                let written = read.to_bytes().expect("a value is JSON");
                read.check(&written).expect("a value that was read comes back");
            }
            let _ = Json::<Vec<(String, Option<f64>)>>::from_bytes(stored.bytes);
        }
    }
});
