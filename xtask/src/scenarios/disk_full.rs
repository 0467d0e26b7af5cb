//! Scenario 17. Goal: wherever in its work a program finds the disk full, nothing that was
//! acknowledged is lost, the refusal says so by its type, its lease holds meanwhile, and
//! all goes on once there is room.
//!
//! Method: a small file system of a victim's own, in memory, mounted where nobody else sees
//! it. A clerk writes rows of every kind there. First it is watched in peace, to know how
//! much it writes. Then it works again and again, on a disk that is filled to a seeded
//! number of pages each time: before the store is made, or before the work begins. When it
//! is refused it tells what it finds; then there is room again, and it goes on, or it dies
//! on the full disk and another goes on. The files are read when it is done.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use agentos_chaos::{Failure, Outcome, Run, Scenario, VictimSpec};

use super::clerks_rows::{at_the_end, look};
use super::own_disk;
use crate::canary::Canary;
use crate::model::full::Tenancy;
use crate::victims::{self, Clerk, Filled, Role, Tenant, clerks_steps};

/// Several times what a clerk writes.
const DISK_BYTES: u64 = 16 << 20;
const PAGE: u64 = 4096;
const ROUNDS: u64 = 24;
const ROUNDS_QUICK: u64 = 8;
/// For all rounds.
const PATIENCE: Duration = Duration::from_secs(50);

/// Mounts the disk, plays one role after the other, and copies what one has left.
const SCRIPT: &str = r#"mount -t tmpfs -o "size=$1" none "$2" || exit 125
disk=$2 out=$3 xtask=$4
shift 4
for role; do
    case $role in
        copy:*) cp -a "$disk/${role#copy:}" "$out/" && rm -rf "$disk"/* ;;
        *) "$xtask" victim "$role"; echo "ended $?" ;;
    esac
done"#;

pub(crate) fn scenario(canary: Option<Canary>) -> Scenario {
    let goal = "wherever the disk is full nothing acknowledged is lost, and all goes on with room";
    Scenario::new(17, "disk-full", goal, move |run| {
        let mut story = Story {
            canary,
            namespaces: own_disk::namespaces().ok_or_else(own_disk::none)?,
            disk: run.dir().join("disk"),
            out: run.dir().join("out"),
            outcome: Outcome::passed(),
        };
        let result = story.all(run);
        story.outcome.after(result)
    })
}

struct Story {
    canary: Option<Canary>,
    /// How the disk is hidden from others.
    namespaces: &'static [&'static str],
    /// Where it is mounted, and where files are copied to.
    disk: PathBuf,
    out: PathBuf,
    outcome: Outcome,
}

type Fallible<T> = Result<T, Failure>;

/// What one round is about.
struct Round {
    number: u64,
    filled: Filled,
    left: u64,
    dies: bool,
}

impl Story {
    fn all(&mut self, run: &mut Run) -> Fallible<()> {
        fs::create_dir(&self.disk)?;
        fs::create_dir(&self.out)?;
        run.progress("in peace");
        let peace = Round {
            number: 0,
            filled: Filled::Never,
            left: 0,
            dies: false,
        };
        let tenancies = self.rounds(run, &[peace])?;
        let used = tenancies.first().and_then(|one| one.used).unwrap_or(0);
        let rounds = if run.quick() { ROUNDS_QUICK } else { ROUNDS };
        // Spread over all that is written, and chosen within each part.
        let pages = used / PAGE;
        let part = |number: u64| pages * number / rounds;
        let mut all = Vec::new();
        for number in 0..rounds {
            let left = run.rng.between(part(number), part(number + 1)) * PAGE;
            let filled = match number % 4 {
                3 => Filled::BeforeOpening,
                _ => Filled::BeforeWork,
            };
            all.push(Round {
                number: number + 1,
                filled,
                left,
                dies: run.rng.percent(30),
            });
        }
        run.progress("with the disk full");
        let tenancies = self.rounds(run, &all)?;
        let count = |is: fn(&Tenancy) -> bool| tenancies.iter().filter(|one| is(one)).count();
        self.outcome.metric("rounds", tenancies.len());
        self.outcome.metric("written_pages", pages);
        self.outcome.metric("met_full", count(|one| one.met_full));
        self.outcome.metric("died", count(|one| one.died));
        let refused: u64 = tenancies.iter().map(|one| one.refused).sum();
        self.outcome.metric("refused", refused);
        let acked: usize = tenancies.iter().map(|one| one.acked.len()).sum();
        self.outcome.metric("acked", acked);
        Ok(())
    }

    /// Plays these rounds on one disk, and judges each.
    fn rounds(&mut self, run: &mut Run, rounds: &[Round]) -> Fallible<Vec<Tenancy>> {
        let mut victim = run.start(&self.spec(rounds)?)?;
        let exit = victim.wait_for_exit(PATIENCE)?;
        if !exit.success() {
            return Err(Failure::new(format!("the small disk ended with {exit}")));
        }
        drop(victim);
        let transcript = run.transcripts().pop().unwrap_or_default();
        let mut tenancies = Vec::new();
        for round in rounds {
            let word = format!("round {}", round.number);
            let lines = transcript.lines.iter().map(String::as_str);
            // Up to the next round; one that dies says the word twice.
            let mine = lines
                .skip_while(|line| *line != word)
                .take_while(|line| !line.starts_with("round ") || *line == word);
            let tenancy = Tenancy::read(mine);
            self.judge(run, round, &tenancy)?;
            tenancies.push(tenancy);
        }
        Ok(tenancies)
    }

    fn judge(&mut self, run: &Run, round: &Round, tenancy: &Tenancy) -> Fallible<()> {
        let mut outcome = Outcome::passed();
        for broken in &tenancy.broken {
            outcome.violate(broken.clone());
        }
        let db = self.out.join(folder(round.number)).join("rows.db");
        let steps: Vec<String> = clerks_steps().into_iter().map(str::to_owned).collect();
        if tenancy.acked != steps {
            outcome.violate(format!("it acknowledged {:?}", tenancy.acked));
        }
        look(
            run.dir(),
            &db,
            "at the end",
            &tenancy.acked,
            0,
            &mut outcome,
        )?;
        if outcome.reasons.is_empty() {
            let world = self.world(round.number);
            at_the_end(run.dir(), &db, &world, 1, &mut outcome)?;
        }
        if !outcome.reasons.is_empty() {
            // Where dumps of databases are made.
            let kept = run.dir().join(format!("round-{}.db", round.number));
            fs::copy(&db, kept)?;
        }
        let Round { left, filled, .. } = round;
        for reason in outcome.reasons {
            let pages = left / PAGE;
            let told = format!("filled {filled:?} but {pages} pages: {reason}");
            self.outcome.violate(told);
        }
        Ok(())
    }

    fn spec(&self, rounds: &[Round]) -> Fallible<VictimSpec> {
        let mut words: Vec<OsString> = vec![
            DISK_BYTES.to_string().into(),
            self.disk.clone().into(),
            self.out.clone().into(),
            std::env::current_exe()?.into(),
        ];
        for round in rounds {
            let mut tenant = Tenant {
                clerk: Clerk {
                    db: self.disk.join(folder(round.number)).join("rows.db"),
                    world: self.world(round.number),
                    steps: clerks_steps().len(),
                    canary: self.canary,
                },
                round: round.number,
                disk: self.disk.clone(),
                filled: round.filled,
                left: round.left,
                dies: round.dies,
            };
            words.push(role(&tenant)?);
            if round.dies {
                tenant.filled = Filled::Earlier;
                tenant.dies = false;
                words.push(role(&tenant)?);
            }
            words.push(format!("copy:{}", folder(round.number)).into());
        }
        Ok(VictimSpec::new("tenant", "unshare")
            .args(self.namespaces)
            .args(["--", "sh", "-c", SCRIPT, "sh"])
            .args(words))
    }

    /// What the clerk's tool writes; on another disk.
    fn world(&self, round: u64) -> PathBuf {
        self.out.join(format!("world-{round}.log"))
    }
}

fn folder(round: u64) -> String {
    format!("round-{round}")
}

fn role(tenant: &Tenant) -> Fallible<OsString> {
    let (_, mut words) = victims::command(&Role::Tenant(tenant.clone()))?;
    words
        .pop()
        .ok_or_else(|| Failure::new("a victim has no role"))
}
