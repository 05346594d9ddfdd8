//! A backup as one tar stream, the manifest last. A part is gathered before its head is written, since the head says
//! its length; nothing else is held.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use tar::{Archive, Builder, EntryType, Header};

use super::directory::{Partial, create, read_manifest};
use super::manifest::MANIFEST;
use super::parts::{Sink, Source, Visit};
use super::{reading, unsound, writing};
use crate::error::Error;

/// Bytes of a part, and of memory for it.
const PART_LEN: u64 = 16 << 20;
const STREAM: &str = "the tar stream";

/// A tar stream being written.
pub struct ArchiveSink {
    tar: Builder<Box<dyn Write + Send>>,
    name: String,
    part: Vec<u8>,
    file: Option<(Partial, File)>,
}

impl ArchiveSink {
    /// A tar file, under its name for the time being.
    ///
    /// # Errors
    /// `invalid` when the file exists; when another backup is being written there, or one died.
    pub fn create(target: &Path) -> Result<Self, Error> {
        let (partial, file) = Partial::create(target, create)?;
        let handle = file.try_clone().map_err(writing(&partial.path))?;
        Ok(Self { file: Some((partial, handle)), ..Self::to(file) })
    }

    /// A stream that somebody else names.
    pub fn to(out: impl Write + Send + 'static) -> Self {
        Self {
            tar: Builder::new(Box::new(BufWriter::with_capacity(1 << 20, out))),
            name: String::new(),
            part: Vec::new(),
            file: None,
        }
    }
}

impl Sink for ArchiveSink {
    fn part_limit(&self) -> u64 {
        PART_LEN
    }

    fn begin(&mut self, name: &str) -> Result<(), Error> {
        name.clone_into(&mut self.name);
        self.part.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.part.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        let mut header = Header::new_gnu();
        header.set_size(self.part.len() as u64);
        header.set_mode(0o600);
        header.set_entry_type(EntryType::Regular);
        self.tar.append_data(&mut header, &self.name, self.part.as_slice()).map_err(writing(Path::new(STREAM)))
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        let lost = writing(Path::new(STREAM));
        let mut out = self.tar.into_inner().map_err(&lost)?;
        out.flush().map_err(&lost)?;
        let Some((partial, handle)) = self.file else { return Ok(()) };
        handle.sync_all().map_err(&lost)?;
        partial.publish()
    }
}

/// A tar stream being read.
pub struct ArchiveSource(Archive<Box<dyn Read + Send>>);

impl ArchiveSource {
    /// A tar file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self::from(File::open(path).map_err(reading(path))?))
    }

    /// A stream.
    pub fn from(stream: impl Read + Send + 'static) -> Self {
        Self(Archive::new(Box::new(BufReader::with_capacity(1 << 20, stream))))
    }
}

impl Source for ArchiveSource {
    fn total_len(&self) -> Option<u64> {
        None
    }

    fn visit(mut self: Box<Self>, visit: Visit<'_>) -> Result<Vec<u8>, Error> {
        let cut = reading(Path::new(STREAM));
        let mut manifest = None;
        for entry in self.0.entries().map_err(&cut)? {
            let mut entry = entry.map_err(&cut)?;
            let name = String::from_utf8(entry.path_bytes().into_owned()).map_err(unsound)?;
            if manifest.is_some() || entry.header().entry_type() != EntryType::Regular {
                return Err(unsound(format!("{name:?} is not where a part of a backup can be")));
            }
            if name == MANIFEST {
                manifest = Some(read_manifest(&mut entry)?);
            } else {
                visit(&name, &mut entry)?;
            }
        }
        manifest.ok_or_else(|| unsound(format!("it is incomplete: {MANIFEST} is missing")))
    }
}
