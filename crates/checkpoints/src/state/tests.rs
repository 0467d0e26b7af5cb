//! States: what comes back, what is refused, and versions.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::*;

const JSON: Codec = Codec::Json;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    step: u32,
    scores: HashMap<u32, f64>,
    seen: HashSet<String>,
}

fn state() -> State {
    State {
        step: 7,
        scores: HashMap::from([(1, 0.1), (2, f64::MIN_POSITIVE), (3, 1e300)]),
        seen: HashSet::from(["a".into(), "b".into(), "c".into()]),
    }
}

fn round_trip<T: Serialize + DeserializeOwned>(
    codec: Codec,
    state: &T,
) -> Result<T, CheckpointError> {
    let format = StateFormat::new().codec(codec);
    decode(&encode(&format, state)?, &format)
}

#[track_caller]
fn refused<T: Serialize + DeserializeOwned>(codec: Codec, state: &T) {
    match round_trip(codec, state) {
        Err(CheckpointError::NotRoundTrip { codec: named, .. }) => assert_eq!(named, codec),
        Err(other) => panic!("refused for another reason: {other:?}"),
        Ok(_) => panic!("taken"),
    }
}

#[test]
fn both_codecs_give_the_state_back() {
    for codec in [Codec::Bincode, JSON] {
        assert_eq!(round_trip(codec, &state()).unwrap(), state());
    }
}

#[test]
fn every_float_comes_back_from_json_bit_for_bit() {
    // These lose their last bit in a parser that does not care.
    for value in [0.1 + 0.2, 5e-324, 1.797_693_134_862_315_7e308, -0.0] {
        let back = round_trip::<f64>(JSON, &value).unwrap();
        assert_eq!(back.to_bits(), value.to_bits());
    }
    let mut bits = 0x0123_4567_89ab_cdef_u64;
    for _ in 0..2000 {
        bits = bits.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let value = f64::from_bits(bits);
        if value.is_finite() {
            let back = round_trip::<f64>(JSON, &value).unwrap();
            assert_eq!(back.to_bits(), bits);
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Skips {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<u8>,
    second: u8,
    rest: Vec<u8>,
}

#[test]
fn a_skipped_field_is_refused_by_bincode_and_taken_by_json() {
    let short = Skips {
        first: None,
        second: 9,
        rest: vec![],
    };
    refused(Codec::Bincode, &short);
    assert!(round_trip(JSON, &short).is_ok());
}

/// Goal: a state that decodes to the last byte, but into another value, is
/// refused too.
/// Method: without `first` the bytes are 1 2 0 0, which read back as
/// `first` 2, `second` 0 and an empty `rest`.
#[test]
fn a_skipped_field_that_decodes_into_another_value_is_refused() {
    let shifted = Skips {
        first: None,
        second: 1,
        rest: vec![0, 0],
    };
    let bytes = Codec::Bincode.encode(&shifted).unwrap();
    let other: Skips = Codec::Bincode.decode(&bytes).unwrap();
    assert_eq!(other.first, Some(2), "the trap is set");
    refused(Codec::Bincode, &shifted);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Narrow(u8),
    Wide(u64),
    Word(String),
}

#[test]
fn an_untagged_enum_is_refused_where_it_would_change() {
    refused(Codec::Bincode, &Untagged::Word("a".into()));
    assert!(round_trip(JSON, &Untagged::Word("a".into())).is_ok());
    assert!(round_trip(JSON, &Untagged::Wide(300)).is_ok());
    refused(JSON, &Untagged::Wide(5)); // comes back as Narrow(5)
}

#[test]
fn what_json_cannot_tell_apart_is_refused() {
    refused(JSON, &Some(None::<u8>));
    refused(JSON, &f64::NAN);
    refused(Codec::Bincode, &serde_json::json!({"any": "value"}));
    assert!(round_trip(JSON, &serde_json::json!({"any": [1, -1, 0.5, null]})).is_ok());
    assert!(round_trip(Codec::Bincode, &f64::NAN).is_ok());
}

#[test]
fn what_a_codec_cannot_write_is_named() {
    let keyed = HashMap::from([((1_u8, 2_u8), 3_u8)]);
    assert!(matches!(
        round_trip(JSON, &keyed).unwrap_err(),
        CheckpointError::NotEncodable {
            codec: Codec::Json,
            source: CodecError::Encode(_)
        }
    ));
    assert!(matches!(
        round_trip(Codec::Raw, &1_u8).unwrap_err(),
        CheckpointError::NotEncodable {
            codec: Codec::Raw,
            source: CodecError::RawIsUntyped
        }
    ));
}

#[test]
fn versions_and_codecs_are_told_apart_by_type() {
    let stored = Snapshot::new(JSON, 2, b"7".to_vec());
    let format = StateFormat::<u64>::new().codec(JSON).version(2);
    assert_eq!(decode(&stored, &format).unwrap(), 7);
    assert!(matches!(
        decode(&stored, &format.version(1)).unwrap_err(),
        CheckpointError::NewerStateVersion { found: 2, known: 1 }
    ));
    assert!(matches!(
        decode(&stored, &format.version(3)).unwrap_err(),
        CheckpointError::OlderStateVersion { found: 2, known: 3 }
    ));
    assert!(matches!(
        decode(&stored, &format.codec(Codec::Bincode)).unwrap_err(),
        CheckpointError::WrongCodec {
            found: Codec::Json,
            expected: Codec::Bincode
        }
    ));
    assert!(matches!(
        decode(
            &stored,
            &StateFormat::<String>::new().codec(JSON).version(2)
        )
        .unwrap_err(),
        CheckpointError::OtherType(CodecError::Decode(_))
    ));
}

#[test]
fn the_upgrade_hook_gets_what_was_stored_and_may_give_up() {
    let stored = Snapshot::new(JSON, 2, b"7".to_vec());
    let format = StateFormat::<String>::new().version(3).upgrade(|old| {
        assert_eq!((old.version, old.codec, old.bytes), (2, JSON, &b"7"[..]));
        Ok(format!("seven is {}", old.decode::<u64>()?))
    });
    assert_eq!(decode(&stored, &format).unwrap(), "seven is 7");
    let format = format.upgrade(|old| Ok(old.decode::<String>()?));
    assert!(matches!(
        decode(&stored, &format).unwrap_err(),
        CheckpointError::UpgradeFailed { found: 2, .. }
    ));
}
