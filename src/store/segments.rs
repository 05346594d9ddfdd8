//! Segment rows: what describes the stored bytes of one immutable GridFS file, and the leases of
//! those still being written. The bytes themselves are `gridfs.rs`.

use std::time::Duration;

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, doc};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::blobs::BlobDoc;
use super::gridfs::GridFile;
use super::limit::Within;
use super::schema::{BLOBS, SEGMENTS};
use super::{Id, Store, StoreError, StoreResult};
use crate::format::FormatError;
use crate::format::key_wrap::{WrapMode, WrappedKey};
use crate::format::segment::{Codec, FORMAT_VERSION, Layout};

/// How long a release is waited for: it only makes sooner what the end of the lease makes of itself.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// Where a segment or a blob is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Being written under a lease; nothing names it.
    Pending,
    /// Complete.
    Live,
    /// Nothing names it; its bytes go after the quarantine.
    Condemned,
}

impl State {
    /// The stored word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Live => "live",
            Self::Condemned => "condemned",
        }
    }
}

/// A wrapped data key as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrapDoc {
    v: i32,
    mode: String,
    kid: String,
    salt: Binary,
    commit: Binary,
    pub(super) ct: Binary,
}

impl WrapDoc {
    /// The name of the wrapping key; empty where a client holds it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Who holds the wrapping key.
    ///
    /// # Errors
    /// [`FormatError::WrapRecord`] for a name no writer makes.
    pub fn mode(&self) -> Result<WrapMode, FormatError> {
        WrapMode::try_from(self.mode.as_str())
    }
}

/// Bytes as BSON binary of the generic subtype.
pub fn binary(bytes: impl Into<Vec<u8>>) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: bytes.into() }
}

impl From<&WrappedKey> for WrapDoc {
    fn from(key: &WrappedKey) -> Self {
        Self {
            v: key.v,
            mode: key.mode.name().to_owned(),
            kid: key.kid.clone(),
            salt: binary(key.salt),
            commit: binary(key.commit),
            ct: binary(key.ct.clone()),
        }
    }
}

impl TryFrom<&WrapDoc> for WrappedKey {
    type Error = FormatError;

    fn try_from(doc: &WrapDoc) -> Result<Self, FormatError> {
        let fixed = |field: &Binary| <[u8; 32]>::try_from(field.bytes.as_slice()).map_err(|_| FormatError::WrapRecord);
        Ok(Self {
            v: doc.v,
            mode: doc.mode()?,
            kid: doc.kid.clone(),
            salt: fixed(&doc.salt)?,
            commit: fixed(&doc.commit)?,
            ct: doc.ct.bytes.clone(),
        })
    }
}

/// One segment.
///
/// # Units
/// Bytes; `off` and `len` of plaintext within the blob, `stored_len` and `chunk_size` as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentDoc {
    /// Also the GridFS file's id, unless `files_id` says otherwise.
    #[serde(rename = "_id")]
    pub id: Id,
    /// The blob it belongs to.
    pub blob: Id,
    /// The GridFS bucket.
    pub bucket: String,
    /// The GridFS file's id where another program chose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_id: Option<Bson>,
    /// Where it starts in the blob.
    pub off: i64,
    /// Plaintext bytes.
    pub len: i64,
    /// Stored bytes.
    pub stored_len: i64,
    /// Bytes of every chunk but the last.
    pub chunk_size: i32,
    /// [`FORMAT_VERSION`].
    pub format: i32,
    /// The codec's name.
    pub codec: String,
    /// The codec's level.
    #[serde(default)]
    pub level: i32,
    /// Plaintext bytes of every frame but the last.
    pub frame_len: i32,
    /// The sealed trailer or the frame index.
    pub seek: Binary,
    /// What the manifest commits to.
    pub commit: Binary,
    /// Of a part of an upload: stands for its plaintext, to know it when it comes again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likeness: Option<Binary>,
    /// The header's salt where the segment is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<Binary>,
    /// The wrapped data key where the segment is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enc: Option<WrapDoc>,
    /// Where it is in its life.
    pub state: State,
    /// Until when a pending segment is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<DateTime>,
}

impl SegmentDoc {
    /// A segment about to be written: the whole of its blob, as far as is known yet.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when a length does not fit the format's `Int32`.
    pub fn pending(id: Id, blob: Id, bucket: &str, chunk_size: u32, layout: Layout) -> StoreResult<Self> {
        let number = |n: u32| i32::try_from(n).map_err(|_| StoreError::Damaged("a length does not fit 32 bits".into()));
        Ok(Self {
            id,
            blob,
            bucket: bucket.to_owned(),
            files_id: None,
            off: 0,
            len: 0,
            stored_len: 0,
            chunk_size: number(chunk_size)?,
            format: FORMAT_VERSION,
            codec: layout.codec.name().to_owned(),
            level: layout.level,
            frame_len: number(layout.frame_len)?,
            seek: binary([]),
            commit: binary([]),
            likeness: None,
            salt: None,
            enc: None,
            state: State::Pending,
            lease: None,
        })
    }

    /// The GridFS file that holds the bytes.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for numbers no writer makes.
    pub fn grid_file(&self) -> StoreResult<GridFile> {
        let odd = |field| StoreError::Damaged(format!("segment {} has an impossible {field}", self.id));
        if self.format != FORMAT_VERSION {
            return Err(odd("format version"));
        }
        Ok(GridFile {
            bucket: self.bucket.clone(),
            files_id: self.files_id.clone().unwrap_or(Bson::ObjectId(self.id)),
            chunk_size: u32::try_from(self.chunk_size).ok().filter(|size| *size > 0).ok_or_else(|| odd("chunkSize"))?,
            stored_len: u64::try_from(self.stored_len).map_err(|_| odd("storedLen"))?,
        })
    }

    /// The codec.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for a name no writer makes.
    pub fn codec(&self) -> StoreResult<Codec> {
        Codec::try_from(self.codec.as_str())
            .map_err(|_| StoreError::Damaged(format!("segment {} has an unknown codec", self.id)))
    }
}

/// The rows of bytes about to be written.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The blob, pending.
    pub blob: BlobDoc,
    /// The segment, pending.
    pub segment: SegmentDoc,
    /// How long the rows stay reserved without a sign of life.
    pub lease: Duration,
}

/// Renews the lease of pending rows until dropped.
///
/// Leases are kept in the database's own time, so clocks of gateways do not matter.
pub struct LeaseKeeper {
    lost: CancellationToken,
    _renewing: AbortOnDropHandle<()>,
}

impl LeaseKeeper {
    /// Whether the rows were taken away: nothing of the upload can be published any more.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }
}

/// The database's time and so much more.
pub(super) fn lease_end(lease: Duration) -> Bson {
    let millis = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    doc! { "$add": ["$$NOW", millis] }.into()
}

impl Store {
    /// Inserts pending rows and keeps their lease.
    ///
    /// # Errors
    /// When a row could not be inserted; nothing refers to the rows then.
    pub async fn reserve(&self, pending: &Pending) -> StoreResult<LeaseKeeper> {
        let (blob, segment, lease) = (pending.blob.id, pending.segment.id, pending.lease);
        self.insert_leased(BLOBS, blob, &pending.blob, lease).await?;
        self.insert_leased(SEGMENTS, segment, &pending.segment, lease).await?;
        let (store, lost) = (self.clone(), CancellationToken::new());
        let losing = lost.clone();
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(lease / 3).await;
                match store.set_lease(blob, segment, lease_end(lease)).within(lease / 3).await {
                    Ok(true) => {}
                    Ok(false) => return losing.cancel(),
                    Err(error) => tracing::warn!(error = %error, %segment, "could not renew a lease"),
                }
            }
        });
        Ok(LeaseKeeper { lost, _renewing: AbortOnDropHandle::new(renewing) })
    }

    async fn insert_leased<T: Serialize + Sync>(
        &self,
        collection: &str,
        id: Id,
        row: &T,
        lease: Duration,
    ) -> StoreResult<()> {
        let row = mongodb::bson::serialize_to_document(row).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let leased = doc! { "$replaceWith": { "$mergeObjects": [{ "$literal": row }, { "lease": lease_end(lease) }] } };
        // Matches nothing, so that an id in use is a duplicate and not overwritten.
        let absent = doc! { "_id": id, "state": { "$exists": false } };
        self.documents(collection).update_one(absent, vec![leased]).upsert(true).within(self.limit).await?;
        Ok(())
    }

    /// Gives up an upload's pending rows: the next sweep condemns what was written.
    ///
    /// Its inserts **MUST** have settled. Rows that a commit made live stay as they are.
    pub async fn release(&self, pending: &Pending) -> StoreResult<()> {
        let at_once = DateTime::from_millis(0).into();
        self.set_lease(pending.blob.id, pending.segment.id, at_once).within(RELEASE_LIMIT).await.map(drop)
    }

    /// Removes what was written of a segment whose row a sweep took away before the last of it came.
    ///
    /// Its inserts **MUST** have settled, and no commit of it be under way.
    pub async fn remove_late(&self, segment: &SegmentDoc) -> StoreResult<()> {
        if self.find_segments_by_id(&[segment.id]).await?.is_empty() {
            self.delete_grid_file(&segment.bucket, &segment.id.into()).await?;
        }
        Ok(())
    }

    /// False when a row is no longer pending.
    async fn set_lease(&self, blob: Id, segment: Id, until: Bson) -> StoreResult<bool> {
        let mut are_pending = true;
        for (collection, id) in [(BLOBS, blob), (SEGMENTS, segment)] {
            let pending = doc! { "_id": id, "state": State::Pending.name() };
            let renew = vec![doc! { "$set": { "lease": until.clone() } }];
            let renewed = self.documents(collection).update_one(pending, renew).within(self.limit).await?;
            are_pending &= renewed.matched_count == 1;
        }
        Ok(are_pending)
    }
}
