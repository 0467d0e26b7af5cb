//! The bytes of a stored answer: the answer itself, and behind it what is known
//! about it.
//!
//! What describes the answer stands at its end, so that the answer is taken out
//! without being moved: a hit on a large answer costs no second copy. The last byte
//! is the format's version. Decoding reads any bytes without a panic, and allocates
//! nothing.

/// Format of stored answers that this build writes.
///
/// - 1: the answer; then, if known, its usage as three numbers of eight bytes, little
///   endian (prompt tokens, completion tokens, cost in millionths); then one byte each
///   for flags, for how the model ended, for the form of the answer, and for the
///   version.
pub(crate) const VERSION: u8 = 1;

/// The bytes that are always there: flags, end, form, version.
const FIXED_BYTES: usize = 4;
/// The bytes of the usage.
const USAGE_BYTES: usize = 3 * size_of::<u64>();
/// Flag: the usage is there.
const HAS_USAGE: u8 = 1;

/// What an answer cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the request.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Price, in millionths of whichever currency the caller reckons in.
    pub cost_micros: u64,
}

impl Usage {
    /// Tokens of request and answer together.
    pub const fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// In which form an answer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnswerFormat {
    /// JSON.
    Json,
    /// Text in UTF-8.
    Text,
    /// Bytes of the caller's own.
    Bytes,
}

impl AnswerFormat {
    const fn id(self) -> u8 {
        match self {
            AnswerFormat::Json => 1,
            AnswerFormat::Text => 2,
            AnswerFormat::Bytes => 3,
        }
    }

    fn from_id(id: u8) -> Option<AnswerFormat> {
        let all = [AnswerFormat::Json, AnswerFormat::Text, AnswerFormat::Bytes];
        all.into_iter().find(|format| format.id() == id)
    }
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Finish {
    /// The caller did not say.
    #[default]
    Unsaid,
    /// It had said everything, or asked for a tool.
    Complete,
    /// It ran into a limit: the answer is cut off.
    Truncated,
    /// It refused, or a filter did.
    Refused,
    /// Anything else.
    Other,
}

impl Finish {
    /// Reads the reason that a provider gives: the `finish_reason` of OpenAI, the
    /// `stop_reason` of Anthropic, the `finishReason` of Gemini. One that is not
    /// known is [`Finish::Other`].
    pub fn of_reason(reason: &str) -> Finish {
        match reason {
            "stop" | "tool_calls" | "function_call" => Finish::Complete,
            "end_turn" | "stop_sequence" | "tool_use" | "STOP" => Finish::Complete,
            "length" | "max_tokens" | "MAX_TOKENS" | "model_context_window_exceeded" => {
                Finish::Truncated
            }
            "content_filter" | "refusal" | "SAFETY" | "RECITATION" | "PROHIBITED_CONTENT"
            | "BLOCKLIST" | "SPII" => Finish::Refused,
            _ => Finish::Other,
        }
    }

    const fn id(self) -> u8 {
        match self {
            Finish::Unsaid => 0,
            Finish::Complete => 1,
            Finish::Truncated => 2,
            Finish::Refused => 3,
            Finish::Other => 4,
        }
    }

    fn from_id(id: u8) -> Option<Finish> {
        let all = [
            Finish::Unsaid,
            Finish::Complete,
            Finish::Truncated,
            Finish::Refused,
            Finish::Other,
        ];
        all.into_iter().find(|finish| finish.id() == id)
    }
}

/// An answer as it is stored: what [`KeyEntry::outcome`](agentos_core::KeyEntry)
/// holds under a key of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The form of the answer.
    pub format: AnswerFormat,
    /// Why the model stopped.
    pub finish: Finish,
    /// What it cost.
    pub usage: Option<Usage>,
    /// The answer; empty is an answer too.
    pub bytes: Vec<u8>,
}

impl StoredAnswer {
    /// The bytes that are stored.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = self.bytes;
        bytes.reserve_exact(USAGE_BYTES + FIXED_BYTES);
        let mut flags = 0;
        if let Some(usage) = self.usage {
            flags |= HAS_USAGE;
            for number in [
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.cost_micros,
            ] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&[flags, self.finish.id(), self.format.id(), VERSION]);
        bytes
    }

    /// Reads stored bytes, all of them.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError`] when they are not those of a stored answer.
    pub fn decode(mut bytes: Vec<u8>) -> Result<StoredAnswer, EnvelopeError> {
        let &version = bytes.last().ok_or(EnvelopeError::Short)?;
        if version != VERSION {
            return Err(EnvelopeError::Version {
                found: version,
                known: VERSION,
            });
        }
        let [flags, finish, format, _] = take(&mut bytes)?;
        let format = AnswerFormat::from_id(format).ok_or(EnvelopeError::Unknown("form"))?;
        let finish = Finish::from_id(finish).ok_or(EnvelopeError::Unknown("end"))?;
        let usage = match flags {
            0 => None,
            HAS_USAGE => {
                let cost_micros = u64::from_le_bytes(take(&mut bytes)?);
                let completion_tokens = u64::from_le_bytes(take(&mut bytes)?);
                let prompt_tokens = u64::from_le_bytes(take(&mut bytes)?);
                Some(Usage {
                    prompt_tokens,
                    completion_tokens,
                    cost_micros,
                })
            }
            _ => return Err(EnvelopeError::Unknown("flag")),
        };
        Ok(StoredAnswer {
            format,
            finish,
            usage,
            bytes,
        })
    }
}

/// Takes the last bytes off.
fn take<const N: usize>(bytes: &mut Vec<u8>) -> Result<[u8; N], EnvelopeError> {
    let &taken = bytes.last_chunk::<N>().ok_or(EnvelopeError::Short)?;
    bytes.truncate(bytes.len() - N);
    Ok(taken)
}

/// Bytes are not those of a stored answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// They end too early.
    #[error("a stored answer ends too early")]
    Short,
    /// Another build wrote them, newer than this one, or they are damaged.
    #[error("a stored answer has version {found}; this build reads {known}")]
    Version {
        /// The version of the bytes.
        found: u8,
        /// The version of this build.
        known: u8,
    },
    /// A word that has no meaning.
    #[error("a stored answer has an unknown {0}")]
    Unknown(&'static str),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USAGE: Usage = Usage {
        prompt_tokens: 0x0102,
        completion_tokens: 3,
        cost_micros: u64::MAX,
    };

    fn answer(bytes: &[u8], usage: Option<Usage>) -> StoredAnswer {
        StoredAnswer {
            format: AnswerFormat::Text,
            finish: Finish::Complete,
            usage,
            bytes: bytes.to_vec(),
        }
    }

    #[test]
    fn the_bytes_of_version_one_stay_readable() {
        let short = [b'h', b'i', 0, 1, 2, 1];
        assert_eq!(answer(b"hi", None).encode(), short);
        assert_eq!(
            StoredAnswer::decode(short.to_vec()),
            Ok(answer(b"hi", None))
        );
        let mut long = b"hi".to_vec();
        long.extend([2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        long.extend([255; 8]);
        long.extend([1, 1, 2, 1]);
        assert_eq!(answer(b"hi", Some(USAGE)).encode(), long);
        assert_eq!(StoredAnswer::decode(long), Ok(answer(b"hi", Some(USAGE))));
    }

    #[test]
    fn an_empty_answer_is_an_answer() {
        let encoded = answer(b"", None).encode();
        assert_eq!(StoredAnswer::decode(encoded), Ok(answer(b"", None)));
    }

    #[test]
    fn what_is_no_stored_answer_is_refused_by_name() {
        let decode = |bytes: &[u8]| StoredAnswer::decode(bytes.to_vec()).unwrap_err();
        assert_eq!(decode(&[]), EnvelopeError::Short);
        assert_eq!(decode(&[0, 2, 1]), EnvelopeError::Short);
        // The flag speaks of a usage, and only 23 bytes are there.
        let mut cut = vec![0; 23];
        cut.extend([1, 0, 2, 1]);
        assert_eq!(decode(&cut), EnvelopeError::Short);
        assert_eq!(
            decode(&[0, 0, 2, 9]),
            EnvelopeError::Version { found: 9, known: 1 }
        );
        assert_eq!(decode(&[0, 0, 4, 1]), EnvelopeError::Unknown("form"));
        assert_eq!(decode(&[0, 5, 2, 1]), EnvelopeError::Unknown("end"));
        assert_eq!(decode(&[2, 0, 2, 1]), EnvelopeError::Unknown("flag"));
    }

    #[test]
    fn the_reasons_of_providers_are_known() {
        for (reason, finish) in [
            ("stop", Finish::Complete),
            ("tool_use", Finish::Complete),
            ("length", Finish::Truncated),
            ("MAX_TOKENS", Finish::Truncated),
            ("content_filter", Finish::Refused),
            ("refusal", Finish::Refused),
            ("pause_turn", Finish::Other),
            ("", Finish::Other),
        ] {
            assert_eq!(Finish::of_reason(reason), finish, "{reason}");
        }
    }

    fn any_usage() -> impl Strategy<Value = Option<Usage>> {
        proptest::option::of((any::<u64>(), any::<u64>(), any::<u64>())).prop_map(|usage| {
            usage.map(|(prompt_tokens, completion_tokens, cost_micros)| Usage {
                prompt_tokens,
                completion_tokens,
                cost_micros,
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_stored_is_read_back(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            usage in any_usage(),
            format in 1_u8..4,
            finish in 0_u8..5,
        ) {
            let answer = StoredAnswer {
                format: AnswerFormat::from_id(format).unwrap(),
                finish: Finish::from_id(finish).unwrap(),
                usage,
                bytes,
            };
            prop_assert_eq!(StoredAnswer::decode(answer.clone().encode()), Ok(answer));
        }

        /// Whatever is read is written again as it was: no two answers share bytes.
        #[test]
        fn arbitrary_bytes_are_refused_or_read_exactly(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..64),
            tail in proptest::option::of((0_u8..3, 0_u8..6, 0_u8..5, 0_u8..3)),
        ) {
            if let Some((flags, finish, format, version)) = tail {
                bytes.extend([flags, finish, format, version]);
            }
            if let Ok(answer) = StoredAnswer::decode(bytes.clone()) {
                prop_assert_eq!(answer.encode(), bytes);
            }
        }
    }
}
