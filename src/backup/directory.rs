//! A backup as a folder: one file a collection, for its owner only, complete or not there.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::manifest::{MANIFEST, MAX_MANIFEST_LEN, Manifest};
use super::parts::{Sink, Source, Visit};
use super::{reading, unsound, writing};
use crate::error::Error;

/// A new file that only its owner can read.
pub(super) fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// What is being written, under its name for the time being; gone with its value unless published.
pub(super) struct Partial {
    target: PathBuf,
    /// Where it is.
    pub path: PathBuf,
    is_published: bool,
}

impl Partial {
    /// Makes it, as the caller says how.
    ///
    /// # Errors
    /// `invalid` when the target exists; when another backup is being written there, or one died.
    pub fn create<T>(target: &Path, make: impl FnOnce(&Path) -> std::io::Result<T>) -> Result<(Self, T), Error> {
        refuse_existing(target)?;
        let mut name = target.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        let made = make(&path).map_err(writing(&path))?;
        Ok((Self { target: target.to_owned(), path, is_published: false }, made))
    }

    /// Gives it its final name; a name that was taken meanwhile is left alone.
    pub fn publish(mut self) -> Result<(), Error> {
        refuse_existing(&self.target)?;
        std::fs::rename(&self.path, &self.target).map_err(writing(&self.target))?;
        self.is_published = true;
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(writing(folder))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        let removed =
            if self.path.is_dir() { std::fs::remove_dir_all(&self.path) } else { std::fs::remove_file(&self.path) };
        if let Err(error) = removed {
            tracing::warn!(path = %self.path.display(), %error, "an unfinished backup is left behind");
        }
    }
}

fn refuse_existing(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(writing(path)(error)),
        Ok(_) => Err(Error::invalid("output", format!("{} exists; nothing is overwritten.", path.display()))),
    }
}

/// A folder being written.
pub struct DirectorySink {
    partial: Partial,
    open: Option<(PathBuf, BufWriter<File>)>,
}

impl DirectorySink {
    /// Makes the folder under its name for the time being.
    ///
    /// # Errors
    /// `invalid` when the folder exists; when another backup is being written there, or one died.
    pub fn create(target: &Path) -> Result<Self, Error> {
        let (partial, ()) = Partial::create(target, |path| DirBuilder::new().mode(0o700).create(path))?;
        Ok(Self { partial, open: None })
    }
}

impl Sink for DirectorySink {
    fn part_limit(&self) -> u64 {
        u64::MAX
    }

    fn begin(&mut self, name: &str) -> Result<(), Error> {
        let path = self.partial.path.join(name);
        let file = create(&path).map_err(writing(&path))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        self.open = Some((path, file));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some((path, file)) = &mut self.open else { return Ok(()) };
        file.write_all(bytes).map_err(writing(path))
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some((path, file)) = self.open.take() else { return Ok(()) };
        let file = file.into_inner().map_err(|error| writing(&path)(error.into_error()))?;
        file.sync_all().map_err(writing(&path))
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        let path = &self.partial.path;
        File::open(path).and_then(|folder| folder.sync_all()).map_err(writing(path))?;
        self.partial.publish()
    }
}

/// A folder being read.
pub struct DirectorySource {
    folder: PathBuf,
    bytes: Vec<u8>,
    manifest: Manifest,
}

impl DirectorySource {
    /// Reads the manifest, which says what to read.
    ///
    /// # Errors
    /// `invalid` when there is none: the backup is incomplete.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(MANIFEST);
        let file = File::open(&path).map_err(reading(&path))?;
        let bytes = read_manifest(file)?;
        let manifest = Manifest::read(&bytes)?;
        Ok(Self { folder: folder.to_owned(), bytes, manifest })
    }
}

/// A manifest's bytes, as many as one may have.
pub(super) fn read_manifest(from: impl Read) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    from.take(MAX_MANIFEST_LEN + 1).read_to_end(&mut bytes).map_err(reading(Path::new(MANIFEST)))?;
    if bytes.len() as u64 > MAX_MANIFEST_LEN {
        return Err(unsound(format!("its manifest is longer than {MAX_MANIFEST_LEN} bytes")));
    }
    Ok(bytes)
}

impl Source for DirectorySource {
    fn total_len(&self) -> Option<u64> {
        Some(self.manifest.bytes)
    }

    fn visit(self: Box<Self>, visit: Visit<'_>) -> Result<Vec<u8>, Error> {
        for part in &self.manifest.parts {
            if part.name.contains(['/', '\0']) {
                return Err(unsound(format!("{:?} is not a part of a backup", part.name)));
            }
            let path = self.folder.join(&part.name);
            let file = File::open(&path).map_err(reading(&path))?;
            visit(&part.name, &mut BufReader::with_capacity(1 << 20, file))?;
        }
        Ok(self.bytes)
    }
}
