//! Canonical JSON of arbitrary bytes: no panic, and a form that holds what it promises.
//!
//! `cargo +nightly fuzz run canonical_json -- -max_total_time=600`, in `crates/idempotency`.

#![no_main]

use agentos_idempotency::{CanonicalJson, JsonError};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let is_json = serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
    let value = serde_json::from_slice::<Value>(bytes);
    let form = match CanonicalJson::of_bytes(bytes) {
        Ok(form) => form,
        Err(JsonError::NotJson(error)) => {
            assert!(value.is_err(), "{error}");
            return;
        }
        // They are JSON, and are refused nevertheless.
        Err(_) => return,
    };
    assert!(is_json);
    // The form has no other form.
    let again = CanonicalJson::of_bytes(form.as_bytes()).expect("the form is JSON");
    assert_eq!(again, form);
    let Ok(value) = value else { return };
    // It means the same.
    let read: Value = serde_json::from_slice(form.as_bytes()).expect("the form is JSON");
    assert_eq!(read, value);
    // A value and its text have one form.
    let of_value = match CanonicalJson::of_value(&value) {
        Ok(form) => form,
        // It rounded an integer that is exact as text.
        Err(JsonError::Inexact { .. }) => return,
        Err(error) => panic!("a value that was read has a form: {error}"),
    };
    let text = serde_json::to_string(&value).expect("a value is JSON");
    let of_text = CanonicalJson::of_text(&text).expect("a value is JSON");
    assert_eq!(of_text, of_value);
});
