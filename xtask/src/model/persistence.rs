//! What one may say who goes on after errors: acknowledgements, refusals of the types that
//! fit what the machine does, and how it ends.

/// How it ended, by its own words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All is done.
    Done,
    /// It has tried often enough.
    GaveUp,
    /// It died.
    #[default]
    Neither,
}

/// What it said, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Persistence {
    /// The steps that were acknowledged, in order.
    pub(crate) acked: Vec<String>,
    /// How often it was refused.
    pub(crate) refused: u64,
    /// Of these, how often nobody knows what became of a commit.
    pub(crate) unknown: u64,
    /// How often its disk has failed.
    pub(crate) struck: u64,
    /// Steps that were acknowledged though the disk had failed in them.
    pub(crate) acked_when_struck: Vec<String>,
    pub(crate) ending: Ending,
    /// What must not be.
    pub(crate) broken: Vec<String>,
}

impl Persistence {
    /// Reads its lines; refusals are of these types.
    pub(crate) fn read(lines: &[String], kinds: &[&str]) -> Persistence {
        let mut told = Persistence::default();
        let mut is_struck = false;
        for line in lines {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "ack" => {
                    let step = rest.trim_matches('"').to_owned();
                    if is_struck {
                        told.acked_when_struck.push(step.clone());
                    }
                    is_struck = false;
                    told.acked.push(step);
                }
                "struck" => {
                    told.struck = rest.parse().unwrap_or(told.struck);
                    is_struck = true;
                }
                "done" => told.ending = Ending::Done,
                "gives" => told.ending = Ending::GaveUp,
                "refused" => {
                    told.refused += 1;
                    is_struck = false;
                    let kind = rest.split(' ').next().unwrap_or_default();
                    told.unknown += u64::from(kind == "CommitUnknown");
                    if !kinds.contains(&kind) {
                        told.broken.push(format!("it was told {rest}"));
                    }
                }
                _ => told.broken.push(format!("it said {line:?}")),
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Persistence {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        Persistence::read(&lines, &["Io"])
    }

    #[test]
    fn words_are_taken_for_what_they_say() {
        let told = read(&[
            "ack \"begin\"",
            "refused Io it fails",
            "ack \"fail\"",
            "done {}",
        ]);
        assert_eq!(told.acked, ["begin", "fail"]);
        assert_eq!((told.refused, told.ending), (1, Ending::Done));
        assert_eq!(told.broken, [""; 0]);
        assert_eq!(read(&["gives up"]).ending, Ending::GaveUp);
        assert_eq!(read(&[]).ending, Ending::Neither);
    }

    #[test]
    fn a_step_in_which_the_disk_failed_is_known() {
        let told = read(&[
            "struck 1",
            "refused Io it fails",
            "ack \"a\"",
            "struck 3",
            "ack \"b\"",
        ]);
        assert_eq!(
            (told.struck, told.acked_when_struck),
            (3, vec!["b".to_owned()])
        );
    }

    #[test]
    fn a_refusal_of_another_type_is_broken() {
        let told = read(&["refused Internal a defect"]);
        assert_eq!(told.broken, ["it was told Internal a defect"]);
        assert_eq!(read(&["else"]).broken.len(), 1);
    }
}
