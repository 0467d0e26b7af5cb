//! The exact answer about some files, computed at once and from the files alone:
//! neither step by step, as the agent does it, nor with anything that a database
//! kept. What a word is and how digests are linked is said here once more, and
//! otherwise than the agent says it. Pure.

use agentos_core::Digest;
use serde_json::Value;

use crate::victims::{Answer, Tally};

/// Words that the answer names.
const NAMED: usize = 10;

/// A file: its name and its bytes.
pub(crate) type File = (String, Vec<u8>);

/// What is true of some files.
pub(crate) struct Facts<'files> {
    /// The answer.
    pub(crate) answer: Answer,
    /// Each word and how often it comes, in the order of the words.
    words: Vec<(&'files [u8], u64)>,
}

impl Facts<'_> {
    /// Counts everything by sorting the list of all words.
    pub(crate) fn about(files: &[File]) -> Facts<'_> {
        let mut all: Vec<&[u8]> = Vec::new();
        let mut lines = 0;
        for (_, content) in files {
            let mut begin = None;
            for (at, byte) in content.iter().enumerate() {
                lines += u64::from(*byte == b'\n');
                match (in_a_word(*byte), begin) {
                    (true, None) => begin = Some(at),
                    (false, Some(from)) => {
                        all.push(&content[from..at]);
                        begin = None;
                    }
                    _ => {}
                }
            }
            all.extend(begin.map(|from| &content[from..]));
        }
        all.sort_unstable();
        let words: Vec<(&[u8], u64)> = all
            .chunk_by(|one, other| one == other)
            .map(|run| (run[0], run.len() as u64))
            .collect();
        let start = Digest::of(b"").to_string();
        let answer = Answer {
            files: files.len() as u64,
            bytes: files.iter().map(|(_, content)| content.len() as u64).sum(),
            lines,
            words: all.len() as u64,
            distinct: words.len() as u64,
            frequent: frequent(&words),
            digest: files.iter().fold(start, |before, (name, content)| {
                linked(&before, name, content)
            }),
        };
        Facts { answer, words }
    }

    /// What is wrong with a state that was kept after these files.
    pub(crate) fn judge(&self, tally: &Tally) -> Vec<String> {
        let mut broken = differences(&tally.answer(), &self.answer);
        let kept = tally.counts.iter();
        let kept = kept.map(|(word, count)| (word.as_bytes(), *count));
        if !kept.eq(self.words.iter().copied()) {
            broken.push(format!(
                "the {} words that are kept are not the {} of the files, or come in other numbers",
                tally.counts.len(),
                self.words.len()
            ));
        }
        broken
    }
}

/// Whether words are made of this byte.
fn in_a_word(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'_' | b'a'..=b'z')
}

/// The digest with one more file: of four texts in a row, each behind its length
/// in eight bytes, the lowest first.
fn linked(before: &str, name: &str, content: &[u8]) -> String {
    let mut row = Vec::new();
    for text in [b"end-to-end", before.as_bytes(), name.as_bytes(), content] {
        row.extend_from_slice(&(text.len() as u64).to_le_bytes());
        row.extend_from_slice(text);
    }
    Digest::of(&row).to_string()
}

/// Takes the largest again and again.
fn frequent(words: &[(&[u8], u64)]) -> Vec<(String, u64)> {
    let mut left = words.to_vec();
    let mut taken = Vec::new();
    while taken.len() < NAMED {
        let largest = left
            .iter()
            .enumerate()
            .max_by_key(|(at, (_, count))| (*count, std::cmp::Reverse(*at)));
        let Some((at, _)) = largest else { break };
        let (word, count) = left.remove(at);
        taken.push((String::from_utf8_lossy(word).into_owned(), count));
    }
    taken
}

/// Every figure of an answer that is not as expected.
pub(crate) fn differences(found: &Answer, expected: &Answer) -> Vec<String> {
    let fields = |answer: &Answer| match serde_json::to_value(answer) {
        Ok(Value::Object(fields)) => fields,
        other => unreachable!("an answer is an object: {other:?}"),
    };
    let expected = fields(expected);
    fields(found)
        .iter()
        .filter(|(name, value)| expected.get(*name) != Some(value))
        .map(|(name, value)| {
            let expected = expected.get(name).unwrap_or(&Value::Null);
            format!("{name} is {value} and must be {expected}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Vec<File> {
        let texts = ["b a, b\nc_1 é a\n", "", "end", "a b\n\nfn x() { x }"];
        let name = |at| format!("{at}.txt");
        (0..).map(name).zip(texts.map(Into::into)).collect()
    }

    #[test]
    fn the_answer_about_small_files_is_what_one_counts_by_hand() {
        let files = files();
        let answer = Facts::about(&files).answer;
        assert_eq!(answer.files, 4);
        assert_eq!(answer.bytes, 16 + 3 + 17);
        assert_eq!(answer.lines, 4);
        assert_eq!(answer.words, 6 + 1 + 5 - 1);
        let frequent = [
            ("a", 3),
            ("b", 3),
            ("x", 2),
            ("c_1", 1),
            ("end", 1),
            ("fn", 1),
        ];
        assert_eq!(answer.distinct, 6);
        assert_eq!(
            answer.frequent,
            frequent.map(|(word, count)| (word.to_owned(), count))
        );
    }

    #[test]
    fn what_the_agent_counts_step_by_step_is_the_answer() {
        let files = files();
        let mut tally = Tally::start();
        for (name, content) in &files {
            tally.add(name, content);
        }
        assert_eq!(Facts::about(&files).judge(&tally), Vec::<String>::new());
    }

    #[test]
    fn a_missing_a_repeated_and_a_renamed_file_are_noticed() {
        let files = files();
        let judged = |names: &[(&str, usize)]| {
            let mut tally = Tally::start();
            for (name, at) in names {
                tally.add(name, &files[*at].1);
            }
            Facts::about(&files).judge(&tally).join("; ")
        };
        let all = [("0.txt", 0), ("1.txt", 1), ("2.txt", 2), ("3.txt", 3)];
        assert_eq!(judged(&all), "");
        assert!(judged(&all[..3]).contains("lines is 2 and must be 4"));
        let twice = [all[0], all[1], all[2], all[2], all[3]];
        assert!(judged(&twice).contains("files is 5 and must be 4"));
        let renamed = [("other", 0), all[1], all[2], all[3]];
        assert!(judged(&renamed).starts_with("digest is"));
    }

    #[test]
    fn a_lost_word_is_noticed_though_no_figure_tells() {
        let files = files();
        let mut tally = Tally::start();
        for (name, content) in &files {
            tally.add(name, content);
        }
        let count = tally.counts.remove("end");
        tally.counts.insert("enf".into(), count.unwrap_or_default());
        let broken = Facts::about(&files).judge(&tally).join("; ");
        assert!(broken.contains("not the 6 of the files"), "{broken}");
    }
}
