//! The deployment's keys: key-encryption keys from outside the database, and the roots they wrap.
//!
//! Reads no file and no environment (that is `app.rs`), and seals no content (`format`).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, ErrorCode};
use crate::format::key::Key;
use crate::format::key_wrap::{WrapBinding, WrapMode, WrappedKey, unwrap, wrap};
use crate::random;
use crate::store::keys::{KeyRecords, RootDoc, root_id};
use crate::store::segments::WrapDoc;
use crate::store::{Store, new_id};

/// Key-encryption keys by name, the first of which wraps.
#[derive(Debug)]
pub struct KeyRing {
    primary: String,
    keys: BTreeMap<String, Key>,
}

const MAX_KID_LEN: usize = 64;

impl KeyRing {
    /// Parses `id:base64(32 bytes)` entries, newest first, separated by commas or white space.
    ///
    /// # Errors
    /// A sentence without key material: a malformed entry, a weak key, a name or key used twice.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut ring = Self { primary: String::new(), keys: BTreeMap::new() };
        for (number, entry) in text.split([',', '\n', '\r', ' ', '\t']).filter(|entry| !entry.is_empty()).enumerate() {
            let problem = |what: &str| format!("key {} of the keyring {what}", number + 1);
            let (kid, encoded) = entry.split_once(':').ok_or_else(|| problem("is not of the form id:base64"))?;
            let is_plain = kid.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if kid.is_empty() || kid.len() > MAX_KID_LEN || !is_plain {
                return Err(problem("needs a name of 1 to 64 letters, digits, '-', '_' or '.'"));
            }
            let bytes = STANDARD.decode(encoded).map_err(|_| problem("is not base64"))?;
            let bytes: [u8; 32] = bytes.try_into().map_err(|_| problem("is not 32 bytes long"))?;
            if bytes.iter().all(|byte| *byte == bytes[0]) {
                return Err(problem("is 32 times the same byte"));
            }
            if ring.keys.values().any(|key| *key.reveal() == bytes) {
                return Err(problem("is there twice under two names"));
            }
            if ring.keys.insert(kid.to_owned(), Key::new(bytes)).is_some() {
                return Err(problem("has a name that is used twice"));
            }
            if ring.primary.is_empty() {
                kid.clone_into(&mut ring.primary);
            }
        }
        if ring.keys.is_empty() { Err("the keyring is empty".into()) } else { Ok(ring) }
    }

    /// A new keyring of one random key, in the form [`parse`](Self::parse) takes.
    pub fn generate() -> String {
        format!("k1:{}", STANDARD.encode(random::bytes::<32>()))
    }

    /// The name of the key that wraps.
    pub fn primary(&self) -> &str {
        &self.primary
    }

    /// The names of all keys.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// Wraps a key under the primary.
    pub fn wrap(&self, key: &Key, binding: WrapBinding<'_>) -> WrappedKey {
        let kek = &self.keys[&self.primary];
        wrap(key, kek, WrapMode::Managed, &self.primary, random::bytes(), binding)
    }

    /// Unwraps a key.
    ///
    /// # Errors
    /// `key_unavailable` when the wrapping key is not in the ring; `damaged` when the record is not
    /// what was wrapped here.
    pub fn unwrap(&self, record: &WrappedKey, binding: WrapBinding<'_>) -> Result<Key, Error> {
        let Some(kek) = self.keys.get(&record.kid).filter(|_| record.mode == WrapMode::Managed) else {
            let detail =
                format!("The file is encrypted under the key {:?}, which this gateway does not have.", record.kid);
            return Err(Error::new(ErrorCode::KeyUnavailable, detail));
        };
        unwrap(record, kek, binding).map_err(|error| Error::damaged("unwrap a data key", error))
    }

    /// Wraps under the primary what any key of the ring wrapped.
    ///
    /// # Errors
    /// As [`unwrap`](Self::unwrap); the record is untouched.
    pub fn rewrap(&self, record: &WrapDoc, binding: WrapBinding<'_>) -> Result<WrapDoc, Error> {
        let old = WrappedKey::try_from(record).map_err(|error| Error::damaged("read a wrapped key", error))?;
        let key = self.unwrap(&old, binding)?;
        Ok(WrapDoc::from(&self.wrap(&key, binding)))
    }

    /// Compares every key with what the database remembers of its name.
    ///
    /// # Errors
    /// `invalid` when a name stood for another key before.
    pub async fn check_against(&self, store: &Store) -> Result<(), Error> {
        for (kid, key) in &self.keys {
            let check = key.check_value();
            let seen = store.remember_key_check(kid, check).await.map_err(|e| e.doing("check the keyring"))?;
            if seen != check {
                return Err(wrong_bytes(kid));
            }
        }
        Ok(())
    }

    /// Compares every key that has a record with it, and opens the roots: whether this is the ring of what the
    /// records come from. Makes nothing.
    ///
    /// # Errors
    /// `invalid` when a name stood for another key there; as [`unwrap`](Self::unwrap) for a root; `key_unavailable`
    /// when one is missing.
    pub fn check_records(&self, records: &KeyRecords) -> Result<Roots, Error> {
        let differs = |(kid, check): &&(String, Vec<u8>)| {
            self.keys.get(kid).is_some_and(|key| key.check_value() != check.as_slice())
        };
        match records.checks.iter().find(differs) {
            Some((kid, _)) => Err(wrong_bytes(kid)),
            None => Roots::from_records(&records.roots, self),
        }
    }

    /// Whether the ring has a key of this name.
    pub fn has(&self, kid: &str) -> bool {
        self.keys.contains_key(kid)
    }
}

/// Keys that outlive every key-encryption key: random, one a purpose, stored only wrapped.
#[derive(Debug)]
pub struct Roots {
    /// Authenticates manifests.
    pub manifest: Key,
    /// Makes entity tags.
    pub etag: Key,
    /// Seals digests.
    pub digest: Key,
    /// Makes look-up values of digests.
    pub dedup: Key,
    /// Signs presigned URLs.
    pub presign: Key,
    /// Makes what holders of shares are given.
    pub share: Key,
}

/// Without which nothing that is stored can be read.
const OF_FILES: [&str; 4] = ["manifest", "etag", "digest", "dedup"];
/// Without which links are void.
const OF_LINKS: [&str; 2] = ["presign", "share"];

impl Roots {
    /// Opens the deployment's roots, making them at first use.
    ///
    /// # Errors
    /// `key_unavailable` when the ring cannot unwrap them: the ring is of another deployment.
    pub async fn open(store: &Store, ring: &KeyRing) -> Result<Self, Error> {
        let find = async || store.find_roots().await.map_err(|e| e.doing("read the root keys"));
        let mut found = find().await?;
        let is_incomplete = OF_FILES.iter().any(|purpose| !found.iter().any(|root| root.id == root_id(purpose)));
        if is_incomplete && !store.is_registry_empty().await.map_err(|e| e.doing("look for files"))? {
            let detail = "The database has files, but its root keys are missing; restore the collection \"keys\".";
            return Err(Error::new(ErrorCode::KeyUnavailable, detail));
        }
        for purpose in OF_FILES.into_iter().chain(OF_LINKS) {
            if found.iter().any(|root| root.id == root_id(purpose)) {
                continue;
            }
            let (binding, key) = (new_id(), Key::new(random::bytes()));
            let enc = WrapDoc::from(&ring.wrap(&key, WrapBinding { tenant: &root_id(purpose), id: &binding.bytes() }));
            let root = RootDoc { id: root_id(purpose), binding, enc };
            store.insert_root(&root).await.map_err(|e| e.doing("store a root key"))?;
            found = find().await?;
        }
        Self::from_records(&found, ring)
    }

    fn from_records(found: &[RootDoc], ring: &KeyRing) -> Result<Self, Error> {
        let root = |purpose: &str| -> Result<Key, Error> {
            let id = root_id(purpose);
            let missing = || Error::new(ErrorCode::KeyUnavailable, format!("The key {id} is missing."));
            let doc = found.iter().find(|root| root.id == id).ok_or_else(missing)?;
            let record = WrappedKey::try_from(&doc.enc).map_err(|error| Error::damaged("read a root key", error))?;
            ring.unwrap(&record, WrapBinding { tenant: &id, id: &doc.binding.bytes() })
        };
        Ok(Self {
            manifest: root("manifest")?,
            etag: root("etag")?,
            digest: root("digest")?,
            dedup: root("dedup")?,
            presign: root("presign")?,
            share: root("share")?,
        })
    }
}

fn wrong_bytes(kid: &str) -> Error {
    let detail = format!("The master key {kid:?} is not the key this database was used with under that name.");
    Error::new(ErrorCode::Invalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> String {
        let mut bytes = [byte; 32];
        bytes[0] = byte.wrapping_add(1);
        STANDARD.encode(bytes)
    }

    #[test]
    fn the_first_key_wraps_and_every_key_unwraps() {
        let old = KeyRing::parse(&format!("old:{}", key(1))).expect("a ring");
        let both = KeyRing::parse(&format!("new:{},old:{}\n", key(2), key(1))).expect("a ring");
        assert_eq!(both.primary(), "new");
        let binding = WrapBinding { tenant: "t", id: &[7; 12] };
        let wrapped = old.wrap(&Key::new([9; 32]), binding);
        assert_eq!(both.unwrap(&wrapped, binding).expect("it opens").reveal(), &[9; 32]);
        let lost = KeyRing::parse(&format!("new:{}", key(2))).expect("a ring");
        assert_eq!(lost.unwrap(&wrapped, binding).expect_err("no key").code, ErrorCode::KeyUnavailable);
        let moved = WrapBinding { tenant: "other", ..binding };
        assert_eq!(both.unwrap(&wrapped, moved).expect_err("moved").code, ErrorCode::Damaged);
    }

    #[test]
    fn weak_or_ambiguous_rings_are_refused_without_telling_the_key() {
        let same = STANDARD.encode([5; 32]);
        let short = STANDARD.encode([5; 16]);
        for bad in [String::new(), "k1".into(), format!("k1:{same}"), format!("k1:{short}"), format!("k 1:{}", key(1))]
        {
            let problem = KeyRing::parse(&bad).expect_err("the ring is unsafe");
            assert!(!problem.contains(&same) && !problem.contains(&short), "{problem}");
        }
        assert!(KeyRing::parse(&format!("a:{0},b:{0}", key(1))).is_err());
        assert!(KeyRing::parse(&format!("a:{},a:{}", key(1), key(2))).is_err());
        assert!(!format!("{:?}", KeyRing::parse(&format!("a:{}", key(1)))).contains(&key(1)));
    }
}
