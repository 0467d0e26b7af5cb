//! What a program may say whose disk is filled by others, in the order in which it says it.
//!
//! Every refusal is that the disk is full, and there is none once there is room. While it is
//! full the lease is held on to, what was acknowledged is read, and the room that was kept
//! is given up; at the end it is kept again.

use crate::victims::{RENEWALS, TENANTS_BALLAST_BYTES, WhileFull};

/// The exit code by which a shell says that SIGKILL ended a program.
const KILLED: &str = "137";

/// One round of a tenant, by its words: of one process, or of one that died and the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tenancy {
    /// The steps that were acknowledged, in order.
    pub(crate) acked: Vec<String>,
    /// Refusals.
    pub(crate) refused: u64,
    /// Whether it was refused with the store open.
    pub(crate) met_full: bool,
    /// Whether it died on the full disk.
    pub(crate) died: bool,
    /// What the disk had to give, in bytes; none when it did not come to its end.
    pub(crate) used: Option<u64>,
    /// What must not be.
    pub(crate) broken: Vec<String>,
}

impl Tenancy {
    /// Reads the words of one round.
    pub(crate) fn read<'l>(lines: impl IntoIterator<Item = &'l str>) -> Tenancy {
        let mut tenancy = Tenancy::default();
        let mut has_room = false;
        for line in lines {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                // The one after a death finds the disk full.
                "round" => has_room = false,
                "ack" => tenancy.acked(rest.trim_matches('"')),
                "refused" => tenancy.refused(rest, has_room),
                "full" => tenancy.full(rest),
                "room" => has_room = true,
                "done" => tenancy.done(rest),
                "ended" => tenancy.ended(rest),
                _ => tenancy.broken.push(format!("it said {line:?}")),
            }
        }
        if tenancy.used.is_none() {
            tenancy.broken.push("it did not come to its end".into());
        }
        tenancy
    }

    /// The one after a death acknowledges what it finds.
    fn acked(&mut self, step: &str) {
        if !self.acked.iter().any(|known| known == step) {
            self.acked.push(step.to_owned());
        }
    }

    fn refused(&mut self, rest: &str, has_room: bool) {
        self.refused += 1;
        let kind = rest.split(' ').next().unwrap_or_default();
        if kind != "DiskFull" {
            self.broken.push(format!("a full disk was told as {rest}"));
        }
        if has_room {
            self.broken.push(format!("with room again: {rest}"));
        }
    }

    fn full(&mut self, rest: &str) {
        self.met_full = true;
        let Ok(full) = serde_json::from_str::<WhileFull>(rest) else {
            self.broken
                .push(format!("it said {rest:?} of the full disk"));
            return;
        };
        let acked = self.acked.len();
        let checks = [
            (full.steps == Some(acked), "the steps that it reads"),
            (
                full.renewed.is_none_or(|renewed| renewed == RENEWALS),
                "the renewals of its lease",
            ),
            (full.refused.is_empty(), "what goes on while it is full"),
            (full.ballast_bytes == 0, "the room that is given up"),
            (full.problems.is_empty(), "the integrity check"),
        ];
        for (holds, what) in checks {
            if !holds {
                let told = format!("with {acked} steps acknowledged, {what}: {full:?}");
                self.broken.push(told);
            }
        }
    }

    fn done(&mut self, rest: &str) {
        let numbers: Vec<u64> = rest.split(' ').filter_map(|one| one.parse().ok()).collect();
        let [ballast, used] = numbers[..] else {
            self.broken.push(format!("it is done with {rest:?}"));
            return;
        };
        self.used = Some(used);
        if ballast != TENANTS_BALLAST_BYTES {
            self.broken
                .push(format!("{ballast} bytes are kept for the next full disk"));
        }
    }

    fn ended(&mut self, code: &str) {
        match code {
            "0" => {}
            KILLED if self.met_full => self.died = true,
            _ => self.broken.push(format!("it ended with {code}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(change: impl FnOnce(&mut WhileFull)) -> String {
        let mut full = WhileFull {
            steps: Some(1),
            renewed: Some(RENEWALS),
            refused: Vec::new(),
            ballast_bytes: 0,
            problems: Vec::new(),
        };
        change(&mut full);
        format!("full {}", serde_json::to_string(&full).unwrap())
    }

    fn told(full: &str, after: &[&str]) -> Vec<String> {
        let begun = [
            "round 0",
            "ack \"begin\"",
            "refused DiskFull disk full",
            full,
        ];
        let lines = begun.into_iter().chain(after.iter().copied());
        Tenancy::read(lines).broken
    }

    fn done() -> String {
        format!("done {TENANTS_BALLAST_BYTES} 4096")
    }

    #[test]
    fn one_that_goes_on_or_dies_and_is_followed_is_right() {
        let done = done();
        let goes_on = ["room", "ack \"verify\"", &done, "ended 0"];
        assert_eq!(told(&full(|_| {}), &goes_on), [""; 0]);
        let dies = [
            "ended 137",
            "round 0",
            &full(|_| {}),
            "room",
            &done,
            "ended 0",
        ];
        assert_eq!(told(&full(|_| {}), &dies), [""; 0]);
    }

    #[test]
    fn each_promise_about_a_full_disk_is_looked_at() {
        let done = done();
        let rest = ["room", &done, "ended 0"];
        for change in [
            (|full| full.steps = Some(0)) as fn(&mut WhileFull),
            |full| full.steps = None,
            |full| full.renewed = Some(RENEWALS - 1),
            |full| full.refused.push("sweep: DiskFull".into()),
            |full| full.ballast_bytes = 1,
            |full| full.problems.push("a page".into()),
        ] {
            assert_eq!(told(&full(change), &rest).len(), 1);
        }
        let untyped = ["refused Internal a defect", "room", &done, "ended 0"];
        assert_eq!(told(&full(|_| {}), &untyped).len(), 1);
        let with_room = ["room", "refused DiskFull disk full", &done, "ended 0"];
        assert_eq!(told(&full(|_| {}), &with_room).len(), 1);
        assert_eq!(
            told(&full(|_| {}), &["room", "done 0 1", "ended 0"]).len(),
            1
        );
        assert_eq!(told(&full(|_| {}), &["room", &done, "ended 2"]).len(), 1);
        assert_eq!(told(&full(|_| {}), &["room", "ended 0"]).len(), 1);
    }
}
