//! Resume: the newest that holds now, with the file damaged by hand.

use super::*;

/// Goal: resume gives the newest checkpoint that holds now, and says which it
/// passed over.
#[test]
fn a_file_that_changed_sends_resume_to_the_checkpoint_before() {
    let ground = ground();
    let checkpoints = ground.manager();
    for step in 1..=3 {
        let name = format!("step-{step}");
        ground.write(&name, &name);
        let pack = Pack::all([Evidence::file(name)]);
        checkpoints
            .append(ground.step(step).evidence(pack))
            .unwrap();
    }
    assert_eq!(ground.resumed(&checkpoints).passed_over, []);
    ground.write("step-3", "stEp-3");
    fs::remove_file(ground.dir.join("step-2")).unwrap();
    let resumed = ground.resumed(&checkpoints);
    assert_eq!(resumed.checkpoint.state::<u64>().unwrap(), 1);
    assert_eq!(resumed.label, Label::Verified);
    let [third, second] = &resumed.passed_over[..] else {
        panic!("{:?}", resumed.passed_over);
    };
    let reason = |passed: &PassedOver| match &passed.reason {
        PassedOverReason::EvidenceFailed { failed } => reasons(failed).join("; "),
        other => panic!("{other:?}"),
    };
    assert_eq!((third.sequence, second.sequence), (seq(3), seq(2)));
    assert!(reason(third).starts_with("step-3 has the digest "));
    assert_eq!(reason(second), "step-2 does not exist");
    // Nothing was deleted, nothing was written.
    assert_eq!(ground.count(&checkpoints), 3);
    for number in 1..=3 {
        let verification = ground.get(&checkpoints, number).summary.verification;
        assert_eq!(verification, Verification::Verified);
    }
}

#[test]
fn a_stored_flag_is_never_believed() {
    let ground = ground();
    let checkpoints = ground.manager_with(|config| config.on_failure(OnFailure::StoreAsFailed));
    let pack = Pack::all([Evidence::file("missing")]);
    checkpoints.append(ground.step(1).evidence(pack)).unwrap();
    ground.damage("UPDATE checkpoints SET verification = 'verified'");
    ground.damage("UPDATE evidence_results SET outcome = 'passed', reason = NULL");
    let verification = ground.get(&checkpoints, 1).summary.verification;
    assert_eq!(verification, Verification::Verified);
    let Resume::Nowhere { passed_over } = checkpoints.resume(&ground.task).unwrap() else {
        panic!("the flag was believed");
    };
    assert_eq!(only(&passed_over).0, 1);
}

#[test]
fn edited_bytes_are_corrupt_and_resume_falls_back() {
    let ground = ground();
    let checkpoints = ground.manager();
    checkpoints.append(ground.step(1)).unwrap();
    for (number, edit) in [
        (2, "snapshot = x'0109'"),
        (3, "snapshot = x'0103', state_digest = zeroblob(32)"),
        (4, "state_version = 7"),
        (5, "codec = 2"),
        (6, "codec = 99"),
        (7, "metadata = '{\"a\":2}'"),
        (
            8,
            "evidence = '{\"format\":1,\"policy\":\"all\",\"items\":[]}'",
        ),
        (9, "evidence = NULL"),
        (10, "checkpoint_type = 'iteration_start'"),
        (11, "created_at = '2020-01-01 00:00:00.000000'"),
        (12, "seal = zeroblob(32)"),
    ] {
        let pack = Pack::all([Evidence::command(["make"], Some(0))]);
        let new = ground.step(number).evidence(pack).metadata(json!({"a": 1}));
        checkpoints.append(new).unwrap();
        ground.damage(&format!(
            "UPDATE checkpoints SET {edit} WHERE sequence_number = {number}"
        ));
        for error in [
            checkpoints.get(&ground.task, seq(number)).unwrap_err(),
            checkpoints.latest(&ground.task).unwrap_err(),
            checkpoints.verify(&ground.task, seq(number)).unwrap_err(),
        ] {
            assert!(
                matches!(
                    error,
                    CheckpointError::Storage(StorageError::Corrupt { .. })
                ),
                "{edit}: {error:?}"
            );
        }
        let resumed = ground.resumed(&checkpoints);
        assert_eq!(resumed.checkpoint.state::<u64>().unwrap(), 1, "{edit}");
        assert_eq!(resumed.label, Label::Unverified);
        assert_eq!(resumed.passed_over.len() as u64, number - 1);
        assert!(
            resumed
                .passed_over
                .iter()
                .all(|passed| matches!(passed.reason, PassedOverReason::Damaged { .. }))
        );
    }
    // Nothing was deleted.
    let rows: i64 = Connection::open(ground.dir.join("agent.db"))
        .unwrap()
        .query_row("SELECT count(*) FROM checkpoints", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 12);
}

/// Goal: a sound row is not sound in another's place.
/// Method: copy everything but the place from another number and another task.
#[test]
fn a_row_copied_from_elsewhere_is_corrupt() {
    let ground = ground();
    let checkpoints = ground.manager();
    let other = TaskId::new("other").unwrap();
    ground
        .store
        .create_task(NewTask::new(other.clone(), "test"))
        .unwrap();
    let foreign = NewCheckpoint::new(other, CheckpointType::IterationEnd)
        .state(&99_u64)
        .unwrap();
    for _ in 1..=3 {
        checkpoints.append(foreign.clone()).unwrap();
    }
    for step in 1..=3 {
        checkpoints.append(ground.step(step)).unwrap();
    }
    let copy = |number, from: &str| {
        let columns = "checkpoint_type, created_at, codec, state_version, state_bytes, \
                       state_digest, seal, metadata, evidence, snapshot";
        ground.damage(&format!(
            "UPDATE checkpoints SET ({columns}) = (SELECT {columns} FROM checkpoints WHERE {from}) \
             WHERE task_id = 'task' AND sequence_number = {number}"
        ));
    };
    copy(3, "task_id = 'other' AND sequence_number = 3");
    copy(2, "task_id = 'task' AND sequence_number = 1");
    for number in [2, 3] {
        assert!(matches!(
            checkpoints.get(&ground.task, seq(number)).unwrap_err(),
            CheckpointError::Storage(StorageError::Corrupt { .. })
        ));
    }
    let resumed = ground.resumed(&checkpoints);
    assert_eq!(resumed.checkpoint.state::<u64>().unwrap(), 1);
    assert_eq!(resumed.passed_over.len(), 2);
}

#[test]
fn error_boundaries_are_passed_over_in_silence_and_others_without_state_are_named() {
    let ground = ground();
    let checkpoints = ground.manager();
    checkpoints.append(ground.step(1)).unwrap();
    let bare = |kind| NewCheckpoint::new(ground.task.clone(), kind);
    checkpoints
        .append(bare(CheckpointType::ApprovalPoint))
        .unwrap();
    checkpoints
        .append(bare(CheckpointType::ErrorBoundary))
        .unwrap();
    let resumed = ground.resumed(&checkpoints);
    assert_eq!(resumed.checkpoint.summary.sequence, seq(1));
    assert_eq!(only(&resumed.passed_over), (2, &PassedOverReason::NoState));
    assert!(matches!(
        checkpoints
            .append(bare(CheckpointType::ErrorBoundary).raw(1, "state"))
            .unwrap_err(),
        CheckpointError::Storage(StorageError::Invalid(_))
    ));
}

/// Goal: evidence that a newer program wrote, and this one does not understand,
/// is not taken for none.
#[test]
fn evidence_that_cannot_be_read_is_passed_over() {
    let ground = ground();
    let checkpoints = ground.manager();
    checkpoints.append(ground.step(1)).unwrap();
    let none_needed = r#"{"format":1,"policy":{"at_least":0},"items":[{"kind":"artifact_exists","path":"missing","artifact":"any"}]}"#;
    for evidence in [r#"{"format":2}"#, none_needed, "", "null"] {
        let mut part = AppendCheckpoint::new(ground.task.clone(), CheckpointType::IterationEnd);
        part.snapshot = Some(Snapshot::new(Codec::Raw, 1, vec![]));
        part.evidence = Some(evidence.into());
        part.verification = Verification::Verified;
        ground.store.commit(part.into()).unwrap();
    }
    let resumed = ground.resumed(&checkpoints);
    assert_eq!(resumed.checkpoint.summary.sequence, seq(1));
    assert_eq!(resumed.passed_over.len(), 4);
    assert!(
        resumed
            .passed_over
            .iter()
            .all(|passed| matches!(passed.reason, PassedOverReason::UnreadableEvidence { .. }))
    );
    assert!(matches!(
        checkpoints.verify(&ground.task, seq(2)).unwrap_err(),
        CheckpointError::UnreadableEvidence { .. }
    ));
    // Nothing was recorded about what was not understood.
    let verification = ground.get(&checkpoints, 2).summary.verification;
    assert_eq!(verification, Verification::Verified);
}

/// Goal: the cost of resume does not grow with the number of older checkpoints.
/// Method: evidence that counts how often it is asked, and an older row that is
/// damaged: neither is looked at.
#[test]
fn nothing_older_than_the_answer_is_looked_at() {
    let ground = ground();
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let checkpoints = ground.manager_with(|config| {
        config.kind("count", move |_: &Value, _: &CheckContext<'_>| {
            count.fetch_add(1, Ordering::SeqCst);
            Check::Passed
        })
    });
    for step in 1..=20 {
        let pack = Pack::all([Evidence::custom("count", Value::Null)]);
        checkpoints
            .append(ground.step(step).evidence(pack))
            .unwrap();
    }
    ground.damage("UPDATE checkpoints SET snapshot = x'00' WHERE sequence_number = 19");
    asked.store(0, Ordering::SeqCst);
    let resumed = ground.resumed(&checkpoints);
    assert_eq!(resumed.checkpoint.summary.sequence, seq(20));
    assert_eq!(resumed.passed_over, []);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_task_without_checkpoints_resumes_nowhere_and_no_task_is_not_found() {
    let ground = ground();
    let checkpoints = ground.manager();
    assert_eq!(
        checkpoints.resume(&ground.task).unwrap(),
        Resume::Nowhere {
            passed_over: vec![]
        }
    );
    let unknown = TaskId::new("unknown").unwrap();
    assert!(matches!(
        checkpoints.resume(&unknown).unwrap_err(),
        CheckpointError::Storage(StorageError::NotFound { what: "task", .. })
    ));
    let new = NewCheckpoint::new(unknown, CheckpointType::ManualCheckpoint);
    assert!(matches!(
        checkpoints.append(new).unwrap_err(),
        CheckpointError::Storage(StorageError::NotFound { what: "task", .. })
    ));
}
