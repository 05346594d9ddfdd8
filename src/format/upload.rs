//! What an upload keeps of its content while it is open, sealed: the running hash over its beginning, and its tail.
//! Does not know where they are kept.

use aws_lc_rs::aead::{Aad, Nonce};
use sha2::Sha256;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use zeroize::Zeroizing;

use super::FormatError;
use super::digest::{Sha256Stream, content_cipher};
use super::key::Key;

const RUNNING: &[u8] = b"gridgate/running-hash/v1\0";
const TAIL: &[u8] = b"gridgate/tail/v1\0";

/// The key that seals what uploads keep of their content, where the gateway may open it.
pub fn upload_key(digest_root: &Key) -> Key {
    Key::new(digest_root.expand(&[b"gridgate/upload/v1\0"]))
}

/// Seals a running hash for a database, so that another process goes on with it: it holds up to 63 bytes of the
/// plaintext.
///
/// # Shape
/// As `seal` over the 104 bytes of the state as the crate `sha2` writes it; the number is that of the bytes hashed.
pub fn seal_running(
    running: &Sha256Stream,
    hashed_len: u64,
    root: &Key,
    upload_id: &[u8; 12],
    nonce: [u8; 12],
) -> Vec<u8> {
    let state = Zeroizing::new(running.0.serialize().to_vec());
    seal(RUNNING, &state, hashed_len, root, upload_id, nonce)
}

/// Opens a sealed running hash.
///
/// # Errors
/// [`FormatError::Digest`] when the record is of another upload or another length, or was changed.
pub fn open_running(
    sealed: &[u8],
    hashed_len: u64,
    root: &Key,
    upload_id: &[u8; 12],
) -> Result<Sha256Stream, FormatError> {
    let state = open(RUNNING, sealed, hashed_len, root, upload_id)?;
    let state = SerializedState::<Sha256>::try_from(state.as_slice()).map_err(|_| FormatError::Digest)?;
    Sha256::deserialize(&state).map(Sha256Stream).map_err(|_| FormatError::Digest)
}

/// Seals bytes of a tail for a database.
///
/// # Shape
/// As `seal`; the number is the offset of the first of them in the upload.
pub fn seal_tail(plain: &[u8], off: u64, root: &Key, upload_id: &[u8; 12], nonce: [u8; 12]) -> Vec<u8> {
    seal(TAIL, plain, off, root, upload_id, nonce)
}

/// Opens sealed bytes of a tail.
///
/// # Errors
/// [`FormatError::Digest`] when the record is of another upload or another offset, or was changed.
pub fn open_tail(sealed: &[u8], off: u64, root: &Key, upload_id: &[u8; 12]) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    open(TAIL, sealed, off, root, upload_id)
}

/// Seals under the key of one purpose and one upload.
///
/// # Shape
/// `nonce`, which **MUST** be random, then AES-256-GCM of the plain bytes and its tag, under
/// `HKDF-Expand(root, purpose || upload id)`; the associated data is `number`, `u64` big-endian.
fn seal(purpose: &[u8], plain: &[u8], number: u64, root: &Key, upload_id: &[u8; 12], nonce: [u8; 12]) -> Vec<u8> {
    let mut sealed = plain.to_vec();
    let tag = content_cipher(root, purpose, upload_id)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(number.to_be_bytes()), &mut sealed)
        .expect("an upload keeps less than AES-GCM's limit");
    [nonce.as_slice(), &sealed, tag.as_ref()].concat()
}

fn open(
    purpose: &[u8],
    sealed: &[u8],
    number: u64,
    root: &Key,
    upload_id: &[u8; 12],
) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    let (nonce, rest) = sealed.split_first_chunk::<12>().ok_or(FormatError::Digest)?;
    let mut plain = Zeroizing::new(rest.to_vec());
    let aad = Aad::from(number.to_be_bytes());
    let cipher = content_cipher(root, purpose, upload_id);
    let opened = cipher.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut plain);
    let len = opened.map_err(|_| FormatError::Digest)?.len();
    plain.truncate(len);
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::digest::Sha256Digest;

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

    #[test]
    fn a_tail_opens_at_its_place_only() {
        let (root, id) = (Key::new([7; 32]), [1; 12]);
        for plain in [b"".as_slice(), b"x", &[3; 5000]] {
            let sealed = seal_tail(plain, 9, &root, &id, [9; 12]);
            assert_eq!(open_tail(&sealed, 9, &root, &id).expect("it opens").as_slice(), plain);
            assert!(open_tail(&sealed, 8, &root, &id).is_err());
            assert!(open_tail(&sealed, 9, &root, &[2; 12]).is_err());
            assert!(open_running(&sealed, 9, &root, &id).is_err());
            assert!(open_tail(&sealed[..sealed.len() - 1], 9, &root, &id).is_err());
        }
    }
}
