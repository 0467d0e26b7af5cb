//! What must be true of a tool that fails once for each part of the work and is asked for
//! again until it succeeds, two times a part: by the effects that the outside world counted.
//! Pure.

use std::collections::BTreeSet;

/// Judges what rang, by lines of a call's key and a part: of each part that is done as often
/// as it must, in order; of the part that a kill fell into no oftener. No key rings twice.
pub(crate) fn judge_rung(lines: &[&str], rings: u64, done: u64, killed: bool) -> Vec<String> {
    let mut broken = Vec::new();
    let most = rings * (done + u64::from(killed));
    if !(rings * done..=most).contains(&(lines.len() as u64)) {
        broken.push(format!(
            "the bell rang {} times, and {done} parts are done with {rings} rings each",
            lines.len()
        ));
    }
    let mut keys = BTreeSet::new();
    for (at, line) in (0..).zip(lines) {
        let (key, part) = line.split_once(' ').unwrap_or((line, ""));
        let expected = at / rings + 1;
        if !keys.insert(key) || part.parse() != Ok(expected) {
            broken.push(format!(
                "ring {} of the bell is {line:?} and must be one of its own for part {expected}",
                at + 1
            ));
            break;
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_rings_as_often_as_it_must_and_each_ring_is_a_call_of_its_own() {
        for (lines, done, killed, wrong) in [
            (&["a 1", "b 1", "c 2", "d 2"][..], 2, false, 0),
            (&["a 1", "b 1", "c 2", "d 2"], 2, true, 0),
            (&["a 1", "b 1", "c 2", "d 2"], 1, true, 0),
            (&["a 1", "b 1", "c 2"], 1, true, 0),
            (&[], 0, false, 0),
            // A ring too many, at once and later.
            (&["a 1", "b 1", "c 1"], 1, true, 1),
            (&["a 1", "b 1", "c 1", "d 2", "e 2"], 2, true, 1),
            (&["a 1", "b 1", "c 2"], 1, false, 1),
            // One too few, of another part, twice by one call.
            (&["a 1"], 1, true, 1),
            (&["a 1", "b 2"], 1, true, 1),
            (&["a 1", "a 1"], 1, false, 1),
            (&["a 1", "b"], 1, false, 1),
        ] {
            let broken = judge_rung(lines, 2, done, killed);
            assert_eq!(broken.len(), wrong, "{lines:?}: {broken:?}");
        }
    }
}
