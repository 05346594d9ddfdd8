//! Parts: documents one after the other, as mongodump writes them; hashed while written and while read.
//!
//! The first part of a collection is `<collection>.bson`. Where a part's length must be known before it is written
//! (tar), a long collection goes on in `<collection>.bson.1` and so on.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::manifest::Part;
use super::unsound;
use crate::error::Error;
use crate::failpoint;
use crate::store::RawDocumentBuf;
use crate::store::schema::is_kept;
use crate::store::snapshot::{BATCH_DOCUMENTS, BATCH_LEN};

/// Bytes of the longest document: MongoDB's limit and what it adds inside.
const MAX_DOCUMENT_LEN: usize = (16 << 20) + (16 << 10);
const MIN_DOCUMENT_LEN: usize = 5;
const ENDING: &str = ".bson";

/// Takes parts in; nothing stands under its final name before `finish`.
pub trait Sink: Send {
    /// Bytes after which a part ends.
    fn part_limit(&self) -> u64;
    /// Begins a file.
    fn begin(&mut self, name: &str) -> Result<(), Error>;
    /// Goes on with it.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error>;
    /// Ends it: it is stored.
    fn end(&mut self) -> Result<(), Error>;
    /// Gives everything its final name.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// What a source calls for each part.
pub type Visit<'a> = &'a mut dyn FnMut(&str, &mut dyn Read) -> Result<(), Error>;

/// Gives parts out.
pub trait Source: Send {
    /// Bytes of all parts, where known before they are read.
    fn total_len(&self) -> Option<u64>;
    /// Visits every part, in order, and gives the manifest's bytes.
    fn visit(self: Box<Self>, visit: Visit<'_>) -> Result<Vec<u8>, Error>;
}

/// One batch of documents of one collection.
#[derive(Debug)]
pub struct Batch {
    /// The collection.
    pub collection: String,
    /// The documents.
    pub documents: Vec<RawDocumentBuf>,
}

/// Writes batches as parts.
pub struct PartWriter {
    sink: Box<dyn Sink>,
    open: Option<(Part, Sha256)>,
    number: u32,
    done: Vec<Part>,
}

impl PartWriter {
    /// A writer that has written nothing.
    pub fn new(sink: Box<dyn Sink>) -> Self {
        Self { sink, open: None, number: 0, done: Vec::new() }
    }

    /// Writes a batch; another collection than the last one begins a part.
    ///
    /// # Errors
    /// What the sink says.
    pub fn write(&mut self, batch: &Batch) -> Result<(), Error> {
        for document in &batch.documents {
            self.turn_to(&batch.collection)?;
            if let Some((part, hash)) = &mut self.open {
                let bytes = document.as_bytes();
                self.sink.write(bytes)?;
                hash.update(bytes);
                part.documents += 1;
                part.bytes += bytes.len() as u64;
            }
        }
        Ok(())
    }

    /// Ends the last part and gives all of them.
    ///
    /// # Errors
    /// What the sink says.
    pub fn finish(mut self) -> Result<(Vec<Part>, Box<dyn Sink>), Error> {
        self.end_part()?;
        Ok((self.done, self.sink))
    }

    fn turn_to(&mut self, collection: &str) -> Result<(), Error> {
        self.number = match &self.open {
            Some((part, _)) if part.collection != collection => 0,
            Some((part, _)) if part.bytes >= self.sink.part_limit() => self.number + 1,
            Some(_) => return Ok(()),
            None => 0,
        };
        self.end_part()?;
        let ending = if self.number == 0 { String::new() } else { format!(".{}", self.number) };
        let name = format!("{collection}{ENDING}{ending}");
        self.sink.begin(&name)?;
        let part = Part { name, collection: collection.to_owned(), documents: 0, bytes: 0, sha256: String::new() };
        self.open = Some((part, Sha256::new()));
        Ok(())
    }

    fn end_part(&mut self) -> Result<(), Error> {
        if let Some((part, hash)) = self.open.take() {
            self.sink.end()?;
            failpoint::hit("backup.part");
            self.done.push(Part { sha256: hex::encode(hash.finalize()), ..part });
        }
        Ok(())
    }
}

/// The collection of a part's name, if a backup of ours can have one of that name.
fn collection_of(name: &str) -> Option<&str> {
    let (collection, number) = name.rsplit_once(ENDING)?;
    let is_numbered = number.is_empty() || number.strip_prefix('.').is_some_and(|n| n.parse::<u32>().is_ok());
    (is_numbered && !name.contains('/') && is_kept(collection)).then_some(collection)
}

/// Reads a part's documents, in batches; gives what the part is.
///
/// # Errors
/// `invalid` for a name or bytes that no backup has, and what `send` says.
pub fn read_part(
    name: &str,
    bytes: &mut dyn Read,
    send: &mut dyn FnMut(Batch) -> Result<(), Error>,
) -> Result<Part, Error> {
    let collection = collection_of(name).ok_or_else(|| unsound(format!("{name:?} is not a part of a backup")))?;
    let mut part = Part {
        name: name.to_owned(),
        collection: collection.to_owned(),
        documents: 0,
        bytes: 0,
        sha256: String::new(),
    };
    let (mut hash, mut batch, mut batch_len) = (Sha256::new(), Vec::new(), 0);
    while let Some(document) = read_document(name, bytes)? {
        hash.update(document.as_bytes());
        part.documents += 1;
        part.bytes += document.as_bytes().len() as u64;
        batch_len += document.as_bytes().len();
        batch.push(document);
        if batch_len >= BATCH_LEN || batch.len() >= BATCH_DOCUMENTS {
            send(Batch { collection: collection.to_owned(), documents: std::mem::take(&mut batch) })?;
            batch_len = 0;
        }
    }
    if !batch.is_empty() {
        send(Batch { collection: collection.to_owned(), documents: batch })?;
    }
    part.sha256 = hex::encode(hash.finalize());
    Ok(part)
}

fn read_document(name: &str, bytes: &mut dyn Read) -> Result<Option<RawDocumentBuf>, Error> {
    let cut = |error: io::Error| unsound(format!("{name} cannot be read: {error}"));
    let mut head = [0; 4];
    let mut filled = 0;
    while filled < head.len() {
        match bytes.read(&mut head[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(unsound(format!("{name} ends within a document"))),
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cut(error)),
        }
    }
    let len = usize::try_from(i32::from_le_bytes(head)).unwrap_or(0);
    if !(MIN_DOCUMENT_LEN..=MAX_DOCUMENT_LEN).contains(&len) {
        return Err(unsound(format!("{name} has a document of an impossible length")));
    }
    let mut document = vec![0; len];
    document[..4].copy_from_slice(&head);
    bytes.read_exact(&mut document[4..]).map_err(cut)?;
    let document = RawDocumentBuf::from_bytes(document);
    document.map(Some).map_err(|error| unsound(format!("{name} has bytes that are no document: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_lead_to_collections_of_ours_and_nowhere_else() {
        for (name, collection) in [
            ("keys.bson", Some("keys")),
            ("images.chunks.bson", Some("images.chunks")),
            ("images.chunks.bson.12", Some("images.chunks")),
            ("a.bson.files.bson", Some("a.bson.files")),
            ("keys", None),
            ("keys.bson.", None),
            ("keys.bson.x", None),
            ("guards.bson", None),
            ("elsewhere.bson", None),
            (".files.bson", None),
            ("system.x.files.bson", None),
            ("../keys.bson", None),
            ("a/b.files.bson", None),
        ] {
            assert_eq!(collection_of(name), collection, "{name}");
        }
    }

    #[test]
    fn bytes_that_are_no_documents_are_refused() {
        let read = |bytes: &[u8]| read_part("keys.bson", &mut { bytes }, &mut |_| Ok(()));
        assert_eq!(read(&[]).expect("nothing is a part").documents, 0);
        assert_eq!(read(&[5, 0, 0, 0, 0]).expect("an empty document").documents, 1);
        for bad in [&[5, 0, 0][..], &[5, 0, 0, 0], &[4, 0, 0, 0], &[255; 8], &[5, 0, 0, 0, 1], &[5, 0, 0, 127, 0]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
