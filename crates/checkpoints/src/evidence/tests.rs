//! Packs: their policies, their JSON, and what is refused.

use agentos_core::{LimitExceeded, RowValue, Timestamp};
use serde_json::json;

use super::*;

fn nonzero(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn one_of_each() -> Vec<Evidence> {
    vec![
        Evidence::exists("out", ArtifactKind::Directory),
        FileDigest::new("out/a.txt", DigestAlgorithm::Sha256)
            .expected("ab".repeat(32))
            .into(),
        CommandExit::new(["make", "all"], None)
            .expected(2)
            .recheck(Recheck::new(["make", "check"]).cwd("out"))
            .into(),
        DbRow::new("orders")
            .key("id", RowValue::Integer(7))
            .expected("price", RowValue::Real(0.5))
            .into(),
        Evidence::custom("ticket_open", json!({"id": 7, "share": 0.1})),
    ]
}

fn results(outcomes: &[bool]) -> Vec<EvidenceResult> {
    (0..)
        .zip(outcomes)
        .map(|(item, passed)| EvidenceResult {
            item,
            kind: "custom".into(),
            outcome: match passed {
                true => EvidenceOutcome::Passed,
                false => EvidenceOutcome::Failed,
            },
            reason: None,
            checked_at: Timestamp::from_unix_micros(0),
        })
        .collect()
}

fn some(items: usize) -> Vec<Evidence> {
    vec![Evidence::file("a"); items]
}

#[test]
fn all_means_every_item() {
    let verdict = |outcomes: &[bool]| Pack::all(some(outcomes.len())).verdict(&results(outcomes));
    assert_eq!(verdict(&[true, true]), Verification::Verified);
    assert_eq!(verdict(&[true, false]), Verification::Failed);
    assert_eq!(verdict(&[false]), Verification::Failed);
}

#[test]
fn at_least_means_so_many_and_not_one_fewer() {
    let verdict = |least, outcomes: &[bool]| {
        Pack::at_least(nonzero(least), some(outcomes.len())).verdict(&results(outcomes))
    };
    assert_eq!(verdict(1, &[false, false, true]), Verification::Verified);
    assert_eq!(verdict(1, &[false, false, false]), Verification::Failed);
    assert_eq!(verdict(2, &[true, false, true]), Verification::Verified);
    assert_eq!(verdict(2, &[true, false, false]), Verification::Failed);
    assert_eq!(verdict(3, &[true, true, true]), Verification::Verified);
    assert_eq!(verdict(3, &[true, true, false]), Verification::Failed);
}

#[test]
fn an_empty_pack_verifies_nothing() {
    let empty = Pack::all(some(0));
    assert!(empty.validate().is_ok());
    assert_eq!(empty.verdict(&[]), Verification::Unverified);
}

#[test]
fn a_pack_may_hold_until_too_many_items_fail() {
    assert!(Pack::all(some(2)).may_hold(0));
    assert!(!Pack::all(some(2)).may_hold(1));
    assert!(Pack::at_least(nonzero(1), some(2)).may_hold(1));
    assert!(!Pack::at_least(nonzero(1), some(2)).may_hold(2));
}

#[test]
fn asking_for_more_items_than_there_are_is_refused() {
    assert!(Pack::at_least(nonzero(2), some(2)).validate().is_ok());
    for pack in [
        Pack::at_least(nonzero(3), some(2)),
        Pack::at_least(nonzero(1), some(0)),
    ] {
        assert!(matches!(
            pack.validate().unwrap_err(),
            CheckpointError::Storage(StorageError::Invalid(_))
        ));
    }
}

#[test]
fn every_kind_round_trips_through_json() {
    for pack in [
        Pack::all(one_of_each()),
        Pack::at_least(nonzero(3), one_of_each()),
        Pack::all([Evidence::file("not digested yet")]),
        Pack::all(some(0)),
    ] {
        let text = pack.to_json().unwrap();
        assert_eq!(Pack::from_json(&text).unwrap(), pack);
    }
}

/// What stands in files must be read by every later build.
#[test]
fn format_one_stays() {
    let text = concat!(
        r#"{"format":1,"policy":{"at_least":2},"items":["#,
        r#"{"kind":"artifact_exists","path":"out","artifact":"directory"},"#,
        r#"{"kind":"file_digest","path":"out/a.txt","algorithm":"sha256","#,
        r#""expected":"abababababababababababababababababababababababababababababababab"},"#,
        r#"{"kind":"command_exit","argv":["make","all"],"exit_code":null,"expected":2,"#,
        r#""recheck":{"argv":["make","check"],"cwd":"out","timeout_ms":30000}},"#,
        r#"{"kind":"db_row","source":"store","table":"orders","#,
        r#""key":[["id",{"integer":7}]],"expected":[["price",{"real":"0.5"}]]},"#,
        r#"{"kind":"custom","name":"ticket_open","params":{"id":7,"share":0.1}}]}"#
    );
    let pack = Pack::at_least(nonzero(2), one_of_each());
    assert_eq!(pack.to_json().unwrap(), text);
    assert_eq!(Pack::from_json(text).unwrap(), pack);
    let all = Pack::all(some(0)).to_json().unwrap();
    assert_eq!(all, r#"{"format":1,"policy":"all","items":[]}"#);
}

#[test]
fn what_is_not_understood_is_unreadable() {
    let item = r#"{"kind":"artifact_exists","path":"out","artifact":"file"}"#;
    let digest = r#""algorithm":"blake3","expected":"#;
    for text in [
        String::new(),
        "[]".into(),
        r#"{"policy":"all","items":[]}"#.into(),
        r#"{"format":2,"policy":"all","items":[]}"#.into(),
        r#"{"format":0,"policy":"all","items":[]}"#.into(),
        r#"{"format":1,"policy":"all","items":[],"more":1}"#.into(),
        r#"{"format":1,"policy":"some","items":[]}"#.into(),
        format!(r#"{{"format":1,"policy":{{"at_least":0}},"items":[{item}]}}"#),
        format!(r#"{{"format":1,"policy":{{"at_least":2}},"items":[{item}]}}"#),
        r#"{"format":1,"policy":{"at_least":1},"items":[]}"#.into(),
        r#"{"format":1,"policy":"all","items":[{"kind":"hunch"}]}"#.into(),
        r#"{"format":1,"policy":"all","items":[{"kind":"artifact_exists","path":"out","artifact":"file","unless":"x"}]}"#.into(),
        format!(r#"{{"format":1,"policy":"all","items":[{{"kind":"file_digest","path":"a",{digest}"beef"}}]}}"#),
        r#"{"format":1,"policy":"all","items":[{"kind":"command_exit","argv":[],"exit_code":0,"expected":0,"recheck":null}]}"#.into(),
    ] {
        assert!(
            matches!(
                Pack::from_json(&text),
                Err(CheckpointError::UnreadableEvidence { .. })
            ),
            "{text}"
        );
    }
}

#[test]
fn a_newer_format_is_named() {
    let error = Pack::from_json(r#"{"format":2,"claims":{}}"#).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the evidence cannot be read: it has format 2, and this build reads 1"
    );
}

#[test]
fn limits_name_themselves() {
    let exceeded = |pack: Pack| match pack.validate().unwrap_err() {
        CheckpointError::Storage(StorageError::LimitExceeded(exceeded)) => exceeded,
        other => panic!("{other:?}"),
    };
    assert!(Pack::all(some(EVIDENCE_ITEMS_MAX)).validate().is_ok());
    assert_eq!(
        exceeded(Pack::all(some(EVIDENCE_ITEMS_MAX + 1))),
        LimitExceeded {
            name: "evidence items",
            limit: EVIDENCE_ITEMS_MAX as u64,
            value: EVIDENCE_ITEMS_MAX as u64 + 1
        }
    );
    let long = Evidence::custom("mine", json!("x".repeat(EVIDENCE_BYTES_MAX)));
    assert_eq!(exceeded(Pack::all([long])).name, "evidence bytes");
}

#[test]
fn the_digest_to_come_counts_towards_the_limit() {
    let pack = |filler: usize| {
        Pack::all([
            Evidence::custom("mine", json!("x".repeat(filler))),
            Evidence::file("a"),
        ])
    };
    let room = EVIDENCE_BYTES_MAX - pack(0).to_json().unwrap().len();
    assert!(pack(room - 62).validate().is_ok(), "null becomes 66 bytes");
    assert!(pack(room - 61).validate().is_err());
}

#[test]
fn parameters_that_nobody_could_read_again_are_refused() {
    let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    let pack = |levels| Pack::all([Evidence::custom("mine", nested(levels))]);
    assert!(pack(100).validate().is_ok());
    assert!(pack(200).validate().is_err());
}

#[test]
fn paths_that_json_cannot_keep_are_refused() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let bytes = PathBuf::from(OsString::from_vec(vec![b'a', 0xff]));
    for path in [bytes, "".into(), "a\0b".into()] {
        let error = Pack::all([Evidence::file(&path)]).validate().unwrap_err();
        assert!(
            matches!(error, CheckpointError::Storage(StorageError::Invalid(_))),
            "{error:?}"
        );
    }
}

#[test]
fn hexadecimal_round_trips() {
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(unhex(&hex(&bytes)), Some(bytes));
    assert_eq!(hex(&[0x0f, 0xa0]), "0fa0");
    for text in ["a", "0g", "é0"] {
        assert_eq!(unhex(text), None);
    }
}
