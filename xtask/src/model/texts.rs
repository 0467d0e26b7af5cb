//! What the text columns of a lease must say: what the wall clock said of the one who
//! was given it. Pure.

use std::fmt;

/// What a claim said, and what the wall clock of the claimer said before and after,
/// all in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Texts {
    /// Before the claim.
    pub(crate) before: i64,
    /// After it.
    pub(crate) after: i64,
    /// Since when the lease is held, as it says.
    pub(crate) acquired: i64,
    /// Until when, as it says.
    pub(crate) expires: i64,
    /// How long it lasts.
    pub(crate) lease_us: i64,
    /// Its token.
    pub(crate) token: i64,
    /// From when on the item could be claimed, when it was enqueued.
    pub(crate) due: i64,
}

impl fmt::Display for Texts {
    /// As a victim acknowledges it; [`Texts::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Texts {
            before,
            after,
            acquired,
            expires,
            lease_us,
            token,
            due,
        } = self;
        write!(
            f,
            "texts {before} {after} {acquired} {expires} {lease_us} {token} {due}"
        )
    }
}

impl Texts {
    /// Reads what [`Display`](fmt::Display) writes; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Texts> {
        let mut numbers = text.strip_prefix("texts ")?.split(' ').map(str::parse);
        let mut number = || numbers.next()?.ok();
        Some(Texts {
            before: number()?,
            after: number()?,
            acquired: number()?,
            expires: number()?,
            lease_us: number()?,
            token: number()?,
            due: number()?,
        })
    }

    /// What is wrong with it.
    pub(crate) fn judge(&self) -> Vec<String> {
        let Texts {
            before,
            after,
            acquired,
            expires,
            lease_us,
            token,
            due,
        } = *self;
        let mut broken = Vec::new();
        if !(before..=after).contains(&acquired) {
            broken.push(format!(
                "a lease says that it is held since {acquired}, and the wall clock said {before} to {after}"
            ));
        }
        if expires != acquired + lease_us {
            broken.push(format!(
                "a lease of {lease_us} µs since {acquired} says that it ends at {expires}"
            ));
        }
        // Later claims follow a loss, which has set another moment.
        if token == 1 && after < due {
            broken.push(format!(
                "an item that is due at {due} was claimed when the wall clock said {after}"
            ));
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_not_following_the_wall_clock_is_named() {
        for (text, word) in [
            ("texts 10 20 15 115 100 1 5", ""),
            ("texts 10 20 10 110 100 1 20", ""),
            ("texts 10 20 15 115 100 2 21", ""),
            ("texts 10 20 9 109 100 1 5", "held since 9"),
            ("texts 10 20 21 121 100 1 5", "held since 21"),
            ("texts 10 20 15 116 100 1 5", "ends at 116"),
            ("texts 10 20 15 115 100 1 21", "due at 21"),
        ] {
            let texts = Texts::parse(text).unwrap();
            assert_eq!(texts.to_string(), text);
            let broken = texts.judge();
            assert_eq!(broken.len(), usize::from(!word.is_empty()), "{broken:?}");
            assert!(broken.iter().all(|reason| reason.contains(word)));
        }
        assert_eq!(Texts::parse("texts 1 2 3 4 5 6"), None);
    }
}
