//! What must be true of an agent that is killed and started again: what it says
//! in each of its lives, how much it works, and when it has succeeded. Pure.

use agentos_core::{TaskStatus, Timestamp};

use super::work::judge_losses;
use crate::work::{Claim, Try, Work};

/// What an agent says that begins with iteration `next` of `last`; a payload
/// may follow.
fn script(next: u64, last: u64) -> impl Iterator<Item = String> {
    let words = ["begin", "ask", "call", "prepare", "commit", "ack"];
    let iteration = move |number| words.map(|word| format!("{word} {number}"));
    // When all is over there is nothing to claim.
    let claim = (next <= last).then(|| "claim".to_owned());
    ["open".to_owned()]
        .into_iter()
        .chain(claim)
        .chain([format!("start {next}")])
        .chain((next..=last).flat_map(iteration))
        .chain(["done".to_owned()])
}

/// Judges one life: it begins at `next` and does every iteration up to `last`
/// once and in order, unless it was `killed` before.
pub(crate) fn judge_life(lines: &[String], next: u64, last: u64, killed: bool) -> Vec<String> {
    let mut broken = Vec::new();
    let mut script = script(next, last);
    for line in lines {
        let expected = script.next().unwrap_or_else(|| "nothing".into());
        let rest = line.strip_prefix(&expected);
        if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')) {
            broken.push(format!("an agent said {line:?} instead of {expected:?}"));
            return broken;
        }
    }
    if let Some(missing) = script.next().filter(|_| !killed) {
        broken.push(format!("an agent ended and had not said {missing:?}"));
    }
    broken
}

/// Judges the work of one life, as it was counted where it is done: what the agent
/// said that it begins, each once and in that order. A kill may have come between
/// word and work.
pub(crate) fn judge_worked(worked: &[u64], lines: &[String], killed: bool) -> Vec<String> {
    let said = lines.iter().filter_map(|line| line.strip_prefix("begin "));
    let begun: Vec<u64> = said.filter_map(|number| number.parse().ok()).collect();
    let cut_off = begun.len().saturating_sub(usize::from(killed));
    if worked == begun || worked == &begun[..cut_off] {
        return Vec::new();
    }
    vec![format!(
        "an agent said that it begins {begun:?} and worked on {worked:?}"
    )]
}

/// Judges the work so far: each kill may cost the iteration that it fell into,
/// and no more; and nothing is done that was not worked on.
pub(crate) fn judge_work(done: u64, executed: u64, kills: u64) -> Vec<String> {
    if (done..=done + kills).contains(&executed) {
        return Vec::new();
    }
    vec![format!(
        "{executed} iterations were executed; {done} are done after {kills} kills"
    )]
}

/// Judges success: the task has succeeded, and the answer is there, once and only
/// when the last checkpoint is there. They are one commit.
pub(crate) fn judge_success(
    newest: u64,
    last: u64,
    status: Option<TaskStatus>,
    answers: usize,
) -> Vec<String> {
    let mut broken = Vec::new();
    let over = newest == last;
    let fits = match status {
        Some(TaskStatus::Succeeded) => over,
        Some(TaskStatus::Running) => !over,
        None | Some(TaskStatus::Created) => newest == 0,
        Some(TaskStatus::Failed | TaskStatus::Cancelled) => false,
    };
    if !fits {
        let status = status.map_or("unknown", TaskStatus::as_str);
        broken.push(format!(
            "the task is {status} at checkpoint {newest} of {last}"
        ));
    }
    if answers != usize::from(over) {
        broken.push(format!(
            "the answer stands {answers} times in the audit at checkpoint {newest} of {last}"
        ));
    }
    broken
}

/// Judges when the last checkpoint, the answer and the success were committed: all
/// rows of a commit carry one moment, and no other commit's rows carry it.
pub(crate) fn judge_moments(
    checkpoint: Timestamp,
    answers: &[Timestamp],
    successes: &[Timestamp],
) -> Vec<String> {
    let mut broken = Vec::new();
    for (what, moments) in [("answer", answers), ("success", successes)] {
        if *moments != [checkpoint] {
            let moments: Vec<_> = moments.iter().map(|moment| moment.to_text()).collect();
            broken.push(format!(
                "the {what} was committed at {moments:?} and the last checkpoint at {}",
                checkpoint.to_text()
            ));
        }
    }
    broken
}

/// Judges the claims of one item that belongs to a task: each start's claim is a new one
/// and has its attempt, and all but the newest are lost to the one after, or were given
/// back before they were used. The newest is open until the work is over, and then
/// succeeded. As many as `reported` may have been reported as failed: of agents that met
/// an error and lived to say so.
pub(crate) fn judge_claims(
    said: &[i64],
    kills: u64,
    reported: usize,
    work: &Work,
    over: bool,
) -> Vec<String> {
    let is_lost = |one: &&Try| one.outcome.as_deref() == Some("expired");
    let lost: Vec<Claim> = work
        .tries
        .iter()
        .filter(is_lost)
        .map(|one| one.claim.clone())
        .collect();
    let mut broken = judge_losses(&lost, work);
    let is_failed = |one: &&Try| one.outcome.as_deref() == Some("failed");
    let failed = work.tries.iter().filter(is_failed).count();
    if reported < failed {
        broken.push(format!("{failed} claims failed, and {reported} agents did"));
    }
    // A pool gives a lease back that had run out when it came.
    let is_over = |one: &Try| {
        matches!(
            one.outcome.as_deref(),
            Some("expired" | "released" | "failed")
        )
    };
    let earlier = work
        .tries
        .split_last()
        .map_or(&[][..], |(_, earlier)| earlier);
    if let Some(one) = earlier.iter().find(|one| !is_over(one)) {
        let (token, outcome) = (one.claim.token, &one.outcome);
        broken.push(format!(
            "claim {token} is {outcome:?}, and there is a newer one"
        ));
    }
    let tokens: Vec<i64> = work.tries.iter().map(|one| one.claim.token).collect();
    let is_told = said.iter().all(|token| tokens.contains(token));
    if !is_told || !said.is_sorted_by(|one, next| one < next) {
        broken.push(format!("the tokens {said:?} were told, of {tokens:?}"));
    }
    // A kill may have come between a claim and its word.
    let is_kept = |one: &&Try| one.outcome.as_deref() != Some("released");
    let begun = work.tries.iter().filter(is_kept).count();
    let beyond = begun.saturating_sub(said.len()) as u64;
    if kills < beyond {
        broken.push(format!("{beyond} claims were not told, at {kills} kills"));
    }
    let newest = work.tries.last().map(|one| one.outcome.as_deref());
    let mut status = work.items.values().map(|item| item.status.as_str());
    let (status, is_one) = (status.next(), status.next().is_none());
    let sound = match newest {
        Some(Some("succeeded")) => over && status == Some("succeeded"),
        Some(None) => !over && status == Some("in_progress"),
        // A kill may have come between the end of a claim and the next one.
        Some(Some("expired" | "released" | "failed")) => !over && status == Some("pending"),
        None => !over && matches!(status, None | Some("pending")),
        _ => false,
    };
    if !sound || !is_one {
        let status: Vec<_> = work.items.values().map(|item| &item.status).collect();
        broken.push(format!(
            "the item is {status:?}, and its last attempt {newest:?}"
        ));
    }
    broken
}

/// How much of the work was done when an agent that began with `next` said its
/// last words: 0 to 1. An iteration counts as half done when the
/// model has answered.
pub(crate) fn fraction_done(lines: &[String], next: u64, last: u64) -> f64 {
    let words = lines.last().and_then(|line| {
        let mut words = line.split(' ');
        let number: u32 = words.nth(1)?.parse().ok()?;
        Some((line.split(' ').next()?, number))
    });
    let done = match words {
        Some(("begin", number)) => f64::from(number) - 0.85,
        Some(("ask", number)) => f64::from(number) - 0.7,
        Some(("call", number)) => f64::from(number) - 0.5,
        Some(("prepare", number)) => f64::from(number) - 0.35,
        Some(("commit", number)) => f64::from(number) - 0.2,
        Some(("ack", number)) => f64::from(number),
        _ => f64::from(u32::try_from(next - 1).unwrap_or(u32::MAX)),
    };
    (done / f64::from(u32::try_from(last).unwrap_or(u32::MAX))).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split(", ").map(str::to_owned).collect()
    }

    const LIFE: &str = "open, claim 7, start 2, begin 2, ask 2, call 2, prepare 2, commit 2, \
                        ack 2 beef, begin 3, ask 3, call 3, prepare 3, commit 3, ack 3 cafe, \
                        done {}";

    #[test]
    fn a_life_is_sound_wherever_a_kill_cuts_it() {
        let life = lines(LIFE);
        for said in 0..=life.len() {
            assert_eq!(judge_life(&life[..said], 2, 3, true), Vec::<String>::new());
            let ended = judge_life(&life[..said], 2, 3, false);
            assert_eq!(ended.is_empty(), said == life.len(), "{said}: {ended:?}");
        }
    }

    #[test]
    fn each_wrong_life_is_named() {
        for (life, reason) in [
            (
                "open, claim 7, start 1",
                r#""start 1" instead of "start 2""#,
            ),
            (
                "open, claim 7, start 21",
                r#""start 21" instead of "start 2""#,
            ),
            (
                "open, claim 7, start 2, begin 3",
                r#""begin 3" instead of "begin 2""#,
            ),
            (
                "open, claim 7, start 2, begin 2, ask 2, ack 2",
                "instead of",
            ),
            ("open, start 2", r#"instead of "claim""#),
            (&format!("{LIFE}, begin 4"), r#"instead of "nothing""#),
        ] {
            let broken = judge_life(&lines(life), 2, 3, true);
            assert_eq!(broken.len(), 1);
            assert!(broken[0].contains(reason), "{broken:?}");
        }
    }

    #[test]
    fn each_claim_but_the_newest_is_lost() {
        use crate::work::{Item, Who};
        let claim = |token| Claim {
            item: 1,
            token,
            who: Who {
                name: "agent".into(),
                incarnation: token.to_string(),
            },
        };
        let work = |status: &str, outcomes: &[Option<&str>]| {
            let item = Item {
                id: 1,
                work_type: "count".into(),
                status: status.into(),
                attempts: 0,
                losses: 0,
                token: 0,
                holder: None,
                deadline_us: None,
                result: None,
                last_error: None,
            };
            let tries = (1..).zip(outcomes).map(|(token, outcome)| Try {
                claim: claim(token),
                outcome: outcome.map(str::to_owned),
                error: Some(format!("{} held it until then", claim(token).who)),
            });
            let tries: Vec<Try> = tries.collect();
            let lost = tries
                .iter()
                .filter(|one| one.outcome.as_deref() == Some("expired"));
            let lost: Vec<Claim> = lost.map(|one| one.claim.clone()).collect();
            Work {
                items: [(1, item)].into(),
                tries,
                audited: lost.clone(),
                boundaries: lost,
            }
        };
        let (expired, released, done) = (Some("expired"), Some("released"), Some("succeeded"));
        for (said, kills, status, outcomes, over, wrong) in [
            (&[1, 2][..], 1, "succeeded", &[expired, done][..], true, 0),
            (&[1, 2], 2, "in_progress", &[expired, None], false, 0),
            (&[2], 0, "succeeded", &[released, done], true, 0),
            (&[1], 2, "pending", &[expired, expired], false, 0),
            (&[], 1, "pending", &[], false, 0),
            (&[1], 0, "in_progress", &[expired, None], false, 1),
            (&[1, 1], 1, "in_progress", &[expired, None], false, 1),
            (&[1, 3], 1, "in_progress", &[expired, None], false, 1),
            (&[1, 2], 1, "in_progress", &[None, None], false, 1),
            (&[1, 2], 1, "in_progress", &[expired, None], true, 1),
            (&[1, 2], 1, "succeeded", &[expired, done], false, 1),
            (&[1], 1, "failed", &[expired], false, 1),
        ] {
            let broken = judge_claims(said, kills, 0, &work(status, outcomes), over);
            assert_eq!(broken.len(), wrong, "{said:?} {outcomes:?}: {broken:?}");
        }
        // An agent that met an error and said so.
        let failed = Some("failed");
        for (status, outcomes, reported, over, wrong) in [
            ("pending", &[failed][..], 1, false, 0),
            ("succeeded", &[failed, done], 1, true, 0),
            ("pending", &[failed], 0, false, 1),
            ("in_progress", &[failed], 1, false, 1),
            ("succeeded", &[failed, failed], 1, true, 2),
        ] {
            let said: Vec<i64> = (1..).take(outcomes.len()).collect();
            let broken = judge_claims(&said, 1, reported, &work(status, outcomes), over);
            assert_eq!(broken.len(), wrong, "{outcomes:?} {reported}: {broken:?}");
        }
        let mut unmarked = work("succeeded", &[expired, done]);
        unmarked.boundaries.clear();
        assert_eq!(judge_claims(&[1, 2], 1, 0, &unmarked, true).len(), 1);
    }

    #[test]
    fn a_kill_costs_one_iteration_at_most() {
        for (executed, sound) in [(9, false), (10, true), (13, true), (14, false)] {
            assert_eq!(judge_work(10, executed, 3).is_empty(), sound, "{executed}");
        }
    }

    #[test]
    fn work_is_what_was_begun_once_and_in_order() {
        let life = lines(LIFE);
        for (worked, said, killed, sound) in [
            (&[2, 3][..], life.len(), false, true),
            (&[2], life.len(), false, false),
            (&[2], 10, true, true),
            (&[2], 10, false, false),
            (&[], 4, true, true),
            (&[], 3, true, true),
            (&[], 10, true, false),
            (&[2, 2, 3], life.len(), false, false),
            (&[1, 2], 9, true, false),
            (&[2, 3], 9, true, false),
            (&[3, 2], life.len(), false, false),
        ] {
            let broken = judge_worked(worked, &life[..said], killed);
            assert_eq!(broken.is_empty(), sound, "{worked:?} {said}: {broken:?}");
        }
    }

    #[test]
    fn what_was_committed_apart_is_noticed_by_its_moment() {
        let [one, other] = [1, 2].map(Timestamp::from_unix_micros);
        assert!(judge_moments(one, &[one], &[one]).is_empty());
        for (answers, successes, wrong) in [
            (&[other][..], &[one][..], 1),
            (&[one], &[other], 1),
            (&[one, one], &[one], 1),
            (&[], &[], 2),
        ] {
            assert_eq!(judge_moments(one, answers, successes).len(), wrong);
        }
    }

    #[test]
    fn success_comes_with_the_last_checkpoint_and_its_answer() {
        use TaskStatus::{Cancelled, Created, Failed, Running, Succeeded};
        for (newest, status, answers, wrong) in [
            (12, Some(Succeeded), 1, 0),
            (11, Some(Running), 0, 0),
            (0, Some(Running), 0, 0),
            (0, Some(Created), 0, 0),
            (0, None, 0, 0),
            (12, Some(Running), 1, 1),
            (12, Some(Succeeded), 0, 1),
            (12, Some(Succeeded), 2, 1),
            (11, Some(Succeeded), 0, 1),
            (11, Some(Succeeded), 1, 2),
            (11, Some(Created), 0, 1),
            (11, None, 0, 1),
            (12, Some(Failed), 1, 1),
            (11, Some(Cancelled), 0, 1),
        ] {
            let broken = judge_success(newest, 12, status, answers);
            assert_eq!(broken.len(), wrong, "{newest} {status:?}: {broken:?}");
        }
    }

    #[test]
    fn the_work_done_grows_with_every_line() {
        let life = lines(LIFE);
        let mut before = 0.0;
        for said in 1..=life.len() - 1 {
            let done = fraction_done(&life[..said], 2, 3);
            assert!(before <= done && done <= 1.0, "{said}: {done}");
            before = done;
        }
        assert!((before - 1.0).abs() < 1e-9);
        let last_but_one = fraction_done(&lines("open"), 3, 4);
        assert!((last_but_one - 0.5).abs() < 1e-9);
    }
}
