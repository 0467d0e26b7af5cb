//! One strike, asked for again: by a line that is typed into a shell.
//!
//! The line sets variables of the environment and runs the test that found the
//! violation. A drive that sees them runs that strike and nothing else.

use super::strike::Strike;

/// The variable with the strike that alone is to be run.
pub const STRIKE_VARIABLE: &str = "AGENTOS_CHAOS_STRIKE";

/// The variable with the size of its workload; the subject's own without it.
pub const SIZE_VARIABLE: &str = "AGENTOS_CHAOS_SIZE";

/// The variable with its seed; the drive's own without it.
pub const SEED_VARIABLE: &str = "AGENTOS_CHAOS_SEED";

/// What a user asked for again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) strike: Strike,
    pub(crate) size: Option<u64>,
    pub(crate) seed: Option<u64>,
}

/// Reads the variables; `None` when no strike is named.
pub(crate) fn asked(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Asked>, String> {
    let Some(strike) = variable(STRIKE_VARIABLE) else {
        return Ok(None);
    };
    let number = |name: &str| match variable(name) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!("{name} is no number: {text:?}")),
        },
    };
    Ok(Some(Asked {
        strike: strike
            .parse()
            .map_err(|error| format!("{STRIKE_VARIABLE}: {error}"))?,
        size: number(SIZE_VARIABLE)?,
        seed: number(SEED_VARIABLE)?,
    }))
}

/// The line for a test of this name.
pub(crate) fn line(test: &str, strike: &Strike, size: u64, seed: u64) -> String {
    let features = match strike {
        // Without it the program that the test builds would have no points.
        Strike::Point { .. } if cfg!(feature = "crash-points") => {
            " --features agentos-chaos/crash-points"
        }
        _ => "",
    };
    let strike = quoted(&strike.to_string());
    let test = quoted(test);
    format!(
        "{STRIKE_VARIABLE}={strike} {SIZE_VARIABLE}={size} {SEED_VARIABLE}={seed} cargo test{features} {test}"
    )
}

/// As one word of a shell.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.:/+,=".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Asked>, String> {
        asked(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_line_says_what_it_asks_for() {
        let strike: Strike = "point:it's saved#3".parse().unwrap();
        let features = match cfg!(feature = "crash-points") {
            true => " --features agentos-chaos/crash-points",
            false => "",
        };
        let expected = r"AGENTOS_CHAOS_STRIKE='point:it'\''s saved#3' AGENTOS_CHAOS_SIZE=2 AGENTOS_CHAOS_SEED=8141 cargo test";
        assert_eq!(
            line("tests::a_log", &strike, 2, 8141),
            format!("{expected}{features} tests::a_log")
        );
        let variables = [
            (STRIKE_VARIABLE, "point:it's saved#3"),
            (SIZE_VARIABLE, "2"),
            (SEED_VARIABLE, "8141"),
        ];
        let asked = Asked {
            strike,
            size: Some(2),
            seed: Some(8141),
        };
        assert_eq!(read(&variables), Ok(Some(asked)));
    }

    #[test]
    fn what_cannot_be_read_is_told_by_its_name() {
        assert_eq!(read(&[(SIZE_VARIABLE, "2")]), Ok(None));
        let error = read(&[(STRIKE_VARIABLE, "none"), (SIZE_VARIABLE, "x")]);
        assert_eq!(
            error,
            Err("AGENTOS_CHAOS_SIZE is no number: \"x\"".to_owned())
        );
        let error = read(&[(STRIKE_VARIABLE, "x")]).unwrap_err();
        assert!(
            error.starts_with("AGENTOS_CHAOS_STRIKE: \"x\" is no strike"),
            "{error}"
        );
    }
}
