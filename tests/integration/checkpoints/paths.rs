//! Where evidence may look, and where it may not.

use super::*;

#[track_caller]
fn refusal(ground: &Ground, checkpoints: &CheckpointManager, item: Evidence) -> PathRefusal {
    let filler = Evidence::command(["true"], Some(0));
    let pack = Pack::all([filler, item]);
    match checkpoints
        .append(ground.step(1).evidence(pack))
        .unwrap_err()
    {
        CheckpointError::PathRefused {
            item: 1, refusal, ..
        } => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_files_of_the_store_are_refused_under_every_name() {
    let ground = ground();
    symlink("agent.db", ground.dir.join("link")).unwrap();
    fs::hard_link(ground.dir.join("agent.db"), ground.dir.join("twin")).unwrap();
    for allow_outside in [false, true] {
        let checkpoints = ground.manager_with(|config| config.allow_outside(allow_outside));
        for name in ["agent.db", "agent.db-wal", "agent.db-shm", "link", "twin"] {
            for item in [
                Evidence::file(name),
                Evidence::exists(name, ArtifactKind::Any),
                DbRow::new("tasks")
                    .in_sqlite_file(name)
                    .key("task_id", RowValue::Null)
                    .into(),
            ] {
                assert_eq!(
                    refusal(&ground, &checkpoints, item),
                    PathRefusal::OwnFile,
                    "{name}"
                );
            }
        }
    }
}

/// Goal: what is refused when it is appended cannot come in later.
/// Method: a path that was harmless becomes a link to the store's file.
#[test]
fn a_path_that_came_to_be_the_stores_file_fails_on_resume() {
    let ground = ground();
    ground.write("out.txt", "abc");
    let checkpoints = ground.manager();
    let pack = Pack::all([Evidence::exists("out.txt", ArtifactKind::File)]);
    checkpoints.append(ground.step(1).evidence(pack)).unwrap();
    fs::remove_file(ground.dir.join("out.txt")).unwrap();
    symlink("agent.db", ground.dir.join("out.txt")).unwrap();
    let Resume::Nowhere { passed_over } = checkpoints.resume(&ground.task).unwrap() else {
        panic!("resumed");
    };
    let (_, reason) = only(&passed_over);
    assert!(
        matches!(reason, PassedOverReason::EvidenceFailed { failed }
            if failed[0].reason.as_deref() == Some("out.txt is a file of the store itself")),
        "{reason:?}"
    );
}

#[test]
fn paths_leave_the_base_directory_only_if_allowed() {
    let ground = ground();
    let outside = ground.dir.parent().unwrap().join("outside.txt");
    fs::write(&outside, "far").unwrap();
    symlink("../outside.txt", ground.dir.join("link")).unwrap();
    let paths = [PathBuf::from("../outside.txt"), "link".into(), outside];
    let checkpoints = ground.manager();
    for path in &paths {
        assert_eq!(
            refusal(&ground, &checkpoints, Evidence::file(path)),
            PathRefusal::Outside,
            "{}",
            path.display()
        );
    }
    let recheck = Recheck::new(["true"]).cwd("..");
    let command = CommandExit::new(["true"], Some(0)).recheck(recheck);
    assert_eq!(
        refusal(&ground, &checkpoints, command.into()),
        PathRefusal::Outside
    );
    let allowed = ground.manager_with(|config| config.allow_outside(true));
    let pack = Pack::all(paths.map(Evidence::file));
    allowed.append(ground.step(1).evidence(pack)).unwrap();
    assert_eq!(ground.resumed(&allowed).label, Label::Verified);
    // Whoever resumes under the narrower rule does not believe it.
    assert!(matches!(
        checkpoints.resume(&ground.task).unwrap(),
        Resume::Nowhere { .. }
    ));
}

#[test]
fn a_named_pipe_holds_nobody_up() {
    let ground = ground();
    let pipe = ground.dir.join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    let checkpoints = ground.manager();
    assert_eq!(
        ground.refused(&checkpoints, Pack::all([Evidence::file("pipe")])),
        ["pipe is a named pipe, not a file"]
    );
    let pack = Pack::all([Evidence::exists("pipe", ArtifactKind::Any)]);
    checkpoints.append(ground.step(1).evidence(pack)).unwrap();
    assert_eq!(ground.resumed(&checkpoints).label, Label::Verified);
}

/// Goal: what a checkpoint speaks of is durable before it is, or nothing is
/// stored.
/// Method: files and directories of `/proc`, which no system can sync.
#[test]
fn what_cannot_be_made_durable_is_not_spoken_of() {
    let ground = ground();
    for auto_verify in [true, false] {
        for (path, kind) in [
            ("/proc/version", ArtifactKind::File),
            ("/proc/sys", ArtifactKind::Directory),
        ] {
            let manager = |sync| {
                ground.manager_with(|config| {
                    config
                        .allow_outside(true)
                        .auto_verify(auto_verify)
                        .sync_evidence(sync)
                })
            };
            let new = || {
                let pack = Pack::all([Evidence::exists(path, kind)]);
                ground.step(1).evidence(pack)
            };
            let before = ground.count(&manager(true));
            match manager(true).append(new()).unwrap_err() {
                CheckpointError::NotDurable { path: named, .. } => {
                    assert_eq!(named, PathBuf::from(path));
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(ground.count(&manager(true)), before);
            manager(false).append(new()).unwrap();
        }
    }
}
