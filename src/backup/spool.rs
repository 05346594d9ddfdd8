//! The GridFS files of a snapshot's segments, kept on disk while their bytes are read: as many as there are files, so
//! not in memory. Names nothing but ids and lengths.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Seek, Write};

use super::WRITING;
use crate::error::Error;
use crate::store::Bson;
use crate::store::gridfs::GridFile;

/// A list on disk; gone with its value.
pub struct Spool {
    out: BufWriter<File>,
    /// The buckets of its files.
    pub buckets: BTreeSet<String>,
    /// Stored bytes of its files.
    pub stored_len: u64,
}

type Line = (String, Bson, u32, u64);

fn lost(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::internal(WRITING, error)
}

impl Spool {
    /// An empty list.
    ///
    /// # Errors
    /// When no temporary file can be made.
    pub fn new() -> Result<Self, Error> {
        let out = BufWriter::new(tempfile::tempfile().map_err(lost)?);
        Ok(Self { out, buckets: BTreeSet::new(), stored_len: 0 })
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, file: GridFile) -> Result<(), Error> {
        self.buckets.insert(file.bucket.clone());
        self.stored_len = self.stored_len.saturating_add(file.stored_len);
        let line: Line = (file.bucket, file.files_id, file.chunk_size, file.stored_len);
        serde_json::to_writer(&mut self.out, &line).map_err(lost)?;
        self.out.write_all(b"\n").map_err(lost)
    }

    /// The files of one bucket, in the order they were added.
    ///
    /// # Errors
    /// When they cannot be read; so does each item.
    pub fn files_of(&mut self, bucket: &str) -> Result<impl Iterator<Item = Result<GridFile, Error>>, Error> {
        self.out.flush().map_err(lost)?;
        let mut file = self.out.get_ref().try_clone().map_err(lost)?;
        file.rewind().map_err(lost)?;
        let bucket = bucket.to_owned();
        let files = BufReader::new(file).lines().map(|line| {
            let (bucket, files_id, chunk_size, stored_len): Line =
                serde_json::from_str(&line.map_err(lost)?).map_err(lost)?;
            Ok(GridFile { bucket, files_id, chunk_size, stored_len })
        });
        Ok(files.filter(move |file| !matches!(file, Ok(file) if file.bucket != bucket)))
    }
}
