//! The interesting calls: those that change files or talk to others.
//!
//! One table, plain data: number on x86_64, name, class, where the descriptor
//! or path stands among the arguments, and the faults that make sense. Every
//! other call runs at full speed and is not seen. Changes through memory that
//! is shared with a file (`mmap`) are no calls and are not seen either, nor are
//! those that an `ioctl` makes (`FICLONE` shares the contents of another file).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::plan::Fault;

/// What kind of change a call makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Puts bytes into a file, pipe or socket.
    Write,
    /// Makes what was written durable.
    Sync,
    /// Changes a file's length or the space that it takes.
    Truncate,
    /// Creates or truncates a file, or creates a directory, link, node or socket.
    Create,
    /// Gives a file another name, in one step.
    Rename,
    /// Takes a name away.
    Remove,
    /// Changes permissions, owner, times or attributes.
    Metadata,
    /// Sends to a peer.
    Send,
    /// Connects to a peer.
    Connect,
    /// Submits to a ring or a queue: what it does cannot be seen from here.
    Opaque,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Truncate => "truncate",
            Self::Create => "create",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::Metadata => "metadata",
            Self::Send => "send",
            Self::Connect => "connect",
            Self::Opaque => "opaque",
        })
    }
}

/// Which arguments (from 0) say what a call acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// A descriptor.
    Fd(usize),
    /// A path, relative to the working directory.
    Path(usize),
    /// A directory's descriptor and a path relative to it.
    At(usize, usize),
    /// Two paths: from and to.
    Paths(usize, usize),
    /// Two paths, each relative to a directory's descriptor: from and to.
    PathsAt([usize; 4]),
    /// Memory of the program.
    Memory,
    /// Everything there is.
    All,
}

/// Where a call says whether it creates or truncates; those that do neither
/// are not interesting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum If {
    Always,
    /// Flags of `open` in this argument.
    Flags(usize),
    /// `struct open_how`, to which this argument points.
    How(usize),
}

/// Where a call says how much it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amount {
    /// Nowhere, or it cannot be lowered.
    None,
    /// Bytes, in this argument.
    Bytes(usize),
    /// A vector in this argument, its length in the next; a vector of one is
    /// shortened as the call with this number, which takes bytes.
    Vector(usize, u32),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    pub(crate) on: On,
    pub(crate) counted: If,
    pub(crate) amount: Amount,
    faults: &'static [Fault],
}

const fn row(
    number: u32,
    name: &'static str,
    class: Class,
    on: On,
    amount: Amount,
    faults: &'static [Fault],
) -> Row {
    Row {
        number,
        name,
        class,
        on,
        counted: If::Always,
        amount,
        faults,
    }
}

const fn opens(number: u32, name: &'static str, on: On, counted: If) -> Row {
    Row {
        number,
        name,
        class: Create,
        on,
        counted,
        amount: Amount::None,
        faults: &[Fault::Eio, Fault::Enospc, Fault::Eintr],
    }
}

const SHORTENED: &[Fault] = &[Fault::Eio, Fault::Enospc, Fault::Eintr, Fault::ShortWrite];
const STORES: &[Fault] = &[Fault::Eio, Fault::Enospc, Fault::Eintr];
const NAMES: &[Fault] = &[Fault::Eio, Fault::Enospc];
const SENDS: &[Fault] = &[Fault::Eintr, Fault::ShortWrite];
const WAITS: &[Fault] = &[Fault::Eintr];
const READS: &[Fault] = &[Fault::Eio];
const SIZES: &[Fault] = &[Fault::Eio, Fault::Eintr];

use Amount::{Bytes, Vector};
use Class::{Connect, Create, Metadata, Opaque, Remove, Rename, Send, Sync, Truncate, Write};
use On::{All, At, Fd, Memory, Path, Paths, PathsAt};

/// Number of `write`, as which a `writev` of one buffer is shortened.
const WRITE: u32 = 1;
/// Number of `pwrite64`, likewise for `pwritev`.
const PWRITE64: u32 = 18;

/// The table, by class.
pub(crate) static ROWS: &[Row] = &[
    row(WRITE, "write", Write, Fd(0), Bytes(2), SHORTENED),
    row(PWRITE64, "pwrite64", Write, Fd(0), Bytes(2), SHORTENED),
    row(20, "writev", Write, Fd(0), Vector(1, WRITE), SHORTENED),
    row(296, "pwritev", Write, Fd(0), Vector(1, PWRITE64), SHORTENED),
    row(328, "pwritev2", Write, Fd(0), Amount::None, STORES),
    row(40, "sendfile", Write, Fd(0), Amount::None, STORES),
    row(275, "splice", Write, Fd(2), Amount::None, STORES),
    row(278, "vmsplice", Write, Fd(0), Amount::None, WAITS),
    row(326, "copy_file_range", Write, Fd(2), Amount::None, STORES),
    row(74, "fsync", Sync, Fd(0), Amount::None, STORES),
    row(75, "fdatasync", Sync, Fd(0), Amount::None, STORES),
    row(277, "sync_file_range", Sync, Fd(0), Amount::None, NAMES),
    row(26, "msync", Sync, Memory, Amount::None, READS),
    row(162, "sync", Sync, All, Amount::None, &[]),
    row(306, "syncfs", Sync, Fd(0), Amount::None, NAMES),
    row(76, "truncate", Truncate, Path(0), Amount::None, SIZES),
    row(77, "ftruncate", Truncate, Fd(0), Amount::None, SIZES),
    row(285, "fallocate", Truncate, Fd(0), Amount::None, STORES),
    opens(2, "open", Path(0), If::Flags(1)),
    opens(85, "creat", Path(0), If::Always),
    opens(257, "openat", At(0, 1), If::Flags(2)),
    opens(437, "openat2", At(0, 1), If::How(2)),
    row(83, "mkdir", Create, Path(0), Amount::None, NAMES),
    row(258, "mkdirat", Create, At(0, 1), Amount::None, NAMES),
    row(86, "link", Create, Paths(0, 1), Amount::None, NAMES),
    row(
        265,
        "linkat",
        Create,
        PathsAt([0, 1, 2, 3]),
        Amount::None,
        NAMES,
    ),
    row(88, "symlink", Create, Path(1), Amount::None, NAMES),
    row(266, "symlinkat", Create, At(1, 2), Amount::None, NAMES),
    row(133, "mknod", Create, Path(0), Amount::None, NAMES),
    row(259, "mknodat", Create, At(0, 1), Amount::None, NAMES),
    row(49, "bind", Create, Fd(0), Amount::None, &[]),
    row(82, "rename", Rename, Paths(0, 1), Amount::None, NAMES),
    row(
        264,
        "renameat",
        Rename,
        PathsAt([0, 1, 2, 3]),
        Amount::None,
        NAMES,
    ),
    row(
        316,
        "renameat2",
        Rename,
        PathsAt([0, 1, 2, 3]),
        Amount::None,
        NAMES,
    ),
    row(87, "unlink", Remove, Path(0), Amount::None, READS),
    row(263, "unlinkat", Remove, At(0, 1), Amount::None, READS),
    row(84, "rmdir", Remove, Path(0), Amount::None, READS),
    row(90, "chmod", Metadata, Path(0), Amount::None, READS),
    row(91, "fchmod", Metadata, Fd(0), Amount::None, READS),
    row(268, "fchmodat", Metadata, At(0, 1), Amount::None, READS),
    row(452, "fchmodat2", Metadata, At(0, 1), Amount::None, READS),
    row(92, "chown", Metadata, Path(0), Amount::None, READS),
    row(93, "fchown", Metadata, Fd(0), Amount::None, READS),
    row(94, "lchown", Metadata, Path(0), Amount::None, READS),
    row(260, "fchownat", Metadata, At(0, 1), Amount::None, READS),
    row(188, "setxattr", Metadata, Path(0), Amount::None, NAMES),
    row(189, "lsetxattr", Metadata, Path(0), Amount::None, NAMES),
    row(190, "fsetxattr", Metadata, Fd(0), Amount::None, NAMES),
    row(197, "removexattr", Metadata, Path(0), Amount::None, NAMES),
    row(198, "lremovexattr", Metadata, Path(0), Amount::None, NAMES),
    row(199, "fremovexattr", Metadata, Fd(0), Amount::None, NAMES),
    row(132, "utime", Metadata, Path(0), Amount::None, &[]),
    row(235, "utimes", Metadata, Path(0), Amount::None, &[]),
    row(261, "futimesat", Metadata, At(0, 1), Amount::None, &[]),
    row(280, "utimensat", Metadata, At(0, 1), Amount::None, &[]),
    row(44, "sendto", Send, Fd(0), Bytes(2), SENDS),
    row(46, "sendmsg", Send, Fd(0), Amount::None, WAITS),
    row(307, "sendmmsg", Send, Fd(0), Amount::None, WAITS),
    row(42, "connect", Connect, Fd(0), Amount::None, WAITS),
    row(426, "io_uring_enter", Opaque, Fd(0), Amount::None, WAITS),
    row(209, "io_submit", Opaque, Memory, Amount::None, &[]),
];

/// One kind of interesting call, by name: `write`, `fsync`, `renameat2`, …
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallKind(&'static Row);

impl CallKind {
    /// All kinds, by class.
    pub fn all() -> impl Iterator<Item = CallKind> {
        ROWS.iter().map(CallKind)
    }

    /// The kind with this number on x86_64, if the call is interesting.
    pub fn of_number(number: u64) -> Option<CallKind> {
        CallKind::all().find(|kind| u64::from(kind.0.number) == number)
    }

    /// The kind with this name, if the call is interesting.
    pub fn named(name: &str) -> Option<CallKind> {
        CallKind::all().find(|kind| kind.0.name == name)
    }

    /// The call's name, as its manual page has it.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// The call's number on x86_64.
    pub fn number(self) -> u32 {
        self.0.number
    }

    /// What kind of change it makes.
    pub fn class(self) -> Class {
        self.0.class
    }

    /// The faults that the call can meet in reality, whatever it acts on; see
    /// [`Call::faults`](crate::Call::faults) for those of one call.
    pub fn faults(self) -> &'static [Fault] {
        self.0.faults
    }

    pub(crate) fn row(self) -> &'static Row {
        self.0
    }
}

/// By name, so that a sorted list reads well.
impl Ord for CallKind {
    fn cmp(&self, other: &CallKind) -> std::cmp::Ordering {
        self.0.name.cmp(other.0.name)
    }
}

impl PartialOrd for CallKind {
    fn partial_cmp(&self, other: &CallKind) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl std::hash::Hash for CallKind {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.number.hash(state);
    }
}

impl fmt::Debug for CallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl fmt::Display for CallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.name)
    }
}

/// The text names no interesting call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no call that is traced")]
pub struct UnknownCall {
    /// The text, cut when it is long.
    pub name: String,
}

impl FromStr for CallKind {
    type Err = UnknownCall;

    fn from_str(name: &str) -> Result<CallKind, UnknownCall> {
        CallKind::named(name).ok_or_else(|| UnknownCall {
            name: name.chars().take(80).collect(),
        })
    }
}

impl TryFrom<String> for CallKind {
    type Error = UnknownCall;

    fn try_from(name: String) -> Result<CallKind, UnknownCall> {
        name.parse()
    }
}

impl From<CallKind> for String {
    fn from(kind: CallKind) -> String {
        kind.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_stands_in_the_table_once_and_is_found_by_name_and_number() {
        for kind in CallKind::all() {
            assert_eq!(CallKind::named(kind.name()), Some(kind));
            assert_eq!(CallKind::of_number(kind.number().into()), Some(kind));
            assert_eq!(kind.name().parse(), Ok(kind));
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(serde_json::from_str::<CallKind>(&json).unwrap(), kind);
        }
        assert!("getpid".parse::<CallKind>().is_err());
    }

    #[test]
    fn what_puts_pages_into_pipes_and_names_on_sockets_is_known_by_its_number() {
        for (number, name, class) in [
            (209, "io_submit", Opaque),
            (278, "vmsplice", Write),
            (49, "bind", Create),
        ] {
            let kind = CallKind::of_number(number).unwrap();
            assert_eq!((kind.name(), kind.class()), (name, class));
        }
    }

    #[test]
    fn only_a_call_that_says_how_much_it_writes_can_be_shortened() {
        for kind in CallKind::all() {
            let can = kind.0.amount != Amount::None;
            assert_eq!(kind.faults().contains(&Fault::ShortWrite), can, "{kind}");
        }
    }
}
