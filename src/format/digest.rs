//! SHA-256 of a file's plaintext, running and finished. Does not know where digests are kept.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::FormatError;
use super::key::Key;

/// The SHA-256 of a file's plaintext.
///
/// # Shape
/// 32 bytes; printed as 64 lower-case hexadecimal digits.
///
/// # Source
/// FIPS 180-4.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256Digest(pub [u8; 32]);

impl Sha256Digest {
    /// The digest of bytes at hand.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A running SHA-256 over pieces in stream order.
#[derive(Clone, Default)]
pub struct Sha256Stream(pub(super) Sha256);

impl Sha256Stream {
    /// Takes the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Ends the stream.
    pub fn finish(self) -> Sha256Digest {
        Sha256Digest(self.0.finalize().into())
    }
}

/// Stands for content under a client's key: who has not both learns of neither.
///
/// # Shape
/// HMAC-SHA-256 under the client's key over `gridgate/likeness/v1` and the digest, without a zero byte between.
pub fn likeness(digest: Sha256Digest, client: &Key) -> [u8; 32] {
    client.mac(&[b"gridgate/likeness/v1", &digest.0])
}

/// Seals a digest for a database whose readers must not confirm guesses of a file's content.
///
/// # Shape
/// 48 bytes: AES-256-GCM of the digest and its tag, under a key of the content's own
/// (`HKDF-Expand(root, "gridgate/digest/v1\0" || content id)`), which seals nothing else.
pub fn seal_digest(digest: Sha256Digest, root: &Key, content_id: &[u8; 12]) -> Vec<u8> {
    let mut sealed = digest.0.to_vec();
    content_cipher(root, DIGEST, content_id)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut sealed)
        .expect("32 bytes are within AES-GCM's limit");
    sealed
}

/// Opens a sealed digest.
///
/// # Errors
/// [`FormatError::Digest`] when the record belongs to other content or was changed.
pub fn open_digest(sealed: &[u8], root: &Key, content_id: &[u8; 12]) -> Result<Sha256Digest, FormatError> {
    let mut sealed = sealed.to_vec();
    let opened = content_cipher(root, DIGEST, content_id)
        .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut sealed)
        .map_err(|_| FormatError::Digest)?;
    <[u8; 32]>::try_from(&*opened).map(Sha256Digest).map_err(|_| FormatError::Digest)
}

const DIGEST: &[u8] = b"gridgate/digest/v1\0";

/// The cipher of one purpose and one content.
pub(super) fn content_cipher(root: &Key, purpose: &[u8], content_id: &[u8; 12]) -> LessSafeKey {
    let key = Zeroizing::new(root.expand::<32>(&[purpose, content_id]));
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("the key is 32 bytes"))
}
