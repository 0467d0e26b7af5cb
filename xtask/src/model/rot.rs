//! What a program may be told of a store in which a bit has changed, given what it is told
//! of the sound one.
//!
//! What a seal covers is right, or refused by a type that says "damaged"; gone it may be
//! only where the integrity check finds the file damaged as well. Resume gives the newest
//! checkpoint that can be loaded. Of a log the commits before the damage are left, whole
//! and in their order. What no seal covers is counted, and not judged.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use agentos_core::Digest;
use serde::{Deserialize, Serialize};

/// As what a damaged file may be refused when it is opened.
const OPENING: [&str; 5] = [
    "Corrupt",
    "NotOurs",
    "NewerSchema",
    "ReadOnly",
    "UnsafeEngine",
];
/// As what a read may be refused.
const READING: [&str; 1] = ["Corrupt"];
/// As what a write may be refused: a row that is gone, or breaks a rule of the schema.
const WRITING: [&str; 4] = ["Corrupt", "CommitUnknown", "NotFound", "Internal"];
/// The names of a model's answers begin so. A damaged one counts as none.
const ANSWER: &str = "answer ";
/// So much of a digest tells two contents apart.
const DIGITS: usize = 16;

/// The bit that changes in one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flip {
    /// In the log, and not in the database file.
    pub(crate) in_log: bool,
    /// Which byte; beyond the end none.
    pub(crate) byte: u64,
    /// Which bit of it, 0 to 7.
    pub(crate) bit: u8,
    /// Whether the copy is opened without being looked through, crash or not.
    pub(crate) unlooked: bool,
}

impl Flip {
    /// Nothing changes.
    pub(crate) const NONE: Flip = Flip {
        in_log: false,
        byte: u64::MAX,
        bit: 0,
        unlooked: false,
    };
}

impl fmt::Display for Flip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if self.in_log { "log" } else { "database" };
        write!(f, "bit {} of byte {} of the {file}", self.bit, self.byte)?;
        f.write_str(if self.unlooked { ", unlooked" } else { "" })
    }
}

/// What came back for one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// This content, by its digest.
    Is(String),
    /// There is none.
    Absent,
    /// Nothing was recorded: it was done once more.
    Again,
    /// Begun, and nobody knows what came of it.
    InDoubt,
    /// An error, by its type.
    Refused(String),
}

impl Answer {
    /// The content that prints so.
    pub(crate) fn of(content: &impl Debug) -> Answer {
        let mut digest = Digest::of(format!("{content:?}").as_bytes()).to_string();
        digest.truncate(DIGITS);
        Answer::Is(digest)
    }
}

/// All that a program is told of one store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reading {
    /// As what opening was refused.
    pub(crate) opening: Option<String>,
    /// What seals cover, by name.
    pub(crate) sealed: BTreeMap<String, Answer>,
    /// What none covers, by name.
    pub(crate) plain: BTreeMap<String, Answer>,
    /// From what each task resumes.
    pub(crate) resume: BTreeMap<String, Answer>,
    /// The numbers of these checkpoints.
    pub(crate) resumed: BTreeMap<String, u64>,
    /// As what lists and checks were refused.
    pub(crate) refusals: Vec<String>,
    /// As what writes at the end were refused.
    pub(crate) writes: Vec<String>,
    /// What the integrity check found; none when it could not be made.
    pub(crate) problems: Option<u64>,
}

/// The name of a checkpoint among the answers.
pub(crate) fn checkpoint_name(task: &str, number: u64) -> String {
    format!("checkpoint {task} {number}")
}

/// What one changed bit led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What must not be.
    pub(crate) wrong: Vec<String>,
    /// The store did not open.
    pub(crate) unopened: bool,
    /// Something under a seal was refused.
    pub(crate) refused: bool,
    /// An answer of a model was asked for once more.
    pub(crate) asked_again: bool,
    /// Something under a seal was gone, and the integrity check knows of damage.
    pub(crate) gone: bool,
    /// A task resumed from an older checkpoint than it would.
    pub(crate) fell_back: bool,
    /// A task could not be resumed from anywhere, and the integrity check knows of damage.
    pub(crate) resume_refused: bool,
    /// Something under no seal has changed, and nobody refused it.
    pub(crate) plain: bool,
    /// The same, and the integrity check is content.
    pub(crate) plain_unnoticed: bool,
    /// Commits that the log has lost.
    pub(crate) lost: u64,
}

/// Judges what is told of a store whose database file has changed in one bit.
pub(crate) fn judge_rot(truth: &Reading, found: &Reading) -> Seen {
    let mut seen = Seen::default();
    if let Some(kind) = &found.opening {
        seen.unopened = true;
        typed(&mut seen.wrong, "opening", kind, &OPENING);
        return seen;
    }
    let mut gone = Vec::new();
    for (name, right) in &truth.sealed {
        match found.sealed.get(name) {
            Some(answer) if answer == right => {}
            Some(Answer::Is(_)) => seen.wrong.push(format!("{name} is another one")),
            Some(Answer::Refused(kind)) => {
                seen.refused = true;
                typed(&mut seen.wrong, name, kind, &READING);
            }
            Some(Answer::InDoubt) => seen.refused = true,
            // Nothing but its price is lost: the model is asked instead.
            Some(Answer::Again) if name.starts_with(ANSWER) => seen.asked_again = true,
            Some(Answer::Absent | Answer::Again) | None => gone.push(name),
        }
    }
    // A check that cannot be made has found damage as well.
    let noticed = found.problems != Some(0);
    seen.gone = !gone.is_empty();
    if !noticed && !gone.is_empty() {
        let what = format!("{gone:?} is gone, and the integrity check is content");
        seen.wrong.push(what);
    }
    for (name, plain) in &truth.plain {
        match found.plain.get(name) {
            Some(answer) if answer == plain => {}
            Some(Answer::Refused(kind)) => typed(&mut seen.wrong, name, kind, &READING),
            Some(Answer::Is(_)) => seen.plain = true,
            // Its page cannot be read, or its place in a list is another one.
            _ => {}
        }
    }
    seen.plain_unnoticed = seen.plain && !noticed;
    for kind in &found.refusals {
        typed(&mut seen.wrong, "a list or a check", kind, &READING);
    }
    for kind in &found.writes {
        typed(&mut seen.wrong, "a write", kind, &WRITING);
    }
    for task in truth.resume.keys() {
        judge_resume(truth, found, task, &mut seen);
    }
    seen
}

fn typed(wrong: &mut Vec<String>, what: &str, kind: &str, known: &[&str]) {
    if !known.contains(&kind) {
        wrong.push(format!("{what} was refused as {kind}"));
    }
}

/// Resume gives the newest checkpoint that can be loaded, with its content.
fn judge_resume(truth: &Reading, found: &Reading, task: &str, seen: &mut Seen) {
    let newest = truth.resumed.get(task).copied().unwrap_or(0);
    let from = found.resumed.get(task).copied().unwrap_or(0);
    let is_right = |number: u64| {
        let name = checkpoint_name(task, number);
        let right = truth.sealed.get(&name);
        right.is_some() && found.sealed.get(&name) == right && !truth.stateless(&name)
    };
    match found.resume.get(task) {
        Some(Answer::Is(content)) => {
            let right = truth.sealed.get(&checkpoint_name(task, from));
            if right != Some(&Answer::Is(content.clone())) {
                let what = format!("{task} resumes from {from}, which is another one");
                seen.wrong.push(what);
            }
        }
        answer => {
            match answer {
                Some(Answer::Refused(kind)) if kind != "NotFound" => {
                    typed(&mut seen.wrong, "resume", kind, &READING);
                }
                _ => {}
            }
            // No way leads from a damaged page to what is behind it.
            if found.problems != Some(0) {
                seen.resume_refused = true;
                return;
            }
        }
    }
    if let Some(passed) = (from + 1..=newest).rev().find(|number| is_right(*number)) {
        let what = format!("{task} resumes from {from}, and {passed} can be loaded");
        seen.wrong.push(what);
    }
    seen.fell_back |= 0 < from && from < newest;
}

impl Reading {
    /// Whether nobody resumes from what has this name, though it is sound.
    fn stateless(&self, name: &str) -> bool {
        self.plain.contains_key(&stateless_name(name))
    }
}

/// Among what no seal covers: that the checkpoint of this name has no state.
pub(crate) fn stateless_name(checkpoint: &str) -> String {
    format!("{checkpoint} has no state")
}

/// What the log holds: by name, how many of its commits must be there for it to be begun,
/// and to be there.
pub(crate) type Logged = BTreeMap<String, (u64, u64)>;

/// Judges what is told of a store whose log of so many commits has changed in one bit: some
/// first commits of the log are there, wholly, and nothing of the others.
pub(crate) fn judge_rotten_log(
    truth: &Reading,
    found: &Reading,
    logged: &Logged,
    commits: u64,
) -> Seen {
    let mut seen = Seen::default();
    if let Some(kind) = &found.opening {
        seen.unopened = true;
        seen.wrong
            .push(format!("with its log damaged it is refused as {kind}"));
        return seen;
    }
    let all = truth.sealed.iter().chain(&truth.plain);
    let there = |name: &String| found.sealed.get(name).or_else(|| found.plain.get(name));
    // So many commits are there, at least and at most.
    let (mut least, mut most) = (0, commits);
    for (name, right) in all {
        let answer = there(name).unwrap_or(&Answer::Absent);
        let Some((begun, done)) = logged.get(name) else {
            if answer != right {
                seen.wrong
                    .push(format!("{name} is not in the log, and is {answer:?}"));
            }
            continue;
        };
        match answer {
            answer if answer == right => least = least.max(*done),
            Answer::Absent | Answer::Again => most = most.min(begun.saturating_sub(1)),
            Answer::InDoubt => {
                least = least.max(*begun);
                most = most.min(done.saturating_sub(1));
            }
            other => seen.wrong.push(format!("{name} is {other:?}")),
        }
    }
    if least > most {
        seen.wrong.push(format!(
            "{least} commits of the log are there, and no more than {most} can be"
        ));
    }
    if found.problems != Some(0) || !found.refusals.is_empty() || !found.writes.is_empty() {
        seen.wrong.push(format!(
            "the file itself is sound, and there are {:?} problems, refused was {:?}, {:?}",
            found.problems, found.refusals, found.writes
        ));
    }
    for task in truth.resume.keys() {
        judge_resume(truth, found, task, &mut seen);
    }
    seen.lost = commits - most.min(commits);
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(content: &str) -> Answer {
        Answer::Is(content.into())
    }

    /// Two checkpoints, an outcome, and a task's row.
    fn truth() -> Reading {
        let sealed = [
            ("checkpoint a 1", is("one")),
            ("checkpoint a 2", is("two")),
            ("call 0", is("done")),
        ];
        Reading {
            sealed: sealed.map(|(name, answer)| (name.into(), answer)).into(),
            plain: [("task a".to_owned(), is("running"))].into(),
            resume: [("a".to_owned(), is("two"))].into(),
            resumed: [("a".to_owned(), 2)].into(),
            problems: Some(0),
            ..Reading::default()
        }
    }

    fn changed(change: impl FnOnce(&mut Reading)) -> Reading {
        let mut found = truth();
        change(&mut found);
        found
    }

    fn set(found: &mut Reading, name: &str, answer: Answer) {
        found.sealed.insert(name.into(), answer);
    }

    fn wrong(change: impl FnOnce(&mut Reading)) -> Vec<String> {
        judge_rot(&truth(), &changed(change)).wrong
    }

    #[test]
    fn what_is_as_it_was_is_right() {
        assert_eq!(judge_rot(&truth(), &truth()), Seen::default());
    }

    #[test]
    fn another_content_is_wrong_and_a_refusal_is_not() {
        let other = wrong(|found| set(found, "call 0", is("else")));
        assert_eq!(other, ["call 0 is another one"]);
        let corrupt = || Answer::Refused("Corrupt".into());
        assert_eq!(wrong(|found| set(found, "call 0", corrupt())), [""; 0]);
        let busy = wrong(|found| set(found, "call 0", Answer::Refused("Busy".into())));
        assert_eq!(busy, ["call 0 was refused as Busy"]);
    }

    #[test]
    fn what_is_gone_is_known_to_the_integrity_check() {
        let gone = wrong(|found| set(found, "call 0", Answer::Again));
        assert_eq!(
            gone,
            ["[\"call 0\"] is gone, and the integrity check is content"]
        );
        let known = |found: &mut Reading| {
            set(found, "call 0", Answer::Again);
            found.problems = Some(1);
        };
        let seen = judge_rot(&truth(), &changed(known));
        assert!(seen.wrong.is_empty() && seen.gone, "{seen:?}");
    }

    #[test]
    fn a_damaged_answer_of_a_model_is_asked_for_again() {
        let mut truth = truth();
        set(&mut truth, "answer 0", is("yes"));
        let mut found = truth.clone();
        set(&mut found, "answer 0", Answer::Again);
        let seen = judge_rot(&truth, &found);
        assert!(seen.wrong.is_empty() && seen.asked_again, "{seen:?}");
        set(&mut found, "answer 0", is("no"));
        let wrong = judge_rot(&truth, &found).wrong;
        assert_eq!(wrong, ["answer 0 is another one"]);
    }

    #[test]
    fn resume_falls_back_to_what_can_be_loaded_and_no_further() {
        let damage = |found: &mut Reading| {
            set(found, "checkpoint a 2", Answer::Refused("Corrupt".into()));
        };
        let fell_back = |found: &mut Reading| {
            damage(found);
            found.resume.insert("a".into(), is("one"));
            found.resumed.insert("a".into(), 1);
        };
        let seen = judge_rot(&truth(), &changed(fell_back));
        assert!(seen.wrong.is_empty() && seen.fell_back, "{seen:?}");
        let stop = |found: &mut Reading| {
            damage(found);
            found
                .resume
                .insert("a".into(), Answer::Refused("Corrupt".into()));
            found.resumed.clear();
        };
        let stopped = wrong(stop);
        assert_eq!(stopped, ["a resumes from 0, and 1 can be loaded"]);
        let known = |found: &mut Reading| {
            stop(found);
            found.problems = Some(1);
        };
        let seen = judge_rot(&truth(), &changed(known));
        assert!(seen.wrong.is_empty() && seen.resume_refused, "{seen:?}");
        let too_far = wrong(|found| {
            found.resume.insert("a".into(), is("one"));
            found.resumed.insert("a".into(), 1);
        });
        assert_eq!(too_far, ["a resumes from 1, and 2 can be loaded"]);
        let other = wrong(|found| {
            found.resume.insert("a".into(), is("else"));
        });
        assert_eq!(other, ["a resumes from 2, which is another one"]);
    }

    #[test]
    fn what_no_seal_covers_is_counted() {
        let plain = |found: &mut Reading| {
            found.plain.insert("task a".into(), is("created"));
        };
        let seen = judge_rot(&truth(), &changed(plain));
        assert!(seen.wrong.is_empty() && seen.plain && seen.plain_unnoticed);
    }

    #[test]
    fn an_opening_is_refused_by_type() {
        let refused = |kind: &str| wrong(|found| found.opening = Some(kind.into()));
        assert_eq!(refused("Corrupt"), [""; 0]);
        assert_eq!(refused("Internal"), ["opening was refused as Internal"]);
    }

    /// The second checkpoint is the first commit of the log, the call the next two.
    fn logged() -> Logged {
        [
            ("checkpoint a 2".to_owned(), (1, 1)),
            ("call 0".to_owned(), (2, 3)),
        ]
        .into()
    }

    fn of_log(change: impl FnOnce(&mut Reading)) -> Seen {
        judge_rotten_log(&truth(), &changed(change), &logged(), 3)
    }

    #[test]
    fn of_a_damaged_log_the_first_commits_are_left() {
        assert_eq!(of_log(|_| {}).lost, 0);
        let doubt = of_log(|found| set(found, "call 0", Answer::InDoubt));
        assert_eq!((doubt.wrong.len(), doubt.lost), (0, 1));
        let begun = of_log(|found| set(found, "call 0", Answer::Again));
        assert_eq!((begun.wrong.len(), begun.lost), (0, 2));
        let all = of_log(|found| {
            set(found, "call 0", Answer::Again);
            set(found, "checkpoint a 2", Answer::Absent);
            found.resume.insert("a".into(), is("one"));
            found.resumed.insert("a".into(), 1);
        });
        assert_eq!((all.wrong.len(), all.lost), (0, 3), "{all:?}");
        let hole = of_log(|found| {
            set(found, "checkpoint a 2", Answer::Absent);
            found.resume.insert("a".into(), is("one"));
            found.resumed.insert("a".into(), 1);
        });
        assert_eq!(
            hole.wrong,
            ["3 commits of the log are there, and no more than 0 can be"]
        );
        let before = of_log(|found| set(found, "checkpoint a 1", Answer::Absent));
        assert_eq!(
            before.wrong,
            ["checkpoint a 1 is not in the log, and is Absent"]
        );
    }
}
