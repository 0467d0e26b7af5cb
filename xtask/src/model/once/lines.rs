//! How processes tell of what they do with keys, a line at a time, and what is made
//! of the lines.
//!
//! `MOMENT PROCESS CALL KEY EVENT`: the call is a number of the process's own, and the
//! names have no spaces. `MOMENT PROCESS dead` and `MOMENT PROCESS stalls` are said of
//! a process by whoever killed or stopped it, `MOMENT found KEY STATE` of a key by
//! whoever looks at the end. A file's last line that does not end is none: its writer
//! was killed.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::{Answer, Body, Call, Ended, Execution, Found, History, Moment, State};

/// What a call does or is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Before the key is asked for.
    Asks,
    /// Before what was found out is recorded; `None`: it did not happen.
    Finds(Option<String>),
    /// Before the body runs, under this permit.
    Starts(Execution),
    /// After the body, before anything is recorded of it.
    Ends(Ended),
    /// After the last answer.
    Told(Answer),
}

/// A line for a file, with its end.
pub(crate) fn line(at: Moment, process: &str, call: u64, key: &str, event: &Event) -> String {
    let event = match event {
        Event::Asks => "asks".into(),
        Event::Finds(Some(outcome)) => format!("finds {outcome}"),
        Event::Finds(None) => "finds-nothing".into(),
        Event::Starts(execution) => format!("starts {execution}"),
        Event::Ends(Ended::Outcome(outcome)) => format!("ends {outcome}"),
        Event::Ends(Ended::Abandoned) => "abandons".into(),
        Event::Ends(Ended::Unknown) => "doubts".into(),
        Event::Told(Answer::Recorded) => "recorded".into(),
        Event::Told(Answer::Refused) => "refused".into(),
        Event::Told(Answer::Replayed(outcome)) => format!("replayed {outcome}"),
        Event::Told(Answer::InFlight) => "in-flight".into(),
        Event::Told(Answer::InDoubt) => "in-doubt".into(),
        Event::Told(Answer::Resolved) => "resolved".into(),
        Event::Told(Answer::Failed) => "failed".into(),
        Event::Told(Answer::Erred(why)) => format!("erred {why}"),
    };
    format!("{at} {process} {call} {key} {event}\n")
}

/// A line that is none, or stands where it cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LineError {
    /// It does not begin with a moment and the name of a process.
    NotALine(String),
    /// It tells of nothing that there is.
    NoEvent(String),
    /// Its call was not begun, or was begun already, or has ended, or was about
    /// another key, or is about to do what comes earlier.
    Misplaced(String),
}

impl std::fmt::Display for LineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LineError::NotALine(line) => write!(f, "no line of a history: {line:?}"),
            LineError::NoEvent(line) => write!(f, "no event of a key: {line:?}"),
            LineError::Misplaced(line) => write!(f, "not at this place: {line:?}"),
        }
    }
}

impl std::error::Error for LineError {}

/// Reads histories of one or several files. The lines of each process must be in its
/// order, those of different processes may be in any.
///
/// # Errors
///
/// The first line that is wrong.
pub(crate) fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<History, LineError> {
    let mut reader = Reader::default();
    for text in texts {
        for line in text.split_inclusive('\n') {
            if let Some(line) = line.strip_suffix('\n') {
                reader.heed(line)?;
            }
        }
    }
    Ok(reader.history)
}

#[derive(Default)]
struct Reader {
    history: History,
    /// Where each call of each process is.
    begun: BTreeMap<(String, u64), usize>,
}

impl Reader {
    fn heed(&mut self, line: &str) -> Result<(), LineError> {
        let not_a_line = || LineError::NotALine(line.into());
        let no_event = || LineError::NoEvent(line.into());
        let words: Vec<&str> = line.split(' ').collect();
        let [at, process, rest @ ..] = &words[..] else {
            return Err(not_a_line());
        };
        let at: Moment = parsed(at).ok_or_else(not_a_line)?;
        if process.is_empty() {
            return Err(not_a_line());
        }
        let process = (*process).to_owned();
        match rest {
            ["dead"] => {
                self.history.dead.insert(process, at);
            }
            ["stalls"] => {
                let stalled = self.history.stalled.entry(process).or_insert(at);
                *stalled = (*stalled).min(at);
            }
            [key, state @ ..] if process == "found" => {
                let state = found(state).ok_or_else(no_event)?;
                self.history.states.insert((*key).to_owned(), state);
            }
            [call, key, event @ ..] => {
                let call: u64 = parsed(call).ok_or_else(no_event)?;
                let event = read(event).ok_or_else(no_event)?;
                let last = self.history.last.entry(process.clone()).or_insert(at);
                *last = (*last).max(at);
                self.step(at, (process, call), key, event)
                    .ok_or_else(|| LineError::Misplaced(line.into()))?;
            }
            _ => return Err(no_event()),
        }
        Ok(())
    }

    /// Takes a step of a call; `None` when it cannot come now.
    fn step(&mut self, at: Moment, name: (String, u64), key: &str, event: Event) -> Option<()> {
        if event == Event::Asks {
            let calls = &mut self.history.calls;
            calls.push(Call {
                process: name.0.clone(),
                key: key.into(),
                asked: at,
                found: None,
                body: None,
                answer: None,
            });
            let before = self.begun.insert(name, calls.len() - 1);
            return before.is_none().then_some(());
        }
        let call = &mut self.history.calls[*self.begun.get(&name)?];
        if call.key != key || call.answer.is_some() || at < last_moment(call) {
            return None;
        }
        match event {
            Event::Asks => return None,
            Event::Finds(outcome) => {
                if call.found.is_some() || call.body.is_some() {
                    return None;
                }
                call.found = Some(Found { at, outcome });
            }
            Event::Starts(execution) => {
                if call.body.is_some() {
                    return None;
                }
                call.body = Some(Body {
                    execution,
                    started: at,
                    ended: None,
                });
            }
            Event::Ends(ended) => {
                let body = call.body.as_mut()?;
                if body.ended.is_some() {
                    return None;
                }
                body.ended = Some((at, ended));
            }
            Event::Told(answer) => {
                if !may_be_told(call, &answer) {
                    return None;
                }
                call.answer = Some((at, answer));
            }
        }
        Some(())
    }
}

fn last_moment(call: &Call) -> Moment {
    let mut last = call.asked;
    last = last.max(call.found.as_ref().map_or(last, |found| found.at));
    if let Some(body) = &call.body {
        last = last.max(body.started);
        last = last.max(body.ended.as_ref().map_or(last, |(at, _)| *at));
    }
    last
}

/// Whether an answer fits what a call did.
fn may_be_told(call: &Call, answer: &Answer) -> bool {
    let ended = call.body.as_ref().map(|body| body.ended.is_some());
    match answer {
        Answer::Recorded | Answer::Refused => ended == Some(true),
        Answer::Replayed(_) | Answer::InFlight | Answer::InDoubt | Answer::Erred(_) => {
            ended.is_none()
        }
        Answer::Resolved => ended.is_none() && call.found.is_some(),
        Answer::Failed => ended != Some(false),
    }
}

fn parsed<T: FromStr>(word: &str) -> Option<T> {
    word.parse().ok()
}

fn execution(word: &str) -> Option<Execution> {
    let (key, token) = word.split_once('/')?;
    let execution = Execution {
        key: parsed(key)?,
        token: parsed(token)?,
    };
    (0 < execution.key && 0 < execution.token).then_some(execution)
}

fn read(words: &[&str]) -> Option<Event> {
    Some(match *words {
        ["asks"] => Event::Asks,
        ["finds", outcome] => Event::Finds(Some(outcome.into())),
        ["finds-nothing"] => Event::Finds(None),
        ["starts", number] => Event::Starts(execution(number)?),
        ["ends", outcome] => Event::Ends(Ended::Outcome(outcome.into())),
        ["abandons"] => Event::Ends(Ended::Abandoned),
        ["doubts"] => Event::Ends(Ended::Unknown),
        ["recorded"] => Event::Told(Answer::Recorded),
        ["refused"] => Event::Told(Answer::Refused),
        ["replayed", outcome] => Event::Told(Answer::Replayed(outcome.into())),
        ["in-flight"] => Event::Told(Answer::InFlight),
        ["in-doubt"] => Event::Told(Answer::InDoubt),
        ["resolved"] => Event::Told(Answer::Resolved),
        ["failed"] => Event::Told(Answer::Failed),
        ["erred", why] => Event::Told(Answer::Erred(why.into())),
        _ => return None,
    })
}

fn found(words: &[&str]) -> Option<State> {
    Some(match *words {
        ["absent"] => State::Absent,
        ["pending", number] => State::Pending(execution(number)?),
        ["recorded", number, outcome] => State::Recorded(execution(number)?, outcome.into()),
        _ => return None,
    })
}
