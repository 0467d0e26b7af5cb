//! The gate in plain memory: what is under each key, which leases there are, and the
//! clocks. One step gives the next state and the answer.

use std::collections::BTreeMap;

use agentos_core::{Execution, KeyStatus, OnLost, OnRecorded};

/// Seconds.
pub(crate) type Seconds = i64;

pub(crate) const KEYS: usize = 3;

/// A start of a worker: its name, and which.
pub(crate) type Owner = (u8, u8);

/// A moment of the boot-time clock: which boot, and when in it.
pub(crate) type Moment = (u32, Seconds);

/// An execution: of the key that was made as the n-th, under a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fence {
    pub(crate) made: usize,
    pub(crate) token: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) fence: Fence,
    pub(crate) owner: Owner,
    /// The lease by its place, when it was begun under one.
    pub(crate) under: Option<usize>,
    /// How long it lasts; `None` when it is over.
    pub(crate) left: Option<Seconds>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) fence: Fence,
    pub(crate) status: Option<KeyStatus>,
    pub(crate) newest: Option<i64>,
    pub(crate) owner: Option<Owner>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Execute {
        fence: Fence,
        why: Execution,
        /// How long the permit lasts; zero when it is over already.
        left: Seconds,
    },
    Replay {
        fence: Fence,
        failed: bool,
        bytes: Vec<u8>,
    },
    InFlight(Holder),
    InDoubt(Holder),
    Conflict,
    /// The lease is not held.
    StaleLease,
    Stale(Refusal),
    /// The permit that is to be resolved is not over.
    Illegal,
    Removed(u32),
    /// How long each permit lasts from now on.
    Renewed(Vec<Result<Seconds, Refusal>>),
    Done,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Begin {
        key: usize,
        request: u8,
        owner: Owner,
        under: Option<usize>,
        lease: Seconds,
        sole_start: bool,
        on_recorded: OnRecorded,
        on_lost: OnLost,
    },
    Finish {
        fence: usize,
        failed: bool,
        ttl: Option<Seconds>,
        bytes: Vec<u8>,
    },
    Abandon(usize),
    Doubt(usize),
    Resolve {
        fence: usize,
        /// The key that is named.
        key: usize,
        /// Whether it happened, and with what.
        found: Option<Vec<u8>>,
        sole_start: Option<Owner>,
    },
    Renew(Vec<usize>, Seconds),
    Remove(Vec<usize>),
    Touch(Vec<usize>),
    /// Takes what has expired away.
    Prune,
    /// Enqueues an item and claims it; what has expired is taken away by that.
    Claim(Seconds),
    RenewLease(usize, Seconds),
    /// Ends a lease: its holder completes the item.
    Complete(usize),
    /// Ends a lease: somebody cancels the item.
    Cancel(usize),
    Elapse(Seconds),
    JumpWall(Seconds),
    Reboot,
    Reopen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Pending {
        owner: Owner,
        under: Option<usize>,
        /// `None`: it was left in doubt.
        deadline: Option<Moment>,
    },
    Recorded {
        failed: bool,
        bytes: Vec<u8>,
        expires: Option<Seconds>,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) fence: Fence,
    pub(crate) request: u8,
    pub(crate) state: State,
}

impl Row {
    fn status(&self) -> KeyStatus {
        match &self.state {
            State::Pending { .. } => KeyStatus::Pending,
            State::Recorded { failed: true, .. } => KeyStatus::Failed,
            State::Recorded { .. } => KeyStatus::Succeeded,
        }
    }
}

/// Everything.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) boot: Moment,
    pub(crate) wall: Seconds,
    pub(crate) rows: BTreeMap<usize, Row>,
    /// Keys that were ever made.
    made: usize,
    /// All that were ever given, and of which key.
    pub(crate) given: Vec<(Fence, usize)>,
    /// Until when each item is held; `None` when it is not any more.
    pub(crate) leases: Vec<Option<Moment>>,
    pub(crate) answer: Answer,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            boot: (0, 0),
            wall: 0,
            rows: BTreeMap::new(),
            made: 0,
            given: Vec::new(),
            leases: Vec::new(),
            answer: Answer::Done,
        }
    }
}

impl Model {
    fn until(&self, deadline: Moment) -> Seconds {
        let is_same = deadline.0 == self.boot.0;
        if is_same {
            (deadline.1 - self.boot.1).max(0)
        } else {
            0
        }
    }

    fn after(&self, lease: Seconds) -> Moment {
        (self.boot.0, self.boot.1 + lease)
    }

    /// How long a pending key's permit lasts; `None` when it is over.
    pub(crate) fn left(&self, row: &Row) -> Option<Seconds> {
        let State::Pending {
            under, deadline, ..
        } = &row.state
        else {
            return None;
        };
        // In doubt is in doubt, whatever the lease does.
        let deadline = deadline.and_then(|deadline| match under {
            Some(lease) => self.leases[*lease],
            None => Some(deadline),
        });
        deadline
            .map(|deadline| self.until(deadline))
            .filter(|left| 0 < *left)
    }

    fn holder(&self, row: &Row) -> Holder {
        let State::Pending {
            owner,
            under,
            deadline,
        } = &row.state
        else {
            unreachable!("it is recorded")
        };
        Holder {
            fence: row.fence,
            owner: *owner,
            under: under.filter(|_| deadline.is_some()),
            left: self.left(row),
        }
    }

    fn is_over_for(&self, holder: &Holder, sole_start: Option<Owner>) -> bool {
        let is_earlier = sole_start
            .is_some_and(|(name, start)| name == holder.owner.0 && holder.owner.1 < start);
        holder.left.is_none() || is_earlier
    }

    pub(crate) fn expired(&self, row: &Row) -> bool {
        matches!(&row.state, State::Recorded { expires: Some(at), .. } if *at <= self.wall)
    }

    fn by_fence(&self, fence: Fence) -> Option<usize> {
        let mut rows = self.rows.iter();
        let row = rows.find(|(_, row)| row.fence.made == fence.made);
        row.map(|(key, _)| *key)
    }

    fn refusal(&self, fence: Fence) -> Refusal {
        let row = self.by_fence(fence).map(|key| &self.rows[&key]);
        let owner = row.and_then(|row| match &row.state {
            State::Pending {
                owner,
                deadline: Some(_),
                ..
            } => Some(*owner),
            _ => None,
        });
        Refusal {
            fence,
            status: row.map(Row::status),
            newest: row.map(|row| row.fence.token),
            owner,
        }
    }

    /// The key that is executed under exactly this permit.
    fn require(&self, fence: Fence) -> Result<usize, Answer> {
        let key = self.by_fence(fence);
        let held = key.map(|key| (key, &self.rows[&key]));
        if let Some((key, row)) = held
            && let State::Pending {
                under,
                deadline: Some(_),
                ..
            } = &row.state
            && row.fence == fence
        {
            if under.is_some_and(|lease| self.leases[lease].is_none()) {
                return Err(Answer::StaleLease);
            }
            return Ok(key);
        }
        Err(Answer::Stale(self.refusal(fence)))
    }

    pub(crate) fn step(mut self, step: &Step) -> Model {
        let answer = self.apply(step);
        self.answer = answer.unwrap_or_else(|refusal| refusal);
        self
    }

    fn apply(&mut self, step: &Step) -> Result<Answer, Answer> {
        match step {
            Step::Begin { .. } => return Ok(self.begin(step)),
            Step::Finish {
                fence,
                failed,
                ttl,
                bytes,
            } => {
                let key = self.require(self.given[*fence].0)?;
                let expires = ttl.map(|ttl| self.wall + ttl);
                self.record(key, *failed, bytes.clone(), expires);
            }
            Step::Abandon(fence) => {
                let key = self.require(self.given[*fence].0)?;
                self.rows.remove(&key);
            }
            Step::Doubt(fence) => {
                let key = self.require(self.given[*fence].0)?;
                let row = self.rows.get_mut(&key).expect("a row");
                if let State::Pending { deadline, .. } = &mut row.state {
                    *deadline = None;
                }
            }
            Step::Resolve {
                fence,
                key,
                found,
                sole_start,
            } => {
                let fence = self.given[*fence].0;
                let row = self
                    .rows
                    .get(key)
                    .filter(|row| row.fence == fence && matches!(row.state, State::Pending { .. }));
                let Some(row) = row else {
                    // The name of another key is as good as none.
                    let is_named = self.by_fence(fence).is_none_or(|found| found == *key);
                    let is_held = self.by_fence(fence).is_some_and(|found| {
                        let row = &self.rows[&found];
                        row.fence == fence && row.status() == KeyStatus::Pending
                    });
                    let refusal = if is_named || !is_held {
                        self.refusal(fence)
                    } else {
                        Refusal {
                            fence,
                            status: None,
                            newest: None,
                            owner: None,
                        }
                    };
                    return Err(Answer::Stale(refusal));
                };
                if !self.is_over_for(&self.holder(row), *sole_start) {
                    return Err(Answer::Illegal);
                }
                match found {
                    Some(bytes) => self.record(*key, false, bytes.clone(), None),
                    None => drop(self.rows.remove(key)),
                }
            }
            Step::Renew(fences, lease) => {
                let fences = fences.iter().map(|fence| self.given[*fence].0);
                let fences: Vec<Fence> = fences.collect();
                let answers = fences.into_iter().map(|fence| self.renew(fence, *lease));
                return Ok(Answer::Renewed(answers.collect()));
            }
            Step::Remove(fences) => {
                let mut removed = 0;
                for fence in fences {
                    let fence = self.given[*fence].0;
                    let before = self.rows.len();
                    self.rows.retain(|_, row| {
                        row.fence != fence || matches!(row.state, State::Pending { .. })
                    });
                    removed += (before - self.rows.len()) as u32;
                }
                return Ok(Answer::Removed(removed));
            }
            Step::Prune => {
                let gone: Vec<usize> = self
                    .rows
                    .iter()
                    .filter(|(_, row)| self.expired(row))
                    .map(|(key, _)| *key)
                    .collect();
                for key in gone {
                    self.rows.remove(&key);
                }
            }
            Step::Claim(lease) => {
                let now = self.boot;
                for held in &mut self.leases {
                    *held = held.filter(|deadline| deadline.0 == now.0 && now.1 < deadline.1);
                }
                self.leases.push(Some(self.after(*lease)));
            }
            Step::RenewLease(at, lease) => {
                let deadline = self.after(*lease);
                match &mut self.leases[*at] {
                    Some(held) => *held = deadline,
                    None => return Err(Answer::StaleLease),
                }
            }
            Step::Complete(at) => {
                self.leases[*at].take().ok_or(Answer::StaleLease)?;
            }
            Step::Cancel(at) => self.leases[*at] = None,
            Step::Elapse(seconds) => {
                self.boot.1 += seconds;
                self.wall += seconds;
            }
            Step::JumpWall(seconds) => self.wall += seconds,
            Step::Reboot => self.boot = (self.boot.0 + 1, 0),
            Step::Touch(_) | Step::Reopen => {}
        }
        Ok(Answer::Done)
    }

    fn record(&mut self, key: usize, failed: bool, bytes: Vec<u8>, expires: Option<Seconds>) {
        let row = self.rows.get_mut(&key).expect("a row");
        row.state = State::Recorded {
            failed,
            bytes,
            expires,
        };
    }

    fn renew(&mut self, fence: Fence, lease: Seconds) -> Result<Seconds, Refusal> {
        let refusal = self.refusal(fence);
        let after = self.after(lease);
        let key = self.by_fence(fence).ok_or_else(|| refusal.clone())?;
        let left = self.left(&self.rows[&key]);
        let row = self.rows.get_mut(&key).expect("a row");
        match &mut row.state {
            State::Pending {
                under,
                deadline: Some(deadline),
                ..
            } if row.fence == fence => match under {
                // As long as the lease, and left as it is.
                Some(_) => left.ok_or(refusal),
                None => {
                    *deadline = after;
                    Ok(lease)
                }
            },
            _ => Err(refusal),
        }
    }

    fn begin(&mut self, step: &Step) -> Answer {
        let Step::Begin {
            key,
            request,
            owner,
            under,
            lease,
            sole_start,
            on_recorded,
            on_lost,
        } = step
        else {
            unreachable!("no begin")
        };
        let deadline = match under {
            None => self.after(*lease),
            Some(at) => match self.leases[*at] {
                Some(deadline) if deadline.0 == self.boot.0 && self.boot.1 < deadline.1 => deadline,
                _ => return Answer::StaleLease,
            },
        };
        let why = match self.rows.get(key) {
            None => Execution::First,
            Some(row) if self.expired(row) => Execution::AfterExpiry,
            Some(row) if row.request != *request => return Answer::Conflict,
            Some(row) => match (&row.state, on_recorded) {
                (State::Recorded { .. }, OnRecorded::RunAgain) => Execution::Again,
                (State::Recorded { failed: true, .. }, OnRecorded::RunFailedAgain) => {
                    Execution::AfterFailure
                }
                (State::Recorded { failed, bytes, .. }, _) => {
                    return Answer::Replay {
                        fence: row.fence,
                        failed: *failed,
                        bytes: bytes.clone(),
                    };
                }
                (State::Pending { .. }, _) => {
                    let holder = self.holder(row);
                    let sole_start = sole_start.then_some(*owner);
                    if !self.is_over_for(&holder, sole_start) {
                        return Answer::InFlight(holder);
                    }
                    if *on_lost == OnLost::SayInDoubt {
                        return Answer::InDoubt(holder);
                    }
                    Execution::TakenOver
                }
            },
        };
        let fence = match self.rows.get(key) {
            Some(row) => Fence {
                token: row.fence.token + 1,
                ..row.fence
            },
            None => {
                self.made += 1;
                Fence {
                    made: self.made,
                    token: 1,
                }
            }
        };
        let state = State::Pending {
            owner: *owner,
            under: *under,
            deadline: Some(deadline),
        };
        self.rows.insert(
            *key,
            Row {
                fence,
                request: *request,
                state,
            },
        );
        self.given.push((fence, *key));
        Answer::Execute {
            fence,
            why,
            left: self.until(deadline),
        }
    }

    /// The executions in doubt, in the order in which their keys were made.
    pub(crate) fn doubts(&self) -> Vec<Fence> {
        let pending = self
            .rows
            .values()
            .filter(|row| row.status() == KeyStatus::Pending);
        let lost = pending.filter(|row| self.left(row).is_none());
        let mut doubts: Vec<Fence> = lost.map(|row| row.fence).collect();
        doubts.sort();
        doubts
    }
}
