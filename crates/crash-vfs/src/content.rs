//! The bytes of a file, in chunks that versions of it share.
//!
//! A copy costs a counter, a write a copy of the chunks it touches: that is
//! what makes an image cheap.

use std::fs::File;
use std::io::{self, IoSlice, Seek, Write};
use std::sync::Arc;

const CHUNK_BYTES: usize = 4096;
/// As many slices as the kernel takes at once.
const SLICES_MAX: usize = 1024;

type Chunk = [u8; CHUNK_BYTES];

static ZEROS: Chunk = [0; CHUNK_BYTES];

/// The bytes of a file. Holes read as zeros.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    len: u64,
    chunks: Arc<Vec<Option<Arc<Chunk>>>>,
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Writes `bytes` at `offset`; the caller has checked that the file stays
    /// within its bound.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.len = self.len.max(offset + bytes.len() as u64);
        let chunks = Arc::make_mut(&mut self.chunks);
        let needed = index(self.len.div_ceil(CHUNK_BYTES as u64));
        if chunks.len() < needed {
            chunks.resize(needed, None);
        }
        let mut at = index(offset);
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = at % CHUNK_BYTES;
            let count = rest.len().min(CHUNK_BYTES - within);
            let chunk = chunks[at / CHUNK_BYTES].get_or_insert_with(|| Arc::new(ZEROS));
            Arc::make_mut(chunk)[within..within + count].copy_from_slice(&rest[..count]);
            at += count;
            rest = &rest[count..];
        }
    }

    /// Sets the length; what is added reads as zeros.
    pub(crate) fn truncate(&mut self, len: u64) {
        let chunks = Arc::make_mut(&mut self.chunks);
        chunks.resize(index(len.div_ceil(CHUNK_BYTES as u64)), None);
        let within = index(len) % CHUNK_BYTES;
        if len < self.len
            && within > 0
            && let Some(Some(chunk)) = chunks.last_mut()
        {
            Arc::make_mut(chunk)[within..].fill(0);
        }
        self.len = len;
    }

    /// The pieces in order; together they are the file.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let last = self.chunks.len().saturating_sub(1);
        let tail = index(self.len) - last * CHUNK_BYTES;
        self.chunks.iter().enumerate().map(move |(number, chunk)| {
            let chunk: &Chunk = chunk.as_deref().unwrap_or(&ZEROS);
            if number == last {
                &chunk[..tail]
            } else {
                chunk
            }
        })
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(index(self.len));
        for piece in self.pieces() {
            bytes.extend_from_slice(piece);
        }
        bytes
    }

    /// Makes an open file hold exactly this, over whatever it held.
    pub(crate) fn write_over(&self, file: &mut File) -> io::Result<()> {
        file.rewind()?;
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(self.chunks.len().min(SLICES_MAX));
        let mut pieces = self.pieces().peekable();
        while pieces.peek().is_some() {
            slices.clear();
            slices.extend(pieces.by_ref().take(SLICES_MAX).map(IoSlice::new));
            let mut left = &mut slices[..];
            while !left.is_empty() {
                match file.write_vectored(left) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => IoSlice::advance_slices(&mut left, written),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        file.set_len(self.len)
    }
}

/// Files are bounded well below what an index holds.
fn index(value: u64) -> usize {
    usize::try_from(value).expect("a file longer than memory was refused before")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        Truncate(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..20_000_u64, proptest::collection::vec(any::<u8>(), 0..9000))
                .prop_map(|(offset, bytes)| Step::Write(offset, bytes)),
            1 => (0..20_000_u64).prop_map(Step::Truncate),
        ];
        proptest::collection::vec(step, 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn content_is_what_a_plain_vector_would_hold(steps in steps()) {
            let mut plain: Vec<u8> = Vec::new();
            let mut content = Content::default();
            let mut before = content.clone();
            let mut before_plain = plain.clone();
            for step in steps {
                before = content.clone();
                before_plain.clone_from(&plain);
                match step {
                    Step::Write(offset, bytes) => {
                        content.write(offset, &bytes);
                        let end = offset as usize + bytes.len();
                        if !bytes.is_empty() && plain.len() < end {
                            plain.resize(end, 0);
                        }
                        if !bytes.is_empty() {
                            plain[offset as usize..end].copy_from_slice(&bytes);
                        }
                    }
                    Step::Truncate(len) => {
                        content.truncate(len);
                        plain.resize(len as usize, 0);
                    }
                }
                prop_assert_eq!(content.len(), plain.len() as u64);
                prop_assert!(content.to_vec() == plain);
            }
            // What was copied before did not change with its successor.
            prop_assert!(before.to_vec() == before_plain);
            let mut file = tempfile::tempfile().unwrap();
            file.set_len(30_000).unwrap();
            content.write_over(&mut file).unwrap();
            file.rewind().unwrap();
            let mut found = Vec::new();
            io::Read::read_to_end(&mut file, &mut found).unwrap();
            prop_assert!(found == plain);
        }
    }
}
