//! What must be true of a task whose old checkpoints are pruned, and of audit
//! lines of which the newest are kept.

use super::Numbered;

/// Judges the numbers that are found, oldest first. What was acknowledged has not
/// been outrun by pruning: the newest `kept` are there without a gap, and so is
/// the one that `must` stay whatever its age.
pub(crate) fn tail(found: &[u64], acked: u64, kept: u64, must: Option<u64>) -> Vec<String> {
    let mut broken = Vec::new();
    if !found.is_sorted_by(|one, next| one < next) {
        broken.push(format!("the numbers are out of order: {found:?}"));
    }
    let newest = found.last().copied().unwrap_or(0);
    if newest < acked {
        broken.push(format!(
            "checkpoint {acked} was acknowledged, and {newest} is the newest"
        ));
    }
    let oldest = newest.saturating_sub(kept) + 1;
    for number in oldest..=newest {
        if !found.contains(&number) {
            broken.push(format!("{number} is gone, one of the newest {kept}"));
        }
    }
    if let Some(must) = must
        && must <= newest
        && !found.contains(&must)
    {
        broken.push(format!("{must} is gone, which had to stay"));
    }
    broken
}

/// Judges the lines that are found, given those that were once written: none has
/// changed, and none of the newest `kept` is gone.
pub(crate) fn kept_lines(written: &[Numbered], found: &[Numbered], kept: u64) -> Vec<String> {
    let numbers = written.iter().chain(found).map(|(number, _)| *number);
    let newest = numbers.max().unwrap_or(0);
    let mut broken = Vec::new();
    for (number, line) in written {
        let same = |other: &&Numbered| other.0 == *number;
        match found.iter().find(same) {
            Some((_, other)) if other != line => {
                broken.push(format!("audit line {number} was {line} and is {other}"));
            }
            None if newest - number < kept => broken.push(format!(
                "audit line {number} is gone, one of the newest {kept}"
            )),
            Some(_) | None => {}
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_stay_as_they_were() {
        let lines = |numbers: &[u64]| -> Vec<Numbered> {
            let line = |number: &u64| (*number, format!("line {number}"));
            numbers.iter().map(line).collect()
        };
        let written = lines(&[1, 2, 3, 4, 5]);
        for found in [&[1, 2, 3, 4, 5][..], &[2, 3, 4, 5], &[3, 4, 5], &[4, 5, 6]] {
            assert!(kept_lines(&written, &lines(found), 3).is_empty());
        }
        assert!(kept_lines(&written[..2], &lines(&[1, 2]), 3).is_empty());
        for (found, wrong) in [(&[][..], 3), (&[4, 5], 1), (&[1, 2, 3, 4], 1), (&[3, 5], 1)] {
            let broken = kept_lines(&written, &lines(found), 3);
            assert_eq!(broken.len(), wrong, "{broken:?}");
            assert!(broken[0].contains("is gone"), "{broken:?}");
        }
        let mut changed = lines(&[2, 3, 4, 5]);
        changed[0].1.clear();
        let broken = kept_lines(&written, &changed, 3);
        assert!(broken[0].contains("was line 2 and is"), "{broken:?}");
    }

    #[test]
    fn the_newest_and_what_must_stay_are_sound() {
        for (found, acked, must) in [
            (&[][..], 0, None),
            (&[1, 2], 2, Some(1)),
            (&[1, 2], 1, Some(3)),
            (&[2, 7, 8, 9], 9, Some(2)),
            (&[4, 5, 6, 7, 8, 9], 8, None),
        ] {
            assert_eq!(tail(found, acked, 3, must), Vec::<String>::new());
        }
    }

    #[test]
    fn each_way_of_being_wrong_is_named() {
        for (found, acked, must, word) in [
            (&[7, 8, 9][..], 10, None, "acknowledged"),
            (&[], 1, None, "acknowledged"),
            (&[7, 9], 9, None, "8 is gone"),
            (&[8, 9], 9, None, "7 is gone"),
            (&[7, 8, 9], 9, Some(2), "had to stay"),
            (&[7, 9, 8], 8, None, "out of order"),
        ] {
            let broken = tail(found, acked, 3, must);
            assert!(
                broken.iter().any(|reason| reason.contains(word)),
                "{word}: {broken:?}"
            );
        }
    }
}
