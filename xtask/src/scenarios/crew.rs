//! Several workers that are killed, stopped and started again while they work: who is
//! alive, who is stopped until when, and what each has said.
//!
//! Nobody here waits for one of them: their words are read as they come, and what is
//! to be done at a moment is done by the look that follows it.

use std::time::Duration;

use agentos_chaos::{Failure, Prng, Run, Victim};
use agentos_core::Deadline;

use super::told::listen_to;
use crate::victims::{Role, Stormer, spec};

type Fallible<T> = Result<T, Failure>;

/// One worker, over all its starts.
struct Member {
    role: Stormer,
    victim: Option<Victim>,
    /// It is stopped until then.
    stopped: Option<Deadline>,
    /// It is dead until then.
    dead: Option<Deadline>,
    /// It has ended by itself, since nothing was left to do.
    ended: bool,
}

/// All of them.
pub(crate) struct Crew {
    members: Vec<Member>,
    /// The one whose words are waited for next.
    turn: usize,
}

/// A word of a worker.
pub(crate) struct Word {
    /// Who said it.
    pub(crate) name: String,
    /// What was said.
    pub(crate) line: String,
}

/// How one is killed.
pub(crate) struct Kill {
    /// So long after it was asked for.
    pub(crate) offset: Duration,
    /// How long it stays dead.
    pub(crate) pause: Duration,
    /// Whether its next start gives up at once what this one held.
    pub(crate) gives_up: bool,
}

impl Crew {
    /// Starts them all.
    pub(crate) fn start(run: &mut Run, roles: Vec<Stormer>) -> Fallible<Crew> {
        let mut crew = Crew {
            members: Vec::new(),
            turn: 0,
        };
        for role in roles {
            let mut member = Member {
                role,
                victim: None,
                stopped: None,
                dead: None,
                ended: false,
            };
            member.start(run)?;
            crew.members.push(member);
        }
        Ok(crew)
    }

    /// Reads what they have said since. When that is nothing it waits for a word of one
    /// of them, at most so long.
    pub(crate) fn listen(&mut self, wait: Duration) -> Fallible<Vec<Word>> {
        let mut words = Vec::new();
        for member in &mut self.members {
            member.listen(Duration::ZERO, &mut words)?;
        }
        if words.is_empty() {
            self.turn = (self.turn + 1) % self.members.len();
            self.members[self.turn].listen(wait, &mut words)?;
        }
        Ok(words)
    }

    /// Lets those go on, and starts those again, whose time has come. Says who was
    /// started anew and gives up what its earlier starts held, and how many were started.
    pub(crate) fn tend(&mut self, run: &mut Run) -> Fallible<(Vec<String>, u64)> {
        let (mut give_up, mut started) = (Vec::new(), 0);
        for member in &mut self.members {
            if member.stopped.is_some_and(|until| until.passed()) {
                member.go_on()?;
            }
            if member.dead.is_some_and(|until| until.passed()) {
                if member.role.gives_up {
                    give_up.push(member.role.name.clone());
                }
                member.start(run)?;
                started += 1;
            }
        }
        Ok((give_up, started))
    }

    /// How many are at work: alive, and not stopped.
    pub(crate) fn at_work(&self) -> usize {
        let at_work = |member: &&Member| member.is_alive() && member.stopped.is_none();
        self.members.iter().filter(at_work).count()
    }

    /// Whether all have ended by themselves.
    pub(crate) fn have_ended(&self) -> bool {
        self.members.iter().all(|member| member.ended)
    }

    /// Kills one that is alive, stopped or not; what it said last is in the words. Says
    /// who it was, unless there was none or it was done.
    pub(crate) fn kill_one(
        &mut self,
        rng: &mut Prng,
        how: &Kill,
        words: &mut Vec<Word>,
    ) -> Fallible<Option<String>> {
        let alive = |member: &Member| member.is_alive();
        let Some(member) = self.pick(rng, alive) else {
            return Ok(None);
        };
        let Some(mut victim) = member.victim.take() else {
            return Ok(None);
        };
        let transcript = victim.kill_after(how.offset)?;
        let name = &member.role.name;
        listen_to(&mut victim, Duration::ZERO, |line| {
            let name = name.clone();
            words.push(Word { name, line });
            Ok(())
        })?;
        member.stopped = None;
        member.ended = !transcript.killed;
        member.dead = transcript.killed.then(|| Deadline::after(how.pause));
        member.role.gives_up = how.gives_up;
        Ok(transcript.killed.then(|| member.role.name.clone()))
    }

    /// Stops one that is at work, for so long. Says whether there was one.
    pub(crate) fn stop_one(&mut self, rng: &mut Prng, pause: Duration) -> Fallible<bool> {
        let at_work = |member: &Member| member.is_alive() && member.stopped.is_none();
        let Some(member) = self.pick(rng, at_work) else {
            return Ok(false);
        };
        if let Some(victim) = &mut member.victim {
            victim.pause()?;
            member.stopped = Some(Deadline::after(pause));
        }
        Ok(true)
    }

    /// Lets all go on that are stopped, whatever their time.
    pub(crate) fn all_go_on(&mut self) -> Fallible<()> {
        self.members.iter_mut().try_for_each(Member::go_on)
    }

    fn pick(&mut self, rng: &mut Prng, which: impl Fn(&Member) -> bool) -> Option<&mut Member> {
        let places: Vec<usize> = (0..self.members.len())
            .filter(|place| which(&self.members[*place]))
            .collect();
        let place = *rng.pick(&places)?;
        self.members.get_mut(place)
    }
}

impl Member {
    fn is_alive(&self) -> bool {
        self.victim.is_some() && !self.ended
    }

    fn start(&mut self, run: &mut Run) -> Fallible<()> {
        self.dead = None;
        let role = Role::Stormer(self.role.clone());
        self.victim = Some(run.start(&spec(&self.role.name, &role)?)?);
        Ok(())
    }

    fn go_on(&mut self) -> Fallible<()> {
        if let (Some(_), Some(victim)) = (self.stopped.take(), &mut self.victim) {
            victim.resume()?;
        }
        Ok(())
    }

    /// Reads every word that is there; waits for the first at most so long.
    fn listen(&mut self, wait: Duration, words: &mut Vec<Word>) -> Fallible<()> {
        if self.ended {
            return Ok(());
        }
        if let Some(victim) = &mut self.victim {
            let name = &self.role.name;
            self.ended = listen_to(victim, wait, |line| {
                words.push(Word {
                    name: name.clone(),
                    line,
                });
                Ok(())
            })?;
        }
        Ok(())
    }
}
