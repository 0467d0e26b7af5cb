//! What must be true of many who ask a model the same through the cache, while some of
//! them are killed: by the calls that the model has counted, and by what each was
//! answered. Pure.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A thread of one start of a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Asking {
    /// The process, and which start of it.
    pub(crate) life: String,
    pub(crate) thread: u64,
}

impl Asking {
    /// From its name, as it is displayed.
    pub(crate) fn parse(name: &str) -> Option<Asking> {
        let (life, thread) = name.rsplit_once('/')?;
        Some(Asking {
            life: life.into(),
            thread: thread.parse().ok()?,
        })
    }
}

impl fmt::Display for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.life, self.thread)
    }
}

/// A call that the model counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Called {
    pub(crate) who: Asking,
    /// For which request, if it is one.
    pub(crate) request: Option<usize>,
    /// When it arrived, by the clock of all.
    pub(crate) at: i64,
}

/// All that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Flights {
    /// The right answer of each request.
    pub(crate) expected: Vec<String>,
    /// Threads of each process.
    pub(crate) threads: u64,
    /// The calls that the model counted, in order.
    pub(crate) calls: Vec<Called>,
    /// What each thread was answered, in order: which request, and what.
    pub(crate) answered: BTreeMap<Asking, Vec<(usize, String)>>,
    /// When anybody was first answered to a request, by the same clock.
    pub(crate) first_answered: BTreeMap<usize, i64>,
    /// The starts that were killed.
    pub(crate) killed: BTreeSet<String>,
    /// Those that were left to their end.
    pub(crate) ended: BTreeSet<String>,
}

impl Flights {
    fn answers(&self, who: &Asking) -> &[(usize, String)] {
        self.answered.get(who).map_or(&[], Vec::as_slice)
    }

    /// The call that was under way in each thread that was killed: its last one, unless
    /// the thread said that it was answered. Not one whose answer is known to have been
    /// recorded, since somebody was given it before the next call: that call makes good
    /// for nothing.
    fn in_flight(&self) -> Vec<usize> {
        let mut last: BTreeMap<&Asking, (usize, usize)> = BTreeMap::new();
        for (place, call) in self.calls.iter().enumerate() {
            if let Some(request) = call.request {
                last.insert(&call.who, (place, request));
            }
        }
        let cut_off = last.into_iter().filter(|(who, (place, request))| {
            let answered = self.answers(who);
            let answered = answered.iter().any(|(one, _)| one == request);
            self.killed.contains(&who.life) && !answered && !self.is_made_good(*place, *request)
        });
        cut_off.map(|(_, (_, request))| request).collect()
    }

    /// Whether anybody was answered to a request before it was called for once more.
    fn is_made_good(&self, place: usize, request: usize) -> bool {
        let mut later = self.calls.iter().skip(place + 1);
        let next = later.find(|call| call.request == Some(request));
        let answered = self.first_answered.get(&request);
        next.zip(answered)
            .is_some_and(|(next, answered)| *answered < next.at)
    }

    /// How many calls were under way at the kills.
    pub(crate) fn cut_off(&self) -> usize {
        self.in_flight().len()
    }

    /// Answers in all.
    pub(crate) fn answers_given(&self) -> usize {
        self.answered.values().map(Vec::len).sum()
    }

    /// Everything that is not as it must be.
    pub(crate) fn judge(&self) -> Vec<String> {
        let mut broken = self.judge_calls();
        broken.extend(self.judge_answers());
        broken
    }

    fn judge_calls(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let requests = self.expected.len();
        let in_flight = self.in_flight();
        let allowed = requests + in_flight.len();
        if self.calls.len() > allowed {
            let (calls, cut_off) = (self.calls.len(), in_flight.len());
            broken.push(format!(
                "{calls} calls to the server, and at most {allowed} are allowed: \
                 {requests} requests, {cut_off} in flight at the kills"
            ));
        }
        for Called { who, request, .. } in &self.calls {
            let known = self.killed.contains(&who.life) || self.ended.contains(&who.life);
            if request.is_none() || !known {
                broken.push(format!(
                    "{who} called for {request:?}, which nobody was to ask"
                ));
            }
        }
        for request in 0..requests {
            let of = |one: &&Called| one.request == Some(request);
            let calls = self.calls.iter().filter(of).count();
            let again = in_flight.iter().filter(|one| **one == request).count();
            if calls == 0 {
                broken.push(format!("nobody called for request {request}"));
            }
            if calls > 1 + again {
                broken.push(format!(
                    "{calls} calls for request {request}, of which {again} were in flight at a kill"
                ));
            }
        }
        broken
    }

    fn judge_answers(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (who, answers) in &self.answered {
            for (request, answer) in answers {
                let expected = self.expected.get(*request);
                if expected != Some(answer) {
                    broken.push(format!(
                        "{who} was answered wrongly to request {request}: {answer:?}, and not {expected:?}"
                    ));
                }
            }
            let asked: BTreeSet<usize> = answers.iter().map(|(request, _)| *request).collect();
            if asked.len() != answers.len() {
                broken.push(format!("{who} was answered twice to one request"));
            }
        }
        for life in &self.ended {
            for thread in 0..self.threads {
                let who = Asking {
                    life: life.clone(),
                    thread,
                };
                let (found, expected) = (self.answers(&who).len(), self.expected.len());
                if found != expected {
                    broken.push(format!("{who} was answered {found} requests of {expected}"));
                }
            }
        }
        broken
    }
}
