//! Integers of any size: exact, or refused.

use agentos_idempotency::{CanonicalJson, JsonError};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Integers, many of them where 64 bits end.
fn integers() -> impl Strategy<Value = i128> {
    let ends = [
        i128::from(i64::MIN),
        i128::from(i64::MAX),
        i128::from(u64::MAX),
    ];
    let around = (prop::sample::select(ends.to_vec()), -3000_i128..3000);
    prop_oneof![
        around.prop_map(|(end, offset)| end + offset),
        any::<i128>(),
        any::<i64>().prop_map(i128::from),
    ]
}

proptest! {
    /// Goal: no two integers are one. What a value does not hold exactly it is refused.
    #[test]
    fn an_integer_has_its_own_form_or_none(integer in integers()) {
        let text = integer.to_string();
        let value: Value = serde_json::from_str(&text).unwrap();
        let fits = i64::try_from(integer).is_ok() || u64::try_from(integer).is_ok();
        match CanonicalJson::of_value(&json!([value])) {
            Ok(form) => {
                prop_assert!(fits);
                prop_assert_eq!(form.into_bytes(), format!("[{text}]").into_bytes());
            }
            Err(JsonError::Inexact { .. }) => prop_assert!(!fits, "{}", text),
            Err(error) => panic!("{text}: {error}"),
        }
    }

    /// Floats that no such integer becomes are as they were.
    #[test]
    fn a_float_within_64_bits_has_a_form(float in -9.223e18_f64..1.844e19) {
        for value in [json!({"t": float}), json!([float / 1e300])] {
            let form = CanonicalJson::of_value(&value);
            prop_assert!(form.is_ok(), "{}: {:?}", value, form);
        }
    }
}
