//! Each rule on the smallest history that keeps it and those that break it; the
//! lines; then histories by the hundred, and a race on the real store.

mod mutations;
mod race;

mod simulation;

use agentos_core::{AttemptOutcome, Fence, FencingToken, WorkItemId, WorkItemStatus};

use super::{
    Call, FoundAttempt, FoundItem, History, Moment, Operation, Record, Reply, Rule, begin_line,
    end_line, judge_history,
};

const ITEM: i64 = 7;

fn item(number: i64) -> WorkItemId {
    WorkItemId::new(number).unwrap()
}

fn token(number: i64) -> FencingToken {
    FencingToken::new(number).unwrap()
}

fn fence(number: i64) -> Fence {
    Fence {
        item: item(ITEM),
        token: token(number),
    }
}

/// An operation of a process in an interval.
fn operation(process: &str, began: Moment, call: Call, end: Moment, reply: Reply) -> Operation {
    Operation {
        process: process.into(),
        call,
        began,
        reply: Some((end, reply)),
    }
}

fn attempt(number: i64, process: &str, outcome: Option<AttemptOutcome>) -> FoundAttempt {
    FoundAttempt {
        number: token(number),
        process: process.into(),
        outcome,
    }
}

/// One claims, writes and is swept; two claims, writes and completes; one is
/// refused.
fn takeover() -> History {
    let write = |number, value: &str| Call::Write(fence(number), value.into());
    let operations = vec![
        operation("one", 0, Call::Claim, 1, Reply::Claimed(vec![fence(1)])),
        operation("one", 2, write(1, "a"), 3, Reply::Done),
        operation("two", 10, Call::Claim, 11, Reply::Claimed(vec![fence(2)])),
        operation("two", 12, write(2, "b"), 13, Reply::Done),
        operation("one", 14, write(1, "c"), 15, Reply::Stale),
        operation("two", 16, Call::Renew(fence(2)), 17, Reply::Done),
        operation(
            "two",
            18,
            Call::Complete(fence(2), "done".into()),
            19,
            Reply::Done,
        ),
    ];
    let found = FoundItem {
        status: WorkItemStatus::Succeeded,
        newest: Some(token(2)),
        result: Some("done".into()),
        attempts: vec![
            attempt(1, "one", Some(AttemptOutcome::Expired)),
            attempt(2, "two", Some(AttemptOutcome::Succeeded)),
        ],
        written: vec!["a".into(), "b".into()],
    };
    History {
        operations,
        deaths: [("one".to_owned(), 20)].into(),
        items: [(item(ITEM), found)].into(),
    }
}

/// Changes the takeover.
fn changed(change: impl FnOnce(&mut History)) -> History {
    let mut history = takeover();
    change(&mut history);
    history
}

/// Changes what is found.
fn found(change: impl FnOnce(&mut FoundItem)) -> History {
    changed(|history| change(history.items.get_mut(&item(ITEM)).unwrap()))
}

fn rules(history: &History) -> Vec<Rule> {
    let mut rules: Vec<Rule> = judge_history(history).iter().map(|one| one.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

#[track_caller]
fn accepted(history: &History) {
    let broken = judge_history(history);
    let broken: Vec<String> = broken.iter().map(ToString::to_string).collect();
    assert_eq!(broken, Vec::<String>::new());
}

#[track_caller]
fn rejected(history: &History, rule: Rule) {
    let found = rules(history);
    assert!(found.contains(&rule), "{rule:?} is not among {found:?}");
}

#[test]
fn a_takeover_is_sound() {
    accepted(&takeover());
    accepted(&History::default());
}

#[test]
fn a_rejection_names_the_rule_the_item_and_the_events() {
    let history = changed(|history| history.operations[4].reply = Some((15, Reply::Done)));
    let all = judge_history(&history);
    let fenced = all.iter().find(|one| one.rule == Rule::Fenced).unwrap();
    assert_eq!(fenced.events, [2, 4]);
    let expected = "Fenced: item 7: 1 was still taken after 2 was given; \
                    two claims from 10 to 11: [\"7/2\"]; \
                    one writes \"c\" under 1 from 14 to 15: Done";
    assert_eq!(fenced.to_string(), expected);
}

#[test]
fn tokens_of_an_item_grow_and_none_is_given_twice() {
    let second = |number| {
        let reply = Some((11, Reply::Claimed(vec![fence(number)])));
        changed(move |history| history.operations[2].reply = reply)
    };
    rejected(&second(1), Rule::TokensGrow);
    // 2 after 3 is going back; 3 after 2 is growing.
    let both = |first, later| {
        let mut history = second(later);
        history.operations[0].reply = Some((1, Reply::Claimed(vec![fence(first)])));
        rules(&history).contains(&Rule::TokensGrow)
    };
    assert!(both(3, 2) && !both(2, 3));
    // Claims that overlap may be answered in any order.
    let overlapping = changed(|history| {
        history.operations.truncate(1);
        history.operations[0].reply = Some((12, Reply::Claimed(vec![fence(2)])));
        let early = operation("two", 10, Call::Claim, 11, Reply::Claimed(vec![fence(1)]));
        history.operations.push(early);
    });
    assert!(!rules(&overlapping).contains(&Rule::TokensGrow));
}

#[test]
fn a_process_works_under_what_it_was_given() {
    let by_another = changed(|history| history.operations[1].process = "two".into());
    rejected(&by_another, Rule::ClaimedFirst);
    let too_early = changed(|history| history.operations[1].began = 0);
    rejected(&too_early, Rule::ClaimedFirst);
}

#[test]
fn nothing_is_taken_under_a_claim_that_was_replaced() {
    for call in [
        Call::Renew(fence(1)),
        Call::Write(fence(1), "c".into()),
        Call::Complete(fence(1), "mine".into()),
        Call::Fail(fence(1)),
        Call::Release(fence(1)),
    ] {
        let late = |began| {
            let call = call.clone();
            changed(|history| {
                history.operations[4] = operation("one", began, call, 15, Reply::Done)
            })
        };
        rejected(&late(12), Rule::Fenced);
        // It began before the later claim was acknowledged: it may have come first.
        assert!(!rules(&late(11)).contains(&Rule::Fenced));
    }
    // To say that a lease is lost changes nothing.
    let told = changed(|history| {
        history.operations[4] = operation("one", 14, Call::Lose(fence(1)), 14, Reply::Done);
    });
    accepted(&told);
}

#[test]
fn nothing_is_taken_under_a_claim_that_was_ended() {
    let after = |began| {
        changed(|history| {
            let renewal = operation("two", began, Call::Renew(fence(2)), 30, Reply::Done);
            history.operations.push(renewal);
        })
    };
    rejected(&after(20), Rule::EndedOnce);
    accepted(&after(19));
}

#[test]
fn who_was_refused_is_refused_for_good() {
    let refused = |at, reply| {
        changed(|history| {
            let write = Call::Write(fence(2), "x".into());
            history
                .operations
                .push(operation("two", 11, write, at, reply));
        })
    };
    rejected(&refused(15, Reply::Stale), Rule::RefusedForGood);
    // They overlap, or it was refused for another reason.
    accepted(&refused(18, Reply::Stale));
    accepted(&refused(15, Reply::Refused));
}

#[test]
fn one_completion_is_acknowledged() {
    let two = changed(|history| {
        let complete = Call::Complete(fence(2), "again".into());
        let again = operation("two", 18, complete, 20, Reply::Done);
        history.operations.push(again);
    });
    assert_eq!(rules(&two), [Rule::OneCompletion]);
}

#[test]
fn the_result_is_that_of_the_completion() {
    rejected(
        &found(|it| it.result = Some("other".into())),
        Rule::ResultStays,
    );
    rejected(&found(|it| it.result = None), Rule::ResultStays);
    rejected(
        &found(|it| it.status = WorkItemStatus::Pending),
        Rule::ResultStays,
    );
    let claimed_again = found(|it| {
        it.newest = Some(token(3));
        it.attempts.push(attempt(3, "two", None));
        it.status = WorkItemStatus::InProgress;
    });
    rejected(&claimed_again, Rule::ResultStays);
    // A completion of which nothing was heard may be there, or not; one that was
    // refused may not.
    let with = |reply| changed(|history| history.operations[6].reply = reply);
    accepted(&with(None));
    rejected(&with(Some((19, Reply::Stale))), Rule::ResultStays);
    let mut lost = with(None);
    let it = lost.items.get_mut(&item(ITEM)).unwrap();
    it.attempts[1].outcome = Some(AttemptOutcome::Expired);
    it.status = WorkItemStatus::Pending;
    rejected(&lost, Rule::ResultStays);
    lost.items.get_mut(&item(ITEM)).unwrap().result = None;
    accepted(&lost);
}

#[test]
fn every_claim_has_its_row_and_every_row_its_claim() {
    rejected(&changed(|history| history.items.clear()), Rule::AttemptRows);
    rejected(&found(|it| drop(it.attempts.remove(0))), Rule::AttemptRows);
    rejected(&found(|it| drop(it.attempts.pop())), Rule::AttemptRows);
    rejected(
        &found(|it| it.attempts[0].process = "two".into()),
        Rule::AttemptRows,
    );
    let twice = found(|it| it.attempts.insert(0, it.attempts[0].clone()));
    rejected(&twice, Rule::AttemptRows);
    // A claim of which nothing was heard may have been made.
    let unheard = |reply| {
        let mut history = found(|it| {
            it.status = WorkItemStatus::Pending;
            it.result = None;
            it.newest = Some(token(3));
            it.attempts[1].outcome = Some(AttemptOutcome::Expired);
            it.attempts
                .push(attempt(3, "three", Some(AttemptOutcome::Expired)));
        });
        history.operations.pop();
        history.operations.push(Operation {
            process: "three".into(),
            call: Call::Claim,
            began: 20,
            reply,
        });
        history
    };
    accepted(&unheard(None));
    rejected(
        &unheard(Some((21, Reply::Claimed(vec![])))),
        Rule::AttemptRows,
    );
}

/// The newest hundred rows are kept.
#[test]
fn rows_beyond_those_that_are_kept_are_not_missed() {
    let claims = 103;
    let mut history = History::default();
    let mut rows = Vec::new();
    for number in 1..=claims {
        let reply = Reply::Claimed(vec![fence(number)]);
        let claim = operation("one", 2 * number, Call::Claim, 2 * number + 1, reply);
        history.operations.push(claim);
        rows.push(attempt(number, "one", Some(AttemptOutcome::Expired)));
    }
    let with = |rows: &[FoundAttempt]| {
        let found = FoundItem {
            status: WorkItemStatus::Failed,
            newest: Some(token(claims)),
            result: None,
            attempts: rows.to_vec(),
            written: Vec::new(),
        };
        History {
            items: [(item(ITEM), found)].into(),
            ..history.clone()
        }
    };
    accepted(&with(&rows[3..]));
    rejected(&with(&rows[4..]), Rule::AttemptRows);
}

#[test]
fn an_attempt_is_closed_once_and_as_it_ended() {
    let outcome = |at: usize, outcome| found(move |it| it.attempts[at].outcome = outcome);
    for wrong in [
        outcome(0, None),
        outcome(0, Some(AttemptOutcome::Succeeded)),
        outcome(0, Some(AttemptOutcome::Cancelled)),
        // Nobody asked for it.
        outcome(0, Some(AttemptOutcome::Failed)),
        outcome(1, None),
        outcome(1, Some(AttemptOutcome::Released)),
    ] {
        rejected(&wrong, Rule::AttemptsClosed);
    }
    let running = |outcome| {
        let mut history = found(|it| {
            it.status = WorkItemStatus::InProgress;
            it.result = None;
            it.attempts[1].outcome = outcome;
        });
        history.operations.pop();
        history
    };
    accepted(&running(None));
    rejected(
        &running(Some(AttemptOutcome::Expired)),
        Rule::AttemptsClosed,
    );
    // A failure that was asked for and not answered.
    let mut unheard = outcome(0, Some(AttemptOutcome::Failed));
    unheard.operations.push(Operation {
        process: "one".into(),
        call: Call::Fail(fence(1)),
        began: 5,
        reply: None,
    });
    accepted(&unheard);
}

#[test]
fn what_was_written_is_there_once_in_order_and_nothing_else() {
    let written = |values: &[&str]| {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        found(|it| it.written = values)
    };
    accepted(&written(&["a", "b"]));
    for wrong in [
        &["a"][..],
        &["b", "a"],
        &["a", "b", "b"],
        &["a", "b", "c"],
        &["a", "b", "never asked"],
    ] {
        rejected(&written(wrong), Rule::WritesStay);
    }
    // What was not answered may be there, and comes before what follows it.
    let unheard = |values| {
        let mut history = written(values);
        history.operations[4].began = 9;
        history.operations[4].reply = None;
        history
    };
    accepted(&unheard(&["a", "b"]));
    accepted(&unheard(&["a", "c", "b"]));
    rejected(&unheard(&["a", "b", "c"]), Rule::WritesStay);
    rejected(&unheard(&["c", "a", "b"]), Rule::WritesStay);
    // Two of one claim, one after the other.
    let two = |values: &[&str]| {
        let mut history = written(values);
        history.operations[3].reply = Some((13, Reply::Done));
        let write = Call::Write(fence(2), "second".into());
        let second = operation("two", 14, write, 15, Reply::Done);
        history.operations.push(second);
        history
    };
    accepted(&two(&["a", "b", "second"]));
    rejected(&two(&["a", "second", "b"]), Rule::WritesStay);
}

#[test]
fn the_dead_say_nothing() {
    let at = |death| {
        changed(|history| {
            history.deaths.insert("two".into(), death);
        })
    };
    accepted(&at(19));
    rejected(&at(18), Rule::DeadAreSilent);
}

#[test]
fn a_record_of_lines_is_the_history() {
    let history = takeover();
    let mut record = Record::default();
    for (number, operation) in history.operations.iter().enumerate() {
        let number = number as u64;
        let begin = begin_line(number, operation.began, &operation.call);
        record.heed(&operation.process, &begin).unwrap();
        let (at, reply) = operation.reply.as_ref().unwrap();
        let end = end_line(number, *at, reply);
        record.heed(&operation.process, &end).unwrap();
    }
    record.heed("one", "something else").unwrap();
    record.died("one", 20);
    assert_eq!(record.with(history.items.clone()), history);
}

#[test]
fn every_call_and_reply_comes_back_from_its_line() {
    for call in [
        Call::Claim,
        Call::Renew(fence(1)),
        Call::Write(fence(2), "a value of words".into()),
        Call::Complete(fence(3), String::new()),
        Call::Fail(fence(4)),
        Call::Release(fence(5)),
        Call::Lose(fence(6)),
    ] {
        let mut record = Record::default();
        record.heed("one", &begin_line(3, -4, &call)).unwrap();
        let replies = match call {
            Call::Claim => vec![
                Reply::Claimed(vec![]),
                Reply::Claimed(vec![fence(1), fence(9)]),
                Reply::Refused,
            ],
            _ => vec![Reply::Done, Reply::Stale, Reply::Refused],
        };
        for reply in replies {
            let mut record = Record::default();
            record.heed("one", &begin_line(3, -4, &call)).unwrap();
            record.heed("one", &end_line(3, 5, &reply)).unwrap();
            let told = record.with([].into()).operations;
            assert_eq!(told, [operation("one", -4, call.clone(), 5, reply)]);
        }
        let unanswered = &record.with([].into()).operations[0];
        assert_eq!((&unanswered.call, &unanswered.reply), (&call, &None));
    }
}

#[test]
fn a_line_that_cannot_be_is_refused() {
    for lines in [
        &["begin"][..],
        &["begin 1 0"],
        &["begin x 0 claim"],
        &["begin 1 0 claim 7"],
        &["begin 1 0 renew 7"],
        &["begin 1 0 renew 7 0"],
        &["begin 1 0 write 7 1"],
        &["begin 1 0 fail 7 1 why"],
        &["begin 1 0 claim", "begin 1 1 claim"],
        &["end 1 0 done"],
        &["begin 1 5 fail 7 1", "end 1 4 done"],
        &["begin 1 5 fail 7 1", "end 1 6 claimed"],
        &["begin 1 5 claim", "end 1 6 done"],
        &["begin 1 5 claim", "end 1 6 claimed 7"],
        &["begin 1 5 claim", "end 1 6 perhaps"],
    ] {
        let mut record = Record::default();
        let told = lines.iter().try_for_each(|line| record.heed("one", line));
        assert!(told.is_err(), "{lines:?}");
    }
}
