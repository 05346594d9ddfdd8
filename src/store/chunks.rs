//! Chunk documents as bytes: built in place for writing, sliced without a copy when read.
//!
//! Knows one chunk document at a time; batches, windows and files documents are `gridfs.rs`.

use std::ops::Range;

use bytes::Bytes;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Bson, RawDocument, RawDocumentBuf};
use mongodb::raw_batch_cursor::RawBatch;

use super::{StoreError, StoreResult};
use crate::format::frame::HEADROOM;

/// Everything of a chunk document before its payload:
/// `i32` document length, `_id`, `files_id`, `n`, and the head of `data`.
const HEAD_LEN: usize = 4 + 17 + 22 + 7 + 11;
/// A frame's memory becomes a chunk document without a copy.
const _: () = assert!(HEAD_LEN == HEADROOM);
/// The document's closing byte.
const FOOT_LEN: usize = 1;

/// The eight random bytes that all chunks of one write attempt share in their `_id`.
#[derive(Debug, Clone, Copy)]
pub struct AttemptPrefix([u8; 8]);

impl AttemptPrefix {
    /// Fresh random bytes.
    pub fn random() -> Self {
        Self(crate::random::bytes())
    }

    /// The prefix of a chunk's `_id`.
    pub fn of(chunk: ObjectId) -> Self {
        let [prefix @ .., _, _, _, _] = chunk.bytes();
        Self(prefix)
    }

    /// The `_id` of chunk `n`: the prefix, then `n` big-endian. A repeated insert of the same
    /// attempt collides with itself, one of another attempt does not.
    pub fn chunk_id(self, n: u32) -> ObjectId {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.0);
        id[8..].copy_from_slice(&n.to_be_bytes());
        ObjectId::from_bytes(id)
    }
}

/// One chunk document growing in place.
///
/// # Source
/// GridFS specification, *chunks collection documents*; BSON 1.1.
pub struct ChunkDocument {
    bytes: Vec<u8>,
}

impl ChunkDocument {
    /// Memory for a chunk of so many payload bytes.
    pub fn memory(payload_len: usize) -> Vec<u8> {
        Vec::with_capacity(HEAD_LEN + payload_len + FOOT_LEN)
    }

    /// A chunk without payload, in memory that may have held another.
    ///
    /// # Panics
    /// When `n` does not fit the format's `Int32`; the writer refuses such files before.
    pub fn new(mut memory: Vec<u8>, id: ObjectId, files_id: ObjectId, n: u32) -> Self {
        memory.clear();
        memory.resize(HEAD_LEN, 0);
        Self::in_memory(memory, id, files_id, n)
    }

    /// A chunk whose payload lies in `memory` already, after as many bytes as stand before a payload.
    ///
    /// # Panics
    /// As [`new`](Self::new), and when `memory` is too short for these.
    pub fn in_memory(mut memory: Vec<u8>, id: ObjectId, files_id: ObjectId, n: u32) -> Self {
        let n = i32::try_from(n).expect("n is an Int32").to_le_bytes();
        let parts: [&[u8]; 8] = [
            &[0; 4],
            b"\x07_id\0",
            &id.bytes(),
            b"\x07files_id\0",
            &files_id.bytes(),
            b"\x10n\0",
            &n,
            &[b"\x05data\0".as_slice(), &[0, 0, 0, 0, BinarySubtype::Generic.into()]].concat(),
        ];
        memory[..HEAD_LEN].copy_from_slice(&parts.concat());
        Self { bytes: memory }
    }

    /// Payload bytes so far.
    pub fn payload_len(&self) -> usize {
        self.bytes.len() - HEAD_LEN
    }

    /// Appends payload.
    pub fn push(&mut self, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
    }

    /// The finished document.
    pub fn finish(mut self) -> RawDocumentBuf {
        let payload_len = i32::try_from(self.payload_len()).expect("a chunk is at most 2 MiB");
        self.bytes[HEAD_LEN - 5..HEAD_LEN - 1].copy_from_slice(&payload_len.to_le_bytes());
        self.bytes.push(0);
        let document_len = i32::try_from(self.bytes.len()).expect("a chunk is at most 2 MiB");
        self.bytes[..4].copy_from_slice(&document_len.to_le_bytes());
        RawDocumentBuf::from_bytes(self.bytes).expect("the head and the foot are those of a document")
    }
}

struct Reply(RawBatch);

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        self.0.as_raw_document().as_bytes()
    }
}

/// The payloads of a reply's chunk documents as slices of the reply.
///
/// The chunks **MUST** be exactly `wanted`, each of exactly the length `expected_len` names.
///
/// # Errors
/// [`StoreError::Damaged`] for a missing, repeated, short or long chunk.
pub fn payloads(batch: RawBatch, wanted: Range<u32>, expected_len: impl Fn(u32) -> u64) -> StoreResult<Vec<Bytes>> {
    let reply = Bytes::from_owner(Reply(batch));
    let whole = RawDocument::from_bytes(&reply).map_err(|error| StoreError::Damaged(error.to_string()))?;
    let documents = whole
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"))
        .map_err(|error| StoreError::Damaged(error.to_string()))?;
    let mut payloads = Vec::with_capacity(wanted.len());
    let mut next = wanted.start;
    for document in documents {
        let document = document.ok().and_then(|value| value.as_document()).ok_or_else(|| odd(next))?;
        let n = document.get("n").ok().flatten().and_then(whole_number).ok_or_else(|| odd(next))?;
        let data = document.get_binary("data").map_err(|_| odd(next))?.bytes;
        if n != i64::from(next) || !wanted.contains(&next) {
            return Err(StoreError::Damaged(format!("chunk {next} is missing, chunk {n} came")));
        }
        if data.len() as u64 != expected_len(next) {
            return Err(StoreError::Damaged(format!("chunk {next} holds {} bytes", data.len())));
        }
        payloads.push(reply.slice_ref(data));
        next += 1;
    }
    if next == wanted.end { Ok(payloads) } else { Err(StoreError::Damaged(format!("chunk {next} is missing"))) }
}

/// The file that a chunk is of.
pub fn owner(chunk: &RawDocument) -> Option<Bson> {
    chunk.get("files_id").ok().flatten().and_then(|id| Bson::try_from(id).ok())
}

/// A copy of the payload of a file's only chunk, of those chunks that are its own. A copy, so that a client that takes
/// its time holds no other's bytes.
///
/// # Errors
/// [`StoreError::Damaged`] when there is none, or another, or one of another length.
pub fn only_payload<'a>(mut own: impl Iterator<Item = &'a RawDocument>, len: u64) -> StoreResult<Bytes> {
    let (chunk, None) = (own.next(), own.next()) else {
        return Err(StoreError::Damaged("a chunk follows the last".into()));
    };
    let chunk = chunk.ok_or_else(|| StoreError::Damaged("chunk 0 is missing".into()))?;
    if chunk.get("n").ok().flatten().and_then(whole_number) != Some(0) {
        return Err(StoreError::Damaged("chunk 0 is missing".into()));
    }
    let data = chunk.get_binary("data").map_err(|_| odd(0))?.bytes;
    if data.len() as u64 == len {
        Ok(Bytes::copy_from_slice(data))
    } else {
        Err(StoreError::Damaged(format!("chunk 0 holds {} bytes", data.len())))
    }
}

fn odd(n: u32) -> StoreError {
    StoreError::Damaged(format!("chunk {n} is not a chunk document"))
}

/// A number as other programs may have stored it: Int32, Int64 or a whole Double.
pub fn whole_number(value: mongodb::bson::RawBsonRef<'_>) -> Option<i64> {
    use mongodb::bson::RawBsonRef;
    match value {
        RawBsonRef::Int32(n) => Some(n.into()),
        RawBsonRef::Int64(n) => Some(n),
        RawBsonRef::Double(n) if n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0 => Some(n as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Bson, Document};

    #[test]
    fn a_chunk_built_in_place_is_the_document_the_specification_names() {
        let (id, files_id) = (AttemptPrefix([9; 8]).chunk_id(7), ObjectId::new());
        let mut chunk = ChunkDocument::new(ChunkDocument::memory(5), id, files_id, 7);
        chunk.push(b"hel");
        chunk.push(b"lo");
        assert_eq!(chunk.payload_len(), 5);
        let document = Document::try_from(chunk.finish()).expect("it is a document");
        assert_eq!(document.keys().map(String::as_str).collect::<Vec<_>>(), ["_id", "files_id", "n", "data"]);
        assert_eq!(document.get("n"), Some(&Bson::Int32(7)));
        assert_eq!(document.get_object_id("files_id").expect("an id"), files_id);
        assert_eq!(&id.bytes()[8..], [0, 0, 0, 7]);
        let Some(Bson::Binary(data)) = document.get("data") else { panic!("data is a binary") };
        assert_eq!((data.subtype, data.bytes.as_slice()), (BinarySubtype::Generic, b"hello".as_slice()));
    }
}
