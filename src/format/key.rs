//! Key material in memory and the derivations over it. Does not store, wrap or load keys.

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 secret bytes: a key-encryption key, a data key or a root.
///
/// Cannot be printed or serialised, and is overwritten when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl Key {
    /// Takes 32 secret bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a primitive that needs them.
    pub fn reveal(&self) -> &[u8; 32] {
        &self.0
    }

    /// HMAC-SHA-256 under this key over the parts in order (RFC 2104).
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    /// Whether this is the code of a message, in constant time.
    pub fn is_mac(&self, message: &[u8], code: &[u8]) -> bool {
        equal(&self.mac(&[message]), code)
    }

    /// HKDF-Expand with this key as the pseudo-random key (RFC 5869 §2.3).
    pub fn expand<const N: usize>(&self, info: &[&[u8]]) -> [u8; N] {
        expand(&self.0, info)
    }

    /// HKDF-Extract with `salt`, then Expand (RFC 5869 §2.2 and §2.3).
    pub fn extract_and_expand<const N: usize>(&self, salt: &[u8], info: &[&[u8]]) -> [u8; N] {
        let (mut prk, _) = Hkdf::<Sha256>::extract(Some(salt), &self.0);
        let okm = expand(&prk, info);
        prk.as_mut_slice().zeroize();
        okm
    }

    /// The key-check value: tells two keys under one name apart without telling the key.
    ///
    /// # Shape
    /// The first 8 bytes of HMAC-SHA-256 over `gridgate/key-check/v1`.
    pub fn check_value(&self) -> [u8; 8] {
        let mac = self.mac(&[b"gridgate/key-check/v1"]);
        std::array::from_fn(|i| mac[i])
    }
}

fn expand<const N: usize>(prk: &[u8], info: &[&[u8]]) -> [u8; N] {
    let mut okm = [0; N];
    Hkdf::<Sha256>::from_prk(prk)
        .expect("a pseudo-random key of 32 bytes is long enough")
        .expand_multi_info(info, &mut okm)
        .expect("fewer than 8,160 bytes are asked for");
    okm
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key([redacted])")
    }
}

/// A length-prefixed field of a derivation: `u32` big-endian length, to be followed by the bytes.
///
/// # Panics
/// When the field is 4 GiB or longer.
pub(super) fn length_prefix(field: &[u8]) -> [u8; 4] {
    u32::try_from(field.len()).expect("a derivation field is shorter than 4 GiB").to_be_bytes()
}

/// Compares two secrets in constant time.
pub(super) fn equal(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}
