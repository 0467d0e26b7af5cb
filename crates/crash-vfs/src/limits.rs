//! The bounds of this crate, each with its unit.

/// The longest text of a mark.
pub const MARK_BYTES_MAX: usize = 64 << 10;

/// The longest path of a recorded file, relative to the recorded directory.
pub const PATH_BYTES_MAX: usize = 4 << 10;

/// The most bytes that one record carries. SQLite writes a page at a time, at
/// most 64 KiB.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// How much of a file that was there before is put into one record.
pub const BASE_PIECE_BYTES: usize = 1 << 20;

/// The most bytes of files that may be there when recording begins: they are
/// copied into the log.
pub const BASE_BYTES_MAX: u64 = 1 << 30;

/// The longest file that an image may have.
pub const FILE_BYTES_MAX: u64 = 4 << 30;

/// What a disk writes wholly or not at all.
pub const SECTOR_BYTES: u64 = 512;

/// Seeded images of a cut, unless told otherwise. The two extremes come on top.
pub const IMAGES_PER_CUT_DEFAULT: u32 = 6;

const _: () = {
    assert!(BASE_PIECE_BYTES + PATH_BYTES_MAX < RECORD_BYTES_MAX);
    assert!(MARK_BYTES_MAX < RECORD_BYTES_MAX);
    assert!(BASE_BYTES_MAX <= FILE_BYTES_MAX);
    assert!(SECTOR_BYTES.is_power_of_two());
};
