//! Sealing of frames: AES-256-GCM in the STREAM construction with a key commitment.
//!
//! Keys and salts come from the caller; which frames make a segment is `segment.rs`.
//!
//! # Source
//! Hoang, Reyhanitabar, Rogaway, Vizár: *Online Authenticated-Encryption and its Nonce-Reuse
//! Misuse-Resistance* (STREAM); NIST SP 800-38D (GCM); RFC 5869 (HKDF).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::FormatError;
use super::frame::FrameBuf;
use super::key::{Key, equal, length_prefix};

/// Length of a segment header in stored bytes.
pub const HEADER_LEN: usize = 52;
/// Length of the key commitment that follows the header.
pub const COMMITMENT_LEN: usize = 32;
/// Length of a frame's own header.
pub const FRAME_HEADER_LEN: usize = 9;
/// Length of a GCM tag.
pub const TAG_LEN: usize = 16;
/// Bytes a frame grows by when it is sealed.
pub const FRAME_OVERHEAD: usize = FRAME_HEADER_LEN + TAG_LEN;
/// The last four stored bytes of a sealed segment.
pub const TRAILER_MAGIC: &[u8; 4] = b"GGT1";
/// The sealed trailer's length field and magic.
pub const TRAILER_SUFFIX_LEN: usize = 8;

pub(super) const MAGIC: &[u8; 4] = b"GGS1";
pub(super) const VERSION: u8 = 1;
pub(super) const AES_256_GCM_ID: u8 = 1;
const TRAILER_AAD: &[u8] = b"trailer";

/// The first bytes of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Which codecs its frames may use: 1 for zstd, 2 for gzip; raw frames belong to both.
    pub family: u8,
    /// Binary logarithm of the frame length.
    pub frame_log2: u8,
    /// The segment's id.
    pub segment_id: [u8; 12],
    /// Fresh random bytes.
    pub salt: [u8; 32],
}

impl SegmentHeader {
    /// The stored form.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[..4].copy_from_slice(MAGIC);
        header[4..8].copy_from_slice(&[VERSION, self.family, AES_256_GCM_ID, self.frame_log2]);
        header[8..20].copy_from_slice(&self.segment_id);
        header[20..].copy_from_slice(&self.salt);
        header
    }

    /// Compares the header with its stored form.
    ///
    /// # Errors
    /// [`FormatError::Header`] where magic, version, family, cipher or frame length differ,
    /// [`FormatError::SegmentId`] and [`FormatError::Commitment`] where the id or the salt does.
    pub fn check(&self, stored: &[u8; HEADER_LEN]) -> Result<(), FormatError> {
        let expected = self.encode();
        if stored[..8] != expected[..8] {
            Err(FormatError::Header)
        } else if stored[8..20] != expected[8..20] {
            Err(FormatError::SegmentId)
        } else if stored[20..] != expected[20..] {
            Err(FormatError::Commitment)
        } else {
            Ok(())
        }
    }
}

/// Where a frame stands in its segment; bound into its nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Any frame but the last.
    Data = 0,
    /// The last frame.
    Final = 1,
    /// The sealed trailer.
    Trailer = 2,
}

/// What a sealed frame says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedFrame {
    /// The codec of `body`: 0 raw, 1 zstd, 2 gzip.
    pub codec: u8,
    /// Length of the frame's plaintext.
    pub plain_len: u32,
    /// The authenticated bytes, still compressed.
    pub body: Vec<u8>,
}

/// The key of one segment, derived from its data key, header and tenant.
pub struct SegmentKey {
    cipher: LessSafeKey,
    commitment: [u8; COMMITMENT_LEN],
    header: SegmentHeader,
}

impl SegmentKey {
    /// Derives `key(32) || commitment(32) = HKDF-Expand(DEK, "gridgate/seg/v1\0" || header || lp(tenant))`.
    pub fn derive(data_key: &Key, header: SegmentHeader, tenant: &str) -> Self {
        let tenant = tenant.as_bytes();
        let okm = Zeroizing::new(data_key.expand::<64>(&[
            b"gridgate/seg/v1\0",
            &header.encode(),
            &length_prefix(tenant),
            tenant,
        ]));
        let cipher = UnboundKey::new(&AES_256_GCM, &okm[..32]).expect("the key is 32 bytes");
        Self { cipher: LessSafeKey::new(cipher), commitment: std::array::from_fn(|i| okm[32 + i]), header }
    }

    /// The header the key is bound to.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The key commitment.
    pub fn commitment(&self) -> [u8; COMMITMENT_LEN] {
        self.commitment
    }

    /// Whether `stored` is this key's commitment, in constant time.
    pub fn is_committed_by(&self, stored: &[u8]) -> bool {
        equal(&self.commitment, stored)
    }

    /// Seals one frame where it lies: `frame` is its body and becomes its stored form.
    ///
    /// # Shape
    /// `u32` length of ciphertext and tag, `u8` codec, `u32` plaintext length, ciphertext, tag.
    pub fn seal_frame(&self, index: u64, kind: FrameKind, codec: u8, plain_len: u32, frame: &mut FrameBuf) {
        let sealed_len = u32::try_from(frame.len() + TAG_LEN).expect("a frame is shorter than 4 GiB");
        let tag = self
            .cipher
            .seal_in_place_separate_tag(nonce(index, kind), frame_aad(plain_len, codec), frame.content_mut())
            .expect("a frame is within AES-GCM's limit");
        frame.extend_from_slice(tag.as_ref());
        let ([l0, l1, l2, l3], [p0, p1, p2, p3]) = (sealed_len.to_be_bytes(), plain_len.to_be_bytes());
        let header: [u8; FRAME_HEADER_LEN] = [l0, l1, l2, l3, codec, p0, p1, p2, p3];
        frame.prepend(&header);
    }

    /// Opens one frame; nothing of it is given out unless its tag verifies.
    ///
    /// # Errors
    /// [`FormatError::Frame`] when the frame is not the one sealed at this place.
    pub fn open_frame(&self, index: u64, kind: FrameKind, stored: &[u8]) -> Result<OpenedFrame, FormatError> {
        let damaged = FormatError::Frame { index };
        let (header, sealed) = stored.split_first_chunk::<FRAME_HEADER_LEN>().ok_or(damaged)?;
        let [l0, l1, l2, l3, codec, p0, p1, p2, p3] = *header;
        let plain_len = u32::from_be_bytes([p0, p1, p2, p3]);
        if u32::from_be_bytes([l0, l1, l2, l3]) as usize != sealed.len() {
            return Err(damaged);
        }
        let body = self.open(nonce(index, kind), frame_aad(plain_len, codec), sealed).ok_or(damaged)?;
        Ok(OpenedFrame { codec, plain_len, body })
    }

    /// Seals the trailer; the frame count is its position.
    pub fn seal_trailer(&self, trailer: &[u8], frames: u64) -> Vec<u8> {
        let mut sealed = trailer.to_vec();
        self.cipher
            .seal_in_place_append_tag(nonce(frames, FrameKind::Trailer), Aad::from(TRAILER_AAD), &mut sealed)
            .expect("a trailer is within AES-GCM's limit");
        sealed
    }

    /// Opens the trailer.
    ///
    /// # Errors
    /// [`FormatError::Trailer`] when it is not the trailer of a segment of so many frames.
    pub fn open_trailer(&self, sealed: &[u8], frames: u64) -> Result<Vec<u8>, FormatError> {
        self.open(nonce(frames, FrameKind::Trailer), Aad::from(TRAILER_AAD), sealed).ok_or(FormatError::Trailer)
    }

    fn open<A: AsRef<[u8]>>(&self, nonce: Nonce, aad: Aad<A>, sealed: &[u8]) -> Option<Vec<u8>> {
        let (ciphertext, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG_LEN)?)?;
        let mut plain = vec![0; ciphertext.len()];
        self.cipher.open_separate_gather(nonce, aad, ciphertext, tag, &mut plain).ok()?;
        Some(plain)
    }
}

/// The nonce of a place: the index in 11 bytes big-endian, then the kind. The key is unique to the
/// segment, so a nonce never repeats.
fn nonce(index: u64, kind: FrameKind) -> Nonce {
    let mut bytes = [0; 12];
    bytes[3..11].copy_from_slice(&index.to_be_bytes());
    bytes[11] = kind as u8;
    Nonce::assume_unique_for_key(bytes)
}

fn frame_aad(plain_len: u32, codec: u8) -> Aad<[u8; 5]> {
    let [a, b, c, d] = plain_len.to_be_bytes();
    Aad::from([a, b, c, d, codec])
}
