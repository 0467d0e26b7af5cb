//! What must be true of a task whose old checkpoints are pruned.

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

#[cfg(test)]
mod tests {
    use super::*;

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
