//! Evidence that a file has a certain content: its blake3 or SHA-256 digest,
//! read in chunks. Only regular files are opened, so a named pipe or a device
//! can never hold a check up.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use agentos_core::{InvalidInput, StorageError};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::error::{CheckpointError, is_exhaustion};
use crate::evidence::{Check, check_path};
use crate::limits::DIGEST_CHUNK_BYTES;
use crate::paths::{Base, kind_in_words, open_regular};
use crate::sync::Syncer;

/// Hexadecimal digits of a digest; both algorithms give 32 bytes.
const HEX_DIGITS: usize = 64;

/// How a file is digested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DigestAlgorithm {
    /// blake3, the faster.
    Blake3,
    /// SHA-256, which other tools print.
    Sha256,
}

/// A regular file has a certain digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    path: PathBuf,
    algorithm: DigestAlgorithm,
    /// Lower-case hexadecimal. `None` before the checkpoint is prepared; stored
    /// as null when there was no file to digest then, and never passes.
    expected: Option<String>,
}

impl FileDigest {
    /// The file at `path` keeps the content that it has when the checkpoint is
    /// prepared: its digest is taken then.
    pub fn new(path: impl Into<PathBuf>, algorithm: DigestAlgorithm) -> FileDigest {
        FileDigest {
            path: path.into(),
            algorithm,
            expected: None,
        }
    }

    /// The file has this digest, given as 64 hexadecimal digits.
    #[must_use]
    pub fn expected(mut self, hex: impl AsRef<str>) -> FileDigest {
        self.expected = Some(hex.as_ref().to_ascii_lowercase());
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its digest has still to be taken.
    pub(crate) fn is_pending(&self) -> bool {
        self.expected.is_none()
    }

    /// As large as it will be once the digest is taken.
    pub(crate) fn with_placeholder(&self) -> FileDigest {
        FileDigest {
            expected: Some("0".repeat(HEX_DIGITS)),
            ..self.clone()
        }
    }

    pub(crate) fn validate(&self) -> Result<(), CheckpointError> {
        check_path(&self.path)?;
        match &self.expected {
            Some(hex) if !is_digest(hex) => {
                let reason = format!("is not {HEX_DIGITS} hexadecimal digits");
                Err(StorageError::from(InvalidInput::new("expected digest", reason)).into())
            }
            _ => Ok(()),
        }
    }

    /// Takes the digest, and with `syncer` makes the file durable.
    pub(crate) fn take(
        &mut self,
        base: &Base<'_>,
        syncer: Option<&mut Syncer>,
    ) -> Result<Check, CheckpointError> {
        debug_assert!(self.is_pending());
        match self.read(base, syncer, |_| Check::Passed)? {
            Ok((digest, check)) => {
                self.expected = Some(digest);
                Ok(check)
            }
            Err(failed) => Ok(failed),
        }
    }

    /// Checks it, and with `syncer` makes the file durable if it holds.
    pub(crate) fn check(
        &self,
        base: &Base<'_>,
        syncer: Option<&mut Syncer>,
    ) -> Result<Check, CheckpointError> {
        let path = self.path.display();
        let Some(expected) = &self.expected else {
            return Ok(Check::failed(format!(
                "{path} could not be digested when the checkpoint was made"
            )));
        };
        let compare = |found: &str| {
            Check::when(found == expected, || {
                format!("{path} has the digest {found}, not {expected}")
            })
        };
        Ok(match self.read(base, syncer, compare)? {
            Ok((_, check)) | Err(check) => check,
        })
    }

    /// Digests the file and judges; one descriptor serves both the reading and
    /// the sync of a file that passes. Inner `Err`: it could not be read.
    fn read(
        &self,
        base: &Base<'_>,
        syncer: Option<&mut Syncer>,
        judge: impl FnOnce(&str) -> Check,
    ) -> Result<Result<(String, Check), Check>, CheckpointError> {
        let path = self.path.display();
        let failed = |reason: String| Ok(Err(Check::failed(format!("{path} {reason}"))));
        let found = match base.find(&self.path) {
            Ok(found) => found,
            Err(problem) => return failed(problem.to_string()),
        };
        let Some(meta) = &found.meta else {
            return failed("does not exist".into());
        };
        if !meta.is_file() {
            return failed(format!("is {}, not a file", kind_in_words(meta)));
        }
        let read = open_regular(&found.place.path, meta).and_then(|mut file| {
            let digest = digest(&mut file, self.algorithm)?;
            Ok((file, digest))
        });
        let (file, digest) = match read {
            Ok(read) => read,
            Err(error) if is_exhaustion(&error) => {
                return Err(CheckpointError::Machine(Box::new(error)));
            }
            Err(error) => return failed(format!("cannot be read: {error}")),
        };
        let check = judge(&digest);
        if check == Check::Passed
            && let Some(syncer) = syncer
        {
            syncer.file(base, &found.place, &file)?;
        }
        Ok(Ok((digest, check)))
    }
}

fn is_digest(hex: &str) -> bool {
    let lower_hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    hex.len() == HEX_DIGITS && hex.bytes().all(lower_hex)
}

/// The digest of a file, as long as it is when the reading begins: one that
/// grows meanwhile is an error, and cannot hold the reader up for ever.
fn digest(file: &mut File, algorithm: DigestAlgorithm) -> io::Result<String> {
    let bytes = file.metadata()?.len();
    match algorithm {
        DigestAlgorithm::Blake3 => {
            let mut hasher = blake3::Hasher::new();
            stream(file, bytes, |chunk| {
                hasher.update(chunk);
            })?;
            Ok(hasher.finalize().to_hex().to_string())
        }
        DigestAlgorithm::Sha256 => {
            let mut hasher = sha2::Sha256::new();
            stream(file, bytes, |chunk| hasher.update(chunk))?;
            Ok(crate::evidence::hex(&hasher.finalize()))
        }
    }
}

fn stream(file: &mut File, bytes: u64, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut chunk = vec![0; DIGEST_CHUNK_BYTES];
    let mut read: u64 = 0;
    loop {
        let count = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        read += count as u64;
        if read > bytes {
            return Err(io::Error::other("it grew while it was read"));
        }
        take(&chunk[..count]);
    }
    if read < bytes {
        return Err(io::Error::other("it shrank while it was read"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ABC_SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const ABC_BLAKE3: &str = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        (dir, top)
    }

    fn check(top: &Path, evidence: &FileDigest) -> Check {
        let base = Base::new(top, false, &[]);
        evidence.check(&base, Some(&mut Syncer::default())).unwrap()
    }

    #[test]
    fn a_given_digest_is_compared_in_either_case() {
        let (_dir, top) = directory();
        fs::write(top.join("abc"), "abc").unwrap();
        for (algorithm, hex) in [
            (DigestAlgorithm::Sha256, ABC_SHA256),
            (DigestAlgorithm::Blake3, ABC_BLAKE3),
        ] {
            let evidence = FileDigest::new("abc", algorithm);
            let upper = evidence.clone().expected(hex.to_uppercase());
            assert_eq!(check(&top, &upper), Check::Passed);
            let other = evidence.expected("0".repeat(64));
            let zeros = "0".repeat(64);
            assert_eq!(
                check(&top, &other),
                Check::failed(format!("abc has the digest {hex}, not {zeros}"))
            );
        }
    }

    #[test]
    fn a_digest_is_taken_and_then_compared() {
        let (_dir, top) = directory();
        let base = Base::new(&top, false, &[]);
        // More than one chunk, and not a whole number of them.
        fs::write(top.join("big"), vec![7; 3 * DIGEST_CHUNK_BYTES + 5]).unwrap();
        for algorithm in [DigestAlgorithm::Blake3, DigestAlgorithm::Sha256] {
            let mut evidence = FileDigest::new("big", algorithm);
            assert_eq!(evidence.take(&base, None).unwrap(), Check::Passed);
            assert_eq!(check(&top, &evidence), Check::Passed);
            fs::write(top.join("big"), vec![7; 3 * DIGEST_CHUNK_BYTES + 6]).unwrap();
            assert!(matches!(check(&top, &evidence), Check::Failed(_)));
            fs::write(top.join("big"), vec![7; 3 * DIGEST_CHUNK_BYTES + 5]).unwrap();
        }
    }

    #[test]
    fn a_digest_that_could_not_be_taken_never_passes() {
        let (_dir, top) = directory();
        let base = Base::new(&top, false, &[]);
        let mut evidence = FileDigest::new("late", DigestAlgorithm::Blake3);
        assert_eq!(
            evidence.take(&base, None).unwrap(),
            Check::failed("late does not exist")
        );
        assert!(evidence.is_pending());
        fs::write(top.join("late"), "late").unwrap();
        assert_eq!(
            check(&top, &evidence),
            Check::failed("late could not be digested when the checkpoint was made")
        );
    }

    #[test]
    fn a_file_that_passes_is_synced_once_and_one_that_fails_is_not() {
        let (_dir, top) = directory();
        let base = Base::new(&top, false, &[]);
        fs::write(top.join("abc"), "abc").unwrap();
        let mut syncer = Syncer::default();
        let evidence = FileDigest::new("abc", DigestAlgorithm::Sha256);
        let other = evidence.clone().expected("0".repeat(64));
        other.check(&base, Some(&mut syncer)).unwrap();
        assert_eq!(syncer.syncs(), 0);
        let mut pending = evidence.clone();
        pending.take(&base, Some(&mut syncer)).unwrap();
        assert_eq!(syncer.syncs(), 1);
        let right = evidence.expected(ABC_SHA256);
        right.check(&base, Some(&mut syncer)).unwrap();
        assert_eq!(syncer.syncs(), 1);
    }

    #[test]
    fn what_is_no_regular_file_fails_at_once() {
        let (_dir, top) = directory();
        rustix::fs::mkfifoat(rustix::fs::CWD, top.join("pipe"), 0o600.into()).unwrap();
        fs::create_dir(top.join("dir")).unwrap();
        let evidence = |path| FileDigest::new(path, DigestAlgorithm::Blake3).expected(ABC_BLAKE3);
        assert_eq!(
            check(&top, &evidence("pipe")),
            Check::failed("pipe is a named pipe, not a file")
        );
        assert_eq!(
            check(&top, &evidence("dir")),
            Check::failed("dir is a directory, not a file")
        );
    }

    #[test]
    fn a_file_that_grows_or_shrinks_under_the_reader_is_an_error() {
        let (_dir, top) = directory();
        fs::write(top.join("abc"), "abc").unwrap();
        for (bytes, reason) in [
            (2, "it grew while it was read"),
            (4, "it shrank while it was read"),
        ] {
            let mut file = File::open(top.join("abc")).unwrap();
            let error = stream(&mut file, bytes, |_| {}).unwrap_err();
            assert_eq!(error.to_string(), reason);
        }
    }

    #[test]
    fn an_expected_digest_has_its_form() {
        for hex in [
            "",
            "beef",
            &"g".repeat(64),
            &"0".repeat(63),
            &"é".repeat(32),
        ] {
            let evidence = FileDigest::new("a", DigestAlgorithm::Sha256).expected(hex);
            assert!(evidence.validate().is_err(), "{hex}");
        }
        let evidence = FileDigest::new("a", DigestAlgorithm::Sha256).expected(ABC_SHA256);
        assert!(evidence.validate().is_ok());
    }
}
