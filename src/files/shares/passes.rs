//! What a visitor of a share is given to come back with: for the page they came from, for the password, and for a
//! download that was counted. All are codes over their end; nothing of them is stored.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::files::Files;
use crate::format::digest::Sha256Digest;
use crate::random;
use crate::store::shares::ShareDoc;

/// What a visitor is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// For the page that they come from.
    Page,
    /// For the password.
    Entry,
    /// For a download.
    Grant,
}

impl Pass {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Page => b"gridgate/share-page/v1\0",
            Self::Entry => b"gridgate/share-entry/v1\0",
            Self::Grant => b"gridgate/share-grant/v1\0",
        }
    }
}

const END_LEN: usize = 8;
const NONCE_LEN: usize = 12;
const LEN: usize = END_LEN + NONCE_LEN + 32;
/// How long a visitor who gave the password need not again.
pub const ENTRY_SECS: u64 = 3600;
/// Bytes for which a grant lasts a second more.
const BYTES_PER_SEC: u64 = 512 << 10;

impl Files {
    /// How long a download of so many bytes may take.
    pub fn grant_secs(&self, size: u64) -> u64 {
        self.settings.share_grant_secs.saturating_add(size / BYTES_PER_SEC)
    }

    /// A pass that ends after so many seconds.
    ///
    /// # Shape
    /// base64url of: end in seconds since 1970 (64 bits, big-endian), 12 random bytes, HMAC-SHA-256.
    pub(super) fn issue(&self, pass: Pass, share: &ShareDoc, secs: u64) -> String {
        let mut bytes = [0; LEN];
        let end = self.now_secs().saturating_add(secs);
        bytes[..END_LEN].copy_from_slice(&end.to_be_bytes());
        bytes[END_LEN..END_LEN + NONCE_LEN].copy_from_slice(&random::bytes::<NONCE_LEN>());
        let (said, code) = bytes.split_at_mut(END_LEN + NONCE_LEN);
        code.copy_from_slice(&self.keys.roots.share.mac(&[&self.bound(pass, share, said)]));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Whether this is a pass of the share that has not ended, and whose terms are still those of its day.
    pub(super) fn holds(&self, pass: Pass, share: &ShareDoc, text: &str) -> bool {
        let mut bytes = [0; LEN + 2];
        let Ok(LEN) = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) else { return false };
        let (said, code) = bytes[..LEN].split_at(END_LEN + NONCE_LEN);
        let Some(end) = said.first_chunk::<END_LEN>().map(|end| u64::from_be_bytes(*end)) else { return false };
        end > self.now_secs() && self.keys.roots.share.is_mac(&self.bound(pass, share, said), code)
    }

    /// What the code is over: a password or pages that change make passes void.
    fn bound(&self, pass: Pass, share: &ShareDoc, said: &[u8]) -> Vec<u8> {
        let terms = format!("{:?}\0{:?}", share.terms.password, share.terms.allowed_domains);
        [pass.label(), &share.id.bytes(), &Sha256Digest::of(terms.as_bytes()).0, said].concat()
    }

    fn now_secs(&self) -> u64 {
        u64::try_from(self.now().timestamp_millis().div_euclid(1000)).unwrap_or(0)
    }
}
