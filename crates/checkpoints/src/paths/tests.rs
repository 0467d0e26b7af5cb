//! Paths of evidence: what is found, what is refused, which directories name a file.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A directory `base` beside a directory `elsewhere`.
struct Ground {
    _dir: tempfile::TempDir,
    base: PathBuf,
    elsewhere: PathBuf,
}

fn ground() -> Ground {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap();
    let (base, elsewhere) = (top.join("base"), top.join("elsewhere"));
    fs::create_dir_all(base.join("a/b")).unwrap();
    fs::create_dir_all(elsewhere.join("c")).unwrap();
    fs::write(base.join("a/b/out.txt"), "out").unwrap();
    fs::write(elsewhere.join("c/far.txt"), "far").unwrap();
    Ground {
        _dir: dir,
        base,
        elsewhere,
    }
}

#[track_caller]
fn refused(base: &Base<'_>, path: impl AsRef<Path>) -> PathRefusal {
    match base.find(path.as_ref()) {
        Err(PathProblem::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_stays_inside_is_found() {
    let ground = ground();
    let base = Base::new(&ground.base, false, &[]);
    let out = ground.base.join("a/b/out.txt");
    symlink("b/../b/out.txt", ground.base.join("a/link")).unwrap();
    symlink(&out, ground.base.join("absolute")).unwrap();
    for path in [
        Path::new("a/b/out.txt"),
        Path::new("./a/../a/b/out.txt"),
        Path::new("a/link"),
        Path::new("absolute"),
        out.as_path(),
    ] {
        let found = base.find(path).unwrap();
        assert_eq!(found.place.path, out, "{}", path.display());
        assert!(found.meta.unwrap().is_file());
    }
}

#[test]
fn what_leaves_the_base_is_refused_whether_it_exists_or_not() {
    let ground = ground();
    let base = Base::new(&ground.base, false, &[]);
    symlink("../elsewhere", ground.base.join("out")).unwrap();
    symlink("../elsewhere/nothing", ground.base.join("dangling")).unwrap();
    for path in [
        "../elsewhere/c/far.txt",
        "../nothing",
        "out",
        "out/c/far.txt",
        "out/nothing",
        "dangling",
        "a/b/../../../elsewhere",
        "missing/../../elsewhere",
        "/etc/passwd",
        "/nothing",
    ] {
        assert_eq!(refused(&base, path), PathRefusal::Outside, "{path}");
    }
    assert_eq!(refused(&base, &ground.elsewhere), PathRefusal::Outside);
    // A neighbour whose name begins alike is not inside.
    let mut neighbour = ground.base.clone().into_os_string();
    neighbour.push("2");
    assert_eq!(
        refused(&base, PathBuf::from(neighbour)),
        PathRefusal::Outside
    );
}

#[test]
fn what_leaves_the_base_is_found_when_that_is_allowed() {
    let ground = ground();
    let base = Base::new(&ground.base, true, &[]);
    let found = base.find(Path::new("../elsewhere/c/far.txt")).unwrap();
    assert_eq!(found.place.path, ground.elsewhere.join("c/far.txt"));
    assert!(found.meta.is_some());
}

#[test]
fn what_is_missing_is_found_missing() {
    let ground = ground();
    let base = Base::new(&ground.base, false, &[]);
    for path in [
        "nothing",
        "a/b/nothing/deeper",
        "a/b/out.txt/below",
        "a/nothing/../b/out.txt",
        "a/b/out.txt/../out.txt",
    ] {
        assert!(base.find(Path::new(path)).unwrap().meta.is_none(), "{path}");
    }
}

#[test]
fn links_in_a_circle_are_unreadable() {
    let ground = ground();
    symlink("two", ground.base.join("one")).unwrap();
    symlink("one", ground.base.join("two")).unwrap();
    let base = Base::new(&ground.base, false, &[]);
    assert!(matches!(
        base.find(Path::new("one")).unwrap_err(),
        PathProblem::Unreadable(_)
    ));
}

#[test]
fn own_files_are_refused_under_every_name() {
    let ground = ground();
    let db = ground.base.join("agent.db");
    fs::write(&db, "db").unwrap();
    symlink("agent.db", ground.base.join("link")).unwrap();
    fs::hard_link(&db, ground.base.join("twin")).unwrap();
    symlink(&ground.base, ground.elsewhere.join("way")).unwrap();
    // The store may know its files by another way to them.
    let known_as = ground.elsewhere.join("way/agent.db");
    let wal = ground.elsewhere.join("way/agent.db-wal"); // not there yet
    for allow_outside in [false, true] {
        let base = Base::new(
            &ground.base,
            allow_outside,
            &[known_as.clone(), wal.clone()],
        );
        for path in ["agent.db", "a/../agent.db", "link", "twin", "agent.db-wal"] {
            assert_eq!(refused(&base, path), PathRefusal::OwnFile, "{path}");
        }
        assert!(base.find(Path::new("a/b/out.txt")).is_ok());
    }
}

#[test]
fn the_directories_that_name_a_file_are_known() {
    let ground = ground();
    fs::create_dir(ground.base.join("x")).unwrap();
    symlink("../a/b/out.txt", ground.base.join("x/link")).unwrap();
    let dirs = |allow, path: &str| {
        let base = Base::new(&ground.base, allow, &[]);
        let found = base.find(Path::new(path)).unwrap();
        base.directories_naming(&found.place)
            .into_iter()
            .collect::<Vec<_>>()
    };
    let inside = |names: &[&str]| {
        names
            .iter()
            .map(|n| ground.base.join(n))
            .collect::<Vec<_>>()
    };
    assert_eq!(dirs(false, "a/b/out.txt"), inside(&["", "a", "a/b"]));
    // The link's own name has to last as well.
    assert_eq!(dirs(false, "x/link"), inside(&["", "a", "a/b", "x"]));
    // An absolute way leads through the same directories.
    let out = ground.base.join("a/b/out.txt");
    assert_eq!(
        dirs(false, out.to_str().unwrap()),
        inside(&["", "a", "a/b"])
    );
    assert_eq!(
        dirs(true, "../elsewhere/c/far.txt"),
        [ground.elsewhere.join("c")]
    );
}

#[test]
fn a_file_that_was_replaced_is_not_taken_for_the_one_found() {
    let ground = ground();
    let out = ground.base.join("a/b/out.txt");
    let found = fs::metadata(&out).unwrap();
    fs::write(ground.base.join("new"), "new").unwrap();
    fs::rename(ground.base.join("new"), &out).unwrap();
    assert!(open_regular(&out, &found).is_err());
}
