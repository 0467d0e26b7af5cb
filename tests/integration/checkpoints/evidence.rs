//! Evidence of every kind, under every policy, before the commit and after.

use super::*;

#[test]
fn evidence_of_every_kind_that_holds_is_verified_and_recorded() {
    let ground = ground();
    ground.write("out.txt", "abc");
    fs::create_dir(ground.dir.join("dir")).unwrap();
    let other = Connection::open(ground.dir.join("other.db")).unwrap();
    other
        .execute_batch(
            "CREATE TABLE t (id INTEGER, big INTEGER); INSERT INTO t VALUES (1, 9007199254740993);",
        )
        .unwrap();
    drop(other);
    let checkpoints = ground.manager_with(|config| {
        config.kind("seven", |params: &Value, _: &CheckContext<'_>| {
            Check::when(params["number"] == 7, || "it is not seven".into())
        })
    });
    let pack = Pack::all([
        Evidence::file("out.txt"),
        FileDigest::new("out.txt", DigestAlgorithm::Sha256)
            .expected("BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD")
            .into(),
        Evidence::exists("dir", ArtifactKind::Directory),
        Evidence::command(["make"], Some(0)),
        CommandExit::new(["grep", "x"], Some(1))
            .expected(1)
            .recheck(Recheck::new(["/bin/sh", "-c", "test -f out.txt; exit 1"]))
            .into(),
        DbRow::new("tasks")
            .key("task_id", RowValue::Text("task".into()))
            .expected("status", RowValue::Text("created".into()))
            .into(),
        DbRow::new("t")
            .in_sqlite_file("other.db")
            .key("id", RowValue::Integer(1))
            .expected("big", RowValue::Integer(9_007_199_254_740_993))
            .into(),
        Evidence::custom("seven", json!({"number": 7})),
    ]);
    ground.clock.set(Timestamp::from_unix_micros(5_000_000));
    checkpoints.append(ground.step(1).evidence(pack)).unwrap();

    let stored = ground.get(&checkpoints, 1);
    assert_eq!(stored.summary.verification, Verification::Verified);
    let results = checkpoints.results(&ground.task, seq(1)).unwrap();
    let kinds: Vec<&str> = results.iter().map(|result| result.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "file_digest",
            "file_digest",
            "artifact_exists",
            "command_exit",
            "command_exit",
            "db_row",
            "db_row",
            "seven"
        ]
    );
    for (item, result) in (0..).zip(&results) {
        assert_eq!(result.item, item);
        assert_eq!(result.outcome, PASSED);
        assert_eq!(result.reason, None);
        assert_eq!(result.checked_at, Timestamp::from_unix_micros(5_000_000));
    }
    let resumed = ground.resumed(&checkpoints);
    assert_eq!(resumed.label, Label::Verified);
    assert_eq!(outcomes(&resumed.results), [PASSED; 8]);
    assert_eq!(resumed.checkpoint, stored);
}

#[test]
fn evidence_of_every_kind_that_does_not_hold_says_why_and_stores_nothing() {
    let ground = ground();
    ground.write("out.txt", "abc");
    let checkpoints = ground.manager_with(|config| {
        config.kind("never", |_: &Value, _: &CheckContext<'_>| {
            Check::failed("never")
        })
    });
    let zeros = "0".repeat(64);
    let tasks = || DbRow::new("tasks").key("task_id", RowValue::Text("task".into()));
    let sleep = Recheck::new(["sleep", "600"]).timeout(Duration::from_millis(50));
    let reasons = ground.refused(
        &checkpoints,
        Pack::all([
            Evidence::file("missing.txt"),
            FileDigest::new("out.txt", DigestAlgorithm::Blake3)
                .expected(&zeros)
                .into(),
            Evidence::exists("out.txt", ArtifactKind::Directory),
            Evidence::command(["make"], Some(1)),
            Evidence::command(["make"], None),
            CommandExit::new(["make"], Some(0)).recheck(sleep).into(),
            DbRow::new("tasks")
                .key("task_id", RowValue::Text("other".into()))
                .into(),
            tasks()
                .expected("status", RowValue::Text("running".into()))
                .into(),
            tasks().in_sqlite_file("out.txt").into(),
            tasks().in_sqlite_file("missing.db").into(),
            Evidence::custom("never", Value::Null),
            Evidence::custom("unknown", Value::Null),
        ]),
    );
    let digest = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
    let expected = [
        "missing.txt does not exist".to_owned(),
        format!("out.txt has the digest {digest}, not {zeros}"),
        "out.txt is a file, not a directory".into(),
        "\"make\" exited with 1, expected exit code 0".into(),
        "\"make\" was killed by a signal, expected exit code 0".into(),
        "recheck \"sleep\" was not over after 50 ms".into(),
        "no row of \"tasks\" has that key".into(),
        "the row of \"tasks\" has another value in \"status\"".into(),
    ];
    assert_eq!(reasons[..8], expected);
    assert_eq!(reasons[9], "missing.db does not exist");
    assert_eq!(reasons[10], "never");
    assert_eq!(reasons[11], "no kind \"unknown\" is registered here");
    assert_eq!(reasons.len(), 12);
}

#[test]
fn exit_code_one_never_passes_as_success() {
    let ground = ground();
    let checkpoints = ground.manager_with(|config| config.on_failure(OnFailure::StoreAsFailed));
    checkpoints
        .append(
            ground
                .step(1)
                .evidence(Pack::all([Evidence::command(["make"], Some(1))])),
        )
        .unwrap();
    let report = checkpoints.verify(&ground.task, seq(1)).unwrap();
    assert_eq!(report.verification, Verification::Failed);
    let Resume::Nowhere { passed_over } = checkpoints.resume(&ground.task).unwrap() else {
        panic!("resumed");
    };
    let (number, reason) = only(&passed_over);
    assert_eq!(number, 1);
    assert!(matches!(reason, PassedOverReason::EvidenceFailed { failed } if failed.len() == 1));
}

#[test]
fn at_least_means_so_many() {
    let ground = ground();
    ground.write("a", "a");
    ground.write("b", "b");
    let checkpoints = ground.manager();
    let items = || {
        [
            Evidence::file("a"),
            Evidence::file("missing"),
            Evidence::file("b"),
        ]
    };
    checkpoints
        .append(ground.step(1).evidence(at_least(2, items())))
        .unwrap();
    let results = checkpoints.results(&ground.task, seq(1)).unwrap();
    assert_eq!(outcomes(&results), [PASSED, FAILED, PASSED]);
    assert_eq!(
        ground.refused(&checkpoints, at_least(3, items())),
        ["missing does not exist"]
    );
    // The item that had no digest does not come to pass later.
    ground.write("missing", "late");
    let resumed = ground.resumed(&checkpoints);
    assert_eq!(resumed.label, Label::Verified);
    assert_eq!(outcomes(&resumed.results), [PASSED, FAILED, PASSED]);
    fs::remove_file(ground.dir.join("a")).unwrap();
    assert!(matches!(
        checkpoints.resume(&ground.task).unwrap(),
        Resume::Nowhere { .. }
    ));
}

#[test]
fn an_empty_pack_is_unverified_and_so_is_none() {
    let ground = ground();
    let checkpoints = ground.manager();
    let none: [Evidence; 0] = [];
    checkpoints.append(ground.step(1)).unwrap();
    checkpoints
        .append(ground.step(2).evidence(Pack::all(none)))
        .unwrap();
    for number in [1, 2] {
        let verification = ground.get(&checkpoints, number).summary.verification;
        assert_eq!(verification, Verification::Unverified);
        let report = checkpoints.verify(&ground.task, seq(number)).unwrap();
        assert_eq!(report.verification, Verification::Unverified);
        assert_eq!(report.results, []);
    }
    let resumed = ground.resumed(&checkpoints);
    assert_eq!(resumed.label, Label::Unverified);
    assert_eq!(resumed.checkpoint.state::<u64>().unwrap(), 2);
}

#[test]
fn a_failure_is_stored_as_failed_when_that_was_asked_for() {
    let ground = ground();
    let checkpoints = ground.manager_with(|config| config.on_failure(OnFailure::StoreAsFailed));
    let pack = Pack::all([
        Evidence::exists("late.txt", ArtifactKind::File),
        Evidence::command(["make"], Some(0)),
    ]);
    checkpoints.append(ground.step(1).evidence(pack)).unwrap();
    let stored = ground.get(&checkpoints, 1);
    assert_eq!(stored.summary.verification, Verification::Failed);
    let results = checkpoints.results(&ground.task, seq(1)).unwrap();
    assert_eq!(outcomes(&results), [FAILED, PASSED]);
    assert_eq!(reasons(&results), ["late.txt does not exist"]);
    // Resume asks the world, not the flag, in this direction too.
    ground.write("late.txt", "here");
    assert_eq!(ground.resumed(&checkpoints).label, Label::Verified);
}

#[test]
fn without_auto_verify_nothing_is_judged_until_somebody_asks() {
    let ground = ground();
    ground.write("out.txt", "abc");
    let checkpoints = ground.manager_with(|config| config.auto_verify(false));
    let pack = Pack::all([
        Evidence::file("out.txt"),
        Evidence::command(["make"], Some(1)),
    ]);
    checkpoints.append(ground.step(1).evidence(pack)).unwrap();
    let stored = ground.get(&checkpoints, 1);
    assert_eq!(stored.summary.verification, Verification::Unverified);
    assert_eq!(checkpoints.results(&ground.task, seq(1)).unwrap(), []);
    let report = checkpoints.verify(&ground.task, seq(1)).unwrap();
    assert_eq!(report.verification, Verification::Failed);
    assert_eq!(outcomes(&report.results), [PASSED, FAILED]);
    // A digest that cannot be taken can never be checked later.
    assert_eq!(
        ground.refused(&checkpoints, Pack::all([Evidence::file("missing")])),
        ["missing does not exist"]
    );
    let given = FileDigest::new("missing", DigestAlgorithm::Blake3).expected("0".repeat(64));
    let pack = at_least(1, [given.into(), Evidence::file("missing")]);
    checkpoints.append(ground.step(2).evidence(pack)).unwrap();
}

#[test]
fn verify_records_what_it_found_in_place_of_what_was_recorded() {
    let ground = ground();
    ground.write("out.txt", "abc");
    let checkpoints = ground.manager();
    let pack = Pack::all([Evidence::file("out.txt")]);
    checkpoints.append(ground.step(1).evidence(pack)).unwrap();
    let before = ground.get(&checkpoints, 1);

    fs::remove_file(ground.dir.join("out.txt")).unwrap();
    ground.clock.set(Timestamp::from_unix_micros(9_000_000));
    let report = checkpoints.verify(&ground.task, seq(1)).unwrap();
    assert_eq!(report.verification, Verification::Failed);
    assert_eq!(reasons(&report.results), ["out.txt does not exist"]);
    assert_eq!(
        checkpoints.results(&ground.task, seq(1)).unwrap(),
        report.results
    );
    assert_eq!(
        report.results[0].checked_at,
        Timestamp::from_unix_micros(9_000_000)
    );
    let after = ground.get(&checkpoints, 1);
    assert_eq!(after.summary.verification, Verification::Failed);
    assert_eq!(after.summary.seal, before.summary.seal);

    assert!(matches!(
        checkpoints.verify(&ground.task, seq(2)).unwrap_err(),
        CheckpointError::Storage(StorageError::NotFound {
            what: "checkpoint",
            ..
        })
    ));
}

/// Goal: a kind that is not registered never passes, in whichever program.
#[test]
fn evidence_of_a_kind_that_another_program_registered_fails_here() {
    let ground = ground();
    let with = ground.manager_with(|config| {
        config.kind("mine", |_: &Value, _: &CheckContext<'_>| Check::Passed)
    });
    let pack = Pack::all([Evidence::custom("mine", Value::Null)]);
    with.append(ground.step(1).evidence(pack)).unwrap();
    assert_eq!(ground.resumed(&with).label, Label::Verified);
    let Resume::Nowhere { passed_over } = ground.manager().resume(&ground.task).unwrap() else {
        panic!("resumed");
    };
    assert_eq!(
        passed_over[0].to_string(),
        "checkpoint 1: its evidence does not hold: item 0 (mine): no kind \"mine\" is registered here"
    );
}

/// Goal: reasons fit their column whatever a user's kind says.
#[test]
fn long_reasons_are_cut_and_nul_is_replaced() {
    let ground = ground();
    let checkpoints = ground.manager_with(|config| {
        config
            .on_failure(OnFailure::StoreAsFailed)
            .kind("long", |_: &Value, _: &CheckContext<'_>| {
                Check::failed(format!("\0{}", "é".repeat(10_000)))
            })
    });
    let pack = Pack::all([Evidence::custom("long", Value::Null)]);
    checkpoints.append(ground.step(1).evidence(pack)).unwrap();
    let results = checkpoints.results(&ground.task, seq(1)).unwrap();
    let reason = results[0].reason.as_deref().unwrap();
    assert!(reason.starts_with("\u{fffd}é"));
    assert_eq!(reason.len(), 4095, "cut between two characters");
}
