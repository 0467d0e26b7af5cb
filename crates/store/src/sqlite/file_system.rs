//! What the file system under a database is, and how much room it has.

use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat, statfs, statvfs};
#[cfg(target_os = "linux")]
use rustix::fs::{StatxFlags, statx};

/// File systems on which several processes share no memory, or locks do not
/// hold, by their number in `statfs(2)`. On them a write-ahead log damages the
/// database (<https://sqlite.org/wal.html>, "does not work over a network").
/// FUSE is among them: what stands behind it cannot be told.
const UNSAFE: &[(u32, &str)] = &[
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x5346_414f, "afs"),
    (0x6b41_4653, "kafs"),
    (0x7375_7245, "coda"),
    (0x564c, "ncp"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x1983_0326, "beegfs"),
    (0x7461_636f, "ocfs2"),
    (0x0116_1970, "gfs2"),
    (0x786f_4256, "vboxsf"),
    (0x6573_5546, "fuse"),
];

/// The name of the file system, where it is one that cannot keep the promises.
pub(crate) fn unsafe_kind(directory: &Path) -> io::Result<Option<&'static str>> {
    Ok(kind_of(statfs(directory)?.f_type))
}

/// The numbers have 32 bits; some machines report them as signed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "only the lower 32 bits name the file system"
)]
fn kind_of(number: impl Into<i64>) -> Option<&'static str> {
    let number = number.into() as u32;
    UNSAFE
        .iter()
        .find_map(|(known, name)| (*known == number).then_some(*name))
}

/// Bytes that are free for users other than root.
pub(crate) fn free_bytes(directory: &Path) -> io::Result<u64> {
    let found = statvfs(directory)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Length of a file that is often synced; 0 when it is not there.
///
/// Nothing but the length is asked for. Who asks for a file's times makes Linux (from
/// 6.13 on, with its timestamps of several grains) note the next write's time exactly,
/// and the next sync has to write that as well: each commit took 40 us longer.
#[cfg(target_os = "linux")]
pub(crate) fn length_alone(path: &Path) -> u64 {
    statx(CWD, path, AtFlags::empty(), StatxFlags::SIZE).map_or(0, |found| found.stx_size)
}

/// Length of a file; 0 when it is not there.
#[cfg(not(target_os = "linux"))]
pub(crate) fn length_alone(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

/// Whether this process may make and remove files in the directory.
pub(crate) fn check_writable(directory: &Path) -> io::Result<()> {
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    Ok(accessat(CWD, directory, wanted, AtFlags::EACCESS)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_told_by_their_number() {
        assert_eq!(kind_of(0x6969), Some("nfs"));
        assert_eq!(kind_of(0xff53_4d42_u32), Some("cifs"));
        // As a machine with signed numbers of 32 bits reports it.
        assert_eq!(kind_of(0xff53_4d42_u32.cast_signed()), Some("cifs"));
        assert_eq!(kind_of(0x6573_5546), Some("fuse"));
        for local in [
            0xef53_i64,
            0x5846_5342,
            0x9123_683e,
            0x0102_1994,
            0x794c_7630,
        ] {
            assert_eq!(kind_of(local), None, "ext4, xfs, btrfs, tmpfs, overlay");
        }
    }

    #[test]
    fn the_room_of_a_real_file_system_is_known() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(unsafe_kind(directory.path()).unwrap(), None);
        assert!(free_bytes(directory.path()).unwrap() > 0);
        check_writable(directory.path()).unwrap();
        let file = directory.path().join("file");
        assert_eq!(length_alone(&file), 0);
        std::fs::write(&file, [7; 4097]).unwrap();
        assert_eq!(length_alone(&file), 4097);
        assert!(check_writable(&directory.path().join("absent")).is_err());
    }
}
