//! Text with placeholders, which become paths and numbers of a run.
//!
//! `{dir}` is the run's fresh directory, `{config_dir}` that of the file, `{size}`
//! the size of the workload, `{seed}` the run's seed, `{env:NAME}` a variable of the
//! environment in which the file was read. A brace of its own is written twice.

use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;

/// Text in which places are named.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Dir,
    ConfigDir,
    Size,
    Seed,
    Variable { name: String, value: String },
}

/// What the placeholders of one run stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'run> {
    pub(super) dir: &'run Path,
    pub(super) config_dir: &'run Path,
    pub(super) size: u64,
    pub(super) seed: u64,
}

impl Template {
    /// The text of one run.
    pub(super) fn expand(&self, places: Places<'_>) -> OsString {
        let mut text = OsString::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(piece) => text.push(piece),
                Piece::Dir => text.push(places.dir),
                Piece::ConfigDir => text.push(places.config_dir),
                Piece::Size => text.push(places.size.to_string()),
                Piece::Seed => text.push(places.seed.to_string()),
                Piece::Variable { value, .. } => text.push(value),
            }
        }
        text
    }

    /// The variables of the environment in it, with their values.
    pub(super) fn variables(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Variable { name, value } => Some((name.clone(), value.clone())),
            _ => None,
        })
    }

    fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let (brace, after) = (&rest[at..=at], &rest[at + 1..]);
            if let Some(after) = after.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err("a brace is closed that is not open; }} is a brace".to_owned());
            }
            let Some((name, after)) = after.split_once('}') else {
                return Err("a brace is open that is not closed; {{ is a brace".to_owned());
            };
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
            pieces.push(place(name, &variable)?);
            rest = after;
        }
        plain.push_str(rest);
        pieces.push(Piece::Text(plain));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        Ok(Template(pieces))
    }
}

fn place(name: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Piece, String> {
    match name {
        "dir" => Ok(Piece::Dir),
        "config_dir" => Ok(Piece::ConfigDir),
        "size" => Ok(Piece::Size),
        "seed" => Ok(Piece::Seed),
        _ => match name.strip_prefix("env:") {
            Some(name) => match variable(name) {
                Some(value) => Ok(Piece::Variable {
                    name: name.to_owned(),
                    value,
                }),
                None => Err(format!("the variable {name} is not set to any text")),
            },
            None => Err(format!(
                "there is no placeholder {{{name}}}: {{dir}}, {{config_dir}}, {{size}}, {{seed}} and {{env:NAME}} are"
            )),
        },
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Template, String> {
        // A name that no variable can have would be a panic.
        let possible = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
        Template::parse(&text, |name| {
            possible(name).then(|| std::env::var(name).ok()).flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let template = Template::parse(text, |name| (name == "HOME").then(|| "/h".to_owned()))?;
        let places = Places {
            dir: Path::new("/run"),
            config_dir: Path::new("/etc"),
            size: 3,
            seed: 8141,
        };
        Ok(template.expand(places).into_string().unwrap())
    }

    #[test]
    fn placeholders_become_what_they_stand_for() {
        let text = "{dir}/a {config_dir}{size}:{seed} {env:HOME} {{dir}} }}{{";
        let expected = "/run/a /etc3:8141 /h {dir} }{";
        assert_eq!(expanded(text).unwrap(), expected);
        assert_eq!(expanded("").unwrap(), "");
    }

    #[test]
    fn braces_that_do_not_fit_are_refused() {
        for text in [
            "{",
            "}",
            "{dir",
            "dir}",
            "{}",
            "{{{dir}}",
            "{env:NOPE}",
            "{env:}",
            "{ dir}",
        ] {
            assert!(expanded(text).is_err(), "{text}");
        }
    }
}
