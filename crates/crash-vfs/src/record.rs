//! What a log is made of: records, and how each is written in one piece.
//!
//! A frame is a mark of the version, the payload's length and checksum, and
//! the payload, which begins with the process that wrote it. Decoding never
//! panics, whatever the bytes are.

use std::sync::Arc;

use crate::limits::{FILE_BYTES_MAX, MARK_BYTES_MAX, PATH_BYTES_MAX, RECORD_BYTES_MAX};

/// How a frame begins; the last byte is the version of the format.
///
/// - `1`: first release.
pub(crate) const MAGIC: [u8; 4] = *b"CVL1";
/// Magic, length, checksum.
pub(crate) const HEADER_BYTES: usize = 12;

/// Which kind of moment a [`Mark`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MarkKind {
    /// The program is about to do something: from here on it may be there.
    Begun,
    /// The program was told that it is done: from here on it must be there.
    Acknowledged,
    /// Anything else that a check wants to know.
    Note,
}

/// A word of the program itself, at its place among the file operations.
///
/// Set [`begun`](Self::begun) *before* the work begins, and
/// [`acknowledged`](Self::acknowledged) after the commit has returned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mark {
    /// Which kind of moment.
    pub kind: MarkKind,
    /// What it is about, in the program's own words.
    pub text: String,
}

impl Mark {
    /// Something is about to be done.
    pub fn begun(text: impl Into<String>) -> Mark {
        Mark {
            kind: MarkKind::Begun,
            text: text.into(),
        }
    }

    /// Something was acknowledged.
    pub fn acknowledged(text: impl Into<String>) -> Mark {
        Mark {
            kind: MarkKind::Acknowledged,
            text: text.into(),
        }
    }

    /// Anything else.
    pub fn note(text: impl Into<String>) -> Mark {
        Mark {
            kind: MarkKind::Note,
            text: text.into(),
        }
    }
}

/// What a sync makes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Synced {
    /// The content of one file.
    File,
    /// The content of one file, and the entries of the directory that it is in:
    /// what SQLite's first sync of a new journal or WAL does.
    FileAndEntries,
    /// The entries of one directory.
    Directory,
}

/// One record of a log. Paths are relative to the recorded directory, with `/`
/// between their parts; the directory itself is the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A process joined.
    Start {
        /// Its id.
        process: u32,
    },
    /// A piece of a file that was there, durably, before recording began.
    Base {
        /// The file.
        path: Arc<str>,
        /// Where the piece begins, in bytes.
        offset: u64,
        /// The piece; empty for an empty file.
        bytes: Arc<[u8]>,
    },
    /// A file was opened. One that the log does not know yet was created.
    Open {
        /// The file.
        path: Arc<str>,
        /// How long it was, in bytes; 0 if it was not there.
        found_bytes: u64,
    },
    /// Bytes were written.
    Write {
        /// The file.
        path: Arc<str>,
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// The length was set.
    Truncate {
        /// The file.
        path: Arc<str>,
        /// Its new length in bytes.
        len: u64,
    },
    /// A sync is about to begin: what stands before is made durable by its end.
    SyncBegin {
        /// Names the sync; unique in a log.
        sync: u64,
        /// The file, or the directory.
        path: Arc<str>,
        /// What is synced.
        what: Synced,
    },
    /// A sync has returned.
    SyncEnd {
        /// Which one.
        sync: u64,
        /// Whether it did what it is for: not if it failed, or lied.
        durable: bool,
    },
    /// A name was removed.
    Delete {
        /// The file.
        path: Arc<str>,
    },
    /// A file got another name, in place of what had that one before.
    Rename {
        /// Its name until now.
        from: Arc<str>,
        /// Its name from now on.
        to: Arc<str>,
    },
    /// The program said something.
    Mark(Mark),
    /// A process has ended its recording, with no recorded file open. One that
    /// ends without this was killed.
    Stop {
        /// Its id.
        process: u32,
    },
    /// The machine failed beneath a recorder, so that nobody knows what the
    /// file holds: a reader takes this as the end of the log.
    Broken {
        /// What failed.
        why: String,
    },
}

impl Record {
    /// The frame: exactly what one `write(2)` appends.
    pub(crate) fn frame(&self) -> Vec<u8> {
        match self {
            Record::Start { process } => frame(0, &[u64::from(*process)], "", &[]),
            Record::Base {
                path,
                offset,
                bytes,
            } => frame(1, &[*offset], path, bytes),
            Record::Open { path, found_bytes } => frame(2, &[*found_bytes], path, &[]),
            Record::Write {
                path,
                offset,
                bytes,
            } => write_frame(path, *offset, bytes),
            Record::Truncate { path, len } => frame(4, &[*len], path, &[]),
            Record::SyncBegin { sync, path, what } => {
                let what = match what {
                    Synced::File => 0,
                    Synced::FileAndEntries => 1,
                    Synced::Directory => 2,
                };
                frame(5, &[*sync, what], path, &[])
            }
            Record::SyncEnd { sync, durable } => frame(6, &[*sync, u64::from(*durable)], "", &[]),
            Record::Delete { path } => frame(7, &[], path, &[]),
            Record::Rename { from, to } => frame(8, &[], from, to.as_bytes()),
            Record::Mark(mark) => {
                let kind = match mark.kind {
                    MarkKind::Begun => 0,
                    MarkKind::Acknowledged => 1,
                    MarkKind::Note => 2,
                };
                frame(9, &[kind], "", mark.text.as_bytes())
            }
            Record::Broken { why } => frame(10, &[], "", why.as_bytes()),
            Record::Stop { process } => frame(11, &[u64::from(*process)], "", &[]),
        }
    }

    /// What a frame's payload says, and which process wrote it; `None` if it
    /// says nothing sensible.
    pub(crate) fn decode(payload: &[u8]) -> Option<(u32, Record)> {
        let mut fields = Fields(payload);
        let process = fields.short()?;
        let tag = fields.byte()?;
        let numbers: &mut [u64] = &mut [0; 2][..numbers_of(tag)?];
        for number in &mut *numbers {
            *number = fields.number()?;
        }
        let path = fields.path()?;
        let rest = fields.0;
        let record = match (tag, &*numbers) {
            (0, &[process]) => Record::Start {
                process: u32::try_from(process).ok()?,
            },
            (1, &[offset]) => Record::Base {
                path,
                offset,
                bytes: rest.into(),
            },
            (2, &[found_bytes]) => Record::Open { path, found_bytes },
            (3, &[offset]) => Record::Write {
                path,
                offset,
                bytes: rest.into(),
            },
            (4, &[len]) => Record::Truncate { path, len },
            (5, &[sync, what]) => Record::SyncBegin {
                sync,
                path,
                what: match what {
                    0 => Synced::File,
                    1 => Synced::FileAndEntries,
                    2 => Synced::Directory,
                    _ => return None,
                },
            },
            (6, &[sync, durable]) => Record::SyncEnd {
                sync,
                durable: match durable {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
            },
            (7, []) => Record::Delete { path },
            (8, []) => Record::Rename {
                from: path,
                to: std::str::from_utf8(rest).ok()?.into(),
            },
            (9, &[kind]) => Record::Mark(Mark {
                kind: match kind {
                    0 => MarkKind::Begun,
                    1 => MarkKind::Acknowledged,
                    2 => MarkKind::Note,
                    _ => return None,
                },
                text: std::str::from_utf8(rest).ok()?.to_owned(),
            }),
            (10, []) => Record::Broken {
                why: std::str::from_utf8(rest).ok()?.to_owned(),
            },
            (11, &[process]) => Record::Stop {
                process: u32::try_from(process).ok()?,
            },
            _ => return None,
        };
        Some((process, record))
    }

    /// Why this record can stand in no log, if so.
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        match self {
            Record::Start { .. }
            | Record::SyncEnd { .. }
            | Record::Stop { .. }
            | Record::Broken { .. } => None,
            Record::Base {
                path,
                offset,
                bytes,
            }
            | Record::Write {
                path,
                offset,
                bytes,
            } => path_flaw(path).or_else(|| {
                let end = offset.checked_add(bytes.len() as u64);
                if bytes.len() > RECORD_BYTES_MAX - PATH_BYTES_MAX - HEADER_BYTES * 4 {
                    Some("more bytes than a record holds")
                } else if end.is_none_or(|end| end > FILE_BYTES_MAX) {
                    Some("a file longer than an image may have")
                } else {
                    None
                }
            }),
            Record::Truncate { path, len } => path_flaw(path).or_else(|| {
                (*len > FILE_BYTES_MAX).then_some("a file longer than an image may have")
            }),
            Record::Open { path, .. } | Record::Delete { path } => path_flaw(path),
            Record::SyncBegin { path, what, .. } => {
                if *what == Synced::Directory && path.is_empty() {
                    None
                } else {
                    path_flaw(path)
                }
            }
            Record::Rename { from, to } => path_flaw(from).or_else(|| path_flaw(to)),
            Record::Mark(mark) => {
                (mark.text.len() > MARK_BYTES_MAX).then_some("a mark that is too long")
            }
        }
    }
}

/// The frame of a write, without a copy of its bytes in between.
pub(crate) fn write_frame(path: &str, offset: u64, bytes: &[u8]) -> Vec<u8> {
    frame(3, &[offset], path, bytes)
}

/// Why a path can name no file of a log: it must stay below the directory.
pub(crate) fn path_flaw(path: &str) -> Option<&'static str> {
    if path.is_empty() || path.len() > PATH_BYTES_MAX {
        Some("a path that is empty or too long")
    } else if path.contains('\0') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("a path that leaves its directory")
    } else {
        None
    }
}

fn numbers_of(tag: u8) -> Option<usize> {
    match tag {
        0..=4 | 9 | 11 => Some(1),
        5 | 6 => Some(2),
        7 | 8 | 10 => Some(0),
        _ => None,
    }
}

fn frame(tag: u8, numbers: &[u64], path: &str, rest: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + 32 + path.len() + rest.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&[0; 8]);
    frame.extend_from_slice(&std::process::id().to_le_bytes());
    frame.push(tag);
    for number in numbers {
        frame.extend_from_slice(&number.to_le_bytes());
    }
    // Paths were checked to be short; what is not cannot be decoded.
    let path_bytes = u32::try_from(path.len()).unwrap_or(u32::MAX);
    frame.extend_from_slice(&path_bytes.to_le_bytes());
    frame.extend_from_slice(path.as_bytes());
    frame.extend_from_slice(rest);
    let payload_bytes = u32::try_from(frame.len() - HEADER_BYTES).unwrap_or(u32::MAX);
    let check = crc32fast::hash(&frame[HEADER_BYTES..]);
    frame[4..8].copy_from_slice(&payload_bytes.to_le_bytes());
    frame[8..12].copy_from_slice(&check.to_le_bytes());
    frame
}

/// What a position in a log holds.
pub(crate) enum Found<'a> {
    /// A whole frame: its payload, and how long it is with its header.
    Frame(&'a [u8], usize),
    /// No whole frame.
    Nothing,
}

/// Looks for a frame at the beginning of `bytes`.
pub(crate) fn frame_at(bytes: &[u8]) -> Found<'_> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Found::Nothing;
    };
    if header[..4] != MAGIC {
        return Found::Nothing;
    }
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let len = number(4) as usize;
    match rest.get(..len) {
        Some(payload) if len <= RECORD_BYTES_MAX && crc32fast::hash(payload) == number(8) => {
            Found::Frame(payload, HEADER_BYTES + len)
        }
        _ => Found::Nothing,
    }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn short(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn path(&mut self) -> Option<Arc<str>> {
        let len = self.short()?;
        let bytes = self.take(usize::try_from(len).ok()?)?;
        Some(std::str::from_utf8(bytes).ok()?.into())
    }
}
