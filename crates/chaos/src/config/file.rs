//! What may stand in the file. Pure, but for the variables of the environment that
//! it asks for.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use agentos_tracer::Fault;
use serde::Deserialize;
use toml::Spanned;

use super::template::Template;
use crate::crash::STRIKES_MAX;

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contents {
    pub(super) name: Name,
    pub(super) goal: Option<String>,
    pub(super) size: Option<u64>,
    pub(super) smallest: Option<Spanned<u64>>,
    pub(super) program: Program,
    pub(super) prepare: Option<Command>,
    pub(super) check: Command,
    pub(super) strikes: Spanned<Strikes>,
    #[serde(default)]
    pub(super) limits: Limits,
}

/// What is struck.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "RawProgram")]
pub(super) struct Program {
    pub(super) command: Command,
    pub(super) ack: Option<Prefix>,
    pub(super) may_hang: bool,
}

/// A program with arguments, a place and surroundings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Command {
    pub(super) argv: Argv,
    pub(super) cwd: Option<Template>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, Template>,
}

/// As [`Command`] and [`Program`] stand in one table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProgram {
    argv: Argv,
    cwd: Option<Template>,
    #[serde(default)]
    env: BTreeMap<String, Template>,
    ack: Option<Prefix>,
    #[serde(default)]
    may_hang: bool,
}

/// What is to be struck.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Strikes {
    #[serde(default)]
    pub(super) kills: u32,
    #[serde(default)]
    pub(super) points: bool,
    #[serde(default)]
    pub(super) calls: bool,
    #[serde(default)]
    pub(super) faults: Vec<FaultName>,
    pub(super) budget: Option<usize>,
}

/// How long things may take, in milliseconds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) patience_ms: Option<NonZeroU64>,
    pub(super) command_ms: Option<NonZeroU64>,
}

/// One line that is not empty.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Name(String);

/// A beginning of a line that is not empty.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Prefix(String);

/// A program and its arguments.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Vec<Template>")]
pub(super) struct Argv {
    pub(super) program: Template,
    pub(super) arguments: Vec<Template>,
}

/// A fault by the word that strikes use.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct FaultName(pub(super) Fault);

impl Contents {
    /// Reads the file, or says what is wrong at which byte.
    pub(super) fn parse(text: &str) -> Result<Contents, (usize, String)> {
        let contents: Contents = toml::from_str(text).map_err(|error| {
            let place = error.span().map_or(0, |span| span.start);
            (place, one_line(error.message()))
        })?;
        let strikes = contents.strikes.get_ref();
        if strikes.kills == 0 && !strikes.points && !strikes.calls && strikes.faults.is_empty() {
            let words = "no strike is asked for: name kills, points, calls or faults";
            return Err((contents.strikes.span().start, words.to_owned()));
        }
        if STRIKES_MAX < usize::try_from(strikes.kills).unwrap_or(usize::MAX) {
            let words = format!("{} kills are more than {STRIKES_MAX}", strikes.kills);
            return Err((contents.strikes.span().start, words));
        }
        if let (Some(smallest), Some(size)) = (&contents.smallest, contents.size)
            && *smallest.get_ref() > size
        {
            let words = format!("the smallest size is larger than the size, {size}");
            return Err((smallest.span().start, words));
        }
        Ok(contents)
    }

    /// The variables of the environment that it asks for, with their values.
    pub(super) fn variables(&self) -> BTreeMap<String, String> {
        let commands = [Some(&self.program.command), self.prepare.as_ref()];
        let commands = commands.into_iter().flatten().chain([&self.check]);
        commands
            .flat_map(Command::templates)
            .flat_map(Template::variables)
            .collect()
    }
}

impl Command {
    fn templates(&self) -> impl Iterator<Item = &Template> {
        [&self.argv.program]
            .into_iter()
            .chain(&self.argv.arguments)
            .chain(&self.cwd)
            .chain(self.env.values())
    }
}

impl From<RawProgram> for Program {
    fn from(raw: RawProgram) -> Program {
        Program {
            command: Command {
                argv: raw.argv,
                cwd: raw.cwd,
                env: raw.env,
            },
            ack: raw.ack,
            may_hang: raw.may_hang,
        }
    }
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Name, &'static str> {
        if text.trim().is_empty() || text.chars().any(char::is_control) {
            Err("a name is one line that is not empty")
        } else {
            Ok(Name(text))
        }
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Prefix {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Prefix, &'static str> {
        if text.is_empty() || text.contains('\n') {
            Err("what acknowledgements begin with is a part of a line, and not empty")
        } else {
            Ok(Prefix(text))
        }
    }
}

impl Prefix {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<Vec<Template>> for Argv {
    type Error = &'static str;

    fn try_from(all: Vec<Template>) -> Result<Argv, &'static str> {
        let mut all = all.into_iter();
        match all.next() {
            Some(program) => Ok(Argv {
                program,
                arguments: all.collect(),
            }),
            None => Err("a command has a program"),
        }
    }
}

impl TryFrom<String> for FaultName {
    type Error = String;

    fn try_from(text: String) -> Result<FaultName, String> {
        match text.parse() {
            Ok(fault) => Ok(FaultName(fault)),
            Err(_) => Err(format!(
                "{text:?} is no fault: EIO, ENOSPC, EINTR, short are"
            )),
        }
    }
}

fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join(", ")
}
