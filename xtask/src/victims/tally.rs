//! Statistics over files: what the counter keeps from iteration to iteration,
//! and the answer that follows from it.
//!
//! Built up file by file. The scenario computes the same answer another way, in
//! `model/answer.rs`; the two share nothing but the form of the answer.

use std::collections::BTreeMap;
use std::ops::Range;

use agentos_core::{Digest, DigestBuilder};
use serde::{Deserialize, Serialize};

/// Words in the answer.
const FREQUENT: usize = 10;

/// What is known about the files so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Iterations done.
    pub(crate) iteration: u64,
    files: u64,
    bytes: u64,
    lines: u64,
    words: u64,
    /// Each word, and how often it came.
    pub(crate) counts: BTreeMap<String, u64>,
    /// Digest over names and contents so far, in hexadecimal.
    running: String,
}

/// The exact result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Line feeds.
    pub(crate) lines: u64,
    /// Runs of ASCII letters, digits and underscores.
    pub(crate) words: u64,
    /// Different words.
    pub(crate) distinct: u64,
    /// The most frequent words, most frequent first, ties by the word.
    pub(crate) frequent: Vec<(String, u64)>,
    /// A digest for each file over the digest before it, its name and its bytes.
    pub(crate) digest: String,
}

impl Tally {
    /// Before the first file.
    pub(crate) fn start() -> Tally {
        Tally {
            iteration: 0,
            files: 0,
            bytes: 0,
            lines: 0,
            words: 0,
            counts: BTreeMap::new(),
            running: Digest::of(b"").to_string(),
        }
    }

    /// Adds a file.
    pub(crate) fn add(&mut self, name: &str, content: &[u8]) {
        self.files += 1;
        self.bytes += content.len() as u64;
        self.lines += content.iter().filter(|byte| **byte == b'\n').count() as u64;
        let words = content
            .split(|byte| !is_of_word(*byte))
            .filter(|word| !word.is_empty());
        for word in words {
            self.words += 1;
            let word = String::from_utf8_lossy(word).into_owned();
            *self.counts.entry(word).or_default() += 1;
        }
        self.running = link(&self.running, name, content);
    }

    /// The answer, if these were all files.
    pub(crate) fn answer(&self) -> Answer {
        let mut frequent: Vec<(String, u64)> = self
            .counts
            .iter()
            .map(|(word, count)| (word.clone(), *count))
            .collect();
        // Stable, and the words came in order.
        frequent.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        frequent.truncate(FREQUENT);
        Answer {
            files: self.files,
            bytes: self.bytes,
            lines: self.lines,
            words: self.words,
            distinct: self.counts.len() as u64,
            frequent,
            digest: self.running.clone(),
        }
    }
}

/// Whether a byte is part of a word.
fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The digest after one more file.
fn link(before: &str, name: &str, content: &[u8]) -> String {
    DigestBuilder::new("end-to-end")
        .bytes(before.as_bytes())
        .bytes(name.as_bytes())
        .bytes(content)
        .finish()
        .to_string()
}

/// Which of so many files an iteration works on.
pub(crate) fn share(files: usize, iteration: u64, iterations: u64) -> Range<usize> {
    let border = |done: u64| {
        let border = files as u64 * done / iterations;
        usize::try_from(border).unwrap_or(files)
    };
    border(iteration - 1)..border(iteration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_all_iterations_are_all_files_in_order() {
        for (files, iterations) in [(24, 24), (25, 24), (107, 12), (3, 3)] {
            let all: Vec<usize> = (1..=iterations)
                .flat_map(|iteration| {
                    let share = share(files, iteration, iterations);
                    assert!(!share.is_empty());
                    share
                })
                .collect();
            assert_eq!(all, (0..files).collect::<Vec<_>>());
        }
    }
}
