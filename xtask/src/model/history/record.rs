//! How a process tells of what it does, a line at a time, and what a supervisor
//! makes of the lines.
//!
//! `begin NUMBER MOMENT CALL` is printed before the request is made, `end NUMBER
//! MOMENT REPLY` after the answer is there; the number is the process's own. What
//! a process cannot know the outcome of (`CommitUnknown`) it does not end.

use std::collections::{BTreeMap, HashMap};

use agentos_core::{Fence, FencingToken, WorkItemId};

use super::{Call, FoundItem, History, Moment, Operation, Reply};

/// The line before a request.
pub(crate) fn begin_line(number: u64, at: Moment, call: &Call) -> String {
    let under = |what: &str, fence: &Fence| format!("{what} {} {}", fence.item, fence.token);
    let call = match call {
        Call::Claim => "claim".into(),
        Call::Renew(fence) => under("renew", fence),
        Call::Write(fence, value) => format!("{} {value}", under("write", fence)),
        Call::Complete(fence, result) => format!("{} {result}", under("complete", fence)),
        Call::Fail(fence) => under("fail", fence),
        Call::Release(fence) => under("release", fence),
        Call::Lose(fence) => under("lose", fence),
    };
    format!("begin {number} {at} {call}")
}

/// The line after an answer.
pub(crate) fn end_line(number: u64, at: Moment, reply: &Reply) -> String {
    let reply = match reply {
        Reply::Claimed(fences) => {
            let given = fences.iter();
            let given = given.map(|fence| format!(" {} {}", fence.item, fence.token));
            format!("claimed{}", given.collect::<String>())
        }
        Reply::Done => "done".into(),
        Reply::Stale => "stale".into(),
        Reply::Refused => "refused".into(),
    };
    format!("end {number} {at} {reply}")
}

/// What was told so far.
#[derive(Debug, Default)]
pub(crate) struct Record {
    operations: Vec<Operation>,
    /// Where the operations are that have not ended.
    open: HashMap<(String, u64), usize>,
    deaths: BTreeMap<String, Moment>,
}

impl Record {
    /// Takes a line of a process. A line about something else is passed over.
    ///
    /// # Errors
    ///
    /// What is wrong with a line that begins as one of these and is none, ends
    /// what was not begun, or begins what was begun already.
    pub(crate) fn heed(&mut self, process: &str, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word != "begin" && word != "end" {
            return Ok(());
        }
        let strange = || format!("{process} said {line:?}");
        let mut words = rest.splitn(3, ' ');
        let number: u64 = parsed(words.next()).ok_or_else(strange)?;
        let at: Moment = parsed(words.next()).ok_or_else(strange)?;
        let what = words.next().ok_or_else(strange)?;
        let key = (process.to_owned(), number);
        if word == "begin" {
            let call = call(what).ok_or_else(strange)?;
            if self.open.insert(key, self.operations.len()).is_some() {
                return Err(strange());
            }
            self.operations.push(Operation {
                process: process.to_owned(),
                call,
                began: at,
                reply: None,
            });
            return Ok(());
        }
        let reply = reply(what).ok_or_else(strange)?;
        let begun = self.open.remove(&key).ok_or_else(strange)?;
        let operation = &mut self.operations[begun];
        let fits = matches!(reply, Reply::Claimed(_)) == (operation.call == Call::Claim);
        if at < operation.began || !(fits || reply == Reply::Refused) {
            return Err(strange());
        }
        operation.reply = Some((at, reply));
        Ok(())
    }

    /// A process was seen to be dead.
    pub(crate) fn died(&mut self, process: &str, at: Moment) {
        self.deaths.insert(process.to_owned(), at);
    }

    /// With what is in the database at the end.
    pub(crate) fn with(self, items: BTreeMap<WorkItemId, FoundItem>) -> History {
        History {
            operations: self.operations,
            deaths: self.deaths,
            items,
        }
    }
}

fn parsed<T: std::str::FromStr>(word: Option<&str>) -> Option<T> {
    word?.parse().ok()
}

fn fence(item: Option<&str>, token: Option<&str>) -> Option<Fence> {
    Some(Fence {
        item: WorkItemId::new(parsed(item)?).ok()?,
        token: FencingToken::new(parsed(token)?).ok()?,
    })
}

fn call(text: &str) -> Option<Call> {
    if text == "claim" {
        return Some(Call::Claim);
    }
    let mut words = text.splitn(4, ' ');
    let what = words.next()?;
    let fence = fence(words.next(), words.next())?;
    let value = words.next();
    Some(match (what, value) {
        ("renew", None) => Call::Renew(fence),
        ("write", Some(value)) => Call::Write(fence, value.into()),
        ("complete", Some(result)) => Call::Complete(fence, result.into()),
        ("fail", None) => Call::Fail(fence),
        ("release", None) => Call::Release(fence),
        ("lose", None) => Call::Lose(fence),
        _ => return None,
    })
}

fn reply(text: &str) -> Option<Reply> {
    let mut words = text.split(' ');
    match words.next()? {
        "done" if text == "done" => Some(Reply::Done),
        "stale" if text == "stale" => Some(Reply::Stale),
        "refused" if text == "refused" => Some(Reply::Refused),
        "claimed" => {
            let mut fences = Vec::new();
            while let Some(item) = words.next() {
                fences.push(fence(Some(item), words.next())?);
            }
            Some(Reply::Claimed(fences))
        }
        _ => None,
    }
}
