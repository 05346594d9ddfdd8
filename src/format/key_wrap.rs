//! Wrapping of data keys under a key-encryption key: the only record that key rotation rewrites.
//!
//! Does not choose keys, draw salts or know where the record is stored.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::FormatError;
use super::key::{Key, equal, length_prefix};

/// The version of the record.
pub const WRAP_VERSION: i32 = 1;

/// Who holds the wrapping key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrapMode {
    /// A key of the gateway's keyring.
    Managed,
    /// A key the client sends with every request.
    Customer,
}

impl WrapMode {
    /// The frozen name that is bound into the record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Managed => "kek",
            Self::Customer => "ssec",
        }
    }
}

impl TryFrom<&str> for WrapMode {
    type Error = FormatError;

    fn try_from(name: &str) -> Result<Self, FormatError> {
        [Self::Managed, Self::Customer].into_iter().find(|mode| mode.name() == name).ok_or(FormatError::WrapRecord)
    }
}

/// A data key wrapped for one tenant and one segment.
///
/// # Shape
/// `commit` 32 bytes, `ct` 48 bytes (key and tag), `salt` 32 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// [`WRAP_VERSION`].
    pub v: i32,
    /// Who holds the wrapping key.
    pub mode: WrapMode,
    /// The name of the wrapping key.
    pub kid: String,
    /// Fresh for each wrap, so that each has its own key.
    pub salt: [u8; 32],
    /// Commits to the wrapping key; compared before anything is opened.
    pub commit: [u8; 32],
    /// The sealed data key.
    pub ct: Vec<u8>,
}

/// What a wrapped key is bound to: moving the record elsewhere makes it useless.
#[derive(Debug, Clone, Copy)]
pub struct WrapBinding<'a> {
    /// The tenant that owns the bytes.
    pub tenant: &'a str,
    /// The segment (or root) the key belongs to.
    pub id: &'a [u8; 12],
}

struct WrapKeys {
    cipher: LessSafeKey,
    nonce: [u8; 12],
    commit: [u8; 32],
}

/// `wk(32) || wn(12) || commit(32) = HKDF(salt, K, "gridgate/wrap/v1\0" || lp(mode) || lp(kid) || lp(tenant) || id)`.
fn derive(kek: &Key, mode: WrapMode, kid: &str, salt: &[u8; 32], binding: WrapBinding<'_>) -> WrapKeys {
    let (mode, kid, tenant) = (mode.name().as_bytes(), kid.as_bytes(), binding.tenant.as_bytes());
    let okm = Zeroizing::new(kek.extract_and_expand::<76>(
        salt,
        &[
            b"gridgate/wrap/v1\0",
            &length_prefix(mode),
            mode,
            &length_prefix(kid),
            kid,
            &length_prefix(tenant),
            tenant,
            binding.id,
        ],
    ));
    let cipher = UnboundKey::new(&AES_256_GCM, &okm[..32]).expect("the key is 32 bytes");
    WrapKeys {
        cipher: LessSafeKey::new(cipher),
        nonce: std::array::from_fn(|i| okm[32 + i]),
        commit: std::array::from_fn(|i| okm[44 + i]),
    }
}

/// Wraps a data key.
///
/// `salt` **MUST** be fresh random bytes for every call; the caller keeps that promise.
pub fn wrap(
    data_key: &Key,
    kek: &Key,
    mode: WrapMode,
    kid: &str,
    salt: [u8; 32],
    binding: WrapBinding<'_>,
) -> WrappedKey {
    let keys = derive(kek, mode, kid, &salt, binding);
    let mut ct = data_key.reveal().to_vec();
    keys.cipher
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(keys.nonce), Aad::empty(), &mut ct)
        .expect("32 bytes are within AES-GCM's limit");
    WrappedKey { v: WRAP_VERSION, mode, kid: kid.to_owned(), salt, commit: keys.commit, ct }
}

/// Unwraps a data key.
///
/// # Errors
/// [`FormatError::WrongKey`] when the key, the tenant, the segment, the mode, the name or the salt
/// is another than at wrapping; [`FormatError::WrapRecord`] for another version, and for a sealed
/// key that does not open although the wrapping key is the right one: damage, not a wrong key.
pub fn unwrap(record: &WrappedKey, kek: &Key, binding: WrapBinding<'_>) -> Result<Key, FormatError> {
    if record.v != WRAP_VERSION {
        return Err(FormatError::WrapRecord);
    }
    let keys = derive(kek, record.mode, &record.kid, &record.salt, binding);
    if !equal(&keys.commit, &record.commit) {
        return Err(FormatError::WrongKey);
    }
    let mut ct = Zeroizing::new(record.ct.clone());
    let plain = keys
        .cipher
        .open_in_place(Nonce::assume_unique_for_key(keys.nonce), Aad::empty(), &mut ct)
        .map_err(|_| FormatError::WrapRecord)?;
    <[u8; 32]>::try_from(&*plain).map(Key::new).map_err(|_| FormatError::WrapRecord)
}
