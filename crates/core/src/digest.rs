//! Digests: blake3 over length-prefixed parts.
//!
//! Every part is preceded by its length, so that no two different lists of
//! parts give the same bytes: `("ab", "c")` and `("a", "bc")` differ. The first
//! part says what is digested, so that no digest of one kind stands for another.

use std::fmt;

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

    /// Reads 64 hexadecimal digits; `None` for anything else.
    pub fn parse_hex(text: &str) -> Option<Digest> {
        blake3::Hash::from_hex(text)
            .ok()
            .map(|hash| Digest(*hash.as_bytes()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Digests a list of parts.
///
/// Boxed: a hasher has two kilobytes, and every part would move them.
#[derive(Debug, Clone)]
pub struct DigestBuilder(Box<blake3::Hasher>);

impl DigestBuilder {
    /// Starts a digest of the kind that `domain` names.
    pub fn new(domain: &'static str) -> DigestBuilder {
        DigestBuilder(Box::default()).bytes(domain.as_bytes())
    }

    /// Adds a part.
    #[must_use]
    pub fn bytes(mut self, part: &[u8]) -> DigestBuilder {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
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
        Digest(*self.0.finalize().as_bytes())
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
