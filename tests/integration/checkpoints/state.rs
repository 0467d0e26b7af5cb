//! State: what was stored comes back, and what would not is refused.

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    done: u64,
    share: f64,
    notes: Vec<Option<String>>,
}

fn state() -> State {
    State {
        done: u64::MAX,
        share: 0.1 + 0.2,
        notes: vec![None, Some("a \"note\" 🦀".into())],
    }
}

#[test]
fn every_codec_gives_back_what_was_stored() {
    let ground = ground();
    let checkpoints = ground.manager();
    let json = StateFormat::<State>::new().codec(Codec::Json).version(3);
    let bytes: Vec<u8> = (0..=255).collect();
    for new in [
        ground.blank().state(&state()).unwrap(),
        ground.blank().state_as(&json, &state()).unwrap(),
        ground.blank().raw(9, bytes.clone()),
    ] {
        checkpoints.append(new).unwrap();
    }
    assert_eq!(
        ground.get(&checkpoints, 1).state::<State>().unwrap(),
        state()
    );
    let readable = ground.get(&checkpoints, 2);
    assert_eq!(readable.state_as(&json).unwrap(), state());
    let value: Value = serde_json::from_slice(readable.snapshot.unwrap().bytes()).unwrap();
    assert_eq!(value["done"], json!(u64::MAX));
    let raw = ground.get(&checkpoints, 3);
    assert_eq!(raw.raw_state().unwrap(), bytes);
    assert_eq!(raw.snapshot.as_ref().unwrap().version(), 9);
    assert!(matches!(
        raw.state_as(&StateFormat::<State>::new().version(9))
            .unwrap_err(),
        CheckpointError::WrongCodec {
            found: Codec::Raw,
            expected: Codec::Bincode
        }
    ));
}

#[test]
fn metadata_and_type_come_back() {
    let ground = ground();
    let checkpoints = ground.manager();
    let metadata =
        json!({"cost": 0.1, "model": "m", "tokens": u64::MAX, "nested": [null, "\u{0}"]});
    checkpoints
        .append(
            NewCheckpoint::new(ground.task.clone(), CheckpointType::LlmResponse)
                .metadata(metadata.clone()),
        )
        .unwrap();
    let latest = checkpoints.latest(&ground.task).unwrap().unwrap();
    assert_eq!(latest.metadata, metadata);
    assert_eq!(latest.summary.checkpoint_type, CheckpointType::LlmResponse);
    assert!(matches!(
        latest.state::<State>().unwrap_err(),
        CheckpointError::NoState
    ));
}

/// Goal: nobody is told that a state is stored which cannot be read back.
#[test]
fn a_state_that_would_not_come_back_is_refused() {
    #[derive(Serialize, Deserialize)]
    struct Skips {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first: Option<u8>,
        second: u8,
    }
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(u8),
        Word(String),
    }
    let ground = ground();
    let skips = Skips {
        first: None,
        second: 2,
    };
    assert!(matches!(
        ground.blank().state(&skips).unwrap_err(),
        CheckpointError::NotRoundTrip {
            codec: Codec::Bincode,
            ..
        }
    ));
    for untagged in [Untagged::Number(1), Untagged::Word("a".into())] {
        assert!(matches!(
            ground.blank().state(&untagged).unwrap_err(),
            CheckpointError::NotRoundTrip {
                codec: Codec::Bincode,
                ..
            }
        ));
    }
    let json = StateFormat::new().codec(Codec::Json);
    assert!(ground.blank().state_as(&json, &skips).is_ok());
}

#[test]
fn an_older_state_goes_through_the_upgrade_hook_and_a_newer_one_is_refused() {
    fn upgrade(old: OldState<'_>) -> Result<State, BoxError> {
        assert_eq!((old.version, old.codec), (1, Codec::Bincode));
        Ok(State {
            done: old.decode()?,
            share: 1.0,
            notes: vec![],
        })
    }
    const FORMAT: StateFormat<State> = StateFormat::new()
        .version(2)
        .codec(Codec::Json)
        .upgrade(upgrade);
    let ground = ground();
    let checkpoints = ground.manager();
    checkpoints.append(ground.step(41)).unwrap();
    checkpoints
        .append(ground.blank().state_as(&FORMAT, &state()).unwrap())
        .unwrap();

    let old = ground.get(&checkpoints, 1);
    assert_eq!(old.state_as(&FORMAT).unwrap().done, 41);
    let without = StateFormat::<State>::new().version(2);
    assert!(matches!(
        old.state_as(&without).unwrap_err(),
        CheckpointError::OlderStateVersion { found: 1, known: 2 }
    ));
    let new = ground.get(&checkpoints, 2);
    assert_eq!(new.state_as(&FORMAT).unwrap(), state());
    assert!(matches!(
        new.state::<State>().unwrap_err(),
        CheckpointError::NewerStateVersion { found: 2, known: 1 }
    ));
    assert!(matches!(
        new.state_as(&without).unwrap_err(),
        CheckpointError::WrongCodec {
            found: Codec::Json,
            expected: Codec::Bincode
        }
    ));
}
