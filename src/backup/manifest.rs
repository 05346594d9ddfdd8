//! The manifest of a backup: what is in it, and the proof that nothing was changed since.
//!
//! Written last; a backup without it is incomplete. Its code is made with a key of the deployment, so that nobody
//! without the keyring can put an API key of his own into a backup.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::unsound;
use crate::error::Error;
use crate::format::key::Key;
use crate::format::manifest::backup_code;

/// The manifest's name in a backup.
pub const MANIFEST: &str = "manifest.json";
/// Bytes of the longest manifest that is read.
pub const MAX_MANIFEST_LEN: u64 = 256 << 20;
/// The form that this program writes, and the only one it reads.
pub const BACKUP_FORMAT: u32 = 1;

/// What is in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`BACKUP_FORMAT`].
    pub format: u32,
    /// The program's version.
    pub gridgate: String,
    /// RFC 3339: shortly before the instant that the backup shows.
    pub created_at: String,
    /// The name of the database.
    pub database: String,
    /// The names of the key-encryption keys that its files need.
    pub kids: BTreeSet<String>,
    /// Collections that are not in it.
    pub left_out: Vec<String>,
    /// Documents of all parts.
    pub documents: u64,
    /// Bytes of all parts.
    pub bytes: u64,
    /// The parts, in their order.
    pub parts: Vec<Part>,
    /// HMAC-SHA-256 over all of this with an empty `mac`, hexadecimal.
    pub mac: String,
}

/// One stretch of documents of one collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Part {
    /// Its file's name.
    pub name: String,
    /// The collection.
    pub collection: String,
    /// How many documents.
    pub documents: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Of the bytes, hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// The manifest with its code, as it is stored.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn sign(mut self, root: &Key) -> Result<Self, Error> {
        self.mac = self.code(root)?;
        Ok(self)
    }

    /// The bytes of its file.
    ///
    /// # Errors
    /// As [`sign`](Self::sign).
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|e| Error::internal("write the manifest", e))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a manifest that came from outside; nothing is believed before [`verify`](Self::verify).
    ///
    /// # Errors
    /// `invalid` for another form.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let odd = |error| unsound(format!("its manifest cannot be read: {error}"));
        let Form { format } = serde_json::from_slice(bytes).map_err(odd)?;
        if format != BACKUP_FORMAT {
            return Err(unsound(format!("it has the form {format}, this program reads {BACKUP_FORMAT}")));
        }
        serde_json::from_slice(bytes).map_err(odd)
    }

    /// Whether this is the manifest that was written, and these are its parts.
    ///
    /// # Errors
    /// `invalid`, naming the first part that is another.
    pub fn verify(&self, root: &Key, found: &[Part]) -> Result<(), Error> {
        if self.code(root)? != self.mac {
            return Err(unsound("its manifest was changed, or is of another deployment"));
        }
        if let Some((told, _)) = self.parts.iter().zip(found).find(|(told, found)| told != found) {
            return Err(unsound(format!("{} is not what was written", told.name)));
        }
        if self.parts.len() != found.len() {
            return Err(unsound(format!("it has {} parts, its manifest {}", found.len(), self.parts.len())));
        }
        Ok(())
    }

    fn code(&self, root: &Key) -> Result<String, Error> {
        let blank = Self { mac: String::new(), ..self.clone() };
        let text = serde_json::to_vec(&blank).map_err(|error| Error::internal("write the manifest", error))?;
        Ok(hex::encode(backup_code(root, &text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let part = |name: &str| Part {
            name: name.to_owned(),
            collection: "keys".to_owned(),
            documents: 1,
            bytes: 5,
            sha256: "00".to_owned(),
        };
        Manifest {
            format: BACKUP_FORMAT,
            gridgate: "0".to_owned(),
            created_at: "now".to_owned(),
            database: "a".to_owned(),
            kids: BTreeSet::new(),
            left_out: Vec::new(),
            documents: 2,
            bytes: 10,
            parts: vec![part("a"), part("b")],
            mac: String::new(),
        }
    }

    #[test]
    fn what_was_signed_is_read_and_anything_else_is_not() {
        let root = Key::new([7; 32]);
        let signed = manifest().sign(&root).expect("it signs");
        let read = Manifest::read(&signed.to_bytes().expect("bytes")).expect("it reads");
        assert_eq!(read, signed);
        read.verify(&root, &signed.parts).expect("it verifies");
        assert!(read.verify(&Key::new([8; 32]), &signed.parts).is_err(), "another deployment");
        let mut moved = signed.parts.clone();
        moved.swap(0, 1);
        assert!(read.verify(&root, &moved).is_err(), "another order");
        assert!(read.verify(&root, &signed.parts[..1]).is_err(), "a part less");
        let changed = Manifest { database: "b".to_owned(), ..signed.clone() };
        assert!(changed.verify(&root, &signed.parts).is_err(), "another database");
        let later = Manifest { format: BACKUP_FORMAT + 1, ..signed };
        let refused = Manifest::read(&later.to_bytes().expect("bytes")).expect_err("another form");
        assert!(refused.detail.contains("form 2"), "{refused}");
    }
}
