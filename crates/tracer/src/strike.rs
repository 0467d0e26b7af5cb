//! Makes one call fail: decided from the registers at its stop, undone at its end.

use nix::libc::user_regs_struct;

use crate::calls::{Amount, CallKind};
use crate::memory::{arguments, set_argument, word_at};
use crate::plan::Fault;

/// How many bytes a `struct iovec` takes: an address and a length.
const IOVEC_BYTES: u64 = 16;

/// The registers with which the call fails in this way; `None` when the fault
/// makes no sense for it.
pub(crate) fn failing(
    thread: i32,
    kind: CallKind,
    fault: Fault,
    regs: &user_regs_struct,
) -> Option<user_regs_struct> {
    if !kind.faults().contains(&fault) {
        return None;
    }
    let mut changed = *regs;
    match fault.errno() {
        Some(errno) => {
            // No such call: it is skipped, and this is what it returns.
            changed.orig_rax = u64::MAX;
            changed.rax = i64::from(-errno) as u64;
        }
        None => shorten(thread, kind.row().amount, &mut changed)?,
    }
    Some(changed)
}

fn shorten(thread: i32, amount: Amount, regs: &mut user_regs_struct) -> Option<()> {
    let args = arguments(regs);
    match amount {
        Amount::None => None,
        Amount::Bytes(index) => {
            set_argument(regs, index, half(args[index])?);
            Some(())
        }
        Amount::Vector(index, single) => match args[index + 1] {
            0 => None,
            1 => {
                let base = word_at(thread, args[index])?;
                let bytes = word_at(thread, args[index].checked_add(8)?)?;
                regs.orig_rax = single.into();
                set_argument(regs, index, base);
                set_argument(regs, index + 1, half(bytes)?);
                Some(())
            }
            buffers => {
                // Only shorter when a byte is kept and a byte is lost.
                let mut lengths = Vec::new();
                for buffer in 0..buffers.min(1024) {
                    let at = args[index].checked_add(buffer * IOVEC_BYTES + 8)?;
                    lengths.push(word_at(thread, at)?);
                }
                let kept = buffers_kept(&lengths)?;
                set_argument(regs, index + 1, kept);
                Some(())
            }
        },
    }
}

/// Half of a count, at least one; `None` when that would not be less.
fn half(count: u64) -> Option<u64> {
    (count >= 2).then_some(count / 2)
}

/// How many of the buffers are kept: about half, so that some byte is written
/// and some byte is not.
fn buffers_kept(lengths: &[u64]) -> Option<u64> {
    let first = lengths.iter().position(|&length| length > 0)?;
    let last = lengths.iter().rposition(|&length| length > 0)?;
    let kept = (lengths.len() / 2).clamp(first + 1, last.max(first + 1));
    (kept <= last).then_some(kept as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_write_writes_something_and_not_all() {
        assert_eq!(half(0), None);
        assert_eq!(half(1), None);
        assert_eq!(half(2), Some(1));
        assert_eq!(half(9), Some(4));
        assert_eq!(buffers_kept(&[5, 5]), Some(1));
        assert_eq!(buffers_kept(&[5, 5, 5, 5]), Some(2));
        assert_eq!(buffers_kept(&[0, 0, 0, 5, 5]), Some(4));
        assert_eq!(buffers_kept(&[5, 0, 0, 0]), None);
        assert_eq!(buffers_kept(&[0, 0]), None);
        assert_eq!(buffers_kept(&[5, 1, 0, 0, 0, 0]), Some(1));
    }
}
