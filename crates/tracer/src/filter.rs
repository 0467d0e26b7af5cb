//! The seccomp filter: interesting calls stop for the tracer, all others run on
//! at full speed.
//!
//! Classic BPF, a handful of plain instructions. `open` and `openat` stop only
//! when their flags create or truncate; those of `openat2` lie in memory, where
//! a filter cannot look, so the tracer looks itself. Calls of 32-bit programs
//! (and of the x32 kind) stop under a mark of their own: they have other
//! numbers, and the tracer counts them as foreign.

use std::mem::offset_of;

use nix::libc::{self, sock_filter};

use crate::calls::{CallKind, If};

/// What the tracer is told with the stop of a call of its table.
pub(crate) const MARK_CALL: u32 = 0;
/// What it is told with the stop of a call by foreign numbers.
pub(crate) const MARK_FOREIGN: u32 = 1;

/// `AUDIT_ARCH_X86_64`: the machine, 64 bits, little-endian.
const ARCH: u32 = 0xC000_003E;
/// Numbers from here on are of the x32 kind.
const X32: u32 = 0x4000_0000;

/// Flags of `open` that create or truncate. (`O_TMPFILE` without the bits of
/// `O_DIRECTORY`, which it contains.)
pub(crate) const CREATES: u32 =
    (libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn load(offset: usize) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset as u32)
}

const fn answer(action: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action)
}

/// Skips `no` instructions unless the comparison holds.
const fn unless(comparison: u32, k: u32, no: u8) -> sock_filter {
    sock_filter {
        code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16,
        jt: 0,
        jf: no,
        k,
    }
}

/// The filter's program.
pub(crate) fn program() -> Vec<sock_filter> {
    let stop = answer(libc::SECCOMP_RET_TRACE | MARK_CALL);
    let foreign = answer(libc::SECCOMP_RET_TRACE | MARK_FOREIGN);
    let number = load(offset_of!(libc::seccomp_data, nr));
    let mut program = vec![
        load(offset_of!(libc::seccomp_data, arch)),
        sock_filter {
            jt: 1,
            ..unless(libc::BPF_JEQ, ARCH, 0)
        },
        foreign,
        number,
        unless(libc::BPF_JGE, X32, 1),
        foreign,
    ];
    for kind in CallKind::all() {
        let row = kind.row();
        match row.counted {
            If::Always | If::How(_) => {
                program.extend([unless(libc::BPF_JEQ, row.number, 1), stop]);
            }
            If::Flags(argument) => {
                // The low half of a 64-bit argument comes first.
                let flags = offset_of!(libc::seccomp_data, args) + 8 * argument;
                program.extend([
                    unless(libc::BPF_JEQ, row.number, 4),
                    load(flags),
                    unless(libc::BPF_JSET, CREATES, 1),
                    stop,
                    answer(libc::SECCOMP_RET_ALLOW),
                ]);
            }
        }
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn answer_to(arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let program = program();
        let (mut at, mut value) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            let code = u32::from(step.code);
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                value = match step.k {
                    0 => number,
                    4 => arch,
                    at => args[(at as usize - 16) / 8] as u32,
                };
            } else if code == libc::BPF_RET | libc::BPF_K {
                return step.k;
            } else {
                let holds = match code & 0xf0 {
                    libc::BPF_JEQ => value == step.k,
                    libc::BPF_JGE => value >= step.k,
                    libc::BPF_JSET => value & step.k != 0,
                    other => panic!("jump {other}"),
                };
                at += usize::from(if holds { step.jt } else { step.jf });
            }
        }
    }

    #[test]
    fn the_filter_stops_what_is_interesting_and_nothing_else() {
        let trace = libc::SECCOMP_RET_TRACE;
        for kind in CallKind::all() {
            let args = [u64::from(CREATES); 6];
            assert_eq!(answer_to(ARCH, kind.number(), args), trace, "{kind}");
        }
        for number in (0..600).filter(|&number| CallKind::of_number(number).is_none()) {
            let answer = answer_to(ARCH, number as u32, [u64::MAX; 6]);
            assert_eq!(answer, libc::SECCOMP_RET_ALLOW, "{number}");
        }
        let reads = [libc::O_RDWR as u64; 6];
        assert_eq!(answer_to(ARCH, 2, reads), libc::SECCOMP_RET_ALLOW);
        assert_eq!(answer_to(ARCH, 257, reads), libc::SECCOMP_RET_ALLOW);
        assert_eq!(
            answer_to(ARCH, 257, [0, 0, libc::O_TRUNC as u64, 0, 0, 0]),
            trace
        );
    }

    #[test]
    fn calls_by_foreign_numbers_are_marked() {
        let foreign = libc::SECCOMP_RET_TRACE | MARK_FOREIGN;
        assert_eq!(answer_to(0x4000_0003, 4, [0; 6]), foreign);
        assert_eq!(answer_to(ARCH, X32 | 1, [0; 6]), foreign);
    }

    #[test]
    fn numbers_are_those_of_the_system() {
        let known = [
            ("write", libc::SYS_write),
            ("pwrite64", libc::SYS_pwrite64),
            ("writev", libc::SYS_writev),
            ("pwritev", libc::SYS_pwritev),
            ("pwritev2", libc::SYS_pwritev2),
            ("sendfile", libc::SYS_sendfile),
            ("splice", libc::SYS_splice),
            ("vmsplice", libc::SYS_vmsplice),
            ("copy_file_range", libc::SYS_copy_file_range),
            ("fsync", libc::SYS_fsync),
            ("fdatasync", libc::SYS_fdatasync),
            ("sync_file_range", libc::SYS_sync_file_range),
            ("msync", libc::SYS_msync),
            ("sync", libc::SYS_sync),
            ("syncfs", libc::SYS_syncfs),
            ("truncate", libc::SYS_truncate),
            ("ftruncate", libc::SYS_ftruncate),
            ("fallocate", libc::SYS_fallocate),
            ("open", libc::SYS_open),
            ("creat", libc::SYS_creat),
            ("openat", libc::SYS_openat),
            ("openat2", libc::SYS_openat2),
            ("mkdir", libc::SYS_mkdir),
            ("mkdirat", libc::SYS_mkdirat),
            ("link", libc::SYS_link),
            ("linkat", libc::SYS_linkat),
            ("symlink", libc::SYS_symlink),
            ("symlinkat", libc::SYS_symlinkat),
            ("mknod", libc::SYS_mknod),
            ("mknodat", libc::SYS_mknodat),
            ("bind", libc::SYS_bind),
            ("rename", libc::SYS_rename),
            ("renameat", libc::SYS_renameat),
            ("renameat2", libc::SYS_renameat2),
            ("unlink", libc::SYS_unlink),
            ("unlinkat", libc::SYS_unlinkat),
            ("rmdir", libc::SYS_rmdir),
            ("chmod", libc::SYS_chmod),
            ("fchmod", libc::SYS_fchmod),
            ("fchmodat", libc::SYS_fchmodat),
            ("fchmodat2", libc::SYS_fchmodat2),
            ("chown", libc::SYS_chown),
            ("fchown", libc::SYS_fchown),
            ("lchown", libc::SYS_lchown),
            ("fchownat", libc::SYS_fchownat),
            ("setxattr", libc::SYS_setxattr),
            ("lsetxattr", libc::SYS_lsetxattr),
            ("fsetxattr", libc::SYS_fsetxattr),
            ("removexattr", libc::SYS_removexattr),
            ("lremovexattr", libc::SYS_lremovexattr),
            ("fremovexattr", libc::SYS_fremovexattr),
            ("utime", libc::SYS_utime),
            ("utimes", libc::SYS_utimes),
            ("futimesat", libc::SYS_futimesat),
            ("utimensat", libc::SYS_utimensat),
            ("sendto", libc::SYS_sendto),
            ("sendmsg", libc::SYS_sendmsg),
            ("sendmmsg", libc::SYS_sendmmsg),
            ("connect", libc::SYS_connect),
            ("io_uring_enter", libc::SYS_io_uring_enter),
            ("io_submit", libc::SYS_io_submit),
        ];
        assert_eq!(known.len(), CallKind::all().count());
        for (name, number) in known {
            let kind = CallKind::named(name).unwrap();
            assert_eq!(i64::from(kind.number()), number, "{name}");
        }
    }
}
