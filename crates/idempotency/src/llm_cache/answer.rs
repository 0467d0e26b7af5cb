//! Answers: what a caller gives to be stored, and what it gets.
//!
//! An answer is kept in the form that its type says: bytes and text as they are,
//! everything else as JSON. What would not come back as it was given is not stored.

use std::time::Duration;

use agentos_core::{BoxError, IdempotencyKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::envelope::{AnswerFormat, Finish, Usage};
use super::error::NotStored;

/// What a model answered, and what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct LlmAnswer<A> {
    /// The answer.
    pub body: A,
    /// What it cost, if known.
    pub usage: Option<Usage>,
    /// Why the model stopped.
    pub finish: Finish,
    /// Whether it may be stored; `false` keeps it out whatever the cache's predicate
    /// says.
    pub keep: bool,
    /// How long it counts.
    pub ttl: Ttl,
}

impl<A> LlmAnswer<A> {
    /// An answer of which nothing else is known.
    pub fn new(body: A) -> LlmAnswer<A> {
        LlmAnswer {
            body,
            usage: None,
            finish: Finish::Unsaid,
            keep: true,
            ttl: Ttl::Default,
        }
    }

    /// Says what it cost.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> LlmAnswer<A> {
        self.usage = Some(usage);
        self
    }

    /// Says why the model stopped.
    #[must_use]
    pub fn finish(mut self, finish: Finish) -> LlmAnswer<A> {
        self.finish = finish;
        self
    }

    /// Says whether it may be stored.
    #[must_use]
    pub fn keep(mut self, keep: bool) -> LlmAnswer<A> {
        self.keep = keep;
        self
    }

    /// Says how long it counts.
    #[must_use]
    pub fn ttl(mut self, ttl: Ttl) -> LlmAnswer<A> {
        self.ttl = ttl;
        self
    }

    /// What the caller who paid for it gets.
    pub(super) fn given(self, key: &IdempotencyKey, not_stored: Option<NotStored>) -> Cached<A> {
        Cached {
            body: self.body,
            usage: self.usage,
            finish: self.finish,
            key: key.clone(),
            origin: Origin::Generated,
            not_stored,
        }
    }
}

/// How long a stored answer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ttl {
    /// As long as the cache is configured to keep answers.
    #[default]
    Default,
    /// So long, from when it is stored. Zero is refused: the answer is not stored.
    For(Duration),
    /// For ever.
    Never,
}

/// A type that can be stored as an answer.
///
/// `Vec<u8>` and `String` are stored as they are, and a hit copies nothing. A
/// [`Value`] is stored as JSON, and so is any type inside [`Json`].
pub trait AnswerBody: Sized {
    /// In which form it is stored. What is stored in another one is not read.
    const FORMAT: AnswerFormat;

    /// The bytes to store.
    ///
    /// # Errors
    ///
    /// When it cannot be written in this form.
    fn to_bytes(&self) -> Result<Vec<u8>, BoxError>;

    /// Reads what [`AnswerBody::to_bytes`] gave.
    ///
    /// # Errors
    ///
    /// When the bytes are not such an answer.
    fn from_bytes(bytes: Vec<u8>) -> Result<Self, BoxError>;

    /// Checks that `bytes`, which this answer gave, read as the same answer.
    ///
    /// # Errors
    ///
    /// When they do not.
    fn check(&self, bytes: &[u8]) -> Result<(), BoxError>;
}

impl AnswerBody for Vec<u8> {
    const FORMAT: AnswerFormat = AnswerFormat::Bytes;

    fn to_bytes(&self) -> Result<Vec<u8>, BoxError> {
        Ok(self.clone())
    }

    fn from_bytes(bytes: Vec<u8>) -> Result<Vec<u8>, BoxError> {
        Ok(bytes)
    }

    fn check(&self, _: &[u8]) -> Result<(), BoxError> {
        Ok(())
    }
}

impl AnswerBody for String {
    const FORMAT: AnswerFormat = AnswerFormat::Text;

    fn to_bytes(&self) -> Result<Vec<u8>, BoxError> {
        Ok(self.clone().into_bytes())
    }

    fn from_bytes(bytes: Vec<u8>) -> Result<String, BoxError> {
        Ok(String::from_utf8(bytes)?)
    }

    fn check(&self, _: &[u8]) -> Result<(), BoxError> {
        Ok(())
    }
}

impl AnswerBody for Value {
    const FORMAT: AnswerFormat = AnswerFormat::Json;

    fn to_bytes(&self) -> Result<Vec<u8>, BoxError> {
        Ok(serde_json::to_vec(self)?)
    }

    fn from_bytes(bytes: Vec<u8>) -> Result<Value, BoxError> {
        Ok(serde_json::from_slice(&bytes)?)
    }

    fn check(&self, bytes: &[u8]) -> Result<(), BoxError> {
        // A value can be nested deeper than it is read.
        same(self == &serde_json::from_slice::<Value>(bytes)?)
    }
}

/// Any type that serde knows, stored as JSON.
///
/// Before it is stored it is read back, and both are compared as JSON: a type that
/// cannot be read, or that reads as something else, is not stored. What a type
/// leaves out when it is written (`#[serde(skip)]`) is missing from the JSON of both,
/// and that is not noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned> AnswerBody for Json<T> {
    const FORMAT: AnswerFormat = AnswerFormat::Json;

    fn to_bytes(&self) -> Result<Vec<u8>, BoxError> {
        Ok(serde_json::to_vec(&self.0)?)
    }

    fn from_bytes(bytes: Vec<u8>) -> Result<Json<T>, BoxError> {
        Ok(Json(serde_json::from_slice(&bytes)?))
    }

    fn check(&self, bytes: &[u8]) -> Result<(), BoxError> {
        let read: T = serde_json::from_slice(bytes)?;
        same(serde_json::to_value(&self.0)? == serde_json::to_value(&read)?)
    }
}

fn same(holds: bool) -> Result<(), BoxError> {
    if holds {
        Ok(())
    } else {
        Err("it reads as another answer".into())
    }
}

/// An answer, and where it came from.
#[derive(Debug)]
pub struct Cached<A> {
    /// The answer.
    pub body: A,
    /// What it cost when it was paid for, if known.
    pub usage: Option<Usage>,
    /// Why the model stopped.
    pub finish: Finish,
    /// The key that it has, or would have.
    pub key: IdempotencyKey,
    /// Where it came from.
    pub origin: Origin,
    /// Why it is not stored; `None`: it is.
    pub not_stored: Option<NotStored>,
}

impl<A> Cached<A> {
    /// Whether it is stored: the next one who asks gets it.
    pub fn stored(&self) -> bool {
        self.not_stored.is_none()
    }

    /// Whether this call did not ask the model.
    pub fn is_hit(&self) -> bool {
        matches!(self.origin, Origin::Recorded | Origin::Awaited)
    }
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It was recorded already.
    Recorded,
    /// Somebody else was asking the model when this call looked, and recorded it.
    Awaited,
    /// This call asked the model.
    Generated,
    /// This call asked the model, too late: its permit was lost, and another one has
    /// recorded an answer. That one is given, so that all callers have the same.
    Superseded,
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    fn round_trip<A: AnswerBody + PartialEq + std::fmt::Debug>(answer: A) {
        let bytes = answer.to_bytes().unwrap();
        answer.check(&bytes).unwrap();
        assert_eq!(A::from_bytes(bytes).unwrap(), answer);
    }

    #[test]
    fn every_form_comes_back() {
        round_trip(vec![0_u8, 255, 128]);
        round_trip(Vec::<u8>::new());
        round_trip("naïve".to_string());
        round_trip(String::new());
        round_trip(Value::Null);
        round_trip(json!({"b": [1, 0.1, -0.0, u64::MAX, i64::MIN], "a": null}));
        round_trip(Json(Some(("text".to_string(), 7_u32))));
        round_trip(Json(()));
    }

    #[test]
    fn a_value_that_is_nested_too_deeply_to_be_read_is_noticed() {
        let deep = (0..300).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        let bytes = deep.to_bytes().unwrap();
        assert!(deep.check(&bytes).is_err());
    }

    #[test]
    fn a_type_that_reads_as_something_else_is_noticed() {
        #[derive(Serialize, Deserialize)]
        struct Odd {
            #[serde(rename(serialize = "written", deserialize = "read"), default)]
            word: String,
        }
        let odd = Json(Odd { word: "x".into() });
        let bytes = odd.to_bytes().unwrap();
        assert_eq!(
            odd.check(&bytes).unwrap_err().to_string(),
            "it reads as another answer"
        );
        // JSON has no such number: it is written as null, which is none.
        let none = Json(f64::NAN);
        assert!(none.check(&none.to_bytes().unwrap()).is_err());
    }
}
