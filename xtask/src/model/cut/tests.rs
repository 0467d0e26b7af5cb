use super::*;

const PLAN: Plan = Plan {
    seed: 1,
    threads: 2,
    steps: 3,
};

fn step(thread: u64, number: u64) -> Step {
    Step { thread, number }
}

/// As it must be when so many steps of each thread are done.
fn found(thread: u64, done: u64) -> Found {
    let next = (done < PLAN.steps).then_some((done + 1, WorkItemStatus::Pending));
    let finished = (1..=done).map(|number| (number, WorkItemStatus::Succeeded));
    Found {
        status: Some(match done == PLAN.steps {
            true => TaskStatus::Succeeded,
            false => TaskStatus::Running,
        }),
        checkpoints: (1..=done).map(|n| (n, Some(step(thread, n)))).collect(),
        newest: done,
        items: finished.chain(next).collect(),
        calls: (1..=done).map(|n| (n, KeyStatus::Succeeded)).collect(),
        answers: (1..=done).filter(|&n| step(thread, n).asks()).collect(),
    }
}

fn order() -> Vec<Step> {
    let steps = [(0, 1), (1, 1), (1, 2), (0, 2), (1, 3), (0, 3)];
    steps.map(|(thread, number)| step(thread, number)).into()
}

fn told(begun: usize, acknowledged: usize) -> Told {
    let order = order();
    let begun = order[..begun].iter().copied().map(Mark::Begun);
    let acknowledged = order[..acknowledged]
        .iter()
        .copied()
        .map(Mark::Acknowledged);
    let marks = begun.chain(acknowledged);
    Told::of(marks.chain([Mark::Setup, Mark::SetUp]))
}

fn seen(steps: usize) -> Seen {
    let book = order()[..steps].to_vec();
    let done = |thread| book.iter().filter(|step| step.thread == thread).count() as u64;
    Seen {
        threads: vec![found(0, done(0)), found(1, done(1))],
        book: Some(book),
    }
}

fn judge(told: &Told, full: bool, seen: &Seen) -> Vec<String> {
    let order = order();
    let expected = Expected {
        plan: &PLAN,
        order: &order,
        told,
        full,
    };
    expected.judge(seen)
}

#[test]
fn a_beginning_with_all_that_was_acknowledged_is_sound() {
    for steps in 2..=4 {
        assert_eq!(judge(&told(4, 2), true, &seen(steps)), [""; 0], "{steps}");
    }
    assert_eq!(judge(&told(6, 6), true, &seen(6)), [""; 0]);
}

#[test]
fn an_acknowledged_step_is_lost_with_full_and_may_be_with_relaxed_durability() {
    let broken = judge(&told(4, 3), true, &seen(2));
    assert_eq!(broken, ["step 1/2 was acknowledged and is lost"]);
    assert_eq!(judge(&told(4, 3), false, &seen(2)), [""; 0]);
}

#[test]
fn each_way_of_being_wrong_is_named() {
    type Break = fn(&mut Seen);
    let ways: [(Break, &str); 12] = [
        (
            |seen| {
                seen.threads[0].checkpoints.pop();
            },
            "its checkpoints are",
        ),
        (
            |seen| seen.threads[0].checkpoints[0].1 = None,
            "is of step None",
        ),
        (
            |seen| {
                seen.threads[1].checkpoints.remove(0);
            },
            "begin at 2",
        ),
        (|seen| seen.threads[0].status = None, "its task is"),
        (
            |seen| {
                seen.threads[0].items.remove(&2);
            },
            "step 2 is not there",
        ),
        (
            |seen| {
                seen.threads[0].items.insert(1, WorkItemStatus::Pending);
            },
            "is pending",
        ),
        (
            |seen| {
                seen.threads[0].calls.remove(&1);
            },
            "the call of step 1",
        ),
        (
            |seen| {
                seen.threads[0].calls.insert(3, KeyStatus::Pending);
            },
            "the call of step 3",
        ),
        (
            |seen| {
                seen.threads[1].answers.remove(&2);
            },
            "the answer of step 2",
        ),
        (
            |seen| seen.book.as_mut().unwrap().swap(0, 1),
            "no beginning",
        ),
        (
            |seen| {
                seen.book.as_mut().unwrap().pop();
            },
            "its checkpoints are",
        ),
        (|seen| seen.book = None, "a part of the first commit"),
    ];
    for (break_it, word) in ways {
        let mut broken = seen(3);
        break_it(&mut broken);
        let reasons = judge(&told(4, 0), true, &broken);
        let named = reasons.iter().any(|reason| reason.contains(word));
        assert!(named, "{word}: {reasons:?}");
    }
}

#[test]
fn what_was_told_on_the_way_must_be_there() {
    let next = step(0, 2);
    for (mark, word) in [
        (Mark::Claimed(next), "claimed 0/2"),
        (Mark::Running(next), "running 0/2"),
    ] {
        let told = Told::of(told(4, 2).iter().chain([mark]));
        let broken = judge(&told, true, &seen(3));
        assert!(broken.len() == 1 && broken[0].contains(word), "{broken:?}");
        assert_eq!(judge(&told, false, &seen(3)), [""; 0]);
    }
}

#[test]
fn a_lease_that_was_swept_does_not_come_back() {
    let told = Told::of(told(4, 2).iter().chain([Mark::Swept]));
    let mut held = seen(3);
    held.threads[0].items.insert(2, WorkItemStatus::InProgress);
    assert_eq!(judge(&told, true, &seen(3)), [""; 0]);
    assert_eq!(judge(&told, true, &held).len(), 1);
}

#[test]
fn before_the_first_commit_there_is_nothing() {
    let nothing = Seen {
        book: None,
        threads: vec![Found::default(); 2],
    };
    assert_eq!(judge(&Told::default(), true, &nothing), [""; 0]);
    assert_eq!(judge(&told(0, 0), true, &nothing).len(), 1);
    assert_eq!(judge(&told(0, 0), false, &nothing), [""; 0]);
    assert!(!judge(&Told::default(), true, &seen(0)).is_empty());
}

#[test]
fn a_mark_is_read_as_it_was_written() {
    let one = step(2, 13);
    for mark in [
        Mark::Setup,
        Mark::SetUp,
        Mark::Claimed(one),
        Mark::Running(one),
        Mark::Asked(one),
        Mark::Begun(one),
        Mark::Acknowledged(one),
        Mark::Upkeep,
        Mark::Swept,
    ] {
        assert_eq!(Mark::read(&mark.text()), Some(mark));
    }
    assert_eq!(Mark::read("begun"), None);
    assert_eq!(Mark::read("something 1/2"), None);
}
