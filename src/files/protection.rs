//! How content is protected: who holds the key of its data keys, and what is kept of its digest.
//!
//! A client's key (SSE-C) is known for the length of its request only: nothing here stores it, and
//! what is stored tells it from another key by the commitment of the wrap record.

use super::{Files, Result};
use crate::content::EncryptionPolicy;
use crate::error::{Error, ErrorCode};
use crate::format::FormatError;
use crate::format::digest::{Sha256Digest, open_digest, seal_digest};
use crate::format::key::Key;
use crate::format::key_wrap::{WrapBinding, WrapMode, WrappedKey, unwrap, wrap};
use crate::format::manifest::Protection;
use crate::random;
use crate::store::Id;
use crate::store::registry::FileDoc;
use crate::store::segments::SegmentDoc;

/// The header that carries a client's key.
pub const KEY_HEADER: &str = "Gridgate-Encryption-Key";
/// Of a client's key: it has none.
const NO_NAME: &str = "";

/// The keys of content that is being stored under a client's key.
pub(super) struct CustomerKeys {
    /// As the client sent it.
    pub sent: Key,
    /// Of the segment.
    pub data: Key,
}

/// What is kept of a digest.
pub(super) struct DigestRecord {
    /// As it is stored.
    pub bytes: Vec<u8>,
    /// What the manifest binds: the digest where the gateway can open the record, else that of the record.
    pub bound: Sha256Digest,
}

impl Protection {
    /// The word in documents and the API; none where nothing is encrypted.
    pub(super) const fn mode(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Managed => Some("managed"),
            Self::Customer => Some(CUSTOMER),
        }
    }
}

const CUSTOMER: &str = "customer";

/// What the option `encrypt` and a key sent with it ask for together; a key alone asks for its use.
///
/// # Errors
/// `key_required` for a wish without its key, `bad_request` for a key against the wish.
pub(super) fn wished(encrypt: Option<Protection>, key: Option<&Key>) -> Result<Option<Protection>> {
    match (encrypt, key) {
        (Some(Protection::Customer), None) => Err(key_required()),
        (None | Some(Protection::Customer), Some(_)) => Ok(Some(Protection::Customer)),
        (Some(_), Some(_)) => Err(Error::bad_request("encrypt", "A key was sent, but encrypt is not customer.")),
        (wish, None) => Ok(wish),
    }
}

/// What a bucket's policy makes of a wish; a client's key satisfies every policy.
///
/// # Errors
/// `invalid` for a wish against `required`.
pub(super) fn choose(policy: EncryptionPolicy, wish: Option<Protection>) -> Result<Protection> {
    match (policy, wish) {
        (EncryptionPolicy::Required, Some(Protection::Plain)) => {
            Err(Error::invalid("encrypt", "Files of this type are always encrypted here."))
        }
        (EncryptionPolicy::Required | EncryptionPolicy::On, wish) => Ok(wish.unwrap_or(Protection::Managed)),
        (EncryptionPolicy::Off, wish) => Ok(wish.unwrap_or(Protection::Plain)),
    }
}

/// How a segment's row says it is protected; the manifest proves it.
///
/// # Errors
/// `damaged` for a wrapped key no writer makes.
pub(super) fn protection(segment: &SegmentDoc) -> Result<Protection> {
    let Some(enc) = &segment.enc else { return Ok(Protection::Plain) };
    match enc.mode().map_err(|error| Error::damaged("open the file", error))? {
        WrapMode::Managed => Ok(Protection::Managed),
        WrapMode::Customer => Ok(Protection::Customer),
    }
}

/// The client's key is needed and was not sent.
pub(super) fn key_required() -> Error {
    let detail = format!("The content is encrypted with the client's key: send it as {KEY_HEADER}.");
    Error::new(ErrorCode::KeyRequired, detail).with("field", KEY_HEADER)
}

impl Files {
    /// Wraps a data key: under the client's key if there is one, else under the keyring's primary.
    pub(super) fn wrap_data_key(&self, data: &Key, sent: Option<&Key>, binding: WrapBinding<'_>) -> WrappedKey {
        match sent {
            Some(sent) => wrap(data, sent, WrapMode::Customer, NO_NAME, random::bytes(), binding),
            None => self.keys.ring.wrap(data, binding),
        }
    }

    /// Opens the data key of a sealed segment.
    ///
    /// # Errors
    /// `key_required` and `key_mismatch` for content under a client's key; `key_unavailable` for a key
    /// that is not in the ring; `damaged`.
    pub(super) fn data_key(&self, tenant: &str, segment: &SegmentDoc, sent: Option<&Key>) -> Result<Key> {
        let fail = |error| Error::damaged("open a segment", error);
        let enc = segment.enc.as_ref().ok_or_else(|| Error::damaged("open a segment", "it has no wrapped key"))?;
        let record = WrappedKey::try_from(enc).map_err(fail)?;
        let binding = WrapBinding { tenant, id: &segment.id.bytes() };
        match (record.mode, sent) {
            (WrapMode::Managed, _) => self.keys.ring.unwrap(&record, binding),
            (WrapMode::Customer, None) => Err(key_required()),
            (WrapMode::Customer, Some(sent)) => unwrap(&record, sent, binding).map_err(|error| match error {
                FormatError::WrongKey => {
                    Error::new(ErrorCode::KeyMismatch, "The content is encrypted with another key.")
                }
                error => fail(error),
            }),
        }
    }

    /// What is kept of a digest: nothing while it is not known; open for plain content, sealed by the digest root, or by the data key of
    /// content under a client's key, so that nobody confirms a guess of it without that key.
    pub(super) fn digest_record(
        &self,
        digest: Option<Sha256Digest>,
        blob: Id,
        protection: Protection,
        customer: Option<&CustomerKeys>,
    ) -> DigestRecord {
        let Some(digest) = digest else {
            return DigestRecord { bytes: Vec::new(), bound: Sha256Digest::of(&[]) };
        };
        match (protection, customer) {
            (Protection::Plain, _) => DigestRecord { bytes: digest.0.to_vec(), bound: digest },
            (_, None) => {
                DigestRecord { bytes: seal_digest(digest, &self.keys.roots.digest, &blob.bytes()), bound: digest }
            }
            (_, Some(keys)) => {
                let bytes = seal_digest(digest, &keys.data, &blob.bytes());
                DigestRecord { bound: Sha256Digest::of(&bytes), bytes }
            }
        }
    }

    /// The SHA-256 of a file's plaintext; none where only the client's key opens it, and while it is not known.
    ///
    /// # Errors
    /// `damaged` when its record does not open.
    pub fn digest(&self, file: &FileDoc) -> Result<Option<Sha256Digest>> {
        let record = &file.content.digest.bytes;
        let digest = match file.content.mode.as_deref() {
            // The manifest binds that there is none.
            _ if record.is_empty() => return Ok(None),
            None => <[u8; 32]>::try_from(record.as_slice()).map(Sha256Digest).map_err(|error| error.to_string()),
            Some(CUSTOMER) => return Ok(None),
            Some(_) => {
                open_digest(record, &self.keys.roots.digest, &file.blob.bytes()).map_err(|error| error.to_string())
            }
        };
        digest.map(Some).map_err(|error| Error::damaged("read the file's digest", error))
    }
}
