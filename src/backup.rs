//! Backup and restore: everything a deployment needs, as it was at one instant, in a folder or a tar stream.
//!
//! Key-encryption keys are not in it. `run.rs` writes one, `restore.rs` reads one, `verify.rs` proves what was
//! restored; files and tar are beneath, what MongoDB has to do is `store`'s. `docs/operations.md` is the page for
//! those who run it.

pub mod archive;
pub mod directory;
pub mod manifest;
pub mod parts;
pub mod restore;
pub mod run;
mod spool;
pub mod verify;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorCode};
use crate::format::key_wrap::{WrapMode, WrappedKey};
use crate::store::import::parse;
use crate::store::rows::RowPlace;
use crate::store::segments::SegmentDoc;
use crate::store::{RawDocumentBuf, StoreError};
use archive::{ArchiveSink, ArchiveSource};
use directory::{DirectorySink, DirectorySource};
use parts::{Sink, Source};

/// Where a backup is, or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder.
    Directory(PathBuf),
    /// A tar file.
    Archive(PathBuf),
    /// A tar stream on stdin or stdout.
    Stream,
}

impl Place {
    fn create(&self) -> Result<Box<dyn Sink>, Error> {
        Ok(match self {
            Self::Directory(path) => Box::new(DirectorySink::create(path)?),
            Self::Archive(path) => Box::new(ArchiveSink::create(path)?),
            Self::Stream => Box::new(ArchiveSink::to(standard(std::io::stdout())?)),
        })
    }

    fn open(&self) -> Result<Box<dyn Source>, Error> {
        Ok(match self {
            Self::Directory(path) => Box::new(DirectorySource::open(path)?),
            Self::Archive(path) => Box::new(ArchiveSource::open(path)?),
            Self::Stream => Box::new(ArchiveSource::from(standard(std::io::stdin())?)),
        })
    }
}

/// A standard stream without a buffer of its own.
fn standard(stream: impl AsFd) -> Result<File, Error> {
    let owned = stream.as_fd().try_clone_to_owned();
    owned.map(File::from).map_err(|error| Error::internal("open a standard stream", error))
}

/// How far a backup or a restore is.
///
/// # Units
/// Bytes of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Written or read so far.
    pub done: u64,
    /// All of them, about, once that is known.
    pub total: Option<u64>,
}

/// Who is told.
pub type Tell<'a> = &'a (dyn Fn(Progress) + Sync);

const WRITING: &str = "write the backup";
const READING: &str = "read the backup";

/// The backup is not one that can be restored.
fn unsound(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::Invalid, format!("The backup cannot be restored: {what}."))
}

fn writing(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |error| Error::internal(WRITING, format!("{path}: {error}"))
}

fn reading(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |error| unsound(format!("{path}: {error}"))
}

/// The segment's row that a document of a collection is or holds.
fn row_in(collection: &str, document: &RawDocumentBuf) -> Result<Option<SegmentDoc>, StoreError> {
    let Some(place) = RowPlace::ALL.into_iter().find(|place| place.collection() == collection) else { return Ok(None) };
    place.row(document)?.map(|row| parse(&row.to_owned())).transpose()
}

/// The key-encryption key that a segment needs from the keyring.
fn kid_of(segment: &SegmentDoc) -> Result<Option<String>, Error> {
    let Some(enc) = &segment.enc else { return Ok(None) };
    let wrapped = WrappedKey::try_from(enc).map_err(|error| Error::damaged("read a segment's key", error))?;
    Ok((wrapped.mode == WrapMode::Managed).then_some(wrapped.kid))
}
