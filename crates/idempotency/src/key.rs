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
//! numbers as `serde_json` writes them where it can keep them, strings with no more
//! escapes than needed. It never changes, since keys that are stored are made of it.

use std::fmt;

use agentos_core::{Digest, DigestBuilder, IdempotencyKey, LimitExceeded, TaskId};
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use crate::error::JsonError;
use crate::limits::{JSON_BYTES_MAX, JSON_DEPTH_MAX};

/// JSON in its canonical form.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CanonicalJson(Vec<u8>);

impl CanonicalJson {
    /// The canonical form of a value. It is as exact as the value is: `serde_json`
    /// keeps integers beyond 64 bits as floats.
    ///
    /// # Errors
    ///
    /// [`JsonError::LimitExceeded`].
    pub fn of_value(value: &Value) -> Result<CanonicalJson, JsonError> {
        let mut out = Vec::new();
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
        let raw: &RawValue = serde_json::from_str(text)?;
        let mut out = Vec::with_capacity(text.len());
        write_raw(raw, 0, &mut out)?;
        CanonicalJson::bounded(out)
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

/// The key of a tool call: its scope (a task, or shared by all), the tool, the digest
/// of everything that the call consists of, and which one of identical calls it is.
pub fn ledger_key(
    scope: Option<&TaskId>,
    tool: &str,
    call: &Digest,
    occurrence: u64,
) -> IdempotencyKey {
    let digest = DigestBuilder::new("tool ledger key")
        .optional(scope.map(|task| task.as_str().as_bytes()))
        .bytes(tool.as_bytes())
        .bytes(call.as_bytes())
        .number(occurrence)
        .finish();
    IdempotencyKey::of_ledger(&digest)
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
        Value::Number(number) => write_number(&number.to_string(), out)?,
        Value::String(text) => serde_json::to_writer(out, text)?,
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
                serde_json::to_writer(&mut *out, name)?;
                out.push(b':');
                write_value(member, depth, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// Writes what `serde_json` has found to be JSON, and has not interpreted.
fn write_raw(raw: &RawValue, depth: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'[') => {
            let mut failure = None;
            let elements = Elements {
                depth: deeper(depth)?,
                out,
                failure: &mut failure,
            };
            let walked = serde_json::Deserializer::from_str(text).deserialize_seq(elements);
            failure.map_or(Ok(()), Err)?;
            walked?;
        }
        Some(b'{') => {
            let depth = deeper(depth)?;
            let mut members = serde_json::Deserializer::from_str(text).deserialize_map(Members)?;
            members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            out.push(b'{');
            let mut last = None;
            for (name, member) in members {
                if last.as_ref() == Some(&name) {
                    return Err(JsonError::DuplicateMember { name });
                }
                if last.is_some() {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, &name)?;
                out.push(b':');
                write_raw(member, depth, out)?;
                last = Some(name);
            }
            out.push(b'}');
        }
        Some(b'"') if text.contains('\\') => {
            let decoded: String = serde_json::from_str(text)?;
            serde_json::to_writer(out, &decoded)?;
        }
        Some(b'-' | b'0'..=b'9') => write_number(text, out)?,
        // A string without escapes, or a word.
        _ => out.extend_from_slice(text.as_bytes()),
    }
    Ok(())
}

/// Writes the elements of an array one after the other.
struct Elements<'o> {
    depth: usize,
    out: &'o mut Vec<u8>,
    /// Why it ended early, if that was not for the JSON's sake.
    failure: &'o mut Option<JsonError>,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        self.out.push(b'[');
        let mut is_first = true;
        while let Some(element) = elements.next_element::<&RawValue>()? {
            if !is_first {
                self.out.push(b',');
            }
            is_first = false;
            if let Err(error) = write_raw(element, self.depth, self.out) {
                *self.failure = Some(error);
                return Err(A::Error::custom("an element has no canonical form"));
            }
        }
        self.out.push(b']');
        Ok(())
    }
}

/// Takes the members of an object as they come.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

/// Writes a number, given as JSON.
fn write_number(text: &str, out: &mut Vec<u8>) -> Result<(), JsonError> {
    if !text.contains(['.', 'e', 'E']) {
        // There is no integer minus zero: readers take it for a float.
        let text = if text == "-0" { "-0.0" } else { text };
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    let exact = Decimal::of(text)?;
    // What a float keeps is written as `serde_json` writes that float, so that a
    // value and its text have one form.
    let float = text.parse().ok().and_then(Number::from_f64);
    if let Some(float) = float.map(|float| float.to_string())
        && Decimal::of(&float)? == exact
    {
        out.extend_from_slice(float.as_bytes());
        return Ok(());
    }
    exact.write(out);
    Ok(())
}

/// The exact value of a number with a fraction or an exponent.
#[derive(PartialEq, Eq)]
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
            let number = text.chars().take(40).collect();
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
