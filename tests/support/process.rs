//! Starts victims and reads what they say, always with a deadline.

use std::ffi::OsString;

use agentos_process::{Child, CommandSpec, Exit, NextLine, Signal, Sink};

use crate::{PATIENCE, wait_until};

/// A running victim. Dropping it kills it.
pub struct Victim {
    child: Child,
    what: String,
}

impl Victim {
    /// Starts `program` with a role and its arguments.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start<I>(program: &str, role: &str, arguments: I) -> Victim
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let spec = CommandSpec::new(program).arg(role).args(arguments);
        let child = Child::spawn(&spec, Sink::Inherit).expect("a started victim");
        Victim {
            child,
            what: role.to_string(),
        }
    }

    /// Its process id.
    ///
    /// # Panics
    ///
    /// When the system's ids do not fit.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Its next line, or `None` when it has said its last.
    ///
    /// # Panics
    ///
    /// When none comes in time.
    pub fn next_line(&mut self) -> Option<String> {
        match self.child.next_line(PATIENCE).expect("a line") {
            NextLine::Line(line) => Some(String::from_utf8(line).expect("a line in UTF-8")),
            NextLine::Eof => None,
            NextLine::TimedOut => panic!("the victim {:?} says nothing", self.what),
        }
    }

    /// Its next line, which must be there.
    ///
    /// # Panics
    ///
    /// When it has ended.
    pub fn line(&mut self) -> String {
        self.next_line()
            .unwrap_or_else(|| panic!("the victim {:?} has ended early", self.what))
    }

    /// Waits for exactly this line.
    ///
    /// # Panics
    ///
    /// When it says another.
    pub fn expect(&mut self, line: &str) {
        assert_eq!(self.line(), line, "of the victim {:?}", self.what);
    }

    /// Everything that it says until it ends by itself with success.
    ///
    /// # Panics
    ///
    /// When it ends otherwise.
    pub fn finish(mut self) -> Vec<String> {
        let lines = std::iter::from_fn(|| self.next_line()).collect();
        let exit = self.child.wait(PATIENCE).expect("an end");
        assert!(
            exit.is_some_and(Exit::success),
            "the victim {:?} ended with {exit:?}, having said {lines:?}",
            self.what
        );
        lines
    }

    /// Everything that it says until SIGKILL ends it by its own hand.
    ///
    /// # Panics
    ///
    /// When it ends otherwise.
    pub fn dies(mut self) -> Vec<String> {
        let lines = std::iter::from_fn(|| self.next_line()).collect();
        let exit = self.child.wait(PATIENCE).expect("an end");
        assert!(
            exit.is_some_and(Exit::is_sigkill),
            "the victim {:?} ended with {exit:?}, having said {lines:?}",
            self.what
        );
        lines
    }

    /// Everything that it says until it ends, and whether SIGKILL by its own hand
    /// was the end.
    ///
    /// # Panics
    ///
    /// When it ends otherwise than so or with success.
    pub fn dies_or_finishes(mut self) -> (Vec<String>, bool) {
        let lines: Vec<String> = std::iter::from_fn(|| self.next_line()).collect();
        let exit = self.child.wait(PATIENCE).expect("an end").expect("in time");
        assert!(
            exit.is_sigkill() || exit.success(),
            "the victim {:?} ended with {exit:?}, having said {lines:?}",
            self.what
        );
        (lines, exit.is_sigkill())
    }

    /// The points that an action passes, in order, without those of opening and closing
    /// a store; and what it says beside.
    ///
    /// # Panics
    ///
    /// As [`Victim::finish`].
    pub fn points<I>(program: &str, action: I) -> (Vec<String>, Vec<String>)
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let (mut points, mut words) = (Vec::new(), Vec::new());
        for line in Victim::start(program, "points", action).finish() {
            match line.strip_prefix("point ") {
                Some(point) => points.push(point.to_owned()),
                None => words.push(line),
            }
        }
        let is_around = |point: &String| {
            let area = point.split('.').next().unwrap_or_default();
            ["open", "create", "migrate", "ballast", "close"].contains(&area)
        };
        points.retain(|point| !is_around(point));
        (points, words)
    }

    /// Kills it with SIGKILL, and gives its last words.
    ///
    /// # Panics
    ///
    /// When it had ended before.
    pub fn kill(mut self) -> Vec<String> {
        let exit = self.child.kill().expect("an end");
        assert!(exit.is_sigkill(), "{:?} had ended: {exit:?}", self.what);
        let words = self.child.drain_lines().expect("its last words");
        words
            .into_iter()
            .map(|line| String::from_utf8(line).expect("a line in UTF-8"))
            .collect()
    }

    /// Waits until it stands still, after SIGSTOP.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn wait_until_stopped(&self) {
        let stat = format!("/proc/{}/stat", self.pid());
        wait_until("the victim stands still", || {
            let stat = std::fs::read_to_string(&stat).unwrap_or_default();
            // The state follows the name, which stands in brackets.
            let state = stat.rsplit(')').next().map(str::trim_start);
            state.is_some_and(|state| state.starts_with('T'))
        });
    }

    /// Stops it, or lets it go on.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal).expect("a delivered signal");
    }
}
