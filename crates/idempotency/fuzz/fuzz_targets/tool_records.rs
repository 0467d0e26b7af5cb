//! What is stored of tool calls and of commands, from arbitrary bytes: no panic, and
//! what is read has exactly the form that it was read from.
//!
//! `cargo +nightly fuzz run tool_records -- -max_total_time=600`, in `crates/idempotency`.

#![no_main]

use agentos_idempotency::{CommandOutcome, ToolOutcome, ToolRecord};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = ToolRecord::decode(bytes) {
        assert_eq!(record.encode(), bytes);
        assert_eq!(record.to_outcome().bytes, bytes);
        if let ToolRecord::Outcome(ToolOutcome::Done(output)) = &record {
            assert_eq!(output.as_bytes(), &bytes[2..]);
            let _ = CommandOutcome::decode(output.as_bytes());
        }
    }
    if let Ok(outcome) = CommandOutcome::decode(bytes) {
        assert_eq!(outcome.encode(), bytes);
    }
});
