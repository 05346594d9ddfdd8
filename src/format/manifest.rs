//! The manifest: what makes a list of segments one file, authenticated as a whole.
//!
//! Does not load segments; policy fields (name, type, tags, access, expiry) are not covered.

use super::FormatError;
use super::digest::Sha256Digest;
use super::key::{Key, equal, length_prefix};

/// The message's first bytes.
pub(super) const MAGIC: &[u8; 4] = b"GGM1";

/// How a segment's bytes are protected, as the manifest records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Not encrypted; the commitment is the SHA-256 of the frame index.
    Plain = 0,
    /// Sealed under a data key wrapped by the keyring.
    Managed = 1,
    /// Sealed under a data key wrapped by the client's key.
    Customer = 2,
}

/// One segment's line in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestSegment {
    /// The segment's id.
    pub id: [u8; 12],
    /// Plaintext bytes.
    pub plain_len: u64,
    /// The segment's commitment.
    pub commitment: [u8; 32],
    /// How its bytes are protected.
    pub protection: Protection,
}

/// Everything the manifest's authentication code covers, in order.
#[derive(Debug, Clone, Copy)]
pub struct Manifest<'a> {
    /// The owner of the bytes.
    pub tenant: &'a str,
    /// The file.
    pub file_id: &'a [u8; 12],
    /// The file's version, from 1.
    pub version: u64,
    /// Plaintext bytes of the whole file.
    pub plain_len: u64,
    /// SHA-256 of the whole file.
    pub sha256: Sha256Digest,
    /// The segments, by offset.
    pub segments: &'a [ManifestSegment],
}

impl Manifest<'_> {
    /// The authentication code under the root key.
    ///
    /// # Shape
    /// HMAC-SHA-256 under `HKDF-Expand(root, "gridgate/manifest/v1\0")`; the fields are tabled in
    /// `docs/format.md`.
    pub fn mac(&self, root: &Key) -> [u8; 32] {
        let tenant = self.tenant.as_bytes();
        let mut message = Vec::with_capacity(96 + self.segments.len() * 53);
        message.extend_from_slice(MAGIC);
        for field in [tenant, self.file_id.as_slice()] {
            message.extend_from_slice(&length_prefix(field));
            message.extend_from_slice(field);
        }
        message.extend_from_slice(&self.version.to_be_bytes());
        message.extend_from_slice(&self.plain_len.to_be_bytes());
        message.extend_from_slice(&self.sha256.0);
        let count = u32::try_from(self.segments.len()).expect("a file has fewer than 2^32 segments");
        message.extend_from_slice(&count.to_be_bytes());
        for segment in self.segments {
            message.extend_from_slice(&segment.id);
            message.extend_from_slice(&segment.plain_len.to_be_bytes());
            message.extend_from_slice(&segment.commitment);
            message.push(segment.protection as u8);
        }
        Key::new(root.expand::<32>(&[b"gridgate/manifest/v1\0"])).mac(&[&message])
    }

    /// Checks the stored authentication code in constant time.
    ///
    /// # Errors
    /// [`FormatError::Manifest`] when anything covered was changed.
    pub fn verify(&self, root: &Key, mac: &[u8]) -> Result<(), FormatError> {
        if equal(&self.mac(root), mac) { Ok(()) } else { Err(FormatError::Manifest) }
    }
}

/// The authentication code of the text that says what is in a backup.
pub fn backup_code(root: &Key, text: &[u8]) -> [u8; 32] {
    Key::new(root.expand(&[b"gridgate/backup/v1\0"])).mac(&[text])
}
