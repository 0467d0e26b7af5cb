//! Canonical requests, and the keys made of them.
//!
//! Two pieces of JSON have the same canonical form exactly if they differ in nothing
//! but spacing, the order of members, and the spelling of strings and numbers: `"A"`
//! and its escape, `1e2` and `100.0`. A number without fraction and exponent is an
//! integer, of any size, and another one than the same value with them: `1` and `1.0`
//! differ, as they do for servers. Digits count also where a 64-bit float would lose
//! them.
//!
//! The form is JSON itself: no spacing, members ordered by the bytes of their names,
//! strings with no more escapes than needed, numbers with a fraction or an exponent as
//! one digit, the others behind a point, and an exponent: `1.5e0`. It never changes,
//! since keys that are stored are made of it; so it does not rest on how a version of
//! `serde_json` writes floats.

use std::borrow::Cow;
use std::fmt;

use agentos_core::{Digest, DigestBuilder, IdempotencyKey, LimitExceeded, TaskId};
use serde::de::{Error as _, IgnoredAny};
use serde_json::{Number, Value};

use crate::error::JsonError;
use crate::limits::{JSON_BYTES_MAX, JSON_DEPTH_MAX};

/// JSON in its canonical form.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CanonicalJson(Vec<u8>);

impl CanonicalJson {
    /// The canonical form of a value.
    ///
    /// `serde_json` keeps integers beyond 64 bits as floats, so that different ones become
    /// one. A value with a float that may have been such an integer is refused: all of
    /// 2^64 and more, and of -2^63 and less. [`CanonicalJson::of_text`] takes them exactly.
    ///
    /// # Errors
    ///
    /// [`JsonError::Inexact`], and [`JsonError::LimitExceeded`].
    pub fn of_value(value: &Value) -> Result<CanonicalJson, JsonError> {
        let mut out = Vec::with_capacity(512);
        write_value(value, 0, &mut out)?;
        CanonicalJson::bounded(out)
    }

    /// The canonical form of JSON text, in which nothing is lost.
    ///
    /// # Errors
    ///
    /// [`JsonError`].
    pub fn of_text(text: &str) -> Result<CanonicalJson, JsonError> {
        within("JSON bytes", text.len(), JSON_BYTES_MAX)?;
        // From here on it is known to be JSON, and only walked over.
        let IgnoredAny = serde_json::from_str(text)?;
        let mut walk = Walk {
            text,
            at: 0,
            out: Vec::with_capacity(text.len()),
        };
        walk.value(0)?;
        CanonicalJson::bounded(walk.out)
    }

    /// The canonical form of JSON text, and the text as a value: what goes by the one
    /// must be readable by who looks at the other.
    ///
    /// # Errors
    ///
    /// [`JsonError`]: also for what a value cannot hold at all, such as `1e400`, or a
    /// nesting of 128.
    pub(crate) fn with_value(text: &str) -> Result<(CanonicalJson, Value), JsonError> {
        let form = CanonicalJson::of_text(text)?;
        Ok((form, serde_json::from_str(text)?))
    }

    /// The canonical form of JSON text, given as bytes.
    ///
    /// # Errors
    ///
    /// [`JsonError`].
    pub fn of_bytes(bytes: &[u8]) -> Result<CanonicalJson, JsonError> {
        within("JSON bytes", bytes.len(), JSON_BYTES_MAX)?;
        CanonicalJson::of_text(std::str::from_utf8(bytes)?)
    }

    fn bounded(out: Vec<u8>) -> Result<CanonicalJson, JsonError> {
        within("canonical JSON bytes", out.len(), JSON_BYTES_MAX)?;
        Ok(CanonicalJson(out))
    }

    /// As UTF-8.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As UTF-8.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        DigestBuilder::new("canonical json").bytes(&self.0).finish()
    }
}

impl fmt::Debug for CanonicalJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may be a prompt, and is not shown.
        write!(f, "CanonicalJson({} bytes)", self.0.len())
    }
}

/// The key of a model call: its scope (a task, or shared by all), what kind of
/// operation it is, and the digest of the whole request.
pub fn cache_key(scope: Option<&TaskId>, operation: &str, request: &Digest) -> IdempotencyKey {
    let digest = DigestBuilder::new("llm cache key")
        .optional(scope.map(|task| task.as_str().as_bytes()))
        .bytes(operation.as_bytes())
        .bytes(request.as_bytes())
        .finish();
    IdempotencyKey::of_cache(&digest)
}

fn within(name: &'static str, value: usize, limit: usize) -> Result<(), LimitExceeded> {
    if value <= limit {
        return Ok(());
    }
    Err(LimitExceeded {
        name,
        limit: limit as u64,
        value: value as u64,
    })
}

/// The depth inside of something at `depth`.
fn deeper(depth: usize) -> Result<usize, LimitExceeded> {
    within("JSON depth", depth + 1, JSON_DEPTH_MAX)?;
    Ok(depth + 1)
}

fn write_value(value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => {
            refuse_rounded(number)?;
            write_number(&number.to_string(), out)?;
        }
        Value::String(text) => write_text(text, out)?,
        Value::Array(items) => {
            let depth = deeper(depth)?;
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if 0 < index {
                    out.push(b',');
                }
                write_value(item, depth, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let depth = deeper(depth)?;
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            // A feature of `serde_json` that another crate may turn on keeps them in
            // the order in which they came.
            members.sort_unstable_by_key(|(name, _)| name.as_bytes());
            out.push(b'{');
            for (index, (name, member)) in members.into_iter().enumerate() {
                if 0 < index {
                    out.push(b',');
                }
                write_text(name, out)?;
                out.push(b':');
                write_value(member, depth, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// Refuses a float that may stand for an integer which no 64 bits hold.
fn refuse_rounded(number: &Number) -> Result<(), JsonError> {
    // The float nearest to the first integer that does not fit, at either end.
    const TOO_LARGE: f64 = 18_446_744_073_709_551_616.0;
    const TOO_SMALL: f64 = -9_223_372_036_854_775_808.0;
    match number.as_f64() {
        Some(float) if number.is_f64() && !(TOO_SMALL < float && float < TOO_LARGE) => {
            let number = number.to_string();
            Err(JsonError::Inexact { number })
        }
        _ => Ok(()),
    }
}

/// So much of a request is shown in an error, at most.
const CHARS_SHOWN: usize = 40;

/// Writes a string as `serde_json` does. Most have nothing to escape, which is seen many
/// bytes at a time.
fn write_text(text: &str, out: &mut Vec<u8>) -> Result<(), JsonError> {
    let is_special = |byte: &u8| (*byte < b' ') | (*byte == b'"') | (*byte == b'\\');
    let special = text.as_bytes().iter().map(is_special);
    if special.fold(false, |any, one| any | one) {
        return Ok(serde_json::to_writer(out, text)?);
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Ok(())
}

/// Goes once over text that is JSON, and writes its canonical form.
struct Walk<'t> {
    text: &'t str,
    at: usize,
    out: Vec<u8>,
}

/// A member that is written: its name, and from where to where.
struct Member<'t> {
    name: Cow<'t, str>,
    from: usize,
    to: usize,
}

impl<'t> Walk<'t> {
    /// The next byte that is not spacing.
    fn peek(&mut self) -> Result<u8, JsonError> {
        let rest = &self.text.as_bytes()[self.at..];
        let spacing = rest.iter().take_while(|byte| b" \t\r\n".contains(byte));
        self.at += spacing.count();
        let byte = self.text.as_bytes().get(self.at);
        byte.copied().ok_or_else(disagreement)
    }

    /// Whether the next byte is this one; then it is behind.
    fn takes(&mut self, byte: u8) -> Result<bool, JsonError> {
        let found = self.peek()? == byte;
        self.at += usize::from(found);
        Ok(found)
    }

    /// The bytes from here on that fit.
    fn take_while(&mut self, fits: impl Fn(u8) -> bool) -> &'t str {
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|byte| !fits(byte));
        let token = &rest[..end.unwrap_or(rest.len())];
        self.at += token.len();
        token
    }

    fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        match self.peek()? {
            b'[' => self.array(deeper(depth)?),
            b'{' => self.object(deeper(depth)?),
            b'"' => {
                let text = self.string()?;
                self.write_string(&text)
            }
            b'-' | b'0'..=b'9' => {
                let number = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
                let number = self.take_while(number);
                write_number(number, &mut self.out)
            }
            _ => {
                let word = self.take_while(|byte| byte.is_ascii_lowercase());
                if word.is_empty() {
                    return Err(disagreement());
                }
                self.out.extend_from_slice(word.as_bytes());
                Ok(())
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        self.at += 1;
        self.out.push(b'[');
        if !self.takes(b']')? {
            self.value(depth)?;
            while self.takes(b',')? {
                self.out.push(b',');
                self.value(depth)?;
            }
            self.at += 1;
        }
        self.out.push(b']');
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), JsonError> {
        self.at += 1;
        self.out.push(b'{');
        let begin = self.out.len();
        let mut members = Vec::new();
        if !self.takes(b'}')? {
            loop {
                let from = self.out.len();
                self.peek()?;
                let name = self.string()?;
                self.write_string(&name)?;
                self.out.push(b':');
                self.peek()?;
                self.at += 1;
                self.value(depth)?;
                let to = self.out.len();
                members.push(Member { name, from, to });
                if !self.takes(b',')? {
                    break;
                }
                self.out.push(b',');
            }
            self.at += 1;
        }
        self.order(begin, members)?;
        self.out.push(b'}');
        Ok(())
    }

    /// Orders the members that were written from `begin` on as they came.
    fn order(&mut self, begin: usize, mut members: Vec<Member<'t>>) -> Result<(), JsonError> {
        let is_ordered = members.is_sorted_by(|one, next| one.name < next.name);
        if is_ordered {
            return Ok(());
        }
        members.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let twice = members.windows(2).find(|pair| pair[0].name == pair[1].name);
        if let Some([member, _]) = twice {
            // It is a piece of the request: no more than a reader needs.
            let name = member.name.chars().take(CHARS_SHOWN).collect();
            return Err(JsonError::DuplicateMember { name });
        }
        let mut ordered = Vec::with_capacity(self.out.len() - begin);
        for member in members {
            if !ordered.is_empty() {
                ordered.push(b',');
            }
            ordered.extend_from_slice(&self.out[member.from..member.to]);
        }
        self.out.truncate(begin);
        self.out.extend_from_slice(&ordered);
        Ok(())
    }

    /// The string that begins here.
    fn string(&mut self) -> Result<Cow<'t, str>, JsonError> {
        let rest = &self.text[self.at..];
        let mut escaped = false;
        let inside = rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let inside = inside.ok_or_else(disagreement)?;
        let token = &rest[..inside + 2];
        self.at += token.len();
        let text = &token[1..=inside];
        if text.contains('\\') {
            return Ok(Cow::Owned(serde_json::from_str(token)?));
        }
        Ok(Cow::Borrowed(text))
    }

    fn write_string(&mut self, text: &str) -> Result<(), JsonError> {
        Ok(serde_json::to_writer(&mut self.out, text)?)
    }
}

/// The walk does not find what was found to be there: a defect.
fn disagreement() -> JsonError {
    serde_json::Error::custom("it ends within a value").into()
}

/// Writes a number, given as JSON.
fn write_number(text: &str, out: &mut Vec<u8>) -> Result<(), JsonError> {
    // There is no integer minus zero: readers take it for a float.
    if text != "-0" && !text.contains(['.', 'e', 'E']) {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    Decimal::of(text)?.write(out);
    Ok(())
}

/// The exact value of a number with a fraction or an exponent.
struct Decimal {
    negative: bool,
    /// Without zeros at either end; empty for zero.
    digits: String,
    /// That of the first digit; 0 for zero.
    exponent: i64,
}

impl Decimal {
    fn of(text: &str) -> Result<Decimal, JsonError> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, text),
        };
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [integer, fraction].concat();
        let from_first = all.trim_start_matches('0');
        let digits = from_first.trim_end_matches('0');
        let leading_zeros = all.len() - from_first.len();
        let point = i64::try_from(integer.len()).ok();
        let shift = point
            .zip(i64::try_from(leading_zeros).ok())
            .map(|(point, zeros)| point - 1 - zeros);
        let first = exponent
            .parse::<i64>()
            .ok()
            .zip(shift)
            .and_then(|(exponent, shift)| exponent.checked_add(shift));
        let Some(exponent) = first else {
            let number = text.chars().take(CHARS_SHOWN).collect();
            return Err(JsonError::Exponent { number });
        };
        Ok(Decimal {
            negative,
            digits: digits.to_owned(),
            exponent: if digits.is_empty() { 0 } else { exponent },
        })
    }

    /// As a number with an exponent.
    fn write(&self, out: &mut Vec<u8>) {
        if self.negative {
            out.push(b'-');
        }
        let (first, rest) = self.digits.split_at(self.digits.len().min(1));
        out.extend_from_slice(if first.is_empty() {
            b"0"
        } else {
            first.as_bytes()
        });
        if !rest.is_empty() {
            out.push(b'.');
            out.extend_from_slice(rest.as_bytes());
        }
        out.extend_from_slice(format!("e{}", self.exponent).as_bytes());
    }
}
