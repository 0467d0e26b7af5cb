//! Cuts a stream of bytes into lines. A line counts only when its newline has
//! arrived: what a killed writer left half written is no line.

use std::collections::VecDeque;

use crate::error::ProcessError;
use crate::limits::LINE_BYTES;

/// Collects bytes and hands out complete lines, in order and without newline.
#[derive(Debug)]
pub(crate) struct Lines {
    bytes_max: usize,
    complete: VecDeque<Result<Vec<u8>, TooLong>>,
    complete_bytes: usize,
    unfinished: Vec<u8>,
    /// The unfinished line is longer than the bound: dropped up to its newline.
    dropping: bool,
}

#[derive(Debug)]
struct TooLong;

impl Lines {
    pub(crate) fn new(bytes_max: usize) -> Lines {
        Lines {
            bytes_max,
            complete: VecDeque::new(),
            complete_bytes: 0,
            unfinished: Vec::new(),
            dropping: false,
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            if self.dropping || self.unfinished.len() + text.len() > self.bytes_max {
                self.dropping = true;
                self.unfinished.clear();
            } else {
                self.unfinished.extend_from_slice(text);
            }
            if ends {
                let line = std::mem::take(&mut self.unfinished);
                self.complete_bytes += LINE_BYTES + line.len();
                let dropped = std::mem::take(&mut self.dropping);
                self.complete
                    .push_back(if dropped { Err(TooLong) } else { Ok(line) });
            }
        }
    }

    /// The next complete line.
    pub(crate) fn pop(&mut self) -> Result<Option<Vec<u8>>, ProcessError> {
        match self.complete.pop_front() {
            None => Ok(None),
            Some(Ok(line)) => {
                self.complete_bytes -= LINE_BYTES + line.len();
                Ok(Some(line))
            }
            Some(Err(TooLong)) => {
                self.complete_bytes -= LINE_BYTES;
                Err(ProcessError::LineTooLong {
                    bytes_max: self.bytes_max,
                })
            }
        }
    }

    /// All complete lines up to the first that is too long; an error only when
    /// that one is the first, so that nothing read before it is lost.
    pub(crate) fn pop_all(&mut self) -> Result<Vec<Vec<u8>>, ProcessError> {
        let mut lines = Vec::new();
        while matches!(self.complete.front(), Some(Ok(_)))
            || (lines.is_empty() && !self.complete.is_empty())
        {
            lines.extend(self.pop()?);
        }
        Ok(lines)
    }

    /// Bytes of memory in complete lines that nobody has fetched.
    pub(crate) fn buffered(&self) -> usize {
        self.complete_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn popped(lines: &mut Lines) -> Vec<Vec<u8>> {
        lines.pop_all().unwrap()
    }

    #[test]
    fn a_line_counts_when_its_newline_has_arrived() {
        let mut lines = Lines::new(100);
        lines.push(b"one\ntw");
        assert_eq!(popped(&mut lines), [b"one".to_vec()]);
        lines.push(b"o");
        assert!(popped(&mut lines).is_empty());
        lines.push(b"\n\nthree");
        assert_eq!(popped(&mut lines), [b"two".to_vec(), b"".to_vec()]);
        assert_eq!(lines.pop().unwrap(), None);
        assert_eq!(lines.buffered(), 0);
    }

    /// Goal: empty lines, and those that were dropped, are not free.
    #[test]
    fn every_line_counts_for_more_than_its_text() {
        let mut lines = Lines::new(3);
        lines.push(b"\n\nab\nabcd\n");
        assert_eq!(lines.buffered(), 4 * LINE_BYTES + 2);
        assert_eq!(popped(&mut lines).len(), 3);
        assert_eq!(lines.buffered(), LINE_BYTES);
        assert!(lines.pop().is_err());
        assert_eq!(lines.buffered(), 0);
    }

    #[test]
    fn bytes_that_are_no_text_pass_unchanged() {
        let mut lines = Lines::new(100);
        lines.push(&[0xff, 0x00, b'\r', b'\n']);
        assert_eq!(popped(&mut lines), [vec![0xff, 0x00, b'\r']]);
    }

    #[test]
    fn a_line_over_the_bound_is_an_error_in_its_place() {
        let mut lines = Lines::new(3);
        lines.push(b"abc\nabc");
        lines.push(b"d");
        lines.push(b"efgh\nok\n");
        assert_eq!(popped(&mut lines), [b"abc".to_vec()]);
        let error = lines.pop_all().unwrap_err();
        assert!(
            matches!(error, ProcessError::LineTooLong { bytes_max: 3 }),
            "{error:?}"
        );
        assert_eq!(popped(&mut lines), [b"ok".to_vec()]);
    }
}
