//! Digests: blake3 over length-prefixed parts.
//!
//! Every part is preceded by its length, so that no two different lists of
//! parts give the same bytes: `("ab", "c")` and `("a", "bc")` differ. The first
//! part says what is digested, so that no digest of one kind stands for another.

use std::fmt;
use std::ops::Deref;

/// A blake3 digest of 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; Digest::BYTES]);

impl Digest {
    /// Length of a digest, in bytes.
    pub const BYTES: usize = 32;

    /// The digest of plain bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// Takes a stored digest.
    pub const fn from_bytes(bytes: [u8; Digest::BYTES]) -> Digest {
        Digest(bytes)
    }

    /// The digest as bytes.
    pub const fn as_bytes(&self) -> &[u8; Digest::BYTES] {
        &self.0
    }

    /// 64 hexadecimal digits, on the stack.
    pub(crate) fn to_hex(self) -> impl Deref<Target = str> {
        blake3::Hash::from_bytes(self.0).to_hex()
    }

    /// Reads 64 hexadecimal digits; `None` for anything else.
    pub fn parse_hex(text: &str) -> Option<Digest> {
        blake3::Hash::from_hex(text)
            .ok()
            .map(|hash| Digest(*hash.as_bytes()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Digests a list of parts.
///
/// Short lists are gathered and digested in one piece, which costs a fraction of
/// feeding a hasher part by part.
#[derive(Debug, Clone)]
pub struct DigestBuilder {
    gathered: Vec<u8>,
    /// Once what was gathered is long. Boxed, since it has two kilobytes.
    hasher: Option<Box<blake3::Hasher>>,
}

/// Bytes that are gathered at most.
const GATHERED_BYTES_MAX: usize = 16 << 10;

impl DigestBuilder {
    /// Starts a digest of the kind that `domain` names.
    pub fn new(domain: &'static str) -> DigestBuilder {
        let builder = DigestBuilder {
            gathered: Vec::with_capacity(1024),
            hasher: None,
        };
        builder.bytes(domain.as_bytes())
    }

    /// Adds a part.
    #[must_use]
    pub fn bytes(mut self, part: &[u8]) -> DigestBuilder {
        self.add(&(part.len() as u64).to_le_bytes());
        self.add(part);
        self
    }

    fn add(&mut self, bytes: &[u8]) {
        if GATHERED_BYTES_MAX < self.gathered.len() + bytes.len() {
            let hasher = self.hasher.get_or_insert_default();
            hasher.update(&self.gathered);
            hasher.update(bytes);
            self.gathered.clear();
        } else {
            self.gathered.extend_from_slice(bytes);
        }
    }

    /// Adds a part that may be absent; absent and empty differ.
    #[must_use]
    pub fn optional(self, part: Option<&[u8]>) -> DigestBuilder {
        match part {
            None => self.number(0),
            Some(part) => self.number(1).bytes(part),
        }
    }

    /// Adds a number, as eight bytes.
    #[must_use]
    pub fn number(self, part: u64) -> DigestBuilder {
        self.bytes(&part.to_le_bytes())
    }

    /// The digest of all parts.
    pub fn finish(self) -> Digest {
        let Some(mut hasher) = self.hasher else {
            return Digest::of(&self.gathered);
        };
        hasher.update(&self.gathered);
        Digest(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_border_between_parts_counts() {
        let digest = |parts: &[&str]| {
            parts
                .iter()
                .fold(DigestBuilder::new("test"), |builder, part| {
                    builder.bytes(part.as_bytes())
                })
                .finish()
        };
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_ne!(digest(&["ab"]), digest(&["ab", ""]));
        assert_eq!(digest(&["ab", "c"]), digest(&["ab", "c"]));
    }

    /// However the parts fall into what is gathered and what is not.
    #[test]
    fn long_lists_are_digested_as_short_ones_are() {
        for length in [
            0,
            1,
            1024,
            GATHERED_BYTES_MAX - 12,
            GATHERED_BYTES_MAX,
            100_000,
        ] {
            let part = vec![7_u8; length];
            let mut expected = Vec::new();
            for part in [&b"test"[..], &part, b"x", &part, &part, b""] {
                expected.extend_from_slice(&(part.len() as u64).to_le_bytes());
                expected.extend_from_slice(part);
            }
            let found = DigestBuilder::new("test")
                .bytes(&part)
                .bytes(b"x")
                .bytes(&part)
                .bytes(&part)
                .bytes(b"")
                .finish();
            assert_eq!(found, Digest::of(&expected), "{length}");
        }
    }

    #[test]
    fn absent_and_empty_differ() {
        let absent = DigestBuilder::new("test").optional(None).finish();
        let empty = DigestBuilder::new("test").optional(Some(b"")).finish();
        assert_ne!(absent, empty);
    }

    #[test]
    fn hexadecimal_round_trips() {
        let digest = Digest::of(b"bytes");
        assert_eq!(Digest::parse_hex(&digest.to_string()), Some(digest));
        assert_eq!(Digest::parse_hex("beef"), None);
    }
}
