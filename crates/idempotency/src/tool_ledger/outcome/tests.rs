//! The stored form of a tool call's end, and what is not one.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn outcomes() -> impl Strategy<Value = ToolOutcome> {
    let output = || vec(any::<u8>(), 0..200).prop_map(ToolOutput::new);
    prop_oneof![
        output().prop_map(ToolOutcome::Done),
        (".{0,40}", output()).prop_map(|(message, output)| ToolOutcome::failed(message, output)),
        ".{0,40}".prop_map(|reason| ToolOutcome::GivenUp { reason }),
    ]
}

proptest! {
    #[test]
    fn what_is_stored_comes_back_as_it_was(outcome in outcomes(), bytes_max in 0..300_usize) {
        let record = ToolRecord::of(&outcome, bytes_max);
        let bytes = record.encode();
        prop_assert_eq!(bytes.len(), record.encoded_bytes());
        prop_assert_eq!(ToolRecord::decode(&bytes), Ok(record.clone()));
        prop_assert_eq!(ToolRecord::decode_as(&bytes, record.status()), Ok(record.clone()));
        if let ToolRecord::Outcome(stored) = record {
            prop_assert_eq!(stored, outcome);
        }
    }

    /// Whatever is read has one stored form: nothing is passed over.
    #[test]
    fn arbitrary_bytes_are_an_error_or_one_record(
        mut bytes in vec(any::<u8>(), 0..100),
        kind in 0..6_u8,
    ) {
        let _ = ToolRecord::decode(&bytes);
        if let [version, second, ..] = &mut bytes[..] {
            (*version, *second) = (RECORD_VERSION, kind);
        }
        if let Ok(record) = ToolRecord::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        }
    }

    #[test]
    fn each_prefix_of_a_header_is_an_error(outcome in outcomes()) {
        let large = ToolRecord::TooLarge(TooLarge {
            bytes: 7,
            digest: Digest::of(b"output"),
            failure: None,
        });
        for record in [ToolRecord::Outcome(outcome), large.clone()] {
            let bytes = record.encode();
            prop_assert_eq!(ToolRecord::decode(&[]), Err(MalformedRecord::CutOff));
            prop_assert_eq!(ToolRecord::decode(&bytes[..1]), Err(MalformedRecord::CutOff));
        }
        let bytes = large.encode();
        for length in 0..bytes.len() {
            prop_assert_eq!(ToolRecord::decode(&bytes[..length]), Err(MalformedRecord::CutOff));
        }
    }
}

#[test]
fn the_bytes_of_version_one_stay_readable() {
    let done: &[u8] = b"\x01\x00\xff\x00out";
    assert_eq!(
        ToolRecord::decode(done),
        Ok(ToolRecord::Outcome(ToolOutcome::Done(
            b"\xff\x00out"[..].into()
        )))
    );
    let failed: &[u8] = b"\x01\x01\x03\x00\x00\x00whyout";
    assert_eq!(
        ToolRecord::decode(failed),
        Ok(ToolRecord::Outcome(ToolOutcome::failed("why", "out")))
    );
    let given_up: &[u8] = b"\x01\x03why";
    assert_eq!(
        ToolRecord::decode(given_up),
        Ok(ToolRecord::Outcome(ToolOutcome::GivenUp {
            reason: "why".into()
        }))
    );
    let mut large = b"\x01\x02\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    large.extend_from_slice(Digest::of(b"x").as_bytes());
    large.extend_from_slice(b"\x01why");
    assert_eq!(
        ToolRecord::decode(&large),
        Ok(ToolRecord::TooLarge(TooLarge {
            bytes: 256,
            digest: Digest::of(b"x"),
            failure: Some("why".into()),
        }))
    );
}

#[test]
fn what_is_no_record_says_why_by_type() {
    for (bytes, error) in [
        (&b"\x02\x00"[..], MalformedRecord::Version(2)),
        (b"\x00", MalformedRecord::Version(0)),
        (b"\x01\x04", MalformedRecord::Kind(4)),
        (b"\x01\x01\xff\xff\xff\xffx", MalformedRecord::CutOff),
        (b"\x01\x01\x01\x00\x00\x00\xff", MalformedRecord::Message),
        (b"\x01\x03\xff", MalformedRecord::Message),
    ] {
        assert_eq!(ToolRecord::decode(bytes), Err(error), "{bytes:?}");
    }
    assert_eq!(
        ToolRecord::decode_as(b"\x01\x00out", KeyStatus::Failed),
        Err(MalformedRecord::Status)
    );
}

#[test]
fn an_output_at_the_bound_is_kept_and_one_beyond_it_is_named() {
    let outcome = ToolOutcome::Done(ToolOutput::new(vec![7; 98]));
    assert_eq!(
        ToolRecord::of(&outcome, 100),
        ToolRecord::Outcome(outcome.clone())
    );
    assert_eq!(
        ToolRecord::of(&outcome, 99),
        ToolRecord::TooLarge(TooLarge {
            bytes: 98,
            digest: Digest::of(&[7; 98]),
            failure: None,
        })
    );
    let failed = ToolOutcome::failed("why", vec![7; 98]);
    let record = ToolRecord::of(&failed, 100);
    assert_eq!(record.status(), KeyStatus::Failed);
    assert_eq!(record.status(), ToolRecord::Outcome(failed).status());
}

#[test]
fn a_message_is_cut_where_a_letter_ends() {
    let long = "ü".repeat(REASON_BYTES_MAX);
    let record = ToolRecord::Outcome(ToolOutcome::failed(format!("a{long}"), "out"));
    let Ok(ToolRecord::Outcome(ToolOutcome::Failed { message, output })) =
        ToolRecord::decode(&record.encode())
    else {
        panic!("the record cannot be read");
    };
    assert_eq!(message.len(), REASON_BYTES_MAX - 1);
    assert!(message.starts_with("aü"));
    assert_eq!(output, "out".into());
}
