//! An image: the files that a power cut may have left.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::choice::{ImageId, Kept, Left, Plan};
use crate::content::Content;
use crate::disk::{Disk, Entry};
use crate::error::LogError;
use crate::log::Log;
use crate::record::{Mark, MarkKind, Record};

/// The files that a power cut at one place of a log may have left.
#[derive(Debug, Clone)]
pub struct Image<'log> {
    log: &'log Log,
    id: ImageId,
    files: BTreeMap<Arc<str>, Content>,
    print: u64,
}

/// One file of an [`Image`].
#[derive(Debug, Clone, Copy)]
pub struct ImageFile<'image> {
    /// Its path, relative to the recorded directory.
    pub path: &'image str,
    content: &'image Content,
}

impl ImageFile<'_> {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.content.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it holds.
    pub fn bytes(&self) -> Vec<u8> {
        self.content.to_vec()
    }
}

impl<'log> Image<'log> {
    pub(crate) fn build(log: &'log Log, disk: &Disk, id: ImageId, plan: &Plan) -> Image<'log> {
        Image {
            log,
            id,
            files: plan.build(disk, log.records()),
            print: plan.print,
        }
    }

    /// The line that makes this image again from the same log:
    /// [`Log::image`].
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// How many records of the log came before the power was cut.
    pub fn cut(&self) -> usize {
        self.id.cut
    }

    /// What the program had said before the cut, in order.
    pub fn marks(&self) -> impl Iterator<Item = &'log Mark> + use<'log> {
        self.log.marks_before(self.id.cut)
    }

    /// What had begun before the cut: it may be there.
    pub fn begun(&self) -> impl Iterator<Item = &'log str> + use<'log> {
        self.texts(MarkKind::Begun)
    }

    /// What had been acknowledged before the cut: it must be there.
    pub fn acknowledged(&self) -> impl Iterator<Item = &'log str> + use<'log> {
        self.texts(MarkKind::Acknowledged)
    }

    fn texts(&self, kind: MarkKind) -> impl Iterator<Item = &'log str> + use<'log> {
        self.marks()
            .filter(move |mark| mark.kind == kind)
            .map(|mark| mark.text.as_str())
    }

    /// The files, by path.
    pub fn files(&self) -> impl Iterator<Item = ImageFile<'_>> {
        self.files.iter().map(|(path, content)| ImageFile {
            path: path.as_ref(),
            content,
        })
    }

    /// The file with this path, if it was left.
    pub fn file(&self, path: &str) -> Option<ImageFile<'_>> {
        let (path, content) = self.files.get_key_value(path)?;
        Some(ImageFile {
            path: path.as_ref(),
            content,
        })
    }

    /// Equal for images of one log that hold the same bytes for the same
    /// reasons. Not stable between versions of this crate.
    pub fn fingerprint(&self) -> u64 {
        self.print
    }

    /// Writes the files to a directory, which is made if need be. For many
    /// images in a row use an [`ImageDir`].
    ///
    /// # Errors
    ///
    /// [`LogError::NotEmpty`] when the directory holds anything: nothing was
    /// written. [`LogError::Machine`] when a file could not be written.
    pub fn write_to(&self, dir: &Path) -> Result<(), LogError> {
        ImageDir::at(dir)?.write(self)
    }

    /// What was kept and what was lost, for people: a few lines.
    pub fn describe(&self) -> String {
        let mut text = format!("image {}\n", self.id);
        let Ok(disk) = self.log.disk_at(self.id.cut) else {
            return text;
        };
        let plan = Plan::decide(&disk, self.id.choice);
        for (change, kept) in disk.entries.iter().zip(&plan.entries) {
            let what = match &change.what {
                Entry::Added(path, _) => format!("the new name {path}"),
                Entry::Removed(path) => format!("the removal of {path}"),
                Entry::Renamed(from, to, _) => format!("the new name {to} of {from}"),
            };
            let fate = if *kept { "kept" } else { "lost" };
            let _ = writeln!(text, "  {what}: {fate} (record {})", change.record);
        }
        for (name, id) in &plan.names {
            let (Some(file), Some(left)) = (disk.files.get(id), plan.files.get(id)) else {
                continue;
            };
            let pending = file.pending.len();
            let _ = write!(text, "  {name}: {pending} operations not synced");
            match left {
                _ if pending == 0 => {}
                Left::All => text.push_str(", all kept"),
                Left::Nothing => text.push_str(", all lost"),
                Left::Some(kept) => {
                    for (record, kept) in file.pending.iter().zip(kept) {
                        let fate = match kept {
                            Kept::Whole => "kept",
                            Kept::Nothing => "lost",
                            Kept::Torn(_) => "torn",
                        };
                        let _ = write!(
                            text,
                            "\n    {fate}: {}",
                            brief(&self.log.records()[*record])
                        );
                    }
                }
            }
            text.push('\n');
        }
        text
    }
}

fn brief(record: &Record) -> String {
    match record {
        Record::Write { offset, bytes, .. } => format!("{} bytes at {offset}", bytes.len()),
        Record::Truncate { len, .. } => format!("length {len}"),
        other => format!("{other:?}"),
    }
}

/// A directory that holds one image after the other.
///
/// The files of the last image are written over in place, which spares the
/// file system most of its work; whatever else a check left there is removed.
/// No process may have a file of the directory open while the next image is
/// written: close the database first.
#[derive(Debug)]
pub struct ImageDir {
    dir: PathBuf,
}

impl ImageDir {
    /// Takes a directory, which is made if need be.
    ///
    /// # Errors
    ///
    /// [`LogError::NotEmpty`] when it holds anything,
    /// [`LogError::Machine`] when it cannot be made or read.
    pub fn at(dir: &Path) -> Result<ImageDir, LogError> {
        fs::create_dir_all(dir).map_err(LogError::machine("make the directory of an image"))?;
        let mut entries =
            fs::read_dir(dir).map_err(LogError::machine("read the directory of an image"))?;
        if entries.next().is_some() {
            return Err(LogError::NotEmpty {
                dir: dir.to_owned(),
            });
        }
        Ok(ImageDir {
            dir: dir.to_owned(),
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Makes the directory hold exactly this image.
    ///
    /// # Errors
    ///
    /// [`LogError::Machine`] when a file could not be written or removed; what
    /// the directory holds then is no image.
    pub fn write(&self, image: &Image<'_>) -> Result<(), LogError> {
        self.write_files(&image.files)
            .map_err(LogError::machine("write an image"))
    }

    fn write_files(&self, files: &BTreeMap<Arc<str>, Content>) -> io::Result<()> {
        let mut directories = BTreeSet::new();
        for path in files.keys() {
            let mut at = Path::new(path.as_ref());
            while let Some(parent) = at.parent().filter(|parent| *parent != Path::new("")) {
                directories.insert(parent);
                at = parent;
            }
        }
        let wanted: BTreeSet<&Path> = files.keys().map(|path| Path::new(path.as_ref())).collect();
        remove_others(&self.dir, Path::new(""), &wanted, &directories)?;
        for directory in directories {
            fs::create_dir_all(self.dir.join(directory))?;
        }
        for (path, content) in files {
            let mut file: File = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(self.dir.join(path.as_ref()))?;
            content.write_over(&mut file)?;
        }
        Ok(())
    }
}

/// Removes what is below `dir` and is neither a wanted file nor one of their
/// directories.
fn remove_others(
    dir: &Path,
    below: &Path,
    files: &BTreeSet<&Path>,
    directories: &BTreeSet<&Path>,
) -> io::Result<()> {
    for entry in fs::read_dir(dir.join(below))? {
        let entry = entry?;
        let name: &OsStr = &entry.file_name();
        let path = below.join(name);
        let is_dir = entry.file_type()?.is_dir();
        if is_dir && directories.contains(path.as_path()) {
            remove_others(dir, &path, files, directories)?;
        } else if is_dir {
            fs::remove_dir_all(entry.path())?;
        } else if !files.contains(path.as_path()) || !entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
