//! SHA-256 of a file's plaintext, running and finished. Does not know where digests are kept.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
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
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A running SHA-256 over pieces in stream order.
#[derive(Clone, Default)]
pub struct Sha256Stream(Sha256);

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

/// The key that seals what uploads keep of their content, where the gateway may open it.
pub fn upload_key(digest_root: &Key) -> Key {
    Key::new(digest_root.expand(&[b"gridgate/upload/v1\0"]))
}

/// Seals a running hash for a database, so that another process goes on with it: it holds up to 63 bytes of the
/// plaintext.
///
/// # Shape
/// `nonce`, then AES-256-GCM of the 104 bytes of the state (as the crate `sha2` writes it) and its tag, under
/// `HKDF-Expand(root, "gridgate/running-hash/v1\0" || content id)`; the associated data is the number of bytes hashed,
/// `u64` big-endian. The nonce **MUST** be random.
pub fn seal_running(
    running: &Sha256Stream,
    hashed_len: u64,
    root: &Key,
    content_id: &[u8; 12],
    nonce: [u8; 12],
) -> Vec<u8> {
    let mut state = Zeroizing::new(running.0.serialize().to_vec());
    let tag = content_cipher(root, RUNNING, content_id)
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(hashed_len.to_be_bytes()),
            &mut state,
        )
        .expect("a state is within AES-GCM's limit");
    [nonce.as_slice(), &state, tag.as_ref()].concat()
}

/// Opens a sealed running hash.
///
/// # Errors
/// [`FormatError::Digest`] when the record is of other content or another length, or was changed.
pub fn open_running(
    sealed: &[u8],
    hashed_len: u64,
    root: &Key,
    content_id: &[u8; 12],
) -> Result<Sha256Stream, FormatError> {
    let (nonce, state) = sealed.split_first_chunk::<12>().ok_or(FormatError::Digest)?;
    let mut state = Zeroizing::new(state.to_vec());
    let (nonce, aad) = (Nonce::assume_unique_for_key(*nonce), Aad::from(hashed_len.to_be_bytes()));
    let cipher = content_cipher(root, RUNNING, content_id);
    let opened = cipher.open_in_place(nonce, aad, &mut state).map_err(|_| FormatError::Digest)?;
    let state = SerializedState::<Sha256>::try_from(&*opened).map_err(|_| FormatError::Digest)?;
    Sha256::deserialize(&state).map(Sha256Stream).map_err(|_| FormatError::Digest)
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
const RUNNING: &[u8] = b"gridgate/running-hash/v1\0";

fn content_cipher(root: &Key, purpose: &[u8], content_id: &[u8; 12]) -> LessSafeKey {
    let key = Zeroizing::new(root.expand::<32>(&[purpose, content_id]));
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("the key is 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(bytes: &[u8]) -> Sha256Stream {
        let mut running = Sha256Stream::default();
        running.update(bytes);
        running
    }

    #[test]
    fn a_running_hash_goes_on_where_it_was_sealed() {
        let (root, id, content) = (Key::new([7; 32]), [1; 12], [42; 1000]);
        for cut in [0, 1, 63, 64, 65, 999, 1000] {
            let (head, rest) = content.split_at(cut);
            let sealed = seal_running(&running(head), cut as u64, &root, &id, [9; 12]);
            assert_eq!(sealed.len(), 12 + 104 + 16);
            let mut resumed = open_running(&sealed, cut as u64, &root, &id).expect("it opens");
            resumed.update(rest);
            assert_eq!(resumed.finish(), Sha256Digest::of(&content));
        }
    }

    #[test]
    fn a_running_hash_of_other_content_or_length_does_not_open() {
        let (root, id) = (Key::new([7; 32]), [1; 12]);
        let sealed = seal_running(&running(b"secret"), 6, &root, &id, [9; 12]);
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert!(open_running(&sealed, 7, &root, &id).is_err());
        assert!(open_running(&sealed, 6, &root, &[2; 12]).is_err());
        assert!(open_running(&sealed, 6, &Key::new([8; 32]), &id).is_err());
        assert!(open_running(&sealed[..40], 6, &root, &id).is_err());
        assert!(open_running(b"short", 6, &root, &id).is_err());
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert!(open_running(&changed, 6, &root, &id).is_err(), "byte {i}");
        }
    }
}
