//! Paths of evidence, resolved under a base directory.
//!
//! Every symbolic link on the way is followed by hand, so that it is known
//! which directories the way leads through and where it ends, without opening
//! anything. What leaves the base is refused unless that is allowed; the
//! store's own files are refused always, by name and by hard link: closing a
//! descriptor of one would drop the engine's locks.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::PathRefusal;
use crate::limits::SYMLINKS_MAX;

/// Device and inode: what a file is, whatever it is called.
pub(crate) type FileId = (u64, u64);

pub(crate) fn id_of(meta: &Metadata) -> FileId {
    (meta.dev(), meta.ino())
}

/// Where evidence may look.
#[derive(Debug)]
pub(crate) struct Base<'a> {
    /// Absolute, without symbolic links.
    dir: &'a Path,
    allow_outside: bool,
    own: OwnFiles,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Absolute, without symbolic links as far as it exists.
    pub(crate) path: PathBuf,
    /// Every directory in which a name was looked up on the way.
    through: BTreeSet<PathBuf>,
}

/// What is at a place.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) place: Place,
    /// `None` when nothing is there.
    pub(crate) meta: Option<Metadata>,
}

/// Why nothing can be said about a path.
#[derive(Debug)]
pub(crate) enum PathProblem {
    /// It may not be spoken of.
    Refused(PathRefusal),
    /// The system did not let us look.
    Unreadable(io::Error),
}

impl std::fmt::Display for PathProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PathProblem::Refused(refusal) => refusal.fmt(f),
            PathProblem::Unreadable(error) => write!(f, "cannot be looked up: {error}"),
        }
    }
}

impl<'a> Base<'a> {
    /// `dir` must be absolute and without symbolic links; `own_files` are the
    /// files that only the engine may open.
    pub(crate) fn new(dir: &'a Path, allow_outside: bool, own_files: &[PathBuf]) -> Base<'a> {
        debug_assert!(dir.is_absolute());
        Base {
            dir,
            allow_outside,
            own: OwnFiles::of(own_files),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir
    }

    /// Where `path` leads and what is there, by names and attributes alone:
    /// nothing is opened.
    pub(crate) fn find(&self, path: &Path) -> Result<Found, PathProblem> {
        let (place, may_exist) = walk(self.dir, path).map_err(PathProblem::Unreadable)?;
        if !self.allow_outside && !place.path.starts_with(self.dir) {
            return Err(PathProblem::Refused(PathRefusal::Outside));
        }
        let meta = match may_exist {
            true => look(&place.path).map_err(PathProblem::Unreadable)?,
            false => None,
        };
        if self.own.contains(&place.path, meta.as_ref()) {
            return Err(PathProblem::Refused(PathRefusal::OwnFile));
        }
        Ok(Found { place, meta })
    }

    /// The directories whose entries make up the name of `place`: those on the
    /// way that are the base or below it, and for a place outside the one it
    /// is in.
    pub(crate) fn directories_naming(&self, place: &Place) -> BTreeSet<PathBuf> {
        let mut dirs: BTreeSet<PathBuf> = place
            .through
            .iter()
            .filter(|dir| dir.starts_with(self.dir))
            .cloned()
            .collect();
        if !place.path.starts_with(self.dir)
            && let Some(parent) = place.path.parent()
        {
            dirs.insert(parent.to_owned());
        }
        dirs
    }
}

/// The files that only the engine may open.
#[derive(Debug)]
struct OwnFiles {
    paths: HashSet<PathBuf>,
    ids: HashSet<FileId>,
}

impl OwnFiles {
    fn of(files: &[PathBuf]) -> OwnFiles {
        let mut own = OwnFiles {
            paths: HashSet::new(),
            ids: HashSet::new(),
        };
        for file in files {
            if let Ok(meta) = file.metadata() {
                own.ids.insert(id_of(&meta));
            }
            // One that does not exist yet (a journal) still has its name.
            if let (Some(parent), Some(name)) = (file.parent(), file.file_name()) {
                let parent = match parent.as_os_str().is_empty() {
                    true => Path::new("."),
                    false => parent,
                };
                if let Ok(parent) = parent.canonicalize() {
                    own.paths.insert(parent.join(name));
                }
            }
            own.paths.extend(file.canonicalize());
            own.paths.insert(file.clone());
        }
        own
    }

    fn contains(&self, path: &Path, meta: Option<&Metadata>) -> bool {
        self.paths.contains(path) || meta.is_some_and(|meta| self.ids.contains(&id_of(meta)))
    }
}

/// What is at `path`, whose last name is not followed; `None` when nothing is.
fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// One step on the way.
enum Step {
    Root,
    Up,
    Down(OsString),
}

fn steps(path: &Path) -> impl DoubleEndedIterator<Item = Step> {
    path.components().filter_map(|component| match component {
        Component::RootDir => Some(Step::Root),
        Component::ParentDir => Some(Step::Up),
        Component::Normal(name) => Some(Step::Down(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Walks `path` from `base` as the kernel would, following symbolic links, and
/// says whether the way led through directories only. Names behind one that is
/// missing, or no directory, are taken as they stand.
fn walk(base: &Path, path: &Path) -> io::Result<(Place, bool)> {
    let mut at = base.to_owned();
    let mut may_exist = true;
    let mut through = BTreeSet::new();
    let mut links = 0;
    let mut ahead: VecDeque<Step> = steps(path).collect();
    while let Some(step) = ahead.pop_front() {
        let name = match step {
            Step::Root => {
                at = PathBuf::from("/");
                continue;
            }
            Step::Up => {
                at.pop();
                continue;
            }
            Step::Down(name) => name,
        };
        through.insert(at.clone());
        at.push(name);
        let meta = look(&at)?;
        if meta.as_ref().is_some_and(Metadata::is_symlink) {
            links += 1;
            if links > SYMLINKS_MAX {
                return Err(io::Error::other("too many symbolic links"));
            }
            let target = at.read_link()?;
            at.pop();
            for step in steps(&target).rev() {
                ahead.push_front(step);
            }
        } else if !ahead.is_empty() && !meta.is_some_and(|meta| meta.is_dir()) {
            may_exist = false;
        }
    }
    Ok((Place { path: at, through }, may_exist))
}

/// Opens a regular file for reading, without ever waiting, and makes sure that
/// it is the one that was found.
pub(crate) fn open_regular(path: &Path, found: &Metadata) -> io::Result<File> {
    debug_assert!(found.is_file());
    open(path, OFlags::NONBLOCK | OFlags::NOFOLLOW, found)
}

/// Opens a directory, to sync it.
pub(crate) fn open_directory(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed())
        .open(path)
}

fn open(path: &Path, flags: OFlags, found: &Metadata) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if id_of(&file.metadata()?) != id_of(found) {
        return Err(io::Error::other("was replaced while it was opened"));
    }
    Ok(file)
}

/// What kind of thing is there, in words.
pub(crate) fn kind_in_words(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_file() {
        "a file"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "neither a file nor a directory"
    }
}

#[cfg(test)]
mod tests;
