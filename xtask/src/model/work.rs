//! What must be true of work items and their attempts, given which leases were
//! lost. Pure, as all of the model.

use std::collections::{BTreeMap, BTreeSet};

use crate::work::{Claim, Rows, Work};

/// Judges what is on record of the leases that were lost: of each exactly one
/// closed attempt, one audit line and one error boundary, and of nothing else. All
/// items belong to tasks.
pub(crate) fn judge_losses(lost: &[Claim], work: &Work) -> Vec<String> {
    let expired = work
        .tries
        .iter()
        .filter(|one| one.outcome.as_deref() == Some("expired"));
    let expired: Vec<Claim> = expired.map(|one| one.claim.clone()).collect();
    let mut broken = Vec::new();
    for (what, found) in [
        ("closed attempts", &expired),
        ("audit lines", &work.audited),
        ("error boundaries", &work.boundaries),
    ] {
        broken.extend(differences(what, lost, found));
    }
    for one in &work.tries {
        let begin = format!("{} held it until ", one.claim.who);
        let told = one.error.as_deref().unwrap_or_default();
        if one.outcome.as_deref() == Some("expired") && !told.starts_with(&begin) {
            let Claim { item, token, .. } = one.claim;
            broken.push(format!(
                "attempt {token} at item {item} is closed with {told:?}"
            ));
        }
    }
    broken
}

/// What of the claims is found too often or too seldom, the first few of them.
fn differences(what: &str, expected: &[Claim], found: &[Claim]) -> Option<String> {
    let mut counts: BTreeMap<&Claim, i64> = BTreeMap::new();
    for claim in expected {
        *counts.entry(claim).or_default() -= 1;
    }
    for claim in found {
        *counts.entry(claim).or_default() += 1;
    }
    let wrong: Vec<String> = counts
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .map(|(Claim { item, token, who }, count)| {
            let often = if count < 0 { "too few" } else { "too many" };
            format!("{often} of item {item}, token {token}, {who}")
        })
        .collect();
    let first = wrong.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
    let (lost, found) = (expected.len(), found.len());
    (!wrong.is_empty()).then(|| format!("{lost} leases were lost, and {found} {what}: {first}"))
}

/// What has changed in a file in which nothing may have changed.
pub(crate) fn changes(before: &Rows, after: &Rows) -> Vec<String> {
    let mut broken = Vec::new();
    let none = BTreeMap::new();
    let tables: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for table in tables {
        let was = before.get(table).unwrap_or(&none);
        let is = after.get(table).unwrap_or(&none);
        for (key, row) in was {
            let name = &key.0;
            let Some(now) = is.get(key) else {
                broken.push(format!("row {name} of {table} is gone"));
                continue;
            };
            let changed = row
                .iter()
                .filter(|(column, value)| now.get(*column) != Some(value));
            broken.extend(changed.map(|(column, value)| {
                let now = now.get(column).map_or("nothing", String::as_str);
                format!("{column} of row {name} of {table} was {value} and is {now}")
            }));
        }
        let come = is.iter().filter(|(key, _)| !was.contains_key(*key));
        broken.extend(come.map(|(key, row)| {
            let columns: Vec<String> = row
                .iter()
                .map(|(column, value)| format!("{column} {value:.80}"))
                .collect();
            format!("row {} of {table} is new: {}", key.0, columns.join(", "))
        }));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::{Try, Who};

    fn claim(item: i64, token: i64) -> Claim {
        Claim {
            item,
            token,
            who: Who {
                name: "w".into(),
                incarnation: "i".into(),
            },
        }
    }

    fn tried(claim: Claim, outcome: &str) -> Try {
        Try {
            error: Some(format!("{} held it until noon", claim.who)),
            claim,
            outcome: Some(outcome.into()),
        }
    }

    fn work(lost: &[Claim]) -> Work {
        let mut tries: Vec<Try> = lost
            .iter()
            .map(|lost| tried(lost.clone(), "expired"))
            .collect();
        tries.push(tried(claim(1, 9), "succeeded"));
        Work {
            items: BTreeMap::new(),
            tries,
            audited: lost.to_vec(),
            boundaries: lost.to_vec(),
        }
    }

    #[test]
    fn each_loss_is_on_record_once_in_each_place() {
        let lost = [claim(1, 1), claim(1, 2), claim(2, 1)];
        assert_eq!(judge_losses(&lost, &work(&lost)), Vec::<String>::new());
        let mut other = work(&lost);
        other.audited.push(claim(1, 2));
        other.boundaries.remove(0);
        other.tries[1].claim.who.incarnation = "j".into();
        let broken = judge_losses(&lost, &other);
        assert_eq!(
            broken,
            [
                "3 leases were lost, and 3 closed attempts: too few of item 1, token 2, w (i); \
                 too many of item 1, token 2, w (j)",
                "3 leases were lost, and 4 audit lines: too many of item 1, token 2, w (i)",
                "3 leases were lost, and 2 error boundaries: too few of item 1, token 1, w (i)",
                "attempt 2 at item 1 is closed with \"w (i) held it until noon\"",
            ]
        );
        assert_eq!(judge_losses(&[], &work(&lost)).len(), 3);
    }

    #[test]
    fn a_row_that_came_went_or_changed_is_named() {
        let table = |rows: &[(&str, &str)]| -> Rows {
            let row = |&(id, text): &(&str, &str)| {
                let columns = [("id", id), ("text", text)];
                let columns = columns.map(|(name, value)| (name.to_owned(), value.to_owned()));
                ((id.to_owned(), 0), BTreeMap::from(columns))
            };
            BTreeMap::from([("items".to_owned(), rows.iter().map(row).collect())])
        };
        let before = table(&[("1", "one"), ("2", "two")]);
        assert!(changes(&before, &before).is_empty());
        assert_eq!(
            changes(&before, &table(&[("2", "deux"), ("3", "three")])),
            [
                "row 1 of items is gone",
                "text of row 2 of items was two and is deux",
                "row 3 of items is new: id 3, text three",
            ]
        );
        let none = Rows::new();
        assert_eq!(changes(&none, &before).len(), 2);
        assert_eq!(changes(&before, &none).len(), 2);
    }
}
