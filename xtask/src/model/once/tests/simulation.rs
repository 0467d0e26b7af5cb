//! Sound histories by the hundred: processes and a store, a step at a time.

use fastrand::Rng;

use super::super::{Answer, Body, Call, Ended, Execution, Found, History, Moment, Policy, State};

/// What the store has under a key.
enum Row {
    Absent,
    Pending {
        execution: Execution,
        call: usize,
    },
    Recorded {
        execution: Execution,
        digest: String,
        at: Moment,
    },
}

struct Key {
    row: Row,
    /// The greatest execution that was ever given.
    newest: Execution,
}

/// Where a call is, apart from what it has told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Asked,
    Began,
    Running,
    Ended,
    /// The store has done it; the caller is not told yet.
    Done,
    Told,
}

struct World {
    now: Moment,
    random: Rng,
    policy: Policy,
    history: History,
    places: Vec<Place>,
    /// What each call will be told.
    answers: Vec<Option<Answer>>,
    keys: Vec<Key>,
    alive: Vec<String>,
    started: usize,
}

/// A sound history of this policy.
pub(super) fn sound(seed: u64, policy: Policy) -> History {
    let mut world = World {
        now: 0,
        random: Rng::with_seed(seed),
        policy,
        history: History::default(),
        places: Vec::new(),
        answers: Vec::new(),
        keys: (1..=3)
            .map(|key| Key {
                row: Row::Absent,
                newest: Execution {
                    key: 10 * key,
                    token: 0,
                },
            })
            .collect(),
        alive: Vec::new(),
        started: 0,
    };
    for _ in 0..4 {
        world.start();
    }
    for _ in 0..400 {
        world.step();
    }
    world.finish()
}

impl World {
    fn tick(&mut self) -> Moment {
        self.now += self.random.i64(1..10);
        self.now
    }

    fn start(&mut self) {
        self.started += 1;
        self.alive.push(format!("p{}", self.started));
    }

    fn lives(&self, call: usize) -> bool {
        !self
            .history
            .dead
            .contains_key(&self.history.calls[call].process)
    }

    fn said(&mut self, call: usize) -> Moment {
        let now = self.tick();
        let process = self.history.calls[call].process.clone();
        self.history.last.insert(process, now);
        now
    }

    fn step(&mut self) {
        let open: Vec<usize> = (0..self.places.len())
            .filter(|call| self.places[*call] != Place::Told && self.lives(*call))
            .collect();
        match self.random.u8(0..100) {
            0..2 => self.kill(),
            2..25 => self.ask(),
            _ if open.is_empty() => self.ask(),
            _ => {
                let call = open[self.random.usize(0..open.len())];
                self.go_on(call);
            }
        }
    }

    fn kill(&mut self) {
        let at = self.random.usize(0..self.alive.len());
        let process = self.alive.swap_remove(at);
        let now = self.tick();
        self.history.dead.insert(process, now);
        self.start();
    }

    fn ask(&mut self) {
        let process = self.alive[self.random.usize(0..self.alive.len())].clone();
        let key = self.random.usize(0..self.keys.len());
        let call = self.history.calls.len();
        self.history.calls.push(Call {
            process,
            key: format!("k{key}"),
            asked: 0,
            found: None,
            body: None,
            answer: None,
        });
        self.history.calls[call].asked = self.said(call);
        self.places.push(Place::Asked);
        self.answers.push(None);
    }

    fn key(&self, call: usize) -> usize {
        self.history.calls[call].key[1..].parse().unwrap()
    }

    fn go_on(&mut self, call: usize) {
        self.tick();
        match self.places[call] {
            Place::Asked => self.begin(call),
            Place::Began => {
                let started = self.said(call);
                self.history.calls[call].body.as_mut().unwrap().started = started;
                self.places[call] = Place::Running;
            }
            Place::Running => {
                let at = self.said(call);
                let ended = match self.random.u8(0..10) {
                    0 => Ended::Abandoned,
                    1 if !self.policy.take_over => Ended::Unknown,
                    _ => Ended::Outcome(format!("d{call}")),
                };
                self.history.calls[call].body.as_mut().unwrap().ended = Some((at, ended));
                self.places[call] = Place::Ended;
            }
            Place::Ended => self.record(call),
            Place::Done => {
                let at = self.said(call);
                let answer = self.answers[call].take().unwrap();
                self.history.calls[call].answer = Some((at, answer));
                self.places[call] = Place::Told;
            }
            Place::Told => {}
        }
    }

    fn told(&mut self, call: usize, answer: Answer) {
        self.answers[call] = Some(answer);
        self.places[call] = Place::Done;
    }

    fn expired(&self, at: Moment) -> bool {
        self.policy.ttl.is_some_and(|ttl| at + ttl <= self.now)
    }

    /// What the store answers, in one moment.
    fn begin(&mut self, call: usize) {
        let key = self.key(call);
        let again = self.policy.again && self.random.u8(0..4) == 0;
        let owner_is_gone = match &self.keys[key].row {
            Row::Pending { call: owner, .. } => {
                // Its permit runs out within the lease; here at any time after its death.
                let said_so = self.places[*owner] == Place::Told || self.answers[*owner].is_some();
                said_so || !self.lives(*owner)
            }
            _ => false,
        };
        match &self.keys[key].row {
            Row::Recorded { digest, at, .. } if !again && !self.expired(*at) => {
                let digest = digest.clone();
                self.told(call, Answer::Replayed(digest));
            }
            Row::Pending { .. } if !owner_is_gone => self.told(call, Answer::InFlight),
            Row::Pending { .. } if !self.policy.take_over => self.doubt(call),
            _ => self.execute(call),
        }
    }

    fn execute(&mut self, call: usize) {
        let key = self.key(call);
        let key = &mut self.keys[key];
        if matches!(key.row, Row::Absent) {
            key.newest = Execution {
                key: key.newest.key + 100,
                token: 1,
            };
        } else {
            key.newest.token += 1;
        }
        let execution = key.newest;
        key.row = Row::Pending { execution, call };
        self.history.calls[call].body = Some(Body {
            execution,
            started: Moment::MAX,
            ended: None,
        });
        self.places[call] = Place::Began;
    }

    /// It is in doubt: the caller is told so, or finds out.
    fn doubt(&mut self, call: usize) {
        let key = self.key(call);
        let Row::Pending {
            execution,
            call: owner,
        } = self.keys[key].row
        else {
            return;
        };
        let ended = self.history.calls[owner].body.as_ref();
        let ended = ended.and_then(|body| body.ended.clone());
        let found = match (self.random.u8(0..3), ended) {
            (0, _) => None,
            (_, Some((_, Ended::Outcome(digest)))) => Some(Some(digest)),
            _ => Some(None),
        };
        let Some(outcome) = found else {
            return self.told(call, Answer::InDoubt);
        };
        let at = self.said(call);
        self.history.calls[call].found = Some(Found {
            at,
            outcome: outcome.clone(),
        });
        let at = self.tick();
        self.keys[key].row = match outcome {
            Some(digest) => Row::Recorded {
                execution,
                digest,
                at,
            },
            None => Row::Absent,
        };
        self.told(call, Answer::Resolved);
    }

    fn record(&mut self, call: usize) {
        let key = self.key(call);
        let at = self.now;
        let body = self.history.calls[call].body.clone().unwrap();
        let execution = body.execution;
        let row = &mut self.keys[key].row;
        // Nobody lost its permit alive here.
        assert!(matches!(row, Row::Pending { execution: held, .. } if *held == execution));
        match body.ended.unwrap().1 {
            Ended::Outcome(digest) => {
                *row = Row::Recorded {
                    execution,
                    digest,
                    at,
                }
            }
            Ended::Abandoned => *row = Row::Absent,
            Ended::Unknown => {}
        }
        self.told(call, Answer::Recorded);
    }

    fn finish(mut self) -> History {
        // Bodies that the dead were given and never started are not told of.
        for (call, place) in self.history.calls.iter_mut().zip(&self.places) {
            if *place == Place::Began {
                call.body = None;
            }
        }
        let open: Vec<usize> = (0..self.places.len())
            .filter(|call| self.places[*call] != Place::Told && self.lives(*call))
            .collect();
        for process in std::mem::take(&mut self.alive) {
            if open
                .iter()
                .any(|call| self.history.calls[*call].process == process)
            {
                let now = self.tick();
                self.history.dead.insert(process, now);
            }
        }
        for (number, key) in self.keys.iter().enumerate() {
            let state = match &key.row {
                Row::Absent => State::Absent,
                Row::Pending { execution, .. } => State::Pending(*execution),
                Row::Recorded {
                    execution, digest, ..
                } => State::Recorded(*execution, digest.clone()),
            };
            self.history.states.insert(format!("k{number}"), state);
        }
        self.history
    }
}
