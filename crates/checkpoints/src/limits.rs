//! Bounds that only this crate has; all others are in `agentos_core::limits`.

/// One read while a file is digested.
pub(crate) const DIGEST_CHUNK_BYTES: usize = 64 << 10;
/// Symbolic links on the way to one file; the kernel gives up after as many.
pub(crate) const SYMLINKS_MAX: u32 = 40;
